//! `helm --wait` on a chart that holds our kinds: it waits for Ready, ends at once where something is Stalled and says why,
//! and an uninstall waits until the webhook is gone from CHeKT.
//!
//! What kstatus, by which it waits, makes of each state is in `tests/it/kstatus.rs`. Here Helm itself does it, while the
//! real controller works.

use std::time::{Duration, Instant};

use anyhow::Context;
use chekt_operator::resources::conditions::{self, READY};
use serde_json::{Value, json};

use crate::harness::cluster::Said;
use crate::harness::sandbox_client::Fault;
use crate::harness::{Stage, StageOptions};
use crate::helm;

/// As long as Helm may wait where it is to come to an end by itself.
const PATIENT: &str = "60s";
/// As long as it may wait where it is to give up.
const IMPATIENT: &str = "3s";
const SOON: Duration = Duration::from_secs(60);
/// Far below [`PATIENT`]: somebody who waited for that long has not seen that it is Stalled.
const AT_ONCE: Duration = Duration::from_secs(40);

/// What Helm said, in the users' namespace.
async fn run(stage: &Stage, args: &[&str]) -> anyhow::Result<Said> {
    let kubeconfig = stage.users.kubeconfig().display().to_string();
    let place = [
        "--namespace",
        &stage.users.namespace,
        "--kubeconfig",
        &kubeconfig,
    ];
    let args: Vec<_> = args
        .iter()
        .chain(&place)
        .map(|&arg| arg.to_owned())
        .collect();
    let said = tokio::task::spawn_blocking(move || {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        helm::helm(&args, "")
    });
    let said = said.await??;
    Ok(Said {
        status: said.status,
        stdout: String::from_utf8_lossy(&said.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&said.stderr).into_owned(),
    })
}

/// Installs a chart that holds these objects.
async fn install(
    stage: &Stage,
    release: &str,
    objects: &[Value],
    timeout: &str,
) -> anyhow::Result<Said> {
    let chart = tempfile::tempdir()?;
    std::fs::create_dir(chart.path().join("templates"))?;
    std::fs::write(
        chart.path().join("Chart.yaml"),
        format!("apiVersion: v2\nname: {release}\nversion: 0.1.0\n"),
    )?;
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(object)?);
    }
    std::fs::write(chart.path().join("templates/objects.yaml"), text)?;
    let path = chart.path().display().to_string();
    let args = ["install", release, &path, "--wait", "--timeout", timeout];
    run(stage, &args).await
}

fn account(stage: &Stage, name: &str) -> anyhow::Result<[Value; 2]> {
    let secret = format!("{name}-token");
    Ok([
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret},
            "stringData": {"token": stage.token},
        }),
        json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": name},
            "spec": {
                "baseURL": stage.base_url()?,
                "auth": {"accessToken": {"secretRef": {"name": secret, "key": "token"}}},
                "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
            },
        }),
    ])
}

fn webhook(name: &str, event: &str) -> Value {
    json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": name},
        "spec": {"events": [event]},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_waits_for_ready_ends_at_once_when_stalled_and_uninstalls_only_what_chekt_has_let_go()
-> anyhow::Result<()> {
    let options = StageOptions {
        with_controller: false,
        ..StageOptions::default()
    };
    let mut stage = Stage::with("helm-wait", options).await?;
    let early = [webhook("early", "site.armed")];
    let said = install(&stage, "early", &early, IMPATIENT).await?;
    let said = said.refused()?;
    assert!(
        said.contains("InProgress"),
        "nobody has looked at it yet, and Helm takes it for done: {said}"
    );
    stage.start_controller().await?;

    let [secret, default] = account(&stage, "default")?;
    let all = [secret, default, webhook("alarms", "alarm.triggered")];
    install(&stage, "good", &all, PATIENT).await?.ok()?;
    // At the moment at which Helm says that it is done, not some time after.
    let status = stage.users.webhooks().get("alarms").await?.status;
    let all = status.context("no status")?.conditions;
    let ready = conditions::find(&all, READY).context("no Ready")?;
    assert_eq!(ready.status, "True", "{ready:?}");

    let began = Instant::now();
    let refused = [webhook("refused", "no.such_event")];
    let said = install(&stage, "refused", &refused, PATIENT)
        .await?
        .refused()?;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let stalled = stage
        .users
        .webhook_condition("refused", "Stalled", "True", SOON)
        .await?;
    assert!(
        said.contains("Failed") && said.contains(&stalled.message),
        "{said} and not {}",
        stalled.message
    );

    // Of a webhook that is suspended nothing is deleted at CHeKT, so the object stays.
    let suspend = async |on: bool| {
        let change = json!({"spec": {"suspend": on}}).to_string();
        let patch = ["patch", "cwh/alarms", "--type=merge", "-p", &change];
        stage.users.kubectl(&patch).await?.ok()
    };
    suspend(true).await?;
    stage
        .users
        .webhook_condition("alarms", "Suspended", "True", SOON)
        .await?;
    let url = stage.derived_url("alarms")?;
    stage.chekt.webhook_at(&url, SOON).await?;
    let uninstall = ["uninstall", "good", "--wait", "--timeout", IMPATIENT];
    let said = run(&stage, &uninstall).await?.refused()?;
    assert!(
        said.contains("Terminating") || said.contains("alarms"),
        "{said}"
    );
    stage.users.webhooks().get("alarms").await?;
    // Account and Secret were deleted by the same command, and the webhook can be deleted at CHeKT all the same.
    suspend(false).await?;
    stage.users.webhook_gone("alarms", SOON).await?;
    let left = stage.chekt.webhooks().await?;
    assert!(left.iter().all(|webhook| webhook.url != url), "{left:?}");

    // With an account of its own: it is the whole account that pauses.
    let fault: Fault = serde_json::from_value(json!({
        "route": "create", "when": "before", "effect": {"status": 429, "retry_after": 120}, "times": 1,
    }))?;
    stage.chekt.set_faults(&[fault]).await?;
    let [secret, other] = account(&stage, "other")?;
    let mut busy = webhook("busy", "site.armed");
    busy["spec"]["accountRef"] = json!({"name": "other"});
    let busy = [secret, other, busy];
    let said = install(&stage, "busy", &busy, IMPATIENT).await?.refused()?;
    assert!(
        said.contains("InProgress") && said.contains("429"),
        "{said}"
    );
    Ok(())
}
