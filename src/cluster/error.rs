//! What can go wrong with a call to the API server, in the words that lead to different acts.

use std::future::Future;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use kube::core::Status;

use crate::delivery::retry;
use crate::resources::foreign::plain;

/// The most bytes of an answer that is no `Status` in an error.
const MAX_TEXT_BYTES: usize = 200;
/// The most bytes of the message of a `Status` in an error.
const MAX_MESSAGE_BYTES: usize = 1024;

/// What became of a call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The object, or what serves its kind, does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The namespace of the object does not exist. Only the API server itself says this, and no proxy or missing kind.
    #[error("the namespace is gone: {0}")]
    NamespaceGone(String),
    /// An object of that name exists already.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// Somebody else wrote first.
    #[error("conflict: {0}")]
    Conflict(String),
    /// We may not do this.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The API server does not know who we are.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// The namespace is being deleted, so nothing new can be made in it.
    #[error("the namespace is being deleted: {0}")]
    Terminating(String),
    /// The API server's own validation names fields of the object that are wrong: no other answer is to be had for it.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The API server or something before it does not take the object now: an admission webhook or policy that answers 400
    /// or 422, or a proxy that answers 413. It may take the same object later.
    #[error("not accepted ({code}): {message}")]
    Denied {
        /// The number of the answer.
        code: u16,
        /// What it says.
        message: String,
    },
    /// The API server asks for a pause.
    #[error("the API server asks for a pause (429): {message}")]
    Throttled {
        /// How long, where it said so.
        retry_after: Option<Duration>,
        /// What it says.
        message: String,
    },
    /// No answer within the deadline. What was asked for may have been done.
    #[error("no answer from the API server within {0:?}")]
    Deadline(Duration),
    /// The API server, or a webhook that it asks, fails. It may have been done, too.
    #[error("the API server answers {code}: {message}")]
    Failed {
        /// The number of the answer.
        code: u16,
        /// What it says.
        message: String,
    },
    /// Everything else: no connection, or a broken answer. It may have been done, too.
    #[error("the API server cannot be asked: {0}")]
    Unavailable(#[source] kube::Error),
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return ClusterError::Unavailable(error);
        };
        ClusterError::of_status(&status, None)
    }
}

impl ClusterError {
    /// What an answer without success says. Priority and fairness says how long to wait in a header alone.
    #[must_use]
    pub fn of_answer(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let status = serde_json::from_slice::<Status>(body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(body);
            Status::failure(&plain(&text, MAX_TEXT_BYTES), "no Status")
        });
        let retry_after = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        let retry_after = retry_after.and_then(|v| retry::asked(v, retry::date(headers)));
        ClusterError::of_status(&status.with_code(code.as_u16()), retry_after)
    }

    fn of_status(status: &Status, retry_after: Option<Duration>) -> Self {
        let message = plain(&status.message, MAX_MESSAGE_BYTES);
        let details = status.details.as_ref();
        let terminating =
            details.is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"));
        let of_namespace = details.is_some_and(|d| d.kind == "namespaces");
        match status.code {
            404 if of_namespace && status.reason == "NotFound" => {
                ClusterError::NamespaceGone(message)
            }
            404 => ClusterError::NotFound(message),
            409 if status.is_already_exists() => ClusterError::AlreadyExists(message),
            409 => ClusterError::Conflict(message),
            403 if terminating => ClusterError::Terminating(message),
            403 => ClusterError::Forbidden(message),
            401 => ClusterError::Unauthorized(message),
            422 if names_fields(status) => ClusterError::Invalid(message),
            code @ (400 | 413 | 422) => ClusterError::Denied { code, message },
            429 => {
                let seconds = details.map_or(0, |d| d.retry_after_seconds);
                let told = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)));
                ClusterError::Throttled {
                    retry_after: retry_after.or(told),
                    message,
                }
            }
            code => ClusterError::Failed { code, message },
        }
    }
}

/// Whether the API server's own validation names fields. An admission policy answers 422 as well, with causes that name no
/// field; an admission webhook can answer anything, and says so in the message.
fn names_fields(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    status.reason == "Invalid"
        && status.message.contains(" is invalid: ")
        && !status.message.contains("denied the request")
        && causes.into_iter().any(|cause| !cause.field.is_empty())
}

