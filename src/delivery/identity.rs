//! When two deliveries are the same, and the name of the Event that each becomes.
//!
//! CHeKT sends no delivery id (partner-api.md, 4.1), so a copy is recognised by its bytes. A retry that carries a
//! fresh timestamp has other bytes. It is a copy only if all of this is certain:
//!
//! - `data` names an alarm (or event), and both deliveries say the same of it;
//! - the sender's timestamps can be read and are no further apart than retries are. Both are the sender's: the
//!   receiver's clock is not asked;
//! - the receiver has seen nothing else of that alarm in between. An alarm that was cleared and is triggered again is
//!   another alarm, whatever its data;
//! - nothing had to be mended to read it.
//!
//! Otherwise it becomes a second Event, which is better than a lost alarm.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::DateTime;
use k8s_openapi::jiff::tz::TimeZone;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::envelope::Envelope;
use super::json::Value;
use crate::resources::foreign::bounded;
use crate::resources::keyring::RETRY_HORIZON;

/// What two copies of one delivery share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey([u8; 32]);

/// What a delivery says of which alarm, and when: 32 bytes as the journal holds them.
///
/// Journals of earlier versions hold a hash there that covers all of it. It equals no subject of this version, so a
/// retry across the upgrade with a fresh timestamp becomes a second Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Occurrence {
    /// The webhook and the alarm.
    pub subject: [u8; 16],
    /// What is said: event and data. Nothing that is not certain to be a retry shares it. Only who knows the
    /// webhook's secret could make two that collide.
    pub content: [u8; 8],
    /// The sender's time in milliseconds.
    pub sent_at: i64,
}

/// Fields of `data` that name what a delivery is about, the first that names something.
const SUBJECTS: [&str; 2] = ["alarm_id", "event_id"];

/// The longest name of an object (DNS-1123 subdomain).
const LONGEST_NAME: usize = 253;

impl DeliveryKey {
    /// SHA-256 over the webhook's uid and the raw body.
    #[must_use]
    pub fn of(uid: &str, body: &[u8]) -> Self {
        DeliveryKey(hash(&[uid.as_bytes(), body]))
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

impl Occurrence {
    /// What a delivery says, if its data names an alarm or event.
    #[must_use]
    pub fn of(uid: &str, key: &DeliveryKey, envelope: &Envelope) -> Option<Self> {
        let field = SUBJECTS
            .into_iter()
            .find(|field| envelope.data.get(*field).is_some_and(names))?;
        let id = envelope.text(field)?;
        let subject = hash(&[uid.as_bytes(), field.as_bytes(), id.as_bytes()]);
        let sent_at = envelope.timestamp.as_deref().and_then(sent_at);
        let (content, sent_at) = match sent_at {
            Some(sent_at) if envelope.mended.is_empty() => {
                let mut data = Vec::with_capacity(256);
                canonical(&envelope.data, &mut data);
                let webhook_id = envelope.webhook_id.as_deref().unwrap_or("");
                (
                    hash(&[envelope.event.as_bytes(), webhook_id.as_bytes(), &data]),
                    sent_at,
                )
            }
            // Nothing shares what is made of the key, so it is the copy of nothing and comes in between all.
            Some(_) | None => (hash(&[b"alone", key.as_bytes()]), 0),
        };
        Some(Occurrence {
            subject: head(&subject),
            content: head(&content),
            sent_at,
        })
    }

    /// Whether two deliveries are one, if nothing else of the same alarm came in between.
    #[must_use]
    pub fn repeats(&self, other: &Occurrence) -> bool {
        let apart = Duration::from_millis(self.sent_at.abs_diff(other.sent_at));
        self.subject == other.subject && self.content == other.content && apart <= RETRY_HORIZON
    }

    /// As the journal holds it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Occurrence {
            subject: head(&bytes),
            content: part(&bytes, 16),
            sent_at: i64::from_be_bytes(part(&bytes, 24)),
        }
    }

    /// The bytes, for the journal.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.subject);
        bytes[16..24].copy_from_slice(&self.content);
        bytes[24..].copy_from_slice(&self.sent_at.to_be_bytes());
        bytes
    }
}

fn head<const N: usize>(bytes: &[u8; 32]) -> [u8; N] {
    part(bytes, 0)
}

