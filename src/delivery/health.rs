//! How publishing fares in each namespace, and what follows from an attempt that failed.
//!
//! A failure is its namespace's: an admission webhook, a policy, a quota or a missing right concerns one namespace, and
//! the API server gives the same answers for it as when it is in trouble itself. So a failure holds its own namespace, each
//! time for longer. The first failure in a namespace that was well holds nothing: it may be that delivery's alone.
//!
//! Only when several namespaces begin to fail and nothing succeeds in between is it the API server that fails. Then the
//! failing ones are tried one after the other, with a gap between them, and with each failure fewer attempts may be under way
//! in those that have not failed, which wait for nothing else. The first success ends it, and with each that follows more
//! may be under way, so that an API server that comes back is not met by everything that has gathered. A refusal is no sign of that: an API server that refuses works. Time is handed
//! in, as the time since the process started.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::pacing::SICK_PLACES;
use super::retry;

/// So many namespaces that begin to fail without a success in between are everywhere.
const SEVERAL: usize = 3;
/// The longest that the API server can make the receiver wait.
const MAX_ASKED: Duration = Duration::from_secs(60);
/// The longest pause by ourselves while the process ends.
const MAX_ENDING_PAUSE: Duration = Duration::from_secs(2);
/// The least time between the begins of two attempts in failing namespaces, while it fails everywhere; it doubles with each
/// failure up to [`MAX_GAP`].
const GAP: Duration = Duration::from_millis(100);
/// The longest such time.
const MAX_GAP: Duration = Duration::from_secs(1);
/// How long an Event may take in a namespace that is not known to be slow.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take elsewhere: longer than the 30 s that an admission webhook can make the API server wait, after which
/// `failurePolicy: Ignore` lets the Event through.
pub const MAX_DEADLINE: Duration = Duration::from_secs(35);

/// What was wrong with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A pause was asked for, perhaps with its length.
    Throttled(Option<Duration>),
    /// The API server refuses the Event: a right, a policy, a quota, a namespace that is being deleted.
    Refused,
    /// The API server fails or cannot be reached.
    Failed,
    /// No answer within the deadline.
    Late,
}

impl Fault {
    /// The first pause after it and the longest.
    fn pauses(self) -> (Duration, Duration) {
        match self {
            Fault::Failed | Fault::Late => (Duration::from_millis(100), Duration::from_secs(5)),
            Fault::Refused | Fault::Throttled(_) => {
                (Duration::from_secs(1), Duration::from_secs(30))
            }
        }
    }

    /// The pause that was asked for. Asked for nothing is asked for a pause all the same.
    fn asked(self) -> Option<Duration> {
        match self {
            Fault::Throttled(asked) => asked.filter(|asked| !asked.is_zero()),
            Fault::Refused | Fault::Failed | Fault::Late => None,
        }
    }
}

/// What follows from an attempt that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Until when its namespace is held; `None`: only this delivery is.
    pub hold: Option<Duration>,
    /// Whether the hold is the first in a row.
    pub first: bool,
    /// Whether this made it a failure everywhere.
    pub everywhere: bool,
}

/// What works again after an attempt that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whether it failed everywhere until now.
    pub all: bool,
    /// Whether this namespace was held until now.
    pub namespace: bool,
    /// Namespaces that are to be tried at once, since the API server works again.
    pub again: Vec<String>,
}

/// How publishing fares.
#[derive(Debug)]
pub struct Health {
    most: usize,
    width: usize,
    longest: Duration,
    namespaces: HashMap<String, Trouble>,
    /// Namespaces that began to fail since the last success.
    turned: HashSet<String>,
    everywhere: Option<Everywhere>,
}

/// What is wrong in one namespace.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    failures: u32,
    until: Duration,
    /// A delivery failed, which may have been its own fault.
    struck: bool,
    slow: bool,
    refused: bool,
}

/// It fails in all namespaces, as far as is known.
#[derive(Clone, Copy, Debug)]
struct Everywhere {
    failures: u32,
    sick_from: Duration,
}

