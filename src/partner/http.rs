//! The calls: five routes, each with a deadline and a bearer token, and none of them repeated. A list waits for its turn
//! here; whoever writes has asked for one before ([`PartnerClient::ask`]).
//!
//! The one exception is 401: it says that nothing was done, so after it a fresh token is fetched once and the
//! call is made again. Everything else is for the plan to decide, which knows what a repetition would do.

use std::collections::{HashSet, VecDeque};
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tower::BoxError;
use tower::util::AndThenLayer;
use url::Url;
use uuid::Uuid;

use super::answer::{self, Bytes, ReadError};
use super::fault::{Kind, PartnerError, cause};
use super::meter::{Meter, Route};
use super::token::{Credentials, TokenSource};
use super::wire::{self, Next};
use crate::account::budget::Budget;
use crate::account::roster::{Extent, Listing};
use crate::account::turns::{self, Asker, Turn, Turns, Urgency};
use crate::delivery::retry;
use crate::leadership::fence::{Fence, NotLeading};
use crate::ops::clock::Clock;
use crate::resources::foreign::Redactor;
use crate::resources::keyring::SigningSecret;
use crate::resources::remote::{RemoteWebhook, is_loopback};

/// How long one call may take, from the first byte sent to the last byte read.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// The most pages that one list may have, so that a cursor that runs in a circle ends.
const MAX_PAGES: usize = 1_000;
/// The most webhooks that one list may have.
const MAX_WEBHOOKS: usize = 20_000;
/// The most bytes that the pages of one list may have together.
const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;
/// The longest that one list may take, its turns included: 500 pages at 60 requests a minute take eight minutes.
const MAX_LIST_TIME: Duration = Duration::from_secs(15 * 60);
/// Of how many signing secrets a client remembers that it sent them, so that none is shown if a server repeats it.
const MAX_SENT_SECRETS: usize = 1_024;

/// The fields of a webhook that a write asks for; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Where to deliver.
    pub url: Option<String>,
    /// Which events.
    pub events: Option<Vec<String>>,
    /// What to sign with; must be UTF-8, since it travels in JSON.
    pub secret: Option<SigningSecret>,
    /// Whether to set the state to `active`.
    pub active: bool,
}

/// A client for one account.
#[derive(Debug)]
pub struct PartnerClient {
    http: Client,
    collection: Url,
    tokens: TokenSource,
    turns: Mutex<Turns>,
    /// Rings when somebody begins to wait.
    waiting: Arc<Notify>,
    /// Rings when a look at the account has its turn.
    looking: Notify,
    /// The signing secrets that were sent, the latest last.
    sent: Mutex<VecDeque<SigningSecret>>,
    fence: Fence,
    clock: Clock,
    meter: Meter,
}

/// What an account may spend at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spending {
    /// Requests that could be made at once, if CHeKT asked for no silence; less than nothing is owed.
    pub left: f64,
    /// Webhooks, and the look at the account, that wait for a turn.
    pub waiting: usize,
    /// How much longer the account must be silent because CHeKT asked for it.
    pub silent: Duration,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base is not a URL that can be called.
    #[error("{0:?} is not a URL that can be called: write https://api.chekt.com")]
    Base(String),
    /// Plain http to a host that is not this machine.
    #[error(
        "{0} is plain http, which would show the token to everyone on the way: write https, or run the controller with --allow-insecure-partner"
    )]
    Insecure(Url),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Http(#[from] reqwest::Error),
}

/// Checks a URL of the partner: https, or plain http to this machine, or plain http if that is allowed.
///
/// # Errors
/// [`ClientError::Base`] and [`ClientError::Insecure`].
pub fn check(url: &str, allow_insecure: bool) -> Result<Url, ClientError> {
    let url = Url::parse(url).map_err(|_| ClientError::Base(url.to_owned()))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_insecure || is_loopback(&url) => Ok(url),
        "http" => Err(ClientError::Insecure(url)),
        _ => Err(ClientError::Base(url.into())),
    }
}

