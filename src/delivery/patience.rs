//! What follows from an attempt that failed: a pause for all, or a hold on one namespace, each longer than the one
//! before and over at once when something succeeds.
//!
//! After a pause one attempt goes out alone; with each that succeeds twice as many may be under way. An API server that
//! comes back, or that asks for a pause, is not met by everything that has gathered.

use std::collections::HashMap;
use std::time::Duration;

use super::retry;

/// The longest that the API server can make us wait.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing can be published anywhere.
    Everywhere,
    /// A pause was asked for, perhaps with its length.
    Throttled(Option<Duration>),
    /// Nothing can be published in this namespace.
    Namespace,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything waits; see [`Patience::paused_until`].
    Pause {
        /// Whether it is the first in a row.
        first: bool,
    },
    /// The namespace waits until then.
    Hold {
        /// Whether it is the first in a row.
        first: bool,
        /// Until when.
        until: Duration,
    },
}

/// Whether something works again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Publishing as such.
    pub all: bool,
    /// Publishing in this namespace.
    pub namespace: bool,
}

/// What went wrong lately. Time is handed in, as the time since the process started.
#[derive(Debug)]
pub struct Patience {
    most: usize,
    width: usize,
    failures: u32,
    paused_until: Duration,
    held: HashMap<String, Held>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    failures: u32,
    until: Duration,
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
            held: HashMap::new(),
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

    /// An attempt in a namespace failed at `now`. Attempts that were under way together are one failure.
    pub fn failed(&mut self, trouble: Trouble, namespace: &str, now: Duration) -> Verdict {
        match trouble {
            Trouble::Namespace => {
                let held = self.held.entry(namespace.to_owned()).or_insert(Held {
                    failures: 0,
                    until: Duration::ZERO,
                });
                if held.until <= now {
                    let (first, longest) = (Duration::from_secs(1), Duration::from_secs(30));
                    held.until = now + retry::pause(held.failures, first, longest);
                    held.failures = held.failures.saturating_add(1);
                }
                Verdict::Hold {
                    first: held.failures == 1,
                    until: held.until,
                }
            }
            Trouble::Everywhere => {
                let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
                self.pause(None, first, longest, now)
            }
            Trouble::Throttled(asked) => {
                let (first, longest) = (Duration::from_secs(1), Duration::from_secs(30));
                // Asked for nothing is asked for a pause all the same.
                let asked = asked.filter(|asked| !asked.is_zero());
                self.pause(asked, first, longest, now)
            }
        }
    }

    fn pause(
        &mut self,
        asked: Option<Duration>,
        first: Duration,
        longest: Duration,
        now: Duration,
    ) -> Verdict {
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
        Verdict::Pause {
            first: self.failures == 1,
        }
    }

    /// A namespace is no longer of interest.
    pub fn forget(&mut self, namespace: &str) {
        self.held.remove(namespace);
    }

    /// An attempt in a namespace succeeded.
    pub fn succeeded(&mut self, namespace: &str) -> Recovered {
        self.width = self.width.saturating_mul(2).min(self.most);
        Recovered {
            all: std::mem::take(&mut self.failures) > 0,
            namespace: self.held.remove(namespace).is_some(),
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
    fn pauses_grow_and_a_success_ends_them() {
        let mut patience = Patience::new(8);
        let mut now = ms(1_000);
        let mut pauses = Vec::new();
        for round in 0..8 {
            let verdict = patience.failed(Trouble::Everywhere, "a", now);
            assert_eq!(verdict, Verdict::Pause { first: round == 0 });
            pauses.push(patience.paused_until().saturating_sub(now).as_millis());
            now = patience.paused_until();
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        let recovered = Recovered {
            all: true,
            namespace: false,
        };
        assert_eq!(patience.succeeded("a"), recovered);
        assert_eq!(patience.succeeded("a"), Recovered::default());
        patience.failed(Trouble::Everywhere, "a", now);
        assert_eq!(patience.paused_until(), now + ms(100));
    }

    #[test]
    fn eight_that_were_under_way_together_are_one_failure() {
        let mut patience = Patience::new(8);
        for millis in 0..8 {
            patience.failed(Trouble::Everywhere, "a", ms(1_000 + millis));
            let verdict = patience.failed(Trouble::Namespace, "b", ms(1_000 + millis));
            let first = Verdict::Hold {
                first: true,
                until: ms(2_000),
            };
            assert_eq!(verdict, first);
        }
        assert!(
            patience.paused_until() <= ms(1_107),
            "{:?}",
            patience.paused_until()
        );
        patience.failed(Trouble::Everywhere, "a", ms(1_200));
        assert_eq!(patience.paused_until(), ms(1_400));
    }

    #[test]
    fn what_the_api_server_asks_for_is_what_it_gets() {
        for (asked, expected) in [
            (Some(ms(7_000)), 7_000),
            (Some(ms(600_000)), 60_000),
            (Some(ms(0)), 1_000),
            (None, 1_000),
        ] {
            let mut patience = Patience::new(8);
            patience.failed(Trouble::Throttled(asked), "a", ms(5_000));
            let waits = patience
                .paused_until()
                .saturating_sub(ms(5_000))
                .as_millis();
            assert_eq!(waits, expected, "{asked:?}");
        }
        let mut patience = Patience::new(8);
        patience.failed(Trouble::Throttled(Some(ms(9_000))), "a", ms(0));
        patience.failed(Trouble::Throttled(Some(ms(1_000))), "a", ms(1));
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
        patience.failed(Trouble::Throttled(None), "a", ms(0));
        let mut widths = vec![patience.width()];
        for _ in 0..4 {
            patience.succeeded("a");
            widths.push(patience.width());
        }
        assert_eq!(widths, [1, 2, 4, 6, 6]);
        patience.failed(Trouble::Namespace, "a", ms(0));
        assert_eq!(patience.width(), 6, "one namespace is not all of them");
    }

    #[test]
    fn holds_grow_for_each_namespace_by_itself() {
        let mut patience = Patience::new(8);
        let mut now = ms(0);
        let mut holds = Vec::new();
        for _ in 0..7 {
            let Verdict::Hold { until, .. } = patience.failed(Trouble::Namespace, "a", now) else {
                panic!("a hold");
            };
            holds.push(until.saturating_sub(now).as_secs());
            now = until;
        }
        assert_eq!(holds, [1, 2, 4, 8, 16, 30, 30]);
        let other = patience.failed(Trouble::Namespace, "b", now);
        let first = Verdict::Hold {
            first: true,
            until: now + ms(1_000),
        };
        assert_eq!(other, first);
        assert!(patience.succeeded("a").namespace);
        assert!(!patience.succeeded("a").namespace);
    }
}
