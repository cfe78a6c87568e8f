//! The reference: `docs/reference.md`, `docs/conditions.md`, `docs/flags.md` and `docs/metrics.md` are written by this test
//! from the types and the command line, so that they cannot tell another story than the program.
//!
//! With `UPDATE=1` (`make generate`) the files are written; without it they are compared.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use chekt_operator::cli::Cli;
use chekt_operator::delivery::catalogue::Kind;
use chekt_operator::delivery::event::{LEFT, UNREADABLE};
use chekt_operator::ops::metrics::Table;
use chekt_operator::ops::{build, process};
use chekt_operator::resources::conditions::{
    ACTIVE, DELIVERIES_DELAYED, READY, RECONCILING, STALLED, SUSPENDED, SYNCED, VERIFIED,
};
use chekt_operator::resources::reasons::{Reason, Whose};
use chekt_operator::resources::refusal::Refusal;
use chekt_operator::resources::told::Told;
use chekt_operator::resources::{self, ChektAccount, ChektWebhook, keyring};
use chekt_operator::{controller, receiver};
use clap::{Arg, ArgAction, Command, CommandFactory};
use kube::CustomResourceExt;
use serde_json::Value;

#[test]
fn the_reference_of_both_kinds_is_what_the_types_say() {
    is_what_the_file_holds("docs/reference.md", &reference());
}

#[test]
fn the_reference_of_conditions_and_reasons_is_what_the_types_say() {
    is_what_the_file_holds("docs/conditions.md", &conditions());
}

#[test]
fn the_reference_of_the_flags_is_what_the_command_line_says() {
    is_what_the_file_holds("docs/flags.md", &flags());
}

#[test]
fn the_reference_of_the_metrics_is_what_the_processes_register() {
    is_what_the_file_holds("docs/metrics.md", &metrics());
}

#[test]
fn a_default_is_told_in_the_words_that_the_schema_holds() {
    for schema in schemas() {
        for field in fields(&schema) {
            let Some(Value::String(held)) = field.schema.get("default") else {
                continue;
            };
            let told = description(field.schema).1.unwrap_or_default();
            assert!(told.contains(held), "{}: {held} is not {told}", field.path);
        }
    }
}

#[test]
fn the_page_of_events_gives_every_event_its_reason() -> anyhow::Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md"))?;
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        name.contains('.').then_some((name, cells.next()?))
    });
    let told: Vec<_> = rows.filter(|(name, _)| !name.contains('/')).collect();
    for (name, reason) in &told {
        assert_eq!(Kind::of(name).reason(), *reason, "{name}");
    }
    // The nine of the guide and the test delivery.
    assert_eq!(told.len(), 10, "{told:?}");
    for reason in [UNREADABLE, LEFT] {
        assert!(page.contains(reason), "{reason} is not on the page");
    }
    Ok(())
}

#[test]
fn the_page_of_events_gives_every_event_about_the_webhook_itself_its_meaning() -> anyhow::Result<()>
{
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md"))?;
    let (_, section) = page
        .split_once("\n## The webhook itself\n")
        .context("docs/events.md has no section about the webhook itself")?;
    let rows: Vec<(&str, &str)> = section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
            Some((cells.next()?, cells.nth(1)?))
        })
        .filter(|(reason, _)| reason.starts_with(char::is_uppercase))
        .collect();
    let told: Vec<(&str, &str)> = Told::ALL
        .iter()
        .map(|told| (told.as_str(), told.meaning()))
        .collect();
    let begins_with =
        |row: &(&str, &str), told: &(&str, &str)| row.0 == told.0 && row.1.starts_with(told.1);
    assert!(
        rows.len() == told.len()
            && rows
                .iter()
                .zip(&told)
                .all(|(row, told)| begins_with(row, told)),
        "the page says {rows:#?}, the program {told:#?}"
    );
    Ok(())
}

/// Compares with a file of the repository, or writes it if `UPDATE=1`.
fn is_what_the_file_holds(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some_and(|v| v == "1") {
        let written = fs::write(&path, wanted);
        assert!(written.is_ok(), "cannot write {name}: {written:?}");
        return;
    }
    let held = fs::read_to_string(&path).unwrap_or_default();
    let differs = wanted
        .lines()
        .zip(held.lines().chain(std::iter::repeat("")))
        .find(|(w, h)| w != h);
    assert!(
        held == wanted,
        "{name} is not what the program says: run make generate. First difference: {differs:?}"
    );
}

const GENERATED: &str =
    "<!-- Written by tests/it/reference.rs from the program: do not edit, run make generate. -->\n";

