//! The dashboard and the alerts, held against what the processes really show: after some traffic, each metric and each value of
//! a label that a query names is in the `/metrics` of a real controller and a real receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use chekt_operator::delivery::profile::PARTNER;
use chekt_operator::resources::conditions::{ACTIVE, READY, SYNCED, VERIFIED};
use chekt_operator::resources::reasons::Reason;
use serde_json::{Value, json};

use crate::harness::{Stage, StageOptions, eventually, tools};
use crate::{alerts, helm, promql};

/// The dashboard.
const DASHBOARD: &str = "charts/chekt-operator/dashboards/chekt-operator.json";
/// Labels that Prometheus adds to what it scrapes.
const ADDED: [&str; 4] = ["namespace", "pod", "instance", "job"];
/// A label of the buckets of a histogram.
const BUCKET: &str = "le";

/// The limit of waiting.
const SOON: Duration = Duration::from_secs(40);

/// What `/metrics` shows: of each series' name, its labels with all their values.
type Shown = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn dashboard() -> anyhow::Result<Value> {
    let file = helm::root().join(DASHBOARD);
    Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
}

fn panels(dashboard: &Value) -> Vec<Value> {
    dashboard["panels"].as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Every query of dashboard and rules, with where it stands.
fn queries() -> anyhow::Result<Vec<(String, String)>> {
    let mut queries = Vec::new();
    for rule in alerts::rules(&alerts::shipped()?)? {
        queries.push((
            text(&rule["alert"]).to_owned(),
            text(&rule["expr"]).to_owned(),
        ));
    }
    let dashboard = dashboard()?;
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let at = format!("panel {:?}", text(&panel["title"]));
            queries.push((at, text(&target["expr"]).to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let query = text(&variable["query"]["query"]);
        if let Some(inside) = query.strip_prefix("label_values(") {
            let (metric, _) = inside.split_once(',').context(query.to_owned())?;
            queries.push((format!("variable {}", variable["name"]), metric.to_owned()));
        }
    }
    Ok(queries)
}

fn read(metrics: &str, shown: &mut Shown) {
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, _)) = line.rsplit_once(' ') else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let known = shown.entry(name.to_owned()).or_default();
        for label in labels.trim_end_matches('}').split("\",") {
            if let Some((label, value)) = label.split_once("=\"") {
                let values = known.entry(label.to_owned()).or_default();
                values.insert(value.trim_end_matches('"').to_owned());
            }
        }
    }
}

/// `promtool check metrics` over what a process shows.
fn check(metrics: &str) -> anyhow::Result<()> {
    let mut promtool = Command::new(tools::PROMTOOL.path()?);
    let output = helm::run(promtool.args(["check", "metrics"]), metrics)?;
    let said = helm::said(&output);
    anyhow::ensure!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
    Ok(())
}

/// A controller and a receiver after alarms, a test delivery and a refusal, as promtool and Prometheus see them.
async fn seen(idea: &str, controller: &[&str]) -> anyhow::Result<(String, String)> {
    let options = StageOptions {
        controller: controller.iter().map(|&flag| flag.to_owned()).collect(),
        ..StageOptions::default()
    };
    let mut stage = Stage::verified(idea, &["alarm.triggered"], options).await?;
    let sent = stage
        .chekt
        .emit("alarm.triggered", json!({"site_id": "s"}))
        .await?;
    stage.chekt.delivered(&sent, SOON).await?;
    let refused = reqwest::Client::new()
        .post(stage.derived_url("alarms")?)
        .header(
            PARTNER.signature_header,
            format!("sha256={}", "0".repeat(64)),
        )
        .body("{}")
        .send()
        .await?;
    anyhow::ensure!(refused.status() == 401, "{}", refused.status());
    let receiver = stage.receiver.metrics().await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    let webhooks = stage.users.webhooks();
    // The receiver tells of a refusal in the status, within half a minute.
    eventually("the refusal to be told of", SOON, || async {
        let deliveries = webhooks
            .get("alarms")
            .await?
            .status
            .and_then(|s| s.deliveries);
        anyhow::ensure!(
            deliveries
                .as_ref()
                .is_some_and(|d| d.last_rejected_at.is_some()),
            "{deliveries:?}"
        );
        Ok(())
    })
    .await?;
    let controller = stage.controller()?;
    let metrics = eventually("the controller to have seen it", SOON, || async {
        let metrics = controller.metrics().await?;
        let named = metrics.contains("chekt_webhook_last_rejection_timestamp_seconds{");
        let not = metrics.contains("chekt_webhooks_named 0");
        anyhow::ensure!(named || not, "{metrics}");
        Ok(metrics)
    })
    .await?;
    Ok((receiver, metrics))
}

