//! A partner server that misbehaves on purpose: what it sends is bounded, and what it says is shown without secrets.

use std::time::Duration;

use chekt_operator::resources::conditions::READY;
use serde_json::json;

use crate::harness::adversary::{ALL, Manner};
use crate::harness::{Adversary, Stage, eventually};

/// A call may take 15 s, and an account is given up after some of them.
const SOON: Duration = Duration::from_secs(120);
/// The most that the controller may have held at any moment, in KiB: half of the chart's limit.
const MAX_MEMORY: u64 = 128 * 1024;
/// The most bytes of an object as the API server shows it.
const MAX_OBJECT: usize = 16 * 1024;
/// How many accounts send bodies without an end at once.
const CROWD: usize = 64;

const BEARER: &str = "canary-bearer/c0ffee+0123456789";
const CLIENT_SECRET: &str = "canary-client-c0ffee-9876543210";
const SIGNING: &str = "canary-signing c0ffee \"é\" 5566778899";

/// Whether the account of a manner fetches a token.
fn fetches(manner: Manner) -> bool {
    matches!(
        manner,
        Manner::EndlessToken | Manner::EndlessRefusal | Manner::DrippingToken | Manner::TokenEcho
    )
}

async fn apply_account(stage: &Stage, name: &str, base: &str, fetches: bool) -> anyhow::Result<()> {
    let auth = if fetches {
        json!({"clientCredentials": {
            "tokenURL": format!("{base}/token"),
            "secretRef": {"name": "canaries"},
        }})
    } else {
        json!({"accessToken": {"secretRef": {"name": "canaries", "key": "bearer"}}})
    };
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": name},
        "spec": {
            "baseURL": base, "auth": auth, "syncInterval": "10s",
            "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
        },
    });
    stage.users.apply(&account.to_string()).await?;
    Ok(())
}

async fn put_canaries(stage: &Stage) -> anyhow::Result<()> {
    let canaries = [
        ("bearer", BEARER),
        ("client_id", "me"),
        ("client_secret", CLIENT_SECRET),
        ("signing", SIGNING),
    ];
    stage.users.put_secret("canaries", &canaries).await
}

/// The largest resident memory so far, in KiB.
fn most_memory(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line
        .unwrap_or_default()
        .trim()
        .trim_end_matches(" kB")
        .parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_partner_server_says_is_shown_without_secrets_and_control_characters()
-> anyhow::Result<()> {
    let mut stage = Stage::new("adversary").await?;
    let adversary = Adversary::start().await?;
    put_canaries(&stage).await?;
    for (number, manner) in ALL.into_iter().enumerate() {
        let name = format!("a{number}");
        let base = adversary.base_url(manner, number);
        apply_account(&stage, &name, &base, fetches(manner)).await?;
        let spec = json!({
            "accountRef": {"name": name}, "testPolicy": "Never",
            "secretRef": {"name": "canaries", "key": "signing"},
        });
        stage
            .users
            .apply_webhook(&name, &["alarm.triggered"], spec)
            .await?;
    }
    for (number, manner) in ALL.into_iter().enumerate() {
        let name = format!("a{number}");
        let shown = eventually(&format!("{manner:?} to be told"), SOON, async || {
            let webhook = stage.users.webhooks().get(&name).await?;
            let status = webhook.status.unwrap_or_default();
            let ready = status.conditions.iter().find(|c| c.type_ == READY);
            let ready = ready.map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()));
            let told = ready.filter(|(_, reason, _)| {
                ["AccountNotReady", "Rejected", "UnknownState", "Retrying"]
                    .contains(&reason.as_str())
            });
            told.ok_or_else(|| anyhow::anyhow!("not yet"))
        })
        .await?;
        println!("{manner:?}: {shown:?}");
        assert_ne!(shown.0, "True", "{manner:?}: {shown:?}");
    }

    let mut places = vec![("logs".to_owned(), stage.all_log_lines().join("\n"))];
    for kind in ["cwh", "cacc", "events.events.k8s.io"] {
        let args = ["get", kind, "-o", "json"];
        let shown = stage.users.kubectl(&args).await?.ok()?;
        let list: serde_json::Value = serde_json::from_str(&shown)?;
        for object in list["items"].as_array().into_iter().flatten() {
            let text = object.to_string();
            let name = object["metadata"]["name"].to_string();
            assert!(
                text.len() < MAX_OBJECT,
                "{kind} {name}: {} bytes",
                text.len()
            );
            places.push((format!("{kind} {name}"), text));
        }
    }
    let id = stage.controller()?.id();
    places.push(("metrics".to_owned(), stage.controller()?.metrics().await?));
    let kubeconfig = stage.users.kubeconfig();
    let status = crate::harness::process::command(
        &kubeconfig,
        &["status", "-n", &stage.users.namespace],
        "",
    )
    .await?;
    places.push(("chekt status".to_owned(), status.stdout));
    for (place, text) in &places {
        for canary in [BEARER, CLIENT_SECRET, SIGNING] {
            for part in canary.as_bytes().windows(14) {
                let part = String::from_utf8_lossy(part).to_lowercase();
                assert!(
                    !text.to_lowercase().contains(&part),
                    "{canary} is in {place}: {text}"
                );
            }
        }
        let odd = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
        assert!(
            !text.contains(odd) && !text.contains("\\u001b"),
            "{place}: {text:?}"
        );
    }
    let memory = most_memory(id)?;
    assert!(memory < MAX_MEMORY, "{memory} KiB");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_accounts_whose_bodies_never_end_cost_less_than_128_mib() -> anyhow::Result<()> {
    let mut stage = Stage::new("endless").await?;
    let adversary = Adversary::start().await?;
    put_canaries(&stage).await?;
    let manners = [
        Manner::EndlessToken,
        Manner::EndlessList,
        Manner::EndlessRefusal,
        Manner::EndlessPages,
    ];
    for number in 0..CROWD {
        let manner = manners[number % manners.len()];
        let base = adversary.base_url(manner, number);
        apply_account(&stage, &format!("a{number}"), &base, fetches(manner)).await?;
    }
    for number in 0..CROWD {
        let name = format!("a{number}");
        stage
            .users
            .account_condition(&name, READY, "False", SOON)
            .await?;
    }
    let id = stage.controller()?.id();
    let memory = most_memory(id)?;
    println!("at most {memory} KiB");
    assert!(memory < MAX_MEMORY, "{memory} KiB");
    assert!(stage.controller()?.ended()?.is_none());
    Ok(())
}
