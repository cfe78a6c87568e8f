//! A scene: namespaces and a sandbox of their own, an account, and webhooks in them.
//!
//! The sandbox keeps no state file, which would cost more with each webhook, and lists in pages of 100.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::ChektWebhook;
use chekt_operator::resources::conditions::{self, READY};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::json;

use crate::harness::{Cluster, ControlPlane, Launch, Process, Role, SandboxClient, reaper};

/// Webhooks on a page of CHeKT's list.
pub const PAGE: usize = 100;
/// Creations at once.
const AT_ONCE: usize = 16;
/// How long a process may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The signing secret of webhooks that are given one.
pub const SIGNING_SECRET: &str = "5f0c4b1d9e7a4f2c8d3b6a1e0f9c7d5b";

/// What the webhooks of a scene are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A given url and secret, no test delivery: what a peer can do as well.
    Given,
    /// By default: derived url, generated secret, a test delivery.
    Default,
}

/// Everything around a controller.
pub struct Scene {
    /// Where the webhooks are.
    pub users: Cluster,
    /// Where the keyrings are.
    pub operator: Cluster,
    /// CHeKT's control routes.
    pub chekt: SandboxClient,
    /// Where processes log to.
    pub dir: PathBuf,
    /// What CHeKT takes for a token.
    pub token: String,
    _sandbox: Process,
}

/// A call that CHeKT was sent.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// When.
    pub at: Timestamp,
    /// `create`, `list`, `patch`, `delete`, `test`; absent for what is no call or has no such name.
    #[serde(default)]
    pub route: Option<String>,
    /// `GET`, ...
    #[serde(default)]
    pub method: Option<String>,
}

