//! The token that the controller asks for on behalf of the receiver: when the next one is due.
//!
//! A token is replaced long before it ends: what is left then is the time in which the API server may be away, or this
//! controller, without the receiver's noticing. Life is counted from the moment at which the token was asked for, on a
//! clock that nobody sets, so that machines which disagree about the time of day renew as they should. The time and the
//! dice are handed in.

use std::time::Duration;

/// The life that is asked for. The API server may grant less.
pub const LIFE: Duration = Duration::from_secs(3600);

/// The earliest and the latest share of its life after which a token is replaced, in percent. They differ so that replicas
/// that were started together do not ask together for ever after.
const EARLIEST: u32 = 50;
const LATEST: u32 = 70;

/// How long a token is used at least: an absurdly short life must not make a flood of requests.
const SHORTEST_USE: Duration = Duration::from_secs(10);

/// The pause after the first failure in a row; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(60);

/// When the next token is to be asked for. Times are those since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    due: Duration,
    failures: u32,
}

impl Renewal {
    /// There is no token yet: the first is due at once.
    #[must_use]
    pub fn first() -> Self {
        Renewal {
            due: Duration::ZERO,
            failures: 0,
        }
    }

    /// How long to wait for the next request.
    #[must_use]
    pub fn wait(&self, now: Duration) -> Duration {
        self.due.saturating_sub(now)
    }

    /// A token was had that was asked for at `asked` and lives for `life`. Gives back how many failures that ends.
    pub fn succeeded(&mut self, asked: Duration, life: Duration, dice: u8) -> u32 {
        let share = EARLIEST + (LATEST - EARLIEST) * u32::from(dice) / u32::from(u8::MAX);
        // Divided first: a life from an answer may be any number.
        self.due = asked.saturating_add((life / 100 * share).max(SHORTEST_USE));
        std::mem::take(&mut self.failures)
    }

    /// None was had. Gives back how many failures in a row that makes.
    pub fn failed(&mut self, now: Duration, dice: u8) -> u32 {
        let pause = FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST);
        // Up to a quarter less.
        let parts = 4 * u32::from(u8::MAX);
        let pause = pause * (parts - u32::from(dice)) / parts;
        self.due = now.saturating_add(pause);
        self.failures = self.failures.saturating_add(1);
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_token_is_replaced_between_a_half_and_seven_tenths_of_its_life() {
        let asked = seconds(1000);
        for (life, dice, waits) in [
            (3600, 0, 1800),
            (3600, 255, 2520),
            (600, 0, 300),
            // What is left is longer than the minute after which the receiver reads its file again.
            (600, 255, 420),
            (86_400, 255, 60_480),
            // Absurd ones.
            (0, 255, 10),
            (1, 0, 10),
        ] {
            let mut renewal = Renewal::first();
            assert_eq!(renewal.wait(asked), Duration::ZERO);
            renewal.succeeded(asked, seconds(life), dice);
            let what = format!("{life} s, dice {dice}");
            assert_eq!(renewal.wait(asked), seconds(waits), "{what}");
            // The answer took its time, and that was time of the token.
            assert_eq!(
                renewal.wait(asked + seconds(7)),
                seconds(waits - 7),
                "{what}"
            );
        }
        let mut renewal = Renewal::first();
        renewal.succeeded(asked, Duration::MAX, 255);
        assert!(renewal.wait(asked) > seconds(1_000_000_000));
    }

    #[test]
    fn failures_are_spaced_ever_wider_up_to_a_minute_and_end_with_a_success() {
        let now = seconds(50);
        let mut renewal = Renewal::first();
        for (failures, waits) in [
            (1, 1),
            (2, 2),
            (3, 4),
            (4, 8),
            (5, 16),
            (6, 32),
            (7, 60),
            (8, 60),
        ] {
            assert_eq!(renewal.failed(now, 0), failures);
            assert_eq!(renewal.wait(now), seconds(waits));
        }
        assert_eq!(renewal.failed(now, 255), 9);
        assert_eq!(renewal.wait(now), seconds(45));
        assert_eq!(renewal.succeeded(now, LIFE, 0), 9);
        assert_eq!(renewal.wait(now), seconds(1800));
        assert_eq!(renewal.failed(now, 0), 1);
    }
}
