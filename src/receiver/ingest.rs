//! One request to its answer: an honest 200, or a refusal that tells a stranger nothing.
//!
//! ```text
//! account -> sender -> method -> size -> signature header -> body -> keyring -> signature -> journal -> 200
//! ```
//!
//! A 200 means that the delivery is on disk; nothing else earns one, and a valid signature always does, whatever the
//! body, its coding and the other headers say.
//!
//! Until the signature is verified, nothing that a sender can see depends on the path: neither answer nor time. So the
//! path is looked up last, and a path without a key costs the same digest and the same wait as one with a key.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Router};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version};
use k8s_openapi::jiff::Timestamp;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio::time::Instant;

use super::body::{Allowance, Held, LARGEST, Unread};
use super::keyring::{Found, Index, Webhook};
use super::metrics::{Metrics, Place};
use super::origin::Origins;
use super::probe::Sighting;
use super::status::Reports;
use crate::delivery::answers;
use crate::delivery::event::UNREADABLE;
use crate::delivery::signature::{self, Verified};
use crate::delivery::{Delivery, Profile, Received, Refused, Signatures};
use crate::journal::{Appended, Journal, JournalError};
use crate::resources::keyring::Keyring;
use crate::resources::refusal::Refusal;

/// CHeKT waits five seconds for an answer (webhook-setup-guide, "Prerequisites"); the network has the fifth.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long after the request's headers we wait for a keyring that is on its way.
const KEYRING: Duration = Duration::from_secs(2);
/// Where the health checks of load balancers ask. The answer says that the process serves, and nothing else.
const HEALTH: &str = "/healthz";
/// The most bytes of headers that a request over HTTP/2 may have, counted as the protocol does.
const HTTP2_HEADERS: usize = 8 * 1024;
/// The longest name of an event in a log line.
const LONGEST_EVENT: usize = 128;

/// Everything that a request needs.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// How deliveries are signed.
    pub profile: Profile,
    /// Where they may come from.
    pub origins: Origins,
    /// What bodies may take of the memory.
    pub bodies: Allowance,
    /// Who may deliver where.
    pub index: watch::Receiver<Index>,
    /// Where deliveries are kept.
    pub journal: Journal,
    /// Where users see them.
    pub reports: Reports,
    /// What is counted.
    pub metrics: Metrics,
}

/// The connection that a request came over, as far as it is of interest here.
pub trait Visit: Send + Sync {
    /// The address of the peer.
    fn peer(&self) -> IpAddr;
    /// The request has a valid signature, and is about to be written down.
    fn verified(&self);
}

/// The connection of a request; the server adds it to each.
#[derive(Clone)]
pub struct Visitor(pub Arc<dyn Visit>);

/// When a request began, and the `namespace/name` of its path.
#[derive(Clone, Debug)]
struct Arrival {
    began: Instant,
    place: Option<Arc<str>>,
    probe: Option<Arc<Sighting>>,
}

/// A request whose headers leave it a chance.
struct Signed {
    visitor: Visitor,
    arrival: Arrival,
    signatures: Signatures,
    encoded: bool,
}

/// A delivery is on disk.
#[derive(Clone, Copy, Debug)]
struct Acknowledged(Appended);

/// The public port.
pub fn router(ingest: Arc<Ingest>) -> Router {
    // One handler for all other paths and methods, so that none of them has an answer of its own.
    Router::new()
        .route(HEALTH, any(deliver).get(async || "ok\n"))
        .fallback(deliver)
        .layer(middleware::from_fn_with_state(Arc::clone(&ingest), account))
        .with_state(ingest)
}

async fn deliver(
    State(ingest): State<Arc<Ingest>>,
    signed: Signed,
    body: Held,
) -> Result<Acknowledged, Refusal> {
    ingest.settle(signed, body).await.map(Acknowledged)
}

