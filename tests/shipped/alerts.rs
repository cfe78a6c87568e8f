//! The alerts: rules that Prometheus takes, each with a test of what it says and of what it is silent about, each with a
//! page for whoever is woken by it, and the same rules once the chart has made a PrometheusRule of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::tools;
use crate::helm;

/// The rules, as plain Prometheus reads them.
pub const RULES: &str = "charts/chekt-operator/alerts/chekt-operator.yaml";
/// What each says when.
const CASES: &str = "tests/shipped/alerts.yaml";
/// The pages.
const PAGES: &str = "docs/runbooks";
/// What the chart needs in any case.
const LEAST: [&str; 2] = ["--set", "publicUrl=https://alarms.example.com"];

/// What an alert says of which series.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    alert: String,
    fires: Vec<Fires>,
    silent: Vec<Silent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fires {
    series: BTreeMap<String, Value>,
    at: String,
    labels: BTreeMap<String, String>,
    says: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Silent {
    #[serde(rename = "why")]
    _why: String,
    series: BTreeMap<String, Value>,
    at: String,
}

/// Every rule of a document, in order.
///
/// # Errors
/// When it holds none.
pub fn rules(document: &Value) -> anyhow::Result<Vec<Value>> {
    let groups = document["groups"].as_array().context("no groups")?;
    let rules = groups.iter().filter_map(|g| g["rules"].as_array());
    Ok(rules.flatten().cloned().collect())
}

/// The rules as they are shipped.
///
/// # Errors
/// When they cannot be read.
pub fn shipped() -> anyhow::Result<Value> {
    Ok(serde_yaml::from_str(&std::fs::read_to_string(
        helm::root().join(RULES),
    )?)?)
}

fn name(rule: &Value) -> &str {
    rule["alert"].as_str().unwrap_or_default()
}

/// Runs promtool.
///
/// # Errors
/// When it finds a fault, with what it says.
pub fn promtool(args: &[&str], file: &Path) -> anyhow::Result<()> {
    let mut promtool = Command::new(tools::PROMTOOL.path()?);
    let output = helm::run(promtool.args(args).arg(file), "")?;
    let said = helm::said(&output);
    anyhow::ensure!(output.status.success(), "promtool {args:?}:\n{said}");
    Ok(())
}

/// Renders one template of the chart for monitoring; inside, why Helm refuses.
///
/// # Errors
/// When Helm cannot be run.
pub fn rendered(template: &str, more: &[&str]) -> anyhow::Result<Result<Value, String>> {
    let template = format!("templates/monitoring/{template}.yaml");
    let chart = helm::chart().to_string_lossy().into_owned();
    let mut args = vec!["template", helm::RELEASE, &chart, "--show-only", &template];
    args.extend(LEAST.iter().chain(more));
    let output = helm::helm(&args, "")?;
    if output.status.success() {
        Ok(Ok(serde_yaml::from_slice(&output.stdout)?))
    } else {
        Ok(Err(helm::said(&output)))
    }
}

const SWITCHED_ON: [&str; 2] = ["--set", "metrics.prometheusRule.enabled=true"];

#[test]
fn prometheus_takes_the_rules() -> anyhow::Result<()> {
    promtool(
        &["check", "rules", "--lint=all", "--lint-fatal"],
        &helm::root().join(RULES),
    )
}

#[test]
fn each_alert_fires_when_it_should_says_what_is_wrong_and_is_silent_otherwise() -> anyhow::Result<()>
{
    let rules = rules(&shipped()?)?;
    let cases: Vec<Case> =
        serde_yaml::from_str(&std::fs::read_to_string(helm::root().join(CASES))?)?;
    let tried: Vec<&str> = cases.iter().map(|case| case.alert.as_str()).collect();
    let all: Vec<&str> = rules.iter().map(name).collect();
    assert_eq!(
        tried, all,
        "every alert has its cases, in the order of the rules"
    );
    let mut tests = Vec::new();
    for (rule, case) in rules.iter().zip(&cases) {
        assert!(
            !case.fires.is_empty() && !case.silent.is_empty(),
            "{}",
            case.alert
        );
        for fires in &case.fires {
            let mut labels = fires.labels.clone();
            let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
            labels.insert("severity".to_owned(), severity.to_owned());
            let mut annotations = rule["annotations"].clone();
            annotations["description"] = json!(fires.says);
            let expected = json!([{"exp_labels": labels, "exp_annotations": annotations}]);
            tests.push(unit(&case.alert, &fires.series, &fires.at, &expected));
        }
        for silent in &case.silent {
            tests.push(unit(&case.alert, &silent.series, &silent.at, &json!([])));
        }
    }
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("tests.yaml");
    let suite = json!({
        "rule_files": [helm::root().join(RULES)], "evaluation_interval": "1m", "tests": tests,
    });
    std::fs::write(&file, serde_yaml::to_string(&suite)?)?;
    promtool(&["test", "rules"], &file)
}

/// One test of promtool: these series, a value a minute, and what the alert says of them.
fn unit(alert: &str, series: &BTreeMap<String, Value>, at: &str, expected: &Value) -> Value {
    let series: Vec<Value> = series
        .iter()
        .map(|(series, values)| {
            let values = values
                .as_str()
                .map_or_else(|| values.to_string(), ToOwned::to_owned);
            json!({"series": series, "values": values})
        })
        .collect();
    json!({
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
    })
}

#[test]
fn each_alert_says_how_bad_it_is_and_has_a_page_and_each_page_has_its_alert() -> anyhow::Result<()>
{
    let mut pages = BTreeSet::new();
    for rule in rules(&shipped()?)? {
        let alert = name(&rule);
        assert!(
            alert.starts_with("Chekt"),
            "{alert}: the dashboard asks for Chekt.+"
        );
        let severity = rule["labels"]["severity"].as_str();
        assert!(
            matches!(severity, Some("critical" | "warning")),
            "{alert}: {severity:?}"
        );
        for told in ["summary", "description"] {
            let text = rule["annotations"][told].as_str().unwrap_or_default();
            assert!(text.ends_with('.'), "{alert}: {told} is {text:?}");
        }
        let page = format!("{PAGES}/{alert}.md");
        assert_eq!(rule["annotations"]["runbook_url"], json!(page));
        let text =
            std::fs::read_to_string(helm::root().join(&page)).with_context(|| page.clone())?;
        let headings = [
            &format!("# {alert}"),
            "## Meaning",
            "## Impact",
            "## Diagnose",
            "## Mitigate",
        ];
        let found: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(found, headings, "{page}");
        pages.insert(helm::root().join(page));
    }
    // Not of an alert, but of all of them.
    let index = helm::root().join(PAGES).join("README.md");
    let listed = std::fs::read_to_string(&index)?;
    for page in &pages {
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        assert!(
            listed.contains(&format!("({name})")),
            "{name} is not in the list of pages"
        );
    }
    pages.insert(index);
    let held: BTreeSet<PathBuf> = std::fs::read_dir(helm::root().join(PAGES))?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    assert_eq!(held, pages);
    Ok(())
}

#[test]
fn the_page_about_watching_tells_of_each_alert() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(helm::root().join("docs/howto/monitoring.md"))?;
    for rule in rules(&shipped()?)? {
        let alert = name(&rule);
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        let row = format!("| [{alert}](../runbooks/{alert}.md) | {severity} |");
        assert!(
            page.contains(&row),
            "docs/howto/monitoring.md has no row {row}"
        );
    }
    Ok(())
}

