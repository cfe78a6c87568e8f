//! Whether one more delivery may wait in the journal, when others may need the room: plain arithmetic over who holds
//! how much.
//!
//! Up to half of the journal, every delivery is admitted. Beyond that a webhook is admitted as long as it is within its
//! share, and otherwise only if enough is left for all that are. So some room is always kept back:
//!
//! ```text
//! limit
//!   | kept back, limit / (n + 1):    n namespaces hold something
//!   |   half of it for these n, in equal parts: each part is the share of a namespace
//!   |   half of it for namespaces that come later; with each of them the shares become smaller
//!   | open: a namespace that is over its share may take half of what is left of the whole journal
//! ```
//!
//! A share is divided among the webhooks of the namespace in the same way. The parts that are given to the first, the
//! second, the third and so on are limit/4, limit/12, limit/24, and sum up to half of the limit however many come.
//! So no order in which holders come can leave less than its share to any of them, and a property test plays the
//! adversary. `n` counts all that held something since the journal was last half empty: who leaves for a moment does
//! not make the shares of others larger than what was kept back for them.
//!
//! Records and bytes are judged apart, and both must be admitted.

use super::holdings::{Amount, Holdings, Measure};

/// A webhook that holds no more than the limit divided by this is small: it may use all of its namespace's share.
const SMALL: i64 = 256;

/// What is said of a delivery that would wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It may.
    Admitted,
    /// Its webhook or namespace is over its share.
    OverShare,
    /// There is no room for anything.
    Full,
}

/// How it stands with one of the two numbers if the delivery is admitted.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// The most there may be.
    limit: i64,
    /// What is held by all.
    total: i64,
    /// What is held in the namespace.
    namespace: i64,
    /// What is held by the small webhooks of the namespace.
    small: i64,
    /// What is held by the webhook.
    own: i64,
    /// How many namespaces count as holders.
    namespaces: i64,
    /// How many webhooks of the namespace do.
    webhooks: i64,
}

/// What those who are over their share must leave of a limit, if so many hold something. It is rounded up.
fn kept_back(limit: i64, holders: i64) -> i64 {
    limit / (holders + 1) + i64::from(limit % (holders + 1) != 0)
}

/// The share of each of so many holders. It is rounded down.
fn share(limit: i64, holders: i64) -> i64 {
    limit / (2 * holders * (holders + 1))
}

/// Up to what nothing is refused; of one record that is the one. Even rounded up it leaves room for all shares, which are
/// rounded down.
fn half(limit: i64) -> i64 {
    limit - limit / 2
}

fn small(limit: i64) -> i64 {
    limit / SMALL
}

/// What a webhook may always hold.
fn own_share(limit: i64, namespaces: i64, webhooks: i64) -> i64 {
    share(share(limit, namespaces), webhooks).min(small(limit))
}

fn judge(standing: Standing) -> Verdict {
    let Standing {
        limit,
        total,
        namespace,
        small: small_ones,
        own,
        namespaces,
        webhooks,
    } = standing;
    let of_namespace = share(limit, namespaces);
    let left = limit - total;
    if left < 0 {
        return Verdict::Full;
    }
    let is_calm = total <= half(limit);
    let in_own_share = own <= own_share(limit, namespaces, webhooks);
    let in_namespaces_share =
        own <= small(limit) && small_ones <= of_namespace - kept_back(of_namespace, webhooks);
    let is_open = total <= limit - kept_back(limit, namespaces) && namespace <= left / 2;
    if is_calm || in_own_share || in_namespaces_share || is_open {
        Verdict::Admitted
    } else {
        Verdict::OverShare
    }
}

/// Who holds how much of the journal, and who may hold more.
#[derive(Clone, Debug)]
pub struct Shares {
    limit: Amount,
    held: Holdings,
}

impl Shares {
    /// Nothing is held yet of so much.
    #[must_use]
    pub fn new(limit: Amount) -> Self {
        let small = Amount {
            records: small(limit.records),
            bytes: small(limit.bytes),
        };
        Shares {
            limit,
            held: Holdings::with_small(small),
        }
    }

    /// Who holds how much.
    #[must_use]
    pub fn held(&self) -> &Holdings {
        &self.held
    }

    /// The same, to be changed.
    pub fn held_mut(&mut self) -> &mut Holdings {
        &mut self.held
    }

    /// What is held was counted, and who held something before that is not known: as many count as leave enough room
    /// for their shares.
    pub fn counted(&mut self) {
        self.keep();
        let peak = [Measure::Records, Measure::Bytes].map(|measure| {
            let (limit, total) = (measure.of(self.limit), measure.of(self.held.total()));
            let left = (limit - total).max(1);
            total / left + i64::from(total % left != 0)
        });
        if !self.is_calm() {
            let peak = peak.into_iter().max().unwrap_or_default();
            self.held.raise_peak(usize::try_from(peak).unwrap_or(0));
        }
    }

