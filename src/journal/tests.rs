//! The journal on a real disk: what is acknowledged is there, once, after whatever happens to the process.

mod damage;
mod keys;
mod model;

use std::collections::BTreeMap;

use super::*;
use crate::delivery::{Class, DeadKind, KeyPlace, Occurrence};
use crate::resources::keyring::WebhookIdentity;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn received(body: &str) -> Received {
    Received {
        key: DeliveryKey::of("u-1", body.as_bytes()),
        occurrence: None,
        webhook: WebhookIdentity {
            namespace: "security".into(),
            name: "alarms".into(),
            uid: "u-1".into(),
        },
        class: Class::Alarm,
        key_id: "k-1".into(),
        place: KeyPlace::Next,
        received_at: Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
        labels: BTreeMap::from([("team".into(), "blue".into())]),
        webhook_id: Some("webhook_1".into()),
        body: body.as_bytes().to_vec(),
    }
}

/// The cause of a delivery that cannot be read.
fn unreadable(reason: impl Into<String>) -> Cause {
    Cause {
        kind: DeadKind::Unreadable,
        reason: reason.into(),
    }
}

/// The cause of a delivery that the API server does not accept.
fn refused(reason: impl Into<String>) -> Cause {
    Cause {
        kind: DeadKind::Refused,
        reason: reason.into(),
    }
}

async fn open(dir: &tempfile::TempDir) -> (Journal, Feed) {
    open_with(dir, Options::default()).await
}

/// Starts a journal and waits until it is open.
async fn open_with(dir: &tempfile::TempDir, options: Options) -> (Journal, Feed) {
    let (journal, feed) = Journal::start(&dir.path().join("journal"), options).unwrap();
    is_open(&journal).await;
    (journal, feed)
}

async fn is_open(journal: &Journal) {
    let mut state = journal.state();
    let open = state.wait_for(|state| *state == State::Open);
    let open = tokio::time::timeout(Duration::from_secs(60), open).await;
    let seen = journal.state().borrow().clone();
    open.unwrap_or_else(|_| panic!("not open but {seen:?}"))
        .unwrap();
}

/// Why a journal is not open.
async fn why_not(path: &Path) -> String {
    let (journal, _feed) = Journal::start(path, Options::default()).unwrap();
    let mut state = journal.state();
    let waiting = state.wait_for(|state| matches!(state, State::Waiting(_)));
    let waiting = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    let why = waiting.unwrap().unwrap().clone();
    let State::Waiting(why) = why else {
        unreachable!("it was waited for")
    };
    assert_eq!(
        journal.append(received("early")).await,
        Err(JournalError::Io(why.clone()))
    );
    assert_eq!(journal.load(1).await, Err(JournalError::Io(why.clone())));
    journal.close().await;
    assert_eq!(
        journal.append(received("late")).await,
        Err(JournalError::Closed)
    );
    why
}

#[tokio::test]
async fn what_was_appended_is_there_after_the_journal_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut feed) = open(&dir).await;
    let mut first = received("one");
    first.occurrence = Some(Occurrence::from_bytes([7; 32]));
    assert_eq!(journal.append(first.clone()).await, Ok(Appended::New));
    assert_eq!(journal.append(received("two")).await, Ok(Appended::New));
    let entry = feed.recv().await.unwrap();
    assert_eq!(entry.key, first.key);
    assert_eq!(
        journal.load(entry.waiting.seq).await,
        Ok(Some(first.clone()))
    );
    drop((journal, feed));

    let (journal, mut feed) = open(&dir).await;
    assert_eq!(journal.depth().pending, 2);
    assert_eq!(journal.depth().bytes, 6);
    let entry = feed.recv().await.unwrap();
    assert_eq!(entry.received_at, first.received_at);
    assert_eq!(journal.load(entry.waiting.seq).await, Ok(Some(first)));
    assert_eq!(feed.recv().await.unwrap().key, received("two").key);
    assert!(feed.try_recv().is_err());
}

#[tokio::test]
async fn a_copy_is_known_in_every_state_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _feed) = open(&dir).await;
    for body in ["pending", "published", "dead"] {
        assert_eq!(journal.append(received(body)).await, Ok(Appended::New));
    }
    journal
        .settle(received("published").key, at(5))
        .await
        .unwrap();
    journal
        .bury(received("dead").key, unreadable("no reason"), at(5))
        .await
        .unwrap();
    let depth = Depth {
        pending: 1,
        bytes: 7,
        dead: 1,
        dead_bytes: 4,
        max_records: 100_000,
        max_bytes: 256 * 1024 * 1024,
        ..Depth::default()
    };
    assert_eq!(journal.depth(), depth);
    journal.close().await;
    assert_eq!(
        journal.append(received("late")).await,
        Err(JournalError::Closed)
    );
    drop(journal);

    let (journal, mut feed) = open(&dir).await;
    assert_eq!(journal.depth(), depth);
    for body in ["pending", "published", "dead"] {
        assert_eq!(journal.append(received(body)).await, Ok(Appended::Known));
    }
    assert_eq!(feed.recv().await.unwrap().key, received("pending").key);
    assert!(feed.try_recv().is_err(), "a copy is not published again");
}

