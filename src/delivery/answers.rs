//! The words of a refusal, one text for each number: so that whoever looks from outside can tell our receiver from what
//! stands in its place, and learns nothing else.

use http::StatusCode;

/// What the receiver says with a number that is no success; `None`: it never answers with this number.
#[must_use]
pub fn refusal(status: StatusCode) -> Option<&'static str> {
    Some(match status {
        StatusCode::METHOD_NOT_ALLOWED => "only POST is answered here\n",
        StatusCode::PAYLOAD_TOO_LARGE => "the body is too large\n",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the headers are too large\n",
        StatusCode::REQUEST_TIMEOUT => "the body took too long\n",
        StatusCode::BAD_REQUEST => "the body ended early\n",
        StatusCode::UNAUTHORIZED => "not authorized\n",
        StatusCode::SERVICE_UNAVAILABLE => "try again later\n",
        _ => return None,
    })
}
