//! An interceptor between a controller and its two servers: it reads every call as HTTP, numbers those that matter, and
//! stops the world exactly at one of them, so that the process can be killed there from outside.
//!
//! Both ways lead through one numbering, since a crash falls between two calls whomever they go to:
//!
//! ```text
//!               +- TLS, the API server's own certificate -- TLS -> kube-apiserver
//! controller ---+
//!               +- plain http ---------------------------------> the sandbox
//! ```
//!
//! What matters is what is written, and what is read and then acted upon. Watches, the lists that fill the stores and
//! everything about leases pass uncounted: they come whenever they like, and a number would mean something else in each
//! run. A write that nobody thought of here is counted like the others.
//!
//! From the stop on nothing passes in either direction, but what a watch says: no other call of the process can reach a
//! server in the moment before the kill. A call that was held back is never sent, as one that died with its process.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::control_plane::{ControlPlane, Identity};

/// How long the process has to read an answer, where no further call shows that it has.
const READ: Duration = Duration::from_millis(250);
/// The least of it: the two controllers of the process work side by side, so the next call may be the other one's.
const READ_AT_LEAST: Duration = Duration::from_millis(20);

/// Where in a call the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The process has sent it, and the server never sees it.
    BeforeItLeaves,
    /// The server has answered, and the process never sees that.
    AfterTheServerActed,
    /// The process has read the answer, and nothing that it does next reaches a server: the kill comes with its next
    /// call, or after a quarter of a second without one.
    AfterTheAnswerWasRead,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 3] = [
        Point::BeforeItLeaves,
        Point::AfterTheServerActed,
        Point::AfterTheAnswerWasRead,
    ];
}

/// A point of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Strike {
    /// Which call since the counting began; 1 is the first.
    pub call: usize,
    /// Of this name; `None`: of all.
    pub of: Option<&'static str>,
    /// Where in it.
    pub point: Point,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Everything passes, uncounted.
    #[default]
    Passing,
    /// Everything passes, and what matters is counted.
    Counting,
    /// The world stands still, and the process has an answer to read.
    Standing,
    /// The process wanted to make a further call that matters.
    Knocked,
    /// The world stands still, and it is time to kill.
    Reached,
}

/// What the interceptor knows.
#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// The calls counted so far, by name.
    calls: Vec<String>,
    strike: Option<Strike>,
    hold: Option<Hold>,
}

/// A call that waits until something else has happened.
#[derive(Debug)]
struct Hold {
    call: &'static str,
    arrived: bool,
}

/// What becomes of a call.
enum Turn {
    Passes,
    PassesUntil(Point),
    Never,
}

/// Both ways of one controller. It lives on the runtime that opened it.
#[derive(Debug)]
pub struct Interceptor {
    state: watch::Sender<State>,
    kube: SocketAddr,
    partner: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: Vec<JoinHandle<()>>,
}

/// What a call is called, if it matters.
type Naming = fn(&Method, &str) -> Option<String>;
type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// One of the two ways.
#[derive(Clone)]
struct Way {
    server: SocketAddr,
    tls: Option<(TlsAcceptor, TlsConnector)>,
    name: Naming,
}

impl Interceptor {
    /// Opens both ways: to the API server of this control plane and to this sandbox.
    ///
    /// # Errors
    /// When no port can be bound, or the API server's certificate cannot be read.
    pub async fn open(plane: &ControlPlane, sandbox: SocketAddr) -> anyhow::Result<Interceptor> {
        let (kube, partner) = (
            TcpListener::bind("127.0.0.1:0").await?,
            TcpListener::bind("127.0.0.1:0").await?,
        );
        let mut interceptor = Interceptor {
            state: watch::Sender::default(),
            kube: kube.local_addr()?,
            partner: partner.local_addr()?,
            connections: Arc::default(),
            accepting: Vec::new(),
        };
        let to_kube = Way {
            server: plane.address(),
            tls: Some(tls(plane)?),
            name: kube_call,
        };
        let to_partner = Way {
            server: sandbox,
            tls: None,
            name: partner_call,
        };
        interceptor.accept(kube, to_kube);
        interceptor.accept(partner, to_partner);
        Ok(interceptor)
    }

