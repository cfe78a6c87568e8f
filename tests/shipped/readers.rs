//! What others make of our Events, as they read them: kubernetes-event-exporter, OpenTelemetry's receiver, kubewatch and
//! Robusta.
//!
//! OpenTelemetry's runs for real. The others are no Go modules that can be had, or no Go at all, so what they look at is
//! written down here from their sources and applied to Events that the real receiver made and the real API server gives
//! out. All but Robusta read `core/v1`, where an Event of `events.k8s.io/v1` has no count, no source and no last time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use k8s_openapi::jiff::Timestamp;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{Cluster, Stage, StageOptions, eventually, reaper, tools};
use crate::helm::{self, root};

const SOON: Duration = Duration::from_secs(60);

/// A webhook with an alarm that came and went, a device that went offline, and what the controller tells beside that.
async fn lively(idea: &str) -> anyhow::Result<Stage> {
    let events = ["alarm.triggered", "alarm.cleared", "device.status_changed"];
    Stage::verified(idea, &events, StageOptions::default()).await
}

async fn alarm(stage: &Stage, id: &str) -> anyhow::Result<()> {
    let data = json!({
        "alarm_id": id, "site_id": "site_123", "device_id": "device_456", "severity": "high", "zone": "Front Door",
    });
    stage.chekt.emit("alarm.triggered", data).await?;
    Ok(())
}

/// All Events of the users' namespace that regard our kinds, as one version of the API gives them out.
async fn events(stage: &Stage, api: &str) -> anyhow::Result<Vec<Value>> {
    let path = format!("{api}/namespaces/{}/events", stage.users.namespace);
    let text = stage.users.kubectl(&["get", "--raw", &path]).await?.ok()?;
    let list: Value = serde_json::from_str(&text)?;
    Ok(list["items"].as_array().context("no list")?.clone())
}

const CORE: &str = "/api/v1";
const EVENTS: &str = "/apis/events.k8s.io/v1";

fn text<'a>(event: &'a Value, path: &str) -> &'a str {
    event.pointer(path).and_then(Value::as_str).unwrap_or("")
}

fn reason(event: &Value) -> String {
    text(event, "/reason").to_owned()
}

fn reasons(events: &[Value]) -> Vec<String> {
    let mut reasons: Vec<_> = events.iter().map(reason).collect();
    reasons.sort();
    reasons
}

// ---- OpenTelemetry

/// What a collector sends its logs to.
struct Backend {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Backend {
    async fn open() -> anyhow::Result<Backend> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let taken: Arc<Mutex<Vec<Value>>> = Arc::default();
        let router = Router::new().fallback(take).with_state(Arc::clone(&taken));
        tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Backend { address, taken })
    }

    /// Every log record, with the attributes of its resource beside its own.
    fn records(&self) -> Vec<Value> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let each = |value: &Value, name: &str| -> Vec<Value> {
            value[name].as_array().cloned().unwrap_or_default()
        };
        let mut records = Vec::new();
        for request in &*taken {
            for resource in each(request, "resourceLogs") {
                for scope in each(&resource, "scopeLogs") {
                    for mut record in each(&scope, "logRecords") {
                        let mut attributes = each(&resource["resource"], "attributes");
                        attributes.extend(each(&record, "attributes"));
                        record["attributes"] = attributes
                            .iter()
                            .map(|a| {
                                (
                                    text(a, "/key").to_owned(),
                                    a["value"]["stringValue"].clone(),
                                )
                            })
                            .collect();
                        records.push(record);
                    }
                }
            }
        }
        records
    }
}

