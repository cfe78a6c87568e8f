//! A bare API server to play with, and the one command that builds what all tests stand on.
//!
//! ```text
//! cargo run --example control-plane -- build         finds or builds the programs, with progress
//! cargo run --example control-plane -- tool NAME     prints where one of the ecosystem's programs is
//! cargo run --example control-plane -- up            starts an API server with the definitions; Ctrl-C stops it
//! ```

#[path = "../harness/mod.rs"]
mod harness;

use std::process::ExitCode;

use anyhow::Context;
use harness::{ControlPlane, Identity, assets, tools};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("build") => build().await,
        Some("tool") => tool(std::env::args().nth(2)).await,
        Some("up") => up().await,
        _ => Err(anyhow::anyhow!(
            "usage: control-plane build | tool NAME | up"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
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

async fn up() -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let running = async {
        let plane = ControlPlane::start().await?;
        println!("An API server with ChektAccount and ChektWebhook is up. To use it:\n");
        println!(
            "  export KUBECONFIG={}",
            plane.kubeconfig(Identity::Admin).display()
        );
        println!("  {} api-resources", plane.assets().kubectl.display());
        println!("\nCtrl-C stops it.");
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        ended = running => ended,
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    }
}
