//! The election: whose turn it is, judged by the record alone and by how long we have seen it unchanged.
//!
//! The record holds a time, and nobody reads it: it was written by another machine's clock. A holder that is alive
//! changes its record again and again, so one that has not changed for as long as it lasts, by our own clock, is the
//! record of a holder that is gone. Moments are durations since the machine was started.

use std::time::Duration;

/// What the record says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who leads; `None` when the last who did has resigned.
    pub holder: Option<String>,
    /// For how long without a change the others must leave it alone.
    pub lasts: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write our name into it: nobody leads.
    Acquire,
    /// It has our name: write it anew.
    Renew,
    /// Somebody else leads, for this much longer at least.
    Wait(Duration),
}

/// Decides by the record, which does not exist yet if it is `None`. `unchanged_for`: see [`Sighting`].
#[must_use]
pub fn decide(record: Option<&Record>, me: &str, unchanged_for: Duration) -> Decision {
    let Some(record) = record else {
        return Decision::Acquire;
    };
    match record.holder.as_deref() {
        None => Decision::Acquire,
        Some(holder) if holder == me => Decision::Renew,
        Some(_) => match record.lasts.checked_sub(unchanged_for) {
            None | Some(Duration::ZERO) => Decision::Acquire,
            Some(left) => Decision::Wait(left),
        },
    }
}

/// One version of the record, and since when it is known to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    version: String,
    since: Duration,
}

impl Sighting {
    /// Takes in a version that was read between `asked` and `answered`. Of the two moments each counts where it makes
    /// the time unchanged the shorter one.
    #[must_use]
    pub fn of(
        before: Option<Sighting>,
        version: &str,
        asked: Duration,
        answered: Duration,
    ) -> (Sighting, Duration) {
        match before {
            Some(same) if same.version == version => {
                let unchanged = asked.saturating_sub(same.since);
                (same, unchanged)
            }
            _ => {
                let new = Sighting {
                    version: version.to_owned(),
                    since: answered,
                };
                (new, Duration::ZERO)
            }
        }
    }
}

/// The three times of an election, in the proportion that Kubernetes' own components have: 15 s, 10 s, 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For how long the others must leave an unchanged record alone.
    pub lasts: Duration,
    /// For how long after a renewal its holder acts. What is left of `lasts` covers requests that are on their way and
    /// clocks that do not run alike.
    pub acts: Duration,
    /// The pause between two renewals, and between two looks.
    pub pause: Duration,
}

impl Timing {
    /// The times for a record that lasts this long.
    #[must_use]
    pub fn of(lasts: Duration) -> Timing {
        Timing {
            lasts,
            acts: lasts * 2 / 3,
            pause: lasts * 2 / 15,
        }
    }

    /// How long one call may take: two fit into the time in which a renewal must succeed.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.acts / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_table_of_decisions() {
        let held = |holder: &str| Record {
            holder: Some(holder.to_owned()),
            lasts: s(15),
        };
        let resigned = Record {
            holder: None,
            lasts: s(15),
        };
        let cases: [(&str, Option<Record>, Duration, Decision); 9] = [
            ("no record yet", None, s(0), Decision::Acquire),
            (
                "the last one has resigned",
                Some(resigned),
                s(0),
                Decision::Acquire,
            ),
            ("ours", Some(held("me")), s(0), Decision::Renew),
            (
                "ours, and long unchanged",
                Some(held("me")),
                s(60),
                Decision::Renew,
            ),
            (
                "another's, just seen",
                Some(held("other")),
                s(0),
                Decision::Wait(s(15)),
            ),
            (
                "another's, unchanged for a while",
                Some(held("other")),
                s(14),
                Decision::Wait(s(1)),
            ),
            (
                "another's, unchanged for as long as it lasts",
                Some(held("other")),
                s(15),
                Decision::Acquire,
            ),
            (
                "another's, and longer",
                Some(held("other")),
                s(3_600),
                Decision::Acquire,
            ),
            (
                "a name that only begins like ours",
                Some(held("me-too")),
                s(0),
                Decision::Wait(s(15)),
            ),
        ];
        for (what, record, unchanged_for, wanted) in cases {
            assert_eq!(
                decide(record.as_ref(), "me", unchanged_for),
                wanted,
                "{what}"
            );
        }
    }

    #[test]
    fn a_record_is_as_old_as_we_have_seen_it_and_no_older() {
        // First seen at 101: whatever time is written in it, it counts from then.
        let (seen, unchanged) = Sighting::of(None, "7", s(100), s(101));
        assert_eq!(unchanged, s(0));
        // Counted from the answer of the first look to the question of this one.
        let (seen, unchanged) = Sighting::of(Some(seen), "7", s(110), s(114));
        assert_eq!(unchanged, s(9));
        // It changed while the answer was on its way, or at any time before: all begins anew.
        let (seen, unchanged) = Sighting::of(Some(seen), "8", s(120), s(121));
        assert_eq!(unchanged, s(0));
        // Nobody looked for an hour, and it is the same: it was not renewed in all that time.
        let (_, unchanged) = Sighting::of(Some(seen), "8", s(3_721), s(3_722));
        assert_eq!(unchanged, s(3_600));
    }

    #[test]
    fn a_holder_stops_before_the_others_may_begin() {
        let usual = Timing::of(s(15));
        assert_eq!((usual.acts, usual.pause), (s(10), s(2)));
        for seconds in 3..=3_600 {
            let timing = Timing::of(s(seconds));
            // A renewal that counts from its sending, and one more pause until that is noticed.
            assert!(timing.acts + timing.pause < timing.lasts);
            assert!(timing.pause + 2 * timing.deadline() > timing.acts);
            assert!(timing.pause * 4 < timing.acts);
        }
    }
}
