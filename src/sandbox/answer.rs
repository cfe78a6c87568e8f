//! What is answered to a call, before it becomes bytes: an answer, or a refusal that the error style puts in
//! words.

use std::time::Duration;

use serde_json::{Value, json};

use super::quirks::ErrorStyle;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers besides the content type.
    pub headers: Vec<(&'static str, String)>,
    /// Body with its content type, if there is one.
    pub body: Option<Content>,
    /// How much of it arrives.
    pub arrival: Arrival,
}

/// A body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// JSON text.
    Json(String),
    /// What a proxy in between would answer.
    Html(String),
}

/// How an answer arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// As it is.
    Whole,
    /// Half of the body, then the connection closes.
    CutShort,
    /// Not at all: the connection closes.
    Never,
}

impl Answer {
    /// An answer with a JSON body.
    pub fn json(status: u16, body: &Value) -> Self {
        Answer {
            body: Some(Content::Json(body.to_string())),
            ..Answer::empty(status)
        }
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Answer {
            status,
            headers: Vec::new(),
            body: None,
            arrival: Arrival::Whole,
        }
    }

    /// Whether the call did what it asked for.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The word for programs.
    pub code: String,
    /// The sentence for people.
    pub message: String,
    /// The field at fault.
    pub field: Option<String>,
    /// When to come back.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal for no particular field.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Refusal {
            status,
            code: code.to_owned(),
            message: message.into(),
            field: None,
            retry_after: None,
        }
    }

    /// A field whose value is not accepted.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Refusal {
            field: Some(field.to_owned()),
            ..Refusal::new(422, "validation_failed", message)
        }
    }

    /// The refusal as an answer.
    pub fn in_style(&self, style: ErrorStyle, request_id: &str) -> Answer {
        match style {
            ErrorStyle::Full | ErrorStyle::NoRequestId | ErrorStyle::Detail => {
                let sentence = match style {
                    ErrorStyle::Detail => "detail",
                    _ => "message",
                };
                let mut error = json!({"code": self.code, sentence: self.message});
                if style != ErrorStyle::NoRequestId {
                    error["request_id"] = json!(request_id);
                }
                if let Some(field) = &self.field {
                    error["field"] = json!(field);
                }
                Answer::json(self.status, &json!({"error": error}))
            }
            ErrorStyle::String => Answer::json(self.status, &json!({"error": self.message})),
            ErrorStyle::Empty => Answer::empty(self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_envelope_has_code_message_request_id_and_field() {
        let answer = Refusal::field("url", "no").in_style(ErrorStyle::Full, "req_1");
        let Some(Content::Json(body)) = answer.body else {
            panic!("a body was expected")
        };
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            body,
            json!({"error": {"code": "validation_failed", "message": "no", "request_id": "req_1", "field": "url"}})
        );
    }
}