#[tokio::test]
async fn a_copy_with_a_fresh_timestamp_is_known_by_its_occurrence() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _feed) = open(&dir).await;
    let occurrence = Some(Occurrence::from_bytes([1; 32]));
    let stamped = |body| Received {
        occurrence,
        ..received(body)
    };
    assert_eq!(journal.append(stamped("10:00")).await, Ok(Appended::New));
    assert_eq!(journal.append(stamped("10:05")).await, Ok(Appended::Known));
    assert_eq!(journal.append(received("10:05")).await, Ok(Appended::New));
}

#[tokio::test]
async fn an_alarm_that_is_triggered_again_after_it_was_cleared_is_new_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, feed) = open(&dir).await;
    let said = |event: &str, time: &str| {
        received(&format!(
            r#"{{"event":"alarm.{event}","timestamp":"2024-01-15T14:{time}Z","data":{{"alarm_id":"a-1","zone":"z"}}}}"#
        ))
        .read_again()
    };
    for (event, time, expected) in [
        ("triggered", "20:00", Appended::New),
        ("triggered", "20:05", Appended::Known),
        ("cleared", "21:00", Appended::New),
    ] {
        assert_eq!(journal.append(said(event, time)).await, Ok(expected));
    }
    for time in ["20:00", "21:00"] {
        let event = if time == "20:00" {
            "triggered"
        } else {
            "cleared"
        };
        journal
            .settle(said(event, time).key, at(1_000))
            .await
            .unwrap();
    }
    journal.close().await;
    drop((journal, feed));

    let (journal, _feed) = open(&dir).await;
    for (event, time, expected) in [
        ("triggered", "22:00", Appended::New),
        ("triggered", "22:05", Appended::Known),
        ("triggered", "20:00", Appended::Known),
        ("cleared", "22:10", Appended::New),
        ("cleared", "37:10", Appended::Known),
        ("cleared", "37:11", Appended::New),
    ] {
        let appended = journal.append(said(event, time)).await;
        assert_eq!(appended, Ok(expected), "{event} {time}");
    }
}

#[tokio::test]
async fn a_journal_of_an_earlier_version_knows_its_copies_by_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, feed) = open(&dir).await;
    let alarm = received(ALARM).read_again();
    // A hash over webhook, event and data is what earlier versions wrote.
    let hash = *DeliveryKey::of("u-1", b"an occurrence").as_bytes();
    let earlier = Received {
        occurrence: Some(Occurrence::from_bytes(hash)),
        ..alarm.clone()
    };
    journal.append(earlier).await.unwrap();
    journal.close().await;
    drop((journal, feed));
    let (journal, mut feed) = open(&dir).await;
    assert_eq!(feed.recv().await.unwrap().key, alarm.key);
    assert_eq!(journal.append(alarm).await, Ok(Appended::Known));
}

#[tokio::test]
async fn a_key_is_remembered_for_half_an_hour_after_publishing_and_then_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _feed) = open(&dir).await;
    journal.append(received("one")).await.unwrap();
    journal
        .settle(received("one").key, at(1_000))
        .await
        .unwrap();
    assert_eq!(journal.sweep(at(1_000 + 1_800)).await, Ok(()));
    assert_eq!(journal.append(received("one")).await, Ok(Appended::Known));
    assert_eq!(journal.sweep(at(1_000 + 1_801)).await, Ok(()));
    assert_eq!(journal.append(received("one")).await, Ok(Appended::New));
}

