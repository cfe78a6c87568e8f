//! What a node is made of beside the control plane: the programs of Kubernetes that run on one, DNS, a few small tools,
//! and what Debian has of containers. Everything is built or fetched once into the user's cache folder, and nothing is
//! installed: Debian's packages are unpacked there.

use std::path::PathBuf;

use anyhow::Context;

use super::assets::{self, Assets};
use super::debian::{self, Unfetched};
use super::go_build::{NODE, NODE_DNS, NODE_TOOLS};
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
    let debian = debian()?;
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

fn debian() -> anyhow::Result<PathBuf> {
    let unpacked = debian::unpacked("node/debian", &PACKAGES);
    unpacked.map_err(|error| match error.downcast::<Unfetched>() {
        Ok(unfetched) => Unfit(unfetched.to_string()).into(),
        Err(error) => error,
    })
}
