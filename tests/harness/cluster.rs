//! A namespace of one's own in the shared control plane, with kubectl and a client in it.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::conditions;
use chekt_operator::resources::{ChektAccount, ChektWebhook};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::control_plane::{ControlPlane, Identity};
use super::eventually::eventually;

/// How long one kubectl may take.
const KUBECTL: Duration = Duration::from_secs(60);

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Said {
    /// Its standard output, where it ended well.
    ///
    /// # Errors
    /// What it wrote to standard error, where it did not.
    pub fn ok(self) -> anyhow::Result<String> {
        anyhow::ensure!(
            self.status.success(),
            "kubectl: {}: {}",
            self.status,
            self.stderr.trim()
        );
        Ok(self.stdout)
    }

    /// Its standard error, where it was refused.
    ///
    /// # Errors
    /// When it was not refused.
    pub fn refused(self) -> anyhow::Result<String> {
        anyhow::ensure!(
            !self.status.success(),
            "kubectl was expected to be refused; it said: {}",
            self.stdout.trim()
        );
        Ok(self.stderr)
    }
}

/// One namespace, seen as admin.
#[derive(Clone)]
pub struct Cluster {
    /// The control plane it is in.
    pub plane: &'static ControlPlane,
    /// A client of the admin, on the runtime that made it.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

impl Cluster {
    /// A new namespace in the shared control plane; `idea` is the beginning of its name.
    ///
    /// # Errors
    /// When the control plane does not start, or the namespace cannot be made.
    pub async fn new(idea: &str) -> anyhow::Result<Cluster> {
        Cluster::new_in(ControlPlane::shared().await?, idea).await
    }

    /// A new namespace in this control plane; `idea` is the beginning of its name.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub async fn new_in(plane: &'static ControlPlane, idea: &str) -> anyhow::Result<Cluster> {
        let suffix = uuid::Uuid::new_v4().simple().to_string();
        Cluster::named(plane, &format!("{idea}-{}", &suffix[..6])).await
    }

