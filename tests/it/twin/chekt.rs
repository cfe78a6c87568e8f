//! CHeKT in this process: the sandbox with its state in memory, behind connections that know when a caller has gone.
//!
//! A request whose caller goes before it arrived is lost, or arrives later, as one does that is still on its way when a
//! process dies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use chekt_operator::sandbox::{self, HangUp, Settings};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Place, Strokes};

/// The bearer token that CHeKT accepts.
pub const TOKEN: &str = "chekt_twin";

/// So many turns of the runtime a request waits before it is carried out.
const BEFORE: u32 = 12;
/// So many turns of the runtime an answer waits before it is given.
const AFTER: u32 = 4;

/// CHeKT. Clones are one.
#[derive(Clone)]
pub struct Chekt {
    router: Router,
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    strokes: Strokes,
    end: CancellationToken,
}

#[derive(Default)]
struct State {
    under_way: Vec<(http::request::Parts, Bytes)>,
    calls: Calls,
    /// Writes whose answer was not given yet.
    writing: u32,
}

/// How many calls have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub lists: u64,
    pub writes: u64,
    pub tests: u64,
}

/// A webhook at CHeKT, secret and all.
#[derive(Clone, Debug, Deserialize)]
pub struct Remote {
    pub webhook_id: String,
    pub url: String,
    pub events: Vec<String>,
    pub status: String,
    pub secret: String,
}

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("closed without an answer")]
struct HungUp;

impl Chekt {
    /// Listens on a port of its own.
    pub async fn open(strokes: Strokes) -> anyhow::Result<Chekt> {
        let end = CancellationToken::new();
        let settings = Settings {
            token: Some(TOKEN.into()),
            requests_per_minute: 0,
            ..Settings::default()
        };
        let router = sandbox::in_memory(settings, &end)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let chekt = Chekt {
            router,
            address: listener.local_addr()?,
            state: Arc::default(),
            strokes,
            end,
        };
        tokio::spawn(chekt.clone().serve(listener));
        Ok(chekt)
    }

    async fn serve(self, listener: TcpListener) {
        loop {
            let stream = tokio::select! {
                () = self.end.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue,
                },
            };
            let (chekt, end) = (self.clone(), self.end.clone());
            let service = service_fn(move |request| chekt.clone().answer(request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                tokio::select! {
                    // How a connection ends is the business of the one who calls.
                    _ = connection => {}
                    () = end.cancelled() => {}
                }
            });
        }
    }

    async fn answer(self, request: hyper::Request<Incoming>) -> Result<Response, HungUp> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| HungUp)?.to_bytes();
        let is_write = head.method != http::Method::GET;
        self.state().writing += u32::from(is_write);
        let mut flight = Flight {
            chekt: &self,
            is_write,
            request: Some((head, body)),
            place: Place::PartnerBefore,
        };
        turns(BEFORE).await;
        let Some((head, body)) = flight.request.take() else {
            return Err(HungUp);
        };
        flight.place = Place::PartnerAfter;
        let response = self.act(head, body).await;
        turns(AFTER).await;
        flight.place = Place::Nowhere;
        if response.extensions().get::<HangUp>().is_some() {
            return Err(HungUp);
        }
        Ok(response)
    }

    async fn act(&self, head: http::request::Parts, body: Bytes) -> Response {
        {
            let calls = &mut self.state().calls;
            match (head.method.as_str(), head.uri.path().ends_with("/test")) {
                ("GET", _) => calls.lists += 1,
                (_, true) => calls.tests += 1,
                (_, false) => calls.writes += 1,
            }
        }
        let request = Request::from_parts(head, Body::from(body));
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Lets the requests arrive that were on their way when their caller went.
    pub async fn land(&self) {
        let requests = std::mem::take(&mut self.state().under_way);
        for (head, body) in requests {
            self.act(head, body).await;
        }
    }

    /// Whether a request is on its way whose caller has gone.
    pub fn has_under_way(&self) -> bool {
        !self.state().under_way.is_empty()
    }

    /// Whether a write is under way.
    pub fn is_being_written(&self) -> bool {
        self.state().writing > 0
    }

    /// The calls so far.
    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    /// Closes it.
    pub fn close(&self) {
        self.end.cancel();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a control route, past all connections.
    async fn control(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = Request::builder().method(method).uri(path).body(body)?;
        let response = self.router.clone().oneshot(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{method} {path}: {status} {bytes:?}");
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).with_context(|| format!("{method} {path}"))
    }

    /// What CHeKT holds, the oldest first.
    pub async fn live(&self) -> anyhow::Result<Vec<Remote>> {
        let all = self
            .control("GET", "/sandbox/webhooks", Value::Null)
            .await?;
        Ok(serde_json::from_value(all)?)
    }

    /// A webhook that somebody else makes.
    pub async fn add(&self, url: &str, events: &[&str]) -> anyhow::Result<()> {
        let body = json!({"url": url, "events": events, "secret": "somebody else's"});
        let request = Request::builder()
            .method("POST")
            .uri("/partner/v1/webhooks")
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(Body::from(body.to_string()))?;
        let response = self.router.clone().oneshot(request).await?;
        anyhow::ensure!(response.status().is_success(), "{}", response.status());
        Ok(())
    }

    /// A change that somebody makes by hand.
    pub async fn edit(&self, id: &str, change: Value) -> anyhow::Result<()> {
        let path = format!("/sandbox/webhooks/{id}");
        self.control("PATCH", &path, change).await.map(|_| ())
    }

    /// A webhook that goes away.
    pub async fn vanish(&self, id: &str) -> anyhow::Result<()> {
        let path = format!("/sandbox/webhooks/{id}");
        self.control("DELETE", &path, Value::Null).await.map(|_| ())
    }

    /// Sets quirks.
    pub async fn set_quirks(&self, quirks: Value) -> anyhow::Result<()> {
        let set = self.control("PUT", "/sandbox/quirks", quirks).await;
        set.map(|_| ())
    }

    /// Sets faults; none, where the list is empty.
    pub async fn set_faults(&self, faults: Value) -> anyhow::Result<()> {
        let set = self.control("PUT", "/sandbox/faults", faults).await;
        set.map(|_| ())
    }
}

async fn turns(count: u32) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// A call under way. It is dropped when its caller goes.
struct Flight<'a> {
    chekt: &'a Chekt,
    is_write: bool,
    request: Option<(http::request::Parts, Bytes)>,
    place: Place,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let arrives = self.chekt.strokes.struck(self.place);
        self.chekt.state().writing -= u32::from(self.is_write);
        if let Some(request) = self.request.take()
            && arrives
        {
            self.chekt.state().under_way.push(request);
        }
    }
}
