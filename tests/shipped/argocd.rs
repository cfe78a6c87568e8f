//! A real Argo CD installs the chart and syncs the examples from git, and never finds a difference, whatever the operator
//! does meanwhile.
//!
//! No kubelet runs Pods here: the test says of the chart's Deployment what a kubelet would, and the same programs run
//! beside it as processes. They act on what Argo CD has put there.

use std::time::{Duration, Instant};

use anyhow::Context;
use chekt_operator::resources::conditions::{self, READY, VERIFIED};
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::argocd::spoken;
use crate::harness::git::Repository;
use crate::harness::sandbox_client::Fault;
use crate::harness::{ArgoCd, Cluster, ControlPlane, Stage, StageOptions, eventually, reaper};
use crate::helm::{chart, root};

const SOON: Duration = Duration::from_secs(60);
/// The two Applications of `gitops/argocd/application.yaml`.
const OPERATOR: &str = "chekt-operator";
const SECURITY: &str = "chekt-security";

/// The documents of a file of this repository.
fn documents(file: &str) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(root().join(file))?;
    let each = serde_yaml::Deserializer::from_str(&text).map(Value::deserialize);
    Ok(each.collect::<Result<_, _>>()?)
}

/// The example Applications, with our repository for theirs.
fn applications(repository: &Repository) -> anyhow::Result<Vec<Value>> {
    let mut all = documents("gitops/argocd/application.yaml")?;
    for application in &mut all {
        let source = &mut application["spec"]["source"];
        source["repoURL"] = json!(repository.url());
        source["targetRevision"] = json!("main");
        if let Some(chart) = source["chart"].take().as_str() {
            source["path"] = json!(format!("charts/{chart}"));
        }
        // A null would be taken for a value.
        let source = source.as_object_mut().context("no source")?;
        source.retain(|_, value| !value.is_null());
    }
    Ok(all)
}

/// Commits the chart and the example resources, which lead to the sandbox.
fn lay_down(repository: &Repository, stage: &Stage) -> anyhow::Result<String> {
    repository.copy(&chart(), "charts/chekt-operator")?;
    write_account(repository, stage, "first")?;
    let webhook = std::fs::read_to_string(root().join("gitops/argocd/resources/webhook.yaml"))?;
    repository.write("chekt/webhook.yaml", &webhook)?;
    repository.commit("Ask for alarms")
}

/// Writes the Secret and the account. `note` makes one version of the Secret differ from another.
fn write_account(repository: &Repository, stage: &Stage, note: &str) -> anyhow::Result<()> {
    let mut text = String::new();
    for mut document in documents("gitops/argocd/resources/account.yaml")? {
        if document["kind"] == "Secret" {
            document["stringData"]["token"] = json!(stage.token);
            document["metadata"]["annotations"]["example.com/note"] = json!(note);
        } else {
            document["spec"]["baseURL"] = json!(stage.base_url()?);
            document["spec"]["syncInterval"] = json!("10s");
            document["spec"]["rateLimit"] = json!({"requestsPerMinute": 100_000, "burst": 10_000});
        }
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&document)?);
    }
    repository.write("chekt/account.yaml", &text)
}

fn webhook(name: &str, annotations: &Value, more: &Value) -> anyhow::Result<String> {
    let mut webhook = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"events": ["site.armed"]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        webhook["spec"][key] = value.clone();
    }
    Ok(serde_yaml::to_string(&webhook)?)
}

