//! `chekt-operator orphans`: what was let go of, whether it still exists, and its removal.

use std::time::Duration;

use chekt_operator::resources::conditions::READY;
use serde_json::{Value, json};

use crate::harness::cluster::Said;
use crate::harness::process::command;
use crate::harness::{Stage, eventually};

const SOON: Duration = Duration::from_secs(30);

async fn orphans(stage: &Stage, args: &[&str]) -> anyhow::Result<Said> {
    let mut all = vec!["orphans"];
    all.extend(args);
    command(&stage.users.kubeconfig(), &all, "").await
}

async fn listed(stage: &Stage, args: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut all = vec!["-o", "json"];
    all.extend(args);
    let said = orphans(stage, &all).await?.ok()?;
    let all: Vec<Value> = serde_json::from_str(&said)?;
    // Other tests have orphans, too.
    let account = format!("{}/default", stage.users.namespace);
    let ours = all.into_iter().filter(|o| o["account"] == account.as_str());
    Ok(ours.collect())
}

#[tokio::test]
async fn orphans_are_listed_and_removed_by_id_and_what_is_managed_is_not() -> anyhow::Result<()> {
    let mut stage = Stage::new("orphans-command").await?;
    stage.apply_account("10s").await?;
    let policy = json!({"deletionPolicy": "Orphan", "testPolicy": "Never"});
    let mut ids = Vec::new();
    for name in ["first", "second", "third"] {
        stage
            .apply_webhook(name, &["alarm.triggered"], policy.clone())
            .await?;
        stage
            .users
            .webhook_condition(name, READY, "True", SOON)
            .await?;
        let status = stage.users.webhooks().get(name).await?.status;
        ids.extend(status.and_then(|s| s.webhook_id));
        let delete = ["delete", "cwh", name, "--timeout=30s"];
        stage.users.kubectl(&delete).await?.ok()?;
    }
    let account = format!("{}/default", stage.users.namespace);
    let of_account = ["--account", account.as_str()];

    let all = listed(&stage, &[]).await?;
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all.iter().all(|o| o["exists"].is_null()), "{all:?}");
    stage.chekt.delete_webhook(&ids[2]).await?;
    let all = listed(&stage, &of_account).await?;
    for orphan in &all {
        let there = orphan["id"] != ids[2].as_str();
        assert_eq!(orphan["exists"], there, "{orphan}");
        assert_eq!(orphan["reason"], "DeletionPolicy");
    }
    let table = orphans(&stage, &of_account).await?.ok()?;
    assert!(
        table.starts_with("ACCOUNT") && table.contains(&ids[0]),
        "{table}"
    );

    // From here on nobody but the command changes anything.
    stage.controller()?.kill9()?;
    let mark = stage.chekt.mark().await?;
    let pin = json!({"webhookID": ids[0], "testPolicy": "Never"});
    stage
        .apply_webhook("again", &["alarm.triggered"], pin)
        .await?;
    for (args, words) in [
        (vec!["--remove", &ids[1]], "add --yes"),
        (
            vec!["--remove", "nonsense", "--yes"],
            "nonsense is no orphan",
        ),
        (
            vec!["--remove", &ids[0], "--yes"],
            "is managed by ChektWebhook",
        ),
        (vec!["--remove-all", "--yes"], "is managed by ChektWebhook"),
    ] {
        let args: Vec<&str> = of_account.iter().copied().chain(args).collect();
        let why = orphans(&stage, &args).await?.refused()?;
        assert!(why.contains(words), "{args:?}: {why}");
    }
    assert_eq!(stage.chekt.ledger(mark).await?.writes(), [""; 0]);

    // The third is gone already, which CHeKT says with a 404 and a list.
    let both = format!("{},{}", ids[1], ids[2]);
    let args = ["--account", &account, "--remove", &both, "--yes"];
    let said = orphans(&stage, &args).await?.ok()?;
    assert!(said.contains(&ids[1]) && said.contains(&ids[2]), "{said}");
    let left = listed(&stage, &of_account).await?;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["id"], ids[0].as_str());
    eventually("CHeKT to hold the managed one alone", SOON, || async {
        let all = stage.chekt.webhooks().await?;
        anyhow::ensure!(all.len() == 1 && all[0].webhook_id == ids[0], "{all:?}");
        Ok(())
    })
    .await?;
    Ok(())
}
