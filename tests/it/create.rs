//! From a manifest to a webhook at CHeKT that is proved by a test delivery.

use std::time::Duration;

use chekt_operator::resources::conditions::{READY, VERIFIED};
use chekt_operator::resources::keyring::Keyring;
use kube::ResourceExt;
use serde_json::json;

use crate::harness::{Stage, eventually};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn six_lines_of_manifest_become_one_active_verified_webhook() -> anyhow::Result<()> {
    let stage = Stage::new("create").await?;
    stage.apply_account("10s").await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered", "alarm.cleared"], json!({}))
        .await?;
    stage
        .users
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "cwh/alarms",
            "--timeout=30s",
        ])
        .await?
        .ok()?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;

    let remote = stage.chekt.webhooks().await?;
    assert_eq!(remote.len(), 1, "{remote:?}");
    let remote = &remote[0];
    assert_eq!(remote.url, stage.derived_url("alarms")?);
    assert_eq!(remote.events, ["alarm.cleared", "alarm.triggered"]);
    let bytes = data_encoding::HEXLOWER.decode(remote.secret.as_bytes())?;
    assert_eq!(
        bytes.len(),
        32,
        "a generated secret is 32 random bytes in hexadecimal"
    );

    let webhook = stage.users.webhooks().get("alarms").await?;
    let status = webhook.status.clone().unwrap_or_default();
    assert_eq!(
        status.webhook_id.as_deref(),
        Some(remote.webhook_id.as_str())
    );
    assert_eq!(status.observed_generation, webhook.metadata.generation);
    assert_eq!(status.state.as_deref(), Some("active"));
    assert_eq!(status.url.as_deref(), Some(remote.url.as_str()));

    let name = Keyring::secret_name(&webhook.uid().unwrap_or_default());
    let keyring = Keyring::from_secret(&stage.operator.secrets().get(&name).await?)?;
    assert_eq!(
        keyring.current.map(|k| k.secret.expose().to_vec()),
        Some(remote.secret.clone().into_bytes())
    );

    // Nothing of ours in spec, labels or annotations; that is the user's.
    assert!(webhook.labels().is_empty());
    assert!(
        webhook
            .annotations()
            .keys()
            .all(|k| k == "kubectl.kubernetes.io/last-applied-configuration")
    );
    let account = stage
        .users
        .account_condition("default", READY, "True", SOON)
        .await?;
    assert_eq!(account.reason, "Connected");

    let calls = stage.chekt.ledger(0).await?;
    assert_eq!(calls.calls("create").len(), 1);
    assert_eq!(calls.calls("test").len(), 1);
    assert_eq!(calls.calls("patch").len(), 0);
    let create = calls.calls("create")[0];
    assert!(create.idempotency_key.is_some() && create.trace_id.is_some());
    Ok(())
}