/// Says of the chart's Deployment and its disruption budget what other controllers would once Pods are ready.
async fn run_deployment(operator: &Cluster) -> anyhow::Result<()> {
    let say = async |kind: &str, status: &dyn Fn(&Value) -> Value| {
        let get = ["get", kind, "chekt-operator", "-o", "json"];
        let object: Value = serde_json::from_str(&operator.kubectl(&get).await?.ok()?)?;
        let mut status = status(&object["spec"]);
        status["observedGeneration"] = object["metadata"]["generation"].clone();
        let status = json!({"status": status}).to_string();
        let patch = [
            "patch",
            kind,
            "chekt-operator",
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ];
        operator.kubectl(&patch).await?.ok()
    };
    eventually("the chart's Deployment", SOON, async || {
        say("deployment", &|spec| {
            let replicas = &spec["replicas"];
            json!({
                "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas,
                "availableReplicas": replicas,
                "conditions": [
                    {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": "."},
                    {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "message": "."},
                ],
            })
        })
        .await
    })
    .await?;
    eventually("the chart's PodDisruptionBudget", SOON, async || {
        say("poddisruptionbudget", &|_| {
            json!({
                "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "disruptionsAllowed": 1,
                "conditions": [{
                    "type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": ".",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            })
        })
        .await
    })
    .await?;
    Ok(())
}

/// Health of one object, as an Application tells it.
fn health<'a>(application: &'a Value, kind: &str) -> &'a Value {
    let resources = application["status"]["resources"].as_array();
    let found = resources
        .into_iter()
        .flatten()
        .find(|resource| resource["kind"] == kind);
    found.map_or(&Value::Null, |resource| &resource["health"])
}

/// That an Application has not been synced since, and sees no difference now.
fn assert_unchanged(before: &Value, now: &Value, after: &str) {
    assert_eq!(
        now["status"]["sync"]["status"],
        "Synced",
        "after {after}: {}",
        spoken(now)
    );
    let synced =
        |application: &Value| application["status"]["operationState"]["finishedAt"].clone();
    assert_eq!(synced(before), synced(now), "synced after {after}");
}

/// What an operator does in its life, and what people and CHeKT make it do.
const LIFE: [&str; 10] = [
    "nothing",
    "an alarm",
    "a pass that was asked for",
    "a test delivery that was asked for",
    "a new secret",
    "an edit at CHeKT",
    "a webhook deleted at CHeKT",
    "a webhook switched off at CHeKT",
    "an outage of CHeKT",
    "a new leader",
];

async fn live(stage: &mut Stage, what: &str) -> anyhow::Result<()> {
    let url = stage.derived_url("alarms")?;
    let annotate = async |stage: &Stage, name: &str| {
        let value = format!("chekt.com/{name}={}", uuid::Uuid::new_v4());
        let args = ["annotate", "--overwrite", "cwh/alarms", &value];
        stage.users.kubectl(&args).await?.ok()
    };
    match what {
        "an alarm" => {
            let alarm = json!({"alarm_id": "alarm_1", "site_id": "site_1", "severity": "high"});
            stage.chekt.emit("alarm.triggered", alarm).await?;
            stage
                .users
                .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
                .await?;
        }
        "a pass that was asked for" => {
            annotate(stage, "reconcile-requested-at").await?;
        }
        "a test delivery that was asked for" => {
            annotate(stage, "test-requested-at").await?;
        }
        "a new secret" => {
            let before = stage.chekt.webhook_at(&url, SOON).await?.secret;
            annotate(stage, "rotate-requested-at").await?;
            eventually("the new secret at CHeKT", SOON, async || {
                let now = stage.chekt.webhook_at(&url, SOON).await?.secret;
                anyhow::ensure!(now != before, "still the old one");
                Ok(())
            })
            .await?;
        }
        "an edit at CHeKT" => {
            let id = stage.chekt.webhook_at(&url, SOON).await?.webhook_id;
            let edit = json!({"events": ["site.armed"]});
            stage.chekt.patch_webhook(&id, edit).await?;
            annotate(stage, "reconcile-requested-at").await?;
            eventually("the edit to be undone", SOON, async || {
                let now = stage.chekt.webhook_at(&url, SOON).await?.events;
                anyhow::ensure!(now.len() == 3, "{now:?}");
                Ok(())
            })
            .await?;
        }
        "a webhook deleted at CHeKT" => {
            let id = stage.chekt.webhook_at(&url, SOON).await?.webhook_id;
            stage.chekt.delete_webhook(&id).await?;
            annotate(stage, "reconcile-requested-at").await?;
            eventually("it to be made anew", SOON, async || {
                let now = stage.chekt.webhook_at(&url, SOON).await?.webhook_id;
                anyhow::ensure!(now != id, "still the old one");
                Ok(())
            })
            .await?;
        }
        "a webhook switched off at CHeKT" => {
            let id = stage.chekt.webhook_at(&url, SOON).await?.webhook_id;
            let off = json!({"status": "disabled"});
            stage.chekt.patch_webhook(&id, off).await?;
            annotate(stage, "reconcile-requested-at").await?;
            stage
                .users
                .events_with_reason("alarms", "Reactivated", 1, SOON)
                .await?;
        }
        "an outage of CHeKT" => {
            let faults = [Fault::status("list", "before", 503, 3)];
            stage.chekt.set_faults(&faults).await?;
            annotate(stage, "reconcile-requested-at").await?;
        }
        "a new leader" => {
            let another = stage.another_controller().await?;
            stage.controller()?.kill9()?;
            stage.controller = Some(another);
        }
        _ => {}
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn argo_cd_never_finds_a_difference_and_tells_when_something_is_wrong() -> anyhow::Result<()>
{
    // One of its own: Argo CD looks at everything that there is in a cluster.
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await?));
    let done = story(plane).await;
    plane.stop();
    done
}

async fn story(plane: &'static ControlPlane) -> anyhow::Result<()> {
    let began = Instant::now();
    let tell = |what: &str| println!("{:>5.1} s: {what}", began.elapsed().as_secs_f64());
    let options = StageOptions {
        plane: Some(plane),
        namespaces: Some(("chekt-system".to_owned(), "security".to_owned())),
        ..StageOptions::default()
    };
    let pasted = root().join("gitops/argocd/argocd-cm.yaml");
    let (stage, argocd) = tokio::join!(
        Stage::with("argocd", options),
        ArgoCd::start(plane, &pasted)
    );
    let (mut stage, argocd) = (stage?, argocd?);
    tell("operator and Argo CD run");
    let dir = reaper::directory("gitops")?;
    let repository = Repository::new(&dir.join("repository"))?;
    let commit = lay_down(&repository, &stage)?;
    let [operator, security] = &applications(&repository)?[..] else {
        anyhow::bail!("application.yaml does not hold two Applications");
    };

    argocd.apply(&operator.to_string()).await?;
    run_deployment(&stage.operator).await?;
    argocd.in_order(OPERATOR, &commit, SOON).await?;
    tell("the chart is Synced and Healthy");
    argocd.apply(&security.to_string()).await?;
    argocd.in_order(SECURITY, &commit, SOON).await?;
    waves_came_in_their_order(&stage).await?;
    tell("the resources are Synced and Healthy");
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;

    ten_refreshes(&argocd, &mut stage).await?;
    argocd.in_order(SECURITY, &commit, SOON).await?;
    tell("ten refreshes found no difference");
    rejected_credentials(&argocd, &stage, &repository).await?;
    tell("Degraded when the credentials were rejected, and Healthy again");

    argocd.delete(SECURITY, SOON).await?;
    nothing_is_left(&stage).await?;
    tell("all of it was deleted in the foreground");

    // The same again, in the background, and with applies of the older kind.
    let mut background = security.clone();
    background["spec"]["syncPolicy"]["syncOptions"] = json!(["CreateNamespace=true"]);
    background["metadata"]["finalizers"] =
        json!(["resources-finalizer.argocd.argoproj.io/background"]);
    argocd.apply(&background.to_string()).await?;
    pruned_and_kept(&argocd, &stage, &repository).await?;
    tell("one was pruned, one orphaned and one kept");
    argocd.delete(SECURITY, SOON).await?;
    nothing_is_left(&stage).await?;
    tell("all of it was deleted in the background");
    reaper::remove(&dir);
    Ok(())
}

/// The account was Ready before its webhook was made.
async fn waves_came_in_their_order(stage: &Stage) -> anyhow::Result<()> {
    let account = stage.users.accounts().get("default").await?;
    let conditions = account.status.context("no status")?.conditions;
    let ready = conditions::find(&conditions, READY).context("no Ready")?;
    let webhook = stage.users.webhooks().get("alarms").await?;
    let made = webhook.creation_timestamp().context("no time")?.0;
    assert!(ready.last_transition_time.0 <= made, "{ready:?}, {made}");
    Ok(())
}

async fn ten_refreshes(argocd: &ArgoCd, stage: &mut Stage) -> anyhow::Result<()> {
    let operator = argocd.application(OPERATOR).await?;
    let security = argocd.application(SECURITY).await?;
    for what in LIFE {
        live(stage, what)
            .await
            .with_context(|| format!("after {what}"))?;
        let looked = tokio::join!(argocd.refresh(OPERATOR), argocd.refresh(SECURITY));
        assert_unchanged(&operator, &looked.0?, what);
        assert_unchanged(&security, &looked.1?, what);
    }
    Ok(())
}

/// Health tells that CHeKT rejects the credentials, and that it takes the next ones, which come by git.
async fn rejected_credentials(
    argocd: &ArgoCd,
    stage: &Stage,
    repository: &Repository,
) -> anyhow::Result<()> {
    let refused = [Fault::status("list", "before", 401, 1_000)];
    stage.chekt.set_faults(&refused).await?;
    let seen = argocd
        .until(SECURITY, "to be Degraded", SOON, |application| {
            application["status"]["health"]["status"] == "Degraded"
        })
        .await?;
    let account = health(&seen, "ChektAccount");
    assert_eq!(account["status"], "Degraded", "{}", spoken(&seen));
    assert_eq!(seen["status"]["sync"]["status"], "Synced");

    stage.chekt.clear_faults().await?;
    write_account(repository, stage, "second")?;
    let commit = repository.commit("Change the token")?;
    argocd.refresh(SECURITY).await?;
    argocd.in_order(SECURITY, &commit, SOON).await
}

/// What leaves git is deleted at CHeKT too, unless it is annotated or its deletionPolicy says otherwise.
async fn pruned_and_kept(
    argocd: &ArgoCd,
    stage: &Stage,
    repository: &Repository,
) -> anyhow::Result<()> {
    const NONE: Value = Value::Null;
    let kept = json!({"argocd.argoproj.io/sync-options": "Prune=false"});
    let orphan = json!({"deletionPolicy": "Orphan"});
    repository.write("chekt/pruned.yaml", &webhook("pruned", &json!({}), &NONE)?)?;
    repository.write(
        "chekt/orphan.yaml",
        &webhook("orphan", &json!({}), &orphan)?,
    )?;
    repository.write("chekt/kept.yaml", &webhook("kept", &kept, &NONE)?)?;
    let commit = repository.commit("Ask for more")?;
    argocd.refresh(SECURITY).await?;
    argocd.in_order(SECURITY, &commit, SOON).await?;
    let mut urls = Vec::new();
    for name in ["pruned", "orphan", "kept"] {
        let url = stage.derived_url(name)?;
        stage.chekt.webhook_at(&url, SOON).await?;
        urls.push(url);
        std::fs::remove_file(repository.path(&format!("chekt/{name}.yaml")))?;
    }
    repository.commit("Ask for less")?;
    argocd.refresh(SECURITY).await?;
    stage.users.webhook_gone("pruned", SOON).await?;
    stage.users.webhook_gone("orphan", SOON).await?;
    stage.users.webhooks().get("kept").await?;
    let left: Vec<_> = stage.chekt.webhooks().await?;
    let left: Vec<_> = urls
        .iter()
        .map(|url| left.iter().any(|webhook| webhook.url == *url))
        .collect();
    assert_eq!(left, [false, true, true], "pruned, orphan, kept");
    // What is kept counts as a difference, and that is what an Application shows from then on.
    argocd
        .until(SECURITY, "to tell of what is kept", SOON, |application| {
            application["status"]["sync"]["status"] == "OutOfSync"
        })
        .await?;
    // Somebody has to look after what was orphaned. Here its next user takes it over, and deletes it.
    let again = webhook("orphan", &json!({}), &NONE)?;
    repository.write("chekt/orphan.yaml", &again)?;
    repository.commit("Take back what was let go of")?;
    argocd.refresh(SECURITY).await?;
    stage
        .users
        .webhook_condition("orphan", READY, "True", SOON)
        .await?;
    stage
        .users
        .events_with_reason("orphan", "Adopted", 1, SOON)
        .await?;
    Ok(())
}

/// Objects, remote webhooks and Secret are gone.
async fn nothing_is_left(stage: &Stage) -> anyhow::Result<()> {
    let left = stage.chekt.webhooks().await?;
    assert!(left.is_empty(), "at CHeKT: {left:?}");
    let get = ["get", "chektaccounts,chektwebhooks,secrets", "-o", "name"];
    let left = stage.users.kubectl(&get).await?.ok()?;
    assert_eq!(left.trim(), "", "in the cluster");
    Ok(())
}
