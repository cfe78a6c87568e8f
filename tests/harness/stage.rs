//! The stage: the whole thing for one test. A namespace for the operator and one for its users, the sandbox as CHeKT,
//! a receiver and a controller that watch these namespaces alone.
//!
//! The receiver starts before the controller, because its address is the public URL that the controller hands out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::conditions::VERIFIED;
use serde_json::json;

use super::cluster::Cluster;
use super::control_plane::{ControlPlane, Identity};
use super::gate::Gate;
use super::process::{Launch, Process, Role};
use super::reaper;
use super::sandbox_client::SandboxClient;

/// How long the processes may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// What a test may want otherwise.
#[derive(Clone, Debug)]
// Each is a thing of its own that a test may want or not.
#[allow(clippy::struct_excessive_bools)]
pub struct StageOptions {
    /// The factor for the sandbox's pauses: 0.01 turns the retry after 5 s into one after 50 ms.
    pub time_scale: f64,
    /// Requests a minute that the sandbox allows; 0 is without limit.
    pub requests_per_minute: u32,
    /// More flags for the sandbox.
    pub sandbox: Vec<String>,
    /// More flags for the receiver.
    pub receiver: Vec<String>,
    /// More flags for the controller.
    pub controller: Vec<String>,
    /// Variables of the receiver's environment.
    pub receiver_env: Vec<(String, String)>,
    /// Variables of the controller's environment.
    pub controller_env: Vec<(String, String)>,
    /// Puts a gate between the processes and the API server.
    pub gate_cluster: bool,
    /// Puts a gate between the controller and the sandbox.
    pub gate_partner: bool,
    /// Who the controller is.
    pub controller_identity: Identity,
    /// Who the receiver is.
    pub receiver_identity: Identity,
    /// `false`: the test starts the controller itself with [`Stage::start_controller`].
    pub with_controller: bool,
    /// Gives receivers ports that nobody else takes while they are down: for restarts under load.
    pub lasting_addresses: bool,
    /// The control plane, where it is not to be the shared one.
    pub plane: Option<&'static ControlPlane>,
    /// Names of the operator's and the users' namespace, instead of new ones.
    pub namespaces: Option<(String, String)>,
}

impl Default for StageOptions {
    fn default() -> Self {
        StageOptions {
            time_scale: 0.01,
            requests_per_minute: 0,
            sandbox: Vec::new(),
            receiver: Vec::new(),
            controller: Vec::new(),
            receiver_env: Vec::new(),
            controller_env: Vec::new(),
            gate_cluster: false,
            gate_partner: false,
            controller_identity: Identity::Admin,
            receiver_identity: Identity::Admin,
            with_controller: true,
            lasting_addresses: false,
            plane: None,
            namespaces: None,
        }
    }
}

/// Everything that runs for one test. Dropping it ends the processes; the namespaces go with the control plane.
pub struct Stage {
    /// The users' namespace, where accounts and webhooks are.
    pub users: Cluster,
    /// The operator's namespace, where the keyrings are.
    pub operator: Cluster,
    /// CHeKT's control routes.
    pub chekt: SandboxClient,
    /// CHeKT.
    pub sandbox: Process,
    /// The receiver.
    pub receiver: Process,
    /// The controller, once it was started.
    pub controller: Option<Process>,
    /// Between the processes and the API server, where it was asked for.
    pub cluster_gate: Option<Gate>,
    /// Between the controller and CHeKT, where it was asked for.
    pub partner_gate: Option<Gate>,
    /// The bearer token that CHeKT accepts.
    pub token: String,
    /// The client id that CHeKT accepts.
    pub client_id: String,
    /// The client secret that CHeKT accepts.
    pub client_secret: String,
    /// Journal and state files; removed at the end.
    pub dir: PathBuf,
    options: StageOptions,
}