#[test]
fn the_chart_makes_a_prometheus_rule_of_the_same_rules() -> anyhow::Result<()> {
    let made = rendered("prometheusrule", &SWITCHED_ON)?.map_err(anyhow::Error::msg)?;
    assert_eq!(made["kind"], "PrometheusRule");
    assert_eq!(rules(&made["spec"])?, rules(&shipped()?)?);
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("rules.yaml");
    std::fs::write(&file, serde_yaml::to_string(&made["spec"])?)?;
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &file)
}

#[test]
fn single_alerts_are_changed_by_values_and_the_others_stay_as_they_are() -> anyhow::Result<()> {
    let values = json!({"metrics": {"prometheusRule": {
        "enabled": true,
        "labels": {"release": "prometheus"},
        "alertLabels": {"team": "security", "severity": "none"},
        "runbookBaseURL": "https://wiki.example.com/runbooks/",
        "alerts": {
            "ChektWebhookSilent": {"threshold": 86400, "for": "1h", "severity": "critical"},
            "ChektJournalNearlyFull": {"threshold": 0.25},
            "ChektSinkMissed": {"enabled": false},
            "ChektNoLeader": {"labels": {"page": "yes"}},
        },
    }}});
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("values.yaml");
    std::fs::write(&file, serde_json::to_string(&values)?)?;
    let file = file.to_string_lossy();
    let made = rendered("prometheusrule", &["--values", &file])?.map_err(anyhow::Error::msg)?;
    assert_eq!(made["metadata"]["labels"]["release"], "prometheus");
    let mut wanted = rules(&shipped()?)?;
    wanted.retain(|rule| name(rule) != "ChektSinkMissed");
    for rule in &mut wanted {
        let alert = name(rule).to_owned();
        rule["labels"]["team"] = json!("security");
        rule["annotations"]["runbook_url"] =
            json!(format!("https://wiki.example.com/runbooks/{alert}.md"));
        let expr = rule["expr"].as_str().unwrap_or_default().to_owned();
        match alert.as_str() {
            "ChektWebhookSilent" => {
                rule["expr"] = json!(expr.replace("604800 #", "86400 #"));
                rule["for"] = json!("1h");
                rule["labels"]["severity"] = json!("critical");
            }
            "ChektJournalNearlyFull" => rule["expr"] = json!(expr.replace("0.4 #", "0.25 #")),
            "ChektNoLeader" => rule["labels"]["page"] = json!("yes"),
            _ => {}
        }
    }
    assert_eq!(rules(&made["spec"])?, wanted);
    Ok(())
}

