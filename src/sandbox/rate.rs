//! The rate limit: a token bucket for the account, and the headers that tell of it on every partner answer.
//!
//! `X-RateLimit-Reset` is the time at which the bucket is full again.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// How much is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Calls a minute in the long run; 0: no limit.
    pub per_minute: u32,
    /// Calls at once after a quiet time.
    pub burst: u32,
}

/// What the headers say where there is no limit: a client that counts on them must not come to a stop.
const UNLIMITED: u32 = 1_000_000;

/// What is left of the limit. It starts full.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    // How many calls are missing from a full bucket, and when that was so.
    missing: f64,
    at: Option<Timestamp>,
}

impl Bucket {
    /// Takes one call out of the bucket.
    ///
    /// # Errors
    /// How long to wait when there is none.
    pub fn take(&mut self, limit: Limit, now: Timestamp) -> Result<(), Duration> {
        if limit.per_minute == 0 {
            return Ok(());
        }
        let missing = self.missing(limit, now);
        self.at = Some(now);
        let room = f64::from(limit.burst.max(1)) - missing;
        if room >= 1.0 {
            self.missing = missing + 1.0;
            return Ok(());
        }
        self.missing = missing;
        Err(Duration::from_secs_f64((1.0 - room) / per_second(limit)))
    }

    /// The three headers as they are now.
    pub fn headers(&self, limit: Limit, now: Timestamp) -> [(&'static str, String); 3] {
        let (most, left, reset) = if limit.per_minute == 0 {
            (UNLIMITED, f64::from(UNLIMITED), now.as_second())
        } else {
            let missing = self.missing(limit, now);
            let full = Duration::from_secs_f64(missing / per_second(limit));
            let left = (f64::from(limit.burst.max(1)) - missing).max(0.0).floor();
            (limit.per_minute, left, rounded_up(now, full))
        };
        [
            ("x-ratelimit-limit", most.to_string()),
            ("x-ratelimit-remaining", format!("{left:.0}")),
            ("x-ratelimit-reset", reset.to_string()),
        ]
    }

    fn missing(&self, limit: Limit, now: Timestamp) -> f64 {
        let since = self.at.map_or(0.0, |at| {
            Duration::try_from(now.duration_since(at))
                .unwrap_or_default()
                .as_secs_f64()
        });
        (self.missing - since * per_second(limit)).clamp(0.0, f64::from(limit.burst.max(1)))
    }
}

fn per_second(limit: Limit) -> f64 {
    f64::from(limit.per_minute) / 60.0
}

/// The first whole Unix second at or after `now + wait`.
pub fn rounded_up(now: Timestamp, wait: Duration) -> i64 {
    let end = now.checked_add(wait).unwrap_or(now);
    end.as_second() + i64::from(end.subsec_nanosecond() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Limit = Limit {
        per_minute: 60,
        burst: 5,
    };

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + milliseconds).unwrap()
    }

    #[test]
    fn a_burst_is_let_through_and_then_one_a_second() {
        let mut bucket = Bucket::default();
        for _ in 0..5 {
            assert_eq!(bucket.take(FREE, at(0)), Ok(()));
        }
        assert_eq!(bucket.take(FREE, at(0)), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(FREE, at(1000)), Ok(()));
        assert!(bucket.take(FREE, at(1500)).is_err());
        assert_eq!(bucket.take(FREE, at(2000)), Ok(()));
    }

    #[test]
    fn the_headers_tell_limit_rest_and_the_time_of_a_full_bucket() {
        let mut bucket = Bucket::default();
        bucket.take(FREE, at(0)).unwrap();
        bucket.take(FREE, at(0)).unwrap();
        let headers = bucket.headers(FREE, at(0)).map(|(_, value)| value);
        assert_eq!(headers, ["60", "3", "1700000002"]);
    }

    #[test]
    fn no_limit_refuses_nothing() {
        let none = Limit {
            per_minute: 0,
            burst: 1,
        };
        let mut bucket = Bucket::default();
        for _ in 0..1000 {
            assert_eq!(bucket.take(none, at(0)), Ok(()));
        }
        assert_eq!(bucket.headers(none, at(0))[1].1, "1000000");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let mut bucket = Bucket::default();
        for _ in 0..5 {
            bucket.take(FREE, at(0)).unwrap();
        }
        assert!(bucket.take(FREE, at(-60_000)).is_err());
    }
}
