//! Which delivery is published next, and when: alarms first, the oldest of a webhook first, webhooks in turn, and
//! no namespace faster than its pace.
//!
//! Events cost the API server something and a namespace may hold many people's work, so a storm is spread out
//! here. What waits is safe in the journal; this queue holds numbers only. Time is handed in, as the time since
//! the process started.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::catalogue::Class;

/// How fast a namespace may be filled with Events.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Events a second, in the long run.
    pub per_second: f64,
    /// Events at once after a time of silence.
    pub burst: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            per_second: 10.0,
            burst: 200,
        }
    }
}

/// A delivery that waits to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its number in the journal; a smaller one is older.
    pub seq: i64,
    /// Its class.
    pub class: Class,
    /// The namespace that it is published in.
    pub namespace: String,
    /// The uid of its webhook.
    pub uid: String,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Publish this one now; its token is taken.
    Take(Waiting),
    /// Nothing may be published before this time.
    At(Duration),
    /// Nothing waits, or only for word of what is under way.
    Idle,
}

/// All that waits, and the pace of each namespace.
///
/// ```text
/// class -> namespaces that may be written to, in turn -> webhooks, in turn -> the oldest
/// parked:  namespaces that may not yet, by the time from which they may
/// ```
///
/// Nothing here looks at all that waits: a hundred thousand deliveries, or thousands of webhooks and of namespaces
/// that are held, make neither [`Queue::push`] nor [`Queue::next`] slow.
#[derive(Debug)]
pub struct Queue {
    pace: Pace,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// For each class, in the order of [`Class::ALL`]: the namespaces that have such deliveries and are not known to
    /// be closed.
    open: [VecDeque<Arc<str>>; CLASSES],
    parked: BTreeSet<(Duration, Arc<str>)>,
    len: usize,
}

/// How many classes there are.
const CLASSES: usize = Class::ALL.len();

#[derive(Debug)]
struct Namespace {
    name: Arc<str>,
    tokens: f64,
    at: Duration,
    hold: Option<Hold>,
    parked: Option<Duration>,
    classes: [Turns; CLASSES],
}

/// A namespace in which nothing can be published. Once its time is over one delivery is tried, and the others wait
/// for what becomes of it.
#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Duration,
    tried: bool,
}

impl Hold {
    /// When something may be tried.
    fn free_at(self) -> Duration {
        if self.tried { NEVER } else { self.until }
    }
}

/// Not before something is said.
const NEVER: Duration = Duration::MAX;

/// The webhooks of one namespace and class, in turn.
#[derive(Debug, Default)]
struct Turns {
    /// Whether the namespace stands in the queue's list of this class.
    listed: bool,
    order: VecDeque<Arc<str>>,
    /// The deliveries of each webhook, oldest first; never empty.
    lanes: HashMap<Arc<str>, VecDeque<i64>>,
}

impl Turns {
    fn push(&mut self, uid: &str, seq: i64) {
        if let Some(lane) = self.lanes.get_mut(uid) {
            let at = lane.partition_point(|other| *other < seq);
            lane.insert(at, seq);
            return;
        }
        let uid: Arc<str> = uid.into();
        self.order.push_back(Arc::clone(&uid));
        self.lanes.insert(uid, VecDeque::from([seq]));
    }

    /// The oldest of the webhook whose turn it is, which then goes to the end.
    fn take(&mut self) -> Option<(Arc<str>, i64)> {
        let uid = self.order.pop_front()?;
        let lane = self.lanes.get_mut(&uid)?;
        let seq = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(&uid);
        } else {
            self.order.push_back(Arc::clone(&uid));
        }
        Some((uid, seq))
    }
}

impl Namespace {
    fn refill(&mut self, pace: Pace, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * pace.per_second).min(f64::from(pace.burst));
        self.at = self.at.max(now);
    }

    /// When it may next be written to.
    fn free_at(&mut self, pace: Pace, now: Duration) -> Duration {
        self.refill(pace, now);
        let held = self.hold.map_or(now, Hold::free_at);
        if self.tokens >= 1.0 {
            return held.max(now);
        }
        // A hair more than needed, so that rounding cannot wake us just before the token is there.
        let wait = Duration::from_secs_f64((1.0 - self.tokens) / pace.per_second + 1e-6);
        held.max(now + wait)
    }

    fn is_idle(&self) -> bool {
        self.classes.iter().all(|turns| turns.order.is_empty())
    }
}