/// Counts every request by what became of it, and tells the webhook's owner of a refusal.
async fn account(State(ingest): State<Arc<Ingest>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let place: Option<Arc<str>> = place(request.uri().path()).map(Arc::from);
    let probe = Sighting::of(&request, &ingest.origins).map(Arc::new);
    let mut unanswered = Unanswered {
        ingest: &ingest,
        place: place.as_deref(),
        probe: probe.clone(),
        refusal: Some(Refusal::ConnectionLost),
    };
    let arrival = Arrival {
        began,
        place: place.clone(),
        probe,
    };
    request.extensions_mut().insert(arrival);
    let response = next.run(request).await;
    let outcome = response.extensions();
    unanswered.refusal = outcome.get::<Refusal>().copied();
    if let Some(Acknowledged(appended)) = outcome.get() {
        ingest.metrics.delivery(outcome_of(*appended));
        let seconds = began.elapsed().as_secs_f64();
        ingest.metrics.durable_seconds.observe(seconds);
    }
    response
}

/// A request that has no 200 yet. It may be dropped at any moment: the peer can go, or take a stream back.
struct Unanswered<'r> {
    ingest: &'r Ingest,
    place: Option<&'r str>,
    probe: Option<Arc<Sighting>>,
    refusal: Option<Refusal>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        match (self.refusal, &self.probe) {
            (Some(refusal), Some(probe)) => self.ingest.probed(probe, refusal, self.place),
            (Some(refusal), None) => self.ingest.refused(refusal, self.place),
            (None, _) => {}
        }
    }
}

impl FromRequestParts<Arc<Ingest>> for Signed {
    type Rejection = Refusal;

    /// Everything that can be told from the headers alone.
    async fn from_request_parts(parts: &mut Parts, ingest: &Arc<Ingest>) -> Result<Self, Refusal> {
        let extensions = &parts.extensions;
        // The server of the router adds both.
        let (Some(visitor), Some(arrival)) = (extensions.get::<Visitor>(), extensions.get()) else {
            return Err(Refusal::OriginNotAllowed);
        };
        let headers = &parts.headers;
        if parts.version == Version::HTTP_2 && size(parts) > HTTP2_HEADERS {
            return Err(Refusal::HeadersTooLarge);
        }
        if !ingest.origins.admits(visitor.0.peer(), headers) {
            return Err(Refusal::OriginNotAllowed);
        }
        if parts.method != Method::POST {
            return Err(Refusal::MethodNotAllowed);
        }
        if announced(headers).is_some_and(|length| length > LARGEST as u64) {
            return Err(Refusal::BodyTooLarge);
        }
        let values = headers.get_all(ingest.profile.signature_header);
        let values = values.iter().map(HeaderValue::as_bytes);
        Ok(Signed {
            signatures: Signatures::read(&ingest.profile, values)?,
            encoded: is_encoded(headers),
            visitor: visitor.clone(),
            arrival: Arrival::clone(arrival),
        })
    }
}

impl FromRequest<Arc<Ingest>> for Held {
    type Rejection = Refusal;

    async fn from_request(request: Request, ingest: &Arc<Ingest>) -> Result<Self, Refusal> {
        let arrival = request.extensions().get::<Arrival>();
        let began = arrival.map_or_else(Instant::now, |arrival| arrival.began);
        // A body may take its time, and headers are larger than most bodies: they go here.
        let body = request.into_body();
        Ok(ingest.bodies.read(body, began).await?)
    }
}

impl From<Unread> for Refusal {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLarge => Refusal::BodyTooLarge,
            Unread::TooSlow => Refusal::BodyTooSlow,
            Unread::Broken => Refusal::BodyBroken,
            Unread::NoRoom => Refusal::BodiesTooMany,
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Missing => Refusal::SignatureMissing,
            Refused::Malformed => Refusal::SignatureMalformed,
            Refused::Mismatch => Refusal::SignatureMismatch,
        }
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Full => Refusal::JournalFull,
            JournalError::OverShare => Refusal::OverShare,
            JournalError::Closed | JournalError::Io(_) => Refusal::JournalFailed,
        }
    }
}

impl IntoResponse for Acknowledged {
    fn into_response(self) -> Response {
        (Extension(self), "ok\n").into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // A refusal without a number is of a connection that has ended, and never comes here.
        let status = self.status().unwrap_or(StatusCode::BAD_REQUEST);
        let text = answers::refusal(status).unwrap_or_default();
        let mut response = (status, Extension(self), text).into_response();
        if self == Refusal::MethodNotAllowed {
            let post = HeaderValue::from_static("POST");
            response.headers_mut().insert(ALLOW, post);
        }
        response
    }
}