#[tokio::test]
async fn a_full_journal_refuses_what_is_new_and_still_knows_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_records: 4,
        max_bytes: 20,
        max_dead: 1,
        ..Limits::default()
    };
    let options = Options {
        limits,
        sink: false,
    };
    let (journal, _feed) = open_with(&dir, options).await;
    let over_share = Err(JournalError::OverShare);
    assert_eq!(journal.append(received("1234567")).await, Ok(Appended::New));
    assert_eq!(journal.append(received("bytes")).await, over_share);
    let huge = received(&"x".repeat(20));
    assert_eq!(journal.append(huge).await, Err(JournalError::Full));
    assert_eq!(journal.append(received("2")).await, Ok(Appended::New));
    assert_eq!(journal.append(received("3")).await, over_share);
    assert_eq!(journal.append(received("2")).await, Ok(Appended::Known));
    journal
        .settle(received("1234567").key, at(1))
        .await
        .unwrap();
    assert_eq!(journal.append(received("3")).await, Ok(Appended::New));
    // Dead letters are bounded apart: the oldest goes.
    for (body, second) in [("2", 1), ("3", 2)] {
        let key = received(body).key;
        journal
            .bury(key, unreadable("x"), at(second))
            .await
            .unwrap();
    }
    assert_eq!(journal.depth().dead, 1);
    assert_eq!(journal.depth().evicted_unreadable, 1);
    assert_eq!(journal.append(received("3")).await, Ok(Appended::Known));
    assert_eq!(journal.append(received("2")).await, Ok(Appended::New));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_appends_at_once_are_all_there_and_each_is_fed_once() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut feed) = open(&dir).await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..400 {
        let journal = journal.clone();
        // Every second one is a copy of the one before.
        tasks.spawn(async move { journal.append(received(&format!("{}", i / 2))).await });
    }
    let mut fresh = 0;
    while let Some(done) = tasks.join_next().await {
        fresh += usize::from(done.unwrap() == Ok(Appended::New));
    }
    assert_eq!(fresh, 200);
    assert_eq!(journal.depth().pending, 200);
    let mut keys = std::collections::HashSet::new();
    while let Ok(entry) = feed.try_recv() {
        assert!(keys.insert(entry.key));
    }
    assert_eq!(keys.len(), 200);
}

#[tokio::test]
async fn an_append_that_nobody_waits_for_is_fed_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut feed) = open(&dir).await;
    {
        let append = journal.append(received("dropped"));
        tokio::pin!(append);
        // One poll sends it to the writer; then the asker is gone.
        let _ = futures::poll!(append.as_mut());
    }
    let entry = tokio::time::timeout(Duration::from_secs(10), feed.recv());
    assert_eq!(entry.await.unwrap().unwrap().key, received("dropped").key);
}

#[test]
fn who_asks_is_answered_when_the_runtime_that_started_the_journal_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let first = runtime();
    let (journal, _feed) = first.block_on(open(&dir));
    drop(first);
    let all = (0..100).map(|i| journal.append(received(&format!("{i}"))));
    let all = async {
        let all = futures::future::join_all(all);
        tokio::time::timeout(Duration::from_secs(20), all).await
    };
    let answers = runtime().block_on(all).unwrap();
    assert_eq!(answers, vec![Ok(Appended::New); 100]);
}

#[tokio::test]
async fn a_journal_is_held_by_one_process_at_a_time_and_the_next_one_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _feed) = open(&dir).await;
    assert_eq!(first.append(received("one")).await, Ok(Appended::New));
    let path = dir.path().join("journal");
    let (second, mut feed) = Journal::start(&path, Options::default()).unwrap();
    let mut state = second.state();
    let held = state.wait_for(
        |state| matches!(state, State::Waiting(why) if why.contains("held by another process")),
    );
    drop(held.await.unwrap());
    first.close().await;
    is_open(&second).await;
    assert_eq!(second.append(received("one")).await, Ok(Appended::Known));
    assert_eq!(feed.recv().await.unwrap().key, received("one").key);
}

#[tokio::test]
async fn what_is_not_ours_is_left_as_it_is_and_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let newer = dir.path().join("newer");
    std::fs::create_dir(&newer).unwrap();
    drop(files::open(&newer, None, at(1)).unwrap());
    let connection = Connection::open(newer.join("journal.sqlite")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(why_not(&newer).await.contains("has schema 99"));

    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let connection = Connection::open(foreign.join("journal.sqlite")).unwrap();
    connection.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(connection);
    let before = std::fs::read(foreign.join("journal.sqlite")).unwrap();
    assert!(
        why_not(&foreign)
            .await
            .contains("another program's database")
    );
    let after = std::fs::read(foreign.join("journal.sqlite")).unwrap();
    assert_eq!(before, after);

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(why_not(&file).await.contains("cannot be used"));
}

#[tokio::test]
async fn a_directory_that_can_be_used_in_the_end_is_used_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    std::fs::write(&path, "in the way").unwrap();
    let (journal, _feed) = Journal::start(&path, Options::default()).unwrap();
    let mut state = journal.state();
    let waiting = state.wait_for(|state| matches!(state, State::Waiting(_)));
    drop(waiting.await.unwrap());
    std::fs::remove_file(&path).unwrap();
    is_open(&journal).await;
    assert_eq!(journal.append(received("one")).await, Ok(Appended::New));
}

