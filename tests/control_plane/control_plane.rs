//! A bare API server to play with, and the one command that builds what all tests stand on.
//!
//! ```text
//! cargo run --example control-plane -- build         finds or builds the programs, with progress
//! cargo run --example control-plane -- tool NAME     prints where one of the ecosystem's programs is
//! cargo run --example control-plane -- up            starts an API server with the definitions; Ctrl-C stops it
//! cargo run --example control-plane -- node          finds or builds what a whole node needs; 3: this machine cannot run one
//! cargo run --example control-plane -- node-up       starts one; Ctrl-C stops it
//! ```

#[path = "../harness/mod.rs"]
mod harness;

use std::process::ExitCode;

use anyhow::Context;
use harness::node::{self, Unfit};
use harness::{ControlPlane, Identity, Node, assets, node_assets, tools};
use tokio::signal::unix::{SignalKind, signal};

/// The exit code that says that it is the machine, and nothing that failed.
const UNFIT: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("build") => build().await,
        Some("tool") => tool(std::env::args().nth(2)).await,
        Some("up") => until_stopped(up()).await,
        Some("node") => node().await,
        Some("node-up") => until_stopped(node_up()).await,
        _ => Err(anyhow::anyhow!(
            "usage: control-plane build | tool NAME | up | node | node-up"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.is::<Unfit>() {
                eprintln!("{error:#}");
                return ExitCode::from(UNFIT);
            }
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn build() -> anyhow::Result<()> {
    let assets = tokio::task::spawn_blocking(assets::find).await??;
    println!("control plane: {}", assets.apiserver.display());
    let kstatus = tokio::task::spawn_blocking(assets::kstatus).await??;
    println!("kstatus: {}", kstatus.display());
    for tool in tools::ALL {
        let path = tokio::task::spawn_blocking(|| tool.path()).await??;
        println!("{}: {}", tool.name(), path.display());
    }
    Ok(())
}

/// For the Makefile and for people: where a program is, which is built if nobody has yet.
async fn tool(name: Option<String>) -> anyhow::Result<()> {
    let known = tools::ALL.map(tools::Tool::name).join(", ");
    let name = name.unwrap_or_default();
    let tool = tools::ALL
        .into_iter()
        .find(|tool| tool.name() == name)
        .with_context(|| format!("there is no tool {name:?}: name one of {known}"))?;
    let path = tokio::task::spawn_blocking(|| tool.path()).await??;
    println!("{}", path.display());
    Ok(())
}

async fn node() -> anyhow::Result<()> {
    let found = tokio::task::spawn_blocking(|| {
        node::unfit()?;
        node_assets::find()
    });
    println!("node: {}", found.await??.kubernetes.display());
    Ok(())
}

async fn up() -> anyhow::Result<()> {
    let plane = ControlPlane::start().await?;
    println!("An API server with ChektAccount and ChektWebhook is up. To use it:\n");
    say_how(&plane);
    println!("\nCtrl-C stops it.");
    std::future::pending().await
}

async fn node_up() -> anyhow::Result<()> {
    let node = Node::start().await?;
    println!("A Kubernetes of one node is up. To use it:\n");
    say_how(node.plane());
    println!(
        "  folder {}, cgroup {}",
        node.dir().display(),
        node.cgroup()
    );
    println!("\nCtrl-C stops it.");
    std::future::pending().await
}

fn say_how(plane: &ControlPlane) {
    let kubeconfig = plane.kubeconfig(Identity::Admin);
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  {} api-resources", plane.assets().kubectl.display());
}

async fn until_stopped(running: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = running => ended,
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    }
}
