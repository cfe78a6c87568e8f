//! What waits to be published, counted: how many and since when, for each class and for each webhook.
//!
//! The [queue](super::pacing) says what comes next; this says how it stands, for metrics and for the condition
//! `DeliveriesDelayed`. It is asked every second, so it never looks at all that waits.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::catalogue::Class;
use super::pacing::Waiting;

/// A delivery that has waited for longer than this is delayed.
pub const LONG: Duration = Duration::from_secs(60);

/// Deliveries by arrival.
type Arrivals = BTreeSet<(Timestamp, i64)>;

/// All that waits, and what is on its way.
#[derive(Debug, Default)]
pub struct Waitlist {
    classes: HashMap<Class, Arrivals>,
    webhooks: HashMap<String, Arrivals>,
}

impl Waitlist {
    /// A delivery waits that arrived at this time.
    pub fn insert(&mut self, waiting: &Waiting, received_at: Timestamp) {
        let arrival = (received_at, waiting.seq);
        self.classes
            .entry(waiting.class)
            .or_default()
            .insert(arrival);
        if let Some(arrivals) = self.webhooks.get_mut(&waiting.uid) {
            arrivals.insert(arrival);
        } else {
            let arrivals = Arrivals::from([arrival]);
            self.webhooks.insert(waiting.uid.clone(), arrivals);
        }
    }

    /// It waits no longer.
    pub fn remove(&mut self, waiting: &Waiting, received_at: Timestamp) {
        let arrival = (received_at, waiting.seq);
        if let Some(arrivals) = self.classes.get_mut(&waiting.class) {
            arrivals.remove(&arrival);
        }
        if let Some(arrivals) = self.webhooks.get_mut(&waiting.uid) {
            arrivals.remove(&arrival);
            if arrivals.is_empty() {
                self.webhooks.remove(&waiting.uid);
            }
        }
    }

    /// How many of a class wait.
    #[must_use]
    pub fn count(&self, class: Class) -> usize {
        self.classes.get(&class).map_or(0, BTreeSet::len)
    }

    /// When the oldest of a class arrived.
    #[must_use]
    pub fn oldest(&self, class: Class) -> Option<Timestamp> {
        first(self.classes.get(&class)?)
    }

    /// The webhooks, by uid, of which a delivery has waited for longer than [`LONG`]: when the oldest arrived, and its
    /// number.
    #[must_use]
    pub fn delayed(&self, now: Timestamp) -> HashMap<String, (Timestamp, i64)> {
        let is_long = |since: &Timestamp| now.duration_since(*since).unsigned_abs() > LONG;
        self.webhooks
            .iter()
            .filter_map(|(uid, arrivals)| Some((uid, *arrivals.first()?)))
            .filter(|(_, (since, _))| *since < now && is_long(since))
            .map(|(uid, oldest)| (uid.clone(), oldest))
            .collect()
    }

    /// The webhooks of which deliveries wait: how many, and the number of one of them.
    pub fn left(&self) -> impl Iterator<Item = (usize, i64)> {
        let webhooks = self.webhooks.values();
        webhooks.filter_map(|arrivals| Some((arrivals.len(), arrivals.first()?.1)))
    }
}

fn first(arrivals: &Arrivals) -> Option<Timestamp> {
    arrivals.first().map(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn waiting(seq: i64, class: Class, uid: &str) -> Waiting {
        Waiting {
            seq,
            class,
            namespace: "security".to_owned(),
            uid: uid.to_owned(),
        }
    }

    #[test]
    fn each_class_and_each_webhook_is_as_old_as_its_oldest() {
        let mut list = Waitlist::default();
        for (seq, class, uid, second) in [
            (7, Class::Alarm, "a", 100),
            // Replayed: the younger number, the older arrival.
            (9, Class::Alarm, "a", 40),
            (8, Class::Site, "b", 99),
        ] {
            list.insert(&waiting(seq, class, uid), at(second));
        }
        assert_eq!(list.count(Class::Alarm), 2);
        assert_eq!(list.oldest(Class::Alarm), Some(at(40)));
        assert_eq!(
            (list.count(Class::Device), list.oldest(Class::Device)),
            (0, None)
        );
        assert!(
            list.delayed(at(100)).is_empty(),
            "a minute is not longer than a minute"
        );
        assert_eq!(
            list.delayed(at(101)),
            HashMap::from([("a".to_owned(), (at(40), 9))])
        );
        assert_eq!(list.delayed(at(200)).len(), 2);
        list.remove(&waiting(9, Class::Alarm, "a"), at(40));
        assert_eq!(list.oldest(Class::Alarm), Some(at(100)));
        assert!(list.delayed(at(160)).keys().eq(["b"]));
        let mut left: Vec<_> = list.left().collect();
        left.sort_unstable();
        assert_eq!(left, [(1, 7), (1, 8)]);
        list.remove(&waiting(8, Class::Site, "b"), at(99));
        assert!(list.delayed(at(160)).is_empty());
        assert_eq!(
            list.webhooks.len(),
            1,
            "a webhook of which nothing waits is forgotten"
        );
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_old() {
        let mut list = Waitlist::default();
        list.insert(&waiting(1, Class::Alarm, "a"), at(1_000));
        assert!(list.delayed(at(10)).is_empty());
    }
}