/// Buries deliveries of which each second belongs to another webhook.
async fn with_dead_letters(journal: &Journal, bodies: &[&str]) {
    for (i, body) in bodies.iter().enumerate() {
        let mut delivery = received(body);
        if i % 2 == 1 {
            delivery.webhook.uid = "u-2".into();
            delivery.webhook.name = "others".into();
        }
        let key = delivery.key;
        assert_eq!(journal.append(delivery).await, Ok(Appended::New));
        let second = i64::try_from(i).unwrap();
        journal
            .bury(key, unreadable(format!("reason {body}")), at(second))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn each_webhook_is_told_once_of_its_dead_letters() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _feed) = open(&dir).await;
    assert_eq!(journal.untold().await, Ok(vec![]));
    with_dead_letters(&journal, &["a", "b", "c"]).await;
    let untold = journal.untold().await.unwrap();
    assert_eq!(untold.len(), 2);
    let first = Untold {
        webhook: received("a").webhook,
        count: 2,
        first: 1,
        last: 3,
        refused: 0,
        last_reason: "reason c".into(),
        last_told_at: None,
    };
    assert_eq!(untold[0], first);
    assert_eq!(
        (untold[1].count, untold[1].first, untold[1].last),
        (1, 2, 2)
    );
    assert_eq!(untold[1].webhook.name, "others");

    journal.told("u-1".into(), 3, at(10)).await.unwrap();
    assert_eq!(journal.untold().await.unwrap().len(), 1);
    with_dead_letters(&journal, &["d"]).await;
    let untold = journal.untold().await.unwrap();
    assert_eq!(untold[0].webhook.uid, "u-2", "the one that waits longest");
    assert_eq!((untold[1].count, untold[1].first), (1, 4));
    assert_eq!(untold[1].last_told_at, Some(at(10)));
}

#[tokio::test]
async fn the_oldest_dead_letters_go_when_their_bytes_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_dead_bytes: 5,
        ..Limits::default()
    };
    let options = Options {
        limits,
        sink: false,
    };
    let (journal, _feed) = open_with(&dir, options).await;
    with_dead_letters(&journal, &["aa", "bb", "c", "dd"]).await;
    let depth = journal.depth();
    assert_eq!((depth.dead, depth.dead_bytes), (3, 5));
    assert_eq!(depth.evicted_unreadable, 1);
    // Of the webhook that has most: "bb" and "dd" are another's than "aa" and "c".
    assert_eq!(journal.append(received("bb")).await, Ok(Appended::New));
    assert_eq!(journal.append(received("aa")).await, Ok(Appended::Known));
}

#[tokio::test]
async fn the_sink_reads_everything_once_whatever_became_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        sink: true,
        ..Options::default()
    };
    let (journal, _feed) = open_with(&dir, options).await;
    let mut appended = journal.appended();
    for body in ["pending", "published", "dead"] {
        journal.append(received(body)).await.unwrap();
    }
    assert!(appended.has_changed().unwrap());
    assert_eq!(*appended.borrow_and_update(), 3);
    let key = received("published").key;
    journal.settle(key, at(5)).await.unwrap();
    let key = received("dead").key;
    journal.bury(key, unreadable("x"), at(5)).await.unwrap();
    assert_eq!(journal.sink_cursor().await, Ok(0));
    let bodies = |rows: Vec<(i64, Received)>| -> Vec<(i64, String)> {
        let text = |body| String::from_utf8(body).unwrap();
        rows.into_iter().map(|(n, r)| (n, text(r.body))).collect()
    };
    let all = journal.for_sink(0, 10).await.unwrap();
    assert_eq!(all[1].1, received("published"));
    assert_eq!(
        bodies(all),
        [
            (1, "pending".into()),
            (2, "published".into()),
            (3, "dead".into())
        ]
    );
    assert_eq!(bodies(journal.for_sink(1, 1).await.unwrap()).len(), 1);
    assert_eq!(journal.depth().sink_pending, 3);

    journal.advance_sink(2).await.unwrap();
    journal.advance_sink(1).await.unwrap();
    assert_eq!(journal.sink_cursor().await, Ok(2));
    assert_eq!(journal.depth().sink_pending, 1);
    assert_eq!(journal.depth().sink_bytes, 4);
    // What it has taken has no bytes any more, and what is pending has.
    assert_eq!(
        bodies(journal.for_sink(0, 10).await.unwrap()),
        [(1, "pending".into()), (3, "dead".into())]
    );
    journal.close().await;

    let (journal, _feed) = open_with(&dir, options).await;
    assert_eq!(journal.sink_cursor().await, Ok(2));
    assert_eq!(journal.depth().sink_pending, 1);
    assert_eq!(*journal.appended().borrow(), 3);
}