fn part<const N: usize>(bytes: &[u8; 32], from: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[from..from + N]);
    part
}

/// Whether a value names something. Zero and the words for nothing are what programs write where they have no id.
fn names(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let text = text.trim().to_ascii_lowercase();
            let is_nothing = matches!(
                text.as_str(),
                "null"
                    | "nil"
                    | "none"
                    | "undefined"
                    | "nan"
                    | "false"
                    | "true"
                    | "unknown"
                    | "n/a"
            );
            !is_nothing && text.chars().any(|c| c.is_alphanumeric() && c != '0')
        }
        Value::Number(number) => {
            let digits = number.split(['e', 'E']).next().unwrap_or_default();
            digits.bytes().any(|b| matches!(b, b'1'..=b'9'))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// The sender's time in milliseconds: RFC 3339, the same without a time zone, or seconds or milliseconds since 1970.
/// It is only ever compared with the same sender's.
fn sent_at(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        // As seconds, this is beyond the year 5138.
        let is_milliseconds = number.unsigned_abs() >= 100_000_000_000;
        return if is_milliseconds {
            Some(number)
        } else {
            number.checked_mul(1_000)
        };
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    let time = text
        .parse::<DateTime>()
        .ok()?
        .to_zoned(TimeZone::UTC)
        .ok()?;
    Some(time.timestamp().as_millisecond())
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

/// The name of the Event that tells of deliveries that a receiver left when it ended, at this second.
#[must_use]
pub fn left_name(webhook_name: &str, uid: &str, instance: &str, second: i64) -> String {
    let second = second.to_be_bytes();
    let parts = [uid.as_bytes(), b"left", &second, instance.as_bytes()];
    name(webhook_name, &hash(&parts))
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

/// JSON with its keys in order and without white space, and numbers as they were sent: `1` and `1.0` may be two ids. It
/// is made for every alarm while CHeKT waits, so nothing is copied on the way.
fn canonical(fields: &BTreeMap<String, Value>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (name, value) in fields {
        write(name, out);
        out.push(b':');
        canonical_value(value, out);
        out.push(b',');
    }
    out.push(b'}');
}

fn canonical_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => canonical(fields, out),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical_value(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => write(value, out),
        Value::Number(number) => out.extend_from_slice(number.as_bytes()),
        Value::String(text) => write(text, out),
    }
}

fn write(scalar: &impl Serialize, out: &mut Vec<u8>) {
    // Text and booleans can always be written, and a vector takes all of it: there is no error.
    let _ = serde_json::to_writer(out, scalar);
}

#[cfg(test)]
mod tests {
    use super::super::envelope;
    use super::*;

    fn occurrence(body: &str) -> Option<Occurrence> {
        let key = DeliveryKey::of("u-1", body.as_bytes());
        Occurrence::of("u-1", &key, &envelope::read(body.as_bytes()).unwrap())
    }

    /// An alarm with this data.
    fn alarm(timestamp: &str, data: &str) -> Option<Occurrence> {
        occurrence(&format!(
            r#"{{"event":"alarm.triggered","webhook_id":"w","timestamp":{timestamp},"data":{data}}}"#
        ))
    }

    fn is_copy(one: Option<Occurrence>, other: Option<Occurrence>) -> bool {
        one.unwrap().repeats(&other.unwrap())
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
        assert!(is_copy(first, again));
        let other = occurrence(
            r#"{"event":"alarm.cleared","webhook_id":"w","timestamp":"1","data":{"alarm_id":"a","site_id":1}}"#,
        );
        assert!(!is_copy(first, other));
        assert_eq!(first.unwrap().subject, other.unwrap().subject);
        // Journals hold them: another version of this program must find them again.
        let known = r#"{"event":"e","webhook_id":"w","timestamp":"2024-01-15T14:20:00.5Z","data":{"b":[1,2.5,null,{"y":true,"x":"\u00e9\n\""}],"alarm_id":"a","a":{}}}"#;
        assert_eq!(
            HEXLOWER.encode(&occurrence(known).unwrap().to_bytes()),
            "3d95b96a71c37294a05d7fdfb597117231f2517929e242270000018d0d7e5874"
        );
        // The same delivery in a journal of an earlier version.
        let earlier = Occurrence::from_bytes([0xcb; 32]);
        assert!(!is_copy(occurrence(known), Some(earlier)));
    }

    #[test]
    fn only_timestamps_of_the_sender_that_are_as_close_as_retries_make_a_copy() {
        let at = |timestamp: &str| alarm(timestamp, r#"{"alarm_id":"a"}"#);
        let first = at(r#""2024-01-15T14:20:00Z""#);
        for (again, is) in [
            (r#""2024-01-15T14:20:00.000Z""#, true),
            (r#""2024-01-15T15:20:05+01:00""#, true),
            (r#""2024-01-15 14:25:35""#, true),
            (r#""2024-01-15T14:35:00Z""#, true),
            (r#""2024-01-15T14:05:00Z""#, true),
            ("1705328405", true),
            (r#""1705328405""#, true),
            ("1705328405123", true),
            (r#""2024-01-15T14:35:01Z""#, false),
            (r#""2024-01-15T14:04:59Z""#, false),
            (r#""2025-01-15T14:20:00Z""#, false),
            ("1705328405.5", false),
            (r#""yesterday""#, false),
            (r#""""#, false),
            ("null", false),
            ("99999999999999999999", false),
            ("9223372036854775807", false),
            ("-9223372036854775808", false),
        ] {
            assert_eq!(is_copy(first, at(again)), is, "{again}");
            assert_eq!(is_copy(at(again), first), is, "{again}");
        }
        // Two that cannot be read are no closer to one another.
        assert!(!is_copy(at("null"), at(r#""soon""#)));
    }

    #[test]
    fn numbers_are_compared_by_their_text() {
        let with = |id: &str| alarm("1", &format!(r#"{{"alarm_id":{id},"site_id":"s"}}"#));
        for (one, other) in [
            ("12345678901234567890123", "12345678901234567890124"),
            ("18446744073709551617", "18446744073709551618"),
            ("9007199254740993", "9007199254740992.0"),
            ("1", "1.0"),
            ("1", "\"1\""),
            ("0.1", "0.10"),
            ("1e400", "2e400"),
        ] {
            assert!(!is_copy(with(one), with(other)), "{one} {other}");
            assert!(one.contains("e4") || is_copy(with(one), with(one)), "{one}");
        }
        // What can be one alarm comes in between all the same.
        assert_eq!(with("1").unwrap().subject, with("\"1\"").unwrap().subject);
        assert_ne!(with("1").unwrap().subject, with("2").unwrap().subject);
    }

    #[test]
    fn empty_values_name_nothing() {
        for id in [
            "0",
            "0.0",
            "-0",
            "0e5",
            "\"\"",
            "\" \"",
            "\"0\"",
            "\"000\"",
            "null",
            "false",
            "true",
            "[]",
            "{}",
            "[1]",
            "\"null\"",
            "\"None\"",
            "\"undefined\"",
            "\"-\"",
            "\"00000000-0000-0000-0000-000000000000\"",
        ] {
            for field in SUBJECTS {
                assert_eq!(
                    alarm("1", &format!(r#"{{"{field}":{id}}}"#)),
                    None,
                    "{field}: {id}"
                );
            }
        }
        let both = alarm("1", r#"{"alarm_id":0,"event_id":"e"}"#);
        assert!(both.is_some());
        for id in ["1", "-1", "10", "1e0", "\"a\"", "\"0a\"", "\"警報\""] {
            assert!(
                alarm("1", &format!(r#"{{"alarm_id":{id}}}"#)).is_some(),
                "{id}"
            );
        }
    }

    #[test]
    fn what_was_mended_is_a_copy_of_nothing_but_its_own_bytes() {
        let with = |zone: &str| alarm("1", &format!(r#"{{"alarm_id":"a","zone":"{zone}"}}"#));
        let [sound, mended, other] = ["Door", "Door \\ud83d", "Door \\ud83e"].map(with);
        assert!(!is_copy(mended, other), "both read as Door and U+FFFD");
        assert!(!is_copy(sound, mended));
        assert_eq!(sound.unwrap().subject, mended.unwrap().subject);
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
        fn an_occurrence_is_the_same_there_and_back(bytes: [u8; 32]) {
            proptest::prop_assert_eq!(Occurrence::from_bytes(bytes).to_bytes(), bytes);
        }

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
