//! The operator as its Pod has it: controller and receiver under identities of their own, in namespaces of their own.
//! Nothing here may do anything before a test gives it the right to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::harness::{Cluster, Launch, Process, Role, SandboxClient, reaper};

/// How long anything may take that is expected to happen.
pub const SOON: Duration = Duration::from_secs(40);

/// Two namespaces and CHeKT.
pub struct Scene {
    /// Where accounts and webhooks are.
    pub users: Cluster,
    /// Where the operator is.
    pub operator: Cluster,
    /// CHeKT.
    pub chekt: SandboxClient,
    /// Files of the processes; removed at the end.
    pub dir: PathBuf,
    sandbox: Process,
    token: String,
}

impl Scene {
    /// Makes the namespaces and starts CHeKT.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn new(idea: &str) -> anyhow::Result<Scene> {
        let operator = Cluster::new(&format!("{idea}-operator")).await?;
        let users = Cluster::new(idea).await?;
        let token = format!("chekt_test_{}", uuid::Uuid::new_v4().simple());
        let sandbox = Launch::new(Role::Sandbox)
            .flag("--token", &token)
            .flag("--time-scale", 0.01)
            .flag("--requests-per-minute", 0);
        let sandbox = Process::start(sandbox).await?;
        Ok(Scene {
            users,
            operator,
            chekt: SandboxClient::new(sandbox.public()?)?,
            dir: reaper::directory(idea)?,
            sandbox,
            token,
        })
    }

    /// A receiver without any identity, on a journal of its own.
    pub fn receiver(&self) -> Launch {
        let journal = format!("journal-{}", uuid::Uuid::new_v4().simple());
        Launch::new(Role::Receiver)
            .flag("--operator-namespace", &self.operator.namespace)
            .flag("--watch-namespace", &self.users.namespace)
            .flag("--journal", self.dir.join(journal).display())
            .flag("--drain-delay", 0)
    }

    /// A receiver whose credentials are in a directory, as they are in a Pod.
    pub fn receiver_with(&self, credentials: &Path) -> Launch {
        let server = self.users.plane.address();
        self.receiver()
            .env("KUBERNETES_SERVICE_HOST", server.ip())
            .env("KUBERNETES_SERVICE_PORT", server.port())
            .flag("--kubernetes-credentials", credentials.display())
    }

    /// A controller for a receiver.
    ///
    /// # Errors
    /// When the receiver does not listen.
    pub fn controller(&self, kubeconfig: &Path, receiver: &Process) -> anyhow::Result<Launch> {
        Ok(Launch::new(Role::Controller)
            .env("KUBECONFIG", kubeconfig.display())
            .flag("--public-url", format!("http://{}", receiver.public()?))
            .flag("--operator-namespace", &self.operator.namespace)
            .flag("--watch-namespace", &self.users.namespace))
    }

    /// Applies the account `default` and its Secret.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn apply_account(&self) -> anyhow::Result<()> {
        self.users
            .put_secret("chekt-token", &[("token", &self.token)])
            .await?;
        let account = json!({
            "apiVersion": "chekt.com/v1alpha1",
            "kind": "ChektAccount",
            "metadata": {"name": "default"},
            "spec": {
                "baseURL": format!("http://{}", self.sandbox.public()?),
                "auth": {"accessToken": {"secretRef": {"name": "chekt-token", "key": "token"}}},
                "syncInterval": "10s",
                "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
            },
        });
        self.users.apply(&account.to_string()).await?;
        Ok(())
    }

    /// Applies a webhook for alarms, with whatever else its spec is to have.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn apply_webhook(&self, name: &str, more: Value) -> anyhow::Result<()> {
        let mut spec = json!({"events": ["alarm.triggered"]});
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        let webhook = json!({
            "apiVersion": "chekt.com/v1alpha1",
            "kind": "ChektWebhook",
            "metadata": {"name": name},
            "spec": spec,
        });
        self.users.apply(&webhook.to_string()).await?;
        Ok(())
    }

    /// An alarm at CHeKT, which every webhook is told of; gives back once the receiver has answered 200.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn alarm(&self, id: &str) -> anyhow::Result<()> {
        let data = json!({"alarm_id": id, "site_id": "site_123"});
        let sent = self.chekt.emit("alarm.triggered", data).await?;
        self.chekt.delivered(&sent, SOON).await
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        reaper::remove(&self.dir);
    }
}

/// The value of a series of a process, named as `/metrics` shows it.
///
/// # Errors
/// When there is no such series.
pub async fn metric(process: &Process, series: &str) -> anyhow::Result<f64> {
    let metrics = process.metrics().await?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .with_context(|| format!("no series {series}"))?;
    Ok(line.parse()?)
}