#[tokio::test]
async fn a_sink_that_is_too_slow_misses_the_oldest_and_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        limits: Limits {
            max_records: 3,
            ..Limits::default()
        },
        sink: true,
    };
    let (journal, _feed) = open_with(&dir, options).await;
    for i in 0..10 {
        let delivery = received(&format!("{i}"));
        assert_eq!(journal.append(delivery.clone()).await, Ok(Appended::New));
        journal.settle(delivery.key, at(i)).await.unwrap();
    }
    let depth = journal.depth();
    assert_eq!((depth.sink_pending, depth.sink_skipped), (3, 7));
    let left = journal.for_sink(0, 10).await.unwrap();
    assert_eq!(left.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [8, 9, 10]);
    // Keys are remembered all the same, and what the sink wants is not forgotten.
    assert_eq!(journal.append(received("0")).await, Ok(Appended::Known));
    journal.sweep(at(10_000)).await.unwrap();
    assert_eq!(journal.append(received("0")).await, Ok(Appended::New));
    assert_eq!(journal.append(received("9")).await, Ok(Appended::Known));
    journal.close().await;
    let (journal, _feed) = open_with(&dir, options).await;
    assert_eq!(journal.depth().sink_pending, 4);
    journal.advance_sink(9).await.unwrap();
    assert_eq!(journal.depth().sink_pending, 2);
}

/// The same delivery to a webhook of its own namespace.
fn of(namespace: &str, body: &str) -> Received {
    Received {
        key: DeliveryKey::of(namespace, body.as_bytes()),
        webhook: WebhookIdentity {
            namespace: namespace.to_owned(),
            name: "alarms".to_owned(),
            uid: namespace.to_owned(),
        },
        ..received(body)
    }
}

#[tokio::test]
async fn a_flood_makes_the_sink_miss_nothing_of_another_webhook() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        limits: Limits {
            max_records: 10,
            ..Limits::default()
        },
        sink: true,
    };
    let (journal, _feed) = open_with(&dir, options).await;
    let mut all = vec![of("quiet", "first")];
    all.extend((0..50).map(|i| of("loud", &format!("{i}"))));
    for delivery in all {
        let key = delivery.key;
        assert_eq!(journal.append(delivery).await, Ok(Appended::New));
        journal.settle(key, at(1)).await.unwrap();
    }
    let left = journal.for_sink(0, 100).await.unwrap();
    assert_eq!((left.len(), &left[0].1), (10, &of("quiet", "first")));
    assert_eq!(journal.depth().sink_skipped, 41);
}

#[tokio::test]
async fn one_flood_takes_no_room_from_another_webhook_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        limits: Limits {
            max_records: 1_000,
            ..Limits::default()
        },
        sink: false,
    };
    let (journal, _feed) = open_with(&dir, options).await;
    let flood = (0..600).map(|i| journal.append(of("loud", &format!("{i}"))));
    let answers = futures::future::join_all(flood).await;
    let admitted = answers.iter().filter(|a| **a == Ok(Appended::New)).count();
    assert_eq!(admitted, 500);
    for name in ["a", "b"] {
        for i in 0..30 {
            let delivery = of(name, &format!("{i}"));
            assert_eq!(journal.append(delivery).await, Ok(Appended::New), "{name}");
        }
    }
    journal.close().await;
    let (journal, _feed) = open_with(&dir, options).await;
    let refused = journal.append(of("loud", "more")).await;
    assert_eq!(refused, Err(JournalError::OverShare));
    for i in 0..20 {
        let delivery = of("c", &format!("{i}"));
        assert_eq!(journal.append(delivery).await, Ok(Appended::New));
    }
    // What is published makes room again.
    for i in 0..200 {
        let key = of("loud", &format!("{i}")).key;
        journal.settle(key, at(1)).await.unwrap();
    }
    assert_eq!(journal.append(of("loud", "more")).await, Ok(Appended::New));
}

#[tokio::test]
async fn dead_letters_of_another_webhook_or_of_another_kind_are_not_evicted() {
    let dir = tempfile::tempdir().unwrap();
    // What was refused long ago would be tried again.
    let began = Timestamp::now().as_second();
    for (what, limits) in [
        (
            "by number",
            Limits {
                max_dead: 20,
                max_refused: 5,
                ..Limits::default()
            },
        ),
        (
            "by bytes",
            Limits {
                max_dead_bytes: 20 * 300,
                max_refused_bytes: 5 * 300,
                ..Limits::default()
            },
        ),
    ] {
        let dir = tempfile::tempdir_in(dir.path()).unwrap();
        let options = Options {
            limits,
            sink: false,
        };
        let (journal, _feed) = open_with(&dir, options).await;
        let buried = async |namespace: &str, which: usize, cause: Cause| {
            let delivery = of(namespace, &format!("{which:0>300}"));
            let key = delivery.key;
            assert_eq!(journal.append(delivery).await, Ok(Appended::New));
            let second = began + i64::try_from(which).unwrap();
            journal.bury(key, cause, at(second)).await.unwrap();
        };
        buried("victim", 0, unreadable("x")).await;
        buried("victim", 1, refused("a policy")).await;
        for junk in 0..100 {
            buried("loud", junk + 2, unreadable("junk")).await;
        }
        for other in 0..10 {
            buried("forbidden", other + 200, refused("a policy")).await;
        }
        let letters = dead::list(&visit(&dir), 0, 1_000, false).unwrap();
        let count = |namespace: &str, kind| {
            let fits = |l: &&dead::DeadLetter| l.webhook.namespace == namespace && l.kind == kind;
            letters.iter().filter(fits).count()
        };
        let counts = [
            ("victim", DeadKind::Unreadable, 1),
            ("victim", DeadKind::Refused, 1),
            ("loud", DeadKind::Unreadable, 19),
            ("forbidden", DeadKind::Refused, 4),
        ];
        for (namespace, kind, expected) in counts {
            assert_eq!(
                count(namespace, kind),
                expected,
                "{namespace} {kind:?} {what}"
            );
        }
        let youngest = letters.iter().rfind(|l| l.webhook.namespace == "loud");
        assert_eq!(
            youngest.unwrap().buried_at,
            at(began + 101),
            "the oldest go"
        );
        let depth = journal.depth();
        assert_eq!((depth.evicted_unreadable, depth.evicted_refused), (81, 6));
        assert_eq!((depth.dead, depth.refused), (25, 5));
    }
}