impl Ingest {
    /// Counts a request that does not end in 200, and tells the owner of the webhook at this place, where there is one.
    pub fn refused(&self, refusal: Refusal, place: Option<&str>) {
        self.metrics.delivery(refusal.outcome());
        tracing::debug!(outcome = refusal.outcome(), "refused");
        let webhook = place.and_then(|place| self.index.borrow().at(place).cloned());
        if let Some(webhook) = webhook {
            self.reports
                .refused(&webhook.identity, refusal, Timestamp::now());
        }
    }

    /// Counts a probe, and notes it in the status of the webhook that it names. One that names none is a request like any.
    fn probed(&self, probe: &Sighting, refusal: Refusal, place: Option<&str>) {
        let webhook = self.index.borrow().at(probe.webhook()).cloned();
        let Some(webhook) = webhook else {
            return self.refused(refusal, place);
        };
        self.metrics.delivery(probe.outcome(refusal));
        self.reports
            .probed(&webhook.identity, probe.seen(refusal, place));
    }

    /// Finds a key that the signature fits.
    ///
    /// A keyring may be on its way: that of a webhook that was made a moment ago, or all of them after a start. Waiting
    /// costs less than a refusal, three of which switch the webhook off. For a time in which one may be on its way,
    /// every request without a valid signature waits, so that none of them tells whose it is.
    async fn believe(
        &self,
        signed: &Signed,
        body: Vec<u8>,
    ) -> Result<(Arc<Webhook>, Arc<Keyring>, Delivery<Verified>), Refusal> {
        let began = signed.arrival.began;
        if let Some(probe) = &signed.arrival.probe {
            probe.compare(&signed.signatures, &body);
        }
        let find = |index: &Index| match &signed.arrival.place {
            Some(place) => index.find(place),
            None => Found::Nobody,
        };
        let known = |index: &Index| match find(index) {
            ready @ Found::Ready(..) => Some(ready),
            other => index.is_settled(Instant::now()).then_some(other),
        };
        let found = self.wait(began, known).await;
        let found = found.unwrap_or_else(|| find(&self.index.borrow()));
        let refusal = match found {
            Found::Ready(webhook, keyring) => {
                let delivery = Delivery::new(webhook.identity.clone(), body);
                match delivery.verify(&signed.signatures, &keyring) {
                    Ok(delivery) => return Ok((webhook, keyring, delivery)),
                    Err(_) if signed.encoded => Refusal::ContentEncoded,
                    Err(refused) => refused.into(),
                }
            }
            none => {
                signature::disbelieve(&body, &signed.signatures);
                match none {
                    Found::NoKey(_) => Refusal::KeyringEmpty,
                    _ => Refusal::UnknownPath,
                }
            }
        };
        let settled = |index: &Index| index.is_settled(Instant::now()).then_some(());
        self.wait(began, settled).await;
        if self.index.borrow().is_read() {
            Err(refusal)
        } else {
            Err(Refusal::NotReady)
        }
    }

    /// Waits until the index shows what is looked for, and for so long as a request may wait for it.
    async fn wait<T>(&self, began: Instant, look: impl Fn(&Index) -> Option<T>) -> Option<T> {
        if let Some(found) = look(&self.index.borrow()) {
            return Some(found);
        }
        let _turn = self.bodies.wait()?;
        let mut index = self.index.clone();
        let found = async {
            loop {
                if let Some(found) = look(&index.borrow_and_update()) {
                    return Some(found);
                }
                // In time or not, there is nobody left who could bring it.
                index.changed().await.ok()?;
            }
        };
        tokio::time::timeout_at(began + KEYRING, found).await.ok()?
    }