fn reference() -> String {
    let mut out = String::from("# Reference of the kinds\n\n");
    out.push_str(GENERATED);
    out.push_str(
        "\nWhat may be written in a [ChektAccount](#chektaccount) and a [ChektWebhook](#chektwebhook), and what their \
         status tells. `kubectl explain cwh.spec` tells the same. What conditions and reasons mean and what to do about them is in \
         [conditions.md](conditions.md); the flags are in [flags.md](flags.md), Events in [events.md](events.md).\n",
    );
    for crd in [ChektAccount::crd(), ChektWebhook::crd()] {
        kind(&mut out, &serde_json::to_value(crd).unwrap_or_default());
    }
    names(&mut out);
    out
}

fn schemas() -> Vec<Value> {
    [ChektAccount::crd(), ChektWebhook::crd()]
        .into_iter()
        .map(|crd| {
            let crd = serde_json::to_value(crd).unwrap_or_default();
            crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
        })
        .collect()
}

/// One kind: how it is called, its fields, what the API server refuses, its status, its columns.
fn kind(out: &mut String, crd: &Value) {
    let names = &crd["spec"]["names"];
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let name = text(&names["kind"]);
    let short = text(&names["shortNames"][0]);
    out.push_str(&format!(
        "\n## {name}\n\n{}\n\n",
        text(&schema["description"])
    ));
    out.push_str(&format!(
        "| | |\n| --- | --- |\n| apiVersion | `{}/{}` |\n| scope | {} |\n| names | `{}`, `{short}`; both kinds: `kubectl get {}` |\n",
        text(&crd["spec"]["group"]),
        text(&version["name"]),
        text(&crd["spec"]["scope"]),
        text(&names["plural"]),
        text(&names["categories"][0]),
    ));
    let selectable: Vec<String> = items(&version["selectableFields"])
        .map(|f| format!("`{}`", text(&f["jsonPath"]).trim_start_matches('.')))
        .collect();
    if !selectable.is_empty() {
        out.push_str(&format!(
            "| `--field-selector` | {} |\n",
            selectable.join(", ")
        ));
    }
    let [spec, status] = ["spec", "status"].map(|part| &schema["properties"][part]);
    out.push_str(&format!("\n### {name}: spec\n\n"));
    out.push_str("A field in bold must be written wherever its parent is.\n\n");
    table(out, spec, true);
    out.push_str("\nThe API server refuses, with these words:\n\n");
    for rule in items(&schema["x-kubernetes-validations"]) {
        let at = text(&rule["fieldPath"]).trim_start_matches(".spec.");
        out.push_str(&format!("- `{at}`: {}\n", text(&rule["message"])));
    }
    for field in fields(spec) {
        for rule in items(&field.schema["x-kubernetes-validations"]) {
            out.push_str(&format!("- `{}`: {}\n", field.path, text(&rule["message"])));
        }
    }
    out.push_str(&format!("\n### {name}: status\n\n"));
    table(out, status, false);
    out.push_str(&format!("\n### {name}: columns of kubectl get\n\n"));
    out.push_str("| column | from | shown |\n| --- | --- | --- |\n");
    for column in items(&version["additionalPrinterColumns"]) {
        let wide = column["priority"].as_i64().unwrap_or_default() > 0;
        out.push_str(&format!(
            "| {} | `{}` | {} |\n",
            text(&column["name"]).to_uppercase(),
            text(&column["jsonPath"]),
            if wide { "with `-o wide`" } else { "always" },
        ));
    }
}

/// One field of a schema, at its path below spec or status.
struct Field<'a> {
    path: String,
    schema: &'a Value,
    required: bool,
}

/// Every field, a parent before its children, the required ones first.
fn fields(schema: &Value) -> Vec<Field<'_>> {
    let mut found = Vec::new();
    below(schema, "", &mut found);
    found
}

fn below<'a>(schema: &'a Value, prefix: &str, found: &mut Vec<Field<'a>>) {
    let required: Vec<&str> = items(&schema["required"]).map(text).collect();
    let mut children: Vec<(&String, &Value)> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .collect();
    children.sort_by_key(|(name, _)| !required.contains(&name.as_str()));
    for (name, child) in children {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        let required = required.contains(&name.as_str());
        found.push(Field {
            path: path.clone(),
            schema: child,
            required,
        });
        below(child, &path, found);
    }
}

