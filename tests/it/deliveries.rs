//! From a signed delivery to one Event, and what becomes of deliveries that are not what they should be.

use std::time::Duration;

use chekt_operator::resources::conditions::VERIFIED;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

pub(crate) use crate::harness::load::{alarm, sign};
use crate::harness::{Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);

/// The nine events of the guide's catalogue, with the reason and the type of the Event that each becomes.
const CATALOGUE: [(&str, &str, &str); 9] = [
    ("alarm.triggered", "AlarmTriggered", "Warning"),
    ("alarm.cleared", "AlarmCleared", "Normal"),
    ("alarm.acknowledged", "AlarmAcknowledged", "Normal"),
    ("device.status_changed", "DeviceStatusChanged", "Normal"),
    ("device.registered", "DeviceRegistered", "Normal"),
    ("device.removed", "DeviceRemoved", "Normal"),
    ("site.armed", "SiteArmed", "Normal"),
    ("site.disarmed", "SiteDisarmed", "Normal"),
    ("site.created", "SiteCreated", "Normal"),
];

/// Posts a body with one signature header; the status of the answer.
pub(crate) async fn post(url: &str, body: &str, signature: &str) -> anyhow::Result<u16> {
    post_with(url, body, &[signature]).await
}

async fn post_with(url: &str, body: &str, signatures: &[&str]) -> anyhow::Result<u16> {
    let mut request = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/json");
    for signature in signatures {
        request = request.header("x-webhook-signature", *signature);
    }
    Ok(request
        .body(body.to_owned())
        .send()
        .await?
        .status()
        .as_u16())
}

/// A stage with the webhook `alarms`, subscribed to everything; its url and its secret.
pub(crate) async fn ready(idea: &str) -> anyhow::Result<(Stage, String, String)> {
    let events: Vec<&str> = CATALOGUE.iter().map(|(event, ..)| *event).collect();
    let stage = Stage::verified(idea, &events, StageOptions::default()).await?;
    let url = stage.derived_url("alarms")?;
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    Ok((stage, url, secret))
}

fn label<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    event
        .metadata
        .labels
        .as_ref()?
        .get(name)
        .map(String::as_str)
}

#[tokio::test]
async fn every_event_of_the_catalogue_is_one_event_with_its_type_reason_note_and_labels()
-> anyhow::Result<()> {
    let (stage, ..) = ready("catalogue").await?;
    for (event, ..) in CATALOGUE {
        let data = json!({"alarm_id": "alarm_xyz789", "site_id": "site_123", "device_id": "device_456", "severity": "high", "zone": "Front Door"});
        let sent = stage.chekt.emit(event, data).await?;
        assert_eq!(sent.len(), 1, "{event}");
        stage.chekt.delivered(&sent, SOON).await?;
    }
    for (event, reason, kind) in CATALOGUE {
        let found = stage
            .users
            .events_with_reason("alarms", reason, 1, SOON)
            .await?;
        let found = &found[0];
        assert_eq!(found.type_.as_deref(), Some(kind), "{event}");
        assert_eq!(found.action.as_deref(), Some("Received"));
        assert_eq!(label(found, "chekt.com/event"), Some(event));
        assert_eq!(label(found, "chekt.com/site-id"), Some("site_123"));
        assert_eq!(label(found, "chekt.com/alarm-id"), Some("alarm_xyz789"));
        assert_eq!(label(found, "chekt.com/severity"), Some("high"));
        let note = found.note.clone().unwrap_or_default();
        assert!(
            note.contains("Front Door") && note.contains("site_123"),
            "{note}"
        );
        assert!(found.series.is_none() && found.event_time.is_some());
        let uid = stage.users.webhooks().get("alarms").await?.metadata.uid;
        assert_eq!(found.regarding.as_ref().and_then(|r| r.uid.clone()), uid);
    }
    // The test delivery that proved the webhook is an Event, too.
    let test = stage
        .users
        .events_with_reason("alarms", "WebhookTest", 1, SOON)
        .await?;
    assert_eq!(test[0].type_.as_deref(), Some("Normal"));
    Ok(())
}

