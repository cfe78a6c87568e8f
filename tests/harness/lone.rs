//! A receiver alone: webhooks and their keyrings are there, and neither a controller nor CHeKT. For what is between the
//! acknowledged delivery and whoever is told of it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::keyring::{Key, Keyring, SigningSecret, WebhookIdentity};
use futures::{StreamExt, TryStreamExt};
use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::control_plane::Identity;
use super::eventually::eventually;
use super::process::{Launch, Process, Role};
use super::reaper;

/// What deliveries are signed with.
pub const SECRET: &[u8] = b"a-secret-of-the-harness";
/// How long the receiver may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// Deliveries that are posted at the same time.
const AT_ONCE: usize = 32;

/// The receiver and its surroundings. Dropping it ends the process.
pub struct Lone {
    /// Where the webhooks are.
    pub users: Cluster,
    /// Where the keyrings are.
    pub operator: Cluster,
    /// The receiver.
    pub receiver: Process,
    http: reqwest::Client,
    dir: PathBuf,
    posted: AtomicUsize,
}

impl Lone {
    /// Makes the webhooks and starts a receiver with these flags as `who`. Anybody but the admin may do what
    /// docs/howto/by-hand.md says that a receiver needs.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(
        idea: &str,
        webhooks: &[&str],
        who: Identity,
        flags: &[&str],
    ) -> anyhow::Result<Lone> {
        let operator = Cluster::new(&format!("{idea}-operator")).await?;
        let users = Cluster::new(idea).await?;
        for name in webhooks {
            make(&users, &operator, name).await?;
        }
        if who != Identity::Admin {
            allow(
                &operator,
                who,
                "keyrings",
                json!([
                    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]},
                ]),
            )
            .await?;
            allow(&users, who, "webhooks", json!([
                {"apiGroups": ["chekt.com"], "resources": ["chektwebhooks"], "verbs": ["list", "watch"]},
                {"apiGroups": ["chekt.com"], "resources": ["chektwebhooks/status"], "verbs": ["patch"]},
            ]))
            .await?;
            permit_events(&users, who).await?;
        }
        let dir = reaper::directory(idea)?;
        let launch = Launch::new(Role::Receiver)
            .env("KUBECONFIG", users.plane.kubeconfig(who).display())
            .flag("--journal", dir.join("journal").display())
            .flag("--operator-namespace", &operator.namespace)
            .flag("--watch-namespace", &users.namespace)
            .args(flags);
        let receiver = Process::start(launch).await?;
        receiver.ready(READY).await?;
        Ok(Lone {
            users,
            operator,
            receiver,
            http: reqwest::Client::builder().no_proxy().build()?,
            dir,
            posted: AtomicUsize::new(0),
        })
    }

    /// Makes a webhook in another namespace, which the receiver must have been told to watch.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn join(&self, users: &Cluster, webhook: &str) -> anyhow::Result<()> {
        make(users, &self.operator, webhook).await?;
        eventually("a delivery to be accepted", READY, async || {
            self.post_to(&users.namespace, webhook, self.alarm()).await
        })
        .await
    }

    /// An alarm that was never posted before.
    pub fn alarm(&self) -> String {
        let number = self.posted.fetch_add(1, Ordering::Relaxed);
        json!({"event": "alarm.triggered", "timestamp": "2024-01-15T14:20:00Z",
            "data": {"alarm_id": format!("a-{number}"), "site_id": "site_123"}})
        .to_string()
    }

    /// Posts a signed body to a webhook.
    ///
    /// # Errors
    /// When the answer is not 200.
    pub async fn post(&self, webhook: &str, body: impl Into<Vec<u8>>) -> anyhow::Result<()> {
        self.post_to(&self.users.namespace, webhook, body).await
    }

    /// Posts a signed body to a webhook of another namespace.
    ///
    /// # Errors
    /// When the answer is not 200.
    pub async fn post_to(
        &self,
        namespace: &str,
        webhook: &str,
        body: impl Into<Vec<u8>>,
    ) -> anyhow::Result<()> {
        let body = body.into();
        let address = self.receiver.public()?;
        let url = format!("http://{address}/webhooks/{namespace}/{webhook}");
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET)?;
        mac.update(&body);
        let signature = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
        let answer = self
            .http
            .post(url)
            .header("x-webhook-signature", format!("sha256={signature}"))
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        anyhow::ensure!(status == 200, "{status}: {}", self.receiver.log_tail());
        Ok(())
    }

    /// Posts so many alarms to a webhook, some at once.
    ///
    /// # Errors
    /// When one answer is not 200.
    pub async fn post_alarms(&self, webhook: &str, count: usize) -> anyhow::Result<()> {
        self.post_alarms_to(&self.users.namespace, webhook, count)
            .await
    }

    /// Posts so many alarms to a webhook of another namespace, some at once.
    ///
    /// # Errors
    /// When one answer is not 200.
    pub async fn post_alarms_to(
        &self,
        namespace: &str,
        webhook: &str,
        count: usize,
    ) -> anyhow::Result<()> {
        futures::stream::iter(0..count)
            .map(|_| self.post_to(namespace, webhook, self.alarm()))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// The value of a series of the receiver's metrics, named as `/metrics` shows it.
    ///
    /// # Errors
    /// When there is no such series.
    pub async fn metric(&self, series: &str) -> anyhow::Result<i64> {
        let metrics = self.receiver.metrics().await?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .with_context(|| format!("no series {series}"))?;
        #[allow(clippy::cast_possible_truncation)]
        let value = line.parse::<f64>()? as i64;
        Ok(value)
    }

    /// Attempts to publish that had this outcome.
    ///
    /// # Errors
    /// When they are not counted.
    pub async fn attempts(&self, outcome: &str) -> anyhow::Result<i64> {
        let series = format!("chekt_receiver_events_total{{outcome=\"{outcome}\"}}");
        self.metric(&series).await
    }

    /// The lines of the receiver's log with this message, as JSON.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let lines = self.receiver.log_lines();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["message"] == message)
            .collect()
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            super::go_build::say(&self.receiver.log_tail());
        }
        reaper::remove(&self.dir);
    }
}

/// Lets somebody make Events in a namespace.
///
/// # Errors
/// What the API server has against it.
pub async fn permit_events(users: &Cluster, who: Identity) -> anyhow::Result<()> {
    let rules =
        json!([{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}]);
    allow(users, who, "events", rules).await
}

async fn allow(cluster: &Cluster, who: Identity, name: &str, rules: Value) -> anyhow::Result<()> {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": name}, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": who.user()}],
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [role, binding]});
    cluster.apply(&list.to_string()).await?;
    Ok(())
}

async fn make(users: &Cluster, operator: &Cluster, name: &str) -> anyhow::Result<()> {
    let webhook = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
        "metadata": {"name": name, "labels": {"team": "night-watch"}},
        "spec": {"events": ["alarm.triggered"]},
    });
    users.apply(&webhook.to_string()).await?;
    let uid = users.webhooks().get(name).await?.metadata.uid;
    let keyring = Keyring {
        current: Some(Key {
            id: format!("key-of-{name}"),
            secret: SigningSecret::new(SECRET.to_vec())?,
        }),
        ..Keyring::empty(WebhookIdentity {
            namespace: users.namespace.clone(),
            name: name.to_owned(),
            uid: uid.context("a webhook without a uid")?,
        })
    };
    let secret: Secret = keyring.to_secret(&operator.namespace);
    operator
        .secrets()
        .create(&PostParams::default(), &secret)
        .await?;
    Ok(())
}
