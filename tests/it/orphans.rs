//! Letting go: only of what nobody here can ever delete, on record before the object goes, and never because of an
//! outage.

use std::time::Duration;

use chekt_operator::resources::account::{Orphan, OrphanReason};
use chekt_operator::resources::conditions::READY;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::harness::eventually::throughout;
use crate::harness::{Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);
/// Two lists, which are at least ten seconds apart.
const TWO_LISTS: Duration = Duration::from_secs(60);

async fn stage(idea: &str, orphan_after: &str) -> anyhow::Result<Stage> {
    let options = StageOptions {
        controller: vec!["--orphan-after".to_owned(), orphan_after.to_owned()],
        gate_partner: true,
        ..StageOptions::default()
    };
    Stage::verified(idea, &["alarm.triggered"], options).await
}

/// The remote webhook's id.
async fn id(stage: &Stage) -> anyhow::Result<String> {
    let all = stage.chekt.webhooks().await?;
    anyhow::ensure!(all.len() == 1, "{all:?}");
    Ok(all[0].webhook_id.clone())
}

async fn ask_for_deletion(stage: &Stage) -> anyhow::Result<()> {
    let all = DeleteParams::default();
    stage.users.webhooks().delete("alarms", &all).await?;
    Ok(())
}

async fn orphans(stage: &Stage) -> anyhow::Result<Vec<Orphan>> {
    let account = stage.users.accounts().get("default").await?;
    Ok(account.status.unwrap_or_default().orphans)
}

/// Events `Orphaned` that regard an object of this kind, once there is one: they are published beside the work, so the
/// webhook may be gone before.
async fn told(stage: &Stage, kind: &str) -> anyhow::Result<Vec<Event>> {
    let api: kube::Api<Event> =
        kube::Api::namespaced(stage.users.client.clone(), &stage.users.namespace);
    eventually("an Event that tells of it", SOON, || async {
        let mut events = api.list(&ListParams::default()).await?.items;
        events.retain(|e| {
            e.reason.as_deref() == Some("Orphaned")
                && e.regarding.as_ref().and_then(|r| r.kind.as_deref()) == Some(kind)
        });
        anyhow::ensure!(!events.is_empty(), "none on a {kind}");
        Ok(events)
    })
    .await
}

