//! What a node is made of beside the control plane: the programs of Kubernetes that run on one, DNS, a few small tools,
//! and what Debian has of containers. Everything is built or fetched once into the user's cache folder, and nothing is
//! installed: Debian's packages are unpacked there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;

use super::assets::{self, Assets};
use super::go_build::{self, NODE, NODE_DNS, NODE_TOOLS};
use super::node::Unfit;

const NODE_SOURCES: [&str; 2] = [
    include_str!("../node/kubernetes/go.mod"),
    include_str!("../node/kubernetes/go.sum"),
];

const DNS_SOURCES: [&str; 3] = [
    include_str!("../node/dns/go.mod"),
    include_str!("../node/dns/go.sum"),
    include_str!("../node/dns/main.go"),
];

const TOOLS_SOURCES: [&str; 4] = [
    include_str!("../node/tools/go.mod"),
    include_str!("../node/tools/image/main.go"),
    include_str!("../node/tools/pause/main.go"),
    include_str!("../node/tools/relay/main.go"),
];

/// containerd, runc, the network plugins and nft, with the libraries that a small Debian may lack.
const PACKAGES: [&str; 10] = [
    "containerd",
    "runc",
    "containernetworking-plugins",
    "nftables",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libjansson4",
    "libedit2",
    "libseccomp2",
];

/// Where everything is.
#[derive(Clone, Debug)]
pub struct NodeAssets {
    /// The control plane's programs.
    pub control_plane: Assets,
    /// The kube-controller-manager, which a node cannot do without.
    pub controller_manager: PathBuf,
    /// kubelet, kube-proxy, kube-scheduler.
    pub kubernetes: PathBuf,
    /// CoreDNS.
    pub dns: PathBuf,
    /// image, pause and relay.
    pub tools: PathBuf,
    /// Debian's packages, unpacked.
    pub debian: PathBuf,
}

/// Finds everything, and builds or fetches what is not there. Blocks: a first time takes minutes.
///
/// # Errors
/// [`Unfit`] when Debian's packages cannot be had; else what failed.
pub fn find() -> anyhow::Result<NodeAssets> {
    let control_plane = assets::find()?;
    let controller_manager = control_plane.controller_manager.clone().context(
        "a node needs kube-controller-manager, and KUBEBUILDER_ASSETS has none: unset it to have one built",
    )?;
    // What may be refused comes before what takes minutes.
    let debian = debian("node/debian", &PACKAGES)?;
    let kubernetes = assets::found_or_built("node/kubernetes", &NODE_SOURCES, &NODE)?;
    let dns = assets::found_or_built("node/dns", &DNS_SOURCES, &NODE_DNS)?;
    let tools = assets::found_or_built("node/tools", &TOOLS_SOURCES, &NODE_TOOLS)?;
    Ok(NodeAssets {
        control_plane,
        controller_manager,
        kubernetes,
        dns,
        tools,
        debian,
    })
}

/// Fetches these packages of Debian as apt here knows them and unpacks them, once, with lists of our own: those of the
/// machine stay as they are. `kind` is the folder in the cache.
///
/// # Errors
/// [`Unfit`] when they cannot be had; else what failed.
pub(super) fn debian(kind: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut parts = vec!["1", release.as_str()];
    parts.extend(packages);
    let dir = assets::cached_by(kind, &parts)?;
    assets::make("packages of Debian", &dir, |dir| {
        let start = Instant::now();
        let first = packages.first().context("no package is named")?;
        go_build::say(&format!(
            "fetching Debian's packages of {first} and its like for tests (once)"
        ));
        let apt = |lists: &Path| {
            let mut apt = Command::new("apt-get");
            apt.current_dir(dir)
                .arg("-qq")
                .arg(format!("-oDir::State::Lists={}", lists.display()))
                .arg(format!("-oDir::Cache={}", dir.join("apt").display()))
                // Else it wants to become somebody who cannot write here.
                .args(["-oAPT::Sandbox::User=root", "-oAcquire::Retries=3"]);
            apt
        };
        let lists = dir.join("apt/lists");
        fs::create_dir_all(lists.join("partial"))?;
        fs::create_dir_all(dir.join("apt/archives/partial"))?;
        // Else it is content with lists that it could not fetch.
        let reached = run(apt(&lists).args(["update", "-oAPT::Update::Error-Mode=any"]))
            .and_then(|()| run(apt(&lists).arg("download").args(packages)));
        reached.map_err(|error| {
            let error = format!("{error:#}");
            let why = error.lines().next().unwrap_or_default();
            Unfit(format!("apt cannot fetch {first} and its like: {why}"))
        })?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb")
                    .arg("--extract")
                    .args([&path, &dir.to_path_buf()]))?;
                fs::remove_file(&path)?;
            }
        }
        fs::remove_dir_all(dir.join("apt"))?;
        go_build::say(&format!(
            "  Debian's packages: done, {}s",
            start.elapsed().as_secs()
        ));
        Ok(())
    })?;
    Ok(dir)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let program = Path::new(command.get_program()).display();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