#[tokio::test]
async fn what_the_processes_show_passes_promtool_and_has_all_that_alerts_and_dashboard_ask_for()
-> anyhow::Result<()> {
    let (receiver, controller) = seen("watched", &[]).await?;
    let mut shown = Shown::new();
    for metrics in [&receiver, &controller] {
        check(metrics)?;
        read(metrics, &mut shown);
    }
    // What Prometheus makes of the rules; that each begins so is the rules' own test.
    for label in [
        "alertname=\"Chekt.+\"",
        "alertstate=\"firing\"",
        "severity=\"critical\"",
        "name=\"w\"",
    ] {
        read(&format!("ALERTS{{{label}}} 1"), &mut shown);
    }
    // Words that an object may have at another time.
    let conditions = [READY, SYNCED, ACTIVE, VERIFIED].map(str::to_owned);
    let statuses = ["True", "False", "Unknown"].map(str::to_owned);
    let reasons = Reason::ALL.iter().map(|reason| reason.as_str().to_owned());
    let states = ["active", "off", "unknown", "absent"].map(str::to_owned);
    let possible: BTreeMap<&str, BTreeSet<String>> = BTreeMap::from([
        ("condition", conditions.into()),
        ("status", statuses.into()),
        ("reason", reasons.collect()),
        ("state", states.into()),
    ]);
    let queries = queries()?;
    assert!(
        queries.len() > 60,
        "only {} queries were found",
        queries.len()
    );
    let mut wrong = Vec::new();
    for (at, query) in &queries {
        let asked = promql::read(query);
        if asked.metrics.is_empty() {
            wrong.push(format!("{at} asks for no metric of ours: {query}"));
        }
        let mut labels: BTreeSet<&str> = ADDED.into();
        labels.insert(BUCKET);
        for (metric, matchers) in &asked.metrics {
            let Some(known) = shown.get(metric) else {
                wrong.push(format!("{at}: nobody shows {metric}"));
                continue;
            };
            labels.extend(known.keys().map(String::as_str));
            for (label, values) in matchers {
                let Some(has) = known.get(label) else {
                    wrong.push(format!("{at}: {metric} has no label {label}"));
                    continue;
                };
                let never = values.iter().filter(|value| {
                    let may_be = possible.get(label.as_str());
                    !has.contains(*value) && !may_be.is_some_and(|all| all.contains(*value))
                });
                wrong.extend(
                    never.map(|value| format!("{at}: {metric} never has {label}={value:?}")),
                );
            }
        }
        let unknown = asked
            .groups
            .iter()
            .filter(|name| !labels.contains(name.as_str()));
        wrong.extend(unknown.map(|name| format!("{at}: no metric of it has the label {name}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn of_more_webhooks_than_may_be_named_only_sums_are_told() -> anyhow::Result<()> {
    let (_, controller) = seen("unnamed", &["--metrics-webhooks=0"]).await?;
    check(&controller)?;
    let mut shown = Shown::new();
    read(&controller, &mut shown);
    assert!(
        controller.contains("\nchekt_webhooks_named 0.0\n"),
        "{controller}"
    );
    let named: Vec<&String> = shown
        .keys()
        .filter(|n| n.starts_with("chekt_webhook_"))
        .collect();
    assert!(named.is_empty(), "{named:?}");
    for sum in [
        "chekt_webhooks",
        "chekt_webhooks_condition",
        "chekt_webhooks_last_delivery_timestamp_seconds",
    ] {
        assert!(shown.contains_key(sum), "{sum}");
    }
    Ok(())
}

#[test]
fn each_panel_has_its_own_id_a_unit_a_query_of_the_chosen_prometheus_and_words_about_it()
-> anyhow::Result<()> {
    let dashboard = dashboard()?;
    let panels = panels(&dashboard);
    let ids: BTreeSet<i64> = panels.iter().filter_map(|p| p["id"].as_i64()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let chosen = json!({"type": "prometheus", "uid": "${datasource}"});
    let mut places = BTreeSet::new();
    for panel in &panels {
        let title = text(&panel["title"]);
        assert!(!title.is_empty(), "{panel}");
        let place = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|n| place[n].as_i64().unwrap_or(-1));
        assert!(x >= 0 && x + w <= 24, "{title} is not on the page");
        for column in x..x + w {
            for line in y..y + h {
                assert!(
                    places.insert((column, line)),
                    "{title} lies over another panel"
                );
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"], chosen, "{title}");
        assert!(
            text(&panel["description"]).ends_with('.'),
            "{title} says what it shows"
        );
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{title} has a unit"
        );
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        assert!(!targets.is_empty(), "{title} shows nothing");
        let refs: BTreeSet<&str> = targets.iter().map(|t| text(&t["refId"])).collect();
        assert_eq!(refs.len(), targets.len(), "{title}");
        for target in &targets {
            assert_eq!(target["datasource"], chosen, "{title}");
            assert!(!text(&target["expr"]).is_empty(), "{title}");
        }
    }
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| text(&v["name"]))
        .collect();
    assert_eq!(variables, ["datasource", "namespace"]);
    assert_eq!(dashboard["uid"], "chekt-operator");
    assert!(dashboard["id"].is_null(), "an id is of one Grafana");
    Ok(())
}

#[test]
fn prometheus_can_read_every_query_of_the_dashboard() -> anyhow::Result<()> {
    // As rules, which promtool reads; Grafana's own words stand for a time.
    let rules: Vec<Value> = queries()?
        .iter()
        .filter(|(at, _)| at.starts_with("panel"))
        .enumerate()
        .map(|(n, (_, query))| {
            let query = query
                .replace("$__rate_interval", "5m")
                .replace("$__range", "6h");
            json!({"record": format!("panel:{n}"), "expr": query})
        })
        .collect();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("rules.yaml");
    let groups = json!({"groups": [{"name": "panels", "rules": rules}]});
    std::fs::write(&file, serde_yaml::to_string(&groups)?)?;
    alerts::promtool(&["check", "rules"], &file)
}

#[test]
fn the_chart_ships_the_dashboard_as_it_is_where_grafana_looks_for_it() -> anyhow::Result<()> {
    let switch = ["--set", "metrics.dashboard.enabled=true"];
    let made = alerts::rendered("dashboard", &switch)?.map_err(anyhow::Error::msg)?;
    assert_eq!(made["kind"], "ConfigMap");
    assert_eq!(made["metadata"]["labels"]["grafana_dashboard"], "1");
    let data = made["data"].as_object().cloned().unwrap_or_default();
    let names: Vec<&String> = data.keys().collect();
    assert_eq!(names, ["chekt-operator.json"]);
    let shipped: Value = serde_json::from_str(text(&data["chekt-operator.json"]))?;
    assert_eq!(shipped, dashboard()?);
    Ok(())
}
