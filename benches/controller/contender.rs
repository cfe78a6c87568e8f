//! Who is compared: our controller, and two reconcilers as a small team would write them.
//!
//! Both peers are given CHeKT's address, the token and the signing secret by their environment, which spares them the
//! Secrets that ours reads from the API server.

use std::process::{Command, Stdio};

use crate::harness::reaper::{self, Guarded};
use crate::harness::{Launch, Process, Role};
use crate::kopf::Kopf;
use crate::scene::{SIGNING_SECRET, Scene};

/// The public url that ours is given where nothing is delivered.
const NOWHERE: &str = "https://alarms.example.com";

/// Who makes the webhooks.
#[derive(Clone, Copy, Debug)]
pub enum Contender<'a> {
    /// The product.
    Ours,
    /// A reconciler with kube-rs, see `naive.rs`.
    Naive,
    /// A handler with kopf, see `peers/kopf/handler.py`.
    Kopf(&'a Kopf),
}

/// One that runs. Dropping it kills it.
pub enum Running {
    /// Ours.
    Ours(Process),
    /// A peer.
    Peer(Guarded),
}

impl Contender<'_> {
    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Ours => "chekt-operator",
            Contender::Naive => "naive kube-rs reconciler",
            Contender::Kopf(_) => "kopf handler",
        }
    }

    /// Starts it on a scene. It is not waited for until it is ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(self, scene: &Scene) -> anyhow::Result<Running> {
        let mut command = match self {
            Contender::Ours => {
                let launch = Launch::new(Role::Controller)
                    .env("KUBECONFIG", scene.users.kubeconfig().display())
                    .flag("--public-url", NOWHERE)
                    .flag("--operator-namespace", &scene.operator.namespace)
                    .flag("--watch-namespace", &scene.users.namespace)
                    .flag("--leader-elect", false);
                return Ok(Running::Ours(Process::start(launch).await?));
            }
            Contender::Naive => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["serve", "naive"]);
                command
            }
            Contender::Kopf(kopf) => kopf.command(&scene.users.namespace),
        };
        command
            .env("KUBECONFIG", scene.users.kubeconfig())
            .env("NAMESPACE", &scene.users.namespace)
            .env("PARTNER_URL", scene.chekt.base_url())
            .env("PARTNER_TOKEN", &scene.token)
            .env("SIGNING_SECRET", SIGNING_SECRET)
            .stdin(Stdio::null())
            .stdout(scene.log("peer")?)
            .stderr(scene.log("peer")?);
        Ok(Running::Peer(reaper::spawn(&mut command)?))
    }
}

impl Running {
    /// Process id.
    pub fn id(&self) -> u32 {
        match self {
            Running::Ours(process) => process.id(),
            Running::Peer(child) => child.id(),
        }
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> anyhow::Result<()> {
        match &mut self {
            Running::Ours(process) => process.kill9(),
            Running::Peer(child) => Ok(child.kill().map(drop)?),
        }
    }
}
