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

/// Whether an attempt may begin: in a namespace that is well, and in one that is slow or failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In one that is well, or of which nothing is known.
    pub well: bool,
    /// In one that is sick.
    pub sick: bool,
}

impl Room {
    fn has(self, pool: Pool) -> bool {
        match pool {
            Pool::Well => self.well,
            Pool::Sick => self.sick,
        }
    }
}

/// Whose places a namespace uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    Well,
    Sick,
}

/// The most attempts under way in one namespace.
const MAX_IN_NAMESPACE: usize = 8;
/// Attempts under way in all sick namespaces together. Each may have its part of them, and one in any case. A hanging one holds
/// a seat of the API server's priority and fairness, so they are few.
pub const SICK_PLACES: usize = 32;

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
/// well or sick -> class -> namespaces that may be written to, in turn -> webhooks, in turn -> the oldest
/// parked: namespaces that may not yet, by the time from which they may
/// ```
///
/// How many attempts a namespace may have under way grows from one, with each that succeeds, up to
/// [`MAX_IN_NAMESPACE`]. What is taken is under way until [`Queue::landed`].
///
/// Nothing here looks at all that waits: a hundred thousand deliveries, or thousands of webhooks and of namespaces
/// that are held, make neither [`Queue::push`] nor [`Queue::next`] slow.
#[derive(Debug)]
pub struct Queue {
    pace: Pace,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// For each class, in the order of [`Class::ALL`]: the namespaces that have such deliveries and are not known to
    /// be closed.
    open: [Open; 2],
    parked: BTreeSet<(Duration, Arc<str>)>,
    len: usize,
    sick: usize,
    hastened: bool,
    most: usize,
}

/// For each class, the namespaces of one pool.
type Open = [VecDeque<Arc<str>>; CLASSES];

/// How many classes there are.
const CLASSES: usize = Class::ALL.len();

#[derive(Debug)]
struct Namespace {
    name: Arc<str>,
    tokens: f64,
    at: Duration,
    /// Nothing is to be tried before this time.
    until: Duration,
    pool: Pool,
    in_flight: usize,
    limit: usize,
    /// Up to here the limit doubles with a success, and beyond it grows by one: half of what it was when one failed.
    doubles_to: usize,
    parked: Option<Duration>,
    classes: [Turns; CLASSES],
}

/// Not before something is said.
const NEVER: Duration = Duration::MAX;

/// The webhooks of one namespace and class, in turn.
#[derive(Debug, Default)]
struct Turns {
    /// Whether the namespace stands in the lists of this class, those of the well and of the sick.
    listed: [bool; 2],
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

