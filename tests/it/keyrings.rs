//! Keyrings that change under the receiver, as the real API server tells of them. The controller does not run: the test
//! writes what it would write.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use chekt_operator::resources::keyring::{Key, Keyring, Retired, SigningSecret, WebhookIdentity};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::deliveries::{post, sign};
use crate::harness::{Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);

pub(crate) fn key(secret: &str) -> Key {
    Key {
        id: format!("given-{secret}"),
        secret: SigningSecret::new(secret.as_bytes().to_vec()).unwrap(),
    }
}

/// A receiver without a controller, with a webhook `alarms` whose keyring was written by hand and has this key: the stage,
/// the keyring and where deliveries go.
pub(crate) async fn by_hand(
    idea: &str,
    receiver: &[&str],
    secret: &str,
) -> anyhow::Result<(Stage, Keyring, String)> {
    let options = StageOptions {
        with_controller: false,
        receiver: receiver.iter().map(|&flag| flag.to_owned()).collect(),
        ..StageOptions::default()
    };
    let stage = Stage::with(idea, options).await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    let webhook = stage.users.webhooks().get("alarms").await?;
    let keyring = Keyring {
        current: Some(key(secret)),
        ..Keyring::empty(WebhookIdentity {
            namespace: stage.users.namespace.clone(),
            name: "alarms".to_owned(),
            uid: webhook.metadata.uid.unwrap_or_default(),
        })
    };
    let written = keyring.to_secret(&stage.operator.namespace);
    let secrets = stage.operator.secrets();
    secrets.create(&PostParams::default(), &written).await?;
    let url = stage.derived_url("alarms")?;
    eventually("the first delivery", SOON, async || {
        let status = post(&url, "{}", &sign(secret, "{}")).await?;
        anyhow::ensure!(status == 200, "{status}");
        Ok(())
    })
    .await?;
    Ok((stage, keyring, url))
}

async fn write(stage: &Stage, keyring: &Keyring) -> anyhow::Result<()> {
    let written = keyring.to_secret(&stage.operator.namespace);
    let name = written.metadata.name.clone().unwrap_or_default();
    let params = PatchParams::apply("test").force();
    let mut written = serde_json::to_value(&written)?;
    written["apiVersion"] = json!("v1");
    written["kind"] = json!("Secret");
    let secrets = stage.operator.secrets();
    secrets
        .patch(&name, &params, &Patch::Apply(written))
        .await?;
    Ok(())
}

async fn verified(stage: &Stage, place: &str) -> anyhow::Result<u64> {
    let text = stage.receiver.metrics().await?;
    let series = format!("chekt_receiver_verified_total{{place=\"{place}\"}} ");
    let count = text.lines().find_map(|line| line.strip_prefix(&series));
    Ok(count.unwrap_or("0").parse()?)
}

#[tokio::test]
async fn a_changed_keyring_is_in_force_in_less_than_a_second() -> anyhow::Result<()> {
    let (stage, mut keyring, url) = by_hand("rotation", &[], "secret-0").await?;
    let mut worst = Duration::ZERO;
    for round in 1..=5 {
        let secret = format!("secret-{round}");
        keyring.next = Some(key(&secret));
        let body = format!("round {round}");
        assert_eq!(post(&url, &body, &sign(&secret, &body)).await?, 401);
        write(&stage, &keyring).await?;
        let began = Instant::now();
        eventually("the new key", SOON, async || {
            let status = post(&url, &body, &sign(&secret, &body)).await?;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        })
        .await?;
        worst = worst.max(began.elapsed());
    }
    eprintln!("the slowest of five changes was in force after {worst:?}");
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    Ok(())
}

#[tokio::test]
async fn which_key_verified_is_counted_and_a_previous_one_is_accepted_until_the_keyring_lacks_it()
-> anyhow::Result<()> {
    let (stage, mut keyring, url) = by_hand("previous", &[], "old").await?;
    let before = verified(&stage, "current").await?;
    assert!(before >= 1, "{before}");
    // Its time passed an hour ago by the clock of the receiver, which has no say in it.
    let hour = SignedDuration::from_hours(1);
    keyring.previous = vec![Retired {
        key: key("old"),
        until: Timestamp::now() - hour,
    }];
    keyring.current = Some(key("new"));
    keyring.next = Some(key("newer"));
    write(&stage, &keyring).await?;
    for secret in ["newer", "new"] {
        let body = format!("by {secret}");
        eventually("all keys to be in force", SOON, async || {
            let status = post(&url, &body, &sign(secret, &body)).await?;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        })
        .await?;
    }
    let accepted = 5;
    for number in 0..accepted {
        let body = format!("number {number}");
        assert_eq!(post(&url, &body, &sign("old", &body)).await?, 200);
    }
    keyring.previous.clear();
    write(&stage, &keyring).await?;
    // Each with a body of its own: which of them were verified is counted.
    let late = std::cell::Cell::new(0);
    eventually("the previous key to be refused", SOON, async || {
        let body = format!("late {}", late.get());
        match post(&url, &body, &sign("old", &body)).await? {
            401 => Ok(()),
            200 => {
                late.set(late.get() + 1);
                anyhow::bail!("accepted")
            }
            other => anyhow::bail!("{other}"),
        }
    })
    .await?;
    let accepted = accepted + late.get();
    // The others go on, and each has its own count.
    for secret in ["newer", "new"] {
        let body = format!("still by {secret}");
        assert_eq!(post(&url, &body, &sign(secret, &body)).await?, 200);
    }
    assert_eq!(verified(&stage, "previous").await?, accepted);
    assert_eq!(verified(&stage, "current").await?, before + 2);
    assert_eq!(verified(&stage, "next").await?, 2);
    Ok(())
}
