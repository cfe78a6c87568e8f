//! When two deliveries are the same, and the name of the Event that each becomes.
//!
//! CHeKT sends no delivery id (partner-api.md, 4.1), so a copy is recognised by its bytes. A retry that carries
//! a fresh timestamp has other bytes; it is recognised only where the data names the occurrence, for
//! `site.armed` twice in six minutes with equal data may well be two armings.

use std::fmt;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::envelope::Envelope;
use super::note::bounded;

/// What two copies of one delivery share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey([u8; 32]);

/// Fields of `data` that name an occurrence: with the same event and data, it is the same one.
const OCCURRENCE: [&str; 2] = ["alarm_id", "event_id"];

/// The longest name of an object (DNS-1123 subdomain).
const LONGEST_NAME: usize = 253;

impl DeliveryKey {
    /// SHA-256 over the webhook's uid and the raw body.
    #[must_use]
    pub fn of(uid: &str, body: &[u8]) -> Self {
        DeliveryKey(hash(&[uid.as_bytes(), body]))
    }

    /// The key of the occurrence: event, webhook and data without the sender's timestamp. `None` where the data
    /// names no occurrence.
    #[must_use]
    pub fn of_occurrence(uid: &str, envelope: &Envelope) -> Option<Self> {
        if !OCCURRENCE.iter().any(|field| envelope.has(field)) {
            return None;
        }
        let mut data = Vec::with_capacity(256);
        canonical_object(&envelope.data, &mut data);
        Some(DeliveryKey(hash(&[
            uid.as_bytes(),
            envelope.event.as_bytes(),
            envelope.webhook_id.as_deref().unwrap_or("").as_bytes(),
            &data,
        ])))
    }

    /// A key as the journal holds it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        DeliveryKey(bytes)
    }

    /// The bytes, for the journal.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve hexadecimal digits: enough to find a delivery in a log.
    #[must_use]
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.0[..6])
    }

    /// The name of the Event: the webhook's name, a dot, and a hash of uid and delivery key. A second replica, or
    /// the same one after a crash, arrives at the same name and is told that it exists already.
    ///
    /// It is always a DNS-1123 subdomain of at most 253 bytes: a long webhook's name is cut.
    #[must_use]
    pub fn event_name(&self, webhook_name: &str, uid: &str) -> String {
        name(webhook_name, &hash(&[uid.as_bytes(), &self.0]))
    }
}

/// The name of the Event that tells of a webhook's dead letters in one minute: whoever else would tell in it arrives
/// at the same name.
#[must_use]
pub fn notice_name(webhook_name: &str, uid: &str, minute: i64) -> String {
    let minute = minute.to_be_bytes();
    name(
        webhook_name,
        &hash(&[uid.as_bytes(), b"dead letters", &minute]),
    )
}

/// The webhook's name, as far as there is room, a dot, and a digest.
fn name(webhook_name: &str, digest: &[u8; 32]) -> String {
    // 160 bits are 32 characters without padding; nobody can make two that collide.
    let tail = BASE32_NOPAD.encode(&digest[..20]).to_ascii_lowercase();
    let room = LONGEST_NAME - 1 - tail.len();
    let head = bounded(webhook_name, room).trim_end_matches(['.', '-']);
    format!("{head}.{tail}")
}

impl fmt::Display for DeliveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// SHA-256 of the body alone in hexadecimal, which a sender can compute as well.
#[must_use]
pub fn body_digest(body: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(body))
}

/// Each part is preceded by its length, so that no two lists of parts give the same bytes.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// JSON with its keys in order and without white space. It is made for every alarm while CHeKT waits, so nothing is
/// copied on the way.
fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => canonical_object(map, out),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => write(value, out),
    }
}

fn canonical_object(map: &Map<String, Value>, out: &mut Vec<u8>) {
    let mut fields: Vec<_> = map.iter().collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    out.push(b'{');
    for (key, value) in fields {
        write(key, out);
        out.push(b':');
        canonical(value, out);
        out.push(b',');
    }
    out.push(b'}');
}

fn write(scalar: &impl Serialize, out: &mut Vec<u8>) {
    // Text, numbers and the like can always be written, and a vector takes all of it: there is no error.
    let _ = serde_json::to_writer(out, scalar);
}

#[cfg(test)]
mod tests {
    use super::super::envelope;
    use super::*;

    fn occurrence(body: &str) -> Option<DeliveryKey> {
        DeliveryKey::of_occurrence("u-1", &envelope::read(body.as_bytes()).unwrap())
    }

    #[test]
    fn copies_share_a_key_and_other_bytes_or_another_webhook_do_not() {
        let key = DeliveryKey::of("u-1", b"body");
        assert_eq!(key, DeliveryKey::of("u-1", b"body"));
        assert_ne!(key, DeliveryKey::of("u-1", b"body "));
        assert_ne!(key, DeliveryKey::of("u-2", b"body"));
        assert_ne!(DeliveryKey::of("u-1", b"1b"), DeliveryKey::of("u-11", b"b"));
    }

    #[test]
    fn a_retry_with_a_fresh_timestamp_is_the_same_occurrence() {
        let first = occurrence(
            r#"{"event":"alarm.triggered","webhook_id":"w","timestamp":"1","data":{"alarm_id":"a","site_id":1}}"#,
        );
        let again = occurrence(
            r#"{"data":{"site_id":1,"alarm_id":"a"},"timestamp":"2","webhook_id":"w","event":"alarm.triggered"}"#,
        );
        // Journals hold such keys: another version of this program must find them again.
        let known = r#"{"event":"e","webhook_id":"w","data":{"b":[1,2.5,null,{"y":true,"x":"\u00e9\n\""}],"alarm_id":"a","a":{}}}"#;
        assert_eq!(
            occurrence(known).unwrap().to_string(),
            "cba3b7cf5a228aa6948dfb642d0cf92fb6abc365fd9e2cedbcdd28cf859593bf"
        );
        let other = occurrence(
            r#"{"event":"alarm.cleared","webhook_id":"w","timestamp":"1","data":{"alarm_id":"a","site_id":1}}"#,
        );
        assert!(first.is_some());
        assert_eq!(first, again);
        assert_ne!(first, other);
    }

    #[test]
    fn what_names_no_occurrence_has_no_occurrence_key() {
        assert_eq!(
            occurrence(r#"{"event":"site.armed","webhook_id":"w","data":{"site_id":1}}"#),
            None
        );
    }

    #[test]
    fn a_notice_has_one_name_for_a_webhook_and_a_minute() {
        let name = notice_name("alarms", "u-1", 7);
        assert_eq!(name, notice_name("alarms", "u-1", 7));
        assert_ne!(name, notice_name("alarms", "u-1", 8));
        assert_ne!(name, notice_name("alarms", "u-2", 7));
        assert!(name.starts_with("alarms.") && name.len() == 39, "{name}");
    }

    proptest::proptest! {
        #[test]
        fn every_event_name_is_a_subdomain_of_at_most_253_bytes(name in "[a-z0-9]([-a-z0-9.]{0,260}[a-z0-9])?", body: Vec<u8>) {
            let event = DeliveryKey::of("u-1", &body).event_name(&name, "u-1");
            proptest::prop_assert!(event.len() <= 253);
            proptest::prop_assert!(event.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
            proptest::prop_assert!(event.starts_with(|c: char| c.is_ascii_alphanumeric()));
            let (head, tail) = event.rsplit_once('.').unwrap();
            proptest::prop_assert!(head.ends_with(|c: char| c.is_ascii_alphanumeric()));
            proptest::prop_assert_eq!(tail.len(), 32);
        }
    }
}
