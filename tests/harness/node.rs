//! A real Kubernetes of one node, without a container engine: kubelet, containerd, kube-proxy and DNS beside the control
//! plane, in namespaces of their own (tests/node/). What only a cluster can show is shown here: Pods, Services, rollouts.
//!
//! It needs root on Linux and a few programs. [`unfit`] says in one sentence why a machine cannot have one, which is no
//! failure of a test: `make e2e` fails with that sentence, and `.ci/run` says it and goes on.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{self as core, ServiceAccount};
use kube::Api;

use super::control_plane::{ControlPlane, Identity};
use super::eventually::eventually;
use super::node_assets::{self, NodeAssets};
use super::process::lasting_address;
use super::reaper::{self, Guarded};

/// How long a start may take. It takes five seconds on a quiet machine.
const START: Duration = Duration::from_secs(120);
/// How long the node may take to end in order: its pods have a moment for it.
const END: Duration = Duration::from_secs(10);
/// What the machine must have beside what is built and fetched.
const PROGRAMS: [&str; 11] = [
    "bash", "unshare", "nsenter", "mount", "ip", "hostname", "openssl", "curl", "find", "apt-get",
    "dpkg-deb",
];
/// The hierarchies of which the node takes a part for its pods.
const HIERARCHIES: [&str; 9] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd",
];
/// The name of the node, as tests/node/addresses.sh has it.
const NAME: &str = "node";
/// The image of the process that holds a pod, as tests/node/prepare.sh has it.
const PAUSE: &str = "localhost/pause:1";
/// Its address in its own network, where its `NodePort`s are.
const ADDRESS: [u8; 4] = [10, 77, 0, 1];

/// Why this machine cannot run a node. No failure: whoever gets it may leave out what needs one, and says so.
#[derive(Debug, thiserror::Error)]
#[error("this machine cannot run a Kubernetes node: {0}")]
pub struct Unfit(pub String);

/// A running node. Dropping it ends it and removes what it wrote; the reaper does, if nobody drops it.
pub struct Node {
    assets: NodeAssets,
    plane: &'static ControlPlane,
    dir: PathBuf,
    cgroup: String,
    /// `unshare`, with which everything inside ends.
    namespaces: Guarded,
    /// Its process 1, as it is called out here.
    init: u32,
    relays: Vec<Guarded>,
}

/// Why this machine cannot run a node, if it cannot.
///
/// # Errors
/// The reason, in one sentence.
pub fn unfit() -> Result<(), Unfit> {
    let refuse = |why: String| Err(Unfit(why));
    if !cfg!(target_os = "linux") {
        return refuse("it takes Linux's namespaces".to_owned());
    }
    // Owned by whoever this process acts as.
    if fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
        return refuse("it takes root, to make namespaces and mounts".to_owned());
    }
    let found = |name: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    let missing: Vec<_> = PROGRAMS.iter().filter(|name| !found(name)).collect();
    if !missing.is_empty() {
        return refuse(format!("it lacks {missing:?}"));
    }
    for hierarchy in HIERARCHIES {
        let name = format!("{}probe-{}", reaper::DIRECTORY_PREFIX, std::process::id());
        let probe = Path::new("/sys/fs/cgroup").join(hierarchy).join(name);
        let made = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
        if let Err(error) = made {
            return refuse(format!(
                "its cgroups are not writable, or not those of version 1, with which alone this was tried: {}: {error}",
                probe.display()
            ));
        }
    }
    // Everything of tests/node/inside.sh that a machine may refuse.
    let trial = "mount -n -t tmpfs tmpfs /run && mkdir /run/a /run/b && \
        mount -t overlay overlay -o lowerdir=/var,upperdir=/run/a,workdir=/run/b /var && \
        hostname trial && ip link add node0 type veth peer name node0p && \
        echo 1 >/proc/sys/net/ipv4/ip_forward";
    let output = unshare().args(["sh", "-c", trial]).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => refuse(format!(
            "namespaces are refused: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => refuse(format!("unshare does not start: {error}")),
    }
}

