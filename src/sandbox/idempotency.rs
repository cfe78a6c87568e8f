//! The store of `Idempotency-Key`: the answer to a key is kept for 24 hours under endpoint and key. The same key
//! with the same payload gets the answer again, with another payload a 409.

use std::collections::HashMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::answer::{Answer, Content};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Most answers kept; the oldest go first.
const MOST: usize = 50_000;

/// The answers kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeptAnswers(HashMap<String, Kept>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    payload: String,
    at: Timestamp,
    status: u16,
    body: Option<String>,
}

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: go on.
    Nothing,
    /// The same call was answered before.
    Same(Answer),
    /// Another call came under this key.
    Conflict,
}

impl KeptAnswers {
    /// What is known of `key` at `endpoint` (method and path).
    pub fn find(&self, endpoint: &str, key: &str, payload: &[u8], now: Timestamp) -> Found {
        match self.0.get(&index(endpoint, key)) {
            Some(kept) if !is_over(kept, now) => {
                if kept.payload == digest(payload) {
                    Found::Same(Answer {
                        body: kept.body.clone().map(Content::Json),
                        ..Answer::empty(kept.status)
                    })
                } else {
                    Found::Conflict
                }
            }
            _ => Found::Nothing,
        }
    }

    /// Keeps the answer to `key`.
    pub fn keep(
        &mut self,
        endpoint: &str,
        key: &str,
        payload: &[u8],
        answer: &Answer,
        now: Timestamp,
    ) {
        if self.0.len() >= MOST {
            self.0.retain(|_, kept| !is_over(kept, now));
        }
        if self.0.len() >= MOST
            && let Some(oldest) = self
                .0
                .iter()
                .min_by_key(|(_, kept)| kept.at)
                .map(|(index, _)| index.clone())
        {
            self.0.remove(&oldest);
        }
        let body = match &answer.body {
            Some(Content::Json(text)) => Some(text.clone()),
            Some(Content::Html(_)) | None => None,
        };
        let kept = Kept {
            payload: digest(payload),
            at: now,
            status: answer.status,
            body,
        };
        self.0.insert(index(endpoint, key), kept);
    }
}

fn is_over(kept: &Kept, now: Timestamp) -> bool {
    kept.at.checked_add(KEPT).is_ok_and(|end| end <= now)
}

// A line break can be in neither a path nor a header.
fn index(endpoint: &str, key: &str) -> String {
    format!("{endpoint}\n{key}")
}

fn digest(payload: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hours * 3600).unwrap()
    }

    fn kept() -> KeptAnswers {
        let mut answers = KeptAnswers::default();
        let answer = Answer::json(201, &serde_json::json!({"webhook_id": "w"}));
        answers.keep("POST /w", "k", b"{}", &answer, at(0));
        answers
    }

    #[test]
    fn the_same_call_gets_the_same_answer_for_a_day() {
        let answers = kept();
        let Found::Same(answer) = answers.find("POST /w", "k", b"{}", at(23)) else {
            panic!("the answer was not kept")
        };
        assert_eq!(answer.status, 201);
        assert_eq!(
            answer.body,
            Some(Content::Json(r#"{"webhook_id":"w"}"#.to_owned()))
        );
        assert_eq!(answers.find("POST /w", "k", b"{}", at(24)), Found::Nothing);
    }

    #[test]
    fn another_payload_is_a_conflict() {
        assert_eq!(kept().find("POST /w", "k", b"{ }", at(1)), Found::Conflict);
    }

    #[test]
    fn another_endpoint_or_key_is_another_call() {
        assert_eq!(kept().find("PATCH /w", "k", b"{}", at(1)), Found::Nothing);
        assert_eq!(kept().find("POST /w", "l", b"{}", at(1)), Found::Nothing);
    }
}
