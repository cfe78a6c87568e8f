//! A real Argo CD in its smallest form: the repo-server, which renders what is in git, the application controller, which
//! compares and syncs, and the memory between them. No web page and no users.
//!
//! They run beside the control plane as our own processes do, on free ports of loopback.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::control_plane::{ControlPlane, free_ports};
use super::eventually::eventually;
use super::reaper::{self, Guarded};
use super::tools;

/// How long its processes may take to be ready; they take some five seconds.
const START: Duration = Duration::from_secs(90);
/// How long it may take for one look at an application that was asked for.
const LOOK: Duration = Duration::from_secs(60);
/// Where it and its Applications live.
pub const NAMESPACE: &str = "argocd";
/// Scripts that its image has in PATH. Without them the repo-server says no more than "permission denied".
const SCRIPTS: [&str; 3] = ["git-verify-wrapper.sh", "gpg-wrapper.sh", "git-ask-pass.sh"];

/// A running Argo CD. Dropping it ends the processes; its objects go with the control plane.
pub struct ArgoCd {
    /// Its own namespace.
    pub cluster: Cluster,
    dir: PathBuf,
    // Those that ask before those that answer.
    running: Vec<(&'static str, Guarded)>,
}

impl ArgoCd {
    /// Starts it in this control plane, set up as its own manifests do it. `patch` is a file that is then pasted into its
    /// ConfigMap `argocd-cm`.
    ///
    /// # Errors
    /// When a part is not ready in time, with the end of its log.
    pub async fn start(plane: &'static ControlPlane, patch: &Path) -> anyhow::Result<ArgoCd> {
        let cluster = Cluster::named(plane, NAMESPACE).await?;
        let programs = tokio::task::spawn_blocking(|| {
            anyhow::Ok((
                tools::ARGOCD.path()?,
                tools::MINIREDIS.path()?,
                tools::HELM.path()?,
                tools::ARGOCD.sources("github.com/argoproj/argo-cd/v3")?,
            ))
        });
        let (argocd, redis, helm, sources) = programs.await??;
        let mut it = ArgoCd {
            cluster,
            dir: reaper::directory("argocd")?,
            running: Vec::new(),
        };
        it.lay_out(&argocd, &sources)?;
        it.install(&sources, patch).await?;
        it.run(&redis, &helm).await?;
        Ok(it)
    }

    /// Applies an Application, or several.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        self.cluster.apply(manifests).await?;
        Ok(())
    }