/// A look at the journal from beside.
fn visit(dir: &tempfile::TempDir) -> Connection {
    files::visit(&dir.path().join("journal"), false).unwrap()
}

#[tokio::test]
async fn a_number_is_not_given_out_again_when_its_row_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        sink: true,
        ..Options::default()
    };
    let (journal, _feed) = open_with(&dir, options).await;
    for body in ["a", "b"] {
        journal.append(received(body)).await.unwrap();
        journal.settle(received(body).key, at(1)).await.unwrap();
    }
    journal.advance_sink(2).await.unwrap();
    journal.sweep(at(10_000)).await.unwrap();
    journal.close().await;
    let (journal, mut feed) = open_with(&dir, options).await;
    assert_eq!(journal.append(received("a")).await, Ok(Appended::New));
    let entry = feed.recv().await.unwrap();
    assert_eq!(entry.waiting.seq, 3, "the sink would not see it");
    assert!(entry.durable_at.is_some());
}

#[tokio::test]
async fn a_file_of_the_second_version_opens_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    std::fs::create_dir(&path).unwrap();
    let old = Connection::open(path.join("journal.sqlite")).unwrap();
    schema::tests::second_version(&old);
    let mut expected = Vec::new();
    for (seq, (body, state, reason, told_at)) in [
        ("pending", 0, None, None),
        ("unreadable", 2, Some("it has no event name"), Some(5)),
        (
            "damaged",
            2,
            Some("its bytes were damaged on the disk"),
            None,
        ),
        (
            "refused",
            2,
            Some("the API server does not take the Event"),
            Some(6),
        ),
        ("marked", 3, Some("the namespace is gone"), None),
        ("published", 1, None, None),
    ]
    .into_iter()
    .enumerate()
    {
        let delivery = received(body);
        old.execute(
            r#"INSERT INTO records (seq, key, state, class, namespace, name, uid, key_id, received_at, settled_at,
             webhook_id, labels, reason, size, body, place, told_at) VALUES (?8, ?1, ?2, 0, 'security', 'alarms', 'u-1',
             'k-1', ?3, 4, 'webhook_1', '{"team":"blue"}', ?5, ?6, ?7, 1, ?4)"#,
            rusqlite::params![
                delivery.key.as_bytes(),
                state,
                delivery.received_at.as_microsecond(),
                told_at,
                reason,
                if state == 1 { -1 } else { record::size(body.as_bytes()) },
                body.as_bytes(),
                i64::try_from(seq).unwrap() + 1,
            ],
        )
        .unwrap();
        expected.push(delivery);
    }
    old.execute("INSERT INTO cursors (name, seq) VALUES ('sink', 3)", [])
        .unwrap();
    drop(old);
    drop(files::open(&path, None, at(1)).unwrap());
    let letters = dead::list(&visit(&dir), 0, 10, true).unwrap();
    let shown: Vec<_> = letters
        .iter()
        .map(|l| (l.seq, l.kind, l.refusals, l.retry_at.is_some(), l.replay))
        .collect();
    assert_eq!(
        shown,
        [
            (2, DeadKind::Unreadable, 0, false, false),
            (3, DeadKind::Unreadable, 0, false, false),
            (4, DeadKind::Refused, 1, true, false),
            (5, DeadKind::Refused, 1, true, true),
        ]
    );

    let (journal, mut feed) = open(&dir).await;
    assert_eq!(journal.sink_cursor().await, Ok(3));
    // Pending, refused and marked.
    for _ in 0..3 {
        let seq = feed.recv().await.unwrap().waiting.seq;
        let loaded = journal.load(seq).await.unwrap();
        let as_before = expected[usize::try_from(seq).unwrap() - 1].clone();
        // What is tried again is read again.
        let tried_again = seq > 1;
        let as_before = if tried_again {
            as_before.read_again()
        } else {
            as_before
        };
        assert_eq!(loaded, Some(as_before));
    }
    assert_eq!((journal.depth().pending, journal.depth().dead), (3, 3));
    for delivery in expected {
        assert_eq!(journal.append(delivery).await, Ok(Appended::Known));
    }
}

