//! What `status.deliveries.delayed` is to say, when several receivers write it and each knows only its own journal.
//!
//! The first receiver that is delayed speaks, and repeats it while the delay lasts. The others leave its report alone
//! until it has not changed for too long, by their own clocks: the times in it are of another machine and only shown.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::resources::conditions::whole_seconds;
use crate::resources::webhook::Delay;

/// How often a receiver says that it lasts: three times before its word is too old.
pub const REPEAT: Duration = Duration::from_secs(60);

/// What a receiver knows of the delayed deliveries of one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// When the oldest arrived.
    pub since: Timestamp,
    /// Why it waits, where it is not the pace alone.
    pub cause: Option<Arc<str>>,
}

/// What is to be said. `mine`: what this receiver, `me`, knows; `live`: what is said now, and has not changed for
/// `unchanged`.
#[must_use]
pub fn said(
    mine: Option<&Delayed>,
    me: &str,
    live: Option<&Delay>,
    unchanged: Duration,
    now: Timestamp,
) -> Option<Delay> {
    let counts = Delay::counts_for(unchanged).is_some();
    let other = live.filter(|delay| delay.receiver != me && counts);
    let mine = mine.map(|delayed| Delay {
        since: Time(whole_seconds(delayed.since)),
        receiver: me.to_owned(),
        seen_at: Time(whole_seconds(now)),
        cause: delayed.cause.as_deref().map(str::to_owned),
    });
    other.cloned().or(mine)
}

/// Whether what is to be said differs enough from what is said now: who says it, whether there is a cause, or that it has
/// not changed for long. When the oldest arrived moves with every delivery that is published, and the words of a cause may
/// name another Event each time: alone they are worth nothing.
#[must_use]
pub fn is_worth_a_write(live: Option<&Delay>, wanted: Option<&Delay>, unchanged: Duration) -> bool {
    match (live, wanted) {
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
        (Some(live), Some(wanted)) => {
            live.receiver != wanted.receiver
                || live.cause.is_some() != wanted.cause.is_some()
                || (live != wanted && unchanged >= REPEAT)
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
            cause: None,
        }
    }

    fn delayed(since: Timestamp) -> Delayed {
        Delayed { since, cause: None }
    }

    #[test]
    fn the_receiver_that_spoke_first_goes_on_and_the_others_let_it_whatever_their_clocks_say() {
        let now = 1_000;
        let fresh = |since| Some(delay("me", since, now));
        // What the other's clock said when it spoke: an hour behind this one, with it, an hour ahead.
        for seen_at in [now - 3_600, now - 30, now + 3_600] {
            let other = |since: i64| Some(delay("other", since, seen_at));
            let me = || Some(delay("me", 900, seen_at));
            for (what, mine, live, unchanged, expected, written) in [
                ("nothing anywhere", None, None, 0, None, false),
                ("mine begins", Some(900), None, 0, fresh(900), true),
                ("mine goes on", Some(900), me(), 30, fresh(900), false),
                ("a new oldest", Some(930), me(), 30, fresh(930), false),
                ("said a minute ago", Some(900), me(), 60, fresh(900), true),
                ("mine is over", None, me(), 30, None, true),
                ("other's goes on", None, other(9), 179, other(9), false),
                (
                    "both, other first",
                    Some(900),
                    other(9),
                    30,
                    other(9),
                    false,
                ),
                ("mine is older", Some(1), other(900), 30, other(900), false),
                ("other is gone", None, other(9), 180, None, true),
                (
                    "gone, mine is not",
                    Some(900),
                    other(9),
                    180,
                    fresh(900),
                    true,
                ),
            ] {
                let unchanged = Duration::from_secs(unchanged);
                let wanted = said(
                    mine.map(at).map(delayed).as_ref(),
                    "me",
                    live.as_ref(),
                    unchanged,
                    at(now),
                );
                assert_eq!(wanted, expected, "{what}, {seen_at}");
                let worth = is_worth_a_write(live.as_ref(), wanted.as_ref(), unchanged);
                assert_eq!(worth, written, "{what}, {seen_at}");
            }
        }
    }

    #[test]
    fn times_are_whole_seconds_so_that_what_is_read_back_is_what_was_written() {
        let mine = Timestamp::from_millisecond(900_700).unwrap();
        let now = Timestamp::from_millisecond(1_000_900).unwrap();
        assert_eq!(
            said(Some(&delayed(mine)), "me", None, Duration::ZERO, now),
            Some(delay("me", 900, 1_000))
        );
    }

    #[test]
    fn a_cause_is_said_when_it_begins_and_other_words_of_it_with_the_next_repeat() {
        let knows = |cause: Option<&str>| Delayed {
            since: at(900),
            cause: cause.map(Into::into),
        };
        let live = |cause: Option<&str>| Delay {
            cause: cause.map(str::to_owned),
            ..delay("me", 900, 1_000)
        };
        for (mine, said_now, unchanged, written) in [
            (Some("500 x"), None, 1, true),
            (None, Some("500 x"), 1, true),
            (Some("500 y"), Some("500 x"), 1, false),
            (Some("500 y"), Some("500 x"), 60, true),
            (Some("500 x"), Some("500 x"), 1, false),
        ] {
            let live = live(said_now);
            let unchanged = Duration::from_secs(unchanged);
            let wanted = said(Some(&knows(mine)), "me", Some(&live), unchanged, at(1_001));
            assert_eq!(wanted.as_ref().and_then(|d| d.cause.as_deref()), mine);
            let worth = is_worth_a_write(Some(&live), wanted.as_ref(), unchanged);
            assert_eq!(worth, written, "{mine:?} {said_now:?} {unchanged:?}");
        }
    }
}
