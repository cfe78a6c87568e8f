//! `chekt-operator import`: what stands at CHeKT becomes manifests that can be applied as they are.

use std::time::Duration;

use chekt_operator::resources::conditions::READY;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::Stage;
use crate::harness::process::command;

const SOON: Duration = Duration::from_secs(30);
const ELSEWHERE: &str = "https://hooks.example.com/chekt";

/// Makes a webhook at CHeKT that nobody here knows, and gives back its id.
async fn foreign(stage: &Stage, url: &str, events: &[&str]) -> anyhow::Result<String> {
    let made = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .post(format!("{}/partner/v1/webhooks", stage.base_url()?))
        .bearer_auth(&stage.token)
        .json(&json!({"url": url, "events": events, "secret": "known-to-its-receiver"}))
        .send()
        .await?
        .error_for_status()?
        .text()
        .await?;
    let before = stage.chekt.webhooks().await?;
    let found = before.into_iter().rfind(|w| w.url == url);
    Ok(found.ok_or_else(|| anyhow::anyhow!("{made}"))?.webhook_id)
}

async fn imported(stage: &Stage) -> anyhow::Result<(Vec<Value>, String)> {
    let account = format!("{}/default", stage.users.namespace);
    let public = stage.public_url()?;
    let args = ["import", "--account", &account, "--public-url", &public];
    let said = command(&stage.users.kubeconfig(), &args, "").await?;
    let remarks = said.stderr.clone();
    let yaml = said.ok()?;
    let manifests = serde_yaml::Deserializer::from_str(&yaml).map(Value::deserialize);
    let manifests: Vec<Value> = manifests.collect::<Result<_, _>>()?;
    Ok((
        manifests.into_iter().filter(|m| !m.is_null()).collect(),
        remarks,
    ))
}

#[tokio::test]
async fn what_nobody_manages_becomes_manifests_that_take_it_over_and_make_nothing()
-> anyhow::Result<()> {
    let stage = Stage::new("import").await?;
    stage.apply_account("10s").await?;
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
    let front = foreign(&stage, &stage.derived_url("front")?, &["site.armed"]).await?;
    let elsewhere = foreign(&stage, ELSEWHERE, &["alarm.triggered", "alarm.cleared"]).await?;
    let mark = stage.chekt.mark().await?;
    let (manifests, remarks) = imported(&stage).await?;
    assert_eq!(stage.chekt.ledger(mark).await?.writes(), [""; 0]);
    assert_eq!(remarks, "");
    assert_eq!(manifests.len(), 2, "{manifests:?}");
    let of = |id: &str| {
        let found = manifests.iter().find(|m| m["spec"]["webhookID"] == id);
        found.cloned().unwrap_or_default()
    };
    assert_eq!(of(&front)["metadata"]["name"], "front");
    assert_eq!(
        of(&front)["spec"],
        json!({"events": ["site.armed"], "webhookID": front, "deletionPolicy": "Orphan"})
    );
    let other = of(&elsewhere);
    assert_eq!(other["spec"]["url"], ELSEWHERE);
    assert_eq!(
        other["spec"]["events"],
        json!(["alarm.cleared", "alarm.triggered"])
    );

    let secret = other["spec"]["secretRef"]["name"]
        .as_str()
        .unwrap_or_default();
    stage
        .users
        .put_secret(secret, &[("secret", "known-to-its-receiver")])
        .await?;
    for manifest in &manifests {
        stage.users.apply(&manifest.to_string()).await?;
    }
    for manifest in &manifests {
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
        stage
            .users
            .webhook_condition(name, READY, "True", SOON)
            .await?;
    }
    let ledger = stage.chekt.ledger(mark).await?;
    assert_eq!(ledger.calls("create").len(), 0);
    assert_eq!(ledger.calls("delete").len(), 0);
    let all = stage.chekt.webhooks().await?;
    let kept = all.iter().find(|w| w.webhook_id == elsewhere);
    assert_eq!(
        kept.map(|w| w.secret.as_str()),
        Some("known-to-its-receiver")
    );

    let (manifests, remarks) = imported(&stage).await?;
    assert_eq!(manifests, Vec::<Value>::new());
    assert!(remarks.contains("nothing to import"), "{remarks}");

    foreign(&stage, ELSEWHERE, &["alarm.triggered"]).await?;
    let (_, remarks) = imported(&stage).await?;
    assert!(remarks.contains("has the same url as"), "{remarks}");
    Ok(())
}