    /// A new namespace of exactly this name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn named(plane: &'static ControlPlane, namespace: &str) -> anyhow::Result<Cluster> {
        let client = plane.client(Identity::Admin).await?;
        let body: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        let created = Api::all(client.clone())
            .create(&PostParams::default(), &body)
            .await;
        created.with_context(|| format!("cannot make namespace {namespace}"))?;
        Ok(Cluster {
            plane,
            client,
            namespace: namespace.to_owned(),
        })
    }

    /// Webhooks of this namespace.
    pub fn webhooks(&self) -> Api<ChektWebhook> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Accounts of this namespace.
    pub fn accounts(&self) -> Api<ChektAccount> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Secrets of this namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Path of the admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.plane.kubeconfig(Identity::Admin)
    }

    /// Runs kubectl in this namespace as admin.
    ///
    /// # Errors
    /// When it cannot be run or does not end; a refusal is in what it [`Said`].
    pub async fn kubectl(&self, args: &[&str]) -> anyhow::Result<Said> {
        self.kubectl_reading(args, "").await
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// What the API server has against them.
    pub async fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        self.try_apply(manifests).await?.ok()
    }

    /// Applies a webhook with these events and whatever else its spec is to have.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn apply_webhook(
        &self,
        name: &str,
        events: &[&str],
        more: serde_json::Value,
    ) -> anyhow::Result<()> {
        let mut spec = json!({"events": events});
        if let (Some(spec), serde_json::Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let webhook = json!({
            "apiVersion": "chekt.com/v1alpha1",
            "kind": "ChektWebhook",
            "metadata": {"name": name},
            "spec": spec,
        });
        self.apply(&webhook.to_string()).await?;
        Ok(())
    }

    /// Applies manifests that may be refused.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub async fn try_apply(&self, manifests: &str) -> anyhow::Result<Said> {
        self.kubectl_reading(&["apply", "-f", "-"], manifests).await
    }

    /// Runs kubectl with something on its standard input.
    ///
    /// # Errors
    /// When it cannot be run or does not end.
    pub async fn kubectl_reading(&self, args: &[&str], input: &str) -> anyhow::Result<Said> {
        let mut child = tokio::process::Command::new(&self.plane.assets().kubectl)
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--cache-dir")
            .arg(self.plane.dir().join("kubectl-cache"))
            .args(["--namespace", &self.namespace])
            .args(args)
            .env("KUBECTL_KUBERC", "false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no input")?;
        let feed = async move {
            // A kubectl that does not want its input closes it early, which is its good right.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(KUBECTL, both)
            .await
            .with_context(|| format!("kubectl {args:?} did not end within {KUBECTL:?}"))??;
        Ok(Said {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Makes or replaces a Secret with text values.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put_secret(&self, name: &str, data: &[(&str, &str)]) -> anyhow::Result<()> {
        let data: serde_json::Map<_, _> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data,
        });
        self.apply(&secret.to_string()).await?;
        Ok(())
    }

    /// Waits until a condition of a webhook has a status, and gives it back.
    ///
    /// # Errors
    /// When it did not within `limit`, with all conditions as seen last.
    pub async fn webhook_condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        limit: Duration,
    ) -> anyhow::Result<Condition> {
        let api = self.webhooks();
        let what = format!("webhook {name} to have {kind}={status}");
        eventually(&what, limit, || async {
            let webhook = api.get(name).await?;
            let generation = webhook.metadata.generation;
            let observed = webhook.status.as_ref().and_then(|s| s.observed_generation);
            let all = webhook.status.map(|s| s.conditions).unwrap_or_default();
            match conditions::find(&all, kind) {
                Some(c) if c.status == status && observed == generation => Ok(c.clone()),
                _ => anyhow::bail!(
                    "generation {generation:?}, observed {observed:?}, {}",
                    spoken(&all)
                ),
            }
        })
        .await
    }

    /// Waits until a condition of an account has a status, and gives it back.
    ///
    /// # Errors
    /// When it did not within `limit`, with all conditions as seen last.
    pub async fn account_condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        limit: Duration,
    ) -> anyhow::Result<Condition> {
        let api = self.accounts();
        let what = format!("account {name} to have {kind}={status}");
        eventually(&what, limit, || async {
            let account = api.get(name).await?;
            let all = account.status.map(|s| s.conditions).unwrap_or_default();
            match conditions::find(&all, kind) {
                Some(c) if c.status == status => Ok(c.clone()),
                _ => anyhow::bail!("{}", spoken(&all)),
            }
        })
        .await
    }

    /// Waits until a webhook is gone from the cluster.
    ///
    /// # Errors
    /// When it is still there after `limit`.
    pub async fn webhook_gone(&self, name: &str, limit: Duration) -> anyhow::Result<()> {
        let api = self.webhooks();
        eventually(&format!("webhook {name} to be gone"), limit, || async {
            match api.get_opt(name).await? {
                None => Ok(()),
                Some(webhook) => {
                    let all = webhook.status.map(|s| s.conditions).unwrap_or_default();
                    anyhow::bail!("still there: {}", spoken(&all))
                }
            }
        })
        .await
    }

    /// All Events that regard a webhook, in order of their creation.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn events_of(&self, webhook: &str) -> anyhow::Result<Vec<Event>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut events = api.list(&ListParams::default()).await?.items;
        events.retain(|event| {
            let regarding = event.regarding.as_ref();
            regarding.is_some_and(|r| {
                r.kind.as_deref() == Some("ChektWebhook") && r.name.as_deref() == Some(webhook)
            })
        });
        events.sort_by_key(|event| {
            (
                event.event_time.as_ref().map(|t| t.0),
                event.creation_timestamp().map(|t| t.0),
            )
        });
        Ok(events)
    }

    /// Waits until exactly `count` Events with this reason regard a webhook, and gives them back.
    ///
    /// # Errors
    /// When it is another number after `limit`, with all reasons as seen last.
    pub async fn events_with_reason(
        &self,
        webhook: &str,
        reason: &str,
        count: usize,
        limit: Duration,
    ) -> anyhow::Result<Vec<Event>> {
        let what = format!("{count} Events {reason} of webhook {webhook}");
        eventually(&what, limit, || async {
            let all = self.events_of(webhook).await?;
            let (wanted, other): (Vec<_>, Vec<_>) = all
                .into_iter()
                .partition(|e| e.reason.as_deref() == Some(reason));
            if wanted.len() == count {
                return Ok(wanted);
            }
            let other: Vec<_> = other.into_iter().filter_map(|e| e.reason).collect();
            anyhow::bail!("{} of them, and {other:?}", wanted.len())
        })
        .await
    }
}

fn spoken(conditions: &[Condition]) -> String {
    if conditions.is_empty() {
        return "no conditions".to_owned();
    }
    let each = conditions
        .iter()
        .map(|c| format!("{}={} {} ({})", c.type_, c.status, c.reason, c.message));
    each.collect::<Vec<_>>().join("; ")
}
