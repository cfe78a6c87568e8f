//! What is acknowledged is published, whatever dies in between.

use std::time::Duration;

use crate::deliveries::{post, sign};
use crate::harness::{Stage, StageOptions};

const SOON: Duration = Duration::from_secs(30);

async fn ready(idea: &str) -> anyhow::Result<(Stage, String, String)> {
    let options = StageOptions {
        gate_cluster: true,
        ..StageOptions::default()
    };
    let stage = Stage::verified(idea, &["alarm.triggered"], options).await?;
    let url = stage.derived_url("alarms")?;
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    Ok((stage, url, secret))
}

#[tokio::test]
async fn a_receiver_killed_after_the_200_and_before_the_event_publishes_it_after_its_restart_once()
-> anyhow::Result<()> {
    let (mut stage, url, secret) = ready("killed-receiver").await?;
    let gate = stage
        .cluster_gate
        .as_mut()
        .expect("the stage was asked for one");
    gate.cut().await;
    let body = r#"{"event":"alarm.triggered","data":{"alarm_id":"before-the-kill"}}"#;
    assert_eq!(post(&url, body, &sign(&secret, body)).await?, 200);
    stage.receiver.kill9()?;
    let none = stage.users.events_of("alarms").await?;
    assert!(
        none.iter()
            .all(|e| e.reason.as_deref() != Some("AlarmTriggered")),
        "published before the kill"
    );
    stage
        .cluster_gate
        .as_mut()
        .expect("still there")
        .restore()
        .await?;
    stage.receiver.restart().await?;
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    // CHeKT may send it again: it is still one Event.
    stage.receiver.ready(SOON).await?;
    assert_eq!(post(&url, body, &sign(&secret, body)).await?, 200);
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_the_receiver_in_order_and_what_it_took_is_published() -> anyhow::Result<()> {
    let (mut stage, url, secret) = ready("sigterm").await?;
    for n in 0..20 {
        let body = format!(r#"{{"event":"alarm.triggered","data":{{"alarm_id":"term-{n}"}}}}"#);
        assert_eq!(post(&url, &body, &sign(&secret, &body)).await?, 200);
    }
    let status = stage.receiver.terminate(SOON).await?;
    assert_eq!(status.code(), Some(0));
    stage.receiver.restart().await?;
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 20, SOON)
        .await?;
    let status = stage.controller()?.terminate(SOON).await?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}
