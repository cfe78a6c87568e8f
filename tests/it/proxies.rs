//! A proxy in the environment of a person: the way to the API server leads through it, as kubectl's does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Cluster, process};

/// A proxy that makes tunnels, and counts them.
async fn proxy() -> anyhow::Result<(u16, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let tunnels = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tunnels);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(tunnel(stream));
        }
    });
    Ok((port, tunnels))
}

async fn tunnel(stream: TcpStream) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        anyhow::ensure!(stream.read_line(&mut head).await? > 0, "no head: {head}");
    }
    let target = head.split_whitespace().nth(1).unwrap_or_default();
    let mut server = TcpStream::connect(target).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}

#[tokio::test]
async fn a_command_goes_through_the_proxy_of_the_environment_and_past_it_where_that_says_so()
-> anyhow::Result<()> {
    let cluster = Cluster::new("proxies").await?;
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let (port, tunnels) = proxy().await?;
    // By its name: kube itself would go past a proxy that NO_PROXY names, instead of a server.
    let url = format!("http://localhost:{port}");
    let run = async |exempt: &str| {
        let env = [
            ("KUBECONFIG", kubeconfig.as_str()),
            ("HTTPS_PROXY", &url),
            ("NO_PROXY", exempt),
        ];
        process::command_in(&process::binary()?, &env, &["orphans"], "")
            .await?
            .ok()
    };
    run("elsewhere.example.com").await?;
    let through = tunnels.load(Ordering::Relaxed);
    assert!(through > 0, "the proxy was not asked");
    run("127.0.0.1").await?;
    assert_eq!(
        tunnels.load(Ordering::Relaxed),
        through,
        "NO_PROXY did not count"
    );
    Ok(())
}