/// Awaits a call for at most `limit`: kube sets no read timeout, so a half-dead connection would hang for ever.
///
/// # Errors
/// What became of the call, or [`ClusterError::Deadline`].
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(ClusterError::from),
        Err(_) => Err(ClusterError::Deadline(limit)),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    fn of(status: Status, code: u16) -> ClusterError {
        ClusterError::from(kube::Error::Api(status.with_code(code).boxed()))
    }

    fn details(retry_after_seconds: u32, cause: &str) -> StatusDetails {
        let causes = vec![StatusCause {
            reason: cause.to_owned(),
            message: String::new(),
            field: String::new(),
        }];
        StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes,
            retry_after_seconds,
        }
    }

    #[test]
    fn a_429_says_how_long_or_leaves_it_to_us() {
        let told = Status::failure("busy", "TooManyRequests").with_details(details(7, ""));
        assert!(matches!(
            of(told, 429),
            ClusterError::Throttled { retry_after: Some(wait), .. } if wait == Duration::from_secs(7)
        ));
        // Priority and fairness refuses in plain text, of which kube makes a status without details.
        let plain = Status::failure(
            "Too many requests, please try again later.",
            "Failed to parse error data",
        );
        assert!(matches!(
            of(plain, 429),
            ClusterError::Throttled {
                retry_after: None,
                ..
            }
        ));
    }

    #[test]
    fn the_header_of_a_429_in_plain_text_is_read() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static("3"))]);
        let body = b"Too many requests, please try again later.\n";
        let error = ClusterError::of_answer(StatusCode::TOO_MANY_REQUESTS, &headers, body);
        assert!(matches!(
            error,
            ClusterError::Throttled { retry_after: Some(wait), .. } if wait == Duration::from_secs(3)
        ));
    }

    #[test]
    fn only_a_status_that_names_the_namespace_says_that_it_is_gone() {
        let answer = |body: serde_json::Value| {
            let body = body.to_string();
            ClusterError::of_answer(StatusCode::NOT_FOUND, &HeaderMap::new(), body.as_bytes())
        };
        let status = |reason: &str, kind: &str| {
            serde_json::json!({"kind": "Status", "status": "Failure", "reason": reason, "code": 404,
                "message": "not there", "details": {"kind": kind, "name": "security"}})
        };
        assert!(matches!(
            answer(status("NotFound", "namespaces")),
            ClusterError::NamespaceGone(_)
        ));
        for other in [
            status("NotFound", "events"),
            status("NotFound", ""),
            status("", "namespaces"),
            serde_json::json!({"error": "no such route"}),
            serde_json::json!("404 page not found"),
            serde_json::json!({}),
        ] {
            let error = answer(other.clone());
            assert!(
                matches!(error, ClusterError::NotFound(_)),
                "{other}: {error}"
            );
        }
        let page = ClusterError::of_answer(
            StatusCode::NOT_FOUND,
            &HeaderMap::new(),
            b"404 page not found\n",
        );
        assert_eq!(page.to_string(), "not found: 404 page not found");
    }

    #[test]
    fn two_conflicts_and_two_refusals_are_told_apart() {
        assert!(matches!(
            of(Status::failure("x", "AlreadyExists"), 409),
            ClusterError::AlreadyExists(_)
        ));
        assert!(matches!(
            of(Status::failure("x", "Conflict"), 409),
            ClusterError::Conflict(_)
        ));
        assert!(matches!(
            of(Status::failure("x", "Forbidden"), 403),
            ClusterError::Forbidden(_)
        ));
        let ending =
            Status::failure("x", "Forbidden").with_details(details(0, "NamespaceTerminating"));
        assert!(matches!(of(ending, 403), ClusterError::Terminating(_)));
        assert!(matches!(
            of(Status::failure("x", "Unauthorized"), 401),
            ClusterError::Unauthorized(_)
        ));
    }

    #[test]
    fn what_may_have_been_done_is_never_taken_for_a_refusal() {
        for code in [500, 502, 503, 504] {
            assert!(matches!(
                of(Status::failure("x", "InternalError"), code),
                ClusterError::Failed { .. }
            ));
        }
    }

    #[test]
    fn only_fields_that_the_api_server_itself_names_are_final() {
        let cause = |reason: &str, field: &str| serde_json::json!({"reason": reason, "field": field, "message": "x"});
        let status = |message: &str, reason: &str, causes: &[serde_json::Value]| {
            serde_json::json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message,
                "details": {"name": "x", "group": "events.k8s.io", "kind": "Event", "causes": causes}})
        };
        let field = [cause("FieldValueInvalid", "note")];
        let own = "Event.events.k8s.io \"x\" is invalid: note: Invalid value: \"\": can have at most 1024 bytes";
        let policy = "events.events.k8s.io \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no";
        let webhook =
            "admission webhook \"w.example.com\" denied the request: Event \"x\" is invalid: note";
        for (what, code, body, is_final) in [
            (
                "the API server's validation",
                422,
                status(own, "Invalid", &field),
                true,
            ),
            (
                "a policy without a reason",
                422,
                status(policy, "Invalid", &[cause("", "")]),
                false,
            ),
            (
                "a webhook that looks like it",
                422,
                status(webhook, "Invalid", &field),
                false,
            ),
            ("no causes", 422, status(own, "Invalid", &[]), false),
            ("a 400 of it", 400, status(own, "Invalid", &field), false),
            ("a proxy's 413", 413, serde_json::json!("too large"), false),
            ("a proxy's 422", 422, serde_json::json!({}), false),
        ] {
            let code = StatusCode::from_u16(code).unwrap();
            let error =
                ClusterError::of_answer(code, &HeaderMap::new(), body.to_string().as_bytes());
            let found = matches!(error, ClusterError::Invalid(_));
            assert_eq!(found, is_final, "{what}: {error:?}");
            assert!(
                found || matches!(error, ClusterError::Denied { .. }),
                "{what}: {error:?}"
            );
        }
    }
}