    /// When it may next be written to, where a sick one may have `share` attempts under way.
    fn free_at(&mut self, pace: Option<Pace>, share: usize, now: Duration) -> Duration {
        let limit = match self.pool {
            Pool::Well => self.limit,
            Pool::Sick => self.limit.min(share),
        };
        if self.in_flight >= limit {
            return NEVER;
        }
        let held = self.until.max(now);
        let Some(pace) = pace else {
            return held;
        };
        self.refill(pace, now);
        if self.tokens >= 1.0 {
            return held;
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
            sick: 0,
            hastened: false,
            most: MAX_IN_NAMESPACE,
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
        let namespace = match self.namespaces.get_mut(new.namespace.as_str()) {
            Some(namespace) => namespace,
            None => add(&mut self.namespaces, self.pace, &new.namespace),
        };
        let turns = &mut namespace.classes[class];
        turns.push(&new.uid, new.seq);
        let pool = namespace.pool as usize;
        if namespace.parked.is_none() && !turns.listed[pool] {
            turns.listed[pool] = true;
            self.open[pool][class].push_back(Arc::clone(&namespace.name));
        }
        self.len += 1;
    }

    /// A namespace fails: nothing is tried in it before `until`, and then one at a time until one succeeds.
    pub fn hold(&mut self, namespace: &str, until: Duration) {
        let entry = self.entry(namespace);
        entry.until = until;
        if entry.limit > 1 {
            entry.doubles_to = entry.limit / 2;
            entry.limit = 1;
        }
        self.set_pool(namespace, Pool::Sick);
    }

    /// A namespace is slow: half as many attempts until one succeeds.
    pub fn slow(&mut self, namespace: &str) {
        let entry = self.entry(namespace);
        if entry.pool == Pool::Well {
            entry.limit = (entry.limit / 2).max(1);
            self.set_pool(namespace, Pool::Sick);
        }
    }

    /// A namespace that is held is tried at `now`.
    pub fn again(&mut self, namespace: &str, now: Duration) {
        if let Some(entry) = self.namespaces.get_mut(namespace) {
            entry.until = entry.until.min(now);
            self.look_again(namespace);
        }
    }

    /// An attempt in a namespace succeeded, fast or not.
    pub fn works(&mut self, namespace: &str, is_fast: bool) {
        let most = self.most;
        let entry = self.entry(namespace);
        entry.until = Duration::ZERO;
        let more = if entry.limit < entry.doubles_to {
            entry.limit.saturating_mul(2).min(entry.doubles_to)
        } else {
            entry.limit + 1
        };
        entry.limit = more.min(most);
        let pool = if is_fast { Pool::Well } else { Pool::Sick };
        self.set_pool(namespace, pool);
    }

    /// An attempt in a namespace is over.
    pub fn landed(&mut self, namespace: &str) {
        let entry = self.entry(namespace);
        entry.in_flight = entry.in_flight.saturating_sub(1);
        self.look_again(namespace);
    }

    /// Whether a namespace is slow or failing.
    #[must_use]
    pub fn is_sick(&self, namespace: &str) -> bool {
        let entry = self.namespaces.get(namespace);
        entry.is_some_and(|entry| entry.pool == Pool::Sick)
    }

    /// The process ends: no pace any more, and `most` attempts in one namespace.
    pub fn hasten(&mut self, most: usize) {
        self.hastened = true;
        self.most = self.most.max(most);
        let parked = std::mem::take(&mut self.parked);
        for (_, name) in parked {
            if let Some(entry) = self.namespaces.get_mut(&name) {
                entry.parked = None;
                list(entry, &mut self.open);
            }
        }
    }

    fn entry(&mut self, namespace: &str) -> &mut Namespace {
        add(&mut self.namespaces, self.pace, namespace)
    }

    fn set_pool(&mut self, namespace: &str, pool: Pool) {
        let entry = self.entry(namespace);
        let before = std::mem::replace(&mut entry.pool, pool);
        match (before, pool) {
            (Pool::Well, Pool::Sick) => self.sick += 1,
            (Pool::Sick, Pool::Well) => self.sick = self.sick.saturating_sub(1),
            (Pool::Well, Pool::Well) | (Pool::Sick, Pool::Sick) => {}
        }
        self.look_again(namespace);
    }

    /// Lists a namespace, since until when it is parked, or whose places it uses, has changed.
    fn look_again(&mut self, namespace: &str) {
        let Some(entry) = self.namespaces.get_mut(namespace) else {
            return;
        };
        if let Some(at) = entry.parked.take() {
            self.parked.remove(&(at, Arc::clone(&entry.name)));
        }
        list(entry, &mut self.open);
    }

    /// What to do at `now`, where there is this room. Nothing to do may mean that there is none.
    pub fn next(&mut self, now: Duration, room: Room) -> Next {
        self.unpark(now);
        for pool in [Pool::Well, Pool::Sick] {
            if !room.has(pool) {
                continue;
            }
            for class in Class::ALL {
                if let Some(waiting) = self.take(pool, class, now) {
                    return Next::Take(waiting);
                }
            }
        }
        match self.parked.first() {
            Some((at, _)) if *at < NEVER => Next::At(*at),
            Some(_) | None => Next::Idle,
        }
    }

    /// The next of a pool and class that may be published at `now`.
    fn take(&mut self, pool: Pool, class: Class, now: Duration) -> Option<Waiting> {
        let pace = (!self.hastened).then_some(self.pace);
        let share = SICK_PLACES / self.sick.max(1);
        let (side, rank) = (pool as usize, place(class));
        while let Some(name) = self.open[side][rank].pop_front() {
            let Some(namespace) = self.namespaces.get_mut(&name) else {
                continue;
            };
            namespace.classes[rank].listed[side] = false;
            if namespace.parked.is_some() || namespace.pool != pool {
                // It was closed by another class, and is listed again when it opens; or it is listed on the other side.
                continue;
            }
            let free = namespace.free_at(pace, share.max(1), now);
            if free > now {
                namespace.parked = Some(free);
                self.parked.insert((free, name));
                continue;
            }
            let turns = &mut namespace.classes[rank];
            let Some((uid, seq)) = turns.take() else {
                continue;
            };
            if !turns.order.is_empty() {
                turns.listed[side] = true;
                self.open[side][rank].push_back(Arc::clone(&name));
            }
            namespace.tokens = (namespace.tokens - 1.0).max(0.0);
            namespace.in_flight += 1;
            self.len -= 1;
            return Some(Waiting {
                seq,
                class,
                namespace: name.as_ref().to_owned(),
                uid: uid.as_ref().to_owned(),
            });
        }
        None
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
                || namespace.in_flight > 0
                || namespace.tokens < f64::from(pace.burst)
                || namespace.until > now
        });
        let sick = |namespace: &&Namespace| namespace.pool == Pool::Sick;
        self.sick = self.namespaces.values().filter(sick).count();
    }
}