async fn take(State(taken): State<Arc<Mutex<Vec<Value>>>>, body: Bytes) -> String {
    let request = serde_json::from_slice(&body).unwrap_or_else(|_| json!({"no": "JSON"}));
    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
    taken.push(request);
    "{}".to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opentelemetrys_collector_makes_one_log_record_of_each_alarm() -> anyhow::Result<()> {
    let program = tokio::task::spawn_blocking(|| tools::OTEL_COLLECTOR.path()).await??;
    let stage = lively("otel").await?;
    let backend = Backend::open().await?;
    // The example, led to this cluster and this backend.
    let example = std::fs::read_to_string(root().join("examples/alerting/otel-collector.yaml"))?;
    let mut config: Value = serde_yaml::from_str(&example)?;
    let receiver = &mut config["receivers"]["k8s_events"];
    assert_eq!(receiver["auth_type"], "serviceAccount");
    receiver["auth_type"] = json!("kubeConfig");
    receiver["namespaces"] = json!([stage.users.namespace]);
    let exporter = &mut config["exporters"]["otlphttp"];
    exporter["endpoint"] = json!(format!("http://{}", backend.address));
    exporter["encoding"] = json!("json");
    exporter["compression"] = json!("none");
    config["service"]["telemetry"] = json!({"metrics": {"level": "none"}});
    let dir = reaper::directory("otel")?;
    let file = dir.join("config.yaml");
    std::fs::write(&file, serde_yaml::to_string(&config)?)?;
    let log = std::fs::File::create(dir.join("log"))?;
    let mut collector = reaper::spawn(
        Command::new(program)
            .arg(format!("--config=file:{}", file.display()))
            .env("KUBECONFIG", stage.users.kubeconfig())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log),
    )?;
    let said = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    eventually("the collector to be ready", SOON, async || {
        anyhow::ensure!(said().contains("Everything is ready"), "{}", said());
        Ok(())
    })
    .await?;

    // It tells only of what happens while it runs; its watch may begin a moment after it says that it is ready.
    alarm(&stage, "alarm_1").await?;
    let data = json!({"alarm_id": "alarm_1", "site_id": "site_123"});
    stage.chekt.emit("alarm.cleared", data).await?;
    stage
        .users
        .events_with_reason("alarms", "AlarmCleared", 1, SOON)
        .await?;
    alarm(&stage, "alarm_2").await?;
    let records = eventually("two records of alarms", SOON, async || {
        let records = backend.records();
        anyhow::ensure!(records.len() >= 2, "{} of them; {}", records.len(), said());
        anyhow::Ok(records)
    })
    .await?;
    assert_eq!(records.len(), 2, "{records:#?}");
    let events = stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 2, SOON)
        .await?;
    for (record, event) in records.iter().zip(&events) {
        let note = event.note.as_deref().context("an Event without a note")?;
        assert_eq!(text(record, "/body/stringValue"), note);
        assert_eq!(text(record, "/severityText"), "Warning");
        let attributes = &record["attributes"];
        assert_eq!(attributes["k8s.object.kind"], "ChektWebhook");
        assert_eq!(attributes["k8s.object.name"], "alarms");
        assert_eq!(attributes["k8s.object.api_version"], "chekt.com/v1alpha1");
        assert_eq!(attributes["k8s.namespace.name"], stage.users.namespace);
        assert_eq!(attributes["k8s.event.reason"], "AlarmTriggered");
        assert_eq!(attributes["k8s.event.action"], "Received");
        assert_eq!(
            attributes["k8s.event.name"].as_str(),
            event.metadata.name.as_deref()
        );
        let time: i128 = text(record, "/timeUnixNano").parse()?;
        let event_time = event.event_time.as_ref().context("no eventTime")?;
        assert_eq!(time, event_time.0.as_nanosecond());
    }
    collector.kill()?;
    reaper::remove(&dir);
    Ok(())
}

// ---- kubernetes-event-exporter

/// The exporter's file, as far as it says what goes where.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exporter {
    max_event_age_seconds: i64,
    route: Route,
    receivers: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Route {
    drop: Vec<Rule>,
    #[serde(rename = "match")]
    matches: Vec<Rule>,
    routes: Vec<Route>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    message: String,
    api_version: String,
    kind: String,
    namespace: String,
    reason: String,
    #[serde(rename = "type")]
    type_: String,
    component: String,
    host: String,
    min_count: i64,
    labels: BTreeMap<String, String>,
    receiver: String,
}

impl Rule {
    /// Whether it takes a `core/v1` Event on an object with these labels: the labels are the object's, not the Event's.
    fn takes(&self, event: &Value, object: &BTreeMap<String, String>) -> anyhow::Result<bool> {
        let fields = [
            (&self.message, text(event, "/message")),
            (&self.api_version, text(event, "/involvedObject/apiVersion")),
            (&self.kind, text(event, "/involvedObject/kind")),
            (&self.namespace, text(event, "/metadata/namespace")),
            (&self.reason, text(event, "/reason")),
            (&self.type_, text(event, "/type")),
            (&self.component, text(event, "/source/component")),
            (&self.host, text(event, "/source/host")),
        ];
        for (pattern, value) in fields {
            if !pattern.is_empty() && !Regex::new(pattern)?.is_match(value) {
                return Ok(false);
            }
        }
        for (key, pattern) in &self.labels {
            let Some(value) = object.get(key) else {
                return Ok(false);
            };
            if !Regex::new(pattern)?.is_match(value) {
                return Ok(false);
            }
        }
        Ok(event["count"].as_i64().unwrap_or(0) >= self.min_count)
    }
}