#[tokio::test]
async fn a_device_that_goes_offline_is_a_warning() -> anyhow::Result<()> {
    let (stage, ..) = ready("offline").await?;
    let sent = stage
        .chekt
        .emit(
            "device.status_changed",
            json!({"device_id": "d1", "status": "offline"}),
        )
        .await?;
    stage.chekt.delivered(&sent, SOON).await?;
    let found = stage
        .users
        .events_with_reason("alarms", "DeviceStatusChanged", 1, SOON)
        .await?;
    assert_eq!(found[0].type_.as_deref(), Some("Warning"));
    Ok(())
}

#[tokio::test]
async fn the_same_delivery_four_times_is_one_event_and_ten_alarms_are_ten() -> anyhow::Result<()> {
    let (stage, url, secret) = ready("copies").await?;
    let body = r#"{"event":"alarm.triggered","webhook_id":"x","timestamp":"2024-01-15T14:20:00Z","data":{"alarm_id":"same"}}"#;
    for _ in 0..4 {
        assert_eq!(post(&url, body, &sign(&secret, body)).await?, 200);
    }
    let ten = (0..10).map(|n| {
        let body = format!(r#"{{"event":"alarm.cleared","timestamp":"2024-01-15T14:20:00Z","data":{{"alarm_id":"a{n}"}}}}"#);
        let (url, signature) = (url.clone(), sign(&secret, &body));
        async move { post(&url, &body, &signature).await }
    });
    for status in futures::future::join_all(ten).await {
        assert_eq!(status?, 200);
    }
    stage
        .users
        .events_with_reason("alarms", "AlarmCleared", 10, SOON)
        .await?;
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_long_note_is_cut_within_1024_bytes_on_a_character_boundary() -> anyhow::Result<()> {
    let (stage, url, secret) = ready("note").await?;
    let zone = "Tür🚨ß".repeat(1_000);
    let body =
        json!({"event": "alarm.triggered", "data": {"alarm_id": "long", "zone": zone}}).to_string();
    assert_eq!(post(&url, &body, &sign(&secret, &body)).await?, 200);
    let found = stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    let note = found[0].note.clone().unwrap_or_default();
    assert!(note.len() <= 1_024, "{} bytes", note.len());
    assert!(
        note.len() > 900,
        "cut more than needed: {} bytes",
        note.len()
    );
    assert!(!note.contains('\u{FFFD}'), "{note}");
    Ok(())
}

#[tokio::test]
async fn a_signature_is_over_the_raw_bytes_in_whatever_spelling() -> anyhow::Result<()> {
    let (stage, url, secret) = ready("raw").await?;
    let bodies = [
        "{ \"data\" : {\"alarm_id\":\"spaces\"},\n \"event\" : \"alarm.triggered\" }",
        r#"{"data":{"alarm_id":"\u00e4scaped"},"event":"alarm.triggered"}"#,
    ];
    for body in bodies {
        assert_eq!(post(&url, body, &sign(&secret, body)).await?, 200);
        let reordered: Value = serde_json::from_str(body)?;
        let other = reordered.to_string();
        assert_eq!(
            post(&url, &other, &sign(&secret, body)).await?,
            401,
            "a signature of other bytes"
        );
    }
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 2, SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn signature_headers_of_every_kind_are_met_as_designed() -> anyhow::Result<()> {
    let (_stage, url, secret) = ready("headers").await?;
    let body = |n: u32| format!(r#"{{"event":"alarm.triggered","data":{{"alarm_id":"h{n}"}}}}"#);
    let (one, right) = (body(1), sign(&secret, &body(1)));
    let hex = right.trim_start_matches("sha256=").to_owned();
    let upper = format!("sha256={}", hex.to_uppercase());
    let wrong = sign("another", &one);
    let cases: [(&[&str], u16, &str); 11] = [
        (&[], 401, "missing"),
        (&[""], 401, "empty"),
        (&[&wrong], 401, "wrong"),
        (&[&right[..20]], 401, "short"),
        (&["sha256="], 401, "without a digest"),
        (&["sha256=zz"], 401, "no hexadecimal"),
        (
            &["sha1=da39a3ee5e6b4b0d3255bfef95601890afd80709"],
            401,
            "another algorithm",
        ),
        (&[&right], 200, "right"),
        (&[&hex], 200, "without prefix"),
        (&[&upper], 200, "in upper case"),
        (&[&wrong, &right], 200, "twice, one of them right"),
    ];
    for (headers, expected, what) in cases {
        assert_eq!(
            post_with(&url, &one, headers).await?,
            expected,
            "a header that is {what}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_path_is_refused_like_a_wrong_signature() -> anyhow::Result<()> {
    let (stage, url, secret) = ready("path").await?;
    let body = r#"{"event":"alarm.triggered","data":{"alarm_id":"p"}}"#;
    let client = reqwest::Client::new();
    let mut answers = Vec::new();
    let paths = [
        url.clone(),
        format!("{url}x"),
        format!("{}/", stage.public_url()?),
        format!("{}/webhooks/a", stage.public_url()?),
    ];
    for path in paths {
        let signature = if path == url {
            sign("wrong", body)
        } else {
            sign(&secret, body)
        };
        let answer = client
            .post(path)
            .header("x-webhook-signature", signature)
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        answers.push((status, answer.text().await?));
    }
    assert_eq!(answers[0].0, 401);
    assert!(answers.windows(2).all(|w| w[0] == w[1]), "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn a_body_of_300_kib_is_refused_before_it_is_read() -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (stage, ..) = ready("large").await?;
    let address = stage.receiver.public()?;
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let path = format!("/webhooks/{}/alarms", stage.users.namespace);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nx-webhook-signature: sha256=00\r\ncontent-length: 307200\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    // Not a byte of the body was sent, and the answer comes all the same.
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(3), stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"HTTP/1.1 413");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_understood_is_acknowledged_and_visible() -> anyhow::Result<()> {
    let (stage, url, secret) = ready("odd").await?;
    let unknown = r#"{"event":"fridge.opened","data":{"site_id":"s1"}}"#;
    let broken = r#"{"event":"alarm.trig"#;
    let foreign = r#"{"event":"alarm.triggered","webhook_id":"webhook_of_somebody_else","data":{"alarm_id":"f1"}}"#;
    for body in [unknown, broken, foreign] {
        assert_eq!(post(&url, body, &sign(&secret, body)).await?, 200, "{body}");
    }
    stage
        .users
        .events_with_reason("alarms", "UnknownEvent", 1, SOON)
        .await?;
    stage
        .users
        .events_with_reason("alarms", "DeliveryUnreadable", 1, SOON)
        .await?;
    let alarm = stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    let shown = serde_json::to_string(&alarm[0])?;
    assert!(shown.contains("webhook_of_somebody_else"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn status_says_what_was_received_and_what_was_refused() -> anyhow::Result<()> {
    let (stage, url, secret) = ready("status").await?;
    let body = r#"{"event":"alarm.triggered","data":{"alarm_id":"s"}}"#;
    assert_eq!(post(&url, body, &sign("wrong", body)).await?, 401);
    assert_eq!(post(&url, body, &sign(&secret, body)).await?, 200);
    eventually("both in status", Duration::from_secs(60), || async {
        let status = stage
            .users
            .webhooks()
            .get("alarms")
            .await?
            .status
            .unwrap_or_default();
        let seen = status.deliveries.unwrap_or_default();
        let complete = seen.last_event.as_deref() == Some("alarm.triggered")
            && seen.last_rejected_at.is_some()
            && seen.last_rejected_reason.is_some()
            && seen.last_test_key == seen.last_verified_key;
        anyhow::ensure!(complete, "{seen:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn users_labels_are_on_the_events_of_their_webhook() -> anyhow::Result<()> {
    let stage = Stage::new("labels").await?;
    stage.apply_account("10s").await?;
    let webhook = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
        "metadata": {"name": "alarms", "labels": {"team": "night-watch"}},
        "spec": {"events": ["alarm.triggered"]},
    });
    stage.users.apply(&webhook.to_string()).await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    let test = stage
        .users
        .events_with_reason("alarms", "WebhookTest", 1, SOON)
        .await?;
    assert_eq!(label(&test[0], "team"), Some("night-watch"));
    Ok(())
}
