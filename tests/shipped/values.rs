//! What is written from others in the chart: the reference of its values, their descriptions in the schema, and the
//! definitions. So none of them can tell another story than its source.
//!
//! With `UPDATE=1` (`make generate`) the files are written; without it they are compared.

use std::fs;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::helm;

const BEGIN: &str =
    "<!-- values: written by tests/shipped/values.rs from values.yaml, run make generate -->\n";
const END: &str = "<!-- end of values -->\n";

/// What an umbrella chart writes into the values of its parts.
const OF_UMBRELLAS: [&str; 2] = ["global", "enabled"];

#[test]
fn the_reference_of_the_values_is_what_the_chart_says() -> anyhow::Result<()> {
    let mut page = String::from("# Reference of the chart's values\n\n");
    page.push_str(
        "<!-- Written by tests/shipped/values.rs from charts/chekt-operator/values.yaml: do not edit, run make generate. -->\n\n\
         A value that is not set in a file of yours or by `--set` has the default. A value that is empty is left out of what is \
         rendered, and then the program's own default holds. Names that are not here are refused, and so are values that do \
         not fit together, with what to write instead.\n\n\
         Flags that a value becomes are in [flags.md](flags.md).\n",
    );
    page.push_str(&tables(&entries()?, "##"));
    is_what_the_file_holds("docs/values.md", &page)
}

#[test]
fn the_readme_of_the_chart_holds_the_reference_of_its_values() -> anyhow::Result<()> {
    let path = "charts/chekt-operator/README.md";
    let held = fs::read_to_string(helm::root().join(path))?;
    let (before, rest) = held.split_once(BEGIN).context("no place for the values")?;
    let (_, after) = rest.split_once(END).context("no end of the values")?;
    let tables = tables(&entries()?, "###");
    is_what_the_file_holds(path, &format!("{before}{BEGIN}{tables}\n{END}{after}"))
}

#[test]
fn the_schema_knows_every_value_and_says_of_it_what_is_said_beside_it() -> anyhow::Result<()> {
    let path = "charts/chekt-operator/values.schema.json";
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(helm::root().join(path))?)?;
    let mut known = Vec::new();
    names("", &schema, &mut known);
    let defaults = defaults()?;
    let mut there = Vec::new();
    for entry in entries()? {
        let pointer = format!("/properties/{}", entry.path.replace('.', "/properties/"));
        let field = schema.pointer_mut(&pointer);
        let field = field.with_context(|| format!("{} is not in the schema", entry.path))?;
        field["description"] = json!(entry.meaning);
        there.push(entry.path);
    }
    for name in &known {
        let in_values = defaults.pointer(&format!("/{}", name.replace('.', "/")));
        let below = there.iter().any(|t| name.starts_with(&format!("{t}.")));
        assert!(
            in_values.is_some() || below || OF_UMBRELLAS.contains(&name.as_str()),
            "{name} is in the schema and not in values.yaml"
        );
    }
    closed("", &schema);
    let text = format!("{}\n", serde_json::to_string_pretty(&schema)?);
    is_what_the_file_holds(path, &text)
}

#[test]
fn the_definitions_in_the_chart_are_those_of_the_program() -> anyhow::Result<()> {
    for (file, yaml) in chekt_operator::resources::crd_files()? {
        assert!(!yaml.contains("{{"), "{file} would be taken for a template");
        let name = file.trim_start_matches("chekt.com_").to_owned();
        let head = format!(
            "metadata:\n  name: {}.chekt.com\n",
            name.trim_end_matches(".yaml")
        );
        let (before, after) = yaml
            .split_once(&head)
            .context("a definition without its name")?;
        let template = format!(
            "{{{{- /* Written by tests/shipped/values.rs from crds/: do not edit, run make generate. */ -}}}}\n\
             {{{{- if .Values.crds.install }}}}\n{before}{head}{HEAD}{after}{{{{- end }}}}\n"
        );
        is_what_the_file_holds(
            &format!("charts/chekt-operator/templates/crds/{name}"),
            &template,
        )?;
    }
    Ok(())
}

