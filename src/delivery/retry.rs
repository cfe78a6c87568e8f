//! How long to wait before the next try: ever longer by ourselves, and as long as the other side asks.

use std::time::Duration;

use http::HeaderMap;
use http::header::DATE;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822;

/// `first`, doubled with each failure before this one, up to `longest`.
#[must_use]
pub fn pause(failures: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(longest)
}

/// What a `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3). A date that has passed is no wait, and
/// what is neither says nothing. `answered`: when the server answered, by its own clock; without that a date says nothing
/// either, since only that clock gives it a meaning.
#[must_use]
pub fn asked(retry_after: &str, answered: Option<Timestamp>) -> Option<Duration> {
    let text = retry_after.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(answered?)).unwrap_or_default())
}

/// When a server answered, by its own clock (RFC 9110, 6.6.1).
#[must_use]
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    Some(rfc2822::parse(text.trim()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_longest() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
        let pauses = [0, 1, 2, 5, 6, 60, u32::MAX].map(|n| pause(n, first, longest).as_millis());
        assert_eq!(pauses, [100, 200, 400, 3_200, 5_000, 5_000, 5_000]);
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now = Timestamp::from_second(1_000).unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            ("7", Some(7)),
            (" 120 ", Some(120)),
            ("Thu, 01 Jan 1970 00:16:50 GMT", Some(10)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(asked(text, Some(now)), expected, "{text:?}");
            let of_seconds = expected.filter(|_| !text.contains("GMT"));
            assert_eq!(asked(text, None), of_seconds, "{text:?}, without a date");
        }
    }
}
