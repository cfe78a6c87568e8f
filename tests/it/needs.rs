//! A manifest that lacks something outside itself says in a condition what to do, and goes on by itself once that is
//! done.

use std::time::Duration;

use chekt_operator::resources::conditions::READY;
use serde_json::json;

use crate::harness::Stage;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_unknown_account_is_said_and_its_coming_is_noticed() -> anyhow::Result<()> {
    let stage = Stage::new("no-account").await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    let ready = stage
        .users
        .webhook_condition("alarms", READY, "False", SOON)
        .await?;
    assert_eq!(ready.reason, "AccountNotFound");
    assert!(ready.message.contains("create it"), "{}", ready.message);
    stage.apply_account("10s").await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_secret_and_a_missing_key_are_said_and_their_coming_is_noticed()
-> anyhow::Result<()> {
    let stage = Stage::new("no-secret").await?;
    stage.apply_account("10s").await?;
    let more = json!({"secretRef": {"name": "own", "key": "signing"}});
    stage
        .apply_webhook("alarms", &["alarm.triggered"], more)
        .await?;
    let ready = stage
        .users
        .webhook_condition("alarms", READY, "False", SOON)
        .await?;
    assert_eq!(ready.reason, "SecretNotFound");
    assert_eq!(
        ready.message,
        "Secret own does not exist: create it with the key signing"
    );

    stage.users.put_secret("own", &[("other", "x")]).await?;
    crate::harness::eventually("the missing key to be said", SOON, || async {
        let ready = stage
            .users
            .webhook_condition("alarms", READY, "False", SOON)
            .await?;
        anyhow::ensure!(
            ready.message.contains("has no key signing") && ready.message.contains("other"),
            "{}",
            ready.message
        );
        Ok(())
    })
    .await?;
    stage
        .users
        .put_secret("own", &[("signing", "a-good-secret-at-last")])
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn an_account_without_its_secret_or_with_a_wrong_token_says_so_and_recovers()
-> anyhow::Result<()> {
    let stage = Stage::new("bad-token").await?;
    stage.apply_account("10s").await?;
    stage
        .users
        .put_secret("chekt-token", &[("token", "not-the-token")])
        .await?;
    let ready = stage
        .users
        .account_condition("default", READY, "False", SOON)
        .await?;
    assert_eq!(ready.reason, "CredentialsRejected");
    assert!(
        ready.message.contains("401") && ready.message.contains("Secret"),
        "{}",
        ready.message
    );
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    let webhook = stage
        .users
        .webhook_condition("alarms", READY, "False", SOON)
        .await?;
    assert_eq!(webhook.reason, "AccountNotReady");
    stage
        .users
        .kubectl(&["delete", "secret", "chekt-token"])
        .await?
        .ok()?;
    crate::harness::eventually("the missing Secret to be said", SOON, || async {
        let ready = stage
            .users
            .account_condition("default", READY, "False", SOON)
            .await?;
        anyhow::ensure!(ready.reason == "SecretNotFound", "{}", ready.message);
        Ok(())
    })
    .await?;
    let token = stage.token.clone();
    stage
        .users
        .put_secret("chekt-token", &[("token", &token)])
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_plain_http_partner_is_refused_with_what_to_write() -> anyhow::Result<()> {
    let stage = Stage::new("plain-http").await?;
    stage.users.put_secret("t", &[("token", "x")]).await?;
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
        "spec": {"baseURL": "http://api.example.com", "auth": {"accessToken": {"secretRef": {"name": "t", "key": "token"}}}},
    });
    stage.users.apply(&account.to_string()).await?;
    let ready = stage
        .users
        .account_condition("default", READY, "False", SOON)
        .await?;
    assert_eq!(ready.reason, "BaseUrlNotUsable");
    assert!(ready.message.contains("write https"), "{}", ready.message);
    Ok(())
}
