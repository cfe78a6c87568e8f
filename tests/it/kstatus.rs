//! What others make of our status: kstatus, by which Helm and Flux wait, and `kubectl wait`, say the same as we do.
//!
//! Each state is a real object that the real controller brought there. kstatus is the library itself
//! (`tests/kstatus`), and `kubectl wait` looks once.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::conditions::{READY, SUSPENDED};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::{Cluster, Stage, StageOptions, assets, eventually};

const SOON: Duration = Duration::from_secs(40);

/// One state, and what is to be said of it.
struct Row {
    /// The state, for people.
    state: &'static str,
    /// The object, as kubectl names it.
    object: &'static str,
    /// kstatus' word.
    word: &'static str,
    /// What its message holds.
    says: &'static str,
    /// What `kubectl wait --for` ends well on.
    met: &'static [&'static str],
    /// What it would wait for.
    unmet: &'static [&'static str],
}

/// kstatus' word and message for an object.
async fn kstatus(cluster: &Cluster, object: &str) -> anyhow::Result<(String, String)> {
    let program = tokio::task::spawn_blocking(assets::kstatus).await??;
    let text = cluster
        .kubectl(&["get", object, "-o", "json"])
        .await?
        .ok()?;
    let mut child = tokio::process::Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("kstatus has no input")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let said = child.wait_with_output().await?;
    let error = String::from_utf8_lossy(&said.stderr);
    anyhow::ensure!(said.status.success(), "kstatus: {error}");
    let said = String::from_utf8(said.stdout)?;
    let (word, message) = said.trim_end().split_once('\n').unwrap_or((&said, ""));
    Ok((word.trim().to_owned(), message.to_owned()))
}

/// Whether `kubectl wait` has nothing to wait for.
async fn is_met(cluster: &Cluster, object: &str, what: &str) -> anyhow::Result<bool> {
    let what = format!("--for={what}");
    let said = cluster
        .kubectl(&["wait", object, &what, "--timeout=0"])
        .await?;
    if said.status.success() {
        return Ok(true);
    }
    let waits = said.stderr.contains("timed out") || said.stderr.contains("condition not met");
    anyhow::ensure!(waits, "kubectl wait {what}: {}", said.stderr.trim());
    Ok(false)
}

async fn agree(cluster: &Cluster, row: &Row) -> anyhow::Result<()> {
    let Row {
        state,
        object,
        word,
        says,
        met,
        unmet,
    } = row;
    let what = format!("{object}, {state}: kstatus to say {word}");
    eventually(&what, SOON, async || {
        let (said, message) = kstatus(cluster, object).await?;
        anyhow::ensure!(said == *word && message.contains(says), "{said}: {message}");
        Ok(())
    })
    .await?;
    for what in *met {
        anyhow::ensure!(
            is_met(cluster, object, what).await?,
            "{object}, {state}: {what} is not met"
        );
    }
    for what in *unmet {
        anyhow::ensure!(
            !is_met(cluster, object, what).await?,
            "{object}, {state}: {what} is met"
        );
    }
    println!(
        "| {object} | {state} | {word} | {} | {} |",
        met.join(", "),
        unmet.join(", ")
    );
    Ok(())
}

const IS_READY: &str = "condition=Ready";
const IS_NOT_READY: &str = "condition=Ready=False";
const IS_STALLED: &str = "condition=Stalled";
const IS_RECONCILING: &str = "condition=Reconciling";
const IS_SUSPENDED: &str = "condition=Suspended";
const IS_GONE: &str = "delete";

async fn put_account(stage: &Stage, name: &str, base: &str, token: &str) -> anyhow::Result<()> {
    let secret = format!("{name}-token");
    stage.users.put_secret(&secret, &[("token", token)]).await?;
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": name},
        "spec": {
            "baseURL": base,
            "auth": {"accessToken": {"secretRef": {"name": secret, "key": "token"}}},
            "rateLimit": {"requestsPerMinute": 6000, "burst": 100},
        },
    });
    stage.users.apply(&account.to_string()).await?;
    Ok(())
}

