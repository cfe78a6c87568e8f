//! A delivery that was refused steps aside, so that one that the API server does not take does not stand before all others
//! of its namespace.
//!
//! Most refusals are about the API server or the namespace and hit whichever delivery is tried. But an admission policy
//! may dislike a single Event, and a server may fail over a single object. So a delivery comes back a little later than
//! the others are tried. One that was refused often is stuck, and of those that are stuck in a namespace one at a time is
//! tried, ever more rarely, until one succeeds. However many they are, they take no turns away from the others. Plain data
//! with the time handed in, as the time since the process started.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::pacing::Waiting;
use super::retry;

/// Refusals after which a delivery is stuck: the first ones hit it because it happened to be the one that was tried.
const PATIENT: u32 = 3;
/// How long a delivery stays aside for the first time; it doubles until it is stuck.
const FIRST: Duration = Duration::from_millis(100);
/// The pause between the tries of those that are stuck; it doubles.
const STUCK: Duration = Duration::from_secs(1);
/// The longest.
const MAX_STUCK: Duration = Duration::from_secs(30);

/// Which deliveries were refused, how often and why, and which stand aside until when.
#[derive(Debug, Default)]
pub struct Aside {
    refusals: HashMap<i64, Refusal>,
    namespaces: HashMap<String, Bench>,
    times: BTreeSet<(Duration, String)>,
}

#[derive(Debug)]
struct Refusal {
    count: u32,
    why: Arc<str>,
}

/// Those of one namespace.
#[derive(Debug, Default)]
struct Bench {
    soon: BTreeMap<(Duration, i64), Waiting>,
    stuck: VecDeque<Waiting>,
    stuck_at: Duration,
    /// One of them that is being tried.
    trying: Option<i64>,
    failures: u32,
    /// Under which time it is entered.
    at: Option<Duration>,
}

impl Bench {
    fn next_at(&self) -> Option<Duration> {
        let stuck = (self.trying.is_none() && !self.stuck.is_empty()).then_some(self.stuck_at);
        let soon = self.soon.keys().next().map(|(at, _)| *at);
        soon.into_iter().chain(stuck).min()
    }

    fn is_empty(&self) -> bool {
        self.soon.is_empty() && self.stuck.is_empty() && self.trying.is_none()
    }
}

impl Aside {
    /// A delivery was refused at `now` for this reason, and its namespace is held until `hold` or not at all. Returns whether
    /// it is stuck.
    pub fn refused(
        &mut self,
        waiting: Waiting,
        why: &Arc<str>,
        hold: Option<Duration>,
        now: Duration,
    ) -> bool {
        let seq = waiting.seq;
        let refusal = self.refusals.entry(seq).or_insert_with(|| Refusal {
            count: 0,
            why: Arc::clone(why),
        });
        refusal.count = refusal.count.saturating_add(1);
        refusal.why = Arc::clone(why);
        let count = refusal.count;
        let namespace = waiting.namespace.clone();
        let bench = self.namespaces.entry(namespace.clone()).or_default();
        let from = hold.unwrap_or(now);
        if count < PATIENT {
            let until = from + retry::pause(count - 1, FIRST, MAX_STUCK);
            bench.soon.insert((until, seq), waiting);
        } else {
            let was_tried = bench.trying == Some(seq);
            if was_tried {
                bench.trying = None;
                // While the namespace is held, its pauses grow and these need not.
                bench.failures = match hold {
                    Some(_) => 0,
                    None => bench.failures.saturating_add(1),
                };
            }
            if was_tried || bench.stuck.is_empty() {
                bench.stuck_at = from + retry::pause(bench.failures, STUCK, MAX_STUCK);
            }
            bench.stuck.push_back(waiting);
        }
        self.enter(&namespace);
        count >= PATIENT
    }

    /// This delivery succeeded; `recovered` says whether its namespace was held until now. Returns those that are called
    /// back, since the cause may be gone.
    pub fn succeeded(&mut self, waiting: &Waiting, recovered: bool, now: Duration) -> Vec<Waiting> {
        self.refusals.remove(&waiting.seq);
        let Some(bench) = self.namespaces.get_mut(&waiting.namespace) else {
            return Vec::new();
        };
        let mut back: Vec<Waiting> = std::mem::take(&mut bench.soon).into_values().collect();
        if bench.trying == Some(waiting.seq) {
            bench.trying = None;
            bench.failures = 0;
            back.extend(std::mem::take(&mut bench.stuck));
        } else if recovered {
            bench.stuck_at = bench.stuck_at.min(now);
        }
        self.enter(&waiting.namespace);
        back
    }

    /// This delivery will not be tried again.
    pub fn done(&mut self, waiting: &Waiting) {
        self.refusals.remove(&waiting.seq);
        if let Some(bench) = self.namespaces.get_mut(&waiting.namespace) {
            bench.trying = bench.trying.filter(|seq| *seq != waiting.seq);
            self.enter(&waiting.namespace);
        }
    }

    /// Those whose time has come.
    pub fn due(&mut self, now: Duration) -> Vec<Waiting> {
        let mut due = Vec::new();
        while let Some((at, namespace)) = self.times.first().cloned() {
            if at > now {
                break;
            }
            let Some(bench) = self.namespaces.get_mut(&namespace) else {
                self.times.pop_first();
                continue;
            };
            let later = bench.soon.split_off(&(now, i64::MAX));
            due.extend(std::mem::replace(&mut bench.soon, later).into_values());
            if bench.trying.is_none()
                && bench.stuck_at <= now
                && let Some(waiting) = bench.stuck.pop_front()
            {
                bench.trying = Some(waiting.seq);
                due.push(waiting);
            }
            self.enter(&namespace);
        }
        due
    }

