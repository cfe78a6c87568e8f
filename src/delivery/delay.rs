//! What `status.deliveries.delayed` is to say, when several receivers write it and each knows only its own journal.
//!
//! The one whose delivery has waited longest speaks, and goes on saying so while it lasts. The others leave its word
//! alone until it is too old to count: a receiver that is gone for good must not be believed for ever.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::resources::conditions::whole_seconds;
use crate::resources::webhook::Delay;

/// How often a receiver says that it lasts: three times before its word is too old.
pub const REPEAT: Duration = Duration::from_secs(60);

/// What is to be said. `mine`: when the oldest delayed delivery of this receiver, `me`, arrived; `live`: what is said
/// now.
#[must_use]
pub fn said(
    mine: Option<Timestamp>,
    me: &str,
    live: Option<&Delay>,
    now: Timestamp,
) -> Option<Delay> {
    let other = live.filter(|delay| delay.receiver != me && delay.counts_for(now).is_some());
    let mine = mine.map(|since| Delay {
        since: Time(whole_seconds(since)),
        receiver: me.to_owned(),
        seen_at: Time(whole_seconds(now)),
    });
    match (mine, other) {
        (Some(mine), Some(other)) if mine.since.0 < other.since.0 => Some(mine),
        (_, Some(other)) => Some(other.clone()),
        (mine, None) => mine,
    }
}

/// Whether what is to be said differs enough from what is said now: who says it, or that it was said long ago. When
/// the oldest arrived moves with every delivery that is published, and alone is worth nothing.
#[must_use]
pub fn is_worth_a_write(live: Option<&Delay>, wanted: Option<&Delay>) -> bool {
    match (live, wanted) {
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
        (Some(live), Some(wanted)) => {
            let apart = wanted.seen_at.0.duration_since(live.seen_at.0);
            live.receiver != wanted.receiver || apart.unsigned_abs() >= REPEAT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn delay(receiver: &str, since: i64, seen_at: i64) -> Delay {
        Delay {
            since: Time(at(since)),
            receiver: receiver.to_owned(),
            seen_at: Time(at(seen_at)),
        }
    }

    #[test]
    fn the_receiver_that_has_waited_longest_speaks_and_the_others_let_it() {
        let now = 1_000;
        let live = |receiver, since| Some(delay(receiver, since, now - 30));
        let gone = Some(delay("other", 100, now - 180));
        let fresh = |since| Some(delay("me", since, now));
        for (what, mine, live, expected, written) in [
            ("nothing anywhere", None, None, None, false),
            ("mine begins", Some(900), None, fresh(900), true),
            (
                "mine goes on",
                Some(900),
                live("me", 900),
                fresh(900),
                false,
            ),
            (
                "mine has a new oldest",
                Some(930),
                live("me", 900),
                fresh(930),
                false,
            ),
            ("mine is over", None, live("me", 900), None, true),
            (
                "the other's goes on",
                None,
                live("other", 900),
                live("other", 900),
                false,
            ),
            (
                "the other's is older",
                Some(900),
                live("other", 800),
                live("other", 800),
                false,
            ),
            (
                "both are as old",
                Some(900),
                live("other", 900),
                live("other", 900),
                false,
            ),
            (
                "mine is older",
                Some(900),
                live("other", 930),
                fresh(900),
                true,
            ),
            ("the other is gone for good", None, gone.clone(), None, true),
            ("gone, and mine is not", Some(900), gone, fresh(900), true),
            (
                "mine was said a minute ago",
                Some(900),
                Some(delay("me", 900, now - 60)),
                fresh(900),
                true,
            ),
        ] {
            let wanted = said(mine.map(at), "me", live.as_ref(), at(now));
            assert_eq!(wanted, expected, "{what}");
            let worth = is_worth_a_write(live.as_ref(), wanted.as_ref());
            assert_eq!(worth, written, "{what}");
        }
    }

    #[test]
    fn times_are_whole_seconds_so_that_what_is_read_back_is_what_was_written() {
        let mine = Timestamp::from_millisecond(900_700).unwrap();
        let now = Timestamp::from_millisecond(1_000_900).unwrap();
        assert_eq!(
            said(Some(mine), "me", None, now),
            Some(delay("me", 900, 1_000))
        );
    }
}
