//! What is written changes, or what is at CHeKT does: one call repairs it, and none is made that need not be.

use std::time::Duration;

use chekt_operator::resources::conditions::{READY, SUSPENDED, VERIFIED};
use serde_json::json;

use crate::harness::eventually::throughout;
use crate::harness::{Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);

async fn ready(idea: &str) -> anyhow::Result<Stage> {
    Stage::verified(
        idea,
        &["alarm.triggered", "alarm.cleared"],
        StageOptions::default(),
    )
    .await
}

#[tokio::test]
async fn other_events_are_one_patch_and_no_second_webhook() -> anyhow::Result<()> {
    let stage = ready("events").await?;
    let mark = stage.chekt.mark().await?;
    stage
        .apply_webhook("alarms", &["site.armed"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let remote = stage.chekt.all_webhooks().await?;
    assert_eq!(remote.len(), 1);
    assert_eq!(remote[0].events, ["site.armed"]);
    let ledger = stage.chekt.ledger(mark).await?;
    assert_eq!(ledger.writes().len(), 1, "{:?}", ledger.writes());
    assert_eq!(
        ledger.calls("patch")[0].body,
        json!({"events": ["site.armed"]})
    );
    Ok(())
}

#[tokio::test]
async fn the_same_events_in_another_order_are_no_call_at_all() -> anyhow::Result<()> {
    let stage = ready("order").await?;
    let mark = stage.chekt.mark().await?;
    stage
        .apply_webhook("alarms", &["alarm.cleared", "alarm.triggered"], json!({}))
        .await?;
    // Ready with the new generation observed: the pass over it is done.
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    assert_eq!(
        stage.chekt.ledger(mark).await?.writes(),
        Vec::<String>::new()
    );
    Ok(())
}

#[tokio::test]
async fn a_users_new_secret_is_noticed_sent_and_the_old_one_still_accepted() -> anyhow::Result<()> {
    let stage = Stage::new("rotate").await?;
    stage.apply_account("10s").await?;
    stage
        .users
        .put_secret("own", &[("signing", "the-first-secret")])
        .await?;
    let more = json!({"secretRef": {"name": "own", "key": "signing"}});
    stage
        .apply_webhook("alarms", &["alarm.triggered"], more)
        .await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    let url = stage.derived_url("alarms")?;
    assert_eq!(
        stage.chekt.webhook_at(&url, SOON).await?.secret,
        "the-first-secret"
    );

    let mark = stage.chekt.mark().await?;
    stage
        .users
        .put_secret("own", &[("signing", "the-second-secret")])
        .await?;
    eventually(
        "the second secret at CHeKT",
        Duration::from_secs(10),
        || async {
            let remote = stage.chekt.webhooks().await?;
            anyhow::ensure!(
                remote[0].secret == "the-second-secret",
                "the first is still there"
            );
            Ok(())
        },
    )
    .await?;
    let ledger = stage.chekt.ledger(mark).await?;
    assert_eq!(ledger.calls("patch").len(), 1);
    assert_eq!(
        ledger.calls("patch")[0].body,
        json!({"secret": "(redacted)"}),
        "the ledger holds no secret"
    );
    for secret in ["the-first-secret", "the-second-secret"] {
        let body = format!(r#"{{"event":"alarm.triggered","data":{{"alarm_id":"{secret}"}}}}"#);
        let status =
            crate::deliveries::post(&url, &body, &crate::deliveries::sign(secret, &body)).await?;
        assert_eq!(status, 200, "signed with {secret}");
    }
    // Verified again, and now by the new key.
    eventually(
        "the test delivery under the second secret",
        SOON,
        || async {
            let status = stage
                .users
                .webhooks()
                .get("alarms")
                .await?
                .status
                .unwrap_or_default();
            let verified = status
                .conditions
                .iter()
                .any(|c| c.type_ == VERIFIED && c.status == "True");
            let tests = stage.chekt.ledger(mark).await?.calls("test").len();
            anyhow::ensure!(verified && tests == 1, "verified {verified}, {tests} tests");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn a_hand_edit_at_chekt_is_repaired_at_the_next_list() -> anyhow::Result<()> {
    let stage = ready("drift").await?;
    let remote = stage.chekt.webhooks().await?;
    stage
        .chekt
        .patch_webhook(&remote[0].webhook_id, json!({"events": ["site.created"]}))
        .await?;
    eventually(
        "the events to be as written",
        Duration::from_secs(40),
        || async {
            let remote = stage.chekt.webhooks().await?;
            anyhow::ensure!(
                remote[0].events == ["alarm.cleared", "alarm.triggered"],
                "{remote:?}"
            );
            Ok(())
        },
    )
    .await?;
    assert_eq!(stage.chekt.all_webhooks().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_webhook_deleted_behind_our_back_is_created_again_once() -> anyhow::Result<()> {
    let stage = ready("vanish").await?;
    let before = stage.chekt.webhooks().await?.remove(0);
    let mark = stage.chekt.mark().await?;
    stage.chekt.delete_webhook(&before.webhook_id).await?;
    let after = eventually("another webhook", Duration::from_secs(60), || async {
        let mut remote = stage.chekt.webhooks().await?;
        anyhow::ensure!(remote.len() == 1, "{remote:?}");
        Ok(remote.remove(0))
    })
    .await?;
    assert_ne!(after.webhook_id, before.webhook_id);
    assert_eq!(after.secret, before.secret);
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let status = stage
        .users
        .webhooks()
        .get("alarms")
        .await?
        .status
        .unwrap_or_default();
    assert_eq!(status.webhook_id, Some(after.webhook_id));
    assert_eq!(stage.chekt.ledger(mark).await?.calls("create").len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_suspended_webhook_is_received_and_not_written() -> anyhow::Result<()> {
    let stage = ready("suspend").await?;
    stage
        .apply_webhook(
            "alarms",
            &["alarm.triggered", "alarm.cleared"],
            json!({"suspend": true}),
        )
        .await?;
    stage
        .users
        .webhook_condition("alarms", SUSPENDED, "True", SOON)
        .await?;
    let mark = stage.chekt.mark().await?;
    stage
        .apply_webhook(
            "alarms",
            &["alarm.triggered", "site.armed"],
            json!({"suspend": true}),
        )
        .await?;
    let id = stage.chekt.webhooks().await?.remove(0).webhook_id;
    stage
        .chekt
        .patch_webhook(
            &id,
            json!({"events": ["alarm.triggered", "device.removed"]}),
        )
        .await?;
    // Longer than an interval: a list has shown the difference, and nothing came of it.
    throughout(
        "no write while suspended",
        Duration::from_secs(12),
        || async {
            let writes = stage.chekt.ledger(mark).await?.writes();
            anyhow::ensure!(writes.is_empty(), "{writes:?}");
            Ok::<(), anyhow::Error>(())
        },
    )
    .await?;
    let sent = stage
        .chekt
        .emit("alarm.triggered", json!({"alarm_id": "a1"}))
        .await?;
    stage.chekt.delivered(&sent, SOON).await?;
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;

    stage
        .apply_webhook(
            "alarms",
            &["alarm.triggered", "site.armed"],
            json!({"suspend": false}),
        )
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    assert_eq!(
        stage.chekt.webhooks().await?[0].events,
        ["alarm.triggered", "site.armed"]
    );
    Ok(())
}

#[tokio::test]
async fn a_keyring_that_somebody_deletes_is_made_anew_and_given_to_chekt() -> anyhow::Result<()> {
    let stage = ready("keyring").await?;
    let before = stage.chekt.webhooks().await?.remove(0);
    stage
        .operator
        .kubectl(&["delete", "secret", "-l", "chekt.com/keyring"])
        .await?
        .ok()?;
    eventually("another secret at CHeKT", SOON, || async {
        let now = stage.chekt.webhooks().await?.remove(0);
        anyhow::ensure!(
            now.webhook_id == before.webhook_id && now.secret != before.secret,
            "the old secret"
        );
        Ok(())
    })
    .await?;
    let sent = stage
        .chekt
        .emit("alarm.triggered", json!({"alarm_id": "after"}))
        .await?;
    stage.chekt.delivered(&sent, SOON).await?;
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_annotation_that_asks_for_a_pass_is_acted_on_and_echoed() -> anyhow::Result<()> {
    let stage = ready("asked").await?;
    let mark = stage.chekt.mark().await?;
    let asked = "chekt.com/reconcile-requested-at=2026-11-24T10:00:00Z";
    stage
        .users
        .kubectl(&["annotate", "cwh/alarms", asked])
        .await?
        .ok()?;
    eventually("the annotation in status", SOON, || async {
        let status = stage
            .users
            .webhooks()
            .get("alarms")
            .await?
            .status
            .unwrap_or_default();
        let handled = status.last_handled_reconcile_at;
        anyhow::ensure!(
            handled.as_deref() == Some("2026-11-24T10:00:00Z"),
            "{handled:?}"
        );
        Ok(())
    })
    .await?;
    assert!(!stage.chekt.ledger(mark).await?.calls("list").is_empty());
    Ok(())
}

#[tokio::test]
async fn two_webhooks_with_one_url_the_older_keeps_it() -> anyhow::Result<()> {
    let stage = ready("claim").await?;
    stage
        .users
        .put_secret("own", &[("signing", "a-secret-of-their-own")])
        .await?;
    let more = json!({"url": stage.derived_url("alarms")?, "secretRef": {"name": "own", "key": "signing"}});
    stage
        .apply_webhook("younger", &["site.armed"], more)
        .await?;
    let stalled = stage
        .users
        .webhook_condition("younger", "Stalled", "True", SOON)
        .await?;
    assert_eq!(stalled.reason, "UrlClaimed");
    assert!(stalled.message.contains("alarms"), "{}", stalled.message);
    assert_eq!(stage.chekt.all_webhooks().await?.len(), 1);
    // Once the older one has gone, with its remote webhook, the younger has its turn.
    stage.users.kubectl(&["delete", "cwh/alarms"]).await?.ok()?;
    stage
        .users
        .webhook_condition("younger", READY, "True", Duration::from_secs(60))
        .await?;
    let remote = stage.chekt.webhooks().await?;
    assert_eq!(remote.len(), 1);
    assert_eq!(remote[0].secret, "a-secret-of-their-own");
    Ok(())
}