    /// All that stand aside: the process ends, and each is tried once more.
    pub fn all(&mut self) -> Vec<Waiting> {
        self.times.clear();
        let benches = self.namespaces.drain();
        benches
            .flat_map(|(_, bench)| bench.soon.into_values().chain(bench.stuck))
            .collect()
    }

    /// When the next one's time comes.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.times.first().map(|(at, _)| *at)
    }

    /// Why a delivery was refused last.
    #[must_use]
    pub fn why(&self, seq: i64) -> Option<&Arc<str>> {
        self.refusals.get(&seq).map(|refusal| &refusal.why)
    }

    /// Enters a namespace under the time of its next one.
    fn enter(&mut self, namespace: &str) {
        let Some(bench) = self.namespaces.get_mut(namespace) else {
            return;
        };
        let next = bench.next_at();
        if let Some(at) = std::mem::replace(&mut bench.at, next) {
            self.times.remove(&(at, namespace.to_owned()));
        }
        if let Some(at) = next {
            self.times.insert((at, namespace.to_owned()));
        }
        if bench.is_empty() {
            self.namespaces.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Class;
    use super::*;

    fn of(namespace: &str, seq: i64) -> Waiting {
        Waiting {
            seq,
            class: Class::Alarm,
            namespace: namespace.into(),
            uid: "u".into(),
        }
    }

    fn waiting(seq: i64) -> Waiting {
        of("a", seq)
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn refuse(aside: &mut Aside, waiting: Waiting, now: Duration) {
        aside.refused(waiting, &"no".into(), None, now);
    }

    /// Refuses one so often that it is stuck.
    fn stick(aside: &mut Aside, seq: i64, now: Duration) {
        for _ in 0..PATIENT {
            aside.done_trying(seq);
            refuse(aside, waiting(seq), now);
        }
    }

    impl Aside {
        /// As if it had been taken out to be tried.
        fn done_trying(&mut self, seq: i64) {
            if let Some(bench) = self.namespaces.get_mut("a") {
                bench.soon.retain(|(_, other), _| *other != seq);
            }
        }
    }

    #[test]
    fn one_that_is_refused_comes_back_ever_later() {
        let mut aside = Aside::default();
        let mut now = ms(5_000);
        for pause in [100, 200, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            refuse(&mut aside, waiting(1), now);
            assert_eq!(aside.next_at(), Some(now + ms(pause)));
            assert!(aside.due(now + ms(pause - 1)).is_empty());
            now += ms(pause);
            assert_eq!(aside.due(now), [waiting(1)]);
            assert_eq!(aside.next_at(), None);
        }
        assert_eq!(aside.why(1).map(AsRef::as_ref), Some("no"));
        assert!(aside.succeeded(&waiting(1), false, now).is_empty());
        assert_eq!(aside.why(1), None);
        assert!(aside.namespaces.is_empty() && aside.times.is_empty());
    }

    #[test]
    fn of_those_that_are_stuck_one_at_a_time_is_tried_and_its_success_calls_back_all() {
        let mut aside = Aside::default();
        for seq in 1..=100 {
            stick(&mut aside, seq, ms(0));
        }
        assert_eq!(aside.due(ms(1_000)), [waiting(1)]);
        assert!(aside.due(ms(90_000)).is_empty(), "the first is being tried");
        refuse(&mut aside, waiting(1), ms(90_000));
        assert_eq!(aside.next_at(), Some(ms(92_000)));
        assert_eq!(aside.due(ms(92_000)), [waiting(2)]);
        assert_eq!(aside.succeeded(&waiting(2), false, ms(92_001)).len(), 99);
        assert_eq!(aside.next_at(), None);
        refuse(&mut aside, waiting(7), ms(92_002));
        assert_eq!(
            aside.next_at(),
            Some(ms(93_002)),
            "once more, and it is stuck again"
        );
    }

    #[test]
    fn a_success_calls_back_those_of_its_own_namespace() {
        let mut aside = Aside::default();
        refuse(&mut aside, waiting(1), ms(0));
        refuse(&mut aside, of("b", 2), ms(0));
        assert!(aside.succeeded(&of("c", 3), true, ms(0)).is_empty());
        assert_eq!(aside.succeeded(&waiting(4), true, ms(0)), [waiting(1)]);
        assert_eq!(aside.due(ms(100)), [of("b", 2)]);
    }

    #[test]
    fn a_namespace_that_is_well_again_tries_one_that_is_stuck_at_once() {
        let mut aside = Aside::default();
        stick(&mut aside, 1, ms(0));
        assert!(aside.succeeded(&waiting(9), false, ms(10)).is_empty());
        assert_eq!(aside.next_at(), Some(ms(1_000)));
        assert!(aside.succeeded(&waiting(9), true, ms(10)).is_empty());
        assert_eq!(aside.due(ms(10)), [waiting(1)]);
        aside.done(&waiting(1));
        assert!(aside.namespaces.is_empty());
    }

    #[test]
    fn while_its_namespace_is_held_it_comes_after_the_one_that_is_tried_next() {
        let mut aside = Aside::default();
        aside.refused(waiting(1), &"no".into(), Some(ms(30_000)), ms(0));
        assert_eq!(aside.next_at(), Some(ms(30_100)));
        stick(&mut aside, 2, ms(0));
        assert_eq!(aside.all().len(), 2);
        assert_eq!((aside.next_at(), aside.due(ms(90_000)).len()), (None, 0));
    }
}
