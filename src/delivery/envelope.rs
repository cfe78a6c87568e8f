//! The envelope, read as an open object: whatever can be understood is, and what is odd is said, never refused.
//!
//! A refusal would count against the webhook at CHeKT and bring the same bytes again (three of them switch it
//! off). Only a body without an event's name cannot become an Event of its own; it becomes a dead letter.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use super::catalogue::Kind;
use super::json::{self, Mend, Value};

/// What a verified body says.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Name of the event, never empty.
    pub event: String,
    /// The remote webhook that CHeKT says it delivers for.
    pub webhook_id: Option<String>,
    /// The sender's time, as it spells it. Whether it is the event's or the delivery's is not documented.
    pub timestamp: Option<String>,
    /// What the event is about; empty when there is none.
    pub data: BTreeMap<String, Value>,
    /// What is odd about it.
    pub flaws: Vec<Flaw>,
    /// What had to be mended before it could be read; empty for valid JSON.
    pub mended: Vec<Mend>,
}

/// Something odd that does not keep a delivery from being published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No `webhook_id`, or not a string or number.
    NoWebhookId,
    /// No `timestamp`, or not a string or number.
    NoTimestamp,
    /// No `data`, or not an object.
    NoData,
}

impl Flaw {
    /// The field that is at fault.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Flaw::NoWebhookId => "webhook_id",
            Flaw::NoTimestamp => "timestamp",
            Flaw::NoData => "data",
        }
    }
}

/// Why a body is no envelope. None of it repeats what the body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or nested too deep to be read safely.
    #[error("it is not JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault, from 1.
        column: usize,
    },
    /// JSON, and not an object.
    #[error("it is JSON but not an object")]
    NotAnObject,
    /// An object without the name of an event.
    #[error("it has no event name")]
    NoEvent,
}

impl Envelope {
    /// A field of `data` as text, when it is a string that is not empty, a number or a boolean.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<String> {
        self.data.get(field).and_then(text)
    }

    /// The mendings in words, if there were any.
    #[must_use]
    pub fn mendings(&self) -> Option<String> {
        let words: Vec<String> = self.mended.iter().map(ToString::to_string).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// Reads a body whose signature was verified; only such bodies get here.
pub(super) fn read(body: &[u8]) -> Result<Envelope, Unreadable> {
    let reading = json::read(body, names_event).ok_or_else(|| unreadable(body))?;
    let mut mended = reading.mended;
    let Value::Object(mut fields) = reading.value else {
        return Err(unreadable(body));
    };
    let mut field = |name: &'static str| {
        let key = key(&fields, name)?.clone();
        if key != name {
            mended.push(Mend::Case);
        }
        fields.remove(&key)
    };
    let event = field("event");
    let webhook_id = field("webhook_id").as_ref().and_then(text);
    let timestamp = field("timestamp").as_ref().and_then(text);
    let data = field("data");
    let event = event
        .as_ref()
        .and_then(event_name)
        .ok_or_else(|| unreadable(body))?;
    let event = match Kind::spelled(event) {
        Some(known) if known != event => {
            mended.push(Mend::Case);
            known.to_owned()
        }
        Some(_) | None => event.to_owned(),
    };
    mended.dedup();
    let mut flaws = Vec::new();
    if webhook_id.is_none() {
        flaws.push(Flaw::NoWebhookId);
    }
    if timestamp.is_none() {
        flaws.push(Flaw::NoTimestamp);
    }
    let data = if let Some(Value::Object(data)) = data {
        data
    } else {
        flaws.push(Flaw::NoData);
        BTreeMap::new()
    };
    Ok(Envelope {
        event,
        webhook_id,
        timestamp,
        data,
        flaws,
        mended,
    })
}

/// The key of a field, in whatever case if it is not there as CHeKT's documents spell it.
fn key<'f>(fields: &'f BTreeMap<String, Value>, name: &str) -> Option<&'f String> {
    let exact = fields.get_key_value(name).map(|(key, _)| key);
    exact.or_else(|| {
        let mut keys = fields.keys();
        keys.find(|key| key.trim().eq_ignore_ascii_case(name))
    })
}

/// Whether a value is an object with the name of an event.
fn names_event(value: &Value) -> bool {
    let Value::Object(fields) = value else {
        return false;
    };
    let event = key(fields, "event").and_then(|key| fields.get(key));
    event.and_then(event_name).is_some()
}

/// The name of an event without what is around it.
fn event_name(value: &Value) -> Option<&str> {
    let Value::String(event) = value else {
        return None;
    };
    // Some characters without a width are no white space.
    let unseen =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '\u{200b}' | '\u{feff}');
    let event = event.trim_matches(unseen);
    (!event.is_empty()).then_some(event)
}

