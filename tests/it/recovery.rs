//! A webhook that CHeKT has switched off comes back, and the time in between is on record.

use std::time::Duration;

use chekt_operator::resources::conditions::{ACTIVE, READY};
use chekt_operator::resources::webhook::Outage;
use serde_json::json;

use crate::harness::{Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(40);

async fn ready(idea: &str) -> anyhow::Result<Stage> {
    Stage::verified(idea, &["alarm.triggered"], StageOptions::default()).await
}

/// Waits until the last outage has an end.
async fn outage_over(stage: &Stage) -> anyhow::Result<Outage> {
    eventually("the outage to be over", SOON, || async {
        let status = stage
            .users
            .webhooks()
            .get("alarms")
            .await?
            .status
            .unwrap_or_default();
        match status.last_outage {
            Some(outage) if outage.to.is_some() => Ok(outage),
            other => Err(anyhow::anyhow!("{other:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn three_failed_deliveries_switch_it_off_and_the_operator_switches_it_on_again()
-> anyhow::Result<()> {
    let mut stage = ready("off").await?;
    let before = stage.chekt.webhooks().await?.remove(0);
    stage.receiver.kill9()?;
    let lost = stage
        .chekt
        .emit("alarm.triggered", json!({"alarm_id": "nobody-listens"}))
        .await?;
    assert_eq!(lost.len(), 1);
    eventually("CHeKT to switch it off", SOON, || async {
        let status = stage.chekt.webhooks().await?.remove(0).status;
        anyhow::ensure!(status == "disabled", "{status}");
        Ok(())
    })
    .await?;
    stage.receiver.restart().await?;
    outage_over(&stage).await?;
    let after = stage.chekt.webhooks().await?;
    assert_eq!(after.len(), 1);
    assert_eq!(
        (after[0].webhook_id.as_str(), after[0].status.as_str()),
        (before.webhook_id.as_str(), "active")
    );
    stage
        .users
        .events_with_reason("alarms", "Reactivated", 1, SOON)
        .await?;
    // Proved by a test delivery of its own, and alarms arrive.
    stage
        .users
        .events_with_reason("alarms", "WebhookTest", 2, SOON)
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let sent = stage
        .chekt
        .emit("alarm.triggered", json!({"alarm_id": "somebody-listens"}))
        .await?;
    stage.chekt.delivered(&sent, SOON).await?;
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn one_that_cannot_be_switched_on_is_made_anew_after_the_cooldown() -> anyhow::Result<()> {
    let stage = ready("anew").await?;
    stage
        .apply_webhook(
            "alarms",
            &["alarm.triggered"],
            json!({"recovery": {"cooldown": "10s"}}),
        )
        .await?;
    stage
        .chekt
        .set_quirks(json!({"reenable": "only_recreate"}))
        .await?;
    let before = stage.chekt.webhooks().await?.remove(0);
    stage
        .chekt
        .patch_webhook(&before.webhook_id, json!({"status": "disabled"}))
        .await?;
    let after = eventually(
        "an active webhook with another id",
        Duration::from_secs(90),
        || async {
            let mut all = stage.chekt.webhooks().await?;
            anyhow::ensure!(all.len() == 1 && all[0].status == "active", "{all:?}");
            Ok(all.remove(0))
        },
    )
    .await?;
    assert_ne!(after.webhook_id, before.webhook_id);
    outage_over(&stage).await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    assert_eq!(
        stage.chekt.all_webhooks().await?.len(),
        2,
        "one deleted, one live"
    );
    Ok(())
}

#[tokio::test]
async fn with_the_policy_never_it_is_shown_and_left_alone() -> anyhow::Result<()> {
    let stage = ready("never").await?;
    stage
        .apply_webhook(
            "alarms",
            &["alarm.triggered"],
            json!({"recovery": {"policy": "Never"}}),
        )
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let mark = stage.chekt.mark().await?;
    let id = stage.chekt.webhooks().await?.remove(0).webhook_id;
    stage
        .chekt
        .patch_webhook(&id, json!({"status": "disabled"}))
        .await?;
    let active = stage
        .users
        .webhook_condition("alarms", ACTIVE, "False", SOON)
        .await?;
    assert_eq!(active.reason, "SwitchedOff");
    assert!(active.message.contains("disabled"), "{}", active.message);
    stage
        .users
        .webhook_condition("alarms", READY, "False", SOON)
        .await?;
    assert_eq!(
        stage.chekt.ledger(mark).await?.writes(),
        Vec::<String>::new()
    );
    Ok(())
}
