//! Who signed it: the only way from an unverified delivery to one that may be read.
//!
//! The signature is over the raw bytes, so they are never parsed and written again before this. Every key that
//! the keyring accepts is tried, and the comparison takes the same time wherever two digests differ.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::envelope::{self, Envelope, Unreadable};
use super::profile::Profile;
use crate::resources::keyring::{Key, Keyring, WebhookIdentity};

/// More signatures than this in one request are not looked at: each costs a comparison.
const MOST: usize = 8;

/// A delivery as it came from the network.
#[derive(Debug)]
pub struct Unverified;

/// A delivery whose signature fits a key of the webhook's keyring.
#[derive(Debug)]
pub struct Verified {
    key_id: String,
    place: KeyPlace,
}

/// The raw body of one delivery to one webhook, in one of two states.
#[derive(Debug)]
pub struct Delivery<State> {
    webhook: WebhookIdentity,
    body: Vec<u8>,
    state: State,
}

/// Which key of the keyring verified a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyPlace {
    /// The key in force.
    Current,
    /// The key that is about to be in force.
    Next,
    /// The key that was in force before.
    Previous,
}

impl KeyPlace {
    /// One word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            KeyPlace::Current => "current",
            KeyPlace::Next => "next",
            KeyPlace::Previous => "previous",
        }
    }
}

/// Why a delivery is not believed. The sender is told none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// No signature header.
    #[error("the signature is missing")]
    Missing,
    /// No header holds 64 hexadecimal digits.
    #[error("the signature is not of the form sha256=<64 hexadecimal digits>")]
    Malformed,
    /// No key of the keyring makes one of these signatures over this body.
    #[error("the signature fits no key")]
    Mismatch,
}

/// The well-formed signatures of one request: there is at least one.
///
/// They are read before the body, so that a request without any costs neither memory nor a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signatures(Vec<[u8; 32]>);

impl Signatures {
    /// Reads the values of all signature headers. A header may be repeated or hold a list with commas, the hex
    /// digits may be of either case, and the prefix may be missing; one that cannot be read is skipped as long
    /// as another can.
    ///
    /// # Errors
    /// [`Refused::Missing`] without any header, [`Refused::Malformed`] when none can be read.
    pub fn read<'h>(
        profile: &Profile,
        headers: impl IntoIterator<Item = &'h [u8]>,
    ) -> Result<Self, Refused> {
        let mut found = Vec::new();
        let mut any = false;
        for header in headers {
            any = true;
            let parts = header.split(|byte| *byte == b',');
            found.extend(parts.filter_map(|part| digest(profile, part)));
        }
        found.truncate(MOST);
        match (any, found.is_empty()) {
            (_, false) => Ok(Signatures(found)),
            (true, true) => Err(Refused::Malformed),
            (false, true) => Err(Refused::Missing),
        }
    }

    /// Whether one of them is this key's over this body. Each is compared, so that the time does not tell which came near.
    pub(super) fn fit(&self, key: &[u8], body: &[u8]) -> bool {
        mac(key, body).is_some_and(|mac| {
            let fits = |signature: &[u8; 32]| mac.clone().verify_slice(signature).is_ok();
            self.0.iter().fold(false, |any, s| fits(s) | any)
        })
    }
}

/// The value of a signature header.
pub(super) fn sign(profile: &Profile, key: &[u8], body: &[u8]) -> String {
    let digest = mac(key, body).map(|mac| mac.finalize().into_bytes());
    let hex = digest.map(|digest| data_encoding::HEXLOWER.encode(&digest));
    format!("{}{}", profile.prefix, hex.unwrap_or_default())
}

/// HMAC takes keys of any length, so `None` cannot come.
fn mac(key: &[u8], body: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(body);
    Some(mac)
}

fn digest(profile: &Profile, part: &[u8]) -> Option<[u8; 32]> {
    let part = part.trim_ascii();
    let prefix = profile.prefix.as_bytes();
    let hex = match part.get(..prefix.len()) {
        Some(start) if start.eq_ignore_ascii_case(prefix) => &part[prefix.len()..],
        _ => part,
    };
    // The length is looked at first: decoding wants exactly the room that the digest has.
    if hex.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    data_encoding::HEXLOWER_PERMISSIVE
        .decode_mut(hex, &mut digest)
        .ok()?;
    Some(digest)
}

