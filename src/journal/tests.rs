//! The journal on a real disk: what is acknowledged is there, once, after whatever happens to the process.

use std::collections::BTreeMap;

use super::*;
use crate::delivery::Class;
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
        received_at: Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
        labels: BTreeMap::from([("team".into(), "blue".into())]),
        webhook_id: Some("webhook_1".into()),
        body: body.as_bytes().to_vec(),
    }
}

fn open(dir: &tempfile::TempDir) -> (Journal, Feed) {
    Journal::open(&dir.path().join("journal"), Limits::default()).unwrap()
}

/// Opens once the thread of a journal that was dropped has let go of the lock.
async fn open_again(dir: &tempfile::TempDir) -> (Journal, Feed) {
    let path = dir.path().join("journal");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match Journal::open(&path, Limits::default()) {
            Err(OpenError::Held(_)) if std::time::Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            other => return other.unwrap(),
        }
    }
}

#[tokio::test]
async fn what_was_appended_is_there_after_the_journal_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut feed) = open(&dir);
    let mut first = received("one");
    first.occurrence = Some(DeliveryKey::of("u-1", b"occurrence"));
    assert_eq!(journal.append(first.clone()).await, Ok(Appended::New));
    assert_eq!(journal.append(received("two")).await, Ok(Appended::New));
    let entry = feed.recv().await.unwrap();
    assert_eq!(entry.key, first.key);
    assert_eq!(
        journal.load(entry.waiting.seq).await,
        Ok(Some(first.clone()))
    );
    drop((journal, feed));

    let (journal, mut feed) = open_again(&dir).await;
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
    let (journal, _feed) = open(&dir);
    for body in ["pending", "published", "dead"] {
        assert_eq!(journal.append(received(body)).await, Ok(Appended::New));
    }
    journal
        .settle(received("published").key, at(5))
        .await
        .unwrap();
    journal
        .bury(received("dead").key, "no reason".into(), at(5))
        .await
        .unwrap();
    let depth = Depth {
        pending: 1,
        bytes: 7,
        dead: 1,
    };
    assert_eq!(journal.depth(), depth);
    journal.close().await;
    assert_eq!(
        journal.append(received("late")).await,
        Err(JournalError::Closed)
    );
    drop(journal);

    let (journal, mut feed) = open_again(&dir).await;
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
    let (journal, _feed) = open(&dir);
    let occurrence = Some(DeliveryKey::of("u-1", b"alarm-1"));
    let stamped = |body| Received {
        occurrence,
        ..received(body)
    };
    assert_eq!(journal.append(stamped("10:00")).await, Ok(Appended::New));
    assert_eq!(journal.append(stamped("10:05")).await, Ok(Appended::Known));
    assert_eq!(journal.append(received("10:05")).await, Ok(Appended::New));
}

#[tokio::test]
async fn a_key_is_remembered_for_half_an_hour_after_publishing_and_then_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _feed) = open(&dir);
    journal.append(received("one")).await.unwrap();
    journal
        .settle(received("one").key, at(1_000))
        .await
        .unwrap();
    assert_eq!(journal.sweep(at(1_000 + 1_800)).await, Ok(0));
    assert_eq!(journal.append(received("one")).await, Ok(Appended::Known));
    assert_eq!(journal.sweep(at(1_000 + 1_801)).await, Ok(0));
    assert_eq!(journal.append(received("one")).await, Ok(Appended::New));
}

#[tokio::test]
async fn a_full_journal_refuses_what_is_new_and_still_knows_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_records: 2,
        max_bytes: 10,
        max_dead: 1,
    };
    let (journal, _feed) = Journal::open(dir.path(), limits).unwrap();
    assert_eq!(journal.append(received("1234567")).await, Ok(Appended::New));
    assert_eq!(
        journal.append(received("bytes")).await,
        Err(JournalError::Full)
    );
    assert_eq!(journal.append(received("2")).await, Ok(Appended::New));
    assert_eq!(journal.append(received("3")).await, Err(JournalError::Full));
    assert_eq!(journal.append(received("2")).await, Ok(Appended::Known));
    journal
        .settle(received("1234567").key, at(1))
        .await
        .unwrap();
    assert_eq!(journal.append(received("3")).await, Ok(Appended::New));
    // Dead letters are bounded apart: the oldest goes.
    for (body, second) in [("2", 1), ("3", 2)] {
        let key = received(body).key;
        journal.bury(key, "x".into(), at(second)).await.unwrap();
    }
    assert_eq!(journal.sweep(at(3)).await, Ok(1));
    assert_eq!(journal.depth().dead, 1);
    assert_eq!(journal.append(received("3")).await, Ok(Appended::Known));
    assert_eq!(journal.append(received("2")).await, Ok(Appended::New));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_appends_at_once_are_all_there_and_each_is_fed_once() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut feed) = open(&dir);
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
    let (journal, mut feed) = open(&dir);
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
fn a_journal_is_held_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(&dir);
    let error = Journal::open(&dir.path().join("journal"), Limits::default()).unwrap_err();
    assert!(matches!(error, OpenError::Held(_)), "{error}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| {
        Journal::open(path, Limits::default())
            .unwrap_err()
            .to_string()
    };
    let garbage = dir.path().join("garbage");
    std::fs::create_dir(&garbage).unwrap();
    std::fs::write(garbage.join("journal.sqlite"), "not a database".repeat(500)).unwrap();
    assert!(error(&garbage).contains("cannot be opened"));

    let newer = dir.path().join("newer");
    drop(schema::open(&newer).unwrap());
    let connection = Connection::open(newer.join("journal.sqlite")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    assert!(error(&newer).contains("has schema 99"));

    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let connection = Connection::open(foreign.join("journal.sqlite")).unwrap();
    connection.execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(error(&foreign).contains("another program's database"));

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(error(&file).contains("cannot be used"));
}
