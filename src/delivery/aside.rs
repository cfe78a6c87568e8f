//! A delivery that was refused again and again steps aside, so that one that nobody takes does not stand before all
//! others.
//!
//! Most refusals are about the API server or the namespace and hit whichever delivery is tried. But an admission policy
//! may dislike a single Event, and a server may fail over a single object; tried first each time, it would hold up
//! everything behind it for ever. Plain data with the time handed in, as the time since the process started.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::pacing::Waiting;
use super::retry;

/// Refusals after which a delivery steps aside: the first ones hit it because it happened to be the one that was tried.
const PATIENT: u32 = 3;
/// Refusals after which it is not called back early when others succeed: it has been tried among them.
const CHRONIC: u32 = 8;
/// How long it stays aside for the first time; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);

/// Who was refused how often, and who stands aside until when.
#[derive(Debug, Default)]
pub struct Aside {
    refusals: HashMap<i64, u32>,
    waiting: BTreeMap<(Duration, i64), Waiting>,
}

impl Aside {
    /// A delivery was refused, and the next is tried at `next`. It is given back if it goes back to its place in the queue;
    /// otherwise it comes so much later than `next` that another one is tried before it.
    pub fn refused(&mut self, waiting: Waiting, next: Duration) -> Option<Waiting> {
        let count = self.refusals.entry(waiting.seq).or_default();
        *count = count.saturating_add(1);
        if *count < PATIENT {
            return Some(waiting);
        }
        let until = next + retry::pause(*count - PATIENT, FIRST, LONGEST);
        self.waiting.insert((until, waiting.seq), waiting);
        None
    }

    /// Something was published: the cause may be gone, so those that were not refused too often are called back.
    pub fn call_back(&mut self) -> Vec<Waiting> {
        let refusals = &self.refusals;
        let is_chronic = |seq: i64| refusals.get(&seq).is_some_and(|count| *count >= CHRONIC);
        let (stay, back) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|((_, seq), _)| is_chronic(*seq));
        self.waiting = stay;
        let back: BTreeMap<_, _> = back;
        back.into_values().collect()
    }

    /// Those whose time has come.
    pub fn due(&mut self, now: Duration) -> Vec<Waiting> {
        let later = self.waiting.split_off(&(now, i64::MAX));
        let due = std::mem::replace(&mut self.waiting, later);
        due.into_values().collect()
    }

    /// When the next one's time comes.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.waiting.keys().next().map(|(at, _)| *at)
    }

    /// This delivery will not be tried again.
    pub fn done(&mut self, seq: i64) {
        self.refusals.remove(&seq);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Class;
    use super::*;

    fn waiting(seq: i64) -> Waiting {
        Waiting {
            seq,
            class: Class::Alarm,
            namespace: "a".into(),
            uid: "u".into(),
        }
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Refuses one so often that it steps aside or not, and returns where it is.
    fn refuse(aside: &mut Aside, seq: i64, times: u32, now: Duration) -> Option<Waiting> {
        (0..times).fold(None, |_, _| {
            aside.waiting.retain(|(_, other), _| *other != seq);
            aside.refused(waiting(seq), now)
        })
    }

    #[test]
    fn the_third_refusal_puts_it_aside_for_a_second_and_each_later_one_for_twice_as_long() {
        let mut aside = Aside::default();
        assert_eq!(aside.refused(waiting(1), secs(5)), Some(waiting(1)));
        assert_eq!(aside.refused(waiting(1), secs(5)), Some(waiting(1)));
        let mut now = secs(5);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(aside.refused(waiting(1), now), None);
            assert_eq!(aside.next_at(), Some(now + secs(pause)));
            assert!(
                aside
                    .due((now + secs(pause)).saturating_sub(Duration::from_millis(1)))
                    .is_empty()
            );
            now += secs(pause);
            assert_eq!(aside.due(now), [waiting(1)]);
            assert_eq!(aside.next_at(), None);
        }
    }

    #[test]
    fn a_success_calls_back_all_but_those_that_failed_among_others() {
        let mut aside = Aside::default();
        assert_eq!(refuse(&mut aside, 1, PATIENT, secs(1)), None);
        assert_eq!(refuse(&mut aside, 2, CHRONIC, secs(1)), None);
        assert_eq!(aside.call_back(), [waiting(1)]);
        assert_eq!(aside.call_back(), []);
        assert_eq!(aside.due(secs(100)), [waiting(2)]);
    }

    #[test]
    fn what_is_done_begins_anew_if_it_comes_again() {
        let mut aside = Aside::default();
        assert_eq!(refuse(&mut aside, 1, PATIENT, secs(1)), None);
        assert_eq!(aside.due(secs(9)), [waiting(1)]);
        aside.done(1);
        assert_eq!(aside.refused(waiting(1), secs(10)), Some(waiting(1)));
    }
}