impl Health {
    /// Nothing went wrong yet, and `most` attempts may be under way in namespaces that are well.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Health {
            most: most.max(1),
            width: most.max(1),
            longest: Duration::MAX,
            namespaces: HashMap::new(),
            turned: HashSet::new(),
            everywhere: None,
        }
    }

    /// How many attempts may be under way in namespaces that are well.
    #[must_use]
    pub fn well(&self) -> usize {
        self.width
    }

    /// How many may be in the others.
    #[must_use]
    pub fn sick(&self, now: Duration) -> usize {
        match self.everywhere {
            Some(everywhere) if everywhere.sick_from > now => 0,
            Some(_) | None => SICK_PLACES,
        }
    }

    /// When that number changes by itself.
    #[must_use]
    pub fn next_at(&self, now: Duration) -> Option<Duration> {
        let all = self.everywhere?;
        Some(all.sick_from).filter(|at| *at > now)
    }

    /// How long an Event may take in a namespace.
    #[must_use]
    pub fn deadline(&self, namespace: &str) -> Duration {
        match self.namespaces.get(namespace) {
            Some(trouble) if trouble.slow => MAX_DEADLINE,
            Some(_) | None => DEADLINE,
        }
    }

    /// An attempt begins at `now`.
    pub fn begun(&mut self, is_sick: bool, now: Duration) {
        match &mut self.everywhere {
            Some(all) if is_sick => all.sick_from = now + retry::pause(all.failures, GAP, MAX_GAP),
            Some(_) | None => {}
        }
    }

    /// An attempt in this namespace takes long.
    pub fn slow(&mut self, namespace: &str) {
        self.trouble(namespace).slow = true;
    }

    fn trouble(&mut self, namespace: &str) -> &mut Trouble {
        self.namespaces.entry(namespace.to_owned()).or_default()
    }

    /// An attempt in a namespace failed at `now`. Attempts that were under way together are one failure.
    pub fn failed(&mut self, fault: Fault, namespace: &str, now: Duration) -> Verdict {
        let (longest, is_everywhere) = (self.longest, self.everywhere.is_some());
        let trouble = self.trouble(namespace);
        let may_be_its_own = matches!(fault, Fault::Refused | Fault::Failed);
        if may_be_its_own
            && !trouble.struck
            && !trouble.slow
            && trouble.failures == 0
            && !is_everywhere
        {
            trouble.struck = true;
            return Verdict::default();
        }
        trouble.slow |= fault == Fault::Late;
        trouble.refused = fault == Fault::Refused;
        let began = trouble.failures == 0;
        let (failures, until) = prolonged(fault, (trouble.failures, trouble.until), longest, now);
        (trouble.failures, trouble.until) = (failures, until);
        if began && fault != Fault::Refused {
            self.turned.insert(namespace.to_owned());
        }
        Verdict {
            hold: Some(until),
            first: began,
            everywhere: self.judge(fault, now),
        }
    }

    /// Whether it fails everywhere from now on.
    fn judge(&mut self, fault: Fault, now: Duration) -> bool {
        let begins = self.everywhere.is_none();
        if fault == Fault::Refused || (begins && self.turned.len() < SEVERAL) {
            return false;
        }
        self.width = (self.width / 2).max(1);
        let all = self.everywhere.get_or_insert(Everywhere {
            failures: 0,
            sick_from: now + GAP,
        });
        all.failures = all.failures.saturating_add(1);
        begins
    }

    /// An attempt in a namespace succeeded at `now`, fast or not.
    pub fn succeeded(&mut self, namespace: &str, is_fast: bool, now: Duration) -> Recovered {
        self.width = self.width.saturating_mul(2).min(self.most);
        self.turned.clear();
        let before = self.namespaces.remove(namespace);
        if !is_fast {
            self.slow(namespace);
        }
        let all = self.everywhere.take().is_some();
        let mut again = Vec::new();
        if all {
            for (name, trouble) in &mut self.namespaces {
                if !trouble.refused && trouble.until > now {
                    trouble.until = now;
                    again.push(name.clone());
                }
            }
        }
        Recovered {
            all,
            namespace: before.is_some_and(|trouble| trouble.failures > 0),
            again,
        }
    }

    /// Nothing waits in a namespace any more.
    pub fn forget(&mut self, namespace: &str) {
        self.namespaces.remove(namespace);
        self.turned.remove(namespace);
    }

    /// The process ends: every namespace is tried at once, ever more may be under way, up to `most`, and pauses stay short,
    /// but for those that are asked for. Returns the namespaces that were held.
    pub fn hasten(&mut self, most: usize, now: Duration) -> Vec<String> {
        self.most = self.most.max(most);
        self.longest = MAX_ENDING_PAUSE;
        if let Some(all) = &mut self.everywhere {
            (all.failures, all.sick_from) = (0, now);
        }
        let mut held = Vec::new();
        for (name, trouble) in &mut self.namespaces {
            if trouble.until > now && trouble.failures > 0 {
                (trouble.failures, trouble.until) = (1, now);
                held.push(name.clone());
            }
        }
        held
    }
}