fn table(out: &mut String, schema: &Value, with_defaults: bool) {
    let columns = if with_defaults {
        "| field | type | default | meaning |\n| --- | --- | --- | --- |\n"
    } else {
        "| field | type | meaning |\n| --- | --- | --- |\n"
    };
    out.push_str(columns);
    for field in fields(schema) {
        let (meaning, default) = description(field.schema);
        let mut meaning = vec![meaning];
        meaning.extend(bounds(field.schema));
        let meaning = cell(&meaning.join("<br>"));
        let path = if field.required && with_defaults {
            format!("**`{}`**", field.path)
        } else {
            format!("`{}`", field.path)
        };
        let kind = cell(&type_of(field.schema));
        if with_defaults {
            let default = cell(&default.unwrap_or_default());
            out.push_str(&format!("| {path} | {kind} | {default} | {meaning} |\n"));
        } else {
            out.push_str(&format!("| {path} | {kind} | {meaning} |\n"));
        }
    }
}

/// The description without its words about the default, and those words.
fn description(schema: &Value) -> (String, Option<String>) {
    let mut default = None;
    let mut paragraphs = Vec::new();
    for paragraph in text(&schema["description"]).split("\n\n") {
        let paragraph = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        match paragraph.split_once("Default: ") {
            Some((before, told)) => {
                default = Some(told.trim_end_matches('.').to_owned());
                paragraphs.push(before.trim_end().to_owned());
            }
            None => paragraphs.push(paragraph),
        }
    }
    paragraphs.retain(|p| !p.is_empty());
    (paragraphs.join("<br>"), default)
}

fn type_of(schema: &Value) -> String {
    let words: Vec<String> = items(&schema["enum"])
        .filter(|v| !v.is_null())
        .map(|v| format!("`{}`", text(v)))
        .collect();
    if !words.is_empty() {
        return words.join(" or ");
    }
    match (text(&schema["type"]), text(&schema["format"])) {
        ("string", "date-time") => "time".to_owned(),
        ("array", _) => match text(&schema["x-kubernetes-list-type"]) {
            "set" => format!("set of {}s", type_of(&schema["items"])),
            "map" if text(&schema["x-kubernetes-list-map-keys"][0]) == "type" => {
                "[conditions](conditions.md#conditions)".to_owned()
            }
            _ => format!("list of {}s", type_of(&schema["items"])),
        },
        (other, _) => other.to_owned(),
    }
}

/// The bounds of a value as a sentence.
fn bounds(schema: &Value) -> Option<String> {
    let range = |low: &str, high: &str, of: &Value| {
        let number = |name: &str| of[name].as_f64().map(|n| format!("{n:.0}"));
        match (number(low), number(high)) {
            (Some(low), Some(high)) => Some(format!("{low} to {high}")),
            (None, Some(high)) => Some(format!("At most {high}")),
            (Some(low), None) => Some(format!("At least {low}")),
            (None, None) => None,
        }
    };
    let each = range("minLength", "maxLength", &schema["items"])
        .map(|b| format!(" of {} characters each", b.to_lowercase()))
        .unwrap_or_default();
    None.or_else(|| range("minItems", "maxItems", schema).map(|b| format!("{b} items{each}.")))
        .or_else(|| range("minLength", "maxLength", schema).map(|b| format!("{b} characters.")))
        .or_else(|| range("minimum", "maximum", schema).map(|b| format!("{b}.")))
}

