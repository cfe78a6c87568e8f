//! One request to its answer: an honest 200, or a refusal that tells a stranger nothing.
//!
//! ```text
//! sender -> method -> path -> size -> signature header -> body -> keyring -> signature -> journal -> 200
//! ```
//!
//! What is cheap comes first, so that a request without a chance costs neither memory nor a digest. A 200 means
//! that the delivery is on disk; nothing else earns one, and a valid signature always does, whatever the body.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::body::{Allowance, Held, LARGEST, Unread};
use super::keyring::{Found, Index, Webhook};
use super::metrics::{Metrics, Place};
use super::origin::Origins;
use super::status::Reports;
use crate::delivery::answers;
use crate::delivery::event::UNREADABLE;
use crate::delivery::{Delivery, Profile, Received, Refused, Signatures};
use crate::journal::{Appended, Journal, JournalError};
use crate::resources::keyring::Keyring;
use crate::resources::refusal::Refusal;

/// CHeKT waits five seconds for an answer (webhook-setup-guide, "Prerequisites"); the network has the fifth.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long after the request's headers we wait for a keyring that is on its way.
const KEYRING: Duration = Duration::from_secs(2);
/// What stands before the namespace and name of a webhook in a path.
const PREFIX: &str = "/webhooks/";
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
pub trait Visit: Sync {
    /// The address of the peer.
    fn peer(&self) -> IpAddr;
    /// The request has a valid signature, and is about to be written down.
    fn verified(&self);
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
            JournalError::Closed | JournalError::Io(_) => Refusal::JournalFailed,
        }
    }
}