impl Route {
    /// The receivers that get an Event.
    fn send(
        &self,
        event: &Value,
        object: &BTreeMap<String, String>,
        to: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        for rule in &self.drop {
            if rule.takes(event, object)? {
                return Ok(());
            }
        }
        let mut all = true;
        for rule in &self.matches {
            if !rule.takes(event, object)? {
                all = false;
            } else if !rule.receiver.is_empty() {
                to.push(rule.receiver.clone());
            }
        }
        if all {
            for route in &self.routes {
                route.send(event, object, to)?;
            }
        }
        Ok(())
    }
}

/// How old the exporter takes an Event to be: by its last time, and where it has none by `eventTime`.
fn age(event: &Value, now: Timestamp) -> anyhow::Result<i64> {
    let last = text(event, "/lastTimestamp");
    let time = if last.is_empty() {
        text(event, "/eventTime")
    } else {
        last
    };
    Ok(now.as_second() - time.parse::<Timestamp>()?.as_second())
}

/// Renders the exporter's templates for an Event, by the program that knows the language and the functions: Helm.
fn render(layout: &Value, event: &Value) -> anyhow::Result<Value> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("templates"))?;
    std::fs::write(
        path("Chart.yaml"),
        "apiVersion: v2\nname: layout\nversion: 0.0.0\n",
    )?;
    let labels = |pointer: &str| event.pointer(pointer).cloned().unwrap_or_else(|| json!({}));
    // The names of its type in Go.
    let values = json!({
        "Name": text(event, "/metadata/name"),
        "Namespace": text(event, "/metadata/namespace"),
        "Labels": labels("/metadata/labels"),
        "Annotations": labels("/metadata/annotations"),
        "Message": text(event, "/message"),
        "Reason": text(event, "/reason"),
        "Type": text(event, "/type"),
        "Count": event["count"],
        "InvolvedObject": {
            "Kind": text(event, "/involvedObject/kind"),
            "Name": text(event, "/involvedObject/name"),
            "Namespace": text(event, "/involvedObject/namespace"),
        },
        "GetTimestampISO8601": text(event, "/eventTime"),
    });
    std::fs::write(path("values.yaml"), serde_json::to_string(&values)?)?;
    let mut texts = Vec::new();
    flatten(layout, "", &mut texts);
    // Each text is a template of its own, to which the Event is the dot.
    let mut template = String::new();
    for (name, value) in &texts {
        let value = value.as_str().context("a layout holds texts")?;
        writeln!(template, "{{{{- define {name:?} }}}}{value}{{{{ end }}}}")?;
        writeln!(
            template,
            "{name}: {{{{ include {name:?} .Values | toJson }}}}"
        )?;
    }
    std::fs::write(path("templates/layout.yaml"), template)?;
    let chart = dir.path().display().to_string();
    let said = helm::helm(&["template", "layout", &chart], "")?;
    anyhow::ensure!(said.status.success(), "{}", helm::said(&said));
    Ok(serde_yaml::from_slice(&said.stdout)?)
}

/// The texts of a layout with their places, as `payload.summary`.
fn flatten<'a>(layout: &'a Value, at: &str, into: &mut Vec<(String, &'a Value)>) {
    match layout {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if at.is_empty() { "" } else { "." };
                flatten(value, &format!("{at}{dot}{name}"), into);
            }
        }
        other => into.push((at.to_owned(), other)),
    }
}

#[tokio::test]
async fn each_reader_gets_the_alarms_that_its_rules_ask_for() -> anyhow::Result<()> {
    let began = Timestamp::now();
    let stage = lively("readers").await?;
    alarm(&stage, "alarm_1").await?;
    alarm(&stage, "alarm_2").await?;
    let alarm_1 = json!({"alarm_id": "alarm_1", "site_id": "site_123"});
    stage.chekt.emit("alarm.cleared", alarm_1).await?;
    let offline = json!({"device_id": "device_456", "site_id": "site_123", "status": "offline"});
    stage.chekt.emit("device.status_changed", offline).await?;
    for (reason, count) in [
        ("AlarmTriggered", 2),
        ("AlarmCleared", 1),
        ("DeviceStatusChanged", 1),
    ] {
        stage
            .users
            .events_with_reason("alarms", reason, count, SOON)
            .await?;
    }
    let core = events(&stage, CORE).await?;
    what_core_lacks(&core)?;
    exporter_routes(&core)?;
    exporter_layouts(&core)?;
    kubewatch_passes(&core, began)?;
    robusta_fires(&events(&stage, EVENTS).await?);
    Ok(())
}