/// An HTTP client for `url`: no redirects, which could carry the token to another host, and no proxy for this
/// machine. A connection passes the fence once more when it is made: that can take seconds, and what was let through
/// before waits for it.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(url: &Url, fence: &Fence) -> Result<Client, reqwest::Error> {
    let fence = fence.clone();
    let builder = Client::builder()
        .connector_layer(AndThenLayer::new(move |connection| {
            ready(fence.check().map(|()| connection).map_err(BoxError::from))
        }))
        .user_agent(concat!("chekt-operator/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(DEADLINE);
    if is_loopback(url) {
        builder.no_proxy()
    } else {
        builder
    }
    .build()
}

impl PartnerClient {
    /// A client for the account at `base`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(
        base: &Url,
        http: Client,
        credentials: Credentials,
        budget: Budget,
        fence: Fence,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        let mut collection = base.clone();
        collection
            .path_segments_mut()
            .map_err(|()| ClientError::Base(base.to_string()))?
            .pop_if_empty()
            .extend(["partner", "v1", "webhooks"]);
        let tokens = TokenSource::new(http.clone(), credentials, clock.clone());
        Ok(PartnerClient {
            http,
            collection,
            tokens,
            turns: Mutex::new(Turns::new(budget)),
            waiting: Arc::default(),
            looking: Notify::new(),
            sent: Mutex::default(),
            fence,
            clock,
            meter: Meter::default(),
        })
    }

    /// The same, with its calls counted by this meter.
    #[must_use]
    pub fn metered(mut self, meter: Meter) -> Self {
        self.tokens = self.tokens.metered(meter.clone());
        self.meter = meter;
        self
    }

    /// Lists the webhooks, through all pages.
    ///
    /// # Errors
    /// [`PartnerError`]; an answer that cannot be read is [`Kind::Unreadable`] and never an empty list.
    pub async fn list(&self) -> Result<Listing, PartnerError> {
        // Read once more if somebody was at work meanwhile, and no more: where somebody always is, it would never end.
        match self.walk(true).await? {
            Some(listing) => Ok(listing),
            None => Ok(self.walk(false).await?.unwrap_or(Listing {
                webhooks: Vec::new(),
                extent: Extent::Part,
            })),
        }
    }

    /// Walks through all pages. `None`, where that is asked for: the total went down on the way, so one webhook may have
    /// moved up to a page that had been read already.
    async fn walk(&self, stops_if_disturbed: bool) -> Result<Option<Listing>, PartnerError> {
        let mut webhooks: Vec<RemoteWebhook> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        let mut target = self.collection.clone();
        let mut number = 1;
        let mut asked = false;
        let mut total: Option<u64> = None;
        let mut extent = Extent::Whole;
        let began = self.clock.now();
        let mut bytes = 0;
        for _ in 0..MAX_PAGES {
            let left =
                MAX_LIST_TIME.saturating_sub(self.clock.now().saturating_duration_since(began));
            if tokio::time::timeout(left, self.turn_to_look())
                .await
                .is_err()
            {
                let minutes = MAX_LIST_TIME.as_secs() / 60;
                return Err(too_large(&format!("it took longer than {minutes} minutes")));
            }
            let answer = match self.call(Route::List, &target, None, None).await {
                // A server that knows no pages may refuse the parameter; then the first page was all.
                Err(error)
                    if asked
                        && matches!(
                            error.kind,
                            Kind::Rejected | Kind::Missing | Kind::NoWebhooksApi
                        ) =>
                {
                    let extent = Extent::Unpaged;
                    return Ok(Some(Listing { webhooks, extent }));
                }
                answer => answer?,
            };
            bytes += answer.body.len();
            if bytes > MAX_LIST_BYTES {
                let most = MAX_LIST_BYTES / 1024 / 1024;
                return Err(too_large(&format!("its pages have more than {most} MiB")));
            }
            let link = answer.headers.get("link").and_then(|l| l.to_str().ok());
            let page = wire::page(
                &answer.body,
                link,
                &self.collection,
                number,
                webhooks.len(),
                &answer.redactor,
            )
            .map_err(|e| {
                let detail = format!("the list cannot be read: {e}");
                PartnerError::new(Kind::Unreadable, false, detail)
            })?;
            drop(answer);
            if stops_if_disturbed && page.total.zip(total).is_some_and(|(now, then)| now < then) {
                return Ok(None);
            }
            total = page.total.or(total);
            let before = webhooks.len();
            let is_empty = page.webhooks.is_empty();
            for webhook in page.webhooks {
                if seen.insert(webhook.id.clone()) {
                    webhooks.push(webhook);
                }
            }
            if webhooks.len() > MAX_WEBHOOKS {
                return Err(too_large(&format!(
                    "it has more than {MAX_WEBHOOKS} webhooks"
                )));
            }
            let news = webhooks.len() > before;
            match page.next {
                Next::Unreachable => break,
                // A round number of webhooks and no word of pages: the list may have been cut. Ask once.
                Next::Unsaid if news && (asked || looks_cut(webhooks.len())) => {
                    asked = true;
                    number += 1;
                    target = self.page(number);
                }
                Next::Nothing | Next::Unsaid => {
                    let extent = if asked && !is_empty {
                        Extent::Unpaged
                    } else {
                        extent
                    };
                    return Ok(Some(Listing { webhooks, extent }));
                }
                // More is promised and nothing new comes: this goes round in a circle.
                _ if !news => break,
                Next::Page(n) => {
                    number = n;
                    target = self.page(number);
                }
                Next::Cursor(cursor) => {
                    number += 1;
                    target = self.collection.clone();
                    target.query_pairs_mut().append_pair("cursor", &cursor);
                }
                Next::Link(url) => {
                    number += 1;
                    target = url;
                }
            }
            extent = Extent::Paged;
        }
        Ok(Some(Listing {
            webhooks,
            extent: Extent::Part,
        }))
    }

    /// Creates a webhook. `None`: CHeKT says that it did, and not what.
    ///
    /// # Errors
    /// [`PartnerError`]; if it is `unclear`, the webhook may exist.
    pub async fn create(
        &self,
        fields: &Fields,
        key: &str,
    ) -> Result<Option<RemoteWebhook>, PartnerError> {
        let answer = self
            .write(Route::Create, &self.collection, Some(fields), key)
            .await?;
        Ok(wire::webhook(&answer.body, &answer.redactor).ok())
    }

    /// Changes a webhook. `None`: CHeKT says that it did, and not what.
    ///
    /// # Errors
    /// [`PartnerError`]; if it is `unclear`, the change may have been made.
    pub async fn update(
        &self,
        id: &str,
        fields: &Fields,
        key: &str,
    ) -> Result<Option<RemoteWebhook>, PartnerError> {
        let answer = self
            .write(Route::Update, &self.item(id, None), Some(fields), key)
            .await?;
        Ok(wire::webhook(&answer.body, &answer.redactor)
            .ok()
            .filter(|w| w.id == id))
    }

    /// Deletes a webhook.
    ///
    /// # Errors
    /// [`PartnerError`]; [`Kind::Missing`] when it was not there.
    pub async fn delete(&self, id: &str, key: &str) -> Result<(), PartnerError> {
        self.write(Route::Delete, &self.item(id, None), None, key)
            .await
            .map(|_| ())
    }

    /// Asks for a test delivery.
    ///
    /// # Errors
    /// [`PartnerError`].
    pub async fn test(&self, id: &str, key: &str) -> Result<(), PartnerError> {
        self.write(Route::Test, &self.item(id, Some("test")), None, key)
            .await
            .map(|_| ())
    }

    /// How much longer the account must be silent because CHeKT asked for it.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.turns().budget().silent_for(now)
    }

    /// What the account may spend.
    #[must_use]
    pub fn spending(&self, now: Instant) -> Spending {
        let mut turns = self.turns();
        Spending {
            left: turns.budget().left(now),
            waiting: turns.waiting(),
            silent: turns.budget().silent_for(now).unwrap_or_default(),
        }
    }

    /// Asks for the turn that a write needs: the calls themselves do not wait. With [`Turn::Later`], whoever runs
    /// [`PartnerClient::next_turn`] hears of it when it comes.
    pub fn ask(&self, asker: &Asker, urgency: Urgency) -> Turn {
        let turn = self.turns().ask(asker, urgency, self.clock.now());
        if turn == Turn::Later {
            self.waiting.notify_one();
        }
        turn
    }

    /// Takes back what was asked for.
    pub fn leave(&self, asker: &Asker) {
        self.turns().leave(asker);
    }

    /// Gives the next turn. One for a look at the account is handed on here; a webhook must be woken.
    pub fn next_turn(&self) -> turns::Next {
        loop {
            let next = self.turns().next(self.clock.now());
            match next {
                turns::Next::Wake(asker) if asker == Asker::default() => self.looking.notify_one(),
                next => return next,
            }
        }
    }

    /// Rings when somebody begins to wait.
    #[must_use]
    pub fn waiting(&self) -> Arc<Notify> {
        Arc::clone(&self.waiting)
    }

    /// Waits for the turn of a look at the account.
    async fn turn_to_look(&self) {
        while self.ask(&Asker::default(), Urgency::Wanted) == Turn::Later {
            self.looking.notified().await;
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, number: u64) -> Url {
        let mut url = self.collection.clone();
        url.query_pairs_mut()
            .append_pair("page", &number.to_string());
        url
    }

    fn item(&self, id: &str, verb: Option<&str>) -> Url {
        let mut url = self.collection.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(id).extend(verb);
        }
        url
    }

    async fn write(
        &self,
        route: Route,
        url: &Url,
        fields: Option<&Fields>,
        key: &str,
    ) -> Result<Answer, PartnerError> {
        let body = fields.map(Fields::to_json).transpose()?;
        if let Some(secret) = fields.and_then(|f| f.secret.as_ref()) {
            self.remember(secret);
        }
        self.call(route, url, body, Some(key)).await
    }

    fn remember(&self, secret: &SigningSecret) {
        let mut sent = self.sent();
        if sent.back() == Some(secret) {
            return;
        }
        sent.push_back(secret.clone());
        if sent.len() > MAX_SENT_SECRETS {
            sent.pop_front();
        }
    }

    fn sent(&self) -> MutexGuard<'_, VecDeque<SigningSecret>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must not be shown of an answer to a call with this token. It is made for an answer that is shown, which is
    /// rare, and not kept: ten thousand secrets in every form are some megabytes.
    fn redactor(&self, token: &SecretString) -> Redactor {
        let known = self.tokens.redactor();
        let known = known.and(token.expose_secret().as_bytes());
        let sent = self.sent();
        sent.iter()
            .fold(known, |all, secret| all.and(secret.expose()))
    }

    /// One call.
    async fn call(
        &self,
        route: Route,
        url: &Url,
        body: Option<Value>,
        key: Option<&str>,
    ) -> Result<Answer, PartnerError> {
        let method = match route {
            Route::List => Method::GET,
            Route::Create | Route::Test | Route::Token => Method::POST,
            Route::Update => Method::PATCH,
            Route::Delete => Method::DELETE,
        };
        let mut renewed = false;
        loop {
            self.fence.check().map_err(not_leading)?;
            let token = self.tokens.bearer().await.inspect_err(|error| {
                if let Some(wait) = error.retry_after {
                    self.turns().budget().pause(wait, self.clock.now());
                }
            })?;
            let trace = Uuid::new_v4();
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                .bearer_auth(token.expose_secret())
                .header("accept", "application/json")
                .header("x-partner-trace-id", trace.to_string());
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            if let Some(body) = &body {
                request = request.json(body);
            }
            // Last of all: a turn or a token may have been waited for, and the process may have been paused since.
            self.fence.check().map_err(not_leading)?;
            let sent = self.clock.now();
            let outcome = self.send(request, route, &token).await;
            let took = self.clock.now().saturating_duration_since(sent);
            self.meter.called(route, &outcome, took);
            let shown = outcome.as_ref().map_or_else(|e| &*e.detail, |_| "ok");
            tracing::debug!(%method, path = url.path(), %trace, outcome = shown, "partner call");
            match outcome {
                Err(error) if error.kind == Kind::Credentials && !renewed => {
                    renewed = true;
                    if !self.tokens.forget(&token).await {
                        return Err(error);
                    }
                    self.turns().budget().spend(self.clock.now());
                }
                outcome => return outcome,
            }
        }
    }

    async fn send(
        &self,
        request: RequestBuilder,
        route: Route,
        token: &SecretString,
    ) -> Result<Answer, PartnerError> {
        let mut answer = request.send().await.map_err(|error| {
            // A connection that was never made has carried nothing.
            let unclear = !error.is_connect() && !error.is_builder();
            let cause = self.redactor(token).clean(&cause(&error));
            PartnerError::with(
                Kind::Network,
                unclear,
                cause.after("CHeKT cannot be reached: "),
            )
        })?;
        let status = answer.status();
        let headers = answer.headers().clone();
        let retry_after = pause(&headers, status.as_u16());
        if let Some(wait) = retry_after {
            self.turns().budget().pause(wait, self.clock.now());
        }
        if !status.is_success() {
            let body = answer::beginning(&mut answer, answer::MAX_ERROR_BYTES).await;
            return Err(PartnerError::from_answer(
                status.as_u16(),
                route.is_of_all(),
                &String::from_utf8_lossy(&body),
                retry_after,
                &self.redactor(token),
            ));
        }
        let read = answer::read(&mut answer, answer::MAX_BODY_BYTES).await;
        let body = read.map_err(|why| {
            let kind = match why {
                ReadError::TooLarge(_) => Kind::Unreadable,
                ReadError::NoRoom | ReadError::Broken(_) => Kind::Network,
            };
            let why = self.redactor(token).clean(&why.to_string());
            PartnerError::with(kind, true, why.after("CHeKT's answer cannot be read: "))
        })?;
        // Of a webhook little is shown, and that a secret is in it is for the odd server; the credentials are enough.
        let redactor = self.tokens.redactor();
        let redactor = redactor.and(token.expose_secret().as_bytes());
        Ok(Answer {
            headers,
            body,
            redactor,
        })
    }
}

