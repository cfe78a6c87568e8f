//! Which attempts are under way, and whether one more may begin.
//!
//! An attempt that takes long must not take a place away from those that do not. So the places of namespaces that are
//! well are counted apart from those of namespaces that are slow or failing, and an attempt that has lasted for much
//! longer than what is typical leaves its place: its namespace is slow from then on. Time is handed in, as the time since
//! the process started.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::pacing::Room;

/// An attempt that takes longer than so many typical ones makes its namespace a slow one.
const SLOW_TIMES: u32 = 4;
/// An attempt that takes no longer than this does not.
const MIN_SLOW: Duration = Duration::from_millis(100);
/// An attempt that takes longer than this does in any case.
const MAX_SLOW: Duration = Duration::from_secs(2);
/// The most attempts under way, however slow they are.
const MAX_IN_FLIGHT: usize = 256;

/// One attempt under way, until it is given to [`Slots::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// Attempts under way.
#[derive(Debug, Default)]
pub struct Slots {
    issued: u64,
    flights: HashMap<u64, (String, Duration)>,
    /// Those of namespaces that are well, by when they began, until they have lasted for [`Slots::slow`].
    young: BTreeSet<(Duration, u64)>,
    /// What a successful attempt takes, as a moving average.
    typical: Duration,
}

impl Slots {
    /// An attempt begins in a namespace that is sick or not.
    pub fn begin(&mut self, namespace: &str, is_sick: bool, now: Duration) -> Ticket {
        self.issued += 1;
        let ticket = self.issued;
        self.flights.insert(ticket, (namespace.to_owned(), now));
        if !is_sick {
            self.young.insert((now, ticket));
        }
        Ticket(ticket)
    }

    /// An attempt is over. Returns how long it took.
    pub fn end(&mut self, ticket: Ticket, now: Duration) -> Duration {
        let Some((_, since)) = self.flights.remove(&ticket.0) else {
            return Duration::ZERO;
        };
        self.young.remove(&(since, ticket.0));
        now.saturating_sub(since)
    }

    /// An attempt succeeded and took so long. Returns whether it was fast.
    pub fn succeeded(&mut self, took: Duration) -> bool {
        let is_fast = took <= self.slow();
        // A single slow one must not count for more than a few.
        let took = took.min(self.slow());
        self.typical = (self.typical * 7 + took) / 8;
        is_fast
    }

    /// An attempt that takes longer is a slow one.
    fn slow(&self) -> Duration {
        (self.typical * SLOW_TIMES).clamp(MIN_SLOW, MAX_SLOW)
    }

    /// The namespaces of attempts that have become slow since the last time this was asked.
    pub fn aged(&mut self, now: Duration) -> Vec<String> {
        let mut namespaces = Vec::new();
        let slow = self.slow();
        while let Some((since, ticket)) = self.young.first().copied() {
            if now.saturating_sub(since) <= slow {
                break;
            }
            self.young.pop_first();
            if let Some((namespace, _)) = self.flights.get(&ticket) {
                namespaces.push(namespace.clone());
            }
        }
        namespaces
    }

    /// When the next attempt becomes slow.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        // A hair later than that, so that it is slow by then.
        let (since, _) = self.young.first()?;
        Some(*since + self.slow() + Duration::from_millis(1))
    }

    /// What may begin, where `well` attempts may be under way in namespaces that are well, and `sick` in the others.
    #[must_use]
    pub fn room(&self, well: usize, sick: usize) -> Room {
        let all = self.flights.len();
        let some = all < MAX_IN_FLIGHT;
        Room {
            well: some && self.young.len() < well,
            sick: some && all - self.young.len() < sick,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn an_attempt_that_lasts_leaves_its_place_to_another() {
        let mut slots = Slots::default();
        let first = slots.begin("a", false, ms(0));
        let second = slots.begin("b", false, ms(50));
        let both = |slots: &Slots| slots.room(2, 2);
        assert_eq!(
            both(&slots),
            Room {
                well: false,
                sick: true
            }
        );
        assert_eq!(slots.aged(ms(100)), [] as [&str; 0]);
        assert_eq!(slots.next_at(), Some(ms(101)));
        assert_eq!(slots.aged(ms(101)), ["a"]);
        assert_eq!(
            both(&slots),
            Room {
                well: true,
                sick: true
            }
        );
        assert_eq!(slots.aged(ms(999)), ["b"]);
        assert_eq!(
            both(&slots),
            Room {
                well: true,
                sick: false
            }
        );
        assert_eq!(slots.end(first, ms(1_000)), ms(1_000));
        assert_eq!(slots.end(first, ms(1_000)), ms(0), "it is over already");
        assert_eq!(slots.end(second, ms(1_000)), ms(950));
        assert_eq!(
            both(&slots),
            Room {
                well: true,
                sick: true
            }
        );
        assert_eq!(slots.next_at(), None);
    }

    #[test]
    fn what_is_slow_follows_what_is_typical_and_not_a_single_one() {
        let mut slots = Slots::default();
        assert!(slots.succeeded(ms(100)) && !slots.succeeded(ms(9_000)));
        for _ in 0..50 {
            assert!(
                slots.succeeded(ms(5)),
                "one of 9 s does not change what is typical"
            );
        }
        assert!(!slots.succeeded(ms(101)));
        // The whole API server becomes slow.
        for _ in 0..50 {
            slots.succeeded(ms(400));
        }
        assert!(slots.succeeded(ms(1_500)) && !slots.succeeded(ms(2_001)));
    }

    #[test]
    fn attempts_of_the_sick_take_no_place_of_the_well_and_all_together_are_bounded() {
        let mut slots = Slots::default();
        for _ in 0..5 {
            slots.begin("sick", true, ms(0));
        }
        assert_eq!(
            slots.room(1, 5),
            Room {
                well: true,
                sick: false
            }
        );
        assert_eq!(slots.next_at(), None);
        for _ in 0..MAX_IN_FLIGHT {
            slots.begin("sick", true, ms(0));
        }
        assert_eq!(
            slots.room(1, 999),
            Room {
                well: false,
                sick: false
            }
        );
    }
}
