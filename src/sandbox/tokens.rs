//! `/oauth/token` and the bearer check.
//!
//! Of a token that was issued only its digest is kept, so that a state file opens no door.

use std::collections::HashMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use k8s_openapi::jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::answer::{Answer, Refusal};
use super::assertion::{self, PublicKey};
use super::quirks::{Quirks, StaticToken};
use super::store::Moment;

/// Life of a token whose life is not told.
const USUAL_LIFE: Duration = Duration::from_secs(60 * 60);
/// Most tokens remembered; those that end first go first.
const MOST: usize = 10_000;

/// Who may use the sandbox.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// A bearer token that is always good.
    pub token: Option<SecretString>,
    /// Client id and client secret for `/oauth/token`.
    pub client: Option<(String, SecretString)>,
    /// Client id, and the key that verifies what the client signs.
    pub client_key: Option<(String, PublicKey)>,
}

/// The tokens issued: the digest of each, and its end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tokens {
    issued: HashMap<String, Timestamp>,
    // Ids of the assertions seen, and the end of each: one that comes again is refused.
    #[serde(default)]
    assertions: HashMap<String, Timestamp>,
}

impl Tokens {
    /// Whether an `Authorization` header opens the partner routes.
    ///
    /// # Errors
    /// 401 with what is wrong.
    pub fn check(
        &self,
        authorization: Option<&str>,
        credentials: &Credentials,
        quirks: &Quirks,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let refuse = |why: &str| Err(Refusal::new(401, "invalid_api_key", why));
        let Some(header) = authorization else {
            return refuse("a bearer token is required");
        };
        let Some((scheme, token)) = header.split_once(' ') else {
            return refuse("the Authorization header is not of the form \"Bearer TOKEN\"");
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return refuse("the Authorization header is not of the form \"Bearer TOKEN\"");
        }
        let digest = digest(token.trim());
        let is_static = quirks.static_token_on_partner == StaticToken::Accept
            && credentials
                .token
                .as_ref()
                .is_some_and(|known| self::digest(known.expose_secret()) == digest);
        if is_static {
            return Ok(());
        }
        match self.issued.get(&digest) {
            Some(end) if *end > now => Ok(()),
            Some(_) => refuse("the token has expired"),
            None => refuse("the token is unknown"),
        }
    }

    /// Answers a call of the token endpoint. Its errors are those of OAuth (RFC 6749, section 5.2), whatever the
    /// error style is.
    pub fn grant(
        &mut self,
        form: &[u8],
        credentials: &Credentials,
        quirks: &Quirks,
        moment: Moment,
    ) -> Answer {
        let refuse = |status, error: &str, why: &str| {
            Answer::json(status, &json!({"error": error, "error_description": why}))
        };
        let form: HashMap<_, _> = url::form_urlencoded::parse(form).collect();
        let field = |name: &str| form.get(name).map(AsRef::as_ref);
        match field("grant_type") {
            Some("client_credentials") => {}
            Some(_) => return refuse(400, "unsupported_grant_type", "use client_credentials"),
            None => return refuse(400, "invalid_request", "grant_type is required"),
        }
        let is_client = credentials.client.as_ref().is_some_and(|(id, secret)| {
            field("client_id") == Some(id)
                && field("client_secret")
                    .is_some_and(|given| digest(given) == digest(secret.expose_secret()))
        });
        if !is_client {
            let Some((id, key)) = &credentials.client_key else {
                return refuse(401, "invalid_client", "client id or client secret is wrong");
            };
            if field("client_assertion_type") != Some(assertion::TYPE) {
                let why =
                    "client id or client secret is wrong, or client_assertion_type is missing";
                return refuse(401, "invalid_client", why);
            }
            let given = field("client_assertion").unwrap_or_default();
            match key.check(given, id, moment.now) {
                Ok(seen) => {
                    self.assertions.retain(|_, end| *end > moment.now);
                    if self.assertions.insert(seen.id, seen.end).is_some() {
                        return refuse(401, "invalid_client", "this assertion was used before");
                    }
                }
                Err(why) => return refuse(401, "invalid_client", why),
            }
        }
        let life = quirks
            .token_expires_in
            .map_or(USUAL_LIFE, Duration::from_secs);
        let token = format!(
            "sandbox_{}",
            HEXLOWER.encode(&Sha256::digest(moment.random.to_be_bytes()))
        );
        let end = moment.now.checked_add(life).unwrap_or(Timestamp::MAX);
        self.remember(&token, end, moment.now);
        let mut body = json!({"access_token": token, "token_type": "Bearer"});
        if let Some(seconds) = quirks.token_expires_in {
            body["expires_in"] = json!(seconds);
        }
        Answer {
            headers: vec![("cache-control", "no-store".to_owned())],
            ..Answer::json(200, &body)
        }
    }

