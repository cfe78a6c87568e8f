//! What webhooks of one account share: its budget, its silence, and its coming back.

use std::time::Duration;

use chekt_operator::resources::conditions::{READY, STALLED};
use serde_json::{Value, json};

use crate::harness::sandbox_client::Fault;
use crate::harness::{Cluster, Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);

fn webhooks(count: usize, event: &str, account: &Value) -> String {
    let webhook = |n| {
        let mut webhook = json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": format!("w{n}")},
            "spec": {"events": [event], "testPolicy": "Never"},
        });
        if !account.is_null() {
            webhook["spec"]["accountRef"] = account.clone();
        }
        webhook.to_string()
    };
    let all: Vec<String> = (0..count).map(webhook).collect();
    all.join("\n---\n")
}

async fn patch_account(stage: &Stage, spec: Value) -> anyhow::Result<()> {
    let patch = json!({"spec": spec}).to_string();
    let args = ["patch", "cacc", "default", "--type=merge", "-p", &patch];
    stage.users.kubectl(&args).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn many_new_webhooks_of_one_namespace_do_not_keep_anothers_waiting() -> anyhow::Result<()> {
    let small = Cluster::new("small").await?;
    let watch = ["--watch-namespace".to_owned(), small.namespace.clone()];
    let options = StageOptions {
        controller: watch.to_vec(),
        ..StageOptions::default()
    };
    let stage = Stage::with("big", options).await?;
    stage.apply_account("10s").await?;
    // Two requests a second: the big namespace alone keeps the account busy for half a minute.
    let spec = json!({
        "allowedNamespaces": {"from": "All"}, "rateLimit": {"requestsPerMinute": 120, "burst": 1},
    });
    patch_account(&stage, spec).await?;
    stage
        .users
        .apply(&webhooks(60, "alarm.triggered", &Value::Null))
        .await?;
    eventually("the first to be made", SOON, || async {
        let made = stage.chekt.webhooks().await?.len();
        anyhow::ensure!(made >= 3, "{made} are made");
        Ok(())
    })
    .await?;
    let account = json!({"name": "default", "namespace": stage.users.namespace});
    let before = stage.chekt.webhooks().await?.len();
    small
        .apply(&webhooks(1, "alarm.triggered", &account))
        .await?;
    let url = format!("{}/webhooks/{}/w0", stage.public_url()?, small.namespace);
    stage.chekt.webhook_at(&url, SOON).await?;
    let went_first = stage.chekt.webhooks().await?.len() - 1 - before;
    // Its turn comes with the next but one; the rest is for the time until it is seen.
    assert!(went_first <= 15, "{went_first} of the others went first");
    Ok(())
}

#[tokio::test]
async fn an_account_without_an_answer_is_tried_by_one_and_all_go_on_once_it_is_back()
-> anyhow::Result<()> {
    let stage = Stage::new("breaker").await?;
    stage.apply_account("10s").await?;
    let all = [
        "wait",
        "--for=condition=Ready",
        "cwh",
        "--all",
        "--timeout=50s",
    ];
    stage
        .users
        .apply(&webhooks(60, "alarm.triggered", &Value::Null))
        .await?;
    stage.users.kubectl(&all).await?.ok()?;

    let faults = [
        Fault::status("patch", "before", 503, 10_000),
        Fault::status("list", "before", 503, 10_000),
    ];
    stage.chekt.set_faults(&faults).await?;
    let mark = stage.chekt.mark().await?;
    stage
        .users
        .apply(&webhooks(60, "site.armed", &Value::Null))
        .await?;
    let ready = stage
        .users
        .account_condition("default", READY, "False", SOON)
        .await?;
    assert_eq!(ready.reason, "Unreachable");
    eventually("every webhook to wait for the account", SOON, || async {
        let all = stage
            .users
            .webhooks()
            .list(&kube::api::ListParams::default())
            .await?;
        for webhook in &all {
            let conditions = webhook.status.as_ref().map(|s| s.conditions.as_slice());
            let ready = conditions.and_then(|c| c.iter().find(|c| c.type_ == READY));
            anyhow::ensure!(
                ready.is_some_and(|c| c.reason == "AccountNotReady"),
                "{ready:?}"
            );
        }
        Ok(())
    })
    .await?;
    // From now on only the account looks, and ever more seldom.
    let waiting = stage.chekt.mark().await?;
    eventually("two probes", SOON, || async {
        let ledger = stage.chekt.ledger(waiting).await?;
        let probes = ledger.calls("list").len();
        anyhow::ensure!(probes >= 2, "{probes} probes");
        Ok(())
    })
    .await?;
    assert_eq!(stage.chekt.ledger(waiting).await?.calls("patch").len(), 0);
    let tried = stage.chekt.ledger(mark).await?.calls("patch").len();
    assert!(
        tried <= 30,
        "{tried} requests before the account was left alone"
    );

    stage.chekt.clear_faults().await?;
    eventually("all to be edited", Duration::from_secs(90), || async {
        let there = stage.chekt.webhooks().await?;
        let left = there.iter().filter(|w| w.events != ["site.armed"]).count();
        anyhow::ensure!(left == 0, "{left} are not");
        Ok(())
    })
    .await?;
    stage.users.kubectl(&all).await?.ok()?;
    assert_eq!(stage.chekt.all_webhooks().await?.len(), 60);
    Ok(())
}

#[tokio::test]
async fn an_account_without_the_webhooks_api_says_so_and_is_asked_seldom() -> anyhow::Result<()> {
    for status in [404, 405, 501] {
        let stage = Stage::new("no-api").await?;
        let fault = Fault::status("list", "before", status, 10_000);
        stage.chekt.set_faults(&[fault]).await?;
        stage.apply_account("10s").await?;
        let stalled = stage
            .users
            .account_condition("default", STALLED, "True", SOON)
            .await?;
        assert_eq!(stalled.reason, "WebhooksNotAvailable");
        assert!(
            stalled.message.contains("not available to this account"),
            "{}",
            stalled.message
        );
        stage
            .users
            .apply(&webhooks(3, "alarm.triggered", &Value::Null))
            .await?;
        let ready = stage
            .users
            .webhook_condition("w0", READY, "False", SOON)
            .await?;
        assert_eq!(ready.reason, "AccountNotReady");
        // The interval of 10 s has passed, and nobody has asked again.
        let lists = async || anyhow::Ok(stage.chekt.ledger(0).await?.calls("list").len());
        let again = eventually("another list", Duration::from_secs(12), || async {
            anyhow::ensure!(lists().await? > 1, "there was one");
            Ok(())
        });
        if status == 404 {
            assert!(again.await.is_err(), "it was asked again");
        }
        // A change of what the account is made of is worth a look at once.
        stage.chekt.clear_faults().await?;
        patch_account(&stage, json!({"rateLimit": {"burst": 9}})).await?;
        stage
            .users
            .webhook_condition("w0", READY, "True", SOON)
            .await?;
    }
    Ok(())
}
