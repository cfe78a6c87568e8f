//! Tokens: a static one, or one that is fetched with what proves who we are and renewed before it ends.
//!
//! One fetch at a time: whoever comes while a token is being fetched waits for that one, and shares its failure too.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

use super::answer;
use super::assertion::{self, SigningKey};
use super::fault::{Kind, PartnerError, cause};
use super::http::pause;
use super::meter::{Meter, Route};
use crate::account::credentials::TokenCache;
use crate::ops::clock::Clock;
use crate::resources::foreign::Redactor;

/// The largest answer of a token endpoint that is read, in bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Who we are to CHeKT.
#[derive(Debug)]
pub enum Credentials {
    /// A bearer token that is sent as it is.
    AccessToken(SecretString),
    /// Exchanged for a token.
    Client(Box<ClientGrant>),
}

/// What is exchanged for a token (RFC 6749, section 4.4).
#[derive(Debug)]
pub struct ClientGrant {
    /// The token endpoint.
    pub url: Url,
    /// The client id.
    pub client_id: String,
    /// What proves that we are it.
    pub proof: Proof,
    /// The audience, where one is wanted.
    pub audience: Option<String>,
    /// The scopes, where some are wanted.
    pub scopes: Vec<String>,
}

/// What proves that we are a client.
#[derive(Debug)]
pub enum Proof {
    /// A secret that CHeKT knows too.
    Secret(SecretString),
    /// A key whose public half CHeKT knows.
    Key {
        /// The key.
        key: SigningKey,
        /// What the assertions say of us.
        client: assertion::Client,
    },
}

impl ClientGrant {
    /// What is asked of the token endpoint, at this moment.
    fn form(&self, now: Timestamp) -> Result<Vec<(&'static str, String)>, PartnerError> {
        let mut form = vec![
            ("grant_type", "client_credentials".to_owned()),
            ("client_id", self.client_id.clone()),
        ];
        match &self.proof {
            Proof::Secret(secret) => {
                form.push(("client_secret", secret.expose_secret().to_owned()));
            }
            Proof::Key { key, client } => {
                let now = u64::try_from(now.as_second()).unwrap_or_default();
                let assertion = key.assertion(client, now, Uuid::new_v4()).ok_or_else(|| {
                    let detail = "no token could be asked for: the private key does not sign";
                    PartnerError::new(Kind::Credentials, false, detail)
                })?;
                form.push(("client_assertion_type", assertion::TYPE.to_owned()));
                form.push(("client_assertion", assertion));
            }
        }
        form.extend(self.audience.clone().map(|a| ("audience", a)));
        if !self.scopes.is_empty() {
            form.push(("scope", self.scopes.join(" ")));
        }
        Ok(form)
    }
}

#[derive(Debug, Default)]
struct State {
    cache: TokenCache,
    /// The last fetch, if it failed: when it began, and why.
    failed: Option<(Instant, PartnerError)>,
}

/// Where bearer tokens come from.
#[derive(Debug)]
pub struct TokenSource {
    http: Client,
    credentials: Credentials,
    clock: Clock,
    state: Mutex<State>,
    meter: Meter,
}

impl TokenSource {
    /// A source that has fetched nothing yet.
    #[must_use]
    pub fn new(http: Client, credentials: Credentials, clock: Clock) -> Self {
        TokenSource {
            http,
            credentials,
            clock,
            state: Mutex::default(),
            meter: Meter::default(),
        }
    }

    /// The same, with its requests counted by this meter.
    #[must_use]
    pub fn metered(self, meter: Meter) -> Self {
        TokenSource { meter, ..self }
    }

    /// A token that is good for now.
    ///
    /// # Errors
    /// [`Kind::Credentials`] when the token endpoint refuses, [`Kind::Network`] or [`Kind::Server`] when it
    /// cannot be asked; never unclear, since no webhook is touched.
    pub async fn bearer(&self) -> Result<SecretString, PartnerError> {
        let grant = match &self.credentials {
            Credentials::AccessToken(token) => return Ok(token.clone()),
            Credentials::Client(grant) => grant,
        };
        let came = self.clock.now();
        let mut state = self.state.lock().await;
        let asked = self.clock.now();
        if let Some(token) = state.cache.good(asked) {
            return Ok(token.clone());
        }
        if let Some((_, error)) = state.failed.as_ref().filter(|(began, _)| *began >= came) {
            return Err(error.clone());
        }
        let form = grant.form(self.clock.wall())?;
        let fetched = self.fetch(&grant.url, form).await;
        let took = self.clock.now().saturating_duration_since(asked);
        self.meter.called(Route::Token, &fetched, took);
        match fetched {
            Ok((token, expires_in)) => {
                state.cache.store(token.clone(), &expires_in, asked);
                state.failed = None;
                Ok(token)
            }
            Err(error) => {
                state.failed = Some((asked, error.clone()));
                Err(error)
            }
        }
    }

    /// The credentials, as what must not be shown.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        let secret = match &self.credentials {
            Credentials::AccessToken(token) => Some(token),
            Credentials::Client(grant) => match &grant.proof {
                Proof::Secret(secret) => Some(secret),
                Proof::Key { .. } => None,
            },
        };
        let known = Redactor::default();
        match secret {
            Some(secret) => known.and(secret.expose_secret().as_bytes()),
            None => known,
        }
    }

    /// Asks for a token. Returns it with what the answer says of its life.
    async fn fetch(
        &self,
        url: &Url,
        form: Vec<(&'static str, String)>,
    ) -> Result<(SecretString, Value), PartnerError> {
        let redactor = || {
            let secret =
                |(name, _): &&(&str, String)| matches!(*name, "client_secret" | "client_assertion");
            let secrets = form.iter().filter(secret);
            secrets.fold(Redactor::default(), |all, (_, value)| {
                all.and(value.as_bytes())
            })
        };
        let unread = |words: &str, why: &str| {
            let detail = redactor().clean(why).after(words);
            PartnerError::with(Kind::Network, false, detail)
        };
        let sent = self.http.post(url.clone()).form(&form).send().await;
        let mut answer =
            sent.map_err(|error| unread("the token endpoint cannot be reached: ", &cause(&error)))?;
        let status = answer.status();
        let wait = pause(answer.headers(), status.as_u16());
        if !status.is_success() {
            let body = answer::beginning(&mut answer, answer::MAX_ERROR_BYTES).await;
            let body = String::from_utf8_lossy(&body);
            let mut error =
                PartnerError::from_answer(status.as_u16(), false, &body, wait, &redactor());
            error.detail = error.detail.after("no token could be had: ");
            error.unclear = false;
            if error.kind != Kind::Server && error.kind != Kind::Throttled {
                error.kind = Kind::Credentials;
            }
            return Err(error);
        }
        let body = answer::read(&mut answer, MAX_TOKEN_BYTES).await;
        let body = body.map_err(|why| {
            unread(
                "the token endpoint's answer cannot be read: ",
                &why.to_string(),
            )
        })?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = value["access_token"].as_str().filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| {
            let detail = "the token endpoint answered without an access_token";
            PartnerError::new(Kind::Credentials, false, detail)
        })?;
        Ok((SecretString::from(token), value["expires_in"].clone()))
    }

    /// Forgets a token that CHeKT has refused, unless a newer one has taken its place.
    ///
    /// Returns whether asking again can bring another one.
    pub async fn forget(&self, refused: &SecretString) -> bool {
        self.state.lock().await.cache.drop_refused(refused);
        matches!(self.credentials, Credentials::Client(_))
    }
}
