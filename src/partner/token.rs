//! Tokens: a static one, or one that is fetched for client credentials and renewed before it ends.
//!
//! One fetch at a time: whoever comes while a token is being fetched waits for that one.

use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::fault::{Kind, PartnerError, cause};

/// How long a token is believed to live when neither the answer nor the token says so. CHeKT's pages say
/// "about an hour" and "every 24 hours"; this is below both.
const UNSAID_LIFE: Duration = Duration::from_secs(50 * 60);

/// The share of its life after which a token is renewed, in percent.
const RENEW_AT: u32 = 80;

/// Who we are to CHeKT.
#[derive(Debug)]
pub enum Credentials {
    /// A bearer token that is sent as it is.
    AccessToken(SecretString),
    /// Exchanged for a token at `url`.
    ClientCredentials {
        /// The token endpoint.
        url: Url,
        /// The client id.
        client_id: String,
        /// The client secret.
        client_secret: SecretString,
        /// The audience, where one is wanted.
        audience: Option<String>,
        /// The scopes, where some are wanted.
        scopes: Vec<String>,
    },
}

#[derive(Debug)]
struct Fetched {
    token: SecretString,
    renew_at: Instant,
}

/// Where bearer tokens come from.
#[derive(Debug)]
pub struct TokenSource {
    http: Client,
    credentials: Credentials,
    fetched: Mutex<Option<Fetched>>,
}

impl TokenSource {
    /// A source that has fetched nothing yet.
    #[must_use]
    pub fn new(http: Client, credentials: Credentials) -> Self {
        TokenSource {
            http,
            credentials,
            fetched: Mutex::new(None),
        }
    }

    /// A token that is good for now.
    ///
    /// # Errors
    /// [`Kind::Credentials`] when the token endpoint refuses, [`Kind::Network`] or [`Kind::Server`] when it
    /// cannot be asked; never unclear, since no webhook is touched.
    pub async fn bearer(&self) -> Result<SecretString, PartnerError> {
        let (url, client_id, client_secret, audience, scopes) = match &self.credentials {
            Credentials::AccessToken(token) => return Ok(token.clone()),
            Credentials::ClientCredentials {
                url,
                client_id,
                client_secret,
                audience,
                scopes,
            } => (url, client_id, client_secret, audience, scopes),
        };
        let mut fetched = self.fetched.lock().await;
        if let Some(have) = fetched.as_ref().filter(|f| Instant::now() < f.renew_at) {
            return Ok(have.token.clone());
        }
        let mut form = vec![
            ("grant_type", "client_credentials".to_owned()),
            ("client_id", client_id.clone()),
            ("client_secret", client_secret.expose_secret().to_owned()),
        ];
        form.extend(audience.clone().map(|a| ("audience", a)));
        if !scopes.is_empty() {
            form.push(("scope", scopes.join(" ")));
        }
        let asked = Instant::now();
        let answer = self.http.post(url.clone()).form(&form).send().await;
        let (status, body) = match answer {
            Ok(answer) => (answer.status(), answer.text().await.unwrap_or_default()),
            Err(error) => {
                let detail = format!("the token endpoint cannot be reached: {}", cause(&error));
                return Err(PartnerError::new(Kind::Network, false, detail));
            }
        };
        if !status.is_success() {
            let mut error = PartnerError::from_answer(status.as_u16(), false, &body, None)
                .without(client_secret.expose_secret());
            error.detail = format!("no token could be had: {}", error.detail);
            error.unclear = false;
            if error.kind != Kind::Server && error.kind != Kind::Throttled {
                error.kind = Kind::Credentials;
            }
            return Err(error);
        }
        let value: Value = serde_json::from_str(&body).unwrap_or_default();
        let Some(token) = value["access_token"].as_str().filter(|t| !t.is_empty()) else {
            let detail = "the token endpoint answered without an access_token";
            return Err(PartnerError::new(Kind::Credentials, false, detail));
        };
        let life = life(&value, token);
        let token = SecretString::from(token.to_owned());
        *fetched = Some(Fetched {
            token: token.clone(),
            renew_at: asked + life * RENEW_AT / 100,
        });
        Ok(token)
    }

    /// Forgets a token that CHeKT has refused, unless a newer one has taken its place.
    ///
    /// Returns whether asking again can bring another one.
    pub async fn forget(&self, refused: &SecretString) -> bool {
        let mut fetched = self.fetched.lock().await;
        if fetched
            .as_ref()
            .is_some_and(|f| f.token.expose_secret() == refused.expose_secret())
        {
            *fetched = None;
        }
        matches!(self.credentials, Credentials::ClientCredentials { .. })
    }
}

/// How long a token lives: as the answer says, else as the token itself says, else [`UNSAID_LIFE`].
fn life(answer: &Value, token: &str) -> Duration {
    if let Some(seconds) = answer["expires_in"].as_u64() {
        return Duration::from_secs(seconds);
    }
    let claims = token
        .split('.')
        .nth(1)
        .and_then(|part| BASE64URL_NOPAD.decode(part.as_bytes()).ok())
        .and_then(|json| serde_json::from_slice::<Value>(&json).ok())
        .unwrap_or_default();
    match (claims["exp"].as_u64(), claims["iat"].as_u64()) {
        (Some(exp), Some(iat)) if exp > iat => Duration::from_secs(exp - iat),
        _ => UNSAID_LIFE,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_lives_as_the_answer_says_then_as_it_says_itself_then_fifty_minutes() {
        let claims = BASE64URL_NOPAD.encode(br#"{"iat":1000,"exp":87400}"#);
        let token = format!("h.{claims}.s");
        assert_eq!(
            life(&json!({"expires_in": 5}), &token),
            Duration::from_secs(5)
        );
        assert_eq!(life(&json!({}), &token), Duration::from_secs(86_400));
        assert_eq!(life(&json!({}), "opaque"), UNSAID_LIFE);
    }
}
