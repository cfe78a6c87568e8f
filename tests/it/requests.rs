//! What people ask for by annotation: a test delivery, and a new secret. Each value counts once.

use std::time::Duration;

use chekt_operator::resources::ChektWebhookStatus;
use chekt_operator::resources::conditions::VERIFIED;
use serde_json::json;

use crate::harness::sandbox_client::Fault;
use crate::harness::{Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);
const TEST: &str = "chekt.com/test-requested-at";
const ROTATE: &str = "chekt.com/rotate-requested-at";

async fn ask(stage: &Stage, annotation: &str, value: &str) -> anyhow::Result<()> {
    let asked = format!("{annotation}={value}");
    let args = ["annotate", "--overwrite", "cwh/alarms", &asked];
    stage.users.kubectl(&args).await?.ok()?;
    Ok(())
}

async fn status(stage: &Stage) -> anyhow::Result<ChektWebhookStatus> {
    let webhook = stage.users.webhooks().get("alarms").await?;
    Ok(webhook.status.unwrap_or_default())
}

async fn test_was_handled(stage: &Stage, value: &str) -> anyhow::Result<()> {
    eventually("the request in status", SOON, || async {
        let handled = status(stage).await?.last_handled_test_at;
        anyhow::ensure!(handled.as_deref() == Some(value), "{handled:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_test_delivery_is_asked_for_once_for_each_value_also_across_a_kill() -> anyhow::Result<()>
{
    let mut stage =
        Stage::verified("ask-test", &["alarm.triggered"], StageOptions::default()).await?;
    let mark = stage.chekt.mark().await?;
    ask(&stage, TEST, "first").await?;
    test_was_handled(&stage, "first").await?;
    stage.controller()?.kill9()?;
    stage.controller()?.restart().await?;
    ask(&stage, TEST, "second").await?;
    test_was_handled(&stage, "second").await?;
    assert_eq!(stage.chekt.ledger(mark).await?.calls("test").len(), 2);

    // An answer that is lost may have been a yes, so the request is not sent again.
    stage
        .chekt
        .set_faults(&[Fault::drop("test", "after", 1)])
        .await?;
    ask(&stage, TEST, "third").await?;
    test_was_handled(&stage, "third").await?;
    // One that was put off is, as soon as it may be.
    stage
        .chekt
        .set_faults(&[Fault::status("test", "before", 429, 1)])
        .await?;
    ask(&stage, TEST, "fourth").await?;
    test_was_handled(&stage, "fourth").await?;
    let ledger = stage.chekt.ledger(mark).await?;
    assert_eq!(ledger.calls("test").len(), 5, "the 429 and its repetition");
    Ok(())
}

#[tokio::test]
async fn a_new_secret_is_made_for_each_value_and_proved_by_a_test_delivery() -> anyhow::Result<()> {
    let stage = Stage::verified("ask-key", &["alarm.triggered"], StageOptions::default()).await?;
    let before = stage.chekt.webhooks().await?[0].secret.clone();
    ask(&stage, ROTATE, "now").await?;
    eventually("the request in status", SOON, || async {
        let handled = status(&stage).await?.last_handled_rotate_at;
        anyhow::ensure!(handled.as_deref() == Some("now"), "{handled:?}");
        Ok(())
    })
    .await?;
    let after = stage.chekt.webhooks().await?;
    assert_eq!(after.len(), 1);
    assert_ne!(after[0].secret, before);
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    // What was signed with the old secret is still accepted.
    stage
        .chekt
        .patch_webhook(&after[0].webhook_id, json!({"secret": before}))
        .await?;
    let sent = stage
        .chekt
        .emit("alarm.triggered", json!({"alarm_id": "a-1"}))
        .await?;
    stage.chekt.delivered(&sent, SOON).await?;
    Ok(())
}
