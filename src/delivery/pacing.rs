//! Which delivery is published next, and when: alarms first, the oldest of a webhook first, webhooks in turn, and
//! no namespace faster than its pace.
//!
//! Events cost the API server something and a namespace may hold many people's work, so a storm is spread out
//! here. What waits is safe in the journal; this queue holds numbers only. Time is handed in, as the time since
//! the process started.

use std::collections::{BTreeMap, HashMap, VecDeque};
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
    /// Nothing waits.
    Idle,
}

/// All that waits, and the pace of each namespace.
#[derive(Debug)]
pub struct Queue {
    pace: Pace,
    namespaces: HashMap<String, Namespace>,
    classes: BTreeMap<Class, VecDeque<Lane>>,
    len: usize,
}

/// The deliveries of one webhook and class, oldest first.
#[derive(Debug)]
struct Lane {
    namespace: String,
    uid: String,
    waiting: VecDeque<i64>,
}

#[derive(Debug)]
struct Namespace {
    tokens: f64,
    at: Duration,
    held_until: Duration,
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
            classes: BTreeMap::new(),
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
    pub fn push(&mut self, new: Waiting) {
        let lanes = self.classes.entry(new.class).or_default();
        let known = lanes.iter().position(|lane| lane.uid == new.uid);
        let at = known.unwrap_or_else(|| {
            lanes.push_back(Lane {
                namespace: new.namespace,
                uid: new.uid,
                waiting: VecDeque::new(),
            });
            lanes.len() - 1
        });
        let lane = &mut lanes[at];
        let at = lane.waiting.partition_point(|seq| *seq < new.seq);
        lane.waiting.insert(at, new.seq);
        self.len += 1;
    }

    /// Publishes nothing in a namespace before `until`.
    pub fn hold(&mut self, namespace: &str, until: Duration, now: Duration) {
        let entry = self.namespace(namespace, now);
        entry.held_until = entry.held_until.max(until);
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Duration) -> Next {
        let mut earliest: Option<Duration> = None;
        for class in Class::ALL {
            let count = self.classes.get(&class).map_or(0, VecDeque::len);
            for index in 0..count {
                let Some(lane) = self.classes.get(&class).and_then(|lanes| lanes.get(index)) else {
                    break;
                };
                let namespace = lane.namespace.clone();
                let free = self.free_at(&namespace, now);
                if free > now {
                    earliest = Some(earliest.map_or(free, |e| e.min(free)));
                    continue;
                }
                if let Some(taken) = self.take(class, index, now) {
                    return Next::Take(taken);
                }
            }
        }
        earliest.map_or(Next::Idle, Next::At)
    }

    /// Takes the oldest of a lane and sends the lane to the end of its class, so that webhooks take turns.
    fn take(&mut self, class: Class, index: usize, now: Duration) -> Option<Waiting> {
        let lanes = self.classes.get_mut(&class)?;
        let mut lane = lanes.remove(index)?;
        let seq = lane.waiting.pop_front()?;
        let taken = Waiting {
            seq,
            class,
            namespace: lane.namespace.clone(),
            uid: lane.uid.clone(),
        };
        if !lane.waiting.is_empty() {
            lanes.push_back(lane);
        }
        self.len -= 1;
        self.namespace(&taken.namespace, now).tokens -= 1.0;
        Some(taken)
    }

    /// When the namespace may next be written to.
    fn free_at(&mut self, name: &str, now: Duration) -> Duration {
        let rate = self.pace.per_second;
        let namespace = self.namespace(name, now);
        let held = namespace.held_until;
        if namespace.tokens >= 1.0 {
            return held.max(now);
        }
        // A hair more than needed, so that rounding cannot wake us just before the token is there.
        let wait = Duration::from_secs_f64((1.0 - namespace.tokens) / rate + 1e-6);
        held.max(now + wait)
    }

    fn namespace(&mut self, name: &str, now: Duration) -> &mut Namespace {
        let burst = f64::from(self.pace.burst);
        let rate = self.pace.per_second;
        let namespace = self.namespaces.entry(name.to_owned()).or_insert(Namespace {
            tokens: burst,
            at: now,
            held_until: Duration::ZERO,
        });
        let passed = now.saturating_sub(namespace.at);
        namespace.tokens = (namespace.tokens + passed.as_secs_f64() * rate).min(burst);
        namespace.at = namespace.at.max(now);
        namespace
    }

    /// Forgets namespaces in which nothing happens: full of tokens, not held.
    pub fn tidy(&mut self, now: Duration) {
        let burst = f64::from(self.pace.burst);
        let rate = self.pace.per_second;
        self.namespaces.retain(|_, n| {
            let tokens = n.tokens + now.saturating_sub(n.at).as_secs_f64() * rate;
            tokens < burst || n.held_until > now
        });
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
            queue.push(waiting(*seq, *class, namespace, uid));
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
            queue.push(waiting(seq, Class::Alarm, "a", "storm"));
        }
        for seq in 5_000..5_010 {
            queue.push(waiting(seq, Class::Alarm, "a", "calm"));
        }
        let first: Vec<i64> = drain(&mut queue, START)[..20].to_vec();
        assert_eq!(first.iter().filter(|seq| **seq >= 5_000).count(), 10);
    }

    #[test]
    fn the_burst_is_spent_and_then_the_pace_holds() {
        let mut queue = queue(3, &[]);
        for seq in 0..10 {
            queue.push(waiting(seq, Class::Alarm, "a", "w"));
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
        queue.hold("held", START + Duration::from_secs(30), START);
        assert_eq!(drain(&mut queue, START), [2, 4]);
        assert_eq!(
            drain(&mut queue, START + Duration::from_secs(29)),
            [3],
            "a hold ends at its time"
        );
        assert_eq!(drain(&mut queue, START + Duration::from_secs(30)), [1]);
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
        queue.push(first);
        assert_eq!(drain(&mut queue, START), [1, 2]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_or_taken_twice_and_the_pace_is_never_exceeded(
            entries in proptest::collection::vec((0_u8..3, 0_u8..4, 0_i64..4), 0..200),
            steps in proptest::collection::vec(0_u64..3_000, 1..50),
        ) {
            let mut queue = queue(5, &[]);
            for (seq, (namespace, webhook, class)) in (0_i64..).zip(&entries) {
                queue.push(waiting(seq, Class::from_rank(*class), &format!("n{namespace}"), &format!("n{namespace}-w{webhook}")));
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
