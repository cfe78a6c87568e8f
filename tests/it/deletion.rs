//! The object goes after its remote webhook, and never before.

use std::time::Duration;

use chekt_operator::resources::conditions::READY;
use kube::api::DeleteParams;
use serde_json::json;

use crate::harness::eventually::throughout;
use crate::harness::{Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);

async fn ready(idea: &str, options: StageOptions) -> anyhow::Result<Stage> {
    Stage::verified(idea, &["alarm.triggered"], options).await
}

#[tokio::test]
async fn the_remote_webhook_is_gone_before_the_object_is() -> anyhow::Result<()> {
    let stage = ready("delete", StageOptions::default()).await?;
    // As long as the DELETE is not answered, the object must stay.
    let fault =
        json!([{"route": "delete", "when": "before", "effect": {"stall_ms": 2_000}, "times": 1}]);
    stage
        .chekt
        .set_faults(&serde_json::from_value::<Vec<_>>(fault)?)
        .await?;
    stage
        .users
        .webhooks()
        .delete("alarms", &DeleteParams::default())
        .await?;
    eventually(
        "the object to be gone and nothing to be left of it",
        SOON,
        || async {
            let object = stage.users.webhooks().get_opt("alarms").await?;
            let remote = stage.chekt.webhooks().await?;
            match (object, remote.len()) {
                (None, 0) => Ok(Ok(())),
                (None, n) => Ok(Err(anyhow::anyhow!(
                    "the object is gone and {n} remote webhooks are not"
                ))),
                (Some(_), n) => Err(anyhow::anyhow!("object there, {n} remote webhooks")),
            }
        },
    )
    .await??;
    assert_eq!(stage.chekt.ledger(0).await?.calls("delete").len(), 1);
    let keyrings = stage
        .operator
        .kubectl(&["get", "secret", "-l", "chekt.com/keyring", "-o", "name"])
        .await?
        .ok()?;
    assert_eq!(keyrings.trim(), "");
    Ok(())
}

#[tokio::test]
async fn with_orphan_the_remote_webhook_stays() -> anyhow::Result<()> {
    let stage = ready("orphan", StageOptions::default()).await?;
    stage
        .apply_webhook(
            "alarms",
            &["alarm.triggered"],
            json!({"deletionPolicy": "Orphan"}),
        )
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let mark = stage.chekt.mark().await?;
    stage
        .users
        .webhooks()
        .delete("alarms", &DeleteParams::default())
        .await?;
    stage.users.webhook_gone("alarms", SOON).await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 1);
    assert_eq!(
        stage.chekt.ledger(mark).await?.writes(),
        Vec::<String>::new()
    );
    Ok(())
}

#[tokio::test]
async fn while_the_api_is_down_the_object_stays_says_why_and_goes_once_it_is_back()
-> anyhow::Result<()> {
    let options = StageOptions {
        gate_partner: true,
        ..StageOptions::default()
    };
    let mut stage = ready("down", options).await?;
    if let Some(gate) = &mut stage.partner_gate {
        gate.cut().await;
    }
    stage
        .users
        .webhooks()
        .delete("alarms", &DeleteParams::default())
        .await?;
    let why = stage
        .users
        .webhook_condition("alarms", READY, "False", SOON)
        .await?;
    assert!(
        why.message
            .starts_with("The remote webhook cannot be deleted yet"),
        "{}",
        why.message
    );
    throughout("the object to stay", Duration::from_secs(3), || async {
        anyhow::ensure!(
            stage.users.webhooks().get_opt("alarms").await?.is_some(),
            "it went"
        );
        Ok::<(), anyhow::Error>(())
    })
    .await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 1);
    if let Some(gate) = &mut stage.partner_gate {
        gate.restore().await?;
    }
    stage
        .users
        .webhook_gone("alarms", Duration::from_secs(90))
        .await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn an_error_is_no_proof_that_a_webhook_is_gone() -> anyhow::Result<()> {
    let stage = ready("proof", StageOptions::default()).await?;
    // CHeKT says "not found" about a webhook that is there: only lists may settle that.
    let faults =
        json!([{"route": "delete", "when": "before", "effect": {"status": 404}, "times": 1}]);
    stage
        .chekt
        .set_faults(&serde_json::from_value::<Vec<_>>(faults)?)
        .await?;
    stage
        .users
        .webhooks()
        .delete("alarms", &DeleteParams::default())
        .await?;
    stage
        .users
        .webhook_gone("alarms", Duration::from_secs(60))
        .await?;
    assert_eq!(
        stage.chekt.webhooks().await?.len(),
        0,
        "the object went and left its remote webhook behind"
    );
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_is_deleted_as_a_whole_goes_and_takes_its_remote_webhook_along()
-> anyhow::Result<()> {
    let stage = ready("namespace", StageOptions::default()).await?;
    // Account, Secret and webhook are deleted in any order; only the webhook has to wait for CHeKT.
    stage
        .users
        .kubectl(&[
            "delete",
            "namespace",
            &stage.users.namespace,
            "--timeout=60s",
        ])
        .await?
        .ok()?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_webhook_outlives_its_account_and_secret_and_is_still_deleted_at_chekt()
-> anyhow::Result<()> {
    let stage = ready("outlives", StageOptions::default()).await?;
    stage
        .users
        .kubectl(&["delete", "secret/chekt-token"])
        .await?
        .ok()?;
    stage
        .users
        .account_condition("default", READY, "False", SOON)
        .await?;
    stage
        .users
        .kubectl(&["delete", "cacc/default", "--wait=false"])
        .await?
        .ok()?;
    stage
        .users
        .webhooks()
        .delete("alarms", &DeleteParams::default())
        .await?;
    stage.users.webhook_gone("alarms", SOON).await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 0);
    Ok(())
}
