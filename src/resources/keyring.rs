//! The keyring: the signing secrets of one webhook, and the shape of the Secret that holds them.
//!
//! One Secret per webhook lives in the operator's own namespace. The controller writes it, the receiver only
//! reads it; that is how the two processes meet. A key goes through three places:
//!
//! ```text
//! next      made, not yet known to be in force at CHeKT; accepted
//! current   in force at CHeKT as far as we know;         accepted
//! previous  was in force before;                         accepted until the controller takes it out
//! ```
//!
//! so that at no moment of a change is there a delivery that CHeKT may legally send and we would refuse. The receiver
//! accepts every key that it finds here. Its clock decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use zeroize::Zeroizing;

/// How long a key is accepted after it was in force. CHeKT retries a delivery for less than six minutes; the
/// rest is for clocks and for deliveries that were signed and not yet sent.
pub const RETRY_HORIZON: Duration = Duration::from_secs(15 * 60);

/// Type of a keyring Secret, so that nobody mistakes it for one of their own.
pub const SECRET_TYPE: &str = "chekt.com/keyring";
/// Label by which keyrings are listed and watched; its value is always `true`.
pub const LABEL: &str = "chekt.com/keyring";
/// Annotation with the namespace of the webhook.
pub const WEBHOOK_NAMESPACE: &str = "chekt.com/webhook-namespace";
/// Annotation with the name of the webhook.
pub const WEBHOOK_NAME: &str = "chekt.com/webhook-name";
/// Annotation with the uid of the webhook.
pub const WEBHOOK_UID: &str = "chekt.com/webhook-uid";
/// Annotation with the account that requests for the webhook are sent to, as `namespace/name`. It is here and not only
/// in a status because it decides which account's credentials may delete an id.
pub const ACCOUNT: &str = "chekt.com/account";

/// The webhook that a keyring belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a webhook made again under the same name is another webhook.
    pub uid: String,
}

/// The bytes that deliveries are signed with. Never printed, wiped when dropped.
#[derive(Clone)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

impl SigningSecret {
    /// Wraps bytes. An empty secret is refused: it would let anyone sign.
    ///
    /// # Errors
    /// [`EmptySecret`] when there are no bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, EmptySecret> {
        if bytes.is_empty() {
            Err(EmptySecret)
        } else {
            Ok(SigningSecret(Zeroizing::new(bytes)))
        }
    }

    /// The bytes, for signing, verifying and storing; nothing else has a reason to ask.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for SigningSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for SigningSecret {}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

/// A secret without a single byte.
#[derive(Debug, thiserror::Error)]
#[error("the secret is empty")]
pub struct EmptySecret;

/// One key: a secret and a random name for it that may be shown anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// `generated-` or `given-` and a random word, derived from nothing; stands for the key in status, logs and
    /// metrics.
    pub id: String,
    /// The bytes.
    pub secret: SigningSecret,
}

impl Key {
    /// Whether the operator made the secret itself.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        self.id.starts_with("generated-")
    }
}

/// A key that is no longer in force and is accepted for a while yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The key.
    pub key: Key,
    /// From this moment on, by the clock of the API server, the controller takes it out of the keyring.
    pub until: Timestamp,
}

/// The test delivery that was last asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRequest {
    /// Its number. It is in the keyring before the request leaves, it only grows, and the receiver writes into the
    /// status which number it found here when a test delivery arrived: so no clock ties the delivery to its request.
    pub number: i64,
    /// The key that was in force then.
    pub key_id: String,
    /// The url that was in force then.
    pub url: String,
}

/// The signing secrets of one webhook, and what must be remembered beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    /// Whose keyring it is.
    pub webhook: WebhookIdentity,
    /// In force at CHeKT.
    pub current: Option<Key>,
    /// About to be in force.
    pub next: Option<Key>,
    /// Were in force, the latest first. More than one when a secret changes again before its predecessor has run
    /// out: a delivery signed with either may still be on its way.
    pub previous: Vec<Retired>,
    /// Number of the remote write that is about to be sent; part of its idempotency key, and written before it.
    pub attempt: i64,
    /// The url that a POST was to have which no id came of yet; written before it is sent. The spec may say another one
    /// by the time that its outcome shows.
    pub post_url: Option<String>,
    /// The last request for a test delivery, written before it is sent.
    pub test: Option<TestRequest>,
    /// The value of the annotation that asks for a test delivery, as of that request.
    pub test_requested: Option<String>,
    /// The value of the annotation that asks for a new secret, as of the last new key.
    pub rotation_requested: Option<String>,
}

