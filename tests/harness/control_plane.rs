//! A real control plane: etcd, kube-apiserver and kube-controller-manager on free ports of loopback.
//!
//! One per test process is enough, since each test has a namespace of its own. It is shared by tests with runtimes
//! of their own, so it holds no client: a client belongs to the runtime that made it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use tokio::sync::OnceCell;

use super::assets::{self, Assets};
use super::eventually::eventually;
use super::reaper::{self, Guarded};

static SHARED: OnceCell<Result<ControlPlane, String>> = OnceCell::const_new();

/// How long a start may take. It takes about two seconds; the rest is for a machine that has much else to do.
const START: Duration = Duration::from_secs(90);
/// A port that was free a moment ago may be taken by somebody else; then all of it is tried again.
const TRIES: usize = 5;
/// The name of the API server among what runs.
const APISERVER: &str = "kube-apiserver";

/// Somebody whom the API server knows by a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// May do everything.
    Admin,
    /// The user `chekt-controller`, who may do what a test's RBAC gives them.
    Controller,
    /// The user `chekt-receiver`, likewise.
    Receiver,
    /// The user `somebody`, likewise.
    Somebody,
    /// The user `nobody`, whom no test gives any right: those of the whole cluster hold for all tests of a run.
    Nobody,
}

impl Identity {
    const ALL: [Identity; 5] = [
        Identity::Admin,
        Identity::Controller,
        Identity::Receiver,
        Identity::Somebody,
        Identity::Nobody,
    ];

    /// May do everything.
    pub fn admin() -> Self {
        Identity::Admin
    }

    /// The name that RBAC rules give rights to.
    pub fn user(self) -> &'static str {
        match self {
            Identity::Admin => "admin",
            Identity::Controller => "chekt-controller",
            Identity::Receiver => "chekt-receiver",
            Identity::Somebody => "somebody",
            Identity::Nobody => "nobody",
        }
    }
}

/// A running control plane with our definitions installed. Dropping it stops it and removes what it wrote.
#[derive(Debug)]
pub struct ControlPlane {
    assets: Assets,
    dir: PathBuf,
    address: SocketAddr,
    etcd_url: String,
    tokens: BTreeMap<Identity, String>,
    // In the order in which they are stopped: those that ask before those that answer.
    running: Mutex<Vec<(&'static str, Guarded)>>,
}

impl ControlPlane {
    /// The one that the tests of this process share; the first who asks starts it.
    ///
    /// # Errors
    /// When it cannot be started, the same for everyone who asks.
    pub async fn shared() -> anyhow::Result<&'static ControlPlane> {
        let start = || async { ControlPlane::start().await.map_err(|e| format!("{e:#}")) };
        let shared = SHARED.get_or_init(start).await;
        shared.as_ref().map_err(|e| anyhow::anyhow!("{e}"))
    }