impl Scene {
    /// Makes one, with an account that lists every `interval`.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn new(
        plane: &'static ControlPlane,
        idea: &str,
        interval: &str,
    ) -> anyhow::Result<Scene> {
        let users = Cluster::new_in(plane, &format!("bench-{idea}")).await?;
        let operator = Cluster::new_in(plane, &format!("bench-{idea}-operator")).await?;
        let token = format!("chekt_test_{}", uuid::Uuid::new_v4().simple());
        let sandbox = Launch::new(Role::Sandbox)
            .flag("--token", &token)
            .flag("--time-scale", 0.01)
            .flag("--requests-per-minute", 0);
        let sandbox = Process::start(sandbox).await?;
        let chekt = SandboxClient::new(sandbox.public()?)?;
        chekt
            .set_quirks(json!({"list_paging": "page", "page_size": PAGE, "get_one": "object"}))
            .await?;
        let scene = Scene {
            users,
            operator,
            chekt,
            dir: reaper::directory(idea)?,
            token,
            _sandbox: sandbox,
        };
        let users = &scene.users;
        users
            .put_secret("token", &[("token", &scene.token)])
            .await?;
        users
            .put_secret("hook", &[("secret", SIGNING_SECRET)])
            .await?;
        scene.set_interval(interval).await?;
        Ok(scene)
    }

    /// How often the account is listed.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn set_interval(&self, interval: &str) -> anyhow::Result<()> {
        let account = json!({
            "apiVersion": "chekt.com/v1alpha1",
            "kind": "ChektAccount",
            "metadata": {"name": "default"},
            "spec": {
                "baseURL": self.chekt.base_url(),
                "auth": {"accessToken": {"secretRef": {"name": "token", "key": "token"}}},
                "syncInterval": interval,
                // The sandbox has no limit here, so nobody waits for a budget.
                "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
            },
        });
        self.users.apply(&account.to_string()).await?;
        Ok(())
    }

    /// From now on a POST takes as long as over a long line.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn slow_posts(&self, pause: Duration) -> anyhow::Result<()> {
        let milliseconds = u64::try_from(pause.as_millis())?;
        let fault = json!([{
            "route": "create", "when": "before", "effect": {"stall_ms": milliseconds}, "times": null
        }]);
        let url = format!("{}/sandbox/faults", self.chekt.base_url());
        let answer = reqwest::Client::new().put(url).json(&fault).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// Creates webhooks with these numbers.
    ///
    /// # Errors
    /// What the API server has against them.
    pub async fn plant(&self, numbers: Range<usize>, shape: Shape) -> anyhow::Result<()> {
        let api: Api<ChektWebhook> = self.users.webhooks();
        let made = futures::stream::iter(numbers).map(|number| {
            let api = &api;
            let name = format!("w{number}");
            let mut spec = json!({"events": ["alarm.triggered", "alarm.cleared"]});
            if shape == Shape::Given {
                spec["url"] = json!(format!("https://site.example/hooks/{name}"));
                spec["secretRef"] = json!({"name": "hook", "key": "secret"});
                spec["testPolicy"] = json!("Never");
            }
            async move {
                let webhook: ChektWebhook = serde_json::from_value(json!({
                    "apiVersion": "chekt.com/v1alpha1",
                    "kind": "ChektWebhook",
                    "metadata": {"name": name},
                    "spec": spec,
                }))?;
                api.create(&PostParams::default(), &webhook).await?;
                anyhow::Ok(())
            }
        });
        made.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Asks for the deletion of all webhooks.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn delete_all(&self) -> anyhow::Result<()> {
        let api = self.users.webhooks();
        api.delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        Ok(())
    }

    /// Waits until `count` webhooks are made as far as their own status says.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub async fn until_made(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        let (ready, _listed) = tokio::sync::oneshot::channel();
        self.watch_made(count, limit, ready).await.map(drop)
    }

    /// Watches until `count` webhooks are made as far as their own status says, and says by `ready` when it knows those
    /// that are there. Returns when somebody first wrote to one of these, and when the last one was made.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub async fn watch_made(
        &self,
        count: usize,
        limit: Duration,
        ready: tokio::sync::oneshot::Sender<()>,
    ) -> anyhow::Result<(Timestamp, Timestamp)> {
        let mut ready = Some(ready);
        let (mut made, mut listed, mut first) = (std::collections::HashSet::new(), false, None);
        let mut events = std::pin::pin!(
            watcher(self.users.webhooks(), watcher::Config::default()).default_backoff()
        );
        let watch = async {
            while let Some(event) = events.try_next().await? {
                let webhook = match event {
                    watcher::Event::InitDone => {
                        listed = true;
                        // Whoever does not want to know has dropped the other end.
                        let _ = ready.take().map(|ready| ready.send(()));
                        continue;
                    }
                    watcher::Event::Init | watcher::Event::Delete(_) => continue,
                    watcher::Event::InitApply(webhook) | watcher::Event::Apply(webhook) => webhook,
                };
                if listed {
                    first.get_or_insert_with(Timestamp::now);
                }
                if is_made(&webhook) {
                    made.insert(webhook.name_any());
                    if made.len() == count {
                        return anyhow::Ok(Timestamp::now());
                    }
                }
            }
            anyhow::bail!("the watch ended")
        };
        let done = match tokio::time::timeout(limit, watch).await {
            Ok(done) => done?,
            Err(_) => anyhow::bail!("after {limit:?} {} of {count} are made", made.len()),
        };
        Ok((first.unwrap_or(done), done))
    }

    /// Calls that CHeKT was sent after a position of the ledger.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn calls(&self, after: u64) -> anyhow::Result<Vec<Call>> {
        #[derive(Deserialize)]
        struct Ledger {
            entries: Vec<Call>,
        }
        let url = format!("{}/sandbox/ledger?after={after}", self.chekt.base_url());
        let answer = reqwest::get(url).await?.error_for_status()?;
        let mut entries = answer.json::<Ledger>().await?.entries;
        entries.retain(|call| call.method.is_some());
        Ok(entries)
    }

    /// The present end of the ledger.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn mark(&self) -> anyhow::Result<u64> {
        // From the end on: the whole ledger may be long.
        Ok(self.chekt.ledger(u64::MAX).await?.next)
    }

    /// Starts our controller and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time, with the end of its log.
    pub async fn ours(&self, public_url: &str, flags: &[String]) -> anyhow::Result<Process> {
        let launch = Launch::new(Role::Controller)
            .env("KUBECONFIG", self.users.kubeconfig().display())
            .flag("--public-url", public_url)
            .flag("--operator-namespace", &self.operator.namespace)
            .flag("--watch-namespace", &self.users.namespace)
            .flag("--leader-elect", false)
            .args(flags);
        let process = Process::start(launch).await?;
        process.ready(READY_WITHIN).await?;
        Ok(process)
    }

    /// Starts a receiver and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time, with the end of its log.
    pub async fn receiver(&self) -> anyhow::Result<Process> {
        let launch = Launch::new(Role::Receiver)
            .env("KUBECONFIG", self.users.kubeconfig().display())
            .flag("--journal", self.dir.join("journal").display())
            .flag("--operator-namespace", &self.operator.namespace)
            .flag("--watch-namespace", &self.users.namespace);
        let process = Process::start(launch).await?;
        process.ready(READY_WITHIN).await?;
        Ok(process)
    }

    /// A file for what a peer says.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn log(&self, who: &str) -> anyhow::Result<File> {
        let path = self.dir.join(format!("{who}.log"));
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        reaper::remove(&self.dir);
    }
}

/// Whether a webhook says of itself that all is done.
pub fn is_made(webhook: &ChektWebhook) -> bool {
    webhook.status.as_ref().is_some_and(|status| {
        status.webhook_id.is_some()
            && status.observed_generation == webhook.metadata.generation
            && conditions::find(&status.conditions, READY).is_some_and(|c| c.status == "True")
    })
}
