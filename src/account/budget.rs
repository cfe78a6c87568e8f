//! The budget: how many requests an account may still make, and since when it must be silent.
//!
//! A token bucket and a pause in one value. CHeKT's limit is per account and not per webhook, so a pause that
//! one answer asks for holds for every caller of the account.

use std::time::{Duration, Instant};

/// The longest pause that a single answer can ask for: a header with an absurd time must not silence an
/// account for a day.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What an account may still spend.
#[derive(Clone, Debug)]
pub struct Budget {
    per_second: f64,
    burst: f64,
    tokens: f64,
    counted_at: Instant,
    silent_until: Option<Instant>,
}

impl Budget {
    /// A full bucket of `burst` requests that fills up by `per_minute` requests a minute.
    #[must_use]
    pub fn new(per_minute: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        let per_second = f64::from(per_minute.max(1)) / 60.0;
        Budget {
            per_second,
            burst,
            tokens: burst,
            counted_at: now,
            silent_until: None,
        }
    }

    /// Takes one request.
    ///
    /// # Errors
    /// The moment at which to ask again; nothing was taken.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(until) = self.silent_until {
            if now < until {
                return Err(until);
            }
            self.silent_until = None;
        }
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.counted_at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((1.0 - self.tokens) / self.per_second))
    }

    /// Takes one request that is made in any case; the next one waits the longer.
    pub fn spend(&mut self, now: Instant) {
        if self.take(now).is_err() {
            self.tokens -= 1.0;
        }
    }

    /// Takes nothing for `pause` from now on, at most five minutes. A shorter pause never ends a longer one.
    pub fn pause(&mut self, pause: Duration, now: Instant) {
        let until = now + pause.min(LONGEST_PAUSE);
        self.silent_until = Some(self.silent_until.map_or(until, |u| u.max(until)));
    }

    /// How many requests could be made at once now, if no pause was asked for; below nothing, some are owed.
    #[must_use]
    pub fn left(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        (self.tokens + passed * self.per_second).min(self.burst)
    }

    /// How much longer the account must be silent because CHeKT asked for it.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.silent_until
            .filter(|until| now < *until)
            .map(|until| until - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_next_request_waits_for_its_share_of_a_minute() {
        let start = Instant::now();
        let mut budget = Budget::new(60, 3, start);
        for _ in 0..3 {
            assert!(budget.take(start).is_ok());
        }
        let until = budget.take(start).unwrap_err();
        assert_eq!(until - start, Duration::from_secs(1));
        assert!(budget.take(until).is_ok());
    }

    #[test]
    fn what_is_left_fills_up_with_time_and_is_below_nothing_while_it_is_owed() {
        let start = Instant::now();
        let mut budget = Budget::new(60, 2, start);
        budget.spend(start);
        assert!((budget.left(start) - 1.0).abs() < 1e-9);
        budget.spend(start);
        budget.spend(start);
        assert!((budget.left(start) + 1.0).abs() < 1e-9);
        let later = start + Duration::from_secs(2);
        assert!((budget.left(later) - 1.0).abs() < 1e-9);
        let much_later = start + Duration::from_secs(600);
        assert!((budget.left(much_later) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_made_in_any_case_is_paid_for_later() {
        let start = Instant::now();
        let mut budget = Budget::new(60, 1, start);
        budget.spend(start);
        budget.spend(start);
        assert_eq!(budget.take(start), Err(start + Duration::from_secs(2)));
    }

    #[test]
    fn an_idle_hour_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let mut budget = Budget::new(60, 2, start);
        let later = start + Duration::from_secs(3600);
        assert!(budget.take(later).is_ok());
        assert!(budget.take(later).is_ok());
        assert!(budget.take(later).is_err());
    }

    #[test]
    fn a_pause_holds_and_a_shorter_one_does_not_end_it() {
        let start = Instant::now();
        let mut budget = Budget::new(600, 10, start);
        budget.pause(Duration::from_secs(30), start);
        budget.pause(Duration::from_secs(1), start);
        assert_eq!(
            budget.take(start + Duration::from_secs(29)),
            Err(start + Duration::from_secs(30))
        );
        assert!(budget.take(start + Duration::from_secs(30)).is_ok());
    }

    #[test]
    fn an_absurd_pause_is_cut_to_five_minutes() {
        let start = Instant::now();
        let mut budget = Budget::new(600, 10, start);
        budget.pause(Duration::from_secs(86_400), start);
        assert_eq!(budget.silent_for(start), Some(LONGEST_PAUSE));
    }
}
