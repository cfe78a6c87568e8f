//! The control plane that all other tests stand on: it is real, it is quick to start again, and it leaves nothing.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Cluster, ControlPlane, assets, eventually};

#[tokio::test]
async fn kubectl_explains_both_kinds() -> anyhow::Result<()> {
    let cluster = Cluster::new("explain").await?;
    for (path, words) in [
        ("chektwebhook.spec.events", "at least one, in any order"),
        (
            "cwh.status.conditions",
            "Ready, Synced, Active and Verified",
        ),
        ("chektaccount.spec.auth", "exactly one of the methods"),
        ("cacc.spec.baseURL", "https://api.chekt.com"),
    ] {
        let text = cluster.kubectl(&["explain", path]).await?.ok()?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deleted_namespace_goes() -> anyhow::Result<()> {
    let cluster = Cluster::new("going").await?;
    if cluster.plane.assets().controller_manager.is_none() {
        // KUBEBUILDER_ASSETS without one: the note at the start has said so.
        return Ok(());
    }
    cluster
        .kubectl(&["delete", "namespace", &cluster.namespace, "--wait=false"])
        .await?
        .ok()?;
    eventually(
        "the namespace to be gone",
        Duration::from_secs(60),
        || async {
            let said = cluster
                .kubectl(&["get", "namespace", &cluster.namespace])
                .await?;
            let why = said.refused()?;
            anyhow::ensure!(why.contains("NotFound"), "{why}");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn the_programs_are_built_once() -> anyhow::Result<()> {
    ControlPlane::shared().await?;
    let start = Instant::now();
    let assets = tokio::task::spawn_blocking(assets::find).await??;
    assert!(assets.kubectl.is_file());
    assert!(start.elapsed() < Duration::from_secs(1), "built again?");
    Ok(())
}

/// Not a test: started by the one below, which kills it. It prints what it started and waits.
#[tokio::test]
#[ignore = "started by killed_without_warning_it_leaves_nothing_running"]
async fn holds_a_control_plane() -> anyhow::Result<()> {
    let Some(note) = std::env::var_os("CHEKT_TEST_NOTE") else {
        return Ok(());
    };
    let plane = ControlPlane::start().await?;
    let started = serde_json::json!({
        "pids": plane.pids(), "address": plane.address(), "dir": plane.dir(),
    });
    let written = Path::new(&note).with_extension("part");
    std::fs::write(&written, started.to_string())?;
    std::fs::rename(&written, &note)?;
    std::future::pending().await
}

#[tokio::test]
async fn killed_without_warning_it_leaves_nothing_running() -> anyhow::Result<()> {
    // The programs may have to be built first, which is not what is to be waited for below.
    ControlPlane::shared().await?;
    let dir = tempfile::tempdir()?;
    let note = dir.path().join("note.json");
    let mut holder = Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "control_plane::holds_a_control_plane",
            "--ignored",
        ])
        .env("CHEKT_TEST_NOTE", &note)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let limit = Duration::from_secs(120);
    let seen = eventually("the note of what was started", limit, || async {
        let text = std::fs::read_to_string(&note)?;
        anyhow::Ok(serde_json::from_str::<serde_json::Value>(&text)?)
    })
    .await;
    holder.kill()?;
    holder.wait()?;
    let started = seen?;
    let address: std::net::SocketAddr = serde_json::from_value(started["address"].clone())?;
    let pids: Vec<u32> = serde_json::from_value(started["pids"].clone())?;
    let files: std::path::PathBuf = serde_json::from_value(started["dir"].clone())?;
    assert!(pids.len() >= 2, "{pids:?}");
    eventually("all of it to be gone", Duration::from_secs(20), || async {
        let left: Vec<_> = pids.iter().filter(|pid| runs(**pid)).collect();
        anyhow::ensure!(left.is_empty(), "{left:?} still run");
        anyhow::ensure!(TcpStream::connect(address).is_err(), "{address} answers");
        anyhow::ensure!(!files.exists(), "{} is there", files.display());
        Ok(())
    })
    .await
}

/// Whether a process runs. A zombie that nobody has waited for yet does not.
fn runs(pid: u32) -> bool {
    let known = Command::new("sh")
        .args(["-c", r#"kill -0 "$0" 2>/dev/null"#, &pid.to_string()])
        .status()
        .is_ok_and(|status| status.success());
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|s| s.trim().starts_with('Z'))
    });
    known && !zombie
}