/// The next number of failures and the end of the pause. What fails before that end changes nothing, unless it asks for more.
fn prolonged(
    fault: Fault,
    (failures, until): (u32, Duration),
    longest: Duration,
    now: Duration,
) -> (u32, Duration) {
    let asked = fault.asked().map(|asked| now + asked.min(MAX_ASKED));
    if until > now {
        return (failures, until.max(asked.unwrap_or_default()));
    }
    let (first, most) = fault.pauses();
    let by_itself = now + retry::pause(failures, first, most.min(longest));
    (failures.saturating_add(1), asked.unwrap_or(by_itself))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const FAST: bool = true;

    /// Fails until the namespace is held, and returns until when.
    fn held(health: &mut Health, fault: Fault, namespace: &str, now: Duration) -> Duration {
        let verdict = health.failed(fault, namespace, now);
        let verdict = match verdict.hold {
            Some(_) => verdict,
            None => health.failed(fault, namespace, now),
        };
        verdict.hold.unwrap()
    }

    #[test]
    fn the_first_failure_in_a_namespace_that_was_well_may_be_the_deliverys_own() {
        for (fault, is_held) in [
            (Fault::Refused, false),
            (Fault::Failed, false),
            (Fault::Late, true),
            (Fault::Throttled(None), true),
        ] {
            let mut health = Health::new(8);
            let verdict = health.failed(fault, "a", ms(0));
            assert_eq!(verdict.hold.is_some(), is_held, "{fault:?}");
            assert!(health.failed(fault, "a", ms(0)).hold.is_some(), "{fault:?}");
        }
        let mut health = Health::new(8);
        for second in 0..9 {
            // One of two is refused: the others are not held for it.
            assert_eq!(
                health.failed(Fault::Refused, "a", ms(second)),
                Verdict::default()
            );
            assert!(!health.succeeded("a", FAST, ms(second)).namespace);
        }
    }

    #[test]
    fn holds_grow_for_each_namespace_by_itself_and_a_success_ends_them() {
        for (fault, expected) in [
            (
                Fault::Refused,
                [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000],
            ),
            (
                Fault::Throttled(None),
                [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000],
            ),
            (Fault::Failed, [100, 200, 400, 800, 1_600, 3_200, 5_000]),
            (Fault::Late, [100, 200, 400, 800, 1_600, 3_200, 5_000]),
        ] {
            let mut health = Health::new(8);
            let mut now = ms(1_000);
            let mut holds = Vec::new();
            for _ in 0..expected.len() {
                let until = held(&mut health, fault, "a", now);
                holds.push(until.saturating_sub(now).as_millis());
                now = until;
            }
            assert_eq!(holds, expected, "{fault:?}");
            let other = held(&mut health, fault, "b", now);
            assert_eq!(
                other.saturating_sub(now).as_millis(),
                expected[0],
                "{fault:?}"
            );
            assert_eq!(health.well(), 8, "two namespaces are not all of them");
            assert!(health.succeeded("a", FAST, now).namespace);
            assert!(!health.succeeded("a", FAST, now).namespace);
        }
    }

    #[test]
    fn those_that_were_under_way_together_are_one_failure() {
        let mut health = Health::new(8);
        for millis in 0..8 {
            let until = held(&mut health, Fault::Refused, "a", ms(1_000 + millis));
            assert_eq!(until, ms(2_000));
        }
        assert_eq!(held(&mut health, Fault::Refused, "a", ms(2_000)), ms(4_000));
    }

    #[test]
    fn what_the_api_server_asks_for_is_what_it_gets() {
        for (asked, expected) in [
            (Some(ms(7_000)), 7_000),
            (Some(ms(600_000)), 60_000),
            (Some(ms(0)), 1_000),
            (None, 1_000),
        ] {
            let mut health = Health::new(8);
            let until = held(&mut health, Fault::Throttled(asked), "a", ms(5_000));
            assert_eq!(until.as_millis(), 5_000 + expected, "{asked:?}");
        }
        let mut health = Health::new(8);
        held(&mut health, Fault::Throttled(Some(ms(9_000))), "a", ms(0));
        let until = held(&mut health, Fault::Throttled(Some(ms(1_000))), "a", ms(1));
        assert_eq!(until, ms(9_000), "the longest of those under way");
    }

    #[test]
    fn several_namespaces_that_begin_to_fail_without_a_success_between_are_everywhere() {
        let mut health = Health::new(8);
        for namespace in ["a", "b"] {
            held(&mut health, Fault::Failed, namespace, ms(0));
        }
        health.succeeded("well", FAST, ms(0));
        for round in 0..9 {
            // Those that fail already say nothing new.
            held(&mut health, Fault::Failed, "a", ms(10_000 * round));
            held(&mut health, Fault::Failed, "b", ms(10_000 * round));
        }
        let now = ms(100_000);
        held(&mut health, Fault::Failed, "c", now);
        held(&mut health, Fault::Failed, "d", now);
        assert_eq!((health.well(), health.sick(now)), (8, SICK_PLACES));
        health.failed(Fault::Failed, "e", now);
        assert!(health.failed(Fault::Failed, "e", now).everywhere);
        // One that has not failed waits for nothing, the others for the gap.
        assert_eq!((health.well(), health.sick(now)), (4, 0));
        assert_eq!(health.next_at(now), Some(now + ms(100)));
        assert_eq!(health.sick(now + ms(100)), SICK_PLACES);
        assert!(
            !health.failed(Fault::Failed, "a", now + ms(100)).everywhere,
            "it was already"
        );
        health.begun(true, now + ms(100));
        assert_eq!(health.sick(now + ms(499)), 0);
        assert_eq!(health.sick(now + ms(500)), SICK_PLACES);
        for _ in 0..9 {
            health.failed(Fault::Failed, "a", now + ms(100));
        }
        assert_eq!(health.well(), 1);
        let mut recovered = health.succeeded("well", FAST, now + ms(100));
        recovered.again.sort();
        assert!(recovered.all && !recovered.namespace);
        assert!(recovered.again.contains(&"a".to_owned()), "{recovered:?}");
        let widths: Vec<usize> = (0..3)
            .map(|_| {
                let width = health.well();
                health.succeeded("well", FAST, now);
                width
            })
            .collect();
        assert_eq!(widths, [2, 4, 8], "ever more");
    }

    #[test]
    fn a_namespace_that_is_refused_is_not_tried_again_because_the_api_server_is_back() {
        let mut health = Health::new(8);
        for namespace in ["refused", "one", "two"] {
            held(&mut health, Fault::Refused, namespace, ms(0));
        }
        assert_eq!(health.well(), 8, "an API server that refuses works");
        for namespace in ["a", "b", "c"] {
            held(&mut health, Fault::Failed, namespace, ms(0));
        }
        let mut again = health.succeeded("well", FAST, ms(1)).again;
        again.sort();
        assert_eq!(again, ["a", "b", "c"]);
    }

    #[test]
    fn a_slow_namespace_gets_more_time_until_it_is_fast() {
        let mut health = Health::new(8);
        assert_eq!(health.deadline("a"), DEADLINE);
        health.failed(Fault::Late, "a", ms(0));
        assert_eq!(health.deadline("a"), MAX_DEADLINE);
        health.succeeded("a", !FAST, ms(9_000));
        assert_eq!(health.deadline("a"), MAX_DEADLINE);
        health.succeeded("a", FAST, ms(9_000));
        assert_eq!(health.deadline("a"), DEADLINE);
        health.slow("b");
        assert_eq!(
            (health.deadline("b"), health.deadline("a")),
            (MAX_DEADLINE, DEADLINE)
        );
    }

    #[test]
    fn at_the_end_everything_is_tried_at_once_and_pauses_stay_short() {
        let mut health = Health::new(8);
        for _ in 0..9 {
            held(&mut health, Fault::Refused, "a", ms(0));
        }
        health.slow("slow");
        assert_eq!(health.hasten(64, ms(500)), ["a"]);
        let now = ms(500);
        assert_eq!(held(&mut health, Fault::Refused, "a", now), now + ms(2_000));
        let asked = Fault::Throttled(Some(ms(9_000)));
        assert_eq!(
            held(&mut health, asked, "b", now),
            now + ms(9_000),
            "what is asked for is given"
        );
        for _ in 0..9 {
            health.succeeded("well", FAST, now);
        }
        assert_eq!(health.well(), 64);
    }
}
