//! What is remembered of the rows is what is in them, after any sequence of commits, whether they succeed or not.

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::delivery::holdings::{Amount, Holdings};
use crate::journal::batch::Work;
use crate::journal::keys::{Keys, Named};
use crate::journal::rooms::Rooms;

/// A journal without its thread.
struct Bare {
    connection: Connection,
    options: Options,
    tally: Tally,
    keys: Keys,
    rooms: Rooms,
    work: Work,
    answers: Vec<oneshot::Receiver<Result<Appended, JournalError>>>,
    done: Vec<oneshot::Receiver<Result<(), JournalError>>>,
}

impl Bare {
    fn new(options: Options) -> Self {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::bring_up(&mut connection).unwrap();
        let (tally, rooms) = Tally::count(&connection, options, &Tally::default()).unwrap();
        Bare {
            tally,
            rooms,
            keys: Keys::read(&connection).unwrap(),
            connection,
            options,
            work: Work::default(),
            answers: Vec::new(),
            done: Vec::new(),
        }
    }

    fn ask(&mut self, act: Act, now: i64) {
        let (reply, done) = oneshot::channel();
        let command = match act {
            Act::Append(which) => {
                let (reply, answer) = oneshot::channel();
                self.answers.push(answer);
                Command::Append(Box::new(delivery(which)), reply)
            }
            Act::Settle(which) => Command::Settle(delivery(which).key, at(now), reply),
            Act::Refuse(which) => {
                Command::Bury(delivery(which).key, refused("a policy"), at(now), reply)
            }
            Act::Retry => {
                self.tally.retries = true;
                return;
            }
            Act::Bury(which) => Command::Bury(delivery(which).key, unreadable("x"), at(now), reply),
            Act::Advance(seq) => Command::Advance(i64::from(seq), reply),
            Act::Sweep => {
                self.tally.forget = Some(at(now - 10));
                return;
            }
            Act::Replay => {
                // As another process does.
                let sql = "UPDATE records SET state = 3 WHERE state = 2";
                self.connection.execute(sql, []).unwrap();
                self.tally.replays = batch::Replays {
                    any: true,
                    ..batch::Replays::default()
                };
                return;
            }
        };
        self.done.push(done);
        self.work.commands.push_back(command);
    }

    fn commit(&mut self) -> rusqlite::Result<()> {
        let done = batch::commit(
            &self.connection,
            self.options,
            self.tally,
            &mut self.keys,
            &mut self.rooms,
            &mut self.work,
            // All that was refused is due.
            at(1_000_000),
        );
        for answer in self.work.answers.drain(..) {
            let failed = JournalError::Io("failed".to_owned());
            answer.give(done.is_err().then_some(&failed));
        }
        for command in self.work.commands.drain(..) {
            command.refuse(JournalError::Io("failed".to_owned()));
        }
        self.work.fresh.clear();
        self.tally = done?;
        Ok(())
    }

    /// What was said to the appends.
    fn said(&mut self) -> Vec<Result<Appended, JournalError>> {
        let answers = self.answers.drain(..);
        answers
            .map(|mut answer| answer.try_recv().unwrap())
            .collect()
    }

    fn rows(&self) -> i64 {
        let sql = "SELECT count(*) FROM records";
        self.connection
            .query_row(sql, [], |row| row.get(0))
            .unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Append(u8),
    Settle(u8),
    Bury(u8),
    Refuse(u8),
    Replay,
    Retry,
    Sweep,
    Advance(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let which = 0..16_u8;
    prop_oneof![
        8 => which.clone().prop_map(Act::Append),
        4 => which.clone().prop_map(Act::Settle),
        3 => which.clone().prop_map(Act::Bury),
        3 => which.clone().prop_map(Act::Refuse),
        1 => Just(Act::Replay),
        1 => Just(Act::Retry),
        1 => Just(Act::Sweep),
        1 => which.prop_map(Act::Advance),
    ]
}

/// Of each four, three say the same of one alarm; the third of them is kept as a program kept it that could not read it.
/// The fourth says something else of the alarm, or is kept as a program kept it that read more in it. Each four have a
/// webhook, and two webhooks a namespace.
fn delivery(which: u8) -> Received {
    let uid = format!("u-{}", which / 4);
    let of = |body: &str| Received {
        key: DeliveryKey::of(&uid, body.as_bytes()),
        webhook: WebhookIdentity {
            namespace: format!("n-{}", which / 8),
            name: uid.clone(),
            uid: uid.clone(),
        },
        ..received(body)
    };
    let alarm = |event: &str| {
        let id = which / 4;
        of(&format!(
            r#"{{"event":"alarm.{event}","timestamp":{which},"data":{{"alarm_id":"a{id}"}}}}"#
        ))
    };
    match which % 8 {
        0 | 1 | 4 | 5 => alarm("triggered").read_again(),
        2 | 6 => alarm("triggered"),
        3 => alarm("cleared").read_again(),
        _ => Received {
            occurrence: Some(Occurrence::from_bytes([which; 32])),
            ..of(&format!("unreadable {which}"))
        },
    }
}

/// What is remembered of who holds what.
fn held(rooms: &Rooms) -> Vec<(String, Amount)> {
    let of = |name: &str, holdings: &Holdings| {
        let uids: std::collections::BTreeSet<&str> = holdings.webhooks().collect();
        let mut all = vec![(name.to_owned(), holdings.total())];
        all.extend(uids.into_iter().map(|uid| {
            let which: u8 = uid[2..].parse().unwrap();
            let namespace = format!("n-{}", which / 2);
            (format!("{name} {uid}"), holdings.of(&namespace, uid))
        }));
        all
    };
    [
        of("pending", rooms.pending.held()),
        of("unreadable", rooms.dead(DeadKind::Unreadable)),
        of("refused", rooms.dead(DeadKind::Refused)),
        of("kept", &rooms.kept),
    ]
    .concat()
}

/// How a commit goes.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Failing(u8),
    Reopened,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Well),
        2 => (0..6_u8).prop_map(Fate::Failing),
        1 => Just(Fate::Reopened),
    ]
}