    /// Whether a delivery with a body of this size may wait.
    #[must_use]
    pub fn judge(&self, namespace: &str, uid: &str, size: i64) -> Verdict {
        let one = Amount::one(size);
        let found = self.held.namespace(namespace);
        let own = found.and_then(|found| found.webhooks.get(uid)).copied();
        let more = usize::from(own.is_none());
        let webhooks = found.map_or(1, |found| found.peak.max(found.webhooks.len() + more));
        let namespaces = self.held.peak_with(namespace);
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX).min(1 << 20);
        let own = own.unwrap_or_default();
        let of = |measure: Measure| {
            let (add, own) = (measure.of(one), measure.of(own));
            let small_ones = found.map_or(0, |found| measure.of(found.small));
            // What the webhook holds is among them if it is small.
            let is_small = own <= measure.of(self.held.small());
            let others = small_ones - if is_small { own } else { 0 };
            judge(Standing {
                limit: measure.of(self.limit),
                total: measure.of(self.held.total()).saturating_add(add),
                namespace: found.map_or(0, |found| measure.of(found.total)) + add,
                small: others + own + add,
                own: own + add,
                namespaces: number(namespaces),
                webhooks: number(webhooks),
            })
        };
        of(Measure::Records).max(of(Measure::Bytes))
    }

    fn is_calm(&self) -> bool {
        let total = self.held.total();
        total.records <= half(self.limit.records) && total.bytes <= half(self.limit.bytes)
    }

    /// The changes are on disk.
    pub fn keep(&mut self) {
        self.held.keep(self.is_calm());
    }

    /// They are not.
    pub fn put_back(&mut self) {
        self.held.put_back();
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const RECORDS: i64 = 100_000;
    const BYTES: i64 = 256 * 1024 * 1024;

    fn shares() -> Shares {
        Shares::new(Amount {
            records: RECORDS,
            bytes: BYTES,
        })
    }

    /// Appends until something is refused or so many are held; returns how many were admitted.
    fn fill(shares: &mut Shares, namespace: &str, uid: &str, size: i64, most: i64) -> i64 {
        let mut admitted = 0;
        while admitted < most && shares.judge(namespace, uid, size) == Verdict::Admitted {
            shares.held_mut().add(namespace, uid, Amount::one(size));
            shares.keep();
            admitted += 1;
        }
        admitted
    }

    #[test]
    fn the_room_of_each_is_this() {
        let standing = Standing {
            limit: 100_000,
            total: 50_001,
            namespace: 1,
            small: 1,
            own: 1,
            namespaces: 2,
            webhooks: 1,
        };
        for (what, standing, expected) in [
            ("a newcomer", standing, Verdict::Admitted),
            (
                "a flood at half",
                Standing {
                    namespaces: 1,
                    namespace: 50_001,
                    small: 0,
                    own: 50_001,
                    ..standing
                },
                Verdict::OverShare,
            ),
            (
                "a flood before that",
                Standing {
                    namespaces: 1,
                    total: 50_000,
                    namespace: 50_000,
                    small: 0,
                    own: 50_000,
                    ..standing
                },
                Verdict::Admitted,
            ),
            (
                "a small webhook beside a flood of its namespace",
                Standing {
                    namespace: 50_001,
                    small: 300,
                    own: 300,
                    webhooks: 2,
                    ..standing
                },
                Verdict::Admitted,
            ),
            (
                "one that is not small",
                Standing {
                    namespace: 50_001,
                    small: 0,
                    own: 391,
                    webhooks: 2,
                    ..standing
                },
                Verdict::OverShare,
            ),
            (
                "small ones that use all of their namespace's share",
                Standing {
                    namespace: 50_001,
                    small: 5_556,
                    own: 300,
                    webhooks: 30,
                    ..standing
                },
                Verdict::Admitted,
            ),
            (
                "small ones that use more, of many webhooks",
                Standing {
                    namespace: 50_001,
                    small: 8_200,
                    own: 300,
                    webhooks: 30,
                    ..standing
                },
                Verdict::OverShare,
            ),
            (
                "a webhook that has next to nothing among many",
                Standing {
                    namespace: 50_001,
                    small: 8_200,
                    own: 4,
                    webhooks: 30,
                    ..standing
                },
                Verdict::Admitted,
            ),
            (
                "a second namespace that takes half of what is left",
                Standing {
                    total: 66_667,
                    namespace: 16_667,
                    small: 0,
                    own: 16_667,
                    ..standing
                },
                Verdict::OverShare,
            ),
            (
                "and before that",
                Standing {
                    total: 66_665,
                    namespace: 16_666,
                    small: 0,
                    own: 16_666,
                    ..standing
                },
                Verdict::Admitted,
            ),
            (
                "more than there is room for",
                Standing {
                    total: 100_001,
                    ..standing
                },
                Verdict::Full,
            ),
        ] {
            assert_eq!(judge(standing), expected, "{what}");
        }
    }

    #[test]
    fn one_flood_leaves_room_for_sixty_alarms_of_each_of_a_hundred_neighbours() {
        for (what, namespace) in [("of its namespace", "a"), ("of another", "b")] {
            let mut shares = shares();
            assert_eq!(fill(&mut shares, "a", "flood", 300, i64::MAX), RECORDS / 2);
            for neighbour in 0..80 {
                let admitted = fill(&mut shares, namespace, &format!("w{neighbour}"), 300, 60);
                assert_eq!(admitted, 60, "neighbour {neighbour} {what}");
            }
            assert_eq!(shares.judge("a", "flood", 300), Verdict::OverShare);
        }
    }

    #[test]
    fn a_namespace_in_its_share_is_served_whatever_others_have_taken() {
        // Each case: who floods, one after the other, with which size.
        let webhooks = |count: usize| -> Vec<(String, String)> {
            (0..count)
                .map(|i| ("bad".to_owned(), format!("bad-{i}")))
                .collect()
        };
        let namespaces = |count: usize| -> Vec<(String, String)> {
            (0..count)
                .map(|i| (format!("bad-{i}"), format!("bad-{i}")))
                .collect()
        };
        for (what, floods, size) in [
            ("one webhook", webhooks(1), 300),
            (
                "ten thousand webhooks of one namespace",
                webhooks(10_000),
                300,
            ),
            ("huge bodies", webhooks(1), 255 * 1024),
            (
                "huge bodies of a thousand webhooks",
                webhooks(1_000),
                255 * 1024,
            ),
            ("no bodies", webhooks(100), 0),
            ("ten namespaces", namespaces(10), 300),
            (
                "ten namespaces with huge bodies",
                namespaces(10),
                255 * 1024,
            ),
        ] {
            let mut shares = shares();
            for (namespace, uid) in &floods {
                fill(&mut shares, namespace, uid, size, i64::MAX);
            }
            let total = shares.held().total();
            assert!(total.records <= RECORDS && total.bytes <= BYTES, "{what}");
            for webhook in ["w-1", "w-2", "w-3"] {
                let admitted = fill(&mut shares, "good", webhook, 300, 60);
                assert_eq!(admitted, 60, "{webhook} beside {what}");
            }
        }
    }

    #[test]
    fn floods_at_the_same_time_share_what_is_open() {
        let mut shares = shares();
        let names: Vec<String> = (0..10).map(|i| format!("n{i}")).collect();
        let mut went_on = true;
        while went_on {
            went_on = false;
            for name in &names {
                went_on |= fill(&mut shares, name, name, 300, 1) > 0;
            }
        }
        for name in &names {
            let held = shares.held().of(name, name).records;
            assert!((7_000..=9_000).contains(&held), "{name} holds {held}");
        }
        assert_eq!(fill(&mut shares, "late", "late", 300, 1_000), 1_000);
    }

    #[test]
    fn what_was_counted_anew_keeps_room_for_newcomers_as_far_as_there_is_any() {
        for (held, expected) in [
            (50_000, 1),
            (70_000, 1),
            (90_000, 1),
            (99_000, 1),
            (100_000, 0),
        ] {
            let mut shares = shares();
            let amount = Amount {
                records: held,
                bytes: held,
            };
            shares.held_mut().add("a", "a", amount);
            shares.counted();
            let mut admitted = 0;
            for newcomer in 0..3 {
                let name = format!("n{newcomer}");
                admitted += fill(&mut shares, &name, &name, 300, 1);
            }
            let expected = if held < 99_000 {
                3
            } else {
                expected * admitted
            };
            assert_eq!(admitted, expected, "of {held}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        /// A webhook sends until it is refused, or so many.
        Flood(u8, u8, i64, i64),
        /// So many of its deliveries are published.
        Settle(u8, u8, i64),
        /// All of a namespace's are.
        Drain(u8),
        /// The last commit failed.
        Fail(u8, u8),
        /// The process begins anew.
        Restart,
    }

    fn act() -> impl Strategy<Value = Act> {
        let namespace = prop_oneof![3 => 0..3_u8, 1 => 0..30_u8];
        let webhook = prop_oneof![3 => 0..3_u8, 1 => 0..60_u8];
        let size = prop_oneof![Just(0), Just(40), Just(100), Just(4_000), Just(20_000)];
        let most = prop_oneof![Just(1), 2..30_i64, Just(i64::MAX)];
        let who = (namespace.clone(), webhook.clone());
        prop_oneof![
            8 => (namespace.clone(), webhook, size, most).prop_map(|(n, w, s, m)| Act::Flood(n, w, s, m)),
            4 => (who.clone(), 1..3_000_i64).prop_map(|((n, w), count)| Act::Settle(n, w, count)),
            1 => namespace.prop_map(Act::Drain),
            1 => who.prop_map(|(n, w)| Act::Fail(n, w)),
            1 => Just(Act::Restart),
        ]
    }

    /// Deliveries of each webhook, oldest first.
    type Sizes = std::collections::BTreeMap<(String, String), Vec<i64>>;

    fn names(namespace: u8, webhook: u8) -> (String, String) {
        (format!("n{namespace}"), format!("n{namespace}w{webhook}"))
    }

    fn settle(shares: &mut Shares, sizes: &mut Sizes, who: &(String, String), count: i64) {
        let own = sizes.entry(who.clone()).or_default();
        for _ in 0..count.min(i64::try_from(own.len()).unwrap()) {
            let size = own.remove(0);
            shares.held_mut().take(&who.0, &who.1, Amount::one(size));
        }
        shares.keep();
    }

    /// Nobody is refused who is within its share, be it known or new.
    fn nobody_in_its_share_is_refused(shares: &Shares, limit: Amount, sizes: &Sizes) {
        let mut asked: Vec<(String, String)> = sizes.keys().cloned().collect();
        asked.extend(
            asked
                .clone()
                .into_iter()
                .map(|(namespace, _)| (namespace, "new".to_owned())),
        );
        asked.push(("new".to_owned(), "new".to_owned()));
        for (namespace, uid) in asked {
            let found = shares.held().namespace(&namespace);
            let own = shares.held().of(&namespace, &uid);
            let more = usize::from(own == Amount::default());
            let webhooks = found.map_or(1, |found| found.peak.max(found.webhooks.len() + more));
            let namespaces = shares.held().peak_with(&namespace);
            let share = |limit| {
                own_share(
                    limit,
                    i64::try_from(namespaces).unwrap(),
                    i64::try_from(webhooks).unwrap(),
                )
            };
            let size = share(limit.bytes) - own.bytes;
            if own.records < share(limit.records) && size >= 0 {
                let verdict = shares.judge(&namespace, &uid, size);
                assert_eq!(
                    verdict,
                    Verdict::Admitted,
                    "{namespace}/{uid} holds {own:?} of {share:?}",
                    share = (share(limit.records), share(limit.bytes))
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn whatever_others_do_a_webhook_in_its_share_is_never_refused(
            acts in vec(act(), 1..40),
            records in prop_oneof![Just(1_500_i64), 256..3_000_i64],
            bytes in prop_oneof![Just(200_000_i64), 256..500_000_i64],
        ) {
            let limit = Amount { records, bytes };
            let mut shares = Shares::new(limit);
            let mut sizes = Sizes::new();
            for act in acts {
                match act {
                    Act::Flood(namespace, webhook, size, most) => {
                        let who = names(namespace, webhook);
                        let admitted = fill(&mut shares, &who.0, &who.1, size, most);
                        let admitted = usize::try_from(admitted).unwrap();
                        sizes.entry(who.clone()).or_default().extend(std::iter::repeat_n(size, admitted));
                        let total = shares.held().total();
                        if total.records < records / 2 && total.bytes.saturating_add(size) <= bytes / 2 {
                            prop_assert_eq!(shares.judge(&who.0, &who.1, size), Verdict::Admitted);
                        }
                    }
                    Act::Settle(namespace, webhook, count) => {
                        settle(&mut shares, &mut sizes, &names(namespace, webhook), count);
                    }
                    Act::Drain(namespace) => {
                        let all: Vec<_> = sizes.keys().filter(|(n, _)| *n == format!("n{namespace}")).cloned().collect();
                        for who in all {
                            settle(&mut shares, &mut sizes, &who, i64::MAX);
                        }
                    }
                    Act::Fail(namespace, webhook) => {
                        let (namespace, uid) = names(namespace, webhook);
                        let before = shares.held().total();
                        for _ in 0..10 {
                            if shares.judge(&namespace, &uid, 50) == Verdict::Admitted {
                                shares.held_mut().add(&namespace, &uid, Amount::one(50));
                            }
                        }
                        shares.put_back();
                        prop_assert_eq!(shares.held().total(), before);
                    }
                    Act::Restart => {
                        shares = Shares::new(limit);
                        for ((namespace, uid), own) in &sizes {
                            for size in own {
                                shares.held_mut().add(namespace, uid, Amount::one(*size));
                            }
                        }
                        shares.counted();
                    }
                }
                sizes.retain(|_, own| !own.is_empty());
                let total = shares.held().total();
                prop_assert!(total.records <= records && total.bytes <= bytes, "{:?}", total);
                nobody_in_its_share_is_refused(&shares, limit, &sizes);
            }
        }
    }
}
