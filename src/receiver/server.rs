//! The accept loop: so many connections and no more, each with a deadline for its headers and a longest life, and
//! an orderly end.
//!
//! `axum::serve` has none of the three: it sets no timer, which leaves hyper's own header deadline inert, and
//! accepts without a bound.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ingest::Ingest;
use super::linger::Linger;

/// What one process grants the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// How long the headers of a request may take, counted from the connection or the answer before.
    pub headers: Duration,
    /// How long a connection may live; after that it is closed when it is idle.
    pub life: Duration,
    /// How long connections may take to finish when the process ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            headers: Duration::from_secs(10),
            life: Duration::from_secs(600),
            drain: Duration::from_secs(6),
        }
    }
}

/// Serves until `end` is cancelled; then accepts nothing more, lets every request finish, and returns.
pub async fn serve(
    listener: TcpListener,
    ingest: Arc<Ingest>,
    limits: Limits,
    end: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(limits.connections.max(1)));
    let connections = TaskTracker::new();
    loop {
        // The permit first: without room nothing is accepted, and what waits costs the kernel, not us.
        let permit = tokio::select! {
            () = end.cancelled() => break,
            permit = Arc::clone(&room).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = end.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, or a peer that left before we looked: neither may end the loop or
                // make it spin.
                tracing::debug!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (ingest, end) = (Arc::clone(&ingest), end.clone());
        connections.spawn(async move {
            ingest.metrics.connections.inc();
            connection(stream, &ingest, limits, end).await;
            ingest.metrics.connections.dec();
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "connections did not finish in time"
        );
    }
}

async fn connection(
    stream: TcpStream,
    ingest: &Arc<Ingest>,
    limits: Limits,
    end: CancellationToken,
) {
    // An answer is one small packet and somebody waits for it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay");
    }
    let spoken = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let spoken = Arc::clone(&spoken);
        let ingest = Arc::clone(ingest);
        move |request| {
            spoken.store(true, Ordering::Relaxed);
            let ingest = Arc::clone(&ingest);
            async move { Ok::<_, Infallible>(ingest.handle(request).await) }
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(16)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let served = builder.serve_connection(TokioIo::new(Linger::new(stream)), service);
    tokio::pin!(served);
    let began = Instant::now();
    // hyper's deadline begins once it knows the version of HTTP; a peer that never says is ours to cut.
    let silent = tokio::time::sleep_until(began + limits.headers);
    let old = tokio::time::sleep_until(began + limits.life);
    tokio::pin!(silent, old);
    let (mut listening, mut closing) = (true, false);
    loop {
        tokio::select! {
            result = served.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection");
                }
                return;
            }
            () = silent.as_mut(), if listening => {
                listening = false;
                if !spoken.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = old.as_mut(), if !closing => {
                closing = true;
                served.as_mut().graceful_shutdown();
            }
            () = end.cancelled(), if !closing => {
                closing = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}