/// What the chart adds to the metadata of a definition.
const HEAD: &str = r#"  labels:
    {{- include "chekt-operator.labels" . | nindent 4 }}
  {{- if or .Values.crds.keep .Values.crds.annotations }}
  annotations:
    {{- if .Values.crds.keep }}
    helm.sh/resource-policy: keep
    {{- end }}
    {{- with .Values.crds.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
"#;

#[test]
fn chart_and_program_have_one_version() -> anyhow::Result<()> {
    let chart: Value =
        serde_yaml::from_str(&fs::read_to_string(helm::chart().join("Chart.yaml"))?)?;
    for field in ["version", "appVersion"] {
        assert_eq!(
            chart[field],
            env!("CARGO_PKG_VERSION"),
            "{field} of Chart.yaml"
        );
    }
    Ok(())
}

/// A value, at its path, with what is said of it.
struct Entry {
    path: String,
    meaning: String,
    default: Value,
}

fn defaults() -> anyhow::Result<Value> {
    Ok(serde_yaml::from_str(&fs::read_to_string(
        helm::chart().join("values.yaml"),
    )?)?)
}

/// Every value that has a remark of its own; an error for one that neither has one nor is below one that has.
fn entries() -> anyhow::Result<Vec<Entry>> {
    let text = fs::read_to_string(helm::chart().join("values.yaml"))?;
    let defaults = defaults()?;
    let mut found: Vec<Entry> = Vec::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut remark: Option<String> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(begun) = line.strip_prefix("# -- ") {
            remark = Some(begun.to_owned());
            continue;
        }
        if let Some(more) = line.strip_prefix("# ") {
            if let Some(remark) = &mut remark {
                remark.push(' ');
                remark.push_str(more);
            }
            continue;
        }
        let Some((key, rest)) = line.split_once(':').filter(|_| !line.starts_with("- ")) else {
            continue;
        };
        above.retain(|(depth, _)| *depth < indent);
        above.push((indent, key.to_owned()));
        let path = above
            .iter()
            .map(|(_, k)| k.as_str())
            .collect::<Vec<_>>()
            .join(".");
        let Some(default) = defaults.pointer(&format!("/{}", path.replace('.', "/"))) else {
            // Within an item of a list.
            continue;
        };
        if let Some(meaning) = remark.take() {
            anyhow::ensure!(
                meaning.ends_with('.'),
                "what is said of {path} does not end with a full stop"
            );
            let default = default.clone();
            found.push(Entry {
                path,
                meaning,
                default,
            });
            continue;
        }
        let is_section = rest.trim().is_empty() && default.is_object();
        let told_above = found
            .iter()
            .any(|e| path.starts_with(&format!("{}.", e.path)));
        anyhow::ensure!(
            is_section || told_above,
            "nothing is said of {path} in values.yaml: write a remark above it that begins with `# -- `"
        );
    }
    Ok(found)
}

/// One table for what is at the top, and one for each section.
fn tables(entries: &[Entry], heading: &str) -> String {
    let section = |e: &Entry| match e.path.split_once('.') {
        Some((section, _)) => section.to_owned(),
        None => String::new(),
    };
    let mut sections: Vec<String> = Vec::new();
    for entry in entries {
        let section = section(entry);
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    let mut out = String::new();
    for name in sections {
        let title = if name.is_empty() {
            "Of the whole".to_owned()
        } else {
            format!("`{name}`")
        };
        out.push_str(&format!(
            "\n{heading} {title}\n\n| value | default | meaning |\n| --- | --- | --- |\n"
        ));
        for entry in entries.iter().filter(|e| section(e) == name) {
            out.push_str(&format!(
                "| `{}` | {} | {} |\n",
                entry.path,
                shown(&entry.default),
                entry.meaning.replace('|', "\\|")
            ));
        }
    }
    out
}

/// A default as a cell of a table; what is empty is no default.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) if items.is_empty() => String::new(),
        Value::Object(fields) if fields.is_empty() => String::new(),
        other => format!("`{other}`"),
    }
}

/// The paths of everything that a schema has a name for.
fn names(above: &str, schema: &Value, found: &mut Vec<String>) {
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{above}{name}");
        names(&format!("{path}."), child, found);
        found.push(path);
    }
}

/// Every object that has named properties takes no others.
fn closed(path: &str, schema: &Value) {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    if !properties.is_empty() {
        assert_eq!(
            schema["additionalProperties"], false,
            "the schema lets misspelt names into {path:?}"
        );
    }
    for (name, child) in properties {
        closed(&format!("{path}/{name}"), child);
    }
}

/// Compares with a file of the repository, or writes it if `UPDATE=1`.
fn is_what_the_file_holds(name: &str, wanted: &str) -> anyhow::Result<()> {
    let path = helm::root().join(name);
    let held = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("UPDATE").is_some_and(|v| v == "1") {
        if held != wanted {
            fs::write(&path, wanted).with_context(|| format!("cannot write {name}"))?;
        }
        return Ok(());
    }
    let differs = wanted
        .lines()
        .zip(held.lines().chain(std::iter::repeat("")))
        .find(|(w, h)| w != h);
    anyhow::ensure!(
        held == wanted,
        "{name} is out of date: run make generate. First difference: {differs:?}"
    );
    Ok(())
}
