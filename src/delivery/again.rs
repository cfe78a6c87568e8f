//! When a delivery that the API server refused is tried again by itself: each with growing intervals, and those of one
//! webhook a few at a time, so that they neither hammer the API server nor stand before what has just arrived.
//!
//! ```text
//! dead --its time--> one of its webhook is tried --published--> 2, 4, 8 of them, whether their time has come or not
//!  ^                          |
//!  +------- refused ----------+  its next time is twice as far away, and its webhook pauses
//! ```
//!
//! Plain data with the time handed in. It is the time of the clock, for it outlives the process, and a clock may be set:
//! nothing waits longer than the longest interval.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::retry;

/// How long a delivery waits after its first refusal; it doubles.
const FIRST_INTERVAL: Duration = Duration::from_secs(60);
/// The longest interval.
pub const MAX_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The pause of a webhook after none of those that were tried was published.
const WEBHOOK_PAUSE: Duration = Duration::from_secs(10);
/// How many deliveries of a webhook are tried together.
const MAX_TOGETHER: usize = 8;

/// When a delivery is tried again that was refused so often, the last time at `now`.
#[must_use]
pub fn next_try(refusals: u32, now: Timestamp) -> Timestamp {
    let interval = retry::pause(refusals.saturating_sub(1), FIRST_INTERVAL, MAX_INTERVAL);
    later(now, interval)
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    now.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// Whether a time has come. One that is further away than any interval was set by another clock.
#[must_use]
pub fn is_due(at: Timestamp, now: Timestamp) -> bool {
    at <= now || at > later(now, MAX_INTERVAL)
}

/// What is being tried of each webhook, by uid.
#[derive(Debug, Default)]
pub struct Retries {
    webhooks: HashMap<String, Progress>,
    under_way: HashMap<i64, String>,
}

#[derive(Debug, Default)]
struct Progress {
    /// How many of those that were tried were published, of the last that were tried together.
    published: usize,
    under_way: usize,
    /// Nothing is tried before this time.
    not_before: Option<Timestamp>,
    /// How many to try next, whether their time has come or not, after some were published.
    more: usize,
}

/// What to try of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How many at most.
    pub most: usize,
    /// Also those whose time has not come.
    pub early: bool,
}

impl Retries {
    /// What to try now of a webhook that has refused deliveries, if anything.
    #[must_use]
    pub fn wanted(&self, uid: &str, now: Timestamp) -> Option<Wanted> {
        let Some(progress) = self.webhooks.get(uid) else {
            return Some(Wanted {
                most: 1,
                early: false,
            });
        };
        if progress.under_way > 0 || progress.not_before.is_some_and(|at| !is_due(at, now)) {
            return None;
        }
        Some(Wanted {
            most: progress.more.max(1),
            early: progress.more > 0,
        })
    }

    /// None of a webhook's is due before this time.
    pub fn wait(&mut self, uid: &str, until: Timestamp) {
        let progress = self.progress(uid);
        progress.more = 0;
        progress.not_before = Some(until);
    }

    /// One of a webhook's was refused and is to be tried at this time.
    pub fn refused(&mut self, uid: &str, at: Timestamp) {
        if let Some(progress) = self.webhooks.get_mut(uid) {
            progress.not_before = progress.not_before.map(|known| known.min(at));
        }
    }

    /// One is tried.
    pub fn begin(&mut self, uid: &str, seq: i64) {
        if self.under_way.insert(seq, uid.to_owned()).is_none() {
            self.progress(uid).under_way += 1;
        }
    }

    /// What became of one, if it was tried from here.
    pub fn end(&mut self, seq: i64, published: bool, now: Timestamp) {
        let Some(uid) = self.under_way.remove(&seq) else {
            return;
        };
        let progress = self.progress(&uid);
        progress.under_way = progress.under_way.saturating_sub(1);
        progress.published += usize::from(published);
        if progress.under_way == 0 {
            let published = std::mem::take(&mut progress.published);
            progress.more = (published * 2).min(MAX_TOGETHER);
            progress.not_before = (published == 0).then(|| later(now, WEBHOOK_PAUSE));
        }
    }

    /// How many are being tried.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn progress(&mut self, uid: &str) -> &mut Progress {
        self.webhooks.entry(uid.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_intervals_grow_from_a_minute_to_an_hour() {
        let intervals =
            [1, 2, 3, 6, 7, 8, u32::MAX].map(|n| next_try(n, at(1_000)).as_second() - 1_000);
        assert_eq!(intervals, [60, 120, 240, 1_920, 3_600, 3_600, 3_600]);
        assert_eq!(next_try(1, Timestamp::MAX), Timestamp::MAX);
    }

    #[test]
    fn a_clock_that_is_set_makes_nothing_wait_longer_than_the_longest_interval() {
        for (at_second, now, due) in [
            (100, 99, false),
            (100, 100, true),
            (100, 5_000, true),
            (3_700, 100, false),
            (3_701, 100, true),
            (1_000_000, 100, true),
        ] {
            assert_eq!(is_due(at(at_second), at(now)), due, "{at_second} at {now}");
        }
    }

    #[test]
    fn one_is_tried_and_more_of_them_as_long_as_they_are_published() {
        let mut retries = Retries::default();
        let wanted = |most, early| Some(Wanted { most, early });
        assert_eq!(retries.wanted("u", at(1)), wanted(1, false));
        retries.begin("u", 1);
        assert_eq!(retries.wanted("u", at(1)), None, "one is under way");
        assert_eq!(retries.wanted("v", at(1)), wanted(1, false));
        retries.end(1, false, at(2));
        assert_eq!(retries.wanted("u", at(11)), None, "it pauses");
        assert_eq!(retries.wanted("u", at(12)), wanted(1, false));
        let mut seq = 10;
        for (tried, published, next) in [(1, 1, 2), (2, 2, 4), (4, 4, 8), (8, 8, 8), (8, 3, 6)] {
            let all: Vec<i64> = (seq..seq + tried).collect();
            seq += tried;
            for seq in &all {
                retries.begin("u", *seq);
            }
            for (i, one) in all.iter().enumerate() {
                assert_eq!(retries.wanted("u", at(20)), None);
                retries.end(*one, i < published, at(20));
            }
            assert_eq!(retries.wanted("u", at(20)), wanted(next, true));
        }
        retries.begin("u", 99);
        retries.end(99, false, at(20));
        assert_eq!(retries.wanted("u", at(29)), None);
        assert_eq!(retries.wanted("u", at(30)), wanted(1, false));
        retries.end(77, true, at(30));
        assert_eq!(
            retries.wanted("u", at(30)),
            wanted(1, false),
            "not tried from here"
        );
    }

    #[test]
    fn a_webhook_is_looked_at_again_when_its_next_is_due_or_another_is_refused() {
        let mut retries = Retries::default();
        retries.wait("u", at(500));
        assert_eq!(retries.wanted("u", at(499)), None);
        retries.refused("u", at(300));
        assert_eq!(retries.wanted("u", at(299)), None);
        assert!(retries.wanted("u", at(300)).is_some());
    }
}