#[tokio::test]
async fn a_webhook_with_its_own_url_and_secret_works_the_same() -> anyhow::Result<()> {
    let stage = Stage::new("own-url").await?;
    stage.apply_account("10s").await?;
    let secret = "a-secret-that-somebody-made-elsewhere";
    stage
        .users
        .put_secret("own", &[("signing", secret)])
        .await?;
    let url = stage.derived_url("own")?;
    let more = json!({"url": url, "secretRef": {"name": "own", "key": "signing"}});
    stage.apply_webhook("own", &["site.armed"], more).await?;
    stage
        .users
        .webhook_condition("own", VERIFIED, "True", SOON)
        .await?;
    stage
        .users
        .webhook_condition("own", READY, "True", SOON)
        .await?;
    let remote = stage.chekt.webhook_at(&url, SOON).await?;
    assert_eq!(remote.secret, secret);
    let sent = stage
        .chekt
        .emit("site.armed", json!({"site_id": "s1"}))
        .await?;
    stage.chekt.delivered(&sent, SOON).await?;
    stage
        .users
        .events_with_reason("own", "SiteArmed", 1, SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_url_that_leads_elsewhere_is_ready_and_says_that_nobody_here_can_verify_it()
-> anyhow::Result<()> {
    let stage = Stage::new("elsewhere").await?;
    stage.apply_account("10s").await?;
    stage
        .users
        .put_secret("own", &[("signing", "some-secret-of-theirs")])
        .await?;
    let more = json!({"url": "https://alarms.example.com/hook", "secretRef": {"name": "own", "key": "signing"}});
    stage.apply_webhook("own", &["site.armed"], more).await?;
    stage
        .users
        .webhook_condition("own", READY, "True", SOON)
        .await?;
    let verified = stage
        .users
        .webhook_condition("own", VERIFIED, "Unknown", SOON)
        .await?;
    assert_eq!(verified.reason, "ReceivedElsewhere");
    Ok(())
}

#[tokio::test]
async fn the_one_remote_webhook_with_our_url_is_taken_over() -> anyhow::Result<()> {
    let stage = Stage::new("adopt").await?;
    let url = stage.derived_url("alarms")?;
    let made =
        json!({"url": url, "events": ["site.created"], "secret": "made-with-curl-last-year"});
    let answer = reqwest::Client::new()
        .post(format!("{}/partner/v1/webhooks", stage.base_url()?))
        .bearer_auth(&stage.token)
        .json(&made)
        .send()
        .await?
        .error_for_status()?;
    let id = answer.json::<serde_json::Value>().await?["webhook_id"].clone();
    let mark = stage.chekt.mark().await?;

    stage.apply_account("10s").await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    let remote = stage.chekt.webhooks().await?;
    assert_eq!(remote.len(), 1, "{remote:?}");
    assert_eq!(json!(remote[0].webhook_id), id);
    assert_eq!(remote[0].events, ["alarm.triggered"]);
    assert_ne!(remote[0].secret, "made-with-curl-last-year");
    let ledger = stage.chekt.ledger(mark).await?;
    assert_eq!(
        (ledger.calls("create").len(), ledger.calls("patch").len()),
        (0, 1)
    );
    Ok(())
}

#[tokio::test]
async fn client_credentials_are_exchanged_for_one_token_that_serves_every_call()
-> anyhow::Result<()> {
    let stage = Stage::new("oauth").await?;
    stage
        .users
        .put_secret(
            "oauth",
            &[
                ("client_id", &stage.client_id),
                ("client_secret", &stage.client_secret),
            ],
        )
        .await?;
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
        "spec": {
            "baseURL": stage.base_url()?,
            "auth": {"clientCredentials": {"secretRef": {"name": "oauth"}}},
            "rateLimit": {"requestsPerMinute": 6000, "burst": 100},
        },
    });
    stage.users.apply(&account.to_string()).await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    assert_eq!(stage.chekt.ledger(0).await?.calls("token").len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_post_makes_no_second_webhook() -> anyhow::Result<()> {
    let stage = Stage::new("lost").await?;
    stage
        .chekt
        .set_faults(&[crate::harness::sandbox_client::Fault::drop(
            "create", "after", 1,
        )])
        .await?;
    stage.apply_account("10s").await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", Duration::from_secs(60))
        .await?;
    assert_eq!(stage.chekt.all_webhooks().await?.len(), 1);
    assert_eq!(stage.chekt.ledger(0).await?.calls("create").len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_controller_killed_right_after_the_post_finds_its_webhook_again() -> anyhow::Result<()> {
    let mut stage = Stage::new("killed").await?;
    // The POST has its effect and its answer never comes, so the process dies not knowing.
    let stall = json!({"stall_ms": 20_000});
    let fault = crate::harness::sandbox_client::Fault {
        route: "create".into(),
        when: "after".into(),
        effect: stall,
        times: 1,
    };
    stage.chekt.set_faults(&[fault]).await?;
    stage.apply_account("10s").await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .chekt
        .webhook_at(&stage.derived_url("alarms")?, SOON)
        .await?;
    stage.controller()?.kill9()?;
    stage.chekt.clear_faults().await?;
    stage.controller()?.restart().await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", Duration::from_secs(60))
        .await?;
    assert_eq!(stage.chekt.all_webhooks().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_rejected_webhook_is_stalled_with_code_message_and_request_id() -> anyhow::Result<()> {
    let stage = Stage::new("rejected").await?;
    stage.apply_account("10s").await?;
    stage
        .apply_webhook("alarms", &["no.such_event"], json!({}))
        .await?;
    let stalled = stage
        .users
        .webhook_condition("alarms", "Stalled", "True", SOON)
        .await?;
    assert_eq!(stalled.reason, "Rejected");
    for part in ["422", "events", "request"] {
        assert!(
            stalled.message.contains(part),
            "{part} is not in: {}",
            stalled.message
        );
    }
    let mark = stage.chekt.mark().await?;
    // Nothing loops: no further write while nothing changes, for longer than any first backoff.
    crate::harness::eventually::throughout("no further write", Duration::from_secs(5), || async {
        let writes = stage.chekt.ledger(mark).await?.writes();
        anyhow::ensure!(writes.is_empty(), "{writes:?}");
        Ok::<(), anyhow::Error>(())
    })
    .await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn errors_of_the_api_are_shown_and_retried_ever_more_slowly() -> anyhow::Result<()> {
    let stage = Stage::new("errors").await?;
    let fault = crate::harness::sandbox_client::Fault::status("create", "before", 500, 2);
    stage.chekt.set_faults(&[fault]).await?;
    stage.apply_account("10s").await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    let ready = stage
        .users
        .webhook_condition("alarms", READY, "False", SOON)
        .await?;
    assert!(
        ready.message.contains("500") || ready.reason == "Settling",
        "{ready:?}"
    );
    stage
        .users
        .webhook_condition("alarms", READY, "True", Duration::from_secs(60))
        .await?;
    let ledger = stage.chekt.ledger(0).await?;
    assert_eq!(ledger.calls("create").len(), 3);
    let keys: Vec<_> = ledger
        .calls("create")
        .iter()
        .map(|c| c.idempotency_key.clone())
        .collect();
    assert!(
        keys.windows(2).all(|w| w[0] == w[1]),
        "an unclear create goes on under its own number: {keys:?}"
    );
    assert_eq!(stage.chekt.all_webhooks().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn every_style_of_list_is_understood() -> anyhow::Result<()> {
    let stage = Stage::new("lists").await?;
    // Enough strangers that a page of two never shows ours on the first.
    for n in 0..5 {
        let body = json!({"url": format!("https://other.example/{n}"), "events": ["site.armed"], "secret": "s"});
        let url = format!("{}/partner/v1/webhooks", stage.base_url()?);
        reqwest::Client::new()
            .post(url)
            .bearer_auth(&stage.token)
            .json(&body)
            .send()
            .await?
            .error_for_status()?;
    }
    stage.apply_account("10s").await?;
    let styles = [
        json!({"list_shape": "data"}),
        json!({"list_shape": "webhooks"}),
        json!({"list_shape": "data_webhooks", "list_paging": "page", "page_size": 2}),
        json!({"list_shape": "data", "list_paging": "cursor", "page_size": 2}),
        json!({"list_shape": "bare", "list_paging": "link", "page_size": 2}),
    ];
    for (n, style) in styles.into_iter().enumerate() {
        stage.chekt.reset().await?;
        stage.chekt.set_quirks(style.clone()).await?;
        let name = format!("alarms-{n}");
        stage
            .apply_webhook(&name, &["alarm.triggered"], json!({}))
            .await?;
        stage
            .users
            .webhook_condition(&name, READY, "True", SOON)
            .await
            .map_err(|e| e.context(style.to_string()))?;
    }
    let counts = eventually("the account to count strangers and ours", SOON, || async {
        let status = stage
            .users
            .accounts()
            .get("default")
            .await?
            .status
            .unwrap_or_default();
        match status.webhooks {
            Some(counts) if counts.managed == 5 => Ok(counts),
            other => Err(anyhow::anyhow!("{other:?}")),
        }
    })
    .await?;
    assert_eq!(counts.foreign, 5);
    Ok(())
}
