//! An account goes after the webhooks that are with it, because only its credentials can delete them at CHeKT.

use std::time::Duration;

use chekt_operator::resources::ACCOUNT_FINALIZER;
use chekt_operator::resources::conditions::READY;
use kube::ResourceExt;
use serde_json::json;

use crate::harness::{Cluster, Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);

async fn apply_guest(guest: &Cluster, stage: &Stage) -> anyhow::Result<()> {
    let webhook = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": "guest"},
        "spec": {
            "events": ["alarm.triggered"], "testPolicy": "Never",
            "accountRef": {"name": "default", "namespace": stage.users.namespace},
        },
    });
    guest.apply(&webhook.to_string()).await?;
    Ok(())
}

async fn is_held(stage: &Stage) -> anyhow::Result<bool> {
    let account = stage.users.accounts().get("default").await?;
    let finalizers = account.finalizers();
    Ok(finalizers.iter().any(|f| f == ACCOUNT_FINALIZER))
}

/// Waits until the account says that it waits, in words that hold all of these.
async fn waits(stage: &Stage, words: &[&str]) -> anyhow::Result<()> {
    eventually("the account to say what it waits for", SOON, || async {
        let ready = stage
            .users
            .account_condition("default", READY, "False", SOON)
            .await?;
        anyhow::ensure!(ready.reason == "StillUsed", "{}", ready.reason);
        for word in words {
            anyhow::ensure!(ready.message.contains(word), "{word}: {}", ready.message);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_account_waits_for_its_webhooks_of_every_namespace_also_across_a_restart_and_says_so()
-> anyhow::Result<()> {
    let guest = Cluster::new("held-guest").await?;
    let watch = ["--watch-namespace".to_owned(), guest.namespace.clone()];
    let options = StageOptions {
        controller: watch.to_vec(),
        ..StageOptions::default()
    };
    let mut stage = Stage::with("held", options).await?;
    stage.apply_account("10s").await?;
    let allowed = r#"{"spec":{"allowedNamespaces":{"from":"All"}}}"#;
    let patch = ["patch", "cacc", "default", "--type=merge", "-p", allowed];
    stage.users.kubectl(&patch).await?.ok()?;
    stage
        .users
        .account_condition("default", READY, "True", SOON)
        .await?;
    assert!(!is_held(&stage).await?, "held although nobody uses it");

    stage
        .apply_webhook(
            "alarms",
            &["alarm.triggered"],
            json!({"testPolicy": "Never"}),
        )
        .await?;
    apply_guest(&guest, &stage).await?;
    for (cluster, name) in [(&stage.users, "alarms"), (&guest, "guest")] {
        cluster.webhook_condition(name, READY, "True", SOON).await?;
    }
    assert!(is_held(&stage).await?);

    let delete = ["delete", "cacc/default", "--wait=false"];
    stage.users.kubectl(&delete).await?.ok()?;
    let own = format!("{}/alarms", stage.users.namespace);
    let guests = format!("{}/guest", guest.namespace);
    waits(&stage, &[&own, &guests, "(2 in all)"]).await?;
    // Nobody begins to use it any more.
    stage
        .apply_webhook("late", &["site.armed"], json!({"testPolicy": "Never"}))
        .await?;
    let late = stage
        .users
        .webhook_condition("late", READY, "False", SOON)
        .await?;
    assert!(late.message.contains("being deleted"), "{}", late.message);
    stage.users.kubectl(&["delete", "cwh/late"]).await?.ok()?;

    stage.controller()?.kill9()?;
    let wait = ["delete", "cwh/alarms", "--wait=false"];
    stage.users.kubectl(&wait).await?.ok()?;
    stage.controller()?.restart().await?;
    stage.users.webhook_gone("alarms", 2 * SOON).await?;
    waits(&stage, &[&guests, "(1 in all)"]).await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 1);

    guest
        .kubectl(&["delete", "cwh/guest", "--timeout=30s"])
        .await?
        .ok()?;
    // At once, and not with the next list.
    eventually("the account to be gone", Duration::from_secs(5), || async {
        let account = stage.users.accounts().get_opt("default").await?;
        anyhow::ensure!(account.is_none(), "{account:?}");
        Ok(())
    })
    .await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn an_account_is_let_go_by_its_last_webhook_and_held_again_by_the_next() -> anyhow::Result<()>
{
    let stage = Stage::verified("again", &["alarm.triggered"], StageOptions::default()).await?;
    for round in 0..2 {
        assert!(is_held(&stage).await?, "round {round}");
        stage
            .users
            .kubectl(&["delete", "cwh/alarms", "--timeout=30s"])
            .await?
            .ok()?;
        eventually("the account to be let go", SOON, || async {
            anyhow::ensure!(!is_held(&stage).await?, "held");
            Ok(())
        })
        .await?;
        stage
            .apply_webhook(
                "alarms",
                &["alarm.triggered"],
                json!({"testPolicy": "Never"}),
            )
            .await?;
        stage
            .users
            .webhook_condition("alarms", READY, "True", SOON)
            .await?;
    }
    // Somebody takes it off by hand.
    let none = r#"{"metadata":{"finalizers":null}}"#;
    let patch = ["patch", "cacc", "default", "--type=merge", "-p", none];
    stage.users.kubectl(&patch).await?.ok()?;
    eventually("the account to be held again", SOON, || async {
        anyhow::ensure!(is_held(&stage).await?, "not held");
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_account_that_nobody_uses_goes_at_once_although_a_keyring_was_left_behind()
-> anyhow::Result<()> {
    let stage = Stage::verified(
        "left-keyring",
        &["alarm.triggered"],
        StageOptions::default(),
    )
    .await?;
    // Somebody takes our finalizer off a webhook in a hurry, and leaves everything else behind.
    let hasty = stage.users.clone();
    let finalizers = r#"{"metadata":{"finalizers":null}}"#;
    let mut stage = stage;
    stage.controller()?.kill9()?;
    hasty
        .kubectl(&["delete", "cwh/alarms", "--wait=false"])
        .await?
        .ok()?;
    let patch = ["patch", "cwh", "alarms", "--type=merge", "-p", finalizers];
    hasty.kubectl(&patch).await?.ok()?;
    hasty.webhook_gone("alarms", SOON).await?;
    stage.controller()?.restart().await?;
    hasty
        .kubectl(&["delete", "cacc/default", "--timeout=50s"])
        .await?
        .ok()?;
    Ok(())
}
