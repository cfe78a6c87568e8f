//! The breaker: when an account that does not answer is left alone, and for how long.
//!
//! Two failed looks in a row, or failed requests of five webhooks without a success in between, and nobody asks any
//! more but one probe after a pause that grows. One webhook alone opens nothing, however often it fails: it may be the
//! only one that CHeKT cannot digest.
//!
//! A look that succeeds ends the pause. It proves nothing about writes, so where only those fail, the pauses go on
//! growing until one of them succeeds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How many looks in a row may fail.
const LOOKS: u32 = 2;
/// How many webhooks may fail in a row.
const WEBHOOKS: usize = 5;
/// The first pause before a probe; it doubles.
const FIRST: Duration = Duration::from_secs(2);

/// When an account is left alone.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    looks: u32,
    webhooks: BTreeSet<String>,
    /// Pauses since a look was last answered.
    pauses: u32,
    /// Pauses that webhooks began since a write was last answered.
    storms: u32,
    /// Until when the present pause lasts.
    open: Option<Instant>,
}

impl Breaker {
    /// Takes in that a look at the account got no answer. `longest`: how long a pause may be. Returns whether the account
    /// is left alone now.
    pub fn look_failed(&mut self, longest: Duration, now: Instant) -> bool {
        self.looks = self.looks.saturating_add(1);
        if self.open.is_some() || self.looks >= LOOKS {
            self.pause(longest, now);
        }
        self.is_open()
    }

    /// Takes in that a request of one webhook got no answer. Returns whether the account is left alone now.
    pub fn webhook_failed(&mut self, uid: &str, longest: Duration, now: Instant) -> bool {
        self.webhooks.insert(uid.to_owned());
        // A request that was on its way when the pause began does not make it longer.
        if self.open.is_none() && self.webhooks.len() >= WEBHOOKS {
            self.pause(longest, now);
            self.storms = self.storms.saturating_add(1);
        }
        self.is_open()
    }

    /// Takes in that a look got an answer.
    pub fn look_answered(&mut self) {
        *self = Breaker {
            storms: self.storms,
            ..Breaker::default()
        };
    }

    /// Takes in that a request of a webhook got an answer. Only a probe ends a pause.
    pub fn webhook_answered(&mut self) {
        self.webhooks.clear();
        self.storms = 0;
    }

    /// Whether the account is left alone.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// How long until the next look may be tried.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        self.open
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn pause(&mut self, longest: Duration, now: Instant) {
        let times = self.pauses.max(self.storms).min(16);
        let pause = FIRST.saturating_mul(1 << times).min(longest);
        self.pauses = self.pauses.saturating_add(1);
        self.open = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn two_failed_looks_open_it_and_each_probe_that_fails_doubles_the_pause() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        assert!(!breaker.look_failed(MINUTE, now));
        assert_eq!(breaker.wait(now), Duration::ZERO);
        let pauses: Vec<u64> = (0..7)
            .map(|_| {
                assert!(breaker.look_failed(MINUTE, now));
                breaker.wait(now).as_secs()
            })
            .collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        breaker.look_answered();
        assert!(!breaker.is_open());
        assert!(!breaker.look_failed(MINUTE, now), "it begins anew");
    }

    #[test]
    fn five_webhooks_in_a_row_open_it_and_one_alone_never_does() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            assert!(!breaker.webhook_failed("one", MINUTE, now));
        }
        for uid in ["two", "three", "four"] {
            assert!(!breaker.webhook_failed(uid, MINUTE, now));
        }
        breaker.webhook_answered();
        for uid in ["one", "two", "three", "four"] {
            assert!(!breaker.webhook_failed(uid, MINUTE, now));
        }
        assert!(breaker.webhook_failed("five", MINUTE, now));
        assert_eq!(breaker.wait(now), FIRST);
    }

    #[test]
    fn what_was_on_its_way_neither_ends_a_pause_nor_makes_it_longer() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for uid in ["1", "2", "3", "4", "5"] {
            breaker.webhook_failed(uid, MINUTE, now);
        }
        breaker.webhook_answered();
        let later = now + Duration::from_secs(1);
        assert!(breaker.webhook_failed("6", MINUTE, later));
        assert_eq!(breaker.wait(later), Duration::from_secs(1));
    }

    #[test]
    fn where_looks_succeed_and_writes_do_not_the_pauses_grow_all_the_same() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let storm = |breaker: &mut Breaker| {
            for uid in ["1", "2", "3", "4", "5"] {
                breaker.webhook_failed(uid, MINUTE, now);
            }
            let pause = breaker.wait(now).as_secs();
            breaker.look_answered();
            assert!(!breaker.is_open());
            pause
        };
        let pauses: Vec<u64> = (0..7).map(|_| storm(&mut breaker)).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        breaker.webhook_answered();
        assert_eq!(storm(&mut breaker), 2);
    }
}
