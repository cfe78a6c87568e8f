//! Schemas for kubeconform, made of what the API server itself publishes: of its own kinds and of those that were
//! defined there. So nothing is fetched, and what is checked against is the server that the chart is tried on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

const PREFIX: &str = "#/definitions/";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Where kubeconform is to look, below the folder of the schemas. The core group's name is its version there.
pub const LOCATION: &str = "{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json";

/// Writes one file for each kind of a server's OpenAPI v2, and says how many. Names that a schema does not know are
/// refused by it.
///
/// # Errors
/// When the document has no definitions, or a file cannot be written.
pub fn write(openapi: &Value, out: &Path) -> anyhow::Result<usize> {
    let definitions = openapi["definitions"].as_object();
    let mut definitions = definitions.context("no definitions in it")?.clone();
    for schema in definitions.values_mut() {
        strict(schema);
    }
    // Any value: OpenAPI v2 can say no more of them.
    for name in [
        "JSON",
        "JSONSchemaPropsOrBool",
        "JSONSchemaPropsOrArray",
        "JSONSchemaPropsOrStringArray",
    ] {
        definitions.insert(format!("{APIEXTENSIONS}{name}"), json!({}));
    }
    definitions.insert(
        "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        json!({"anyOf": [{"type": "string"}, {"type": "number"}]}),
    );
    let mut written = 0;
    for schema in definitions.values() {
        for kind in schema["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let word = |name: &str| kind[name].as_str().unwrap_or_default();
            let (group, version, kind) = (word("group"), word("version"), word("kind"));
            let mut top = schema.clone();
            let mut needed = BTreeSet::new();
            references(schema, &definitions, &mut needed);
            let below: Map<String, Value> = needed
                .into_iter()
                .filter_map(|name| Some((name.clone(), definitions.get(&name)?.clone())))
                .collect();
            top["definitions"] = Value::Object(below);
            top["properties"]["apiVersion"] = json!({"type": "string"});
            top["properties"]["kind"] = json!({"type": "string"});
            let folder = out.join(if group.is_empty() { version } else { group });
            fs::create_dir_all(&folder)?;
            let file = folder.join(format!("{}_{version}.json", kind.to_lowercase()));
            fs::write(file, top.to_string())?;
            written += 1;
        }
    }
    Ok(written)
}

/// Turns a schema of OpenAPI v2 into one of JSON that refuses unknown names.
fn strict(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    // The map of names, not a schema: a property may be called `format`.
    for key in ["properties", "definitions"] {
        for child in fields
            .get_mut(key)
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
        {
            strict(child.1);
        }
    }
    for key in ["items", "additionalProperties", "not"] {
        if let Some(child) = fields.get_mut(key) {
            strict(child);
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for child in fields
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            strict(child);
        }
    }
    let is = |fields: &Map<String, Value>, name: &str| fields.get(name).is_some_and(|v| *v == true);
    if is(fields, "x-kubernetes-int-or-string")
        || fields.get("format").is_some_and(|f| f == "int-or-string")
    {
        fields.remove("type");
        fields.insert(
            "anyOf".to_owned(),
            json!([{"type": "string"}, {"type": "integer"}]),
        );
    }
    let open = is(fields, "x-kubernetes-preserve-unknown-fields");
    if fields.contains_key("properties") && !fields.contains_key("additionalProperties") && !open {
        fields.insert("additionalProperties".to_owned(), json!(false));
    }
    fields.remove("format");
}

/// The names of all definitions that a schema stands on.
fn references(schema: &Value, definitions: &Map<String, Value>, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str);
            if let Some(name) = name.and_then(|r| r.strip_prefix(PREFIX))
                && found.insert(name.to_owned())
                && let Some(definition) = definitions.get(name)
            {
                references(definition, definitions, found);
            }
            for child in fields.values() {
                references(child, definitions, found);
            }
        }
        Value::Array(items) => {
            for child in items {
                references(child, definitions, found);
            }
        }
        _ => {}
    }
}
