//! The ledger: every call, every attempt of a delivery, everything that was dropped or disabled, in the order
//! in which it happened. Tests judge by it, so it is exact; it holds no token and no secret.

use std::collections::VecDeque;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::faults::Route;

/// Most entries kept; the oldest go first.
const MOST: usize = 100_000;
/// Most bytes of bodies kept.
const MOST_BYTES: usize = 64 << 20;

/// Stands where a secret was.
pub const REDACTED: &str = "(redacted)";

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its number, from 1.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A call of the partner API or of the token endpoint.
    Call(Box<Call>),
    /// An attempt of a delivery, after it ended.
    Delivery {
        delivery_id: String,
        webhook_id: String,
        event: Option<String>,
        attempt: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        duration_ms: u64,
        body: String,
    },
    /// Something that would have been delivered.
    Dropped {
        #[serde(skip_serializing_if = "Option::is_none")]
        delivery_id: Option<String>,
        webhook_id: String,
        event: Option<String>,
        reason: &'static str,
    },
    /// A webhook that failed too often.
    Disabled { webhook_id: String },
}

/// A call.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    pub method: String,
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Null when the path is none of the API's.
    pub route: Option<Route>,
    /// What was answered; null when the connection was dropped.
    pub status: Option<u16>,
    pub idempotency_key: Option<String>,
    /// The answer was given before and came from the store of keys.
    pub replayed: bool,
    pub trace_id: Option<String>,
    pub request_id: String,
    /// The fault that struck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Value>,
    pub body: Value,
}

/// The lines kept.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    last: u64,
    bytes: usize,
}

impl Ledger {
    /// Writes a line.
    pub fn write(&mut self, at: Timestamp, what: What) {
        self.last += 1;
        self.bytes += size(&what);
        self.entries.push_back(Entry {
            seq: self.last,
            at,
            what,
        });
        while self.entries.len() > MOST || self.bytes > MOST_BYTES {
            match self.entries.pop_front() {
                Some(oldest) => self.bytes -= size(&oldest.what),
                None => break,
            }
        }
    }

    /// The lines after number `seq`.
    pub fn after(&self, seq: u64) -> Vec<&Entry> {
        let start = self.entries.partition_point(|entry| entry.seq <= seq);
        self.entries.range(start..).collect()
    }

    /// The number of the last line.
    pub fn last(&self) -> u64 {
        self.last
    }
}

fn size(what: &What) -> usize {
    // The rest of a line is small and alike, so the bodies are what counts.
    match what {
        What::Call(call) => match &call.body {
            Value::Null => 0,
            body => body.to_string().len(),
        },
        What::Delivery { body, .. } => body.len(),
        What::Dropped { .. } | What::Disabled { .. } => 0,
    }
}

/// The body of a call as the ledger may hold it: JSON whose secrets are covered; text that is no JSON is not
/// held, since nobody can say what is in it.
pub fn covered(body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else {
        return Value::String(format!("({} bytes that are no JSON)", body.len()));
    };
    cover(&mut value);
    value
}

fn cover(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, value) in object.iter_mut() {
                let name = name.to_ascii_lowercase();
                if name.contains("secret") || name.contains("token") {
                    *value = Value::String(REDACTED.to_owned());
                } else {
                    cover(value);
                }
            }
        }
        Value::Array(array) => array.iter_mut().for_each(cover),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn disabled(id: u64) -> What {
        What::Disabled {
            webhook_id: id.to_string(),
        }
    }

    #[test]
    fn reading_goes_on_after_the_last_line_read() {
        let mut ledger = Ledger::default();
        for id in 1..=3 {
            ledger.write(Timestamp::UNIX_EPOCH, disabled(id));
        }
        let lines: Vec<u64> = ledger.after(1).iter().map(|entry| entry.seq).collect();
        assert_eq!(lines, [2, 3]);
        assert_eq!(ledger.last(), 3);
        assert!(ledger.after(3).is_empty());
        assert!(ledger.after(99).is_empty());
    }

    #[test]
    fn the_oldest_lines_go_first() {
        let mut ledger = Ledger::default();
        for id in 0..=(MOST as u64) {
            ledger.write(Timestamp::UNIX_EPOCH, disabled(id));
        }
        assert_eq!(ledger.after(0).len(), MOST);
        assert_eq!(ledger.after(0)[0].seq, 2);
    }

    #[test]
    fn secrets_are_covered_at_any_depth() {
        let body = br#"{"url": "u", "secret": "hush", "a": [{"access_token": "hush"}]}"#;
        assert_eq!(
            covered(body),
            json!({"url": "u", "secret": REDACTED, "a": [{"access_token": REDACTED}]})
        );
        assert!(!covered(b"secret=hush").to_string().contains("hush"));
    }

    #[test]
    fn a_line_is_one_flat_object() {
        let mut ledger = Ledger::default();
        ledger.write(Timestamp::UNIX_EPOCH, disabled(7));
        assert_eq!(
            serde_json::to_value(ledger.after(0)).unwrap(),
            json!([{"seq": 1, "at": "1970-01-01T00:00:00Z", "kind": "disabled", "webhook_id": "7"}])
        );
    }
}