    fn remember(&mut self, token: &str, end: Timestamp, now: Timestamp) {
        if self.issued.len() >= MOST {
            self.issued.retain(|_, end| *end > now);
        }
        if self.issued.len() >= MOST
            && let Some(first) = self
                .issued
                .iter()
                .min_by_key(|(_, end)| **end)
                .map(|(digest, _)| digest.clone())
        {
            self.issued.remove(&first);
        }
        self.issued.insert(digest(token), end);
    }
}

// Digests are compared, not tokens: how long that takes says nothing about the token.
fn digest(token: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::sandbox::answer::Content;
    use crate::sandbox::store::samples::at;

    fn credentials() -> Credentials {
        Credentials {
            token: Some("static".into()),
            client: Some(("me".to_owned(), "hush".into())),
            client_key: None,
        }
    }

    fn grant(tokens: &mut Tokens, form: &str, quirks: &Quirks) -> (u16, Value) {
        let moment = Moment {
            now: at(0),
            random: 1,
        };
        let answer = tokens.grant(form.as_bytes(), &credentials(), quirks, moment);
        let Some(Content::Json(body)) = answer.body else {
            panic!("a body was expected")
        };
        (answer.status, serde_json::from_str(&body).unwrap())
    }

    const GOOD: &str = "grant_type=client_credentials&client_id=me&client_secret=hush";

    #[test]
    fn a_token_opens_the_routes_until_it_expires() {
        let mut tokens = Tokens::default();
        let quirks = Quirks {
            token_expires_in: Some(5),
            ..Quirks::default()
        };
        let (status, body) = grant(&mut tokens, GOOD, &quirks);
        assert_eq!((status, &body["expires_in"]), (200, &json!(5)));
        let header = format!("Bearer {}", body["access_token"].as_str().unwrap());
        let check = |now| tokens.check(Some(&header), &credentials(), &quirks, now);
        assert_eq!(check(at(4999)), Ok(()));
        assert_eq!(check(at(5000)).unwrap_err().status, 401);
    }

    #[test]
    fn the_life_of_a_token_need_not_be_told() {
        let quirks = Quirks {
            token_expires_in: None,
            ..Quirks::default()
        };
        let (_, body) = grant(&mut Tokens::default(), GOOD, &quirks);
        assert_eq!(body.get("expires_in"), None);
    }

    #[test]
    fn a_wrong_client_gets_the_oauth_error() {
        for (form, status, error) in [
            (
                "grant_type=client_credentials&client_id=me&client_secret=no",
                401,
                "invalid_client",
            ),
            ("grant_type=client_credentials", 401, "invalid_client"),
            ("grant_type=password", 400, "unsupported_grant_type"),
            ("", 400, "invalid_request"),
        ] {
            let (got, body) = grant(&mut Tokens::default(), form, &Quirks::default());
            assert_eq!((got, &body["error"]), (status, &json!(error)), "{form}");
        }
    }

    #[test]
    fn the_static_token_is_good_unless_the_quirk_refuses_it() {
        let tokens = Tokens::default();
        let check = |header: Option<&str>, quirks: &Quirks| {
            tokens
                .check(header, &credentials(), quirks, at(0))
                .map_err(|refusal| refusal.status)
        };
        let usual = Quirks::default();
        assert_eq!(check(Some("Bearer static"), &usual), Ok(()));
        assert_eq!(check(Some("bearer static"), &usual), Ok(()));
        for bad in [
            None,
            Some("static"),
            Some("Basic static"),
            Some("Bearer x"),
            Some("Bearer "),
        ] {
            assert_eq!(check(bad, &usual), Err(401), "{bad:?}");
        }
        let refusing = Quirks {
            static_token_on_partner: StaticToken::Refuse,
            ..Quirks::default()
        };
        assert_eq!(check(Some("Bearer static"), &refusing), Err(401));
    }
}
