//! What follows from an attempt at a single destination that failed: a pause, each longer than the one before and over at
//! once when something succeeds.
//!
//! After a pause one attempt goes out alone; with each that succeeds twice as many may be under way. A destination that
//! comes back, or that asks for a pause, is not met by everything that has gathered.

use std::time::Duration;

use super::retry;

/// The longest that the destination can make us wait.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It fails or cannot be reached.
    Everywhere,
    /// A pause was asked for, perhaps with its length.
    Throttled(Option<Duration>),
}

/// What went wrong lately. Time is handed in, as the time since the process started.
#[derive(Debug)]
pub struct Patience {
    most: usize,
    width: usize,
    failures: u32,
    paused_until: Duration,
}

impl Patience {
    /// Nothing went wrong yet, and `most` attempts may be under way.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Patience {
            most: most.max(1),
            width: most.max(1),
            failures: 0,
            paused_until: Duration::ZERO,
        }
    }

    /// How many attempts may be under way.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Nothing is to be attempted before this time.
    #[must_use]
    pub fn paused_until(&self) -> Duration {
        self.paused_until
    }

    /// An attempt failed at `now`. Attempts that were under way together are one failure. Returns whether it is the first
    /// in a row.
    pub fn failed(&mut self, trouble: Trouble, now: Duration) -> bool {
        let (asked, first, longest) = match trouble {
            Trouble::Everywhere => (None, Duration::from_millis(100), Duration::from_secs(5)),
            // Asked for nothing is asked for a pause all the same.
            Trouble::Throttled(asked) => (
                asked.filter(|asked| !asked.is_zero()),
                Duration::from_secs(1),
                Duration::from_secs(30),
            ),
        };
        self.width = 1;
        if self.paused_until <= now {
            self.paused_until = now + retry::pause(self.failures, first, longest);
            self.failures = self.failures.saturating_add(1);
            if let Some(asked) = asked {
                self.paused_until = now + asked.min(LONGEST_ASKED);
            }
        } else if let Some(asked) = asked {
            self.paused_until = self.paused_until.max(now + asked.min(LONGEST_ASKED));
        }
        self.failures == 1
    }

    /// An attempt succeeded. Returns whether those before it failed.
    pub fn succeeded(&mut self) -> bool {
        self.width = self.width.saturating_mul(2).min(self.most);
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn pauses_grow_and_a_success_ends_them() {
        let mut patience = Patience::new(8);
        let mut now = ms(1_000);
        let mut pauses = Vec::new();
        for round in 0..8 {
            assert_eq!(patience.failed(Trouble::Everywhere, now), round == 0);
            pauses.push(patience.paused_until().saturating_sub(now).as_millis());
            now = patience.paused_until();
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert!(patience.succeeded());
        assert!(!patience.succeeded());
        patience.failed(Trouble::Everywhere, now);
        assert_eq!(patience.paused_until(), now + ms(100));
    }

    #[test]
    fn eight_that_were_under_way_together_are_one_failure() {
        let mut patience = Patience::new(8);
        for millis in 0..8 {
            patience.failed(Trouble::Everywhere, ms(1_000 + millis));
        }
        assert!(
            patience.paused_until() <= ms(1_107),
            "{:?}",
            patience.paused_until()
        );
        patience.failed(Trouble::Everywhere, ms(1_200));
        assert_eq!(patience.paused_until(), ms(1_400));
    }

    #[test]
    fn what_the_destination_asks_for_is_what_it_gets() {
        for (asked, expected) in [
            (Some(ms(7_000)), 7_000),
            (Some(ms(600_000)), 60_000),
            (Some(ms(0)), 1_000),
            (None, 1_000),
        ] {
            let mut patience = Patience::new(8);
            patience.failed(Trouble::Throttled(asked), ms(5_000));
            let waits = patience
                .paused_until()
                .saturating_sub(ms(5_000))
                .as_millis();
            assert_eq!(waits, expected, "{asked:?}");
        }
        let mut patience = Patience::new(8);
        patience.failed(Trouble::Throttled(Some(ms(9_000))), ms(0));
        patience.failed(Trouble::Throttled(Some(ms(1_000))), ms(1));
        assert_eq!(
            patience.paused_until(),
            ms(9_000),
            "the longest of those under way"
        );
    }

    #[test]
    fn after_a_pause_one_goes_out_alone_and_then_ever_more() {
        let mut patience = Patience::new(6);
        assert_eq!(patience.width(), 6);
        patience.failed(Trouble::Throttled(None), ms(0));
        let mut widths = vec![patience.width()];
        for _ in 0..4 {
            patience.succeeded();
            widths.push(patience.width());
        }
        assert_eq!(widths, [1, 2, 4, 6, 6]);
    }
}
