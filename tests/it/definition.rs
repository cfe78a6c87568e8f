//! Deleting the definition of the kind takes the operator's objects away, and no webhook at CHeKT.

use std::time::Duration;

use chekt_operator::resources::account::OrphanReason;
use chekt_operator::resources::conditions::READY;
use serde_json::json;

use crate::harness::{ControlPlane, Stage, StageOptions, eventually};

const DEFINITION: &str = "chektwebhooks.chekt.com";
const SOON: Duration = Duration::from_secs(30);
/// A watch of a kind that was not there is tried again after up to half a minute.
const BACK: Duration = Duration::from_secs(120);

#[tokio::test]
async fn deleting_the_definition_leaves_every_webhook_at_chekt_and_installing_it_again_takes_them_over()
-> anyhow::Result<()> {
    // The others need the definition.
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await?));
    let options = StageOptions {
        plane: Some(plane),
        ..StageOptions::default()
    };
    let stage = Stage::verified("definition", &["alarm.triggered"], options).await?;
    stage
        .apply_webhook("second", &["site.armed"], json!({"testPolicy": "Never"}))
        .await?;
    stage
        .users
        .webhook_condition("second", READY, "True", SOON)
        .await?;
    let mut before: Vec<String> = ids(&stage).await?;
    before.sort();
    let mark = stage.chekt.mark().await?;
    stage
        .users
        .kubectl(&["delete", "crd", DEFINITION, "--timeout=50s"])
        .await?
        .ok()?;
    assert_eq!(stage.chekt.ledger(mark).await?.writes(), [""; 0]);
    let account = stage.users.accounts().get("default").await?;
    let record = account.status.unwrap_or_default().orphans;
    let mut recorded: Vec<_> = record.iter().map(|o| o.id.clone()).collect();
    recorded.sort();
    assert_eq!(recorded, before);
    assert!(
        record
            .iter()
            .all(|o| o.reason == OrphanReason::DefinitionDeleted),
        "{record:?}"
    );

    let crds = chekt_operator::resources::crds_yaml()?;
    stage.users.apply(&crds).await?;
    eventually("the kind to be known again", SOON, || async {
        stage
            .apply_webhook("alarms", &["alarm.triggered"], json!({}))
            .await?;
        stage
            .apply_webhook("second", &["site.armed"], json!({"testPolicy": "Never"}))
            .await
    })
    .await?;
    for name in ["alarms", "second"] {
        stage
            .users
            .webhook_condition(name, READY, "True", BACK)
            .await?;
    }
    let mut after = ids(&stage).await?;
    after.sort();
    assert_eq!(after, before);
    eventually("nothing to be an orphan", SOON, || async {
        let account = stage.users.accounts().get("default").await?;
        let record = account.status.unwrap_or_default().orphans;
        anyhow::ensure!(record.is_empty(), "{record:?}");
        Ok(())
    })
    .await?;
    plane.stop();
    Ok(())
}

async fn ids(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let all = stage.chekt.webhooks().await?;
    Ok(all.into_iter().map(|w| w.webhook_id).collect())
}
