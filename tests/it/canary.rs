//! Secrets and tokens occur nowhere but where they belong.

use std::time::Duration;

use chekt_operator::resources::conditions::VERIFIED;
use serde_json::json;

use crate::deliveries::{post, sign};
use crate::harness::{Stage, StageOptions};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn canaries_are_in_no_log_event_metric_status_or_annotation() -> anyhow::Result<()> {
    let all = ["--log", "trace,hyper=info,h2=info"]
        .map(str::to_owned)
        .to_vec();
    let options = StageOptions {
        controller: all.clone(),
        receiver: all,
        ..StageOptions::default()
    };
    let stage = Stage::with("canary", options).await?;
    let first = "canary-first-c0ffee-0123456789";
    let second = "canary-second-c0ffee-9876543210";
    stage.apply_account("10s").await?;
    stage.users.put_secret("own", &[("signing", first)]).await?;
    let own = json!({"secretRef": {"name": "own", "key": "signing"}});
    stage
        .apply_webhook("own", &["alarm.triggered"], own)
        .await?;
    stage
        .apply_webhook("generated", &["alarm.triggered"], json!({}))
        .await?;
    for name in ["own", "generated"] {
        stage
            .users
            .webhook_condition(name, VERIFIED, "True", SOON)
            .await?;
    }
    let generated = stage
        .chekt
        .webhook_at(&stage.derived_url("generated")?, SOON)
        .await?
        .secret;
    // Every path on which a secret could get out: a rotation, a refusal that repeats it, a forged delivery.
    stage
        .users
        .put_secret("own", &[("signing", second)])
        .await?;
    let body = format!(
        r#"{{"event":"alarm.triggered","data":{{"alarm_id":"{}"}}}}"#,
        "a"
    );
    let url = stage.derived_url("own")?;
    post(&url, &body, &sign("wrong", &body)).await?;
    post(&url, &body, &sign(first, &body)).await?;
    stage
        .chekt
        .set_faults(&[crate::harness::sandbox_client::Fault::status(
            "any", "before", 500, 2,
        )])
        .await?;
    stage
        .apply_webhook("generated", &["alarm.cleared"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("generated", "Ready", "True", Duration::from_secs(60))
        .await?;
    stage
        .users
        .events_with_reason("own", "AlarmTriggered", 1, SOON)
        .await?;

    let mut places = vec![("logs".to_owned(), stage.all_log_lines().join("\n"))];
    for kind in ["cwh", "cacc", "events.events.k8s.io", "events"] {
        let shown = stage
            .users
            .kubectl(&["get", kind, "-o", "json"])
            .await?
            .ok()?;
        places.push((kind.to_owned(), shown));
    }
    places.push((
        "receiver metrics".to_owned(),
        stage.receiver.metrics().await?,
    ));
    if let Some(controller) = &stage.controller {
        places.push(("controller metrics".to_owned(), controller.metrics().await?));
    }
    places.push((
        "ledger".to_owned(),
        format!("{:?}", stage.chekt.ledger(0).await?),
    ));
    assert!(
        places.iter().all(|(_, text)| text.len() > 100),
        "a place that is empty proves nothing"
    );
    let canaries = [
        first,
        second,
        &generated,
        &stage.token,
        &stage.client_secret,
    ];
    for canary in canaries {
        for (place, text) in &places {
            assert!(!text.contains(canary), "a canary is in {place}");
        }
    }
    Ok(())
}