    /// Verifies, and writes to the journal what is verified.
    async fn settle(&self, signed: Signed, body: Held) -> Result<Appended, Refusal> {
        // Its share of the memory goes back once it is on disk, or is not going to be.
        let (body, _share) = body.into_parts();
        let (webhook, keyring, delivery) = self.believe(&signed, body).await?;
        let (now, began) = (Timestamp::now(), signed.arrival.began);
        signed.visitor.0.verified();
        let place = delivery.place().as_str();
        self.metrics.verified.get_or_create(&Place { place }).inc();
        let (received, content) = Received::new(delivery, &webhook.known, now);
        let event: String = match &content {
            Ok(envelope) => envelope.event.chars().take(LONGEST_EVENT).collect(),
            Err(_) => UNREADABLE.to_owned(),
        };
        let key = received.key.short();
        let key_id = received.key_id.clone();
        let appended = tokio::time::timeout_at(began + DEADLINE, self.journal.append(received))
            .await
            .unwrap_or_else(|_| Err(JournalError::Io("it took too long".to_owned())));
        let identity = &webhook.identity;
        let name = format!("{}/{}", identity.namespace, identity.name);
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &appended {
            Ok(appended) => {
                let request = keyring.test.as_ref();
                self.reports
                    .verified(identity, &event, &key_id, request, now);
                self.metrics.last_verified.set(now.as_second());
                let outcome = outcome_of(*appended);
                // The publisher tells of each delivery once; of a copy nobody else does.
                match appended {
                    Appended::New => {
                        tracing::debug!(webhook = %name, event, delivery = key, key_id, place, outcome, took_ms, "delivery");
                    }
                    Appended::Known => {
                        tracing::info!(webhook = %name, event, delivery = key, key_id, place, outcome, took_ms, "delivery");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(webhook = %name, event, delivery = key, key_id, place, %error, took_ms, "delivery not accepted");
            }
        }
        appended.map_err(Refusal::from)
    }
}

fn outcome_of(appended: Appended) -> &'static str {
    match appended {
        Appended::New => "accepted",
        Appended::Known => "duplicate",
    }
}

/// `namespace/name` of a path, if it is the path of a webhook in any spelling: CHeKT calls what the controller
/// registered, but a proxy on the way may escape characters, double or append a slash.
#[must_use]
pub fn place(path: &str) -> Option<Cow<'_, str>> {
    if let Some(place) = path.strip_prefix("/webhooks/").filter(|p| is_place(p)) {
        return Some(Cow::Borrowed(place));
    }
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let ["webhooks", namespace, name] = segments[..] else {
        return None;
    };
    let place = format!("{namespace}/{name}");
    is_place(&place).then_some(Cow::Owned(place))
}

/// Whether this is `namespace/name`, of the characters that names of Kubernetes have.
fn is_place(text: &str) -> bool {
    let is_name = |text: &str| {
        (1..=253).contains(&text.len())
            && !matches!(text, "." | "..")
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    let parts = text.split_once('/');
    parts.is_some_and(|(namespace, name)| is_name(namespace) && is_name(name))
}

/// How HTTP/2 counts the size of headers (RFC 9113, section 6.5.2).
fn size(parts: &Parts) -> usize {
    let path = parts.uri.path_and_query().map_or(0, |p| p.as_str().len());
    let field = |(name, value): (&http::HeaderName, &HeaderValue)| {
        name.as_str().len() + value.as_bytes().len() + 32
    };
    path + parts.headers.iter().map(field).sum::<usize>()
}

/// Whether the body is said to be coded. The signature is over the bytes as sent, so the coding is never undone.
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_that_of_a_webhook_in_any_spelling_or_unknown() {
        for path in [
            "/webhooks/security/alarms",
            "/webhooks/security/alarms/",
            "//webhooks//security/alarms",
            "/webhooks/security/al%61rms",
            "/webhooks%2Fsecurity/alarms",
            "/./webhooks/x/../security/alarms",
        ] {
            assert_eq!(place(path).as_deref(), Some("security/alarms"), "{path}");
        }
        assert_eq!(place("/webhooks/a/b.c-d").as_deref(), Some("a/b.c-d"));
        for path in [
            "",
            "*",
            "/",
            "/webhooks",
            "/webhooks/",
            "/webhooks/security",
            "/webhooks/security/",
            "/webhooks//alarms",
            "/webhooks/security/alarms/x",
            "/x/webhooks/security/alarms",
            "/Webhooks/security/alarms",
            "/webhooks/security/Alarms",
            "/webhooks/security/al%2561rms",
            "/webhooks/security/al%ffrms",
        ] {
            assert_eq!(place(path).as_deref(), None, "{path}");
        }
    }
}