    /// An Application as it is now.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn application(&self, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::to_value(self.applications().get(name).await?)?)
    }

    /// Waits until an Application is as `look` wants it, and gives it back.
    ///
    /// # Errors
    /// What `look` said last, with what Argo CD says of the application.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        look: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        eventually(&format!("application {name}: {what}"), limit, async || {
            let application = self.application(name).await?;
            anyhow::ensure!(look(&application), "{}", spoken(&application));
            Ok(application)
        })
        .await
        .with_context(|| self.logs())
    }

    /// Waits until an Application is synced to a commit, and all that it holds is healthy.
    ///
    /// # Errors
    /// What Argo CD says of it after `limit`.
    pub async fn in_order(&self, name: &str, commit: &str, limit: Duration) -> anyhow::Result<()> {
        self.until(name, "to be Synced and Healthy", limit, |application| {
            let status = &application["status"];
            status["sync"]["revision"] == commit
                && status["sync"]["status"] == "Synced"
                && status["health"]["status"] == "Healthy"
                && status["operationState"]["phase"] == "Succeeded"
        })
        .await?;
        Ok(())
    }

    /// Has an Application compared anew, from a fresh look at git and rendered again, and gives back what came out.
    ///
    /// # Errors
    /// When it does not look in time.
    pub async fn refresh(&self, name: &str) -> anyhow::Result<Value> {
        const ASKED: &str = "argocd.argoproj.io/refresh";
        let ask = json!({"metadata": {"annotations": {ASKED: "hard"}}});
        let api = self.applications();
        api.patch(name, &PatchParams::default(), &Patch::Merge(&ask))
            .await?;
        self.until(name, "to be looked at", LOOK, |application| {
            application["metadata"]["annotations"][ASKED].is_null()
        })
        .await
    }

    /// Deletes an Application and waits until it is gone, and with it what its finalizer takes along.
    ///
    /// # Errors
    /// When it is still there after `limit`.
    pub async fn delete(&self, name: &str, limit: Duration) -> anyhow::Result<()> {
        let api = self.applications();
        api.delete(name, &kube::api::DeleteParams::default())
            .await?;
        eventually(
            &format!("application {name} to be gone"),
            limit,
            async || match api.get_opt(name).await? {
                None => Ok(()),
                Some(there) => anyhow::bail!("{}", spoken(&serde_json::to_value(there)?)),
            },
        )
        .await
        .with_context(|| self.logs())
    }

    /// The end of each part's log, but for what is no trouble.
    pub fn logs(&self) -> String {
        ["argocd-application-controller", "argocd-repo-server"]
            .iter()
            .filter_map(|name| {
                let text = fs::read_to_string(self.dir.join(format!("{name}.log"))).ok()?;
                let trouble = text
                    .lines()
                    .filter(|line| !line.contains(r#""level":"info""#));
                let lines: Vec<_> = trouble.collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                Some(format!("--- {name}\n{tail}\n"))
            })
            .collect()
    }

    fn applications(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Application");
        let resource = ApiResource::from_gvk(&kind);
        Api::namespaced_with(self.cluster.client.clone(), NAMESPACE, &resource)
    }

    /// The folders and programs as its image has them.
    fn lay_out(&self, argocd: &Path, sources: &Path) -> anyhow::Result<()> {
        for folder in ["bin", "home", "tmp", "tls", "ssh", "gpg"] {
            fs::create_dir(self.dir.join(folder))?;
        }
        // It looks at its own name to know which part it is.
        for name in [
            "argocd",
            "argocd-repo-server",
            "argocd-application-controller",
        ] {
            symlink(argocd, self.dir.join("bin").join(name))?;
        }
        for script in SCRIPTS {
            // A module's files are not executable.
            let copy = self.dir.join("bin").join(script);
            fs::write(&copy, fs::read(sources.join("hack").join(script))?)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Its definitions and settings.
    async fn install(&self, sources: &Path, patch: &Path) -> anyhow::Result<()> {
        let apply = async |file: &str| {
            let file = sources.join("manifests").join(file).display().to_string();
            // The definitions are too large for the annotation that a client-side apply would write.
            let args = ["apply", "--server-side", "-f", &file];
            self.cluster.kubectl(&args).await?.ok()
        };
        for kind in ["application", "applicationset", "appproject"] {
            apply(&format!("crds/{kind}-crd.yaml")).await?;
        }
        for part in [
            "cm",
            "cmd-params-cm",
            "rbac-cm",
            "gpg-keys-cm",
            "tls-certs-cm",
            "ssh-known-hosts-cm",
        ] {
            apply(&format!("base/config/argocd-{part}.yaml")).await?;
        }
        let patch = patch.display().to_string();
        let paste = ["patch", "configmap", "argocd-cm", "--patch-file", &patch];
        self.cluster.kubectl(&paste).await?.ok()?;
        let wait = [
            "wait",
            "--for=condition=Established",
            "crd/applications.argoproj.io",
            "crd/appprojects.argoproj.io",
            "--timeout=30s",
        ];
        self.cluster.kubectl(&wait).await?.ok()?;
        // The first it makes itself where there is a server of its, which we do not run.
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {
                    "name": "argocd-secret",
                    "labels": {"app.kubernetes.io/part-of": "argocd"},
                },
                "stringData": {"server.secretkey": uuid::Uuid::new_v4().to_string()},
            },
            {
                "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject",
                "metadata": {"name": "default"},
                "spec": {
                    "sourceRepos": ["*"],
                    "destinations": [{"server": "*", "namespace": "*"}],
                    "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
                },
            },
        ]});
        self.cluster.apply(&objects.to_string()).await?;
        Ok(())
    }

    async fn run(&mut self, redis: &Path, helm: &Path) -> anyhow::Result<()> {
        let [memory, repo, repo_metrics, metrics] = free_ports()?;
        let mut command = Command::new(redis);
        command.arg(memory.to_string());
        self.spawn("miniredis", command)?;

        let memory = memory.to_string();
        let mut command = self.part("argocd-repo-server", helm)?;
        command
            .args(["--address", "127.0.0.1", "--metrics-address", "127.0.0.1"])
            .args(["--port", &repo.port().to_string()])
            .args(["--metrics-port", &repo_metrics.port().to_string()])
            .args(["--redis", &memory])
            // Without a certificate there must be no default for those of clients either.
            .args(["--disable-tls", "--client-ca-path", ""]);
        self.spawn("argocd-repo-server", command)?;
        self.healthy("argocd-repo-server", repo_metrics).await?;

        let mut command = self.part("argocd-application-controller", helm)?;
        command
            .args(["--namespace", NAMESPACE, "--kubeconfig"])
            .arg(self.cluster.kubeconfig())
            .args([
                "--repo-server",
                &repo.to_string(),
                "--repo-server-plaintext",
            ])
            .args(["--redis", &memory])
            .args(["--metrics-port", &metrics.port().to_string()])
            // So that an Application tells of the health of each of its objects.
            .arg("--persist-resource-health")
            .args(["--app-resync", "10", "--app-resync-jitter", "0"]);
        self.spawn("argocd-application-controller", command)?;
        self.healthy("argocd-application-controller", metrics).await
    }

    /// The beginning of one of its parts, with what its image sets.
    fn part(&self, name: &str, helm: &Path) -> anyhow::Result<Command> {
        let folder = |name: &str| self.dir.join(name);
        let helm = helm.parent().context("helm is in no folder")?.to_owned();
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let mut path = vec![folder("bin"), helm];
        path.extend(std::env::split_paths(&inherited));
        let mut command = Command::new(folder("bin").join(name));
        command
            .env("PATH", std::env::join_paths(path)?)
            .env("HOME", folder("home"))
            .env("TMPDIR", folder("tmp"))
            .env("KUBECONFIG", self.cluster.kubeconfig())
            // "In the cluster" is where the kubeconfig leads.
            .env("ARGOCD_FAKE_IN_CLUSTER", "true")
            .env("ARGOCD_GPG_ENABLED", "false")
            .env("ARGOCD_TLS_DATA_PATH", folder("tls"))
            .env("ARGOCD_SSH_DATA_PATH", folder("ssh"))
            .env("ARGOCD_GPG_DATA_PATH", folder("gpg"))
            .env("ARGOCD_GNUPGHOME", folder("gpg"))
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        Ok(command)
    }

    fn spawn(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<()> {
        let log = File::create(self.dir.join(format!("{name}.log")))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = reaper::spawn(&mut command).with_context(|| format!("cannot start {name}"))?;
        self.running.insert(0, (name, child));
        Ok(())
    }

    async fn healthy(&mut self, name: &str, metrics: SocketAddr) -> anyhow::Result<()> {
        let http = reqwest::Client::new();
        let seen = eventually(&format!("{name} to be healthy"), START, async || {
            let answer = http
                .get(format!("http://{metrics}/healthz"))
                .send()
                .await?
                .error_for_status()?;
            drop(answer);
            anyhow::Ok(())
        })
        .await;
        seen.with_context(|| self.logs())
    }
}

impl Drop for ArgoCd {
    fn drop(&mut self) {
        self.running.clear();
        reaper::remove(&self.dir);
    }
}

/// What Argo CD says of an application, in a few lines.
pub fn spoken(application: &Value) -> String {
    let status = &application["status"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut lines = vec![format!(
        "sync {} to {}, health {}, operation {} {}",
        text(&status["sync"]["status"]),
        text(&status["sync"]["revision"]),
        text(&status["health"]["status"]),
        text(&status["operationState"]["phase"]),
        text(&status["operationState"]["message"]),
    )];
    for resource in status["resources"].as_array().into_iter().flatten() {
        lines.push(format!(
            "  {}/{}: {} {} {}",
            text(&resource["kind"]),
            text(&resource["name"]),
            text(&resource["status"]),
            text(&resource["health"]["status"]),
            text(&resource["health"]["message"]),
        ));
    }
    for condition in status["conditions"].as_array().into_iter().flatten() {
        lines.push(format!(
            "  {}: {}",
            text(&condition["type"]),
            text(&condition["message"])
        ));
    }
    lines.join("\n")
}
