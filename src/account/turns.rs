//! Turns: who makes the account's next request.
//!
//! While the budget lasts everybody goes at once. When it does not, requests wait here, and three rules say who is
//! next: what people have just asked for goes before what is put right again, namespaces take turns, and within one
//! namespace the first who came is the first who goes. So a namespace with five hundred changes does not keep another
//! one's single edit waiting. A look at the account goes first, since many may wait for what it shows, but takes no more
//! than every other turn: a list may have many pages.
//!
//! Nobody sleeps while waiting: a request that is not its turn yet is written down, and its webhook is woken when it
//! is. A turn that is given is kept for a while and then lost, since the wish may have gone.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::budget::Budget;

/// How long a turn that was given is kept: long enough for a list that must be made first.
const KEPT: Duration = Duration::from_secs(20);

/// How pressing a request is, the most pressing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody has asked for it: a new webhook, an edit, a deletion.
    Wanted,
    /// The operator's own care: a drift that is put right, a twin that is removed, a test delivery.
    Care,
}

/// Who asks: a webhook, or, without a name, the account itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asker {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What becomes of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The request may be made, and is paid for.
    Now,
    /// It is written down; whoever asked is woken.
    Later,
}

/// What is to be done about those who wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nobody waits.
    Nobody,
    /// Somebody waits, and nothing can be given before this moment.
    At(Instant),
    /// A turn was given to this one, who must be woken.
    Wake(Asker),
}

/// Those of one urgency who wait.
#[derive(Clone, Debug, Default)]
struct Lane {
    /// Namespaces that wait, the next one first. Each is here once.
    round: VecDeque<String>,
    waiting: HashMap<String, VecDeque<String>>,
}

/// Who makes the account's next request.
#[derive(Clone, Debug)]
pub struct Turns {
    budget: Budget,
    wanted: Lane,
    care: Lane,
    urgency: HashMap<Asker, Urgency>,
    /// Whether a look at the account had the last turn.
    looked: bool,
    given: HashMap<Asker, Instant>,
}

impl Lane {
    fn push(&mut self, asker: &Asker) {
        let line = self.waiting.entry(asker.namespace.clone()).or_default();
        if line.is_empty() {
            self.round.push_back(asker.namespace.clone());
        }
        line.push_back(asker.name.clone());
    }

    fn pop(&mut self) -> Option<Asker> {
        let namespace = self.round.pop_front()?;
        let line = self.waiting.get_mut(&namespace)?;
        let name = line.pop_front()?;
        if line.is_empty() {
            self.waiting.remove(&namespace);
        } else {
            self.round.push_back(namespace.clone());
        }
        Some(Asker { namespace, name })
    }

    fn remove(&mut self, asker: &Asker) {
        let Some(line) = self.waiting.get_mut(&asker.namespace) else {
            return;
        };
        line.retain(|name| *name != asker.name);
        if line.is_empty() {
            self.waiting.remove(&asker.namespace);
            self.round.retain(|namespace| *namespace != asker.namespace);
        }
    }
}

