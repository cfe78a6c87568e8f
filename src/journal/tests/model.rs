//! Properties: a delivery is the same there and back, and no sequence of acts loses or doubles one.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::journal::keys::Keys;

fn key() -> impl Strategy<Value = DeliveryKey> {
    any::<[u8; 32]>().prop_map(DeliveryKey::from_bytes)
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Alarm),
        Just(Class::Device),
        Just(Class::Site),
        Just(Class::Other)
    ]
}

fn place() -> impl Strategy<Value = KeyPlace> {
    prop_oneof![
        Just(KeyPlace::Current),
        Just(KeyPlace::Next),
        Just(KeyPlace::Previous)
    ]
}

prop_compose! {
    fn any_received()(
        key in key(),
        occurrence in proptest::option::of(any::<[u8; 32]>().prop_map(Occurrence::from_bytes)),
        (namespace, name, uid) in (".*", ".*", ".*"),
        class in class(),
        (key_id, place) in (".*", place()),
        // The years 1 to 9999 in microseconds.
        at in -62_135_596_800_000_000_i64..=253_402_207_200_000_000,
        labels in btree_map(".*", ".*", 0..4),
        webhook_id in proptest::option::of(".*"),
        body in vec(any::<u8>(), 0..9_000),
    ) -> Received {
        Received {
            key,
            occurrence,
            webhook: WebhookIdentity { namespace, name, uid },
            class,
            key_id,
            place,
            received_at: Timestamp::from_microsecond(at).unwrap(),
            labels,
            webhook_id,
            body,
        }
    }
}

/// What may happen to one of a few deliveries, or to the journal.
#[derive(Clone, Copy, Debug)]
enum Act {
    Append(u8),
    Settle(u8),
    Bury(u8),
    Refuse(u8),
    Replay,
    Sweep,
    AdvanceSink(u8),
    Close,
    Drop,
    Damage,
}

fn act() -> impl Strategy<Value = Act> {
    let which = 0..12_u8;
    prop_oneof![
        8 => which.clone().prop_map(Act::Append),
        4 => which.clone().prop_map(Act::Settle),
        3 => which.clone().prop_map(Act::Bury),
        3 => which.clone().prop_map(Act::Refuse),
        1 => Just(Act::Replay),
        1 => Just(Act::Sweep),
        1 => which.prop_map(Act::AdvanceSink),
        1 => Just(Act::Close),
        1 => Just(Act::Drop),
        1 => Just(Act::Damage),
    ]
}

/// Where a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Where {
    Pending,
    Published,
    Dead,
    /// Dead, too; the API server refused it, not long ago.
    Refused,
}

