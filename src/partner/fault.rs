//! What became of a call that CHeKT did not answer with success, in the words that lead to different acts.

use std::error::Error as _;
use std::time::Duration;

use serde_json::Value;

use crate::resources::foreign::{ForeignText, Redactor};

/// How much of a body that is no error envelope is shown, in characters.
const EXCERPT: usize = 120;

/// The kinds of failure that are handled differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 401, or no token to be had: the credentials are at fault.
    Credentials,
    /// 403: known, and not allowed. It may also be an IP allow list.
    Forbidden,
    /// 404 or 410 on one webhook: it is gone.
    Missing,
    /// 404, 405 or 501 on the collection: this account has no webhooks API.
    NoWebhooksApi,
    /// 409: the state is not what we thought.
    Conflict,
    /// 400 or 422, or another 4xx: the same request will be refused again.
    Rejected,
    /// 429: the account must be silent for a while.
    Throttled,
    /// 5xx.
    Server,
    /// No connection, a time-out, a broken one.
    Network,
    /// Success, with a body that makes no sense.
    Unreadable,
}

/// A call without success.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct PartnerError {
    /// What to do about it.
    pub kind: Kind,
    /// Whether the call may have had its effect all the same.
    pub unclear: bool,
    /// How long CHeKT asks us to wait, where it does.
    pub retry_after: Option<Duration>,
    /// A sentence for people: status, code, message and request id.
    pub detail: ForeignText,
}

impl PartnerError {
    /// A failure in this program's own words.
    #[must_use]
    pub fn new(kind: Kind, unclear: bool, detail: impl Into<String>) -> Self {
        Self::with(kind, unclear, ForeignText::trusted(detail))
    }

    /// A failure in words that are not all of this program.
    #[must_use]
    pub fn with(kind: Kind, unclear: bool, detail: ForeignText) -> Self {
        PartnerError {
            kind,
            unclear,
            retry_after: None,
            detail,
        }
    }

    /// Reads an answer without success. `collection` says that the call was to the collection and not to one
    /// webhook.
    ///
    /// The envelope is `{error: {code, message, request_id, field}}`; token endpoints answer
    /// `{error: "word", error_description}`, and proxies answer HTML. Each is met.
    #[must_use]
    pub fn from_answer(
        status: u16,
        collection: bool,
        body: &str,
        retry_after: Option<Duration>,
        redactor: &Redactor,
    ) -> Self {
        let kind = match status {
            401 => Kind::Credentials,
            403 => Kind::Forbidden,
            404 | 405 | 501 if collection => Kind::NoWebhooksApi,
            404 | 410 => Kind::Missing,
            409 => Kind::Conflict,
            429 => Kind::Throttled,
            408 | 500..=599 => Kind::Server,
            _ => Kind::Rejected,
        };
        let unclear = matches!(kind, Kind::Server);
        let mut detail = format!("CHeKT answered {status}");
        let read: Option<Value> = serde_json::from_str(body).ok();
        match read.as_ref().and_then(|v| v.get("error")) {
            Some(Value::Object(error)) => {
                let text = |name: &str| {
                    error
                        .get(name)
                        .and_then(Value::as_str)
                        .filter(|t| !t.is_empty())
                };
                if let Some(code) = text("code") {
                    detail.push_str(&format!(" {code}"));
                }
                if let Some(message) = text("message").or_else(|| text("detail")) {
                    detail.push_str(&format!(": {message}"));
                }
                if let Some(name) = text("field") {
                    detail.push_str(&format!(" (field {name})"));
                }
                if let Some(id) = text("request_id") {
                    detail.push_str(&format!(" (request {id})"));
                }
            }
            Some(Value::String(word)) => {
                detail.push_str(&format!(" {word}"));
                if let Some(more) = read.as_ref().and_then(|v| v["error_description"].as_str()) {
                    detail.push_str(&format!(": {more}"));
                }
            }
            _ => {
                let body = redactor.clean(body);
                if !body.is_empty() {
                    let excerpt: String = body.chars().take(EXCERPT).collect();
                    detail.push_str(&format!(", no error of its own but: {excerpt}"));
                }
            }
        }
        PartnerError {
            kind,
            unclear,
            retry_after,
            detail: redactor.clean(&detail),
        }
    }
}

/// The innermost cause of an HTTP error, which says more than its outer words and holds no url.
#[must_use]
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut inner = error.source();
    while let Some(next) = inner.and_then(std::error::Error::source) {
        inner = Some(next);
    }
    inner.map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_gives_code_message_field_and_request() {
        let body = r#"{"error":{"code":"validation_failed","message":"url must be https","field":"url","request_id":"req_1"}}"#;
        let error = PartnerError::from_answer(422, true, body, None, &Redactor::default());
        assert_eq!(error.kind, Kind::Rejected);
        assert_eq!(
            &*error.detail,
            "CHeKT answered 422 validation_failed: url must be https (field url) (request req_1)"
        );
    }

    #[test]
    fn a_token_endpoint_and_a_proxy_are_understood_too() {
        let error = PartnerError::from_answer(
            401,
            false,
            r#"{"error":"invalid_client","error_description":"no such client"}"#,
            None,
            &Redactor::default(),
        );
        assert_eq!(
            &*error.detail,
            "CHeKT answered 401 invalid_client: no such client"
        );
        let error = PartnerError::from_answer(
            502,
            false,
            "<html>\n <b>Bad Gateway</b></html>",
            None,
            &Redactor::default(),
        );
        assert_eq!((error.kind, error.unclear), (Kind::Server, true));
        assert_eq!(
            &*error.detail,
            "CHeKT answered 502, no error of its own but: <html> <b>Bad Gateway</b></html>"
        );
    }

    #[test]
    fn the_same_status_means_another_thing_on_the_collection() {
        for (status, item, collection) in [
            (404, Kind::Missing, Kind::NoWebhooksApi),
            (405, Kind::Rejected, Kind::NoWebhooksApi),
            (501, Kind::Server, Kind::NoWebhooksApi),
            (410, Kind::Missing, Kind::Missing),
        ] {
            assert_eq!(
                PartnerError::from_answer(status, false, "", None, &Redactor::default()).kind,
                item
            );
            assert_eq!(
                PartnerError::from_answer(status, true, "", None, &Redactor::default()).kind,
                collection
            );
        }
    }

    #[test]
    fn a_secret_that_comes_back_in_an_error_is_taken_out() {
        let body = r#"{"error":{"message":"secret 'hunter22' is too short"}}"#;
        let error =
            PartnerError::from_answer(422, true, body, None, &Redactor::default().and(b"hunter22"));
        assert_eq!(
            &*error.detail,
            "CHeKT answered 422: secret '(redacted)' is too short"
        );
    }
}
