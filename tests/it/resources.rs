//! The two kinds as the API server sees them: what it fills in, and what it refuses with which words.
//!
//! A refusal must say what to write instead: the person who reads it has only this line.

use std::path::Path;

use serde_json::json;

use crate::harness::Cluster;

/// Applies one object of ours and gives back why it was refused.
async fn refusal(cluster: &Cluster, kind: &str, spec: serde_json::Value) -> anyhow::Result<String> {
    let object = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": kind, "metadata": {"name": "bad"}, "spec": spec,
    });
    let said = cluster.try_apply(&object.to_string()).await?;
    said.refused()
}

#[tokio::test]
async fn a_bad_webhook_is_refused_with_words_that_help() -> anyhow::Result<()> {
    let cluster = Cluster::new("bad-webhook").await?;
    let secret = json!({"name": "s", "key": "k"});
    let alarm = json!(["alarm.triggered"]);
    for (spec, words) in [
        (
            json!({"events": alarm, "url": "http://alarms.example.com/x", "secretRef": secret}),
            "write https://alarms.example.com/hooks/chekt",
        ),
        (
            json!({"events": alarm, "url": "alarms.example.com", "secretRef": secret}),
            "url must start with https:// and name a host",
        ),
        (
            json!({"events": alarm, "url": "https://alarms.example.com/x"}),
            "write spec.secretRef, or leave spec.url out",
        ),
        (
            json!({"events": []}),
            "name at least one event: write [alarm.triggered]",
        ),
        (json!({}), "spec.events: Required value"),
        (json!({"events": ["Alarm"]}), "write alarm.triggered"),
        (
            json!({"events": ["webhook.test"]}),
            "webhook.test cannot be subscribed to",
        ),
        (
            json!({"events": ["alarm.triggered", "alarm.triggered"]}),
            r#"Duplicate value: "alarm.triggered""#,
        ),
        (
            json!({"events": alarm, "deletionPolicy": "Keep"}),
            r#"supported values: "Delete", "Orphan""#,
        ),
        (
            json!({"events": alarm, "secretRef": {"name": "s"}}),
            "spec.secretRef.key: Required value",
        ),
        (
            json!({"events": alarm, "ur": "https://alarms.example.com"}),
            r#"unknown field "spec.ur""#,
        ),
    ] {
        let why = refusal(&cluster, "ChektWebhook", spec.clone()).await?;
        assert!(why.contains(words), "{spec}: `{words}` is not in: {why}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_account_is_refused_with_words_that_help() -> anyhow::Result<()> {
    let cluster = Cluster::new("bad-account").await?;
    let token = json!({"secretRef": {"name": "s", "key": "k"}});
    let credentials = json!({"secretRef": {"name": "s"}});
    for (spec, words) in [
        (
            json!({"auth": {"accessToken": token, "clientCredentials": credentials}}),
            "write one of accessToken, clientCredentials and privateKeyJWT",
        ),
        (
            json!({"auth": {}}),
            "write one of accessToken, clientCredentials and privateKeyJWT",
        ),
        (
            json!({"auth": {"clientCredentials": credentials, "privateKeyJWT":
                {"secretRef": {"name": "s", "key": "k"}, "clientID": "me", "tokenURL": "https://a.example/t"}}}),
            "and leave the others out",
        ),
        (
            json!({"auth": {"privateKeyJWT": {"secretRef": {"name": "s", "key": "k"}, "clientID": "me"}}}),
            "spec.auth.privateKeyJWT.tokenURL: Required value",
        ),
        (json!({}), "spec.auth: Required value"),
        (
            json!({"auth": {"accessToken": token}, "baseURL": "api.chekt.com"}),
            "write https://api.chekt.com",
        ),
        (
            json!({"auth": {"accessToken": token}, "syncInterval": "1s"}),
            "write 60s or 5m",
        ),
        (
            json!({"auth": {"accessToken": token}, "syncInterval": "often"}),
            "write 60s or 5m",
        ),
        (
            json!({"auth": {"accessToken": token}, "allowedNamespaces": {"from": "Selector"}}),
            "write {from: Selector, selector: {matchLabels: {name: value}}}",
        ),
        (
            json!({"auth": {"accessToken": token}, "allowedNamespaces": {"selector": {}}}),
            "or leave selector out",
        ),
        (
            json!({"auth": {"accessToken": token}, "rateLimit": {"requestsPerMinute": 0}}),
            "should be greater than or equal to 1",
        ),
    ] {
        let why = refusal(&cluster, "ChektAccount", spec.clone()).await?;
        assert!(why.contains(words), "{spec}: `{words}` is not in: {why}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_left_out_is_filled_in() -> anyhow::Result<()> {
    let cluster = Cluster::new("defaults").await?;
    let webhook = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": "alarms"},
        "spec": {"events": ["alarm.triggered"]},
    });
    cluster.apply(&webhook.to_string()).await?;
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
        "spec": {"auth": {"accessToken": {"secretRef": {"name": "s", "key": "k"}}}},
    });
    cluster.apply(&account.to_string()).await?;

    // Unknown to any operator, both are in progress for whoever follows kstatus, never done.
    let webhook = serde_json::to_value(cluster.webhooks().get("alarms").await?)?;
    assert_eq!(webhook["status"], json!({"observedGeneration": -1}));
    assert_eq!(
        webhook["spec"],
        json!({
            "accountRef": {"name": "default"},
            "events": ["alarm.triggered"],
            "adoptionPolicy": "Adopt",
            "deletionPolicy": "Delete",
            "recovery": {"policy": "Reactivate", "cooldown": "5m"},
            "testPolicy": "OnChange",
            "suspend": false,
        })
    );
    let account = serde_json::to_value(cluster.accounts().get("default").await?)?;
    assert_eq!(account["status"], json!({"observedGeneration": -1}));
    assert_eq!(account["spec"]["baseURL"], "https://api.chekt.com");
    assert_eq!(account["spec"]["syncInterval"], "60s");
    assert_eq!(
        account["spec"]["rateLimit"],
        json!({"requestsPerMinute": 60, "burst": 3})
    );
    assert_eq!(
        account["spec"]["allowedNamespaces"],
        json!({"from": "Same"})
    );
    Ok(())
}