impl Delivery<Unverified> {
    /// Raw bytes that arrived on the path of a webhook.
    #[must_use]
    pub fn new(webhook: WebhookIdentity, body: Vec<u8>) -> Self {
        Delivery {
            webhook,
            body,
            state: Unverified,
        }
    }

    /// Tries every key of the keyring.
    ///
    /// # Errors
    /// [`Refused::Mismatch`] when none fits, a keyring without keys included.
    pub fn verify(
        self,
        signatures: &Signatures,
        keyring: &Keyring,
    ) -> Result<Delivery<Verified>, Refused> {
        let key = keyring
            .accepted()
            .find(|key| signatures.fit(key.secret.expose(), &self.body))
            .ok_or(Refused::Mismatch)?;
        let is = |place: Option<&Key>| place.is_some_and(|k| std::ptr::eq(k, key));
        let place = if is(keyring.current.as_ref()) {
            KeyPlace::Current
        } else if is(keyring.next.as_ref()) {
            KeyPlace::Next
        } else {
            KeyPlace::Previous
        };
        Ok(Delivery {
            webhook: self.webhook,
            body: self.body,
            state: Verified {
                key_id: key.id.clone(),
                place,
            },
        })
    }
}

/// Takes as long as one key would and believes nothing: for a path without a key, which must not be known by its time.
pub fn disbelieve(body: &[u8], signatures: &Signatures) {
    std::hint::black_box(signatures.fit(b"no key", body));
}

impl Delivery<Verified> {
    /// The webhook that it was delivered to.
    #[must_use]
    pub fn webhook(&self) -> &WebhookIdentity {
        &self.webhook
    }