#[test]
fn a_value_for_an_alert_that_there_is_not_or_that_has_no_threshold_is_refused_with_words()
-> anyhow::Result<()> {
    for (value, words) in [
        (
            "ChektNoleader.enabled=false",
            "there is no such alert. There are ChektWebhookSilent, ",
        ),
        ("ChektNoLeader.threshold=3", "has no threshold"),
    ] {
        let value = format!("metrics.prometheusRule.alerts.{value}");
        let more = [SWITCHED_ON.as_slice(), &["--set", &value]].concat();
        let refused = rendered("prometheusrule", &more)?.expect_err(&value);
        assert!(refused.contains(words), "{refused}");
    }
    Ok(())
}

#[test]
fn a_monitor_scrapes_both_processes_and_leaves_the_labels_of_webhooks_alone() -> anyhow::Result<()>
{
    for (template, switch, endpoints) in [
        ("podmonitor", "metrics.podMonitor", "podMetricsEndpoints"),
        ("servicemonitor", "metrics.serviceMonitor", "endpoints"),
    ] {
        let values = [
            "--set",
            &format!("{switch}.enabled=true"),
            "--set",
            &format!("{switch}.interval=15s"),
        ];
        let made = rendered(template, &values)?.map_err(anyhow::Error::msg)?;
        let endpoint = |port: &str| json!({"port": port, "path": "/metrics", "honorLabels": true, "interval": "15s"});
        let both = json!([endpoint("receiver-ops"), endpoint("controller-ops")]);
        assert_eq!(made["spec"][endpoints], both, "{made}");
    }
    // The ServiceMonitor finds the Service that comes with it, and that Service has ports of those names.
    let switch = ["--set", "metrics.serviceMonitor.enabled=true"];
    let monitor = rendered("servicemonitor", &switch)?.map_err(anyhow::Error::msg)?;
    let service = rendered("service", &switch)?.map_err(anyhow::Error::msg)?;
    let selects = monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .cloned();
    for (label, value) in selects.unwrap_or_default() {
        assert_eq!(service["metadata"]["labels"][&label], value, "{label}");
    }
    Ok(())
}