/// Why a Secret is not a keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// An annotation is missing.
    #[error("annotation {0} is missing")]
    MissingAnnotation(&'static str),
    /// A value cannot be read.
    #[error("{0} cannot be read")]
    Unreadable(String),
}

impl Keyring {
    /// A keyring without any key.
    #[must_use]
    pub fn empty(webhook: WebhookIdentity) -> Self {
        Keyring {
            webhook,
            current: None,
            next: None,
            previous: Vec::new(),
            attempt: 0,
            post_url: None,
            test: None,
            test_requested: None,
            rotation_requested: None,
        }
    }

    /// Name of the Secret: made from the uid, so that two webhooks never share one.
    #[must_use]
    pub fn secret_name(uid: &str) -> String {
        format!("chekt-keyring-{uid}")
    }

    /// Every key that a delivery may be signed with, the likeliest first.
    pub fn accepted(&self) -> impl Iterator<Item = &Key> {
        let previous = self.previous.iter().map(|p| &p.key);
        self.current.iter().chain(self.next.iter()).chain(previous)
    }

    /// The Secret that holds this keyring.
    #[must_use]
    pub fn to_secret(&self, operator_namespace: &str) -> Secret {
        let mut data = BTreeMap::new();
        let mut put = |name: &str, value: &[u8]| {
            data.insert(name.to_owned(), ByteString(value.to_vec()));
        };
        if let Some(key) = &self.current {
            put("current", key.secret.expose());
            put("current-id", key.id.as_bytes());
        }
        if let Some(key) = &self.next {
            put("next", key.secret.expose());
            put("next-id", key.id.as_bytes());
        }
        for (n, retired) in self.previous.iter().enumerate() {
            put(&format!("previous-{n}"), retired.key.secret.expose());
            put(&format!("previous-{n}-id"), retired.key.id.as_bytes());
            put(
                &format!("previous-{n}-until"),
                retired.until.to_string().as_bytes(),
            );
        }
        put("attempt", self.attempt.to_string().as_bytes());
        if let Some(url) = &self.post_url {
            put("post-url", url.as_bytes());
        }
        if let Some(test) = &self.test {
            put("test-key-id", test.key_id.as_bytes());
            put("test-url", test.url.as_bytes());
            put("test-number", test.number.to_string().as_bytes());
        }
        if let Some(requested) = &self.test_requested {
            put("test-requested", requested.as_bytes());
        }
        if let Some(requested) = &self.rotation_requested {
            put("rotation-requested", requested.as_bytes());
        }
        Secret {
            metadata: ObjectMeta {
                name: Some(Self::secret_name(&self.webhook.uid)),
                namespace: Some(operator_namespace.to_owned()),
                labels: Some(BTreeMap::from([(LABEL.to_owned(), "true".to_owned())])),
                annotations: Some(BTreeMap::from([
                    (WEBHOOK_NAMESPACE.to_owned(), self.webhook.namespace.clone()),
                    (WEBHOOK_NAME.to_owned(), self.webhook.name.clone()),
                    (WEBHOOK_UID.to_owned(), self.webhook.uid.clone()),
                ])),
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some(data),
            ..Secret::default()
        }
    }

    /// Reads a keyring back.
    ///
    /// # Errors
    /// [`KeyringError`] when the Secret was not written by [`Keyring::to_secret`] or was changed by hand.
    pub fn from_secret(secret: &Secret) -> Result<Self, KeyringError> {
        let annotation = |name: &'static str| {
            let all = secret.metadata.annotations.as_ref();
            all.and_then(|a| a.get(name))
                .cloned()
                .ok_or(KeyringError::MissingAnnotation(name))
        };
        let webhook = WebhookIdentity {
            namespace: annotation(WEBHOOK_NAMESPACE)?,
            name: annotation(WEBHOOK_NAME)?,
            uid: annotation(WEBHOOK_UID)?,
        };
        let empty = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&empty);
        let mut previous = Vec::new();
        while let Some(key) = {
            let place = format!("previous-{}", previous.len());
            read_key(data, &place, &format!("{place}-id"))?
        } {
            let place = format!("previous-{}-until", previous.len());
            let until = read(data, &place)?.ok_or(KeyringError::Unreadable(place))?;
            previous.push(Retired { key, until });
        }
        let test = match (
            read(data, "test-key-id")?,
            read(data, "test-url")?,
            read(data, "test-number")?,
        ) {
            (Some(key_id), Some(url), Some(number)) => Some(TestRequest {
                number,
                key_id,
                url,
            }),
            // One without a number is of an earlier version. No delivery can be tied to it, so it is noted anew.
            _ => None,
        };
        Ok(Keyring {
            webhook,
            current: read_key(data, "current", "current-id")?,
            next: read_key(data, "next", "next-id")?,
            previous,
            attempt: read(data, "attempt")?.unwrap_or(0),
            post_url: read(data, "post-url")?,
            test,
            test_requested: read(data, "test-requested")?,
            rotation_requested: read(data, "rotation-requested")?,
        })
    }
}

