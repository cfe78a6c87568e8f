//! The accept loop: so many connections and no more, each with deadlines for everything it may wait for, and an
//! orderly end.
//!
//! `axum::serve` has none of it: it sets no timer, which leaves hyper's own header deadline inert, and accepts without
//! a bound. Who comes in is decided in [`super::admission`], how long a connection is put up with in
//! [`super::conduct`]; this file connects the two with sockets and with hyper.
//!
//! What the connections of one process can cost, by design:
//!
//! ```text
//! HTTP/1.1  16 KiB of headers or pipelined requests, 1 KiB of their beginning again, 16 KiB of answers, 2 KiB of a body
//! HTTP/2    64 KiB of window, 8 streams with 8 KiB of headers and 2 KiB of a body each, 16 KiB of a frame, 16 KiB of answers
//! TLS       16 KiB of a record, 64 KiB of answers
//! all       8 MiB for whatever bodies have beyond 2 KiB
//! ```
//!
//! so at most 256 KiB each: 512 connections that all do their worst are 128 MiB, and silent ones are some 16 KiB each. A
//! test in `tests/it/hardness.rs` looks at the process while they do.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::admission::{Admission, Caps, Id, Peer, Verdict};
use super::conduct::{Conduct, Cut, Look, Patience};
use super::ingest::{self, Ingest, Visit, Visitor};
use super::linger::Linger;
use super::opening::End;
use super::tls::Tls;
use super::wire::Wire;
use crate::resources::refusal::Refusal;

/// The largest buffer of HTTP/1.1 in bytes: the headers of one request, or what is pipelined behind it.
const BUFFER: usize = 16 * 1024;
/// The most headers in bytes that h2 takes of a request over HTTP/2. The service refuses those over 8 KiB, and counts
/// them, which h2 does not.
const HTTP2_HEADERS: u32 = 32 * 1024;
/// What a peer may send us over one connection of HTTP/2 before we have taken it, in bytes: the least that the
/// protocol allows.
const HTTP2_WINDOW: u32 = 65_535;
/// Requests at once over one connection of HTTP/2.
const HTTP2_STREAMS: u32 = 8;
/// Streams that a peer may open and take back before we have seen them.
const HTTP2_RESETS: usize = 20;
/// Streams that we may have to reset for a peer's mistakes, over the life of a connection; then it has made enough. A
/// proxy makes a hundred of them without being one to blame: it opens as many streams as it likes until it has read how many
/// we grant.
const HTTP2_MISTAKES: usize = 1_024;
/// How long the handshake of TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the kernel's queue must have been empty at the end.
const QUEUE: Duration = Duration::from_millis(10);
/// How long a connection that has just come may take for its one request when the process ends.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What one process grants the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, and when one has to make room for another.
    pub caps: Caps,
    /// How long one connection may take for what.
    pub patience: Patience,
    /// How long connections may take to finish when the process ends. The slowest answer takes four seconds.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            caps: Caps {
                connections: 512,
                per_peer: 128,
                grace: Duration::from_secs(1),
                rest: Duration::from_secs(5),
            },
            patience: Patience {
                headers: Duration::from_secs(10),
                // Google's load balancer keeps connections for 600 s, Traefik for 90, Amazon's and nginx for 60.
                idle: Duration::from_secs(620),
                stall: Duration::from_secs(5),
                life: Duration::from_secs(600),
                requests: 10_000,
                unproven_requests: 100,
            },
            drain: Duration::from_secs(6),
        }
    }
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Door {
    /// What is granted.
    pub limits: Limits,
    /// TLS by us; without it somebody before us does it.
    pub tls: Option<Tls>,
    /// Cancelled when the process is about to end: everybody is served, and asked to go elsewhere next time.
    pub leaving: CancellationToken,
    /// Cancelled when nothing more is to be accepted.
    pub end: CancellationToken,
}