fn too_large(why: &str) -> PartnerError {
    let detail = format!("CHeKT's list of webhooks cannot be read: {why}");
    PartnerError::new(Kind::Unreadable, false, detail)
}

fn not_leading(why: NotLeading) -> PartnerError {
    PartnerError::new(Kind::Network, false, why.to_string())
}

struct Answer {
    headers: HeaderMap,
    body: Bytes,
    redactor: Redactor,
}

impl Fields {
    fn to_json(&self) -> Result<Value, PartnerError> {
        let mut map = Map::new();
        if let Some(url) = &self.url {
            map.insert("url".to_owned(), json!(url));
        }
        if let Some(events) = &self.events {
            map.insert("events".to_owned(), json!(events));
        }
        if let Some(secret) = &self.secret {
            let text = std::str::from_utf8(secret.expose()).map_err(|_| {
                let detail = "the secret is not UTF-8 and cannot travel in JSON: use letters, digits or base64";
                PartnerError::new(Kind::Rejected, false, detail)
            })?;
            map.insert("secret".to_owned(), json!(text));
        }
        if self.active {
            map.insert("status".to_owned(), json!("active"));
        }
        Ok(Value::Object(map))
    }
}

/// A count at which a server that cuts lists without saying so might have cut.
fn looks_cut(count: usize) -> bool {
    count > 0 && (count.is_multiple_of(10) || count.is_multiple_of(25))
}