fn read_key(
    data: &BTreeMap<String, ByteString>,
    place: &str,
    id: &str,
) -> Result<Option<Key>, KeyringError> {
    let Some(bytes) = data.get(place) else {
        return Ok(None);
    };
    let secret = SigningSecret::new(bytes.0.clone())
        .map_err(|_| KeyringError::Unreadable(place.to_owned()))?;
    let id = read(data, id)?.ok_or_else(|| KeyringError::Unreadable(id.to_owned()))?;
    Ok(Some(Key { id, secret }))
}

fn read<T: std::str::FromStr>(
    data: &BTreeMap<String, ByteString>,
    name: &str,
) -> Result<Option<T>, KeyringError> {
    let Some(bytes) = data.get(name) else {
        return Ok(None);
    };
    let text =
        std::str::from_utf8(&bytes.0).map_err(|_| KeyringError::Unreadable(name.to_owned()))?;
    text.parse()
        .map(Some)
        .map_err(|_| KeyringError::Unreadable(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key {
            id: id.to_owned(),
            secret: SigningSecret::new(id.as_bytes().to_vec()).unwrap(),
        }
    }

    fn full() -> Keyring {
        Keyring {
            webhook: WebhookIdentity {
                namespace: "security".into(),
                name: "alarms".into(),
                uid: "u-1".into(),
            },
            current: Some(key("c")),
            next: Some(key("n")),
            previous: vec![Retired {
                key: key("p"),
                until: Timestamp::from_second(100).unwrap(),
            }],
            attempt: 7,
            post_url: Some("https://a/c".into()),
            test: Some(TestRequest {
                key_id: "c".into(),
                url: "https://a/b".into(),
                number: 6,
            }),
            test_requested: Some("t-1".into()),
            rotation_requested: Some("r-1".into()),
        }
    }

    #[test]
    fn a_keyring_survives_its_secret() {
        let keyring = full();
        assert_eq!(
            Keyring::from_secret(&keyring.to_secret("ops")).unwrap(),
            keyring
        );
        let empty = Keyring::empty(keyring.webhook);
        assert_eq!(
            Keyring::from_secret(&empty.to_secret("ops")).unwrap(),
            empty
        );
    }

    #[test]
    fn every_key_in_the_keyring_is_accepted() {
        let keyring = full();
        let ids: Vec<&str> = keyring.accepted().map(|k| k.id.as_str()).collect();
        assert_eq!(ids, ["c", "n", "p"]);
    }

    #[test]
    fn a_test_without_a_number_is_none() {
        let mut secret = full().to_secret("ops");
        secret.data.as_mut().unwrap().remove("test-number");
        assert_eq!(Keyring::from_secret(&secret).unwrap().test, None);
    }

    #[test]
    fn an_empty_key_is_an_error_and_never_a_key() {
        let mut secret = full().to_secret("ops");
        secret
            .data
            .as_mut()
            .unwrap()
            .insert("current".into(), ByteString(vec![]));
        assert!(Keyring::from_secret(&secret).is_err());
    }

    #[test]
    fn nothing_printed_holds_the_bytes() {
        let printed = format!("{:?}", SigningSecret::new(b"hunter2".to_vec()).unwrap());
        assert_eq!(printed, "SigningSecret(..)");
    }
}