#[tokio::test]
async fn the_short_names_and_the_category_are_known() -> anyhow::Result<()> {
    let cluster = Cluster::new("names").await?;
    let webhook = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": "alarms"},
        "spec": {"events": ["alarm.triggered"]},
    });
    cluster.apply(&webhook.to_string()).await?;
    let table = cluster.kubectl(&["get", "cwh"]).await?.ok()?;
    let head: Vec<_> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(head, ["NAME", "READY", "REASON", "STATE", "ACCOUNT", "AGE"]);
    let all = cluster
        .kubectl(&["get", "chekt", "-o", "name"])
        .await?
        .ok()?;
    assert_eq!(all.trim(), "chektwebhook.chekt.com/alarms");
    let selector = "--field-selector=spec.accountRef.name=default";
    let found = cluster
        .kubectl(&["get", "cwh", selector, "-o", "name"])
        .await?
        .ok()?;
    assert_eq!(found.trim(), "chektwebhook.chekt.com/alarms");
    cluster.kubectl(&["get", "cacc"]).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn the_examples_are_valid() -> anyhow::Result<()> {
    let cluster = Cluster::new("examples").await?;
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("examples"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let manifests = std::fs::read_to_string(&path)?;
        let args = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        let said = cluster.kubectl_reading(&args, &manifests).await?;
        let file = path.display();
        assert!(said.stderr.is_empty(), "{file}: {}", said.stderr);
        said.ok()?;
        seen += 1;
    }
    assert!(seen >= 3, "only {seen} examples");
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