impl Door {
    /// One that is open until the tokens are cancelled, without TLS.
    #[must_use]
    pub fn open(limits: Limits) -> Self {
        Door {
            limits,
            tls: None,
            leaving: CancellationToken::new(),
            end: CancellationToken::new(),
        }
    }
}

/// Who is inside; the accept loop and all connections share it.
struct Inside {
    admission: Mutex<Admission<CancellationToken>>,
    /// Somebody has left, or is at rest.
    changed: Notify,
    /// What answers their requests.
    router: Router,
}

impl Inside {
    fn admission(&self) -> MutexGuard<'_, Admission<CancellationToken>> {
        self.admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the end is asked for; then accepts nothing more, lets every request finish, and returns.
pub async fn serve(listener: TcpListener, ingest: Arc<Ingest>, door: Door) {
    let inside = Arc::new(Inside {
        admission: Mutex::new(Admission::new(door.limits.caps)),
        changed: Notify::new(),
        router: ingest::router(Arc::clone(&ingest)),
    });
    let connections = TaskTracker::new();
    let come = async |stream: TcpStream, address: SocketAddr| {
        if let Some((id, evicted)) = admit(&inside, &ingest, address, &door).await {
            let mut conduct = Conduct::new(door.limits.patience, Instant::now());
            if ingest.origins.is_proxy(address.ip()) {
                // Its connections are a pool, from the first byte on.
                conduct.prove();
            }
            let connection = Connection {
                id,
                peer: address.ip(),
                conduct: Mutex::new(conduct),
                ingest: Arc::clone(&ingest),
                inside: Arc::clone(&inside),
                leaving: door.leaving.clone(),
                look_again: Notify::new(),
            };
            connections.spawn(connection.serve(stream, evicted, door.clone()));
        }
    };
    loop {
        let accepted = tokio::select! {
            () = door.end.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => come(stream, address).await,
            Err(error) => {
                // Out of file descriptors, or a peer that left before we looked: neither may end the loop or
                // make it spin.
                tracing::debug!(kind = ?error.kind(), "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Whoever stands in the kernel's queue by now has been told that we are here.
    for _ in 0..door.limits.caps.connections {
        match tokio::time::timeout(QUEUE, listener.accept()).await {
            Ok(Ok((stream, address))) => come(stream, address).await,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(door.limits.drain, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "connections did not finish in time"
        );
    }
}

/// Finds a place, if need be by taking one, and waits for it if nobody can go yet. Meanwhile whoever comes after waits in
/// the kernel's queue, which costs us nothing.
async fn admit(
    inside: &Inside,
    ingest: &Ingest,
    address: SocketAddr,
    door: &Door,
) -> Option<(Id, CancellationToken)> {
    // A proxy is everybody, so it is not counted as one.
    let peer = (!ingest.origins.is_proxy(address.ip())).then(|| Peer::of(address.ip()));
    let token = CancellationToken::new();
    loop {
        let changed = inside.changed.notified();
        let verdict = inside
            .admission()
            .arrive(peer, Instant::now(), || token.clone());
        let until = match verdict {
            Verdict::Enter(id) => return Some((id, token)),
            Verdict::Instead(id, other) => {
                ingest.metrics.cut("evicted");
                other.cancel();
                return Some((id, token));
            }
            Verdict::Refuse => {
                ingest.metrics.cut("peer_cap");
                return None;
            }
            Verdict::Wait(until) => until,
        };
        let timer = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => {}
            () = changed => {}
            () = door.end.cancelled() => return None,
        }
    }
}

/// One connection, as its socket, its requests and its answers see it.
struct Connection {
    id: Id,
    peer: IpAddr,
    conduct: Mutex<Conduct>,
    ingest: Arc<Ingest>,
    inside: Arc<Inside>,
    leaving: CancellationToken,
    /// Something has happened that may be a reason to close it.
    look_again: Notify,
}

impl Connection {
    async fn serve(self, stream: TcpStream, evicted: CancellationToken, door: Door) {
        let connection = Arc::new(self);
        let metrics = &connection.ingest.metrics;
        metrics.connections.inc();
        let end = tokio::select! {
            // Its place has been given away already.
            () = evicted.cancelled() => End::Closed,
            end = shake_hands(stream, &connection, &door) => {
                connection.inside.admission().leave(connection.id);
                connection.inside.changed.notify_one();
                end
            }
        };
        connection.account(end);
        metrics.connections.dec();
    }

    /// Counts what never became a request.
    fn account(&self, end: End) {
        let conduct = self.conduct().clone();
        let refused = conduct.refused_streams();
        for _ in 0..refused {
            self.ingest.refused(Refusal::StreamRefused, None);
        }
        if let (0, Some(refusal)) = (refused, conduct.opening().refusal(end)) {
            let place = conduct.opening().path().and_then(ingest::place);
            self.ingest.refused(refusal, place.as_deref());
        }
    }

    fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self, why: Cut) {
        self.ingest.metrics.cut(why.as_str());
    }

    /// Whether the next answer is the last one, and this connection to be closed behind it.
    fn is_last(&self) -> bool {
        self.leaving.is_cancelled() || self.conduct().is_last(Instant::now())
    }
}

async fn shake_hands(stream: TcpStream, connection: &Arc<Connection>, door: &Door) -> End {
    // An answer is one small packet and somebody waits for it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(kind = ?error.kind(), "nodelay");
    }
    let shaking = Arc::new(AtomicBool::new(door.tls.is_some()));
    let heard = {
        let (connection, shaking) = (Arc::clone(connection), Arc::clone(&shaking));
        move |bytes: &[u8]| {
            let mut conduct = connection.conduct();
            conduct.heard(Instant::now());
            if shaking.load(Ordering::Relaxed) {
                conduct.read(bytes);
            }
        }
    };
    let wire = Wire::new(stream, door.limits.patience.stall, heard);
    let Some(tls) = &door.tls else {
        return talk(wire, connection, door).await;
    };
    let shaken = tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(wire));
    let Ok(Ok(stream)) = shaken.await else {
        connection.ingest.metrics.cut("handshake");
        return End::Handshake;
    };
    shaking.store(false, Ordering::Relaxed);
    connection.conduct().shaken();
    talk(stream, connection, door).await
}

async fn talk<Io>(io: Io, connection: &Arc<Connection>, door: &Door) -> End
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| answer(connection, request));
    let heard = {
        let connection = Arc::clone(connection);
        move |bytes: &[u8]| connection.conduct().read(bytes)
    };
    let mut builder = Builder::new(TokioExecutor::new());
    // hyper's own header deadline stays off: see conduct.rs.
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(HTTP2_HEADERS)
        .max_pending_accept_reset_streams(HTTP2_RESETS)
        .max_local_error_reset_streams(HTTP2_MISTAKES)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW)
        .max_send_buf_size(BUFFER)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let served = builder.serve_connection(TokioIo::new(Linger::new(io, heard)), service);
    tokio::pin!(served);
    let (mut ending, mut closing) = (false, false);
    loop {
        let now = Instant::now();
        let (look, http2, spoken, came) = {
            let conduct = connection.conduct();
            (
                conduct.look(now),
                conduct.is_http2(),
                conduct.has_spoken(),
                conduct.came(),
            )
        };
        let mut next = match look {
            Look::Fine(until) => until,
            Look::Enough(why) => {
                connection.cut(why);
                return End::Closed;
            }
        };
        if !closing {
            // Who has just come and said nothing yet is about to: the request is on its way.
            let last_call = (!spoken).then_some(came + LAST_CALL);
            closing = if ending && last_call.is_none_or(|until| until <= now) {
                true
            } else {
                next = next.min(last_call.filter(|_| ending).unwrap_or(next));
                // HTTP/1.1 is told in the answer. HTTP/2 has a way to say so that loses nothing, once it has spoken:
                // a connection that is refused before its first request would only be made again.
                http2 && spoken && connection.is_last()
            };
            if closing {
                served.as_mut().graceful_shutdown();
            }
        }
        tokio::select! {
            result = served.as_mut() => {
                let Err(error) = result else {
                    return End::Closed;
                };
                if is_stalled(error.as_ref()) {
                    connection.cut(Cut::Deaf);
                }
                // Its words may be the peer's.
                tracing::debug!("a connection ended with an error");
                return end_of(error.as_ref(), spoken);
            }
            () = tokio::time::sleep_until(next) => {}
            () = connection.look_again.notified() => {}
            () = door.leaving.cancelled(), if http2 && !closing => {}
            () = door.end.cancelled(), if !ending => ending = true,
        }
    }
}