    /// The bytes that were signed.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The id of the key that fits. It is a random name and may be shown.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.state.key_id
    }

    /// Where in the keyring that key is.
    #[must_use]
    pub fn place(&self) -> KeyPlace {
        self.state.place
    }

    /// What the body says.
    ///
    /// # Errors
    /// [`Unreadable`] when it is not an envelope. The delivery is acknowledged all the same.
    pub fn envelope(&self) -> Result<Envelope, Unreadable> {
        envelope::read(&self.body)
    }

    pub(super) fn into_parts(self) -> (WebhookIdentity, Vec<u8>, String) {
        (self.webhook, self.body, self.state.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::PARTNER;
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    use crate::resources::keyring::{Retired, SigningSecret};

    /// The vector of partner-api.md, section 5.
    const BODY: &[u8] = br#"{"event":"webhook.test","webhook_id":"webhook_abc123","timestamp":"2024-01-15T14:20:00Z","data":{"message":"hi"}}"#;
    const HEX: &str = "95899d5b9a9316906d9b4e90cbc59ac195c7dea4c776869169e59938de41dc40";

    fn key(id: &str, secret: &str) -> Key {
        Key {
            id: id.to_owned(),
            secret: SigningSecret::new(secret.as_bytes().to_vec()).unwrap(),
        }
    }

    fn keyring() -> Keyring {
        let webhook = WebhookIdentity {
            namespace: "security".into(),
            name: "alarms".into(),
            uid: "u-1".into(),
        };
        Keyring {
            current: Some(key("c", "test-secret-1")),
            ..Keyring::empty(webhook)
        }
    }

    fn verify_with(headers: &[&str], body: &[u8], keyring: &Keyring) -> Result<KeyPlace, Refused> {
        let signatures = Signatures::read(&PARTNER, headers.iter().map(|h| h.as_bytes()))?;
        Delivery::new(keyring.webhook.clone(), body.to_vec())
            .verify(&signatures, keyring)
            .map(|d| d.place())
    }

    fn verify(headers: &[&str]) -> Result<KeyPlace, Refused> {
        verify_with(headers, BODY, &keyring())
    }

    #[test]
    fn the_vector_of_the_partner_api_verifies_in_every_spelling() {
        let upper = HEX.to_uppercase();
        let other = "0".repeat(64);
        for headers in [
            vec![format!("sha256={HEX}")],
            vec![HEX.to_owned()],
            vec![format!("sha256={upper}")],
            vec![format!("SHA256={upper}")],
            vec![format!("  sha256={HEX}  ")],
            vec![format!("sha256={other}"), format!("sha256={HEX}")],
            vec![format!("sha256={other}, sha256={HEX}")],
            vec!["garbage".to_owned(), format!("sha256={HEX}")],
        ] {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            assert_eq!(verify(&headers), Ok(KeyPlace::Current), "{headers:?}");
        }
    }

    #[test]
    fn what_is_no_signature_is_refused_before_any_digest() {
        assert_eq!(verify(&[]), Err(Refused::Missing));
        for header in [
            "",
            ",",
            "sha256=",
            &HEX[..62],
            &format!("{HEX}00"),
            &format!("sha1={HEX}"),
            &HEX.replace('9', "g"),
            "sha256=sha256=",
        ] {
            assert_eq!(verify(&[header]), Err(Refused::Malformed), "{header}");
        }
    }

    #[test]
    fn another_body_another_key_or_an_empty_keyring_is_a_mismatch() {
        let header = format!("sha256={HEX}");
        let mut longer = BODY.to_vec();
        longer.push(b'\n');
        assert_eq!(
            verify_with(&[&header], &longer, &keyring()),
            Err(Refused::Mismatch)
        );
        let mut other = keyring();
        other.current = Some(key("c", "test-secret-2"));
        assert_eq!(
            verify_with(&[&header], BODY, &other),
            Err(Refused::Mismatch)
        );
        other.current = None;
        assert_eq!(
            verify_with(&[&header], BODY, &other),
            Err(Refused::Mismatch)
        );
    }

    #[test]
    fn every_key_of_the_keyring_is_tried_and_no_clock_is_asked() {
        let header = format!("sha256={HEX}");
        let mut keyring = keyring();
        keyring.next = keyring.current.replace(key("other", "other"));
        assert_eq!(verify_with(&[&header], BODY, &keyring), Ok(KeyPlace::Next));
        keyring.next = None;
        assert_eq!(
            verify_with(&[&header], BODY, &keyring),
            Err(Refused::Mismatch)
        );
        keyring.previous = vec![Retired {
            key: key("p", "test-secret-1"),
            until: Timestamp::UNIX_EPOCH,
        }];
        assert_eq!(
            verify_with(&[&header], BODY, &keyring),
            Ok(KeyPlace::Previous)
        );
    }

    #[test]
    fn the_guides_own_sample_verifies_over_the_bytes_as_sent() {
        // What `verifySignature` of the guide computes for its sample secret, made with openssl.
        let body = br#"{"event":"alarm.triggered","webhook_id":"webhook_abc123","timestamp":"2024-01-15T14:20:00Z","data":{"alarm_id":"alarm_xyz789","site_id":"site_123","device_id":"device_456","severity":"high","zone":"Front Door"}}"#;
        let hex = "a085ffc390a48cdeb03895db6d1965e566ae27d3c6f83d8e0467c9f3331ff67e";
        let mut keyring = keyring();
        keyring.current = Some(key("c", "your_webhook_secret_key"));
        assert_eq!(
            verify_with(&[&format!("sha256={hex}")], body, &keyring),
            Ok(KeyPlace::Current)
        );
        let spaced = String::from_utf8_lossy(body).replace(',', ", ");
        assert_eq!(
            verify_with(&[&format!("sha256={hex}")], spaced.as_bytes(), &keyring),
            Err(Refused::Mismatch)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_the_reader_panic_or_a_stranger_pass(bytes: Vec<u8>) {
            if let Ok(signatures) = Signatures::read(&PARTNER, [bytes.as_slice()]) {
                let delivery = Delivery::new(keyring().webhook, BODY.to_vec());
                proptest::prop_assert!(delivery.verify(&signatures, &keyring()).is_err());
            }
        }
    }
}