/// Why a body is no envelope, in the words of a strict reader.
fn unreadable(body: &[u8]) -> Unreadable {
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(body) {
        return Unreadable::NotJson {
            line: error.line(),
            column: error.column(),
        };
    }
    match body.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => Unreadable::NoEvent,
        Some(_) | None => Unreadable::NotAnObject,
    }
}

/// A string, number or boolean as text: ids are strings in one place of CHeKT's documents and numbers in
/// another, and `1.0` is the id `1` written by another library.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.strip_suffix(".0").unwrap_or(number).to_owned()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_strings_or_numbers() {
        let envelope = read(
            br#"{"event":"site.armed","webhook_id":7,"timestamp":1700000000,"data":{"site_id":1.0,"device_id":"d","alarm_id":12345678901234567890,"severity":"","x":null,"y":[1]}}"#,
        )
        .unwrap();
        assert_eq!(envelope.webhook_id.as_deref(), Some("7"));
        assert_eq!(envelope.timestamp.as_deref(), Some("1700000000"));
        assert_eq!(envelope.text("site_id").as_deref(), Some("1"));
        assert_eq!(envelope.text("device_id").as_deref(), Some("d"));
        assert_eq!(
            envelope.text("alarm_id").as_deref(),
            Some("12345678901234567890")
        );
        for absent in ["severity", "x", "y", "z"] {
            assert_eq!(envelope.text(absent), None, "{absent}");
        }
        assert!(envelope.flaws.is_empty());
    }

    #[test]
    fn missing_fields_are_flaws_and_not_faults() {
        let envelope = read(br#"{"event":" door.opened ","data":[],"webhook_id":null}"#).unwrap();
        assert_eq!(envelope.event, "door.opened");
        assert_eq!(
            envelope.flaws,
            [Flaw::NoWebhookId, Flaw::NoTimestamp, Flaw::NoData]
        );
    }

    #[test]
    fn a_body_without_an_event_name_is_unreadable_for_a_stated_reason() {
        let reason = |body: &str| read(body.as_bytes()).unwrap_err().to_string();
        assert_eq!(reason("{\"event\""), "it is not JSON (line 1, column 8)");
        assert_eq!(
            reason(r#"{"event":"alarm.trig"#),
            "it is not JSON (line 1, column 20)"
        );
        assert!(
            reason("payload=%7B%22event%22%3A%22alarm.triggered%22%7D").starts_with("it is not")
        );
        assert_eq!(reason(""), "it is not JSON (line 1, column 0)");
        assert_eq!(reason("[]"), "it is JSON but not an object");
        assert_eq!(reason("{}"), "it has no event name");
        assert_eq!(reason(r#"{"event":1}"#), "it has no event name");
        assert_eq!(reason(r#"{"event":" "}"#), "it has no event name");
        assert!(reason(&"[".repeat(100_000)).starts_with("it is not JSON"));
        assert!(read(b"\xff\xfe").is_err());
    }

    /// Bodies in which every string value but the name of the event may be damaged, and their events.
    const BODIES: [(&str, &str); 5] = [
        (
            r#"{"event":"alarm.triggered","webhook_id":"webhook_abc123","timestamp":"2024-01-15T14:20:00Z","data":{"alarm_id":"alarm_xyz789","site_id":"site_123","device_id":"device_456","severity":"high","zone":"Front Door"}}"#,
            "alarm.triggered",
        ),
        (
            r#"{"data":{"zone":"a b}, c","say":"\"hi\", \\ ü\u00e9 \ud83d\ude00","tags":["x, y","{z","]"],"n":1},"event":"alarm.cleared","timestamp":"1","webhook_id":"w"}"#,
            "alarm.cleared",
        ),
        (
            r#"{"webhook_id":"7","data":{"zone":",","deep":{"a":[["b","\"event\":\"x\","]]}},"event":"site.armed"}"#,
            "site.armed",
        ),
        (
            "{\n  \"timestamp\": \"2024-01-15 14:20:00\",\n  \"data\": {\n    \"zone\": \"Front: {Door}\",\n    \"x\": null\n  },\n  \"event\": \"device.status_changed\"\n}\n",
            "device.status_changed",
        ),
        (
            r#"{"event":"webhook.test","data":{"message":"This is a test webhook"}}"#,
            "webhook.test",
        ),
    ];

    /// The places of the bytes of string values, and whether the place behind the last of each is among them.
    fn inside_values(body: &str, closing: bool) -> Vec<usize> {
        let bytes = body.as_bytes();
        let mut places = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'"' {
                let begin = at + 1;
                at = begin;
                while bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                let is_name = body[at + 1..].trim_start().starts_with(':');
                let is_event = body[..begin]
                    .trim_end_matches(['"', ' '])
                    .ends_with("\"event\":");
                if !is_name && !is_event {
                    places.extend(begin..at + usize::from(closing));
                }
            }
            at += 1;
        }
        places
    }

    #[test]
    fn any_damaged_byte_inside_a_string_leaves_the_event_its_name() {
        let mut unread = Vec::new();
        for (body, event) in BODIES {
            let mut check = |damaged: Vec<u8>| {
                let read = read(&damaged).map(|envelope| envelope.event);
                if read.as_deref() != Ok(event) {
                    unread.push(String::from_utf8_lossy(&damaged).into_owned());
                }
            };
            for place in inside_values(body, false) {
                for byte in 0..=u8::MAX {
                    let mut damaged = body.as_bytes().to_vec();
                    damaged[place] = byte;
                    check(damaged);
                }
                let mut damaged = body.as_bytes().to_vec();
                damaged.remove(place);
                check(damaged);
            }
            for place in inside_values(body, true) {
                for byte in 0..=u8::MAX {
                    let mut damaged = body.as_bytes().to_vec();
                    damaged.insert(place, byte);
                    check(damaged);
                }
            }
        }
        assert!(
            unread.is_empty(),
            "{}: {:#?}",
            unread.len(),
            &unread[..unread.len().min(20)]
        );
    }

    #[test]
    fn a_body_that_is_cut_behind_the_name_of_its_event_keeps_it() {
        let (body, event) = BODIES[0];
        let named = body.find("\",").unwrap() + 1;
        for end in named..body.len() {
            let envelope = read(&body.as_bytes()[..end]).unwrap();
            assert_eq!(envelope.event, event, "{}", &body[..end]);
            assert_eq!(envelope.mended, [Mend::Cut]);
        }
        for end in 0..named {
            assert!(read(&body.as_bytes()[..end]).is_err(), "{}", &body[..end]);
        }
    }

    #[test]
    fn the_name_of_an_event_may_have_any_case_and_space_around_it() {
        for (name, event, mended) in [
            ("alarm.triggered", "alarm.triggered", vec![]),
            (" alarm.triggered\\n", "alarm.triggered", vec![]),
            ("\\ufeffalarm.triggered\\u0000", "alarm.triggered", vec![]),
            ("ALARM.Triggered", "alarm.triggered", vec![Mend::Case]),
            ("Door.Opened", "Door.Opened", vec![]),
            ("alarm. triggered", "alarm. triggered", vec![]),
        ] {
            let envelope = read(format!(r#"{{"event":"{name}"}}"#).as_bytes()).unwrap();
            assert_eq!((envelope.event.as_str(), envelope.mended), (event, mended));
        }
        let envelope =
            read(br#"{"Event":"Alarm.Triggered"," DATA":{"a":1},"timestamp":"1"}"#).unwrap();
        assert_eq!(envelope.event, "alarm.triggered");
        assert_eq!(envelope.mended, [Mend::Case]);
        assert_eq!(envelope.flaws, [Flaw::NoWebhookId]);
        let envelope = read(br#"{"EVENT":"site.armed","event":"alarm.triggered"}"#).unwrap();
        assert_eq!(
            (envelope.event.as_str(), envelope.mended),
            ("alarm.triggered", vec![])
        );
    }

    #[test]
    fn what_is_another_format_is_a_dead_letter() {
        for body in [
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xabVJ-K\xcd+Q\xb2RJ\xccI,\xca\xd5+)".as_slice(),
            b"payload=%7B%22event%22%3A%22alarm.triggered%22%7D",
            b"event: alarm.triggered\ndata:\n  zone: Front Door\n",
            b"<event>alarm.triggered</event>",
            b"alarm.triggered",
            br#""alarm.triggered""#,
            br#"["alarm.triggered"]"#,
            br#"[[{"event":"alarm.triggered"}]]"#,
            br#"{"body":{"event":"alarm.triggered"}}"#,
            br#"{"event":{"name":"alarm.triggered"}}"#,
            b"{no JSON, and number 7 of 9",
        ] {
            assert!(read(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_damaged_byte_inside_any_text_leaves_the_event_its_name(
            zone in ".{1,20}", name in "[a-z]{1,9}", at: proptest::sample::Index, byte: u8, first: bool, pretty: bool,
        ) {
            let text = |value: &serde_json::Value| if pretty { format!("{value:#}") } else { value.to_string() };
            let data = serde_json::json!({"alarm_id": "a1", (name): zone, "zone2": [zone]});
            let (event, data) = (r#""event":"alarm.triggered""#, format!(r#""data":{}"#, text(&data)));
            let body = if first { format!("{{{event},{data}}}") } else { format!("{{{data},{event}}}") };
            let places = inside_values(&body, false);
            let mut damaged = body.clone().into_bytes();
            damaged[places[at.index(places.len())]] = byte;
            let read = read(&damaged);
            proptest::prop_assert_eq!(read.map(|envelope| envelope.event), Ok("alarm.triggered".to_owned()), "{}", String::from_utf8_lossy(&damaged));
        }

        #[test]
        fn no_body_makes_the_reader_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