fn play(commits: &[(Vec<Act>, Fate)], sink: bool) {
    let limits = Limits {
        max_records: 9,
        max_dead: 3,
        max_refused: 3,
        max_keys: 3,
        ..Limits::default()
    };
    let mut bare = Bare::new(Options { limits, sink });
    let mut now = 1_000;
    for (acts, fate) in commits {
        for act in acts {
            now += 1;
            bare.ask(*act, now);
        }
        let before = (bare.keys.clone(), bare.rows());
        if let Fate::Failing(after) = fate {
            // The change of a row fails, after some that did not.
            let trigger = |change: &str, name: &str| {
                format!(
                    "CREATE TEMP TRIGGER {name} AFTER {change} ON records \
                     WHEN (SELECT count(*) FROM temp.changed) >= {after} \
                     BEGIN SELECT RAISE(ABORT, 'no'); END; \
                     CREATE TEMP TRIGGER {name}_counted AFTER {change} ON records \
                     BEGIN INSERT INTO temp.changed VALUES (1); END;"
                )
            };
            let sql =
                [("INSERT", "i"), ("UPDATE", "u"), ("DELETE", "d")].map(|(c, n)| trigger(c, n));
            bare.connection
                .execute_batch(&format!("CREATE TEMP TABLE changed (x); {}", sql.concat()))
                .unwrap();
        }
        let done = bare.commit();
        if let Fate::Failing(_) = fate {
            bare.connection
                .execute_batch(
                    "DROP TRIGGER i; DROP TRIGGER u; DROP TRIGGER d; DROP TRIGGER i_counted; \
                     DROP TRIGGER u_counted; DROP TRIGGER d_counted; DROP TABLE temp.changed;",
                )
                .unwrap();
        } else {
            assert_eq!(done, Ok(()));
        }
        if done.is_err() {
            assert_eq!((&bare.keys, bare.rows()), (&before.0, before.1));
        }
        for said in bare.said() {
            assert!(
                done.is_ok() || matches!(said, Err(JournalError::Io(_))),
                "{said:?}"
            );
        }
        let in_file = Keys::read(&bare.connection).unwrap();
        assert_eq!(bare.keys, in_file, "after {acts:?}, {fate:?}");
        let counted = Rooms::count(&bare.connection, bare.options, bare.tally.cursor).unwrap();
        assert_eq!(
            held(&bare.rooms),
            held(&counted),
            "after {acts:?}, {fate:?}"
        );
        let depth = bare.tally.depth;
        assert!(depth.pending <= limits.max_records, "after {acts:?}");
        if done.is_ok() {
            assert!(counted.kept.total().records <= limits.max_records);
            let marked: i64 = bare
                .connection
                .query_row("SELECT count(*) FROM records WHERE state = 3", [], |row| {
                    row.get(0)
                })
                .unwrap();
            let retried = i64::try_from(bare.rooms.retries.under_way()).unwrap();
            assert!(depth.dead <= limits.max_dead + limits.max_refused + marked + retried);
        }
        let (published, _) = record::count(&bare.connection, record::PUBLISHED).unwrap();
        assert_eq!(bare.tally.keys, published, "after {acts:?}");
        assert!(sink || done.is_err() || published <= limits.max_keys);
        if let Fate::Reopened = fate {
            bare.keys = in_file;
            (bare.tally, bare.rooms) =
                Tally::count(&bare.connection, bare.options, &bare.tally).unwrap();
        }
        // No two rows share a key or are the last about one alarm, which no constraint of the table says.
        let doubled: i64 = bare
            .connection
            .query_row(
                "SELECT (SELECT count(*) - count(DISTINCT key) FROM records) + \
                 (SELECT count(occurrence) - count(DISTINCT substr(occurrence, 1, 16)) FROM records)",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(doubled, 0, "after {acts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn memory_and_file_agree_after_any_sequence_of_commits(
        commits in vec((vec(act(), 0..12), fate()), 1..20),
        sink in any::<bool>(),
    ) {
        play(&commits, sink);
    }
}

#[test]
fn housekeeping_reads_what_it_is_about_and_not_the_whole_table() {
    let bare = Bare::new(Options::default());
    for sql in [
        record::FORGET,
        record::OLDEST_KEPT,
        dead::EVICT_UNREADABLE,
        dead::EVICT_REFUSED,
        dead::MARKED,
        dead::DUE,
    ] {
        let mut statement = bare
            .connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let steps = statement
            .raw_query()
            .mapped(|row| row.get::<_, String>(3))
            .map(Result::unwrap);
        let plan: Vec<String> = steps.collect();
        let searches = |step: &String| step.starts_with("SEARCH records USING");
        assert!(plan.iter().any(searches), "{plan:?}");
        assert!(!plan.concat().contains("SCAN"), "{plan:?}");
        assert!(!plan.concat().contains("TEMP B-TREE"), "{plan:?}");
    }
}

#[test]
fn a_copy_in_the_same_commit_is_known() {
    let mut bare = Bare::new(Options::default());
    for which in [0, 0, 1, 3, 3, 4] {
        bare.ask(Act::Append(which), 1);
    }
    bare.commit().unwrap();
    let (new, known) = (Ok(Appended::New), Ok(Appended::Known));
    assert_eq!(
        bare.said(),
        [&new, &known, &known, &new, &known, &new].map(Clone::clone)
    );
    assert_eq!(bare.rows(), 3);
}

#[test]
fn what_is_said_again_after_something_else_in_the_same_commit_is_new() {
    let mut bare = Bare::new(Options::default());
    for which in [0, 3, 1, 0] {
        bare.ask(Act::Append(which), 1);
    }
    bare.commit().unwrap();
    let (new, known) = (Ok(Appended::New), Ok(Appended::Known));
    // The last is the first to the byte.
    assert_eq!(bare.said(), [&new, &new, &new, &known].map(Clone::clone));
}

#[test]
fn after_a_commit_that_found_the_disk_full_the_same_deliveries_are_new() {
    let mut bare = Bare::new(Options::default());
    bare.ask(Act::Append(0), 1);
    bare.commit().unwrap();
    bare.connection
        .pragma_update_and_check(None, "max_page_count", 1, |_| Ok(()))
        .unwrap();
    // More than the page that is there has room for.
    for which in 3..100 {
        bare.ask(Act::Append(which), 1);
    }
    bare.ask(Act::Settle(0), 1);
    let error = bare.commit().unwrap_err();
    assert_eq!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DiskFull)
    );
    assert!(bare.said().iter().skip(1).all(Result::is_err));
    assert_eq!(bare.keys, Keys::read(&bare.connection).unwrap());
    bare.connection
        .pragma_update_and_check(None, "max_page_count", 100_000, |_| Ok(()))
        .unwrap();
    bare.answers.clear();
    bare.ask(Act::Append(3), 1);
    bare.ask(Act::Append(0), 1);
    bare.commit().unwrap();
    assert_eq!(bare.said(), [Ok(Appended::New), Ok(Appended::Known)]);
}

