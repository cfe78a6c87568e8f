//! Signed bodies that are not what they should be: what can be understood becomes an Event, and what is another alarm
//! becomes another Event.

use std::time::Duration;

use data_encoding::HEXLOWER;
use k8s_openapi::api::events::v1::Event;
use sha2::{Digest, Sha256};

use crate::deliveries::ready;
use crate::harness::eventually;
use crate::harness::load::sign_bytes;

const SOON: Duration = Duration::from_secs(60);

async fn post(url: &str, secret: &str, body: impl Into<Vec<u8>>) -> anyhow::Result<u16> {
    let body = body.into();
    let request = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/json")
        .header("x-webhook-signature", sign_bytes(secret, &body));
    Ok(request.body(body).send().await?.status().as_u16())
}

fn annotation<'e>(event: &'e Event, name: &str) -> Option<&'e str> {
    let annotations = event.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

/// An alarm with this id in which `zone` is written as it is.
fn alarm(id: &str, zone: &str) -> String {
    format!(
        r#"{{"event":"alarm.triggered","webhook_id":"w","timestamp":"2024-01-15T14:20:00Z","data":{{"alarm_id":"{id}","zone":"{zone}"}}}}"#
    )
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[tokio::test]
async fn a_damaged_body_is_an_event_with_its_reason_and_says_what_was_mended() -> anyhow::Result<()>
{
    let (stage, url, secret) = ready("damaged-bodies").await?;
    let latin = {
        let mut body = alarm("latin", "T?r").into_bytes();
        let place = body.iter().position(|byte| *byte == b'?').unwrap();
        body[place] = 0xfc;
        body
    };
    let bodies: [(&str, Vec<u8>, &str); 21] = [
        (
            "surrogate",
            alarm("surrogate", r"Front Door \ud83d").into(),
            "lone surrogate",
        ),
        (
            "mark",
            format!("\u{feff}{}", alarm("mark", "z")).into(),
            "byte order mark",
        ),
        ("latin", latin, "invalid UTF-8"),
        ("utf16", utf16(&alarm("utf16", "Tür 😀")), "UTF-16"),
        (
            "nul",
            alarm("nul", "Front\0Door\u{1b}[2J\n").into(),
            "control character",
        ),
        (
            "escape",
            alarm("escape", r"C:\Door").into(),
            "invalid escape",
        ),
        (
            "quote",
            alarm("quote", r#"Fro"t Door"#).into(),
            "stray quotation mark",
        ),
        (
            "backslash",
            alarm("backslash", r"Doo\").into(),
            "invalid escape",
        ),
        (
            "range",
            alarm("range", "z").replace("\"w\"", "1e400").into(),
            "number out of range",
        ),
        (
            "nan",
            alarm("nan", "z").replace("\"w\"", "NaN").into(),
            "missing quotation marks",
        ),
        (
            "comma",
            alarm("comma", "z").replace("}}", ",},}").into(),
            "comma",
        ),
        (
            "comment",
            alarm("comment", "z").replace("}}", "/* } */}}").into(),
            "comment",
        ),
        (
            "twice",
            alarm("twice", "z")
                .replace("\"webhook_id\"", "\"event\"")
                .replace("\"w\"", "\"alarm.triggered\"")
                .into(),
            "duplicate key",
        ),
        (
            "trailing",
            format!("{}\0 and more", alarm("trailing", "z")).into(),
            "trailing bytes",
        ),
        (
            "second",
            alarm("second", "z").repeat(2).into(),
            "trailing bytes",
        ),
        (
            "list",
            format!("[{}]", alarm("list", "z")).into(),
            "in a list or string",
        ),
        (
            "string",
            serde_json::to_string(&alarm("string", "z"))?.into(),
            "in a list or string",
        ),
        ("cut", alarm("cut", "z")[..100].into(), "end missing"),
        (
            "case",
            alarm("case", "z").replace("alarm.t", " ALARM.T").into(),
            "another case",
        ),
        (
            "deep",
            alarm("deep", "z")
                .replace(
                    "}}",
                    &format!(",\"x\":{}{}}}}}", "[".repeat(90_000), "]".repeat(90_000)),
                )
                .into(),
            "nested too deep",
        ),
        (
            "python",
            "{'event': 'alarm.triggered', 'data': {'alarm_id': 'python', 'x': None}}".into(),
            "stray quotation mark",
        ),
    ];
    for (id, body, _) in &bodies {
        assert_eq!(post(&url, &secret, body.clone()).await?, 200, "{id}");
    }
    let events = stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", bodies.len(), SOON)
        .await?;
    for (id, body, mended) in &bodies {
        let digest = HEXLOWER.encode(&Sha256::digest(body));
        let event = events
            .iter()
            .find(|event| annotation(event, "chekt.com/body-sha256") == Some(&digest))
            .ok_or_else(|| anyhow::anyhow!("no Event of {id}"))?;
        let said = annotation(event, "chekt.com/mended").unwrap_or_default();
        assert!(said.contains(mended), "{id}: {said}");
        let note = event.note.clone().unwrap_or_default();
        assert!(note.contains("Its body was mended: "), "{id}: {note}");
        assert_eq!(event.type_.as_deref(), Some("Warning"), "{id}");
        // What is told of a cut body is what was whole.
        assert_eq!(
            annotation(event, "chekt.com/alarm-id"),
            (*id != "cut").then_some(*id),
            "{id}"
        );
    }
    let surrogate = events
        .iter()
        .find(|event| annotation(event, "chekt.com/alarm-id") == Some("surrogate"));
    let note = surrogate
        .and_then(|event| event.note.clone())
        .unwrap_or_default();
    assert!(note.contains("Front Door \u{fffd}"), "{note}");
    Ok(())
}

#[tokio::test]
async fn another_format_is_a_dead_letter_and_no_event_of_its_own() -> anyhow::Result<()> {
    let (stage, url, secret) = ready("other-formats").await?;
    for body in [
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xabVJ-K\xcd+Q\xb2RJ\xccI,\xca\xd5+)".as_slice(),
        b"payload=%7B%22event%22%3A%22alarm.triggered%22%7D",
        b"<event>alarm.triggered</event>",
        br#"{"event":"alarm.trig"#,
    ] {
        assert_eq!(post(&url, &secret, body).await?, 200);
    }
    assert_eq!(post(&url, &secret, alarm("sound", "z")).await?, 200);
    let alarms = stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    assert_eq!(annotation(&alarms[0], "chekt.com/mended"), None);
    eventually("four dead letters", SOON, || async {
        let metrics = stage.receiver.metrics().await?;
        anyhow::ensure!(metrics.contains("chekt_receiver_journal_dead_letters 4"));
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_alarm_that_is_triggered_again_after_it_was_cleared_is_a_second_event()
-> anyhow::Result<()> {
    let (mut stage, url, secret) = ready("triggered-again").await?;
    let said = |event: &str, time: &str| {
        format!(
            r#"{{"event":"alarm.{event}","webhook_id":"w","timestamp":"2024-01-15T14:{time}Z","data":{{"alarm_id":"a-1","site_id":"s"}}}}"#
        )
    };
    for (event, time) in [
        ("triggered", "20:00"),
        ("triggered", "20:05"),
        ("cleared", "21:00"),
    ] {
        assert_eq!(post(&url, &secret, said(event, time)).await?, 200);
    }
    stage.receiver.kill9()?;
    stage.receiver.restart().await?;
    stage.receiver.ready(SOON).await?;
    let namespace = &stage.users.namespace;
    let url = format!(
        "http://{}/webhooks/{namespace}/alarms",
        stage.receiver.public()?
    );
    for (event, time) in [
        ("triggered", "22:00"),
        ("triggered", "22:30"),
        ("triggered", "20:00"),
    ] {
        assert_eq!(post(&url, &secret, said(event, time)).await?, 200);
    }
    // What comes last is published last: they are of one class.
    assert_eq!(
        post(&url, &secret, said("acknowledged", "23:00")).await?,
        200
    );
    for (reason, count) in [
        ("AlarmAcknowledged", 1),
        ("AlarmCleared", 1),
        ("AlarmTriggered", 2),
    ] {
        stage
            .users
            .events_with_reason("alarms", reason, count, SOON)
            .await?;
    }
    let metrics = stage.receiver.metrics().await?;
    assert!(
        metrics.contains("chekt_receiver_deliveries_total{outcome=\"duplicate\"} 2"),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test]
async fn different_ids_and_ids_that_name_nothing_are_different_alarms() -> anyhow::Result<()> {
    let (stage, url, secret) = ready("different-ids").await?;
    let ids = [
        ("alarm_id", "18446744073709551617"),
        ("alarm_id", "18446744073709551618"),
        ("event_id", "0"),
        ("event_id", "0"),
        ("alarm_id", "\"\""),
        ("alarm_id", "[]"),
        ("alarm_id", "[]"),
    ];
    for (second, (field, id)) in ids.iter().enumerate() {
        let body = format!(
            r#"{{"event":"alarm.triggered","webhook_id":"w","timestamp":"2024-01-15T14:20:0{second}Z","data":{{"{field}":{id}}}}}"#
        );
        assert_eq!(post(&url, &secret, body).await?, 200);
    }
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", ids.len(), SOON)
        .await?;
    // A timestamp that cannot be read says nothing of whether it is a retry.
    for timestamp in ["soon", "later"] {
        let body = alarm("untimely", "z").replace("2024-01-15T14:20:00Z", timestamp);
        assert_eq!(post(&url, &secret, body).await?, 200);
    }
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", ids.len() + 2, SOON)
        .await?;
    Ok(())
}