impl Stage {
    /// The usual stage; `idea` is the beginning of its namespaces' names.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn new(idea: &str) -> anyhow::Result<Stage> {
        Stage::with(idea, StageOptions::default()).await
    }

    /// A stage as described.
    ///
    /// # Errors
    /// When a part does not start, with the end of its log.
    pub async fn with(idea: &str, options: StageOptions) -> anyhow::Result<Stage> {
        let (operator, users) = namespaces(idea, &options).await?;
        let dir = reaper::directory(idea)?;
        let secret = || uuid::Uuid::new_v4().simple().to_string();
        let (token, client_id, client_secret) = (
            format!("chekt_test_{}", secret()),
            format!("client-{}", secret()),
            secret(),
        );
        let sandbox = Launch::new(Role::Sandbox)
            .flag("--token", &token)
            .flag("--client-id", &client_id)
            .flag("--client-secret", &client_secret)
            .flag("--time-scale", options.time_scale)
            .flag("--requests-per-minute", options.requests_per_minute)
            .flag("--state", dir.join("sandbox.json").display())
            .args(&options.sandbox);
        let sandbox = Process::start(sandbox).await?;
        let chekt = SandboxClient::new(sandbox.public()?)?;

        let cluster_gate = if options.gate_cluster {
            Some(Gate::open(users.plane.address()).await?)
        } else {
            None
        };
        let partner_gate = if options.gate_partner {
            Some(Gate::open(sandbox.public()?).await?)
        } else {
            None
        };
        let kubeconfig = match &cluster_gate {
            Some(gate) => users
                .plane
                .kubeconfig_via(options.receiver_identity, gate.address())?,
            None => users.plane.kubeconfig(options.receiver_identity),
        };
        let mut first = Launch::new(Role::Receiver)
            .env("KUBECONFIG", kubeconfig.display())
            .flag("--operator-namespace", &operator.namespace)
            .flag("--watch-namespace", &users.namespace)
            .args(&options.receiver);
        first.env.extend(options.receiver_env.iter().cloned());
        if options.lasting_addresses {
            first = first.at_lasting_addresses()?;
        }
        let receiver =
            Process::start(first.flag("--journal", dir.join("journal").display())).await?;
        receiver.ready(READY).await?;

        let mut stage = Stage {
            users,
            operator,
            chekt,
            sandbox,
            receiver,
            controller: None,
            cluster_gate,
            partner_gate,
            token,
            client_id,
            client_secret,
            dir,
            options,
        };
        if stage.options.with_controller {
            stage.start_controller().await?;
        }
        Ok(stage)
    }

    /// The usual stage with its account and a webhook `alarms` that is ready and verified.
    ///
    /// # Errors
    /// When a part does not start, or the webhook is not verified in time.
    pub async fn verified(
        idea: &str,
        events: &[&str],
        options: StageOptions,
    ) -> anyhow::Result<Stage> {
        let stage = Stage::with(idea, options).await?;
        stage.apply_account("10s").await?;
        stage.apply_webhook("alarms", events, json!({})).await?;
        stage
            .users
            .webhook_condition("alarms", VERIFIED, "True", READY)
            .await?;
        Ok(stage)
    }

    /// Starts one more receiver, with a journal of its own, beside the one that the stage began with.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub async fn another_receiver(&self) -> anyhow::Result<Process> {
        let journal = format!("journal-{}", uuid::Uuid::new_v4().simple());
        let mut launch = self.receiver.launch().clone();
        launch.addresses.clear();
        if self.options.lasting_addresses {
            launch = launch.at_lasting_addresses()?;
        }
        let journal = self.dir.join(journal);
        let receiver = Process::start(launch.instead("--journal", journal.display())).await?;
        receiver.ready(READY).await?;
        Ok(receiver)
    }

    /// Starts the controller.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub async fn start_controller(&mut self) -> anyhow::Result<()> {
        let who = self.options.controller_identity;
        let kubeconfig = match &self.cluster_gate {
            Some(gate) => self.users.plane.kubeconfig_via(who, gate.address())?,
            None => self.users.plane.kubeconfig(who),
        };
        let controller = self.start_controller_with(kubeconfig).await?;
        controller.ready(READY).await?;
        self.controller = Some(controller);
        Ok(())
    }

    /// Starts one more controller beside the first, which does not go through the gate to the API server.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub async fn another_controller(&self) -> anyhow::Result<Process> {
        let controller = self.start_controller_not_ready().await?;
        controller.ready(READY).await?;
        Ok(controller)
    }

    /// The same, without waiting until it is ready.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub async fn start_controller_not_ready(&self) -> anyhow::Result<Process> {
        let who = self.options.controller_identity;
        self.start_controller_with(self.users.plane.kubeconfig(who))
            .await
    }

    async fn start_controller_with(&self, kubeconfig: PathBuf) -> anyhow::Result<Process> {
        let mut launch = Launch::new(Role::Controller)
            .env("KUBECONFIG", kubeconfig.display())
            .flag("--public-url", self.public_url()?)
            .flag("--operator-namespace", &self.operator.namespace)
            .flag("--watch-namespace", &self.users.namespace)
            .args(&self.options.controller);
        launch
            .env
            .extend(self.options.controller_env.iter().cloned());
        Process::start(launch).await
    }

    /// The running controller.
    ///
    /// # Errors
    /// When it was not started.
    pub fn controller(&mut self) -> anyhow::Result<&mut Process> {
        self.controller
            .as_mut()
            .context("the controller was not started")
    }

    /// The public URL that the controller hands out: the receiver itself.
    ///
    /// # Errors
    /// When the receiver does not listen.
    pub fn public_url(&self) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.receiver.public()?))
    }

    /// Where deliveries for a webhook of the users' namespace arrive.
    ///
    /// # Errors
    /// When the receiver does not listen.
    pub fn derived_url(&self, webhook: &str) -> anyhow::Result<String> {
        let base = self.public_url()?;
        Ok(format!(
            "{base}/webhooks/{}/{webhook}",
            self.users.namespace
        ))
    }

    /// CHeKT's base URL as an account has it: the gate in front of the sandbox where there is one.
    ///
    /// # Errors
    /// When the sandbox does not listen.
    pub fn base_url(&self) -> anyhow::Result<String> {
        let address = match &self.partner_gate {
            Some(gate) => gate.address(),
            None => self.sandbox.public()?,
        };
        Ok(format!("http://{address}"))
    }

    /// Applies the account `default`, by access token, that lists every `interval`, with its Secret.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn apply_account(&self, interval: &str) -> anyhow::Result<()> {
        self.users
            .put_secret("chekt-token", &[("token", &self.token)])
            .await?;
        let account = json!({
            "apiVersion": "chekt.com/v1alpha1",
            "kind": "ChektAccount",
            "metadata": {"name": "default"},
            "spec": {
                "baseURL": self.base_url()?,
                "auth": {"accessToken": {"secretRef": {"name": "chekt-token", "key": "token"}}},
                "syncInterval": interval,
                // The sandbox has no limit here, so the tests do not wait for a budget either.
                "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
            },
        });
        self.users.apply(&account.to_string()).await?;
        Ok(())
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
        self.users.apply_webhook(name, events, more).await
    }

    /// Everything that the processes logged, for a canary test or a failure message.
    pub fn all_log_lines(&self) -> Vec<String> {
        let mut lines = self.receiver.log_lines();
        lines.extend(self.controller.iter().flat_map(Process::log_lines));
        lines.extend(self.sandbox.log_lines());
        lines
    }

    /// The end of the receiver's and the controller's logs.
    pub fn log_tails(&self) -> String {
        let controller = self.controller.as_ref().map(Process::log_tail);
        self.receiver.log_tail() + &controller.unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            super::go_build::say(&self.log_tails());
        }
        // The processes go as fields do; the files are of no use to them any more.
        reaper::remove(&self.dir);
    }
}

async fn namespaces(idea: &str, options: &StageOptions) -> anyhow::Result<(Cluster, Cluster)> {
    let plane = match options.plane {
        Some(plane) => plane,
        None => ControlPlane::shared().await?,
    };
    match &options.namespaces {
        Some((operator, users)) => Ok((
            Cluster::named(plane, operator).await?,
            Cluster::named(plane, users).await?,
        )),
        None => Ok((
            Cluster::new_in(plane, &format!("{idea}-operator")).await?,
            Cluster::new_in(plane, idea).await?,
        )),
    }
}
