//! Webhooks and their keyrings in a real API server, and a real receiver that watches them. No controller is needed:
//! what it would write is written here.

use std::time::Duration;

use chekt_operator::resources::ChektWebhook;
use chekt_operator::resources::keyring::WebhookIdentity;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{Cluster, ControlPlane, Launch, Process, Role};
use crate::{child, machine, servers};

/// How long the receiver may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// Writes at once.
const AT_ONCE: usize = 16;

/// Webhooks, and where they are.
pub struct Planted {
    /// Where the webhooks are.
    pub users: Cluster,
    /// Where the keyrings are.
    pub operator: Cluster,
    /// The webhooks.
    pub webhooks: Vec<WebhookIdentity>,
}

/// A receiver process, its journal on disk.
pub struct Receiving {
    /// The process.
    pub process: Process,
    _dir: tempfile::TempDir,
}

impl Planted {
    /// Makes namespaces, webhooks and keyrings.
    ///
    /// # Errors
    /// What the API server has against them.
    pub async fn new(
        plane: &'static ControlPlane,
        idea: &str,
        webhooks: usize,
    ) -> anyhow::Result<Planted> {
        let users = Cluster::named(plane, &format!("{idea}-users")).await?;
        let operator = Cluster::named(plane, &format!("{idea}-operator")).await?;
        let api: Api<ChektWebhook> = users.webhooks();
        let secrets: Api<Secret> = operator.secrets();
        let made = futures::stream::iter(0..webhooks).map(|number| {
            let (api, secrets, users, operator) = (&api, &secrets, &users, &operator);
            async move {
                let webhook: ChektWebhook = serde_json::from_value(json!({
                    "apiVersion": "chekt.com/v1alpha1",
                    "kind": "ChektWebhook",
                    "metadata": {"name": format!("alarms-{number}"), "labels": {"team": "security"}},
                    "spec": {"events": ["alarm.triggered", "alarm.cleared", "alarm.acknowledged"]},
                }))?;
                let made = api.create(&PostParams::default(), &webhook).await?;
                let identity = WebhookIdentity {
                    namespace: users.namespace.clone(),
                    name: made.name_any(),
                    uid: made.uid().unwrap_or_default(),
                };
                let secret = servers::keyring(&identity)?.to_secret(&operator.namespace);
                secrets.create(&PostParams::default(), &secret).await?;
                anyhow::Ok(identity)
            }
        });
        let webhooks = made.buffered(AT_ONCE).try_collect().await?;
        Ok(Planted {
            users,
            operator,
            webhooks,
        })
    }

    /// Starts the real binary on the servers' core and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time, with the end of its log.
    pub async fn receive(&self, flags: &[&str]) -> anyhow::Result<Receiving> {
        let dir = machine::directory()?;
        let launch = Launch::new(Role::Receiver)
            .env("KUBECONFIG", self.users.kubeconfig().display())
            .flag("--journal", dir.path().join("journal").display())
            .flag("--operator-namespace", &self.operator.namespace)
            .flag("--watch-namespace", &self.users.namespace)
            .args(flags);
        let runtime = tokio::runtime::Handle::current();
        let process = tokio::task::block_in_place(|| {
            child::on_servers_core(|| runtime.block_on(Process::start(launch)))
        })?;
        process.ready(READY).await?;
        Ok(Receiving { process, _dir: dir })
    }
}