/// Each delivery has a body of its own; every third one has an occurrence, which it shares with no other.
fn delivery(which: u8) -> Received {
    let body = if which.is_multiple_of(3) {
        format!(r#"{{"event":"alarm.triggered","data":{{"alarm_id":"{which}"}}}}"#)
    } else {
        format!(
            "unreadable {which} {}",
            "x".repeat(usize::from(which) * 500)
        )
    };
    received(&body).read_again()
}

async fn play(acts: &[Act], sink: bool) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        sink,
        ..Options::default()
    };
    let (mut journal, mut feed) = open_with(&dir, options).await;
    let mut model: BTreeMap<u8, Where> = BTreeMap::new();
    // When it was published does not matter, but that it is not older than the memory.
    let mut now = 1_000_000;
    for act in acts {
        now += 1;
        match *act {
            Act::Append(which) => {
                let known = model.get(&which).copied();
                let expected = known.map_or(Appended::New, |_| Appended::Known);
                model.insert(which, known.unwrap_or(Where::Pending));
                let appended = journal.append(delivery(which)).await;
                assert_eq!(appended, Ok(expected), "{which}");
            }
            Act::Settle(which) => {
                journal.settle(delivery(which).key, at(now)).await.unwrap();
                if model.get(&which) == Some(&Where::Pending) {
                    model.insert(which, Where::Published);
                }
            }
            Act::Bury(which) => {
                let key = delivery(which).key;
                journal.bury(key, unreadable("x"), at(now)).await.unwrap();
                if model.get(&which) == Some(&Where::Pending) {
                    model.insert(which, Where::Dead);
                }
            }
            Act::Refuse(which) => {
                let key = delivery(which).key;
                let now = Timestamp::now();
                journal.bury(key, refused("x"), now).await.unwrap();
                if model.get(&which) == Some(&Where::Pending) {
                    model.insert(which, Where::Refused);
                }
            }
            Act::Replay => {
                replay(&dir);
                let dead = |place: &&mut Where| matches!(**place, Where::Dead | Where::Refused);
                for place in model.values_mut().filter(dead) {
                    *place = Where::Pending;
                }
                let pending = count(&model, Where::Pending);
                let deadline = std::time::Instant::now() + Duration::from_secs(10);
                while journal.depth().pending != pending {
                    assert!(std::time::Instant::now() < deadline, "not taken up");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Act::Sweep => {
                journal.sweep(at(now)).await.unwrap();
            }
            Act::AdvanceSink(seq) => journal.advance_sink(i64::from(seq)).await.unwrap(),
            Act::Close | Act::Drop | Act::Damage => {
                if matches!(act, Act::Drop) {
                    drop((journal, feed));
                } else {
                    journal.close().await;
                }
                if matches!(act, Act::Damage) {
                    let file = dir.path().join("journal").join(files::FILE);
                    let mut bytes = std::fs::read(&file).unwrap();
                    bytes[..100].fill(0xff);
                    std::fs::write(&file, bytes).unwrap();
                }
                (journal, feed) = open_with(&dir, options).await;
            }
        }
        let depth = journal.depth();
        assert_eq!(depth.pending, count(&model, Where::Pending), "{act:?}");
        let refused = count(&model, Where::Refused);
        assert_eq!(depth.refused, refused, "{act:?}");
        assert_eq!(depth.dead, count(&model, Where::Dead) + refused, "{act:?}");
        let bytes = |place| -> i64 {
            let all = model.iter().filter(|(_, found)| **found == place);
            all.map(|(which, _)| record::size(&delivery(*which).body))
                .sum()
        };
        assert_eq!(depth.bytes, bytes(Where::Pending), "{act:?}");
        let dead_bytes = bytes(Where::Dead) + bytes(Where::Refused);
        assert_eq!(depth.dead_bytes, dead_bytes, "{act:?}");
    }
    journal.close().await;
    drop(feed);

    // The next process is told of each pending delivery once, as it was.
    let (journal, mut feed) = open_with(&dir, options).await;
    let mut named = BTreeSet::new();
    while let Ok(entry) = feed.try_recv() {
        let loaded = journal.load(entry.waiting.seq).await.unwrap().unwrap();
        assert_eq!(loaded.key, entry.key);
        let which = (0..12).find(|which| delivery(*which) == loaded);
        assert!(named.insert(which.unwrap()), "fed twice");
    }
    let pending = model.iter().filter(|(_, found)| **found == Where::Pending);
    let pending: BTreeSet<u8> = pending.map(|(which, _)| *which).collect();
    assert_eq!(named, pending);
    for which in 0..12 {
        let known = journal.append(delivery(which)).await == Ok(Appended::Known);
        assert_eq!(known, model.contains_key(&which), "{which}");
    }
}

fn count(model: &BTreeMap<u8, Where>, place: Where) -> i64 {
    let found = model.values().filter(|found| **found == place).count();
    i64::try_from(found).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_delivery_is_the_same_there_and_back(delivery in any_received()) {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::bring_up(&mut connection).unwrap();
        let mut insert = connection.prepare(record::INSERT).unwrap();
        prop_assert_eq!(record::insert(&mut insert, 7, &delivery), Ok(()));
        let keys = Keys::read(&connection).unwrap();
        prop_assert_eq!(keys.find(&delivery.key), Some(7));
        let by_occurrence = delivery.occurrence.and_then(|said| keys.repeated(&said));
        prop_assert_eq!(by_occurrence, delivery.occurrence.map(|_| 7));
        let loaded = record::load(&connection, 7, PENDING).unwrap();
        prop_assert_eq!(loaded.as_ref(), Some(&delivery));
        let listed = record::whole_after(&connection, 6, 10).unwrap();
        prop_assert_eq!(listed, vec![(7, delivery)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_acts_loses_or_doubles_a_delivery(acts in vec(act(), 1..40), sink in any::<bool>()) {
        runtime().block_on(play(&acts, sink));
    }
}