    /// A kubeconfig of `who` that leads through it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(
        &self,
        plane: &ControlPlane,
        who: Identity,
    ) -> anyhow::Result<std::path::PathBuf> {
        plane.kubeconfig_via(who, self.kube)
    }

    /// CHeKT's base URL that leads through it.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.partner)
    }

    /// Counts from now on, and stops the world at this point, if there is one.
    pub fn count(&self, strike: Option<Strike>) {
        self.state.send_replace(State {
            phase: Phase::Counting,
            strike,
            ..State::default()
        });
    }

    /// The calls since the counting began, by name.
    pub fn calls(&self) -> Vec<String> {
        self.state.borrow().calls.clone()
    }

    /// Waits until the point is reached. From then on the world stands still.
    pub async fn reached(&self) {
        // The sender lives as long as `self`, so the channel cannot be closed.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.phase == Phase::Reached)
            .await;
    }

    /// Lets the next counted call of this name wait for [`Interceptor::let_go`].
    pub fn hold(&self, call: &'static str) {
        let hold = Hold {
            call,
            arrived: false,
        };
        self.state.send_modify(|state| state.hold = Some(hold));
    }

    /// Waits until the call that is to be held has come, or will not come any more since the world stands still.
    pub async fn held(&self) {
        let here = |state: &State| {
            state.phase > Phase::Counting || state.hold.as_ref().is_some_and(|h| h.arrived)
        };
        // As above.
        let _ = self.state.subscribe().wait_for(here).await;
    }

    /// Lets it go on.
    pub fn let_go(&self) {
        self.state.send_modify(|state| state.hold = None);
    }

    /// After the kill: what the dead process had sent is gone for good, and the world goes on uncounted.
    pub async fn clear(&self) {
        let mut dead = {
            let mut all = self.connections.lock();
            let all = all.as_mut().unwrap_or_else(|e| e.get_mut());
            std::mem::take(&mut **all)
        };
        dead.shutdown().await;
        self.state.send_replace(State::default());
    }

    fn accept(&mut self, listener: TcpListener, way: Way) {
        let (state, connections) = (self.state.clone(), self.connections.clone());
        self.accepting.push(tokio::spawn(async move {
            loop {
                // A failed accept is the client's loss alone; the next one may do.
                let Ok((client, _)) = listener.accept().await else {
                    continue;
                };
                let carried = carry(client, way.clone(), state.clone());
                let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
                while all.try_join_next().is_some() {}
                all.spawn(async move {
                    // Whatever ended it, both sides see that it has ended, and there is nobody else to tell.
                    let _ = carried.await;
                });
            }
        }));
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        for accepting in &self.accepting {
            accepting.abort();
        }
    }
}

/// One connection of the client and one of its own to the server, for as long as both live.
async fn carry(client: TcpStream, way: Way, state: watch::Sender<State>) -> anyhow::Result<()> {
    let server = TcpStream::connect(way.server).await?;
    // An answer is one small packet and somebody waits for it.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    match &way.tls {
        None => converse(client, server, way.name, state).await,
        Some((acceptor, connector)) => {
            let name = ServerName::IpAddress(way.server.ip().into());
            let client = acceptor.accept(client).await?;
            let server = connector.connect(name, server).await?;
            converse(client, server, way.name, state).await
        }
    }
}

async fn converse<C, S>(
    client: C,
    server: S,
    name: Naming,
    state: watch::Sender<State>,
) -> anyhow::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, to_server) = hyper::client::conn::http1::handshake(TokioIo::new(server)).await?;
    let sender = tokio::sync::Mutex::new(sender);
    let service = service_fn(|request| pass(request, &sender, name, &state));
    let from_client =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service);
    tokio::pin!(from_client);
    tokio::select! {
        ended = &mut from_client => ended?,
        // What the server said last still has to reach the client.
        _ = to_server => {
            from_client.as_mut().graceful_shutdown();
            from_client.await?;
        }
    }
    Ok(())
}

/// One call.
async fn pass(
    request: Request<Incoming>,
    server: &tokio::sync::Mutex<SendRequest<Incoming>>,
    name: Naming,
    state: &watch::Sender<State>,
) -> Result<Answer, hyper::Error> {
    let name = name(request.method(), request.uri().path());
    let turn = enter(state, name.as_deref());
    if let Turn::Never = turn {
        match never().await {}
    }
    if let Some(name) = &name {
        let goes = |state: &State| state.hold.as_ref().is_none_or(|hold| hold.call != name);
        // The sender is in our hands, so the channel cannot be closed.
        let _ = state.subscribe().wait_for(goes).await;
        if state.borrow().phase > Phase::Counting {
            match never().await {}
        }
    }
    let answer = server.lock().await.send_request(request).await?;
    if name.is_some() && state.borrow().phase > Phase::Counting {
        match never().await {}
    }
    let Turn::PassesUntil(point) = turn else {
        return Ok(answer.map(BodyExt::boxed));
    };
    let (head, body) = answer.into_parts();
    // To its end: the server has done all of it.
    let body = body.collect().await?.to_bytes();
    if point == Point::AfterTheServerActed {
        state.send_modify(|state| state.phase = Phase::Reached);
        match never().await {}
    }
    state.send_modify(|state| state.phase = Phase::Standing);
    let state = state.clone();
    tokio::spawn(async move {
        tokio::time::sleep(READ_AT_LEAST).await;
        let mut states = state.subscribe();
        let knocks = states.wait_for(|state| state.phase == Phase::Knocked);
        // Either way the answer was read by now.
        drop(tokio::time::timeout(READ, knocks).await);
        state.send_modify(|state| state.phase = Phase::Reached);
    });
    let body = Full::new(body).map_err(|never: Infallible| match never {});
    Ok(Response::from_parts(head, body.boxed()))
}

