//! A balancer that does what a Service does, and no more: it looks at `/readyz`, sends new connections to those that
//! are ready, in turn, and leaves the established ones alone.
//!
//! The way through it takes time, as the way from a sender on the internet does: what is sent while the other end
//! closes is then on its way, and that is where requests get lost.
//!
//! It tries no second receiver when the first refuses, and knows nothing of HTTP: kube-proxy does neither.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::eventually::eventually;
use super::process::Process;

/// How often it looks. A kubelet looks every few seconds, so a drain has to be as much longer there.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Backend {
    public: SocketAddr,
    ready: AtomicBool,
    connections: AtomicUsize,
}

/// A balancer on loopback, on the runtime that opened it.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    backends: Arc<Vec<Backend>>,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

impl Balancer {
    /// Opens one in front of these processes, at the addresses that they have now and keep when they are restarted.
    /// Everything takes `way` from one end to the other.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open(processes: &[&Process], way: Duration) -> anyhow::Result<Balancer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut tasks = JoinSet::new();
        let mut backends = Vec::new();
        for process in processes {
            backends.push(Backend {
                public: process.public()?,
                ready: AtomicBool::new(false),
                connections: AtomicUsize::new(0),
            });
        }
        let backends = Arc::new(backends);
        for (index, process) in processes.iter().enumerate() {
            let (url, backends) = (
                format!("http://{}/readyz", process.ops()?),
                backends.clone(),
            );
            let http = reqwest::Client::builder()
                .timeout(Duration::from_secs(1))
                .no_proxy()
                .build()?;
            tasks.spawn(async move {
                let mut tick = tokio::time::interval(LOOK);
                loop {
                    tick.tick().await;
                    let answer = http.get(&url).send().await;
                    let ready = answer.is_ok_and(|answer| answer.status().is_success());
                    backends[index].ready.store(ready, Ordering::Relaxed);
                }
            });
        }
        let balancer = Balancer {
            address: listener.local_addr()?,
            backends: backends.clone(),
            _tasks: {
                tasks.spawn(pass(listener, backends, way));
                tasks
            },
        };
        Ok(balancer)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections each of the processes was given so far.
    pub fn connections(&self) -> Vec<usize> {
        let each = self.backends.iter();
        each.map(|backend| backend.connections.load(Ordering::Relaxed))
            .collect()
    }

    /// Waits until it sees that so many are ready.
    ///
    /// # Errors
    /// When it is another number after `limit`.
    pub async fn sees_ready(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        eventually("the balancer to see who is ready", limit, async || {
            let ready = self
                .backends
                .iter()
                .filter(|b| b.ready.load(Ordering::Relaxed));
            let ready = ready.count();
            anyhow::ensure!(ready == count, "{ready} are ready");
            Ok(())
        })
        .await
    }
}

async fn pass(listener: TcpListener, backends: Arc<Vec<Backend>>, way: Duration) {
    let mut open = JoinSet::new();
    let mut turn = 0;
    loop {
        // A failed accept is the client's loss alone; the next one may do.
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        while open.try_join_next().is_some() {}
        let in_turn = (0..backends.len()).map(|n| (turn + n) % backends.len());
        let ready = in_turn
            .into_iter()
            .find(|index| backends[*index].ready.load(Ordering::Relaxed));
        let Some(chosen) = ready else {
            // Nobody is ready: the connection is closed, as it would be refused.
            continue;
        };
        turn = chosen + 1;
        backends[chosen].connections.fetch_add(1, Ordering::Relaxed);
        let public = backends[chosen].public;
        open.spawn(async move {
            if let Ok(upstream) = TcpStream::connect(public).await {
                // An answer is one small packet and somebody waits for it; without this the worst is a delay.
                let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
                let (from_client, to_client) = client.into_split();
                let (from_upstream, to_upstream) = upstream.into_split();
                tokio::join!(
                    carry(from_client, to_upstream, way),
                    carry(from_upstream, to_client, way)
                );
            }
        });
    }
}

/// Carries bytes one way, and the end of them. An error ends it like an end: dropping both halves tells the peers.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, way: Duration) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or_default();
        tokio::time::sleep(way).await;
        let written = match &bytes[..read] {
            [] => to.shutdown().await,
            some => to.write_all(some).await,
        };
        if read == 0 || written.is_err() {
            return;
        }
    }
}