/// The longest silence that is believed of a header; the budget cuts it further. More than that is a mistake, such as a
/// time in milliseconds.
const BELIEVED: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an answer asks for silence: `Retry-After` in seconds or as a date, and the reset time when nothing
/// remains. Headers that make no sense are ignored. A time of CHeKT's is compared with the `Date` of the same answer, and
/// says nothing without one.
pub(super) fn pause(headers: &HeaderMap, status: u16) -> Option<Duration> {
    let answered = retry::date(headers);
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::trim)
    };
    let number = |name: &str| text(name).and_then(|t| t.parse::<u64>().ok());
    let until = |second: u64| {
        let now = u64::try_from(answered?.as_second()).ok()?;
        let left = second.checked_sub(now).map(Duration::from_secs);
        left.filter(|left| *left <= BELIEVED)
    };
    let reset = (number("x-ratelimit-remaining") == Some(0))
        .then(|| number("x-ratelimit-reset"))
        .flatten();
    let reset = reset.and_then(until);
    if status != 429 && status != 503 {
        return reset;
    }
    let asked = text("retry-after").and_then(|t| retry::asked(t, answered));
    // No wait at all is what a date in the past says, and that is a clock that is wrong.
    let asked = asked.filter(|wait| !wait.is_zero() && *wait <= BELIEVED);
    match (asked, reset) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a
            .or(b)
            .or((status == 429).then_some(Duration::from_secs(5))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_or_for_those_who_allow_it() {
        for good in [
            "https://api.chekt.com",
            "http://127.0.0.1:8080",
            "http://localhost:1",
            "http://[::1]:1",
        ] {
            assert!(check(good, false).is_ok(), "{good}");
        }
        assert!(matches!(
            check("http://api.chekt.com", false),
            Err(ClientError::Insecure(_))
        ));
        assert!(check("http://api.chekt.com", true).is_ok());
        for bad in ["ftp://x", "api.chekt.com", ""] {
            assert!(
                matches!(check(bad, true), Err(ClientError::Base(_))),
                "{bad}"
            );
        }
    }

    thread_local! {
        static ASKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }

    /// What arrives at a server of a call whose fence falls when it is asked for the time the `falls`-th time; `None`:
    /// not even a connection.
    async fn arrives(falls: u64) -> Option<usize> {
        use tokio::io::AsyncReadExt;

        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        ASKED.set(0);
        let fence = Fence::closed(|| {
            ASKED.set(ASKED.get() + 1);
            Duration::from_secs(ASKED.get())
        });
        fence.move_to(Duration::from_secs(falls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let base = check(&base, false).unwrap();
        let http = client(&base, &fence).unwrap();
        let token = Credentials::AccessToken("t".into());
        let budget = Budget::new(60, 1, Instant::now());
        let partner =
            PartnerClient::new(&base, http, token, budget, fence, Clock::machine()).unwrap();
        let server = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 64];
            connection.read(&mut bytes).await.unwrap()
        };
        let mut server = std::pin::pin!(server);
        let fields = Fields::default();
        let call = partner.create(&fields, "key");
        tokio::select! {
            biased;
            read = &mut server => return Some(read),
            error = call => {
                let error = error.unwrap_err();
                assert!(!error.unclear, "{error}");
            }
        }
        drop(partner);
        tokio::time::timeout(Duration::from_millis(200), server)
            .await
            .ok()
    }

    #[tokio::test]
    async fn a_call_leaves_only_while_its_fence_stands_to_the_last_moment() {
        // Before the token, right before it is sent, and once the connection is made.
        assert_eq!(arrives(1).await, None);
        assert_eq!(arrives(2).await, None);
        assert_eq!(arrives(3).await, Some(0));
        assert!(arrives(4).await.is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn the_pause_is_what_the_headers_ask_for() {
        let undated = |status: u16, pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
                .collect();
            pause(&headers, status).map(|d| d.as_secs())
        };
        let ask = |status: u16, pairs: &[(&'static str, &'static str)]| {
            let date = ("date", "Thu, 01 Jan 1970 00:16:40 GMT");
            undated(status, &[&[date], pairs].concat())
        };
        // Without CHeKT's own time, what it says in times has no meaning.
        let (nothing, reset) = (
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1003"),
        );
        assert_eq!(undated(200, &[nothing, reset]), None);
        assert_eq!(undated(429, &[("retry-after", "7")]), Some(7));
        assert_eq!(
            undated(429, &[("retry-after", "Thu, 01 Jan 1970 00:16:50 GMT")]),
            Some(5)
        );
        assert_eq!(ask(429, &[("retry-after", "7")]), Some(7));
        assert_eq!(
            ask(429, &[("retry-after", "Thu, 01 Jan 1970 00:16:50 +0000")]),
            Some(10)
        );
        assert_eq!(
            ask(429, &[("retry-after", "Thu, 01 Jan 1970 00:16:50 GMT")]),
            Some(10)
        );
        // A date that has passed, and absurd ones.
        for absurd in [
            "Thu, 01 Jan 1970 00:16:00 GMT",
            "Fri, 01 Jan 2100 00:00:00 GMT",
            "99999999999",
            "-3",
            "0",
            "1.5",
        ] {
            assert_eq!(ask(429, &[("retry-after", absurd)]), Some(5), "{absurd}");
        }
        let in_milliseconds = ("x-ratelimit-reset", "1003000");
        assert_eq!(
            ask(200, &[("x-ratelimit-remaining", "0"), in_milliseconds]),
            None
        );
        assert_eq!(ask(429, &[]), Some(5));
        assert_eq!(ask(429, &[("retry-after", "soon")]), Some(5));
        assert_eq!(
            ask(
                200,
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1003")
                ]
            ),
            Some(3)
        );
        assert_eq!(
            ask(
                200,
                &[
                    ("x-ratelimit-remaining", "1"),
                    ("x-ratelimit-reset", "1003")
                ]
            ),
            None
        );
        assert_eq!(
            ask(
                200,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "12")]
            ),
            None
        );
        assert_eq!(ask(503, &[("retry-after", "2")]), Some(2));
    }
}