/// The old fields are empty, so rules that stand on them never match; the new ones are there in the old view, too.
fn what_core_lacks(events: &[Value]) -> anyhow::Result<()> {
    let alarms = events
        .iter()
        .filter(|event| reason(event) == "AlarmTriggered");
    for event in alarms {
        for absent in ["firstTimestamp", "lastTimestamp", "count"] {
            assert!(event[absent].is_null(), "{absent}: {event:#}");
        }
        assert_eq!(event["source"], json!({}));
        let time: Timestamp = text(event, "/eventTime").parse()?;
        assert!(time > Timestamp::UNIX_EPOCH);
        assert_eq!(event["reportingComponent"], "chekt.com/receiver");
        assert_eq!(event["involvedObject"]["apiVersion"], "chekt.com/v1alpha1");
    }
    Ok(())
}

fn exporter() -> anyhow::Result<Exporter> {
    let example = std::fs::read_to_string(root().join("examples/alerting/event-exporter.yaml"))?;
    Ok(serde_yaml::from_str(&example)?)
}

fn exporter_routes(events: &[Value]) -> anyhow::Result<()> {
    let exporter = exporter()?;
    let object = BTreeMap::new();
    let mut sent: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in events {
        assert!(age(event, Timestamp::now())? < exporter.max_event_age_seconds);
        let mut to = Vec::new();
        exporter.route.send(event, &object, &mut to)?;
        for receiver in to {
            sent.entry(receiver).or_default().push(event.clone());
        }
    }
    let sent: BTreeMap<_, _> = sent
        .iter()
        .map(|(receiver, events)| (receiver.as_str(), reasons(events)))
        .collect();
    let wanted = BTreeMap::from([
        ("pagerduty-trigger", vec!["AlarmTriggered".to_owned(); 2]),
        ("pagerduty-follow-up", vec!["AlarmCleared".to_owned()]),
        ("slack", vec!["DeviceStatusChanged".to_owned()]),
    ]);
    assert_eq!(sent, wanted);
    // What people might write, and would get nothing by.
    let alarm = events
        .iter()
        .find(|event| reason(event) == "AlarmTriggered");
    let alarm = alarm.context("no alarm")?;
    let never = [
        Rule {
            min_count: 1,
            ..Rule::default()
        },
        Rule {
            component: "chekt".to_owned(),
            ..Rule::default()
        },
        Rule {
            labels: BTreeMap::from([("chekt.com/site-id".to_owned(), "site_123".to_owned())]),
            ..Rule::default()
        },
    ];
    for rule in never {
        assert!(!rule.takes(alarm, &object)?);
    }
    Ok(())
}

/// The exporter's messages hold what somebody who is called at night needs.
fn exporter_layouts(events: &[Value]) -> anyhow::Result<()> {
    let exporter = exporter()?;
    let receiver = |name: &str, kind: &str| {
        let found = exporter.receivers.iter().find(|r| r["name"] == name);
        found
            .map(|r| r[kind].clone())
            .with_context(|| format!("no receiver {name}"))
    };
    let find = |wanted: &str| {
        let found = events.iter().find(|event| {
            reason(event) == wanted && text(event, "/message").contains("alarm_1")
                || reason(event) == wanted && wanted == "DeviceStatusChanged"
        });
        found.with_context(|| format!("no Event {wanted}"))
    };
    let trigger = receiver("pagerduty-trigger", "webhook")?;
    let made = render(&trigger["layout"], find("AlarmTriggered")?)?;
    assert_eq!(made["event_action"], "trigger");
    assert_eq!(made["dedup_key"], "alarm_1");
    let summary = text(&made, "/payload.summary");
    assert!(
        summary.starts_with("Alarm triggered in zone \"Front Door\" at site site_123"),
        "{summary}"
    );
    // PagerDuty takes no longer one.
    assert!(summary.len() <= 1024);
    assert_eq!(made["payload.component"], "device_456");
    assert_eq!(made["payload.group"], "site_123");
    assert_eq!(made["payload.custom_details.severity"], "high");
    let time: Timestamp = text(&made, "/payload.timestamp").parse()?;
    assert!(time > Timestamp::UNIX_EPOCH);

    let follow_up = receiver("pagerduty-follow-up", "webhook")?;
    let made = render(&follow_up["layout"], find("AlarmCleared")?)?;
    assert_eq!(made["event_action"], "resolve");
    assert_eq!(made["dedup_key"], "alarm_1");

    let slack = receiver("slack", "slack")?;
    let made = render(&slack, find("DeviceStatusChanged")?)?;
    assert!(text(&made, "/message").contains("offline"), "{made}");
    let title = text(&made, "/title");
    assert!(
        title.starts_with("DeviceStatusChanged on ChektWebhook"),
        "{title}"
    );
    Ok(())
}