fn conditions() -> String {
    let mut out = String::from("# Conditions and reasons\n\n");
    out.push_str(GENERATED);
    out.push_str(
        "\nWhat the status of a [ChektWebhook](reference.md#chektwebhook) and a [ChektAccount](reference.md#chektaccount) says, and \
         what to do about it. `kubectl describe cwh NAME` and `kubectl describe cacc NAME` show the conditions with their messages; \
         a message knows the case, names what is missing, and says what to write. What the operator does about each failure is in \
         [When things fail](failures.md).\n\n\
         ## Conditions\n\nEvery condition carries the generation that it speaks of. Messages hold no times and no counters, so a \
         status changes only when something did.\n\n\
         | condition | of | meaning |\n| --- | --- | --- |\n",
    );
    let both = Whose::Both;
    let webhook = Whose::Webhook;
    for (name, of, meaning) in [
        (
            READY,
            both,
            "The one to wait for. Of a webhook: Synced and Active. Of an account: its webhooks can be listed.",
        ),
        (
            SYNCED,
            webhook,
            "The remote webhook has the url, events and secret that are written.",
        ),
        (
            ACTIVE,
            webhook,
            "CHeKT says that the remote webhook is active.",
        ),
        (
            VERIFIED,
            webhook,
            "A test delivery came back through the receiver under the current secret. It is not part of Ready.",
        ),
        (
            RECONCILING,
            both,
            "There only while true: work is under way, or is tried again by itself.",
        ),
        (
            STALLED,
            both,
            "There only while true: nothing will change before a person acts. Never together with Reconciling.",
        ),
        (
            SUSPENDED,
            webhook,
            "There only while true: `spec.suspend` is set.",
        ),
        (
            DELIVERIES_DELAYED,
            webhook,
            "There only while true: a delivery has waited for longer than a minute to become an Event. It is not part of Ready.",
        ),
    ] {
        out.push_str(&format!("| {name} | {} | {meaning} |\n", of.text()));
    }
    out.push_str(
        "\nTo wait for one: `kubectl wait --for=condition=Ready cwh/NAME`. kstatus, Helm's `--wait`, Flux and Argo CD make of \
         them what is written here: Reconciling is in progress, Stalled is failed.\n",
    );
    out.push_str(
        "\n## Reasons\n\n| reason | of | meaning | what to do |\n| --- | --- | --- | --- |\n",
    );
    for reason in Reason::ALL {
        out.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            reason.as_str(),
            reason.whose().text(),
            cell(reason.meaning()),
            cell(reason.remedy()),
        ));
    }
    out.push_str(
        "\n## Refusals\n\nWhy a request to the receiver did not end in 200. Where the path names a webhook, \
         `status.deliveries.lastRejectedReason` has the word and `lastRejectedMessage` says the same as this table; \
         `chekt_receiver_deliveries_total` counts each as the `outcome` of the same name in snake case.\n\n\
         | reason | answer | meaning | what to do |\n| --- | --- | --- | --- |\n",
    );
    for refusal in Refusal::ALL {
        let answer = refusal
            .status()
            .map_or("none".to_owned(), |status| status.as_u16().to_string());
        out.push_str(&format!(
            "| {} | {answer} | {} | {} |\n",
            refusal.as_str(),
            cell(refusal.meaning()),
            cell(refusal.remedy()),
        ));
    }
    out
}

fn names(out: &mut String) {
    out.push_str("\n## Names in metadata\n\n| name | where | meaning |\n| --- | --- | --- |\n");
    let keyrings = "keyring Secret";
    for (name, place, meaning) in [
        (
            resources::RECONCILE_REQUESTED_AT,
            "annotation you write on a ChektWebhook",
            "Asks for a list and a pass now. Any new value counts; it is echoed in `status.lastHandledReconcileAt`.",
        ),
        (
            resources::TEST_REQUESTED_AT,
            "annotation you write on a ChektWebhook",
            "Asks for a test delivery. Any new value counts, at most once; it is echoed in `status.lastHandledTestAt`.",
        ),
        (
            resources::ROTATE_REQUESTED_AT,
            "annotation you write on a ChektWebhook",
            "Asks for a new generated secret. Any new value counts; it is echoed in `status.lastHandledRotateAt` once the secret is in force. With `secretRef` nothing is done.",
        ),
        (
            resources::FINALIZER,
            "finalizer of a ChektWebhook",
            "Keeps the object until the remote webhook is confirmed to be gone.",
        ),
        (
            resources::ACCOUNT_FINALIZER,
            "finalizer of a ChektAccount",
            "Keeps the account for as long as webhooks are with it.",
        ),
        (
            keyring::LABEL,
            keyrings,
            "Label with the value `true`; also the Secret's type. Keyrings are in the operator's namespace, one for each webhook.",
        ),
        (
            keyring::WEBHOOK_NAMESPACE,
            keyrings,
            "Annotation: the namespace of its webhook.",
        ),
        (
            keyring::WEBHOOK_NAME,
            keyrings,
            "Annotation: the name of its webhook.",
        ),
        (
            keyring::WEBHOOK_UID,
            keyrings,
            "Annotation: the uid of its webhook.",
        ),
        (
            keyring::ACCOUNT,
            keyrings,
            "Annotation: the account that its webhook is with, as `namespace/name`.",
        ),
        (
            resources::CONTROLLER_MANAGER,
            "field manager",
            "The controller's writes: all of status but `deliveries`.",
        ),
        (
            resources::RECEIVER_MANAGER,
            "field manager",
            "The receiver's writes: `status.deliveries`.",
        ),
        (
            resources::ORPHANS_MANAGER,
            "field manager",
            "Writes to `status.orphans` of an account.",
        ),
    ] {
        out.push_str(&format!("| `{name}` | {place} | {meaning} |\n"));
    }
    assert_eq!(
        keyring::LABEL,
        keyring::SECRET_TYPE,
        "the table says that they are one word"
    );
}