impl Queue {
    /// An empty queue. A pace that is not positive is taken as one Event a second.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        let per_second = if pace.per_second.is_finite() && pace.per_second > 0.0 {
            pace.per_second
        } else {
            1.0
        };
        Queue {
            pace: Pace {
                per_second,
                burst: pace.burst.max(1),
            },
            namespaces: HashMap::new(),
            open: Default::default(),
            parked: BTreeSet::new(),
            len: 0,
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a delivery, at the place that its number gives it: one that comes back goes before the younger ones.
    pub fn push(&mut self, new: &Waiting) {
        let class = place(new.class);
        let namespace = self.namespaces.get_mut(new.namespace.as_str());
        let namespace = match namespace {
            Some(namespace) => namespace,
            None => add(&mut self.namespaces, self.pace, &new.namespace),
        };
        let turns = &mut namespace.classes[class];
        turns.push(&new.uid, new.seq);
        if namespace.parked.is_none() && !turns.listed {
            turns.listed = true;
            self.open[class].push_back(Arc::clone(&namespace.name));
        }
        self.len += 1;
    }

    /// Publishes nothing in a namespace before `until`, and then one to try it: what becomes of that is said by
    /// another `hold`, or by [`Queue::release`].
    pub fn hold(&mut self, namespace: &str, until: Duration) {
        let entry = match self.namespaces.get_mut(namespace) {
            Some(entry) => entry,
            None => add(&mut self.namespaces, self.pace, namespace),
        };
        entry.hold = Some(Hold {
            until,
            tried: false,
        });
        self.look_again(namespace);
    }

    /// Publishes in a namespace again.
    pub fn release(&mut self, namespace: &str) {
        let held = self
            .namespaces
            .get_mut(namespace)
            .and_then(|namespace| namespace.hold.take());
        if held.is_some() {
            self.look_again(namespace);
        }
    }

    /// Lists a namespace that is parked, since until when it is has changed.
    fn look_again(&mut self, namespace: &str) {
        let Some(entry) = self.namespaces.get_mut(namespace) else {
            return;
        };
        if let Some(at) = entry.parked.take() {
            self.parked.remove(&(at, Arc::clone(&entry.name)));
            list(entry, &mut self.open);
        }
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Duration) -> Next {
        self.unpark(now);
        for class in Class::ALL {
            while let Some(name) = self.open[place(class)].pop_front() {
                let Some(namespace) = self.namespaces.get_mut(&name) else {
                    continue;
                };
                namespace.classes[place(class)].listed = false;
                if namespace.parked.is_some() {
                    // It was closed by another class; it is listed again when it opens.
                    continue;
                }
                let free = namespace.free_at(self.pace, now);
                if free > now {
                    namespace.parked = Some(free);
                    self.parked.insert((free, name));
                    continue;
                }
                let turns = &mut namespace.classes[place(class)];
                let Some((uid, seq)) = turns.take() else {
                    continue;
                };
                if !turns.order.is_empty() {
                    turns.listed = true;
                    self.open[place(class)].push_back(Arc::clone(&name));
                }
                namespace.tokens -= 1.0;
                if let Some(hold) = &mut namespace.hold {
                    hold.tried = true;
                }
                self.len -= 1;
                return Next::Take(Waiting {
                    seq,
                    class,
                    namespace: name.as_ref().to_owned(),
                    uid: uid.as_ref().to_owned(),
                });
            }
        }
        match self.parked.first() {
            Some((at, _)) if *at < NEVER => Next::At(*at),
            Some(_) | None => Next::Idle,
        }
    }

    /// Lists again the namespaces whose time has come.
    fn unpark(&mut self, now: Duration) {
        while let Some((at, name)) = self.parked.pop_first() {
            if at > now {
                self.parked.insert((at, name));
                return;
            }
            let Some(namespace) = self.namespaces.get_mut(&name) else {
                continue;
            };
            namespace.parked = None;
            list(namespace, &mut self.open);
        }
    }

    /// Forgets namespaces in which nothing happens: nothing waits, full of tokens, not held.
    pub fn tidy(&mut self, now: Duration) {
        let pace = self.pace;
        self.namespaces.retain(|_, namespace| {
            namespace.refill(pace, now);
            !namespace.is_idle()
                || namespace.tokens < f64::from(pace.burst)
                || namespace.hold.is_some_and(|hold| hold.free_at() > now)
        });
    }
}

