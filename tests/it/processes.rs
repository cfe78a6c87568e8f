//! Our processes as anyone who runs them sees them: where they listen, how they end, and that they come back; and the
//! gate by which the other tests take a server away from them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{Cluster, Gate, Identity, Launch, Process, Role, eventually};

const READY: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(15);

fn controller(cluster: &Cluster) -> Launch {
    Launch::new(Role::Controller)
        .env("KUBECONFIG", cluster.kubeconfig().display())
        .flag("--public-url", "http://127.0.0.1:1")
        .flag("--operator-namespace", &cluster.namespace)
        .flag("--watch-namespace", &cluster.namespace)
}

fn receiver(cluster: &Cluster, journal: &std::path::Path) -> Launch {
    Launch::new(Role::Receiver)
        .env("KUBECONFIG", cluster.kubeconfig().display())
        .flag("--journal", journal.display())
        .flag("--operator-namespace", &cluster.namespace)
        .flag("--watch-namespace", &cluster.namespace)
}

#[tokio::test]
async fn both_get_ready_and_end_in_good_order_when_asked() -> anyhow::Result<()> {
    let cluster = Cluster::new("processes").await?;
    let dir = tempfile::tempdir()?;
    for launch in [controller(&cluster), receiver(&cluster, dir.path())] {
        let mut process = Process::start(launch).await?;
        process.ready(READY).await?;
        assert_ne!(process.ops()?.port(), 0);
        let metrics = process.metrics().await?;
        // Who does not ask for OpenMetrics gets the older format, where a counter is described under its whole name.
        assert!(
            metrics.contains("# TYPE process_cpu_seconds_total counter\n"),
            "{metrics}"
        );
        assert!(metrics.contains("\nchekt_build_info{version="), "{metrics}");
        assert!(!metrics.contains("# EOF"), "{metrics}");
        let status = process.terminate(END).await?;
        assert!(status.success(), "{status}\n{}", process.log_tail());
    }
    Ok(())
}

/// A library that takes IPv6 away from a program, as a kernel that was booted with `ipv6.disable=1` does.
fn without_ipv6(dir: &Path) -> anyhow::Result<PathBuf> {
    let (source, library) = (dir.join("without_ipv6.c"), dir.join("without_ipv6.so"));
    std::fs::write(
        &source,
        "#include <errno.h>\n#include <sys/socket.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
         int socket(int domain, int type, int protocol) {\n\
         if (domain == AF_INET6) { errno = EAFNOSUPPORT; return -1; }\n\
         return syscall(SYS_socket, domain, type, protocol); }\n",
    )?;
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()?;
    anyhow::ensure!(made.success(), "{made}");
    Ok(library)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn on_a_node_without_ipv6_every_process_listens_on_ipv4() -> anyhow::Result<()> {
    let cluster = Cluster::new("ipv4").await?;
    let dir = tempfile::tempdir()?;
    let library = without_ipv6(dir.path())?;
    let launches = [
        controller(&cluster),
        receiver(&cluster, &dir.path().join("journal")),
        Launch::new(Role::Sandbox).flag("--token", "token"),
    ];
    for launch in launches {
        let mut launch = launch.env("LD_PRELOAD", library.display());
        for name in ["ops", "public"] {
            let everywhere = "[::]:0".parse()?;
            launch.addresses.insert(name.to_owned(), everywhere);
        }
        let process = Process::start(launch).await?;
        for address in [process.ops(), process.public()].into_iter().flatten() {
            assert_eq!(address.ip().to_string(), "0.0.0.0");
            let loopback = SocketAddr::from(([127, 0, 0, 1], address.port()));
            tokio::net::TcpStream::connect(loopback).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_receiver_comes_back_at_its_address() -> anyhow::Result<()> {
    let cluster = Cluster::new("killed").await?;
    let dir = tempfile::tempdir()?;
    let mut process = Process::start(receiver(&cluster, dir.path())).await?;
    process.ready(READY).await?;
    let (address, id) = (process.public()?, process.id());
    process.kill9()?;
    process.restart().await?;
    process.ready(READY).await?;
    assert_eq!(process.public()?, address);
    assert_ne!(process.id(), id);
    Ok(())
}

#[tokio::test]
async fn a_flag_that_makes_no_sense_is_said_at_once() -> anyhow::Result<()> {
    let cluster = Cluster::new("flags").await?;
    let launch = controller(&cluster).flag("--public-url", "http://alarms.example.com");
    let Err(error) = Process::start(launch).await else {
        anyhow::bail!("plain http as the public URL was taken");
    };
    let said = format!("{error:#}");
    assert!(said.contains("it ended with exit status: "), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_cut_gate_refuses_and_a_restored_one_passes() -> anyhow::Result<()> {
    let cluster = Cluster::new("gate").await?;
    let mut gate = Gate::open(cluster.plane.address()).await?;
    let kubeconfig = cluster
        .plane
        .kubeconfig_via(Identity::Admin, gate.address())?;
    let flag = format!("--kubeconfig={}", kubeconfig.display());
    let get = ["get", "--raw", "/readyz", "--request-timeout=5s", &flag];
    cluster.kubectl(&get).await?.ok()?;
    assert!(gate.connections() > 0);

    gate.cut().await;
    let why = cluster.kubectl(&get).await?.refused()?;
    assert!(why.contains("refused"), "{why}");

    gate.restore().await?;
    eventually("the gate to pass again", READY, async || {
        cluster.kubectl(&get).await?.ok()
    })
    .await?;
    Ok(())
}