/// A controller that has never seen the credentials.
async fn without_memory(stage: &mut Stage) -> anyhow::Result<()> {
    stage.controller()?.kill9()?;
    let secret = ["delete", "secret", "chekt-token"];
    stage.users.kubectl(&secret).await?.ok()?;
    stage.controller()?.restart().await?;
    // It is ready while it stands by; only the one that leads says this.
    let users = stage.users.clone();
    users
        .account_condition("default", READY, "False", SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_webhook_whose_credentials_are_gone_is_put_on_record_and_released_and_taken_off_when_it_is_managed_again()
-> anyhow::Result<()> {
    let mut stage = stage("lost", "8s").await?;
    let id = id(&stage).await?;
    without_memory(&mut stage).await?;
    ask_for_deletion(&stage).await?;
    let api = stage.users.webhooks();
    eventually("the object to say when it is let go of", SOON, || async {
        let webhook = api.get("alarms").await?;
        let deleted = webhook.metadata.deletion_timestamp.map(|t| t.0);
        let all = webhook.status.unwrap_or_default().conditions;
        let ready = all.iter().find(|c| c.type_ == READY);
        let message = ready.map(|c| c.message.clone()).unwrap_or_default();
        let at = deleted.and_then(|t| t.checked_add(Duration::from_secs(8)).ok());
        let at = at.map(|t| t.to_string()).unwrap_or_default();
        anyhow::ensure!(message.contains(&format!("let go of at {at}")), "{message}");
        Ok(())
    })
    .await?;
    assert_eq!(orphans(&stage).await?, []);
    stage.users.webhook_gone("alarms", SOON).await?;

    let record = orphans(&stage).await?;
    assert_eq!(record.len(), 1, "{record:?}");
    assert_eq!(record[0].id, id);
    assert_eq!(record[0].url, stage.derived_url("alarms")?);
    assert_eq!(record[0].reason, OrphanReason::SecretNotFound);
    assert_eq!(stage.chekt.webhooks().await?.len(), 1);
    for kind in ["ChektWebhook", "ChektAccount"] {
        let told = told(&stage, kind).await?;
        assert_eq!(told.len(), 1, "{kind}: {told:?}");
        assert_eq!(told[0].type_.as_deref(), Some("Warning"));
        let note = told[0].note.clone().unwrap_or_default();
        assert!(note.contains(&id), "{note}");
    }
    let secrets = ["get", "secret", "-l", "chekt.com/keyring", "-o", "name"];
    let keyrings = stage.operator.kubectl(&secrets).await?.ok()?;
    assert_eq!(keyrings.trim(), "");

    // Whatever the account's own reports say, the record stays until somebody manages the webhook again.
    stage.apply_account("10s").await?;
    stage
        .users
        .account_condition("default", READY, "True", SOON)
        .await?;
    assert_eq!(orphans(&stage).await?.len(), 1);
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    eventually("the orphan to be off the record", TWO_LISTS, || async {
        let left = orphans(&stage).await?;
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_webhook_with_refused_credentials_and_one_left_by_its_policy_are_on_record_until_chekt_has_them_no_more()
-> anyhow::Result<()> {
    let stage = stage("refused", "4s").await?;
    let refused = id(&stage).await?;
    let policy = json!({"deletionPolicy": "Orphan", "testPolicy": "Never"});
    stage.apply_webhook("left", &["site.armed"], policy).await?;
    stage
        .users
        .webhook_condition("left", READY, "True", SOON)
        .await?;
    stage
        .users
        .put_secret("chekt-token", &[("token", "not-a-token-of-chekt")])
        .await?;
    stage
        .users
        .account_condition("default", READY, "False", SOON)
        .await?;
    ask_for_deletion(&stage).await?;
    let all = DeleteParams::default();
    stage.users.webhooks().delete("left", &all).await?;
    stage.users.webhook_gone("left", SOON).await?;
    stage.users.webhook_gone("alarms", SOON).await?;
    let record = orphans(&stage).await?;
    let reasons: Vec<_> = record.iter().map(|o| o.reason).collect();
    assert_eq!(record.len(), 2, "{record:?}");
    assert!(
        reasons.contains(&OrphanReason::DeletionPolicy),
        "{record:?}"
    );
    let of_refused = record.iter().find(|o| o.id == refused);
    assert_eq!(
        of_refused.map(|o| o.reason),
        Some(OrphanReason::CredentialsRejected)
    );

    stage.apply_account("10s").await?;
    stage.chekt.delete_webhook(&refused).await?;
    eventually("one of them to be off the record", TWO_LISTS, || async {
        let left = orphans(&stage).await?;
        anyhow::ensure!(left.len() == 1 && left[0].id != refused, "{left:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_webhook_without_an_account_is_released_and_an_event_says_what_is_left()
-> anyhow::Result<()> {
    let mut stage = stage("accountless", "3s").await?;
    let id = id(&stage).await?;
    stage.controller()?.kill9()?;
    let account = [
        "delete",
        "cacc/default",
        "secret/chekt-token",
        "--wait=false",
    ];
    stage.users.kubectl(&account).await?.ok()?;
    // Somebody did not want to wait for the webhook.
    let finalizers = r#"{"metadata":{"finalizers":null}}"#;
    let patch = ["patch", "cacc", "default", "--type=merge", "-p", finalizers];
    stage.users.kubectl(&patch).await?.ok()?;
    stage.controller()?.restart().await?;
    ask_for_deletion(&stage).await?;
    stage.users.webhook_gone("alarms", SOON).await?;
    let told = told(&stage, "ChektWebhook").await?;
    assert_eq!(told.len(), 1, "{told:?}");
    let note = told[0].note.clone().unwrap_or_default();
    assert!(note.contains(&id) && note.contains("Delete it"), "{note}");
    assert_eq!(stage.chekt.webhooks().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_outage_releases_nothing_however_long_it_lasts() -> anyhow::Result<()> {
    let mut stage = stage("never", "1s").await?;
    if let Some(gate) = &mut stage.partner_gate {
        gate.cut().await;
    }
    ask_for_deletion(&stage).await?;
    // Nor for a process that has never heard of CHeKT.
    stage.controller()?.kill9()?;
    stage.controller()?.restart().await?;
    stage.controller()?.ready(SOON).await?;
    stage
        .users
        .account_condition("default", READY, "False", SOON)
        .await?;
    throughout("the object to stay", Duration::from_secs(8), || async {
        let there = stage.users.webhooks().get_opt("alarms").await?;
        anyhow::ensure!(there.is_some(), "it was released");
        anyhow::Ok(())
    })
    .await?;
    assert_eq!(orphans(&stage).await?, []);
    if let Some(gate) = &mut stage.partner_gate {
        gate.restore().await?;
    }
    let long = Duration::from_secs(90);
    stage.users.webhook_gone("alarms", long).await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 0);
    assert_eq!(orphans(&stage).await?, []);
    Ok(())
}