/// A namespace; one that was not there has all its tokens.
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
        until: Duration::ZERO,
        pool: Pool::Well,
        in_flight: 0,
        limit: 1,
        doubles_to: usize::MAX,
        parked: None,
        classes: Default::default(),
    })
}

/// Enters a namespace into the lists of the classes that it has deliveries of.
fn list(namespace: &mut Namespace, open: &mut [Open; 2]) {
    let pool = namespace.pool as usize;
    for (turns, open) in namespace.classes.iter_mut().zip(&mut open[pool]) {
        if !turns.order.is_empty() && !turns.listed[pool] {
            turns.listed[pool] = true;
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
    const ALL: Room = Room {
        well: true,
        sick: true,
    };

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
        while let Next::Take(next) = queue.next(now, ALL) {
            queue.landed(&next.namespace);
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
        assert_eq!(queue.next(START, ALL), Next::Idle);
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
        let Next::At(at) = queue.next(START, ALL) else {
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
        assert_eq!(
            queue.next(START, ALL),
            Next::At(START + Duration::from_secs(1))
        );
        let over = START + Duration::from_secs(1);
        assert_eq!(under_way(&mut queue, over, ALL), [1]);
        queue.hold("a", over + Duration::from_secs(2));
        queue.landed("a");
        queue.push(&waiting(1, Class::Alarm, "a", "w"));
        let over = over + Duration::from_secs(2);
        assert_eq!(queue.next(START, ALL), Next::At(over));
        assert_eq!(
            under_way(&mut queue, over, ALL),
            [1],
            "no outcome is known yet"
        );
        queue.works("a", true);
        queue.landed("a");
        assert_eq!(
            under_way(&mut queue, over, ALL),
            [2, 3],
            "one more than before"
        );
        queue.again("nowhere", over);
        queue.landed("nowhere");
        assert_eq!(queue.next(over, ALL), Next::Idle);
    }

    /// What can be taken while nothing of it is over.
    fn under_way(queue: &mut Queue, now: Duration, room: Room) -> Vec<i64> {
        let mut taken = Vec::new();
        while let Next::Take(next) = queue.next(now, room) {
            taken.push(next.seq);
        }
        taken
    }

    #[test]
    fn a_namespace_has_one_attempt_under_way_and_with_each_that_succeeds_more() {
        let mut queue = queue(999, &[]);
        for seq in 0..200 {
            queue.push(&waiting(seq, Class::Alarm, "a", "w"));
        }
        for expected in [1, 2, 4, 8, 8] {
            let taken = under_way(&mut queue, START, ALL).len();
            assert_eq!(taken, expected);
            queue.works("a", true);
            (0..taken).for_each(|_| queue.landed("a"));
        }
        assert_eq!(under_way(&mut queue, START, ALL).len(), 8);
        queue.slow("a");
        (0..4).for_each(|_| queue.landed("a"));
        assert!(
            under_way(&mut queue, START, ALL).is_empty(),
            "half of them are under way"
        );
        queue.landed("a");
        assert_eq!(under_way(&mut queue, START, ALL).len(), 1);
    }

    #[test]
    fn one_that_was_refused_at_eight_doubles_to_four_and_then_grows_by_one() {
        let mut queue = queue(999, &[]);
        (0..4).for_each(|_| queue.works("a", true));
        queue.hold("a", START);
        // Those that were under way together are one failure.
        queue.hold("a", START);
        for seq in 0..200 {
            queue.push(&waiting(seq, Class::Alarm, "a", "w"));
        }
        let mut widths = Vec::new();
        for _ in 0..6 {
            let taken = under_way(&mut queue, START, ALL).len();
            widths.push(taken);
            queue.works("a", true);
            (0..taken).for_each(|_| queue.landed("a"));
        }
        assert_eq!(widths, [1, 2, 4, 5, 6, 7]);
    }

    #[test]
    fn the_sick_and_the_well_take_no_places_from_each_other() {
        let mut queue = queue(999, &[]);
        for number in 0..40 {
            let sick = format!("sick-{number}");
            queue.slow(&sick);
            queue.works(&sick, false);
            for seq in 0..4 {
                queue.push(&waiting(100 + 10 * number + seq, Class::Alarm, &sick, "w"));
            }
        }
        queue.push(&waiting(1, Class::Other, "well", "w"));
        assert!(queue.is_sick("sick-1") && !queue.is_sick("well") && !queue.is_sick("new"));
        let only = |well, sick| Room { well, sick };
        assert!(under_way(&mut queue, START, only(false, false)).is_empty());
        assert_eq!(under_way(&mut queue, START, only(true, false)), [1]);
        let taken = under_way(&mut queue, START, only(false, true));
        assert_eq!(
            taken.len(),
            40,
            "one each, however much works there: {taken:?}"
        );
        // Three of them are well again while all places of the sick are taken.
        for number in 0..3 {
            let sick = format!("sick-{number}");
            queue.works(&sick, true);
            queue.landed(&sick);
        }
        assert_eq!(under_way(&mut queue, START, only(true, false)).len(), 9);
    }

    #[test]
    fn at_the_end_there_is_no_pace_and_more_are_under_way() {
        let mut queue = queue(1, &[]);
        for seq in 0..300 {
            queue.push(&waiting(seq, Class::Alarm, "a", "w"));
        }
        assert_eq!(drain(&mut queue, START).len(), 1);
        queue.hasten(64);
        let mut widths = Vec::new();
        for _ in 0..8 {
            let taken = under_way(&mut queue, START, ALL).len();
            widths.push(taken);
            queue.works("a", true);
            (0..taken).for_each(|_| queue.landed("a"));
        }
        assert_eq!(widths, [1, 2, 4, 8, 16, 32, 64, 64]);
    }

    #[test]
    fn one_that_comes_back_goes_before_the_younger_ones() {
        let mut queue = queue(
            9,
            &[(1, Class::Alarm, "a", "w"), (2, Class::Alarm, "a", "w")],
        );
        let Next::Take(first) = queue.next(START, ALL) else {
            panic!("something waits");
        };
        queue.landed("a");
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
        assert_eq!(
            queue.next(START, ALL),
            Next::At(START + Duration::from_secs(60))
        );
        assert_eq!(
            drain(&mut queue, START + Duration::from_secs(60)).len(),
            20_000
        );
        for seq in 0..20_000 {
            queue.works(&format!("held-{seq}"), true);
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
                while let Next::Take(next) = queue.next(now, ALL) {
                    queue.landed(&next.namespace);
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
