//! Which webhook of which namespace holds how much of something that all webhooks share.
//!
//! The journal accounts with it for deliveries that wait, for dead letters and for what it keeps for the sink. Changes
//! belong to a commit: [`Holdings::keep`] follows it, or [`Holdings::put_back`] if it failed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Records and the bytes of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many records.
    pub records: i64,
    /// How many bytes.
    pub bytes: i64,
}

impl Amount {
    /// One record with a body of this size.
    #[must_use]
    pub fn one(bytes: i64) -> Self {
        Amount { records: 1, bytes }
    }

    fn plus(self, other: Amount) -> Amount {
        Amount {
            records: self.records.saturating_add(other.records),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    fn minus(self, other: Amount) -> Amount {
        Amount {
            records: self.records.saturating_sub(other.records),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Each of the two numbers if it is within its limit, and else zero.
    fn within(self, limit: Amount) -> Amount {
        let kept = |held: i64, limit: i64| if held <= limit { held } else { 0 };
        Amount {
            records: kept(self.records, limit.records),
            bytes: kept(self.bytes, limit.bytes),
        }
    }
}

/// By which of the two numbers holders are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Records.
    Records,
    /// Bytes.
    Bytes,
}

impl Measure {
    /// The number of an amount.
    #[must_use]
    pub fn of(self, amount: Amount) -> i64 {
        match self {
            Measure::Records => amount.records,
            Measure::Bytes => amount.bytes,
        }
    }
}

/// What one namespace holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespace {
    /// All its webhooks together.
    pub total: Amount,
    /// Its small webhooks together.
    pub small: Amount,
    /// Each webhook that holds something.
    pub webhooks: HashMap<Arc<str>, Amount>,
    /// The most webhooks that held something at once since it was last reset.
    pub peak: usize,
}

/// What all hold.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    total: Amount,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// How many namespaces hold something; those that hold nothing any more are listed until the commit.
    live: usize,
    /// The most of them at once since it was last reset.
    peak: usize,
    /// Up to which amount a webhook is small.
    small: Amount,
    /// Whether the last commit left the peaks as they were.
    peaks_kept: bool,
    /// Since the last commit.
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Change {
    namespace: Arc<str>,
    uid: Arc<str>,
    before: Amount,
}

impl Holdings {
    /// Nothing is held. A webhook is small up to an amount.
    #[must_use]
    pub fn with_small(small: Amount) -> Self {
        Holdings {
            small,
            ..Holdings::default()
        }
    }

    /// What all hold together.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.total
    }

    /// Up to which amount a webhook is small.
    #[must_use]
    pub fn small(&self) -> Amount {
        self.small
    }

    /// What a webhook holds.
    #[must_use]
    pub fn of(&self, namespace: &str, uid: &str) -> Amount {
        let namespace = self.namespaces.get(namespace);
        let own = namespace.and_then(|namespace| namespace.webhooks.get(uid));
        own.copied().unwrap_or_default()
    }

    /// A webhook holds so much more.
    pub fn add(&mut self, namespace: &str, uid: &str, amount: Amount) {
        let before = self.of(namespace, uid);
        self.change(namespace, uid, before.plus(amount));
    }

    /// A webhook holds so much less.
    pub fn take(&mut self, namespace: &str, uid: &str, amount: Amount) {
        let before = self.of(namespace, uid);
        self.change(namespace, uid, before.minus(amount));
    }

    fn change(&mut self, namespace: &str, uid: &str, after: Amount) {
        let change = self.set(namespace, uid, after);
        self.changes.push(change);
    }

    fn set(&mut self, namespace: &str, uid: &str, after: Amount) -> Change {
        let name = match self.namespaces.get_key_value(namespace) {
            Some((name, _)) => Arc::clone(name),
            None => namespace.into(),
        };
        let entry = self.namespaces.entry(Arc::clone(&name)).or_default();
        let (uid, before) = match entry.webhooks.get_key_value(uid) {
            Some((uid, before)) => (Arc::clone(uid), *before),
            None => (uid.into(), Amount::default()),
        };
        let was_live = !entry.webhooks.is_empty();
        entry.total = entry.total.minus(before).plus(after);
        entry.small = entry
            .small
            .minus(before.within(self.small))
            .plus(after.within(self.small));
        if after == Amount::default() {
            entry.webhooks.remove(&uid);
        } else {
            entry.webhooks.insert(Arc::clone(&uid), after);
        }
        let is_live = !entry.webhooks.is_empty();
        entry.peak = entry.peak.max(entry.webhooks.len());
        self.live = self.live + usize::from(is_live) - usize::from(was_live);
        self.peak = self.peak.max(self.live);
        self.total = self.total.minus(before).plus(after);
        Change {
            namespace: name,
            uid,
            before,
        }
    }

    /// The webhook that holds most of the namespace that holds most, as namespace and uid, those aside that are excepted
    /// by uid.
    #[must_use]
    pub fn most(&self, measure: Measure, except: &HashSet<String>) -> Option<(String, String)> {
        let largest = |namespace: &Namespace| {
            let webhooks = namespace.webhooks.iter();
            webhooks
                .filter(|(uid, _)| !except.contains(&***uid))
                .max_by_key(|(uid, amount)| (measure.of(**amount), Arc::clone(uid)))
                .map(|(uid, _)| uid.to_string())
        };
        let namespaces = self.namespaces.iter();
        namespaces
            .filter_map(|(name, namespace)| Some((name, namespace.total, largest(namespace)?)))
            .max_by_key(|(name, total, _)| (measure.of(*total), Arc::clone(name)))
            .map(|(name, _, uid)| (name.to_string(), uid))
    }

    /// The uids of all webhooks that hold something.
    pub fn webhooks(&self) -> impl Iterator<Item = &str> {
        let namespaces = self.namespaces.values();
        namespaces.flat_map(|namespace| namespace.webhooks.keys().map(|uid| &**uid))
    }

    /// The changes are on disk. With `reset`, the peaks are what there is now.
    pub fn keep(&mut self, reset: bool) {
        if reset && self.peaks_kept {
            for namespace in self.namespaces.values_mut() {
                namespace.peak = namespace.webhooks.len();
            }
        }
        for change in std::mem::take(&mut self.changes) {
            let Some(namespace) = self.namespaces.get_mut(&change.namespace) else {
                continue;
            };
            if namespace.webhooks.is_empty() {
                self.namespaces.remove(&change.namespace);
            } else if reset {
                namespace.peak = namespace.webhooks.len();
            }
        }
        if reset {
            self.peak = self.live;
        }
        self.peaks_kept = !reset;
    }

    /// They are not: everyone holds what it was at the last commit. Peaks may be higher.
    pub fn put_back(&mut self) {
        while let Some(change) = self.changes.pop() {
            self.set(&change.namespace, &change.uid, change.before);
        }
        self.namespaces
            .retain(|_, namespace| !namespace.webhooks.is_empty());
    }

    /// Counts at least so many namespaces as its peak.
    pub(super) fn raise_peak(&mut self, peak: usize) {
        self.peak = self.peak.max(peak);
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// The peak of namespaces, if this one holds something.
    pub(super) fn peak_with(&self, name: &str) -> usize {
        let is_live = |namespace: &Namespace| !namespace.webhooks.is_empty();
        let more = usize::from(!self.namespace(name).is_some_and(is_live));
        self.peak.max(self.live + more)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn amount(records: i64, bytes: i64) -> Amount {
        Amount { records, bytes }
    }

    #[test]
    fn the_one_who_holds_most_is_the_largest_webhook_of_the_largest_namespace() {
        let mut all = Holdings::default();
        for (namespace, uid, records, bytes) in [
            ("a", "a-1", 5, 10),
            ("b", "b-1", 3, 900),
            ("b", "b-2", 4, 20),
        ] {
            all.add(namespace, uid, amount(records, bytes));
        }
        let most = |measure, except: &[&str]| {
            let except = except.iter().map(ToString::to_string).collect();
            all.most(measure, &except)
                .map_or(String::new(), |(_, uid)| uid)
        };
        assert_eq!(most(Measure::Records, &[]), "b-2");
        assert_eq!(most(Measure::Bytes, &[]), "b-1");
        assert_eq!(most(Measure::Bytes, &["b-1"]), "b-2");
        assert_eq!(most(Measure::Bytes, &["b-1", "b-2"]), "a-1");
        assert_eq!(most(Measure::Bytes, &["b-1", "b-2", "a-1"]), "");
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_the_sum_of_what_was_kept(
            commits in vec((vec((0..4_u8, 0..3_u8, 1..50_i64, any::<bool>()), 0..10), any::<bool>(), any::<bool>()), 0..20),
        ) {
            let small = amount(2, 60);
            let mut all = Holdings::with_small(small);
            let mut model: BTreeMap<(String, String), Amount> = BTreeMap::new();
            for (changes, fails, reset) in commits {
                let mut next = model.clone();
                for (namespace, uid, bytes, adds) in changes {
                    let key = (format!("n{namespace}"), format!("{namespace}/{uid}"));
                    let held = next.entry(key.clone()).or_default();
                    let one = Amount::one(bytes);
                    if adds {
                        *held = held.plus(one);
                        all.add(&key.0, &key.1, one);
                    } else if held.records > 0 && held.bytes >= bytes {
                        let one = if held.records == 1 { *held } else { one };
                        *held = held.minus(one);
                        all.take(&key.0, &key.1, one);
                    }
                }
                next.retain(|_, held| *held != Amount::default());
                if fails {
                    all.put_back();
                } else {
                    all.keep(reset);
                    model = next;
                }
                let sum = model.values().fold(Amount::default(), |sum, held| sum.plus(*held));
                prop_assert_eq!(all.total(), sum);
                let names: HashSet<&String> = model.keys().map(|(namespace, _)| namespace).collect();
                prop_assert_eq!((all.live, all.namespaces.len()), (names.len(), names.len()));
                prop_assert!(all.peak >= all.live && (fails || !reset || all.peak == all.live));
                for name in names {
                    let own: Vec<&Amount> =
                        model.iter().filter(|((n, _), _)| n == name).map(|(_, held)| held).collect();
                    let namespace = all.namespace(name).unwrap();
                    let sum = |limit: Amount| {
                        own.iter().fold(Amount::default(), |sum, held| sum.plus(held.within(limit)))
                    };
                    prop_assert_eq!(namespace.total, sum(amount(i64::MAX, i64::MAX)));
                    prop_assert_eq!(namespace.small, sum(small));
                    prop_assert_eq!(namespace.webhooks.len(), own.len());
                    prop_assert!(namespace.peak >= own.len());
                }
            }
        }
    }
}