#[tokio::test]
async fn a_refused_delivery_is_fed_again_when_its_time_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut feed) = open(&dir).await;
    let alarm = received(ALARM).read_again();
    journal.append(alarm.clone()).await.unwrap();
    assert_eq!(feed.recv().await.unwrap().waiting.class, Class::Alarm);
    // As if it had been refused an hour ago; its webhook was told.
    let hour = Timestamp::now().as_second() - 3_600;
    let cause = refused("a policy");
    journal
        .bury(alarm.key, cause.clone(), at(hour))
        .await
        .unwrap();
    journal.told("u-1".into(), 1, at(hour)).await.unwrap();
    let again = tokio::time::timeout(Duration::from_secs(20), feed.recv());
    let again = again.await.unwrap().unwrap();
    // After all that has just arrived, and as if it had, too: it has waited long enough without being late.
    assert_eq!((again.key, again.waiting.class), (alarm.key, Class::Other));
    assert!(again.received_at.as_second() >= hour + 3_600);
    assert_eq!(journal.load(1).await, Ok(Some(alarm.clone())));
    // It counts as a dead letter until it is published.
    assert_eq!((journal.depth().pending, journal.depth().dead), (1, 1));

    // Refused again, it waits longer, across a restart, and nobody is told anew.
    let now = Timestamp::now();
    journal.bury(alarm.key, cause, now).await.unwrap();
    assert_eq!(journal.untold().await, Ok(vec![]));
    journal.close().await;
    let letter = dead::list(&visit(&dir), 0, 10, false).unwrap().remove(0);
    assert_eq!((letter.refusals, letter.kind), (2, DeadKind::Refused));
    let wait = letter.retry_at.unwrap().duration_since(now).as_secs();
    assert!((119..=120).contains(&wait), "{wait}");
    let (journal, mut feed) = open(&dir).await;
    assert!(feed.try_recv().is_err());
    assert_eq!((journal.depth().dead, journal.depth().refused), (1, 1));

    // A person need not wait, and what is published is no dead letter any more.
    assert_eq!(replay(&dir), 1);
    assert_eq!(feed.recv().await.unwrap().waiting.class, Class::Alarm);
    journal.settle(alarm.key, now).await.unwrap();
    assert_eq!((journal.depth().pending, journal.depth().dead), (0, 0));
    assert_eq!(journal.append(alarm).await, Ok(Appended::Known));
}

#[tokio::test]
async fn a_file_of_the_first_version_opens_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    std::fs::create_dir(&path).unwrap();
    let file = path.join("journal.sqlite");
    let old = Connection::open(&file).unwrap();
    schema::tests::first_version(&old);
    let state_and_reason = [
        ("pending", 0, None, None),
        ("published", 1, None, Some(7)),
        (
            "unreadable",
            2,
            Some("it is not JSON (line 1, column 1)"),
            Some(7),
        ),
        ("refused", 2, Some("the namespace is gone"), Some(8)),
    ];
    for (body, state, reason, settled_at) in state_and_reason {
        let delivery = received(body);
        let kept = if state == 1 { "" } else { body };
        old.execute(
            r#"INSERT INTO records (key, state, class, namespace, name, uid, key_id, received_at, settled_at,
             webhook_id, labels, reason, size, body) VALUES (?1, ?2, 0, 'security', 'alarms', 'u-1', 'k-1', ?3, ?4,
             'webhook_1', '{"team":"blue"}', ?5, ?6, ?7)"#,
            rusqlite::params![
                delivery.key.as_bytes(),
                state,
                delivery.received_at.as_microsecond(),
                settled_at,
                reason,
                record::size(body.as_bytes()),
                kept.as_bytes(),
            ],
        )
        .unwrap();
    }
    drop(old);

    let (journal, mut feed) = open(&dir).await;
    let entry = feed.recv().await.unwrap();
    let loaded = journal.load(entry.waiting.seq).await.unwrap().unwrap();
    let as_before = Received {
        place: KeyPlace::Current,
        ..received("pending")
    };
    assert_eq!(loaded, as_before);
    // What the API server refused is tried again.
    let entry = feed.recv().await.unwrap();
    assert_eq!(entry.key, received("refused").key);
    assert!(feed.try_recv().is_err());
    let depth = journal.depth();
    assert_eq!((depth.pending, depth.bytes, depth.dead), (2, 14, 2));
    let cause = refused("still");
    journal.bury(entry.key, cause, at(9)).await.unwrap();
    for (body, ..) in state_and_reason {
        assert_eq!(journal.append(received(body)).await, Ok(Appended::Known));
    }
    // The unreadable one was an Event of its own.
    let untold = journal.untold().await.unwrap();
    assert_eq!(untold.len(), 1);
    assert_eq!((untold[0].count, untold[0].first), (1, 4));
    assert_eq!(
        untold[0].last_told_at,
        Some(Timestamp::from_microsecond(7).unwrap())
    );
    let kept = journal.for_sink(0, 10).await.unwrap();
    assert_eq!(kept.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 3, 4]);
}