    /// The shared one, if it was started.
    pub fn started() -> Option<&'static ControlPlane> {
        SHARED.get().and_then(|shared| shared.as_ref().ok())
    }

    /// Starts one, with the definitions established.
    ///
    /// # Errors
    /// When it is not ready in time, with the end of each program's log.
    pub async fn start() -> anyhow::Result<ControlPlane> {
        let assets = tokio::task::spawn_blocking(assets::find).await??;
        let mut failed = String::new();
        for _ in 0..TRIES {
            let plane = ControlPlane::launch(assets.clone())?;
            match plane.settle().await {
                Ok(()) => return Ok(plane),
                Err(error) => {
                    failed = format!("{error:#}\n{}", plane.logs());
                    if !failed.contains("address already in use") {
                        break;
                    }
                }
            }
        }
        anyhow::bail!("the control plane did not start: {failed}")
    }

    /// One that somebody else runs, such as a node: at this address, with the admin's kubeconfig in `dir`. Only the admin
    /// is known there.
    pub fn elsewhere(assets: Assets, dir: PathBuf, address: SocketAddr) -> ControlPlane {
        ControlPlane {
            assets,
            dir,
            address,
            etcd_url: String::new(),
            tokens: BTreeMap::new(),
            running: Mutex::default(),
        }
    }

    /// Path of a kubeconfig for `who`.
    pub fn kubeconfig(&self, who: Identity) -> PathBuf {
        self.dir.join(format!("{}.kubeconfig", who.user()))
    }

    /// Path of a kubeconfig for `who` that goes through another address, such as that of a gate.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_via(&self, who: Identity, via: SocketAddr) -> anyhow::Result<PathBuf> {
        let path = self
            .dir
            .join(format!("{}-via-{}.kubeconfig", who.user(), via.port()));
        let token = self.tokens.get(&who).context("nobody of that name")?;
        self.write_kubeconfig(&path, token, via)?;
        Ok(path)
    }

    /// Path of a kubeconfig for any token, such as one from a TokenRequest. `name` is that of the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_for_token(&self, name: &str, token: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(format!("token-{name}.kubeconfig"));
        self.write_kubeconfig(&path, token, self.address)?;
        Ok(path)
    }

    /// A client for `who`, on the runtime of the caller.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self, who: Identity) -> anyhow::Result<Client> {
        // kube and reqwest may each want to choose a provider; whoever comes second finds it chosen.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(who))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(Client::try_from(config)?)
    }

    /// Where the API server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The programs it runs on.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// A directory that goes with the control plane.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Process ids of what runs.
    pub fn pids(&self) -> Vec<u32> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().map(|(_, child)| child.id()).collect()
    }

    /// Stops the API server where it stands: connections stay open, new ones are taken by the kernel, and nothing is
    /// answered. Not for the shared control plane, nor are the three below.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze_apiserver(&self) -> anyhow::Result<()> {
        self.with_apiserver(|child| child.signal("STOP"))
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw_apiserver(&self) -> anyhow::Result<()> {
        self.with_apiserver(|child| child.signal("CONT"))
    }

    /// Kills the API server with SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_apiserver(&self) -> anyhow::Result<()> {
        self.with_apiserver(|child| child.kill().map(drop))?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|(name, _)| *name != APISERVER);
        Ok(())
    }

    /// Starts it again at the same address, with the same certificate, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn start_apiserver(&self) -> anyhow::Result<()> {
        self.run_apiserver()?;
        let client = self.client(Identity::Admin).await?;
        self.until_ready(&client).await
    }

    fn with_apiserver(
        &self,
        act: impl FnOnce(&mut Guarded) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let apiserver = running.iter_mut().find(|(name, _)| *name == APISERVER);
        let (_, child) = apiserver.context("the API server does not run")?;
        Ok(act(child)?)
    }

    /// Stops everything and removes what it wrote. A shared one is not dropped, so whoever wants it gone says so;
    /// else the reaper does it at the end of the process.
    pub fn stop(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.clear();
        reaper::remove(&self.dir);
    }

    /// The end of each program's log.
    pub fn logs(&self) -> String {
        ["etcd", APISERVER, "kube-controller-manager"]
            .iter()
            .filter_map(|name| {
                let text = fs::read_to_string(self.dir.join(format!("{name}.log"))).ok()?;
                let lines: Vec<_> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(20)..].join("\n");
                Some(format!("--- {name}\n{tail}\n"))
            })
            .collect()
    }

    fn launch(assets: Assets) -> anyhow::Result<ControlPlane> {
        let dir = reaper::directory("control-plane")?;
        let [etcd, etcd_peer, apiserver] = free_ports()?;
        let mut plane = ControlPlane {
            assets,
            dir,
            address: apiserver,
            etcd_url: String::new(),
            tokens: BTreeMap::new(),
            running: Mutex::default(),
        };
        plane.write_identities()?;
        let etcd_url = format!("http://{etcd}");
        let mut command = Command::new(&plane.assets.etcd);
        command
            .arg("--data-dir")
            .arg(plane.dir.join("etcd"))
            .args(["--listen-client-urls", &etcd_url])
            .args(["--advertise-client-urls", &etcd_url])
            .args(["--listen-peer-urls", &format!("http://{etcd_peer}")])
            // Of 2 GiB by default, the large Secrets of a benchmark take half, and their list another.
            .args(["--quota-backend-bytes", "8589934592"])
            .args(["--unsafe-no-fsync", "--log-level=warn"]);
        plane.run("etcd", command)?;

        plane.etcd_url = etcd_url;
        plane.run_apiserver()?;
        Ok(plane)
    }

    fn run_apiserver(&self) -> anyhow::Result<()> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut command = Command::new(&self.assets.apiserver);
        command
            .arg(format!("--etcd-servers={}", self.etcd_url))
            .arg(format!("--cert-dir={}", file("certs")))
            .arg(format!("--secure-port={}", self.address.port()))
            .arg("--bind-address=127.0.0.1")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", file("sa.pub")))
            .arg(format!(
                "--service-account-signing-key-file={}",
                file("sa.key")
            ))
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .arg("--authorization-mode=RBAC")
            .arg("--service-cluster-ip-range=10.0.0.0/24")
            .arg("--allow-privileged=true")
            // Nobody runs pods here, so nobody waits for a namespace's default service account.
            .arg("--disable-admission-plugins=ServiceAccount");
        self.run(APISERVER, command)
    }

    async fn settle(&self) -> anyhow::Result<()> {
        // The server writes its certificate as it starts, so there is no kubeconfig to trust it by before.
        let certificate = self.dir.join("certs/apiserver.crt");
        self.until("the API server's certificate", async || {
            let text = fs::read_to_string(&certificate).map_err(anyhow::Error::from)?;
            anyhow::ensure!(text.contains("END CERTIFICATE"), "half a certificate");
            Ok(())
        })
        .await?;
        for who in Identity::ALL {
            let token = self.tokens.get(&who).context("nobody of that name")?;
            self.write_kubeconfig(&self.kubeconfig(who), token, self.address)?;
        }
        let client = self.client(Identity::Admin).await?;
        self.until_ready(&client).await?;
        if let Some(program) = self.assets.controller_manager.clone() {
            let mut command = Command::new(program);
            command
                .arg(format!(
                    "--kubeconfig={}",
                    self.kubeconfig(Identity::Admin).display()
                ))
                .arg(
                    "--controllers=namespace-controller,garbage-collector-controller,\
                     serviceaccount-controller,root-ca-certificate-publisher-controller,\
                     clusterrole-aggregation-controller",
                )
                .args(["--leader-elect=false", "--secure-port=0"]);
            self.run("kube-controller-manager", command)?;
        }
        self.install_definitions(&client).await
    }

    async fn until_ready(&self, client: &Client) -> anyhow::Result<()> {
        self.until("/readyz of the API server", async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            client.request_text(request).await?;
            Ok(())
        })
        .await
    }

    async fn install_definitions(&self, client: &Client) -> anyhow::Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let manager = PatchParams::apply("chekt-operator-harness").force();
        let mut names = Vec::new();
        for (_, yaml) in chekt_operator::resources::crd_files()? {
            let definition: serde_json::Value = serde_yaml::from_str(&yaml)?;
            let name = definition["metadata"]["name"]
                .as_str()
                .context("a definition without a name")?
                .to_owned();
            api.patch(&name, &manager, &Patch::Apply(&definition))
                .await?;
            names.push(name);
        }
        for name in &names {
            self.until("the definitions to be established", async || {
                let definition = api.get(name).await?;
                let conditions = definition
                    .status
                    .as_ref()
                    .and_then(|s| s.conditions.as_ref());
                let established = conditions.is_some_and(|all| {
                    all.iter()
                        .any(|c| c.type_ == "Established" && c.status == "True")
                });
                let name = definition.name_any();
                anyhow::ensure!(established, "{name}: {conditions:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits for something, and not for longer than the programs live.
    async fn until(
        &self,
        what: &str,
        look: impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let ended = || -> anyhow::Result<_> {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, child) in running.iter_mut() {
                if let Some(status) = child.ended()? {
                    return Ok(Some((*name, status)));
                }
            }
            Ok(None)
        };
        let died = async {
            loop {
                if let Some(died) = ended()? {
                    return anyhow::Ok(died);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            seen = eventually(what, START, look) => seen,
            died = died => {
                let (name, status) = died?;
                anyhow::bail!("{name} ended with {status} while {what} was waited for")
            }
        }
    }

    fn run(&self, name: &'static str, mut command: Command) -> anyhow::Result<()> {
        let log = File::create(self.dir.join(format!("{name}.log")))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = reaper::spawn(&mut command).with_context(|| format!("cannot start {name}"))?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(0, (name, child));
        Ok(())
    }

    fn write_identities(&mut self) -> anyhow::Result<()> {
        let mut file = String::new();
        for who in Identity::ALL {
            let token = uuid::Uuid::new_v4().to_string();
            let user = who.user();
            let groups = match who {
                Identity::Admin => ",system:masters",
                Identity::Controller
                | Identity::Receiver
                | Identity::Somebody
                | Identity::Nobody => "",
            };
            writeln!(file, "{token},{user},{user}{groups}")?;
            self.tokens.insert(who, token);
        }
        fs::write(self.dir.join("tokens.csv"), file)?;
        // The key that signs service account tokens.
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let private = key.to_pkcs8v1()?;
        fs::write(
            self.dir.join("sa.key"),
            pem("PRIVATE KEY", private.as_ref()),
        )?;
        let public = key.public_key().as_der()?;
        fs::write(self.dir.join("sa.pub"), pem("PUBLIC KEY", public.as_ref()))?;
        Ok(())
    }

    fn write_kubeconfig(&self, path: &Path, token: &str, server: SocketAddr) -> anyhow::Result<()> {
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "chekt",
            "clusters": [{"name": "chekt", "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority": self.dir.join("certs/apiserver.crt"),
            }}],
            "users": [{"name": "chekt", "user": {"token": token}}],
            "contexts": [{"name": "chekt", "context": {"cluster": "chekt", "user": "chekt"}}],
        });
        fs::write(path, serde_yaml::to_string(&kubeconfig)?)?;
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = body
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// Ports that were free a moment ago: bound all at once, so that no two are the same.
pub(super) fn free_ports<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let listeners: Vec<_> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let addresses: Vec<_> = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?;
    addresses
        .try_into()
        .map_err(|_| anyhow::anyhow!("ports went missing"))
}
