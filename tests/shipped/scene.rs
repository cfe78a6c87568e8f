//! The operator as its Pod has it: controller and receiver under identities of their own, in namespaces of their own.
//! Nothing here may do anything before a test gives it the right to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::harness::{Cluster, ControlPlane, Launch, Process, Role, SandboxClient, reaper};

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
    /// Whether the operator looks after the users' namespace alone, or after all.
    watches: bool,
    sandbox: Process,
    token: String,
}

impl Scene {
    /// Makes the namespaces and starts CHeKT.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn new(idea: &str) -> anyhow::Result<Scene> {
        Scene::in_plane(ControlPlane::shared().await?, idea, true).await
    }

    /// The same in a control plane that it has for itself, so that the operator may look after all namespaces.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn alone(plane: &'static ControlPlane, idea: &str) -> anyhow::Result<Scene> {
        Scene::in_plane(plane, idea, false).await
    }

    async fn in_plane(
        plane: &'static ControlPlane,
        idea: &str,
        watches: bool,
    ) -> anyhow::Result<Scene> {
        let operator = Cluster::new_in(plane, &format!("{idea}-operator")).await?;
        let users = Cluster::new_in(plane, idea).await?;
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
            watches,
            sandbox,
            token,
        })
    }

    /// A kubeconfig of a service account in the operator's namespace.
    ///
    /// # Errors
    /// When no token is given for it.
    pub async fn identity(&self, service_account: &str) -> anyhow::Result<PathBuf> {
        let api: Api<ServiceAccount> =
            Api::namespaced(self.operator.client.clone(), &self.operator.namespace);
        let wanted: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}}))?;
        let given = api
            .create_token_request(service_account, &PostParams::default(), &wanted)
            .await?;
        let token = given.status.context("no token")?.token;
        let name = format!("{}-{service_account}", self.operator.namespace);
        self.operator.plane.kubeconfig_for_token(&name, &token)
    }

    /// A receiver without any identity, on a journal of its own.
    pub fn receiver(&self) -> Launch {
        let journal = format!("journal-{}", uuid::Uuid::new_v4().simple());
        Launch::new(Role::Receiver)
            .flag("--operator-namespace", &self.operator.namespace)
            .args(self.watched())
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
            .args(self.watched()))
    }

    fn watched(&self) -> Vec<String> {
        let flag = ["--watch-namespace".to_owned(), self.users.namespace.clone()];
        flag.into_iter().filter(|_| self.watches).collect()
    }

    /// Applies the account `default` and its Secret.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn apply_account(&self) -> anyhow::Result<()> {
        self.apply_account_in(&self.users, "default", json!({}))
            .await
    }

    /// Applies an account of this name in a namespace, with whatever else its spec is to have, and its Secret.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn apply_account_in(
        &self,
        cluster: &Cluster,
        name: &str,
        more: Value,
    ) -> anyhow::Result<()> {
        let secret = format!("{name}-token");
        cluster
            .put_secret(&secret, &[("token", &self.token)])
            .await?;
        let mut spec = json!({
            "baseURL": format!("http://{}", self.sandbox.public()?),
            "auth": {"accessToken": {"secretRef": {"name": secret, "key": "token"}}},
            "syncInterval": "10s",
            "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
        });
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        let account = json!({
            "apiVersion": "chekt.com/v1alpha1",
            "kind": "ChektAccount",
            "metadata": {"name": name},
            "spec": spec,
        });
        cluster.apply(&account.to_string()).await?;
        Ok(())
    }

    /// Applies a webhook for alarms, with whatever else its spec is to have.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn apply_webhook(&self, name: &str, more: Value) -> anyhow::Result<()> {
        self.users
            .apply_webhook(name, &["alarm.triggered"], more)
            .await
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