impl Turns {
    /// Nobody waits.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Turns {
            budget,
            wanted: Lane::default(),
            care: Lane::default(),
            urgency: HashMap::new(),
            looked: false,
            given: HashMap::new(),
        }
    }

    /// What is left to spend.
    pub fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.urgency.len()
    }

    /// Asks for one request. Who already waits goes on waiting, at the end of the other line if the urgency has changed.
    pub fn ask(&mut self, asker: &Asker, urgency: Urgency, now: Instant) -> Turn {
        self.given.retain(|_, until| now < *until);
        if self.given.remove(asker).is_some() {
            return Turn::Now;
        }
        if self.urgency.is_empty() && self.budget.take(now).is_ok() {
            return Turn::Now;
        }
        match self.urgency.insert(asker.clone(), urgency) {
            Some(old) if old == urgency => return Turn::Later,
            Some(old) => self.lane(old).remove(asker),
            None => {}
        }
        if *asker != Asker::default() {
            self.lane(urgency).push(asker);
        }
        Turn::Later
    }

    /// Takes back a wish, and a turn that was given and not used.
    pub fn leave(&mut self, asker: &Asker) {
        self.given.remove(asker);
        if let Some(urgency) = self.urgency.remove(asker) {
            self.lane(urgency).remove(asker);
        }
    }

    /// Gives the next turn, if there is one to give and somebody to give it to.
    pub fn next(&mut self, now: Instant) -> Next {
        if self.urgency.is_empty() {
            return Next::Nobody;
        }
        if let Err(at) = self.budget.take(now) {
            return Next::At(at);
        }
        let look = Asker::default();
        let looks = self.urgency.contains_key(&look);
        let webhook = if looks && !self.looked {
            None
        } else {
            self.wanted.pop().or_else(|| self.care.pop())
        };
        self.looked = webhook.is_none();
        let asker = webhook.unwrap_or(look);
        self.urgency.remove(&asker);
        self.given.insert(asker.clone(), now + KEPT);
        Next::Wake(asker)
    }

    fn lane(&mut self, urgency: Urgency) -> &mut Lane {
        match urgency {
            Urgency::Wanted => &mut self.wanted,
            Urgency::Care => &mut self.care,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn asker(text: &str) -> Asker {
        let (namespace, name) = text.split_once('/').unwrap();
        Asker {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// One request a second, and the first is spent.
    fn busy(now: Instant) -> Turns {
        let mut turns = Turns::new(Budget::new(60, 1, now));
        assert_eq!(
            turns.ask(&asker("x/first"), Urgency::Wanted, now),
            Turn::Now
        );
        turns
    }

    /// Gives a turn a second until nobody waits, and says to whom.
    fn drain(turns: &mut Turns, mut now: Instant) -> Vec<Asker> {
        let mut order = Vec::new();
        loop {
            match turns.next(now) {
                Next::Nobody => return order,
                Next::At(at) => now = at,
                Next::Wake(asker) => order.push(asker),
            }
        }
    }

    #[test]
    fn who_comes_when_is_served_in_which_order() {
        use Urgency::{Care, Wanted};
        for (came, served) in [
            (vec![("a/1", Wanted), ("a/2", Wanted)], vec!["a/1", "a/2"]),
            // Namespaces take turns.
            (
                vec![
                    ("a/1", Wanted),
                    ("a/2", Wanted),
                    ("a/3", Wanted),
                    ("b/1", Wanted),
                ],
                vec!["a/1", "b/1", "a/2", "a/3"],
            ),
            // Edits before care, whoever came first.
            (
                vec![
                    ("a/1", Care),
                    ("b/1", Care),
                    ("a/2", Wanted),
                    ("a/3", Wanted),
                ],
                vec!["a/2", "a/3", "a/1", "b/1"],
            ),
            // A look at the account goes first.
            (
                vec![("a/1", Wanted), ("a/2", Wanted), ("/", Wanted)],
                vec!["/", "a/1", "a/2"],
            ),
            // Who asks again keeps the place, and who asks more urgently changes the line.
            (
                vec![("a/1", Wanted), ("a/2", Wanted), ("a/1", Wanted)],
                vec!["a/1", "a/2"],
            ),
            (
                vec![("a/1", Care), ("b/1", Wanted), ("a/1", Wanted)],
                vec!["b/1", "a/1"],
            ),
        ] {
            let now = Instant::now();
            let mut turns = busy(now);
            for (who, urgency) in &came {
                assert_eq!(turns.ask(&asker(who), *urgency, now), Turn::Later);
            }
            let served: Vec<_> = served.into_iter().map(asker).collect();
            assert_eq!(drain(&mut turns, now), served, "{came:?}");
        }
    }

    #[test]
    fn five_hundred_changes_of_one_namespace_do_not_keep_anothers_edit_waiting() {
        let now = Instant::now();
        let mut turns = busy(now);
        for n in 0..500 {
            turns.ask(&asker(&format!("big/{n}")), Urgency::Wanted, now);
        }
        turns.ask(&asker("small/edit"), Urgency::Wanted, now);
        let order = drain(&mut turns, now);
        assert_eq!(order.len(), 501);
        let place = order.iter().position(|a| a.namespace == "small");
        assert!(place.unwrap() <= 1, "{place:?}");
    }

    #[test]
    fn a_list_of_many_pages_takes_every_other_turn() {
        let mut now = Instant::now();
        let mut turns = busy(now);
        let look = Asker::default();
        for name in ["a/1", "a/2"] {
            turns.ask(&asker(name), Urgency::Wanted, now);
        }
        let mut order = Vec::new();
        for _ in 0..5 {
            // The next page, as soon as the last one is there.
            turns.ask(&look, Urgency::Wanted, now);
            turns.ask(&look, Urgency::Wanted, now);
            now += S;
            match turns.next(now) {
                Next::Wake(asker) => order.push(asker.name),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(order, ["", "1", "", "2", ""]);
    }

    #[test]
    fn a_turn_that_was_given_is_kept_for_a_while_and_is_paid_for() {
        let now = Instant::now();
        let mut turns = busy(now);
        let (one, two) = (asker("a/1"), asker("a/2"));
        turns.ask(&one, Urgency::Wanted, now);
        turns.ask(&two, Urgency::Wanted, now);
        assert_eq!(turns.next(now), Next::At(now + S));
        assert_eq!(turns.next(now + S), Next::Wake(one.clone()));
        // Not the other one's.
        assert_eq!(turns.ask(&two, Urgency::Wanted, now + S), Turn::Later);
        assert_eq!(turns.ask(&one, Urgency::Wanted, now + S), Turn::Now);
        assert_eq!(turns.ask(&one, Urgency::Wanted, now + S), Turn::Later);
        assert_eq!(turns.next(now + 2 * S), Next::Wake(two.clone()));
        assert_eq!(
            turns.ask(&two, Urgency::Wanted, now + 2 * S + KEPT),
            Turn::Later
        );
    }

    #[test]
    fn who_leaves_is_not_served() {
        let now = Instant::now();
        let mut turns = busy(now);
        for who in ["a/1", "b/1", "b/2"] {
            turns.ask(&asker(who), Urgency::Care, now);
        }
        turns.leave(&asker("a/1"));
        turns.leave(&asker("b/1"));
        assert_eq!(drain(&mut turns, now), [asker("b/2")]);
    }

    proptest! {
        #[test]
        fn nobody_is_forgotten_nobody_waits_longer_than_a_round_and_care_never_goes_first(
            came in prop::collection::vec((0..5u8, 0..20u8, any::<bool>()), 1..200),
            gaps in prop::collection::vec(0..3usize, 200),
        ) {
            let mut now = Instant::now();
            let mut turns = busy(now);
            let mut waiting: HashMap<Asker, Urgency> = HashMap::new();
            // Whom each namespace that waits has seen go before it.
            let mut passed: HashMap<(String, bool), HashSet<String>> = HashMap::new();
            let lines = |waiting: &HashMap<Asker, Urgency>| -> HashSet<(String, bool)> {
                let line = |(a, u): (&Asker, &Urgency)| (a.namespace.clone(), *u == Urgency::Wanted);
                waiting.iter().map(line).collect()
            };
            let give = |turns: &mut Turns, waiting: &mut HashMap<Asker, Urgency>, passed: &mut HashMap<_, HashSet<_>>, now| {
                let Next::Wake(who) = turns.next(now) else { return Ok(false) };
                let before = lines(waiting);
                let urgency = waiting.remove(&who);
                prop_assert!(urgency.is_some(), "{:?} did not wait", who);
                let wanted = urgency == Some(Urgency::Wanted);
                prop_assert!(wanted || waiting.values().all(|u| *u == Urgency::Care));
                passed.remove(&(who.namespace.clone(), wanted));
                for line in before.into_iter().filter(|(n, w)| *w == wanted && *n != who.namespace) {
                    let twice = !passed.entry(line.clone()).or_default().insert(who.namespace.clone());
                    prop_assert!(!twice, "{:?} went twice before {:?}", who, line);
                }
                Ok(true)
            };
            for ((namespace, name, wanted), gap) in came.iter().zip(&gaps) {
                let who = Asker { namespace: namespace.to_string(), name: name.to_string() };
                let urgency = if *wanted { Urgency::Wanted } else { Urgency::Care };
                if turns.ask(&who, urgency, now) == Turn::Later {
                    waiting.insert(who, urgency);
                    // A line that is empty begins anew.
                    let left = lines(&waiting);
                    passed.retain(|line, _| left.contains(line));
                }
                for _ in 0..*gap {
                    now += S;
                    give(&mut turns, &mut waiting, &mut passed, now)?;
                }
            }
            while !waiting.is_empty() {
                now += S;
                prop_assert!(give(&mut turns, &mut waiting, &mut passed, now)?, "{:?} are forgotten", waiting);
            }
            prop_assert_eq!(turns.next(now + S), Next::Nobody);
        }
    }
}
