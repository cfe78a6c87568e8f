//! Many webhooks on one account: what they cost to make, and that they cost nothing once they are made.

use std::time::Duration;

use chekt_operator::resources::ChektWebhook;
use kube::api::ListParams;
use serde_json::json;

use crate::harness::eventually::throughout;
use crate::harness::{Stage, eventually};

const HOW_MANY: usize = 100;
const SOME: usize = 40;

#[tokio::test]
async fn a_hundred_webhooks_are_a_hundred_posts_and_then_one_list_an_interval() -> anyhow::Result<()>
{
    let stage = Stage::new("hundred").await?;
    make(&stage, HOW_MANY).await?;
    let ledger = stage.chekt.ledger(0).await?;
    assert_eq!(ledger.calls("create").len(), HOW_MANY);
    assert_eq!(ledger.calls("patch").len(), 0);
    assert_eq!(stage.chekt.all_webhooks().await?.len(), HOW_MANY);

    // The account counts its webhooks at the next list, and the receiver may still have a status to write: the quiet
    // begins when nothing has changed for longer than an interval.
    let still = std::sync::Mutex::new((Vec::new(), std::time::Instant::now()));
    let before = eventually(
        "the objects to be still",
        Duration::from_secs(90),
        || async {
            let now = resource_versions(&stage).await?;
            let mut still = still
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if still.0 != now {
                *still = (now, std::time::Instant::now());
            }
            anyhow::ensure!(still.1.elapsed() > Duration::from_secs(12), "they change");
            Ok(still.0.clone())
        },
    )
    .await?;
    let mark = stage.chekt.mark().await?;
    let start = std::time::Instant::now();
    // Two intervals and a bit; what happens in them is counted at both servers.
    let quiet = Duration::from_secs(21);
    throughout("no Kubernetes write", quiet, || async {
        // A write changes a resource version, and no later write brings the old one back.
        let now = resource_versions(&stage).await?;
        let changed: Vec<_> = now
            .iter()
            .filter(|object| !before.contains(object))
            .collect();
        anyhow::ensure!(
            changed.is_empty() && now.len() == before.len(),
            "{changed:?}"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<(), anyhow::Error>(())
    })
    .await?;
    let ledger = stage.chekt.ledger(mark).await?;
    assert_eq!(ledger.writes(), Vec::<String>::new());
    // A hundred is a round number, so each list asks once whether there is a second page.
    let lists = ledger
        .calls("list")
        .iter()
        .filter(|call| call.query.is_none())
        .count();
    assert!(
        (2..=3).contains(&lists),
        "{lists} lists in {:?}",
        start.elapsed()
    );
    Ok(())
}

/// What a start finds in order it leaves alone, also while it does not know all of it yet.
#[tokio::test]
async fn a_start_over_webhooks_that_are_in_sync_writes_nothing() -> anyhow::Result<()> {
    let mut stage = Stage::new("start").await?;
    make(&stage, SOME).await?;
    let accounts = stage.users.accounts();
    eventually(
        "the account to have counted them",
        Duration::from_secs(30),
        || async {
            let counted = accounts
                .get("default")
                .await?
                .status
                .and_then(|s| s.webhooks);
            let managed = counted.map(|counted| counted.managed);
            anyhow::ensure!(managed == Some(i64::try_from(SOME)?), "{managed:?}");
            Ok(())
        },
    )
    .await?;
    stage.controller()?.kill9()?;
    let before = resource_versions(&stage).await?;
    stage.controller()?.restart().await?;
    stage.controller()?.ready(Duration::from_secs(30)).await?;
    let mark = stage.chekt.mark().await?;
    let stage = stage;
    // Its first list, the next one, and whatever follows from either.
    let span = Duration::from_secs(12);
    throughout("no Kubernetes write", span, || async {
        let now = resource_versions(&stage).await?;
        anyhow::ensure!(now == before, "{now:?} and not {before:?}");
        Ok::<(), anyhow::Error>(())
    })
    .await?;
    let ledger = stage.chekt.ledger(mark).await?;
    assert_eq!(ledger.writes(), Vec::<String>::new());
    Ok(())
}

/// Makes an account and so many webhooks, and waits until all are verified.
async fn make(stage: &Stage, count: usize) -> anyhow::Result<()> {
    stage.apply_account("10s").await?;
    let items: Vec<_> = (0..count)
        .map(|n| {
            json!({
                "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
                "metadata": {"name": format!("w{n}")},
                "spec": {"events": ["alarm.triggered"]},
            })
        })
        .collect();
    stage
        .users
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
        .await?;
    let verified = |w: &ChektWebhook| {
        let conditions = w
            .status
            .as_ref()
            .map(|s| s.conditions.as_slice())
            .unwrap_or_default();
        conditions
            .iter()
            .filter(|c| (c.type_ == "Ready" || c.type_ == "Verified") && c.status == "True")
            .count()
            == 2
    };
    eventually(
        "all of them to be verified",
        Duration::from_secs(120),
        || async {
            let all = stage
                .users
                .webhooks()
                .list(&ListParams::default())
                .await?
                .items;
            let done = all.iter().filter(|w| verified(w)).count();
            anyhow::ensure!(done == count, "{done} are");
            Ok(())
        },
    )
    .await?;
    Ok(())
}

/// Name and resource version of everything that the operator may write.
async fn resource_versions(stage: &Stage) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let mut all = Vec::new();
    for object in stage
        .users
        .webhooks()
        .list(&ListParams::default())
        .await?
        .items
    {
        all.push((
            format!("webhook {:?}", object.metadata.name),
            object.metadata.resource_version,
        ));
    }
    for object in stage
        .users
        .accounts()
        .list(&ListParams::default())
        .await?
        .items
    {
        all.push((
            format!("account {:?}", object.metadata.name),
            object.metadata.resource_version,
        ));
    }
    for object in stage
        .operator
        .secrets()
        .list(&ListParams::default())
        .await?
        .items
    {
        all.push((
            format!("secret {:?}", object.metadata.name),
            object.metadata.resource_version,
        ));
    }
    Ok(all)
}
