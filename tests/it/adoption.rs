//! What CHeKT has already: taken over, left alone, or named by its id.

use std::time::Duration;

use chekt_operator::resources::conditions::{READY, STALLED};
use serde_json::{Value, json};

use crate::harness::{Stage, eventually};

const SOON: Duration = Duration::from_secs(30);
const THEIRS: &str = "made-with-curl-last-year";

/// A stage with its account and a webhook that somebody made with curl. Returns its id, too.
async fn with_a_foreign_webhook(idea: &str, url: Option<&str>) -> anyhow::Result<(Stage, String)> {
    let stage = Stage::new(idea).await?;
    stage.apply_account("10s").await?;
    let url = match url {
        Some(url) => url.to_owned(),
        None => stage.derived_url("alarms")?,
    };
    let made = json!({"url": url, "events": ["site.created"], "secret": THEIRS});
    let answer = reqwest::Client::new()
        .post(format!("{}/partner/v1/webhooks", stage.base_url()?))
        .bearer_auth(&stage.token)
        .json(&made)
        .send()
        .await?
        .error_for_status()?;
    let id = answer.json::<Value>().await?["webhook_id"].clone();
    let id = id.as_str().unwrap_or_default().to_owned();
    Ok((stage, id))
}

#[tokio::test]
async fn with_refuse_what_is_there_is_left_alone_until_it_may_be_taken_over() -> anyhow::Result<()>
{
    let (stage, id) = with_a_foreign_webhook("refuse", None).await?;
    let mark = stage.chekt.mark().await?;
    let refuse = json!({"adoptionPolicy": "Refuse"});
    let events = ["alarm.triggered"];
    stage
        .apply_webhook("alarms", &events, refuse.clone())
        .await?;
    let stalled = stage
        .users
        .webhook_condition("alarms", STALLED, "True", SOON)
        .await?;
    assert_eq!(stalled.reason, "AdoptionRefused");
    assert!(stalled.message.contains(&id), "{}", stalled.message);
    // Deleting the object touches nothing that was never its own.
    stage.users.kubectl(&["delete", "cwh/alarms"]).await?.ok()?;
    assert_eq!(
        stage.chekt.ledger(mark).await?.writes(),
        Vec::<String>::new()
    );
    assert_eq!(stage.chekt.webhooks().await?[0].secret, THEIRS);

    stage.apply_webhook("alarms", &events, refuse).await?;
    stage
        .users
        .webhook_condition("alarms", STALLED, "True", SOON)
        .await?;
    stage
        .apply_webhook("alarms", &events, json!({"adoptionPolicy": "Adopt"}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let remote = stage.chekt.all_webhooks().await?;
    assert_eq!(remote.len(), 1, "{remote:?}");
    assert_eq!(remote[0].webhook_id, id);
    Ok(())
}

#[tokio::test]
async fn refuse_does_not_keep_a_webhook_from_its_own_lost_answer() -> anyhow::Result<()> {
    let stage = Stage::new("refuse-own").await?;
    stage.apply_account("10s").await?;
    let lost = crate::harness::sandbox_client::Fault::drop("create", "after", 1);
    stage.chekt.set_faults(&[lost]).await?;
    let refuse = json!({"adoptionPolicy": "Refuse"});
    stage
        .apply_webhook("alarms", &["alarm.triggered"], refuse)
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    assert_eq!(stage.chekt.all_webhooks().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_webhook_id_names_the_one_to_take_over_whatever_its_url() -> anyhow::Result<()> {
    let (stage, id) = with_a_foreign_webhook("pin", Some("https://old.example/hook")).await?;
    let pinned = |id: &str| json!({"webhookID": id});
    stage
        .apply_webhook("alarms", &["alarm.triggered"], pinned(&id))
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let remote = stage.chekt.all_webhooks().await?;
    assert_eq!(remote.len(), 1, "{remote:?}");
    assert_eq!(remote[0].webhook_id, id);
    assert_eq!(remote[0].url, stage.derived_url("alarms")?);
    assert_ne!(remote[0].secret, THEIRS);

    // Nobody else gets it, and nothing is made in the place of one that is not there.
    for (name, id, reason) in [
        ("second", id.as_str(), "WebhookClaimed"),
        ("nobodys", "webhook_nobodys", "WebhookNotFound"),
    ] {
        stage
            .apply_webhook(name, &["alarm.triggered"], pinned(id))
            .await?;
        let stalled = stage
            .users
            .webhook_condition(name, STALLED, "True", SOON)
            .await?;
        assert_eq!(stalled.reason, reason, "{}", stalled.message);
    }
    let other = stage
        .users
        .kubectl(&[
            "patch",
            "cwh/alarms",
            "--type=merge",
            "-p",
            r#"{"spec":{"webhookID":"other"}}"#,
        ])
        .await?
        .refused()?;
    assert!(other.contains("create another ChektWebhook"), "{other}");

    // It has done its part once the webhook is on record: what vanishes is made again, and it may go.
    stage.chekt.delete_webhook(&id).await?;
    eventually("it is made again", Duration::from_secs(60), || async {
        let remote = stage.chekt.webhooks().await?;
        anyhow::ensure!(remote.len() == 1 && remote[0].webhook_id != id);
        Ok(())
    })
    .await?;
    for name in ["second", "nobodys", "alarms"] {
        let object = format!("cwh/{name}");
        stage.users.kubectl(&["delete", &object]).await?.ok()?;
    }
    assert!(stage.chekt.webhooks().await?.is_empty());
    Ok(())
}