impl Node {
    /// Starts one and waits until pods can run on it.
    ///
    /// # Errors
    /// [`Unfit`] when this machine cannot; else what failed, with the ends of the logs.
    pub async fn start() -> anyhow::Result<Node> {
        let assets = tokio::task::spawn_blocking(|| {
            unfit()?;
            node_assets::find()
        });
        let node = Node::launch(assets.await??)?;
        let ready = node.settle().await;
        ready.with_context(|| node.logs())?;
        Ok(node)
    }

    /// Its control plane, as the admin sees it.
    pub fn plane(&self) -> &'static ControlPlane {
        self.plane
    }

    /// The address of a port of the node itself in its own network, such as a `NodePort`.
    pub fn port(port: u16) -> SocketAddr {
        SocketAddr::from((ADDRESS, port))
    }

    /// Makes an address of the node's network reachable at the address of loopback that it gives back.
    ///
    /// # Errors
    /// When the relay does not start.
    pub fn relay(&mut self, target: SocketAddr) -> anyhow::Result<SocketAddr> {
        let address = lasting_address()?;
        let relay = relay(&self.assets, address, self.init, target)?;
        self.relays.push(relay);
        Ok(address)
    }

    /// Takes an image from an OCI archive; the name it has there.
    ///
    /// # Errors
    /// What containerd has against it.
    pub async fn import(&self, archive: &Path) -> anyhow::Result<String> {
        let archive = archive.to_str().context("a path that is no text")?;
        let said = self.ctr(&["images", "import", archive]).await?;
        // "unpacking NAME (DIGEST)...done"
        let imported = said.lines().find_map(|line| {
            let rest = line.strip_prefix("unpacking ")?;
            rest.split_whitespace().next()
        });
        let imported = imported.with_context(|| format!("no image in {archive}: {said}"))?;
        Ok(imported.to_owned())
    }

    /// Runs containerd's command line in the namespace of the kubelet.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn ctr(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(self.assets.debian.join("usr/bin/ctr"))
            .arg("--address")
            .arg(self.dir.join("containerd.sock"))
            .args(["--namespace", "k8s.io"])
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(60), output)
            .await
            .with_context(|| format!("ctr {args:?} did not end"))??;
        anyhow::ensure!(
            output.status.success(),
            "ctr {args:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The pids, as they are called out here, of the processes in the container of this id.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn pids_of_container(&self, id: &str) -> anyhow::Result<Vec<u32>> {
        let root = Path::new("/sys/fs/cgroup/pids").join(&self.cgroup);
        let folder = find_folder(&root, id).with_context(|| format!("no cgroup of {id}"))?;
        let pids = fs::read_to_string(folder.join("cgroup.procs"))?;
        Ok(pids.lines().map(str::parse).collect::<Result<_, _>>()?)
    }

    /// The folder that holds everything it writes.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of its cgroup.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The process 1 of its namespaces, as it is called out here.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let logs = fs::read_dir(self.dir.join("log"));
        for entry in logs.into_iter().flatten().filter_map(Result::ok) {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            text += &format!("--- {}\n", entry.file_name().display());
            text += &lines[lines.len().saturating_sub(8)..].join("\n");
            text.push('\n');
        }
        text
    }

    /// Ends it in order: every container is asked to end before the rest goes.
    ///
    /// # Errors
    /// When something is left.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        reaper::signal(self.init, "TERM")?;
        self.namespaces.wait(END).await?;
        self.remove()
    }

    fn launch(assets: NodeAssets) -> anyhow::Result<Node> {
        let dir = reaper::directory("node")?;
        let name = dir.file_name().context("a folder without a name")?;
        // The folder's own name is as unique as the cgroup's has to be.
        let cgroup = name.to_string_lossy().into_owned();
        let address = lasting_address()?;
        fs::create_dir(dir.join("bin"))?;
        let plane = &assets.control_plane;
        for (name, program) in [
            ("etcd", plane.etcd.clone()),
            ("kube-apiserver", plane.apiserver.clone()),
            ("kube-controller-manager", assets.controller_manager.clone()),
            ("kube-scheduler", assets.kubernetes.join("kube-scheduler")),
            ("kube-proxy", assets.kubernetes.join("kube-proxy")),
            ("kubelet", assets.kubernetes.join("kubelet")),
            ("coredns", assets.dns.join("coredns")),
        ] {
            symlink(program, dir.join("bin").join(name))?;
        }
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
        let environment = [
            ("NODE_DIR", dir.display().to_string()),
            ("NODE_DEB", assets.debian.display().to_string()),
            ("NODE_CGROUP", cgroup.clone()),
            ("NODE_PORT", address.port().to_string()),
        ];
        // Before it is made, so that an interruption leaves none.
        reaper::cgroup(&cgroup)?;
        let prepared = Command::new(scripts.join("prepare.sh"))
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .output()?;
        anyhow::ensure!(
            prepared.status.success(),
            "the node could not be prepared: {}",
            String::from_utf8_lossy(&prepared.stderr).trim()
        );
        let log = fs::File::create(dir.join("log/node.log"))?;
        let mut inside = unshare();
        inside
            .arg(scripts.join("inside.sh"))
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let namespaces = reaper::spawn(&mut inside).context("cannot start unshare")?;
        let init = child_of(namespaces.id())?;
        let relays = vec![relay(
            &assets,
            address,
            init,
            SocketAddr::from(([127, 0, 0, 1], 6443)),
        )?];
        let plane = ControlPlane::elsewhere(plane.clone(), dir.clone(), address);
        Ok(Node {
            // Whoever works with the node holds it, as tests hold the shared control plane.
            plane: Box::leak(Box::new(plane)),
            assets,
            dir,
            cgroup,
            namespaces,
            init,
            relays,
        })
    }

    async fn settle(&self) -> anyhow::Result<()> {
        eventually("containerd", START, async || {
            self.alive()?;
            self.ctr(&["version"]).await
        })
        .await?;
        let (tools, pause) = (&self.assets.tools, self.dir.join("pause.tar"));
        let mut image = tokio::process::Command::new(tools.join("image"));
        image.arg(PAUSE).args([&pause, &tools.join("pause")]);
        let made = image.status().await?;
        anyhow::ensure!(made.success(), "no image of a pod's first process: {made}");
        let imported = self.import(&pause).await?;
        anyhow::ensure!(imported == PAUSE, "{imported} was imported");
        let client = self.plane.client(Identity::Admin).await?;
        let nodes: Api<core::Node> = Api::all(client.clone());
        eventually("the node to be ready", START, async || {
            self.alive()?;
            let node = nodes.get(NAME).await?;
            let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
            let ready = conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True");
            anyhow::ensure!(ready, "{conditions:?}");
            anyhow::Ok(())
        })
        .await?;
        // Without it no pod is let in.
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
        let first = "the first service account";
        eventually(first, START, async || accounts.get("default").await).await?;
        Ok(())
    }

    fn alive(&self) -> anyhow::Result<()> {
        let alive = Path::new("/proc").join(self.init.to_string()).is_dir();
        anyhow::ensure!(alive, "the node has ended");
        Ok(())
    }

    fn remove(&mut self) -> anyhow::Result<()> {
        self.relays.clear();
        self.namespaces.kill()?;
        reaper::remove_cgroup(&self.cgroup)?;
        reaper::remove(&self.dir);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // If this fails, the reaper tries again at the end.
        let _ = self.remove();
    }
}

/// A process in namespaces of its own, with which everything in them ends.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--pid",
        "--uts",
        "--ipc",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]);
    command
}

fn relay(
    assets: &NodeAssets,
    address: SocketAddr,
    init: u32,
    target: SocketAddr,
) -> anyhow::Result<Guarded> {
    let mut relay = Command::new(assets.tools.join("relay"));
    relay
        .args([address.to_string(), init.to_string(), target.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    reaper::spawn(&mut relay).context("cannot start a relay")
}

/// The one child of a process, as soon as it has one.
fn child_of(parent: u32) -> anyhow::Result<u32> {
    let children = format!("/proc/{parent}/task/{parent}/children");
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let text = fs::read_to_string(&children).context("unshare has ended")?;
        if let Some(child) = text.split_whitespace().next() {
            return Ok(child.parse()?);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::bail!("unshare has started nothing")
}

/// The folder below `root` whose name is `name`.
fn find_folder(root: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(root).ok()?;
    let mut folders = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir());
    folders.find_map(|entry| {
        if entry.file_name().to_string_lossy() == name {
            Some(entry.path())
        } else {
            find_folder(&entry.path(), name)
        }
    })
}
