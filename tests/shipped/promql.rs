//! What a query asks for: the metrics that it names, and the labels that it compares or groups by.
//!
//! No parser of PromQL, whose syntax promtool judges. The names of metrics begin with `chekt_` or `process_`, beside `ALERTS`,
//! which Prometheus makes of rules, and what comes right behind one in braces are its labels. So much is enough to hold a
//! query against what `/metrics` shows.

use std::collections::{BTreeMap, BTreeSet};

/// What one query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Of each metric, the values of labels that it is to have; a regular expression of words is each of its words.
    pub metrics: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// Labels that are grouped by or joined on.
    pub groups: BTreeSet<String>,
}

/// Reads a query.
pub fn read(query: &str) -> Asked {
    let code: String = query
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut asked = Asked::default();
    let mut rest = code.as_str();
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |at| at + 2);
            rest = &rest[end..];
        } else if c.is_ascii_alphabetic() || c == '_' {
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after;
            if word.starts_with("chekt_") || word.starts_with("process_") || word == "ALERTS" {
                let labels = asked.metrics.entry(word.to_owned()).or_default();
                if let Some((inside, after)) =
                    after.strip_prefix('{').and_then(|a| a.split_once('}'))
                {
                    matchers(inside, labels);
                    rest = after;
                }
            } else if matches!(
                word,
                "by" | "without" | "on" | "ignoring" | "group_left" | "group_right"
            ) {
                let list = after.trim_start();
                if let Some((inside, after)) =
                    list.strip_prefix('(').and_then(|a| a.split_once(')'))
                {
                    let names = inside.split(',').map(str::trim).filter(|n| !n.is_empty());
                    asked.groups.extend(names.map(ToOwned::to_owned));
                    rest = after;
                }
            }
        } else if c.is_ascii_digit() {
            // A number, or a duration such as 5m.
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
            rest = &rest[end.unwrap_or(rest.len())..];
        } else {
            rest = &rest[c.len_utf8()..];
        }
    }
    asked
}

/// Reads what stands in the braces behind a metric. Values that hold a variable of Grafana are left out.
fn matchers(inside: &str, labels: &mut BTreeMap<String, BTreeSet<String>>) {
    for part in inside.split("\",") {
        let Some((name, value)) = part.split_once('"') else {
            continue;
        };
        let is_operator = |c: char| matches!(c, '=' | '!' | '~' | ' ' | ',');
        let name = name.trim_matches(is_operator).to_owned();
        let value = value.trim_end_matches('"');
        let values = labels.entry(name).or_default();
        if !value.contains('$') {
            values.extend(value.split('|').map(ToOwned::to_owned));
        }
    }
}

#[test]
fn metrics_their_labels_and_what_is_grouped_by_are_found() {
    let query = r#"sum by (namespace, name) (rate(chekt_a_total{outcome!~"x|y", why="z"}[5m])) > 0.5 # chekt_not_this
        and on () max(chekt_b) * 60 unless on (job) label_replace(process_c{namespace=~"$n"}, "a", "chekt_d", "", "")"#;
    let asked = read(query);
    let set = |values: &[&str]| {
        values
            .iter()
            .map(|&v| v.to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(asked.groups, set(&["namespace", "name", "job"]));
    let names: Vec<&str> = asked.metrics.keys().map(String::as_str).collect();
    assert_eq!(names, ["chekt_a_total", "chekt_b", "process_c"]);
    let a = &asked.metrics["chekt_a_total"];
    assert_eq!(a["outcome"], set(&["x", "y"]));
    assert_eq!(a["why"], set(&["z"]));
    assert_eq!(asked.metrics["process_c"]["namespace"], set(&[]));
}