/// Has dead letters tried again, as another process does.
fn replay(dir: &tempfile::TempDir) -> usize {
    let mut shelf = shelf::Shelf::change(&dir.path().join("journal")).unwrap();
    let letters = shelf.letters(0, 100, false).unwrap();
    let numbers: Vec<i64> = letters.iter().map(|letter| letter.seq).collect();
    shelf.replay(&numbers).unwrap()
}

const ALARM: &str = r#"{"event":"alarm.triggered","data":{"alarm_id":"a-1"}}"#;

#[tokio::test]
async fn a_dead_letter_that_is_to_be_tried_again_is_pending_within_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut feed) = open(&dir).await;
    let mut alarm = received(ALARM);
    // As a program kept it that could not read it.
    alarm.class = Class::Other;
    journal.append(alarm.clone()).await.unwrap();
    journal
        .bury(alarm.key, unreadable("it has no event name"), at(1))
        .await
        .unwrap();
    journal.told("u-1".into(), 1, at(2)).await.unwrap();
    assert_eq!(feed.recv().await.unwrap().waiting.class, Class::Other);
    assert_eq!(replay(&dir), 1);
    let again = tokio::time::timeout(Duration::from_secs(10), feed.recv());
    let again = again.await.unwrap().unwrap();
    assert_eq!((again.waiting.seq, again.waiting.class), (1, Class::Alarm));
    let loaded = journal.load(1).await.unwrap().unwrap();
    assert_eq!(loaded, alarm.clone().read_again());
    assert!(loaded.occurrence.is_some());
    let depth = journal.depth();
    assert_eq!((depth.pending, depth.dead, depth.dead_bytes), (1, 0, 0));
    // Dead again, it is told again.
    journal
        .bury(alarm.key, unreadable("another reason"), at(3))
        .await
        .unwrap();
    let untold = journal.untold().await.unwrap();
    assert_eq!(untold[0].last_reason, "another reason");

    // Marked while nobody runs.
    journal.close().await;
    assert_eq!(replay(&dir), 1);
    assert_eq!(replay(&dir), 0, "it is marked already");
    let (journal, mut feed) = open(&dir).await;
    assert_eq!(feed.recv().await.unwrap().key, alarm.key);
    assert_eq!(journal.depth().pending, 1);
}

#[tokio::test]
async fn a_replay_of_an_occurrence_that_is_known_makes_no_second_one() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut feed) = open(&dir).await;
    for stamp in ["1", "2"] {
        let body = ALARM.replace("\"data\"", &format!("\"timestamp\":{stamp},\"data\""));
        // Unreadable then, so its occurrence was not known.
        journal.append(received(&body)).await.unwrap();
        journal
            .bury(received(&body).key, unreadable("x"), at(1))
            .await
            .unwrap();
        feed.recv().await.unwrap();
    }
    assert_eq!(replay(&dir), 2);
    assert_eq!(feed.recv().await.unwrap().waiting.seq, 1);
    let depth = journal.depth();
    assert_eq!((depth.pending, depth.dead), (1, 0));
    assert!(feed.try_recv().is_err());
}

#[tokio::test]
async fn a_replay_waits_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_records: 1,
        ..Limits::default()
    };
    let options = Options {
        limits,
        sink: false,
    };
    let (journal, mut feed) = open_with(&dir, options).await;
    for body in ["a", "b"] {
        journal.append(received(body)).await.unwrap();
        journal
            .bury(received(body).key, unreadable("x"), at(1))
            .await
            .unwrap();
        feed.recv().await.unwrap();
    }
    assert_eq!(replay(&dir), 2);
    for body in ["a", "b"] {
        let again = tokio::time::timeout(Duration::from_secs(10), feed.recv());
        assert_eq!(again.await.unwrap().unwrap().key, received(body).key);
        assert_eq!(journal.depth().pending, 1);
        journal.settle(received(body).key, at(2)).await.unwrap();
    }
    assert_eq!(journal.depth().dead, 0);
}

#[tokio::test]
async fn a_visitor_is_told_what_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let error = |dir: &Path| shelf::Shelf::look(dir).unwrap_err().to_string();
    assert!(error(dir.path()).contains("there is no journal in"));
    assert!(!dir.path().join("journal.sqlite").exists());
    let old = Connection::open(dir.path().join("journal.sqlite")).unwrap();
    schema::tests::first_version(&old);
    assert!(error(dir.path()).contains("start this program's receiver on it once"));
}