#[tokio::test]
async fn a_file_with_a_hundred_thousand_keys_opens_with_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    std::fs::create_dir(&path).unwrap();
    drop(files::open(&path, None, at(1)).unwrap());
    let connection = Connection::open(path.join(files::FILE)).unwrap();
    connection
        .execute_batch(
            "PRAGMA synchronous = off; BEGIN; \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
             INSERT INTO records (seq, key, occurrence, state, class, namespace, name, uid, key_id, received_at, \
             settled_at, labels, size, body) \
             SELECT i, randomblob(32), iif(i % 2, randomblob(32), NULL), 1, 0, '', '', '', '', i, i, '{}', -1, x'' FROM n; \
             COMMIT",
        )
        .unwrap();
    let (journal, _feed) = open(&dir).await;
    let named: Named = connection
        .query_row(
            "SELECT seq, key, occurrence FROM records WHERE seq = 77777",
            [],
            Named::read,
        )
        .unwrap();
    let copy = Received {
        key: named.key,
        ..received("a copy")
    };
    assert_eq!(journal.append(copy).await, Ok(Appended::Known));
    let copy = Received {
        occurrence: named.occurrence,
        ..received("with a fresh timestamp")
    };
    assert_eq!(journal.append(copy).await, Ok(Appended::Known));
    assert_eq!(journal.append(received("new")).await, Ok(Appended::New));
}