fn flags() -> String {
    let root = Cli::command();
    let mut out = String::from("# Reference of the flags\n\n");
    out.push_str(GENERATED);
    out.push_str(
        "\nEvery flag is also an environment variable; the flag wins. A flag in bold must be given.\n\n## Flags of every command\n\n",
    );
    flag_table(&mut out, &root);
    for command in root.get_subcommands() {
        let name = command.get_name();
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        out.push_str(&format!(
            "\n## chekt-operator {name}\n\n{}.\n\n",
            about.trim_end_matches('.')
        ));
        flag_table(&mut out, command);
    }
    out
}

fn flag_table(out: &mut String, command: &Command) {
    let flags: Vec<&Arg> = command
        .get_arguments()
        .filter(|a| !matches!(a.get_action(), ArgAction::Help | ArgAction::Version))
        .collect();
    if flags.is_empty() {
        out.push_str("It takes no flags of its own.\n");
        return;
    }
    out.push_str("| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n");
    for flag in flags {
        let takes_value = flag.get_action().takes_values();
        let value = flag.get_value_names().and_then(|names| names.first());
        let value = value.filter(|_| takes_value);
        let name = match (flag.get_long(), flag.get_short(), value) {
            (Some(long), Some(short), Some(value)) => format!("-{short}, --{long} {value}"),
            (Some(long), Some(short), None) => format!("-{short}, --{long}"),
            (Some(long), None, Some(value)) => format!("--{long} {value}"),
            (Some(long), None, None) => format!("--{long}"),
            // Written without a flag before it.
            (None, _, Some(value)) => value.to_string(),
            (None, _, None) => flag.get_id().to_string(),
        };
        let name = if flag.is_required_set() {
            format!("**`{name}`**")
        } else {
            format!("`{name}`")
        };
        let variable = flag.get_env().map(|v| format!("`{}`", v.to_string_lossy()));
        let default = flag.get_default_values().first().filter(|_| takes_value);
        let default = default.map(|d| format!("`{}`", d.to_string_lossy()));
        let words: Vec<String> = flag
            .get_possible_values()
            .iter()
            .filter(|_| takes_value)
            .map(|v| format!("`{}`", v.get_name()))
            .collect();
        let help = flag.get_long_help().or(flag.get_help());
        let mut help = help.map(ToString::to_string).unwrap_or_default();
        help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        if !help.ends_with('.') {
            help.push('.');
        }
        if !words.is_empty() {
            help.push_str(&format!("<br>One of {}.", words.join(", ")));
        }
        out.push_str(&format!(
            "| {name} | {} | {} | {} |\n",
            variable.unwrap_or_default(),
            default.unwrap_or_default(),
            cell(&help),
        ));
    }
}

fn metrics() -> String {
    let mut out = String::from("# Reference of the metrics\n\n");
    out.push_str(GENERATED);
    out.push_str(
        "\nBoth processes serve `/metrics` on their `--ops-address`, in the OpenMetrics text format for those who ask for it (as \
         Prometheus does) and in the older text format for all others. Every series is there from the start, at zero; labels \
         have the values named here and no others. The exceptions have labels that hold names: what is told of webhooks and \
         accounts, by the controller that leads and no other. How to use all this is in [howto/monitoring.md](howto/monitoring.md). A histogram `x` is `x_bucket`, `x_sum` and `x_count`. \
         Names that end in `_seconds` or `_bytes` have that unit.\n",
    );
    for (process, metrics) in [
        (
            "receiver",
            table_of(receiver::metrics::PREFIX, |table| {
                drop(receiver::metrics::Metrics::register(table));
                process::register(table);
                build::register(table);
            }),
        ),
        (
            "controller",
            table_of(controller::metrics::PREFIX, |table| {
                drop(controller::metrics::Metrics::register(table, 0));
                process::register(table);
                build::register(table);
            }),
        ),
    ] {
        out.push_str(&format!(
            "\n## chekt-operator {process}\n\n| metric | kind | meaning |\n| --- | --- | --- |\n"
        ));
        for row in metrics.rows() {
            let mut meaning = format!("{}.", row.help);
            for (label, says) in row.names {
                meaning.push_str(&format!("<br>`{label}`: {says}."));
            }
            for label in &row.labels {
                for (value, says) in label.values {
                    meaning.push_str(&format!("<br>`{}=\"{value}\"`: {says}.", label.name));
                }
            }
            out.push_str(&format!(
                "| `{}` | {} | {} |\n",
                row.name,
                row.kind,
                cell(&meaning)
            ));
        }
    }
    out
}

fn table_of(prefix: &'static str, register: impl FnOnce(&mut Table)) -> Table {
    let mut table = Table::new(prefix);
    register(&mut table);
    table
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Text as a cell of a table: a bar would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