/// One request to its answer.
fn answer(
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + use<> {
    let http2 = request.version() == Version::HTTP_2;
    let guest = Guest::new(connection, http2, request.body().is_end_stream());
    let visitor = Visitor(Arc::clone(&guest) as Arc<dyn Visit>);
    request.extensions_mut().insert(visitor);
    let reader = Arc::clone(&guest);
    let request = request.map(|body| Question { body, reader });
    let answered = connection.inside.router.clone().call(request);
    async move {
        let mut response = answered.await?;
        let connection = Arc::clone(&guest.connection);
        if !http2 && connection.is_last() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        connection.conduct().unsent(Instant::now());
        Ok(response.map(|text| Answer { text, connection }))
    }
}

/// How a connection ended that hyper gave up on, and that has made a request before or not.
fn end_of(error: &(dyn Error + 'static), has_spoken: bool) -> End {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_parse_too_large() => End::TooLarge,
        Some(error) if error.is_parse() => End::Unreadable,
        // h2 says no more than that something was wrong with its frames.
        Some(error) if !has_spoken && error.source().is_some_and(|why| !why.is::<io::Error>()) => {
            End::Unreadable
        }
        _ => End::Closed,
    }
}

fn is_stalled(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::TimedOut
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// One request on its connection. It may be dropped at any moment: a stream of HTTP/2 can be taken back.
struct Guest {
    connection: Arc<Connection>,
    at_work: AtomicBool,
    /// All of its body was read.
    is_read: AtomicBool,
}

impl Guest {
    fn new(connection: &Arc<Connection>, http2: bool, is_read: bool) -> Arc<Self> {
        connection.conduct().request(http2);
        if http2 && connection.is_last() {
            connection.look_again.notify_one();
        }
        Arc::new(Guest {
            connection: Arc::clone(connection),
            at_work: AtomicBool::new(false),
            is_read: AtomicBool::new(is_read),
        })
    }
}

impl Visit for Guest {
    fn peer(&self) -> IpAddr {
        self.connection.peer
    }

    fn verified(&self) {
        let connection = &self.connection;
        connection.conduct().prove();
        if !self.at_work.swap(true, Ordering::Relaxed) {
            let mut admission = connection.inside.admission();
            admission.begin_work(connection.id, Instant::now());
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let (connection, now) = (&self.connection, Instant::now());
        if self.at_work.load(Ordering::Relaxed) {
            connection.inside.admission().end_work(connection.id, now);
            connection.inside.changed.notify_one();
        }
        let mut conduct = connection.conduct();
        conduct.answered(now);
        if !self.is_read.load(Ordering::Relaxed) {
            conduct.leave_body();
        }
    }
}

/// The body of a request, which says when all of it was read.
struct Question {
    body: Incoming,
    reader: Arc<Guest>,
}

impl Body for Question {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.reader.is_read.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. hyper drops it when all of it has been taken, or never will be.
struct Answer {
    text: axum::body::Body,
    connection: Arc<Connection>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.text).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.text.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.conduct().sent(Instant::now());
    }
}
