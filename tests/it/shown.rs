//! Shown: what a document shows exists. Commands of ours with their flags, values of the chart, fields, metrics, and
//! manifests that the API server takes.
//!
//! A reader who copies a line and is refused does not believe the next one.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use chekt_operator::cli::Cli;
use chekt_operator::resources::{ChektAccount, ChektWebhook};
use clap::{Command, CommandFactory};
use kube::CustomResourceExt;
use serde::Deserialize;
use serde_yaml::Value;

use crate::harness::Cluster;
use crate::links::{documents, name_of};

const CHART: &str = "charts/chekt-operator/values.yaml";

#[test]
fn every_command_of_ours_that_a_document_shows_has_the_flags_that_are_shown() {
    let root = Cli::command();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (document, text) in texts() {
        for line in code(&text) {
            for part in line.split([';', '|', '>']) {
                if let Some(words) = ours(part) {
                    seen += 1;
                    if let Some(why) = fault(&root, &words) {
                        wrong.push(format!("{document}: {line}: {why}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 20, "only {seen} commands were found");
}

#[test]
fn every_value_of_the_chart_that_a_document_shows_is_one() {
    let chart = fs::read_to_string(root().join(CHART)).unwrap();
    let chart: Value = serde_yaml::from_str(&chart).unwrap();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (document, text) in texts() {
        let mut shown: Vec<String> = code(&text)
            .iter()
            .flat_map(|line| named(line, &chart))
            .collect();
        for block in blocks(&text) {
            if is_of_the_chart(&block, &chart) {
                paths(&block, "", &mut shown);
            }
        }
        seen += shown.len();
        let unknown = shown.into_iter().filter(|path| !holds(&chart, path));
        wrong.extend(unknown.map(|path| format!("{document}: {path}")));
    }
    assert!(
        wrong.is_empty(),
        "no values of the chart:\n{}",
        wrong.join("\n")
    );
    assert!(seen > 30, "only {seen} values were found");
}

#[test]
fn every_field_that_a_document_names_is_one_of_either_kind() {
    let schemas = [ChektAccount::crd(), ChektWebhook::crd()].map(|crd| {
        let crd = serde_json::to_value(crd).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    });
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (document, text) in texts() {
        for line in spans(&text) {
            let path: String = line
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
                .collect();
            if !(path.starts_with("spec.") || path.starts_with("status.")) {
                continue;
            }
            seen += 1;
            let path = path.trim_end_matches('.');
            let is_field = |schema: &serde_json::Value| {
                let mut at = schema;
                path.split('.').all(|name| {
                    at = &at["properties"][name];
                    at.is_object()
                })
            };
            if !schemas.iter().any(is_field) {
                wrong.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "no fields of ours:\n{}", wrong.join("\n"));
    assert!(seen > 30, "only {seen} fields were found");
}

#[test]
fn every_metric_that_a_document_names_is_served() {
    // What is in that page is compared with what the processes register.
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let known: HashSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert!(known.len() > 20, "{known:?}");
    let mut wrong = Vec::new();
    for (document, text) in texts() {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for word in words.filter(|w| w.starts_with("chekt_") && *w != "chekt_operator") {
            let ends = ["_bucket", "_sum", "_count"];
            let family = ends.iter().find_map(|end| word.strip_suffix(end));
            let is_known = known.contains(word) || family.is_some_and(|f| known.contains(f));
            // Also what several begin with, as it is searched for.
            if !is_known && !known.iter().any(|name| name.starts_with(word)) {
                wrong.push(format!("{document}: {word}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "no metrics of ours:\n{}",
        wrong.join("\n")
    );
}

#[tokio::test]
async fn every_manifest_that_a_document_shows_is_valid() -> anyhow::Result<()> {
    let cluster = Cluster::new("shown").await?;
    let mut seen = 0;
    for (document, text) in texts() {
        for mut manifest in blocks(&text) {
            if manifest.get("apiVersion").is_none() {
                if manifest.get("spec").and_then(|s| s.get("events")).is_none() {
                    continue;
                }
                // A part of a webhook.
                manifest["apiVersion"] = "chekt.com/v1alpha1".into();
                manifest["kind"] = "ChektWebhook".into();
                manifest["metadata"] = serde_yaml::from_str("{name: shown}")?;
            }
            let ours = manifest["apiVersion"]
                .as_str()
                .is_some_and(|v| v == "v1" || v.starts_with("chekt.com/"));
            if !ours {
                continue;
            }
            if let Some(metadata) = manifest["metadata"].as_mapping_mut() {
                metadata.remove("namespace");
            }
            let args = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
            let said = cluster
                .kubectl_reading(&args, &serde_yaml::to_string(&manifest)?)
                .await?;
            anyhow::ensure!(said.stderr.is_empty(), "{document}: {}", said.stderr);
            said.ok()?;
            seen += 1;
        }
    }
    assert!(seen > 8, "only {seen} manifests were found");
    Ok(())
}

#[test]
fn what_is_not_there_is_found() {
    let root = Cli::command();
    let said = |line: &str| ours(line).and_then(|words| fault(&root, &words));
    assert!(said("chekt-operator receive --journal DIR").is_some());
    assert!(said("$ target/release/chekt-operator receiver --no-such-flag 1").is_some());
    assert!(
        said("kubectl exec POD -c receiver -- /usr/local/bin/chekt-operator deadletters --bodies")
            .is_some()
    );
    assert_eq!(
        said("chekt-operator deadletters -o json --journal=DIR"),
        None
    );
    assert!(ours("helm install chekt-operator charts/chekt-operator").is_none());
    assert!(said("kubectl chekt verify NAMESPACE/NAME --no-tests").is_some());
    assert_eq!(said("kubectl chekt verify NAMESPACE/NAME --no-test"), None);
    let text = "a `b` c\n\n    d \\\n      e     # f\n\n```yaml\ng: 1\n---\nh: 2\n```\n```console\n$ x <<'EOF'\ni: 3\nEOF\n```\n";
    assert_eq!(code(text)[..2], ["b", "d e"]);
    assert_eq!(blocks(text).len(), 3);
    let chart: Value = serde_yaml::from_str("{a: {b: 1, c: {}}, d: []}").unwrap();
    assert_eq!(
        named("helm install x --set a.b=1,a.x=2", &chart),
        ["a.b", "a.x"]
    );
    assert!(holds(&chart, "a.b") && holds(&chart, "a.c.anything") && !holds(&chart, "a.x"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each document that users read, with its name. What tools write about themselves below `tests/` and the like is not.
fn texts() -> Vec<(String, String)> {
    documents(root())
        .into_iter()
        .map(|path| (name_of(root(), &path), fs::read_to_string(&path).unwrap()))
        .filter(|(name, _)| name == "README.md" || name.starts_with("docs/"))
        .collect()
}

/// What stands in backticks outside of blocks.
fn spans(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if !fence && !fenced && !line.starts_with("    ") {
            found.extend(line.split('`').skip(1).step_by(2).map(ToOwned::to_owned));
        }
    }
    found
}

/// Every line of code: of blocks, without the remark at its end, and what stands in backticks.
fn code(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found: Vec<String> = spans(text);
    let mut begun: Option<String> = None;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if fence || !(fenced || line.starts_with("    ")) {
            found.extend(begun.take());
            continue;
        }
        let line = line.split(" #").next().unwrap_or_default().trim();
        let (line, goes_on) = line
            .strip_suffix('\\')
            .map_or((line, false), |l| (l.trim(), true));
        let whole = begun
            .take()
            .map_or_else(|| line.to_owned(), |first| format!("{first} {line}"));
        if goes_on {
            begun = Some(whole);
        } else {
            found.push(whole);
        }
    }
    found.extend(begun);
    found
}

/// Every mapping in a block of YAML, or between the two lines of a here-document.
fn blocks(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut block: Option<(&str, String)> = None;
    for line in text.lines() {
        block = match block.take() {
            Some((end, body)) if line.trim() == end => {
                let documents = serde_yaml::Deserializer::from_str(&body).map(Value::deserialize);
                found.extend(documents.filter_map(Result::ok).filter(Value::is_mapping));
                None
            }
            Some((end, body)) => Some((end, format!("{body}{line}\n"))),
            None if line == "```yaml" => Some(("```", String::new())),
            None if line.contains("<<'EOF'") || line.contains("<<EOF") => {
                Some(("EOF", String::new()))
            }
            None => None,
        };
    }
    found
}

/// The words after our program's name, if a line calls it: by its name or path, or in a Pod.
fn ours(line: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = line.split_whitespace().skip_while(|w| *w == "$").collect();
    let is_ours = |word: &str| word == "chekt-operator" || word.ends_with("/chekt-operator");
    let at = match words.iter().position(|w| *w == "--") {
        Some(dashes) => dashes + 1,
        None => 0,
    };
    let rest = match words.get(at..)? {
        // What the plugin knows, the program knows too.
        ["kubectl", "chekt", rest @ ..] => rest,
        [name, rest @ ..] if is_ours(name) => rest,
        _ => return None,
    };
    let runs = rest
        .first()
        .is_some_and(|w| w.starts_with(char::is_lowercase));
    runs.then(|| rest.to_vec())
}

/// What is wrong with a subcommand and its flags, if something is.
fn fault(root: &Command, words: &[&str]) -> Option<String> {
    let (name, rest) = words.split_first()?;
    let Some(command) = root.find_subcommand(name) else {
        return Some(format!("there is no {name}"));
    };
    let args = || command.get_arguments().chain(root.get_arguments());
    for word in rest {
        let word = word.split('=').next().unwrap_or_default();
        let known = match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some("help" | "version"), _) => true,
            (Some(long), _) => args().any(|a| a.get_long() == Some(long)),
            (None, Some(short)) if short.len() == 1 => {
                args().any(|a| a.get_short() == short.chars().next())
            }
            (None, _) => true,
        };
        if !known {
            return Some(format!("{name} has no {word}"));
        }
    }
    None
}

/// The values that a line of code names: after `--set`, or by itself with a dot, as in `receiver.allowFrom`.
fn named(line: &str, chart: &Value) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let set = words
        .windows(2)
        .filter(|pair| pair[0] == "--set")
        .map(|pair| pair[1]);
    let mut found: Vec<String> = set
        .flat_map(|all| all.split(','))
        .filter_map(|one| one.split_once('='))
        .map(|(path, _)| path.to_owned())
        .collect();
    let alone = line.split([':', '=']).next().unwrap_or_default();
    let is_path = alone.contains('.')
        && alone
            .split('.')
            .all(|p| !p.is_empty() && p.chars().all(char::is_alphanumeric));
    let is_file = [".rs", ".md", ".yaml"]
        .iter()
        .any(|end| alone.ends_with(end));
    let first = alone.split('.').next().unwrap_or_default();
    if is_path && !is_file && chart.get(first).is_some() {
        found.push(alone.to_owned());
    }
    found
}

/// Whether a block of YAML is a file of values, and not the configuration of something else: most of its names are the
/// chart's.
fn is_of_the_chart(block: &Value, chart: &Value) -> bool {
    let names = || block.as_mapping().into_iter().flatten();
    let known = names()
        .filter(|(name, _)| chart.get(*name).is_some())
        .count();
    2 * known > names().count()
}

/// The path of everything in a mapping that is not a mapping itself.
fn paths(block: &Value, before: &str, found: &mut Vec<String>) {
    for (key, value) in block.as_mapping().into_iter().flatten() {
        let key = key.as_str().unwrap_or_default();
        let path = if before.is_empty() {
            key.to_owned()
        } else {
            format!("{before}.{key}")
        };
        if value.is_mapping() {
            paths(value, &path, found);
        } else {
            // Annotations and labels have names with dots, which are the user's.
            found.push(path);
        }
    }
}

/// Whether the chart has a value of this path, or lets users write what they like there.
fn holds(chart: &Value, path: &str) -> bool {
    let mut at = chart;
    for name in path.split('.') {
        let Some(below) = at.get(name) else {
            return at.as_mapping().is_some_and(serde_yaml::Mapping::is_empty);
        };
        at = below;
    }
    true
}
