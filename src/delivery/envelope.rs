//! The envelope, read as an open object: whatever can be understood is, and what is odd is said, never refused.
//!
//! A refusal would count against the webhook at CHeKT and bring the same bytes again (three of them switch it
//! off). Only a body without an event's name cannot become an Event of its own; it becomes a dead letter.

use serde_json::{Map, Value};

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
    pub data: Map<String, Value>,
    /// What is odd about it.
    pub flaws: Vec<Flaw>,
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

    /// Whether [`Envelope::text`] would give something.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        match self.data.get(field) {
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Number(_) | Value::Bool(_)) => true,
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
        }
    }
}

/// Reads a body whose signature was verified; only such bodies get here.
pub(super) fn read(body: &[u8]) -> Result<Envelope, Unreadable> {
    let value: Value = serde_json::from_slice(body).map_err(|error| Unreadable::NotJson {
        line: error.line(),
        column: error.column(),
    })?;
    let Value::Object(mut fields) = value else {
        return Err(Unreadable::NotAnObject);
    };
    let event = match fields.get("event") {
        Some(Value::String(event)) if !event.trim().is_empty() => event.trim().to_owned(),
        _ => return Err(Unreadable::NoEvent),
    };
    let mut flaws = Vec::new();
    let webhook_id = fields.get("webhook_id").and_then(text);
    if webhook_id.is_none() {
        flaws.push(Flaw::NoWebhookId);
    }
    let timestamp = fields.get("timestamp").and_then(text);
    if timestamp.is_none() {
        flaws.push(Flaw::NoTimestamp);
    }
    let data = if let Some(Value::Object(data)) = fields.remove("data") {
        data
    } else {
        flaws.push(Flaw::NoData);
        Map::new()
    };
    Ok(Envelope {
        event,
        webhook_id,
        timestamp,
        data,
        flaws,
    })
}

/// A string, number or boolean as text: ids are strings in one place of CHeKT's documents and numbers in
/// another, and `1.0` is the id `1` written by another library.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => {
            let written = number.to_string();
            Some(match written.strip_suffix(".0") {
                Some(whole) => whole.to_owned(),
                None => written,
            })
        }
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
            assert!(!envelope.has(absent), "{absent}");
        }
        for present in ["site_id", "device_id", "alarm_id"] {
            assert!(envelope.has(present), "{present}");
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
        assert_eq!(reason(""), "it is not JSON (line 1, column 0)");
        assert_eq!(reason("[]"), "it is JSON but not an object");
        assert_eq!(reason("{}"), "it has no event name");
        assert_eq!(reason(r#"{"event":1}"#), "it has no event name");
        assert_eq!(reason(r#"{"event":" "}"#), "it has no event name");
        assert!(reason(&"[".repeat(100_000)).starts_with("it is not JSON"));
        assert!(read(b"\xff\xfe").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