// ---- kubewatch

/// It tells of Events that were created after it started. With `ADVANCED_FILTERS` it tells of Warnings alone, and not of
/// changes of Events, nor of their end an hour later.
fn kubewatch_passes(events: &[Value], began: Timestamp) -> anyhow::Result<()> {
    let mut told = Vec::new();
    for event in events {
        let created: Timestamp = text(event, "/metadata/creationTimestamp").parse()?;
        if created.as_second() > began.as_second() && text(event, "/type") == "Warning" {
            told.push(event.clone());
        }
    }
    let wanted = ["AlarmTriggered", "AlarmTriggered", "DeviceStatusChanged"];
    assert_eq!(reasons(&told), wanted);
    Ok(())
}

// ---- Robusta

/// `on_kubernetes_warning_event_create`: Warnings that regard something, whose reason and note hold one of `include`, and
/// the same reason on the same object not again within `rate_limit` seconds.
fn fires(events: &[Value], include: &[&str], rate_limit: i64) -> Vec<Value> {
    let mut last: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut sorted: Vec<_> = events.iter().collect();
    sorted.sort_by_key(|event| text(event, "/eventTime").to_owned());
    let passes = sorted.into_iter().filter(|event| {
        let content = format!("{}{}", text(event, "/reason"), text(event, "/note")).to_lowercase();
        let named = include
            .iter()
            .any(|word| content.contains(&word.to_lowercase()));
        if text(event, "/type") != "Warning" || event["regarding"].is_null() || !named {
            return false;
        }
        let key = format!(
            "{}{}:{}",
            text(event, "/reason"),
            text(event, "/regarding/namespace"),
            text(event, "/regarding/name"),
        );
        let Ok(now) = text(event, "/eventTime").parse::<Timestamp>() else {
            return false;
        };
        let nanoseconds = i128::from(rate_limit) * 1_000_000_000;
        let due = last
            .get(&key)
            .is_none_or(|before| now.as_nanosecond() - before.as_nanosecond() > nanoseconds);
        if due {
            last.insert(key, now);
        }
        due
    });
    passes.cloned().collect()
}

fn robusta_fires(events: &[Value]) {
    let example = include_str!("../../examples/alerting/robusta-values.yaml");
    let example: Value = serde_yaml::from_str(example).unwrap();
    let trigger = example
        .pointer("/customPlaybooks/0/triggers/0/on_kubernetes_warning_event_create")
        .unwrap();
    let limit = trigger["rate_limit"].as_i64().unwrap();
    let include = trigger["include"].as_array().unwrap().iter();
    let include: Vec<_> = include.map(|word| word.as_str().unwrap()).collect();
    assert_eq!(
        reasons(&fires(events, &include, limit)),
        ["AlarmTriggered"; 2]
    );
    // By its default the second alarm within an hour is not told.
    assert_eq!(reasons(&fires(events, &include, 3600)), ["AlarmTriggered"]);
}

// ---- Why the old fields stay empty

#[tokio::test]
async fn the_api_server_lets_no_event_of_ours_carry_the_old_fields() -> anyhow::Result<()> {
    let cluster = Cluster::new("old-fields").await?;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "probe"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reason": "AlarmTriggered", "action": "Received",
        "type": "Warning", "note": "n", "reportingController": "chekt.com/receiver", "reportingInstance": "pod-1",
        "regarding": {
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "name": "alarms",
            "namespace": cluster.namespace,
        },
    });
    let dry_run = async |event: &Value| {
        let args = ["create", "--dry-run=server", "-f", "-"];
        cluster.kubectl_reading(&args, &event.to_string()).await
    };
    dry_run(&event).await?.ok()?;
    for (field, value) in [
        ("deprecatedFirstTimestamp", json!("2026-01-01T00:00:00Z")),
        ("deprecatedLastTimestamp", json!("2026-01-01T00:00:00Z")),
        ("deprecatedCount", json!(1)),
        ("deprecatedSource", json!({"component": "chekt"})),
    ] {
        let mut old = event.clone();
        old[field] = value;
        let refusal = dry_run(&old).await?.refused()?;
        assert!(refusal.contains("needs to be unset"), "{field}: {refusal}");
    }
    Ok(())
}