impl Ingest {
    /// Answers one request, within four seconds.
    pub async fn handle<B>(&self, request: Request<B>, visit: &impl Visit) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let began = Instant::now();
        match self.receive(request, visit, began).await {
            Ok(appended) => {
                self.metrics.delivery(match appended {
                    Appended::New => "accepted",
                    Appended::Known => "duplicate",
                });
                let seconds = began.elapsed().as_secs_f64();
                self.metrics.durable_seconds.observe(seconds);
                answer(StatusCode::OK, "ok\n")
            }
            Err(refusal) => {
                self.metrics.delivery(refusal.outcome());
                tracing::debug!(outcome = refusal.outcome(), "refused");
                refuse(refusal)
            }
        }
    }

    async fn receive<B>(
        &self,
        request: Request<B>,
        visit: &impl Visit,
        began: Instant,
    ) -> Result<Appended, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        if !self.origins.admits(visit.peer(), &head.headers) {
            return Err(Refusal::OriginNotAllowed);
        }
        if head.method != Method::POST {
            return Err(Refusal::MethodNotAllowed);
        }
        let place = place(head.uri.path())
            .ok_or(Refusal::UnknownPath)?
            .to_owned();
        let webhook = match self.index.borrow().find(&place, Timestamp::now()) {
            Found::Nobody => return Err(Refusal::UnknownPath),
            Found::NotRead => None,
            Found::NoKey(webhook) | Found::Ready(webhook, _) => Some(webhook),
        };
        let encoded = is_encoded(&head.headers);
        let signatures = self.signatures(&head.headers);
        // A body may take its time, and headers are larger than most bodies.
        drop(head);
        let outcome = self.read(signatures, body, &place, began).await;
        let refusal = match outcome {
            Ok((webhook, keyring, signatures, body)) => {
                let settled = self.settle(&webhook, &keyring, &signatures, body, visit, began);
                match settled.await {
                    Ok(appended) => return Ok(appended),
                    Err(refusal) => refusal,
                }
            }
            Err(refusal) => refusal,
        };
        let refusal = match refusal {
            Refusal::SignatureMismatch if encoded => Refusal::ContentEncoded,
            refusal => refusal,
        };
        if let Some(webhook) = webhook {
            self.reports
                .refused(&webhook.identity, refusal, Timestamp::now());
        }
        Err(refusal)
    }

    /// Everything that can be told from the headers alone.
    fn signatures(&self, headers: &HeaderMap) -> Result<Signatures, Refusal> {
        if announced(headers).is_some_and(|length| length > LARGEST as u64) {
            return Err(Refusal::BodyTooLarge);
        }
        let values = headers.get_all(self.profile.signature_header);
        Signatures::read(&self.profile, values.iter().map(HeaderValue::as_bytes))
            .map_err(Refusal::from)
    }

    /// Reads what is to be verified and finds out with which keys.
    async fn read<B>(
        &self,
        signatures: Result<Signatures, Refusal>,
        body: B,
        place: &str,
        began: Instant,
    ) -> Result<(Arc<Webhook>, Arc<Keyring>, Signatures, Held), Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let signatures = signatures?;
        let body = self.bodies.read(body, began).await?;
        let (webhook, keyring) = self.keyring(place, began).await?;
        Ok((webhook, keyring, signatures, body))
    }

    /// The keyring of a webhook, which may be on its way: a webhook that was made a moment ago, or a receiver that
    /// was started a moment ago. Waiting costs less than a refusal, three of which switch the webhook off.
    async fn keyring(
        &self,
        place: &str,
        began: Instant,
    ) -> Result<(Arc<Webhook>, Arc<Keyring>), Refusal> {
        let mut index = self.index.clone();
        loop {
            let found = index.borrow_and_update().find(place, Timestamp::now());
            let refusal = match found {
                Found::Ready(webhook, keyring) => return Ok((webhook, keyring)),
                Found::Nobody => return Err(Refusal::UnknownPath),
                Found::NotRead => Refusal::NotReady,
                Found::NoKey(_) => Refusal::KeyringEmpty,
            };
            match tokio::time::timeout_at(began + KEYRING, index.changed()).await {
                Ok(Ok(())) => {}
                // In time or not, there is nobody left who could bring it.
                Ok(Err(_)) | Err(_) => return Err(refusal),
            }
        }
    }

    /// Verifies, and writes to the journal what is verified.
    async fn settle(
        &self,
        webhook: &Webhook,
        keyring: &Keyring,
        signatures: &Signatures,
        body: Held,
        visit: &impl Visit,
        began: Instant,
    ) -> Result<Appended, Refusal> {
        let now = Timestamp::now();
        // Its share of the memory goes back once it is on disk, or is not going to be.
        let (body, _share) = body.into_parts();
        let delivery = Delivery::new(webhook.identity.clone(), body)
            .verify(signatures, keyring, now)
            .map_err(Refusal::from)?;
        visit.verified();
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
                self.reports.verified(identity, &event, &key_id, now);
                self.metrics.last_verified.set(now.as_second());
                let outcome = match appended {
                    Appended::New => "accepted",
                    Appended::Known => "duplicate",
                };
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

/// `namespace/name` of a path, if it is one of ours to the letter: nothing is decoded or normalised, for CHeKT calls
/// what we registered.
fn place(path: &str) -> Option<&str> {
    let place = path.strip_prefix(PREFIX)?;
    let (namespace, name) = place.split_once('/')?;
    let is_name = |text: &str| {
        !text.is_empty()
            && text.len() <= 253
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    (is_name(namespace) && is_name(name)).then_some(place)
}

/// Whether the body is said to be coded. The signature is over the bytes as sent, so the coding is never undone.
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    let status = refusal.status().unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = answer(status, answers::refusal(status).unwrap_or_default());
    if refusal == Refusal::MethodNotAllowed {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

fn answer(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_ours_to_the_letter_or_unknown() {
        assert_eq!(place("/webhooks/security/alarms"), Some("security/alarms"));
        assert_eq!(place("/webhooks/a/b.c-d"), Some("a/b.c-d"));
        for path in [
            "/",
            "/webhooks",
            "/webhooks/",
            "/webhooks/security",
            "/webhooks/security/",
            "/webhooks//alarms",
            "/webhooks/security/alarms/",
            "/webhooks/security/alarms/x",
            "/Webhooks/security/alarms",
            "/webhooks/security/Alarms",
            "/webhooks/security/al%61rms",
            "/webhooks/../webhooks/security/alarms",
            "//webhooks/security/alarms",
            "/webhooks/security%2falarms",
        ] {
            assert_eq!(place(path), None, "{path}");
        }
    }
}