async fn patch(cluster: &Cluster, object: &str, change: Value) -> anyhow::Result<()> {
    let change = change.to_string();
    cluster
        .kubectl(&["patch", object, "--type=merge", "-p", &change])
        .await?
        .ok()?;
    Ok(())
}

#[tokio::test]
async fn kstatus_and_kubectl_wait_agree_with_us_on_every_state_of_a_webhook() -> anyhow::Result<()>
{
    let options = StageOptions {
        with_controller: false,
        ..StageOptions::default()
    };
    let mut stage = Stage::with("kstatus", options).await?;
    let cluster = stage.users.clone();
    stage.apply_account("10s").await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    agree(
        &cluster,
        &Row {
            state: "fresh",
            object: "cwh/alarms",
            word: "InProgress",
            says: "generation",
            met: &[],
            unmet: &[IS_READY, IS_NOT_READY, IS_STALLED, IS_RECONCILING],
        },
    )
    .await?;

    stage.start_controller().await?;
    agree(
        &cluster,
        &Row {
            state: "ready",
            object: "cwh/alarms",
            word: "Current",
            says: "",
            met: &[IS_READY],
            unmet: &[IS_NOT_READY, IS_STALLED, IS_RECONCILING],
        },
    )
    .await?;

    patch(&cluster, "cwh/alarms", json!({"spec": {"suspend": true}})).await?;
    cluster
        .webhook_condition("alarms", SUSPENDED, "True", SOON)
        .await?;
    agree(
        &cluster,
        &Row {
            state: "suspended, and as written",
            object: "cwh/alarms",
            word: "Current",
            says: "",
            met: &[IS_READY, IS_SUSPENDED],
            unmet: &[IS_STALLED, IS_RECONCILING],
        },
    )
    .await?;
    stage
        .apply_webhook("paused", &["site.armed"], json!({"suspend": true}))
        .await?;
    agree(
        &cluster,
        &Row {
            state: "suspended before it was made",
            object: "cwh/paused",
            word: "InProgress",
            says: "spec.suspend is true",
            met: &[IS_SUSPENDED],
            unmet: &[IS_READY, IS_STALLED, IS_RECONCILING],
        },
    )
    .await?;

    stage
        .apply_webhook("refused", &["no.such_event"], json!({}))
        .await?;
    agree(
        &cluster,
        &Row {
            state: "stalled",
            object: "cwh/refused",
            word: "Failed",
            says: "422",
            met: &[IS_STALLED, IS_NOT_READY],
            unmet: &[IS_READY, IS_RECONCILING],
        },
    )
    .await?;

    let elsewhere = json!({"accountRef": {"name": "nobodys"}});
    stage
        .apply_webhook("waiting", &["site.armed"], elsewhere)
        .await?;
    agree(
        &cluster,
        &Row {
            state: "waiting for its account",
            object: "cwh/waiting",
            word: "InProgress",
            says: "does not exist",
            met: &[IS_NOT_READY],
            unmet: &[IS_READY, IS_STALLED, IS_RECONCILING],
        },
    )
    .await?;

    // While it is suspended its remote webhook is not deleted, so it goes no further than this.
    cluster
        .kubectl(&["delete", "cwh/alarms", "--wait=false"])
        .await?
        .ok()?;
    agree(
        &cluster,
        &Row {
            state: "deleting",
            object: "cwh/alarms",
            word: "Terminating",
            says: "",
            met: &[],
            unmet: &[IS_GONE],
        },
    )
    .await?;
    patch(&cluster, "cwh/alarms", json!({"spec": {"suspend": false}})).await?;
    let gone = ["wait", "cwh/alarms", "--for=delete", "--timeout=30s"];
    cluster.kubectl(&gone).await?.ok()?;

    stage
        .apply_webhook("edited", &["alarm.triggered"], json!({}))
        .await?;
    cluster
        .webhook_condition("edited", READY, "True", SOON)
        .await?;

    // Long enough for all that is asked below.
    let fault = json!([{"route": "create", "when": "before", "effect": {"status": 429, "retry_after": 120}, "times": 1}]);
    stage
        .chekt
        .set_faults(&serde_json::from_value::<Vec<_>>(fault)?)
        .await?;
    stage
        .apply_webhook("busy", &["site.armed"], json!({}))
        .await?;
    agree(
        &cluster,
        &Row {
            state: "in progress",
            object: "cwh/busy",
            word: "InProgress",
            says: "429",
            met: &[IS_RECONCILING, IS_NOT_READY],
            unmet: &[IS_READY, IS_STALLED],
        },
    )
    .await?;

    stage.controller()?.kill9()?;
    patch(
        &cluster,
        "cwh/edited",
        json!({"spec": {"events": ["site.armed"]}}),
    )
    .await?;
    agree(
        &cluster,
        &Row {
            state: "edited, and not looked at yet",
            object: "cwh/edited",
            word: "InProgress",
            says: "generation",
            met: &[],
            unmet: &[IS_READY, IS_STALLED],
        },
    )
    .await
}

