//! When a webhook's dead letters are told of: the first at once, and then at most one Event a minute with the number
//! of those that came since.
//!
//! A minute is that of the clock, and the name of the Event is made of it: a second receiver, or this one after a
//! crash, finds that the minute is taken. It then has told nothing, and the next minute is tried.

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;

/// Seconds of a minute.
const MINUTE: i64 = 60;

/// Minutes in which somebody else has told.
#[derive(Debug, Default)]
pub struct Notices {
    taken: HashMap<String, i64>,
}

/// The number of the minute that a time is in.
#[must_use]
pub fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(MINUTE)
}

impl Notices {
    /// From when on a webhook may be told of, if it was last at `told_at`; not after `now` if it may be now.
    #[must_use]
    pub fn due_at(&self, uid: &str, told_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
        let this = minute(now);
        let last = told_at.map(minute).max(self.taken.get(uid).copied());
        if last.is_none_or(|last| last < this) {
            return now;
        }
        // Not before the next minute of our own clock, also where the other's is ahead.
        Timestamp::from_second((this + 1) * MINUTE).unwrap_or(now)
    }

    /// This minute is taken.
    pub fn taken(&mut self, uid: &str, now: Timestamp) {
        let this = minute(now);
        self.taken.retain(|_, minute| *minute >= this);
        self.taken.insert(uid.to_owned(), this);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_next_in_the_next_minute() {
        let notices = Notices::default();
        for (told_at, now, due_at) in [
            (None, 65, 65),
            (Some(59), 60, 60),
            (Some(60), 60, 120),
            (Some(60), 119, 120),
            (Some(60), 120, 120),
            (Some(60), 5_000, 5_000),
            // A clock that was set back waits a minute, and not for the time that was to come.
            (Some(5_000), 65, 120),
        ] {
            let due = notices.due_at("u", told_at.map(at), at(now));
            assert_eq!(due, at(due_at), "told at {told_at:?}, asked at {now}");
        }
    }

    #[test]
    fn a_minute_that_is_taken_is_waited_out_by_that_webhook_alone() {
        let mut notices = Notices::default();
        notices.taken("u", at(65));
        assert_eq!(notices.due_at("u", None, at(66)), at(120));
        assert_eq!(notices.due_at("v", None, at(66)), at(66));
        assert_eq!(notices.due_at("u", None, at(120)), at(120));
        notices.taken("v", at(130));
        assert_eq!(
            notices.taken.len(),
            1,
            "minutes that have passed are forgotten"
        );
    }
}