/// Until the connection goes with its process.
async fn never() -> Infallible {
    std::future::pending().await
}

fn enter(state: &watch::Sender<State>, name: Option<&str>) -> Turn {
    let mut turn = Turn::Passes;
    state.send_modify(|state| {
        if state.phase > Phase::Counting {
            if state.phase == Phase::Standing && name.is_some() {
                state.phase = Phase::Knocked;
            }
            turn = Turn::Never;
            return;
        }
        let Some(name) = name.filter(|_| state.phase == Phase::Counting) else {
            return;
        };
        state.calls.push(name.to_owned());
        if let Some(hold) = &mut state.hold {
            hold.arrived |= hold.call == name;
        }
        let calls = &state.calls;
        let is_struck = |strike: &Strike| match strike.of {
            None => strike.call == calls.len(),
            Some(of) => of == name && strike.call == calls.iter().filter(|c| *c == of).count(),
        };
        match state.strike.filter(is_struck) {
            None => {}
            Some(Strike {
                point: Point::BeforeItLeaves,
                ..
            }) => {
                state.phase = Phase::Reached;
                turn = Turn::Never;
            }
            Some(Strike { point, .. }) => turn = Turn::PassesUntil(point),
        }
    });
    turn
}

/// The name of a call to the API server, such as `PUT keyring`.
fn kube_call(method: &Method, path: &str) -> Option<String> {
    let mut parts = path.split('/').skip_while(|part| *part != "namespaces");
    let named: Vec<&str> = parts.by_ref().skip(2).filter(|p| !p.is_empty()).collect();
    let what = match named[..] {
        ["leases", ..] => return None,
        ["secrets"] if method == Method::POST => "keyring",
        ["secrets", name] if name.starts_with("chekt-keyring-") => "keyring",
        ["secrets", _] => "Secret",
        ["chektwebhooks", _] if method == Method::PATCH => "finalizer",
        ["chektwebhooks", _, "status"] => "status",
        ["chektaccounts", _, "status"] => "account's status",
        ["events", ..] if method != Method::GET => "Event",
        // A list or a watch, of a namespace or of the cluster; or what a client asks to get to know the server.
        [_] | [] if method == Method::GET => return None,
        _ => return Some(format!("{method} {path}")),
    };
    Some(format!("{method} {what}"))
}

/// The name of a call to CHeKT: the name of its route.
// Each of them matters; the other way has calls that do not.
#[allow(clippy::unnecessary_wraps)]
fn partner_call(method: &Method, path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let route = match (method.as_str(), &parts[..]) {
        ("POST", ["oauth", "token"]) => "token",
        ("GET", ["partner", "v1", "webhooks"]) => "list",
        ("POST", ["partner", "v1", "webhooks"]) => "create",
        ("PATCH", ["partner", "v1", "webhooks", _]) => "patch",
        ("DELETE", ["partner", "v1", "webhooks", _]) => "delete",
        ("POST", ["partner", "v1", "webhooks", _, "test"]) => "test",
        _ => return Some(format!("{method} {path}")),
    };
    Some(format!("CHeKT {route}"))
}

/// Ends TLS with the API server's own certificate, which the kubeconfigs trust, and begins it anew behind.
fn tls(plane: &ControlPlane) -> anyhow::Result<(TlsAcceptor, TlsConnector)> {
    let file = |name: &str| plane.dir().join("certs").join(name);
    let chain: Vec<_> = CertificateDer::pem_file_iter(file("apiserver.crt"))?
        .collect::<Result<_, _>>()
        .context("the API server's certificate")?;
    let key = PrivateKeyDer::from_pem_file(file("apiserver.key"))?;
    let mut trusted = rustls::RootCertStore::empty();
    trusted.add_parsable_certificates(chain.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok((
        TlsAcceptor::from(Arc::new(server)),
        TlsConnector::from(Arc::new(client)),
    ))
}