#[tokio::test]
async fn kstatus_and_kubectl_wait_agree_with_us_on_every_state_of_an_account() -> anyhow::Result<()>
{
    let options = StageOptions {
        with_controller: false,
        ..StageOptions::default()
    };
    let mut stage = Stage::with("kstatus-account", options).await?;
    let cluster = stage.users.clone();
    let base = stage.base_url()?;
    put_account(&stage, "good", &base, &stage.token).await?;
    put_account(&stage, "wrong", &base, "not-a-token-of-theirs").await?;
    // Nobody listens there.
    put_account(&stage, "away", "http://127.0.0.1:1", &stage.token).await?;
    agree(
        &cluster,
        &Row {
            state: "fresh",
            object: "cacc/good",
            word: "InProgress",
            says: "generation",
            met: &[],
            unmet: &[IS_READY, IS_NOT_READY, IS_STALLED, IS_RECONCILING],
        },
    )
    .await?;
    stage.start_controller().await?;
    agree(
        &cluster,
        &Row {
            state: "ready",
            object: "cacc/good",
            word: "Current",
            says: "",
            met: &[IS_READY],
            unmet: &[IS_NOT_READY, IS_STALLED, IS_RECONCILING],
        },
    )
    .await?;
    agree(
        &cluster,
        &Row {
            state: "stalled",
            object: "cacc/wrong",
            word: "Failed",
            says: "credentials",
            met: &[IS_STALLED, IS_NOT_READY],
            unmet: &[IS_READY, IS_RECONCILING],
        },
    )
    .await?;
    agree(
        &cluster,
        &Row {
            state: "in progress",
            object: "cacc/away",
            word: "InProgress",
            says: "cannot be reached",
            met: &[IS_RECONCILING, IS_NOT_READY],
            unmet: &[IS_READY, IS_STALLED],
        },
    )
    .await?;
    patch(
        &cluster,
        "cacc/good",
        json!({"metadata": {"finalizers": ["example.com/held-by-the-test"]}}),
    )
    .await?;
    cluster
        .kubectl(&["delete", "cacc/good", "--wait=false"])
        .await?
        .ok()?;
    agree(
        &cluster,
        &Row {
            state: "deleting",
            object: "cacc/good",
            word: "Terminating",
            says: "",
            met: &[],
            unmet: &[IS_GONE],
        },
    )
    .await?;
    patch(
        &cluster,
        "cacc/good",
        json!({"metadata": {"finalizers": null}}),
    )
    .await?;
    cluster
        .kubectl(&["wait", "cacc/good", "--for=delete", "--timeout=30s"])
        .await?
        .ok()?;
    Ok(())
}