/// A namespace that was not there, with all its tokens.
fn add<'n>(
    namespaces: &'n mut HashMap<Arc<str>, Namespace>,
    pace: Pace,
    name: &str,
) -> &'n mut Namespace {
    let name: Arc<str> = name.into();
    namespaces.entry(Arc::clone(&name)).or_insert(Namespace {
        name,
        tokens: f64::from(pace.burst),
        at: Duration::ZERO,
        hold: None,
        parked: None,
        classes: Default::default(),
    })
}

/// Enters a namespace into the lists of the classes that it has deliveries of.
fn list(namespace: &mut Namespace, open: &mut [VecDeque<Arc<str>>; CLASSES]) {
    for (turns, open) in namespace.classes.iter_mut().zip(open) {
        if !turns.order.is_empty() && !turns.listed {
            turns.listed = true;
            open.push_back(Arc::clone(&namespace.name));
        }
    }
}

/// The place of a class in the order of [`Class::ALL`].
fn place(class: Class) -> usize {
    match class {
        Class::Alarm => 0,
        Class::Device => 1,
        Class::Site => 2,
        Class::Other => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1);

    fn waiting(seq: i64, class: Class, namespace: &str, uid: &str) -> Waiting {
        Waiting {
            seq,
            class,
            namespace: namespace.to_owned(),
            uid: uid.to_owned(),
        }
    }

    fn queue(burst: u32, entries: &[(i64, Class, &str, &str)]) -> Queue {
        let mut queue = Queue::new(Pace {
            per_second: 10.0,
            burst,
        });
        for (seq, class, namespace, uid) in entries {
            queue.push(&waiting(*seq, *class, namespace, uid));
        }
        queue
    }

    fn drain(queue: &mut Queue, now: Duration) -> Vec<i64> {
        let mut taken = Vec::new();
        while let Next::Take(next) = queue.next(now) {
            taken.push(next.seq);
        }
        taken
    }

    #[test]
    fn alarms_come_first_and_the_oldest_of_a_class_before_the_younger() {
        let mut queue = queue(
            100,
            &[
                (1, Class::Site, "a", "w"),
                (2, Class::Other, "a", "w"),
                (3, Class::Alarm, "a", "w"),
                (5, Class::Device, "a", "w"),
                (4, Class::Alarm, "a", "w"),
            ],
        );
        assert_eq!(drain(&mut queue, START), [3, 4, 5, 1, 2]);
        assert!(queue.is_empty());
        assert_eq!(queue.next(START), Next::Idle);
    }

    #[test]
    fn webhooks_take_turns_so_that_a_storm_on_one_does_not_starve_another() {
        let mut queue = queue(5_000, &[]);
        for seq in 0..4_000 {
            queue.push(&waiting(seq, Class::Alarm, "a", "storm"));
        }
        for seq in 5_000..5_010 {
            queue.push(&waiting(seq, Class::Alarm, "a", "calm"));
        }
        let first: Vec<i64> = drain(&mut queue, START)[..20].to_vec();
        assert_eq!(first.iter().filter(|seq| **seq >= 5_000).count(), 10);
    }

    #[test]
    fn the_burst_is_spent_and_then_the_pace_holds() {
        let mut queue = queue(3, &[]);
        for seq in 0..10 {
            queue.push(&waiting(seq, Class::Alarm, "a", "w"));
        }
        assert_eq!(drain(&mut queue, START).len(), 3);
        let Next::At(at) = queue.next(START) else {
            panic!("the burst is spent");
        };
        assert!(
            at > START && at < START + Duration::from_millis(101),
            "{at:?}"
        );
        assert_eq!(drain(&mut queue, at).len(), 1);
        assert_eq!(drain(&mut queue, START + Duration::from_secs(60)).len(), 3);
    }

    #[test]
    fn a_namespace_that_is_held_or_spent_does_not_hold_up_another() {
        let mut queue = queue(
            1,
            &[
                (1, Class::Alarm, "held", "w1"),
                (2, Class::Alarm, "spent", "w2"),
                (3, Class::Alarm, "spent", "w2"),
                (4, Class::Other, "free", "w3"),
            ],
        );
        queue.hold("held", START + Duration::from_secs(30));
        assert_eq!(drain(&mut queue, START), [2, 4]);
        assert_eq!(
            drain(&mut queue, START + Duration::from_secs(29)),
            [3],
            "a hold ends at its time"
        );
        assert_eq!(drain(&mut queue, START + Duration::from_secs(30)), [1]);
    }

    #[test]
    fn a_hold_that_is_over_lets_one_through_and_the_others_once_it_is_known_to_be_well() {
        let entries: Vec<_> = (1..5).map(|seq| (seq, Class::Alarm, "a", "w")).collect();
        let mut queue = queue(9, &entries);
        queue.hold("a", START + Duration::from_secs(1));
        assert_eq!(queue.next(START), Next::At(START + Duration::from_secs(1)));
        let over = START + Duration::from_secs(1);
        assert_eq!(drain(&mut queue, over), [1]);
        assert_eq!(queue.next(over), Next::Idle, "nobody has said how it went");
        queue.hold("a", over + Duration::from_secs(2));
        queue.push(&waiting(1, Class::Alarm, "a", "w"));
        let over = over + Duration::from_secs(2);
        assert_eq!(queue.next(START), Next::At(over));
        assert_eq!(drain(&mut queue, over), [1]);
        queue.release("a");
        assert_eq!(drain(&mut queue, over), [2, 3, 4]);
        queue.release("a");
        queue.release("nowhere");
        assert_eq!(queue.next(over), Next::Idle);
    }

    #[test]
    fn one_that_comes_back_goes_before_the_younger_ones() {
        let mut queue = queue(
            9,
            &[(1, Class::Alarm, "a", "w"), (2, Class::Alarm, "a", "w")],
        );
        let Next::Take(first) = queue.next(START) else {
            panic!("something waits");
        };
        queue.push(&first);
        assert_eq!(drain(&mut queue, START), [1, 2]);
    }

    /// What it shows, the burst, the deliveries, and the order in which they are published.
    type Case<'c> = (&'c str, u32, &'c [(i64, Class, &'c str)], &'c [i64]);

    /// What is published of these deliveries in one namespace, when so many may be at once.
    fn order(burst: u32, entries: &[(i64, Class, &str)]) -> Vec<i64> {
        let entries: Vec<_> = entries
            .iter()
            .map(|(seq, class, uid)| (*seq, *class, "a", *uid))
            .collect();
        drain(&mut queue(burst, &entries), START)
    }

    #[test]
    fn the_order_is_this() {
        use Class::{Alarm, Device, Other, Site};
        let cases: [Case; 6] = [
            (
                "alarms before devices before sites before the rest",
                9,
                &[
                    (1, Other, "w"),
                    (2, Site, "w"),
                    (3, Device, "w"),
                    (4, Alarm, "w"),
                ],
                &[4, 3, 2, 1],
            ),
            (
                "the tokens that are left go to alarms",
                2,
                &[
                    (1, Site, "w"),
                    (2, Device, "w"),
                    (3, Alarm, "w"),
                    (4, Alarm, "w"),
                ],
                &[3, 4],
            ),
            (
                "the oldest of a webhook first, in whatever order they came",
                9,
                &[
                    (3, Alarm, "w"),
                    (1, Alarm, "w"),
                    (4, Alarm, "w"),
                    (2, Alarm, "w"),
                ],
                &[1, 2, 3, 4],
            ),
            (
                "webhooks take turns",
                9,
                &[
                    (1, Alarm, "x"),
                    (2, Alarm, "x"),
                    (3, Alarm, "x"),
                    (4, Alarm, "y"),
                    (5, Alarm, "y"),
                ],
                &[1, 4, 2, 5, 3],
            ),
            (
                "a turn is within a class",
                9,
                &[
                    (1, Device, "x"),
                    (2, Alarm, "x"),
                    (3, Alarm, "y"),
                    (4, Device, "y"),
                    (5, Alarm, "x"),
                ],
                &[2, 3, 5, 1, 4],
            ),
            (
                "one that comes late has its turn next",
                3,
                &[
                    (1, Alarm, "x"),
                    (2, Alarm, "x"),
                    (3, Alarm, "x"),
                    (4, Alarm, "x"),
                    (9, Alarm, "late"),
                ],
                &[1, 9, 2],
            ),
        ];
        for (what, burst, entries, expected) in cases {
            assert_eq!(order(burst, entries), expected, "{what}");
        }
    }

    #[test]
    fn an_alarm_that_comes_while_the_namespace_is_spent_is_the_next_one() {
        let mut queue = queue(1, &[(1, Class::Site, "a", "w"), (2, Class::Site, "a", "w")]);
        assert_eq!(drain(&mut queue, START), [1]);
        queue.push(&waiting(3, Class::Alarm, "a", "v"));
        assert_eq!(drain(&mut queue, START), [] as [i64; 0]);
        let later = START + Duration::from_millis(110);
        assert_eq!(drain(&mut queue, later), [3]);
        assert_eq!(drain(&mut queue, later + Duration::from_millis(110)), [2]);
    }

    /// Searching all of them for each one that is taken would take minutes here.
    #[test]
    fn neither_many_webhooks_nor_many_closed_namespaces_are_searched() {
        let mut queue = queue(50_000, &[]);
        for seq in 0..20_000 {
            let namespace = format!("held-{seq}");
            queue.hold(&namespace, START + Duration::from_secs(60));
            queue.push(&waiting(seq, Class::Alarm, &namespace, &format!("w-{seq}")));
            let uid = format!("v-{}", seq % 5_000);
            queue.push(&waiting(20_000 + seq, Class::Site, "free", &uid));
        }
        assert_eq!(drain(&mut queue, START).len(), 20_000);
        assert_eq!(queue.len(), 20_000);
        assert_eq!(queue.next(START), Next::At(START + Duration::from_secs(60)));
        assert_eq!(
            drain(&mut queue, START + Duration::from_secs(60)).len(),
            20_000
        );
        for seq in 0..20_000 {
            queue.release(&format!("held-{seq}"));
        }
        queue.tidy(START + Duration::from_secs(61));
        assert!(
            queue.is_empty() && queue.namespaces.len() == 1,
            "only the spent one is kept"
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_or_taken_twice_and_the_pace_is_never_exceeded(
            entries in proptest::collection::vec((0_u8..3, 0_u8..4, 0_i64..4), 0..200),
            steps in proptest::collection::vec(0_u64..3_000, 1..50),
        ) {
            let mut queue = queue(5, &[]);
            for (seq, (namespace, webhook, class)) in (0_i64..).zip(&entries) {
                queue.push(&waiting(seq, Class::from_rank(*class), &format!("n{namespace}"), &format!("n{namespace}-w{webhook}")));
            }
            let mut now = START;
            let mut taken = Vec::new();
            for step in steps {
                now += Duration::from_millis(step);
                while let Next::Take(next) = queue.next(now) {
                    taken.push(next);
                }
                for namespace in ["n0", "n1", "n2"] {
                    let count = taken.iter().filter(|t| t.namespace == namespace).count();
                    #[allow(clippy::cast_precision_loss)]
                    let count = count as f64;
                    proptest::prop_assert!(count <= 5.0 + now.saturating_sub(START).as_secs_f64() * 10.0 + 1e-3);
                }
            }
            let mut seqs: Vec<i64> = taken.iter().map(|t| t.seq).collect();
            seqs.sort_unstable();
            seqs.dedup();
            proptest::prop_assert_eq!(seqs.len(), taken.len());
            proptest::prop_assert_eq!(taken.len() + queue.len(), entries.len());
        }
    }
}
