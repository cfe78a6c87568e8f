//! Damaged files: what is readable is kept, the file is set aside, and deliveries go on.

use std::fs;
use std::path::PathBuf;

use super::*;

const PAGE: usize = 4096;

/// A journal that was filled and closed: 300 deliveries, of which every third was published and every fifth buried.
async fn filled(dir: &tempfile::TempDir) -> PathBuf {
    let (journal, _feed) = open(dir).await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..300 {
        let journal = journal.clone();
        tasks.spawn(async move { journal.append(received(&body(i))).await });
    }
    while let Some(done) = tasks.join_next().await {
        assert_eq!(done.unwrap(), Ok(Appended::New));
    }
    for i in (0..300).step_by(3) {
        journal.settle(received(&body(i)).key, at(1)).await.unwrap();
    }
    for i in (0..300).step_by(5) {
        let key = received(&body(i)).key;
        journal.bury(key, unreadable("x"), at(1)).await.unwrap();
    }
    journal.close().await;
    dir.path().join("journal").join(files::FILE)
}

fn body(i: usize) -> String {
    format!("{i} {}", "x".repeat(600))
}

/// How many deliveries of [`filled`] are pending, and how many are dead.
fn before() -> (i64, i64) {
    let of = |fits: fn(usize) -> bool| (0..300).filter(|i| fits(*i)).count();
    let dead = of(|i| i % 3 != 0 && i % 5 == 0);
    let pending = of(|i| i % 3 != 0 && i % 5 != 0);
    (
        i64::try_from(pending).unwrap(),
        i64::try_from(dead).unwrap(),
    )
}

fn damaged(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir.path().join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("journal-damaged-"))
        .filter(|path| path.to_string_lossy().ends_with(".sqlite"))
        .collect();
    found.sort();
    found
}

/// The positions of pages with rows of a table.
fn leaves(bytes: &[u8]) -> Vec<usize> {
    let starts = (PAGE..bytes.len()).step_by(PAGE);
    starts.filter(|at| bytes[*at] == 0x0d).collect()
}

#[tokio::test]
async fn garbage_is_set_aside_and_a_fresh_journal_begun() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    fs::create_dir(&path).unwrap();
    let garbage = "not a database".repeat(500);
    fs::write(path.join(files::FILE), &garbage).unwrap();
    let (journal, _feed) = open(&dir).await;
    assert_eq!(journal.depth().quarantined, 1);
    assert_eq!(journal.append(received("one")).await, Ok(Appended::New));
    let aside = damaged(&dir);
    assert_eq!(aside.len(), 1);
    assert_eq!(fs::read_to_string(&aside[0]).unwrap(), garbage);
    journal.close().await;
    let (journal, _feed) = open(&dir).await;
    assert_eq!(journal.depth().quarantined, 0);
    assert_eq!(journal.depth().pending, 1);
}

#[tokio::test]
async fn the_rows_of_a_broken_page_are_lost_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(&dir).await;
    let mut bytes = fs::read(&file).unwrap();
    let leaves = leaves(&bytes);
    let broken = leaves[leaves.len() / 2];
    bytes[broken..broken + PAGE].fill(0xa5);
    fs::write(&file, &bytes).unwrap();

    let (journal, mut feed) = open(&dir).await;
    let depth = journal.depth();
    assert_eq!(depth.quarantined, 1);
    let (pending, dead) = before();
    let gone = pending + dead - depth.pending - depth.dead;
    // A page has room for six of these rows.
    assert!((1..=6).contains(&gone), "{depth:?}");
    let mut last = 0;
    for _ in 0..depth.pending {
        let seq = feed.recv().await.unwrap().waiting.seq;
        assert!(seq > last);
        last = seq;
        let loaded = journal.load(seq).await.unwrap().unwrap();
        assert_eq!(received(std::str::from_utf8(&loaded.body).unwrap()), loaded);
    }
    assert_eq!(fs::read(&damaged(&dir)[0]).unwrap(), bytes);
    // Keys, too: what was published is not published again.
    let mut fresh = 0;
    for i in 0..300 {
        let appended = journal.append(received(&body(i))).await;
        fresh += i64::from(appended == Ok(Appended::New));
    }
    assert!((gone..=gone + 20).contains(&fresh), "{fresh}");
}

#[tokio::test]
async fn what_lies_between_a_broken_front_and_a_broken_end_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(&dir).await;
    let mut bytes = fs::read(&file).unwrap();
    let leaves = leaves(&bytes);
    for broken in [leaves[0], leaves[leaves.len() - 1]] {
        bytes[broken..broken + PAGE].fill(0xa5);
    }
    fs::write(&file, &bytes).unwrap();
    let (journal, _feed) = open(&dir).await;
    let depth = journal.depth();
    let (pending, dead) = before();
    let gone = pending + dead - depth.pending - depth.dead;
    assert!((1..=12).contains(&gone), "{depth:?}");
}

/// A journal as the first version made it, with 500 pending deliveries.
fn of_the_first_version(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("journal");
    fs::create_dir(&path).unwrap();
    let file = path.join(files::FILE);
    let mut old = Connection::open(&file).unwrap();
    schema::tests::first_version(&old);
    let transaction = old.transaction().unwrap();
    for i in 0..500 {
        let row = received(&format!("old {i}"));
        transaction
            .execute(
                "INSERT INTO records (key, occurrence, state, class, namespace, name, uid, key_id, received_at, labels, \
                 size, body) VALUES (?1, ?1, 0, 0, 'security', 'alarms', 'u-1', 'k-1', 1, '{}', ?3, ?2)",
                rusqlite::params![row.key.as_bytes(), row.body, record::size(&row.body)],
            )
            .unwrap();
    }
    transaction.commit().unwrap();
    file
}

#[tokio::test]
async fn a_broken_first_page_loses_nothing() {
    for version in ["1", "1, brought up to 2", "2"] {
        let dir = tempfile::tempdir().unwrap();
        let file = if version == "2" {
            filled(&dir).await
        } else {
            of_the_first_version(&dir)
        };
        if version == "1, brought up to 2" {
            let (journal, _feed) = open(&dir).await;
            journal.close().await;
        }
        let mut bytes = fs::read(&file).unwrap();
        bytes[..PAGE].fill(0);
        fs::write(&file, &bytes).unwrap();
        let (journal, _feed) = open(&dir).await;
        let depth = journal.depth();
        let expected = if version == "2" { before() } else { (500, 0) };
        assert_eq!((depth.pending, depth.dead), expected, "version {version}");
        let beside = fs::read_dir(dir.path().join("journal")).unwrap();
        let left: Vec<String> = beside
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("rescue") || name.contains("patched"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn of_a_truncated_file_the_front_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(&dir).await;
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2 + 100]).unwrap();
    let (journal, _feed) = open(&dir).await;
    let depth = journal.depth();
    let (pending, dead) = before();
    assert_eq!(depth.quarantined, 1);
    assert!(
        depth.pending + depth.dead > (pending + dead) / 4,
        "{depth:?}"
    );
    assert_eq!(journal.append(received("new")).await, Ok(Appended::New));
}

#[tokio::test]
async fn a_body_that_is_not_what_was_signed_becomes_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(&dir).await;
    let mut bytes = fs::read(&file).unwrap();
    // The first page makes it look; the changed body alone would not be noticed.
    bytes[..PAGE].fill(0);
    let mark = body(101);
    // Pages that were split leave what they held behind.
    let places: Vec<usize> = bytes
        .windows(mark.len())
        .enumerate()
        .filter(|(_, window)| *window == mark.as_bytes())
        .map(|(at, _)| at)
        .collect();
    for at in places {
        bytes[at + 300] = b'y';
    }
    fs::write(&file, &bytes).unwrap();
    let (journal, _feed) = open(&dir).await;
    let (pending, dead) = before();
    let depth = journal.depth();
    assert_eq!((depth.pending, depth.dead), (pending - 1, dead + 1));
    let untold = journal.untold().await.unwrap();
    assert_eq!(untold[0].count, dead + 1);
    let shelf = files::visit(&dir.path().join("journal"), false).unwrap();
    let letters = dead::list(&shelf, 0, 300, false).unwrap();
    let of_it = letters.iter().find(|l| l.key == received(&mark).key);
    assert_eq!(of_it.unwrap().reason, "its bytes were damaged on the disk");
}

#[tokio::test]
async fn damage_that_shows_while_it_runs_is_met_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(&dir).await;
    let (journal, mut feed) = open(&dir).await;
    let mut bytes = fs::read(&file).unwrap();
    let leaves = leaves(&bytes);
    for broken in &leaves[5..leaves.len() - 5] {
        bytes[*broken..*broken + PAGE].fill(0xa5);
    }
    // Into the file that is open, as a disk does it.
    let mut open_file = fs::File::options().write(true).open(&file).unwrap();
    std::io::Write::write_all(&mut open_file, &bytes).unwrap();
    let mut seqs = Vec::new();
    while let Ok(entry) = feed.try_recv() {
        seqs.push(entry.waiting.seq);
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while journal.depth().quarantined == 0 {
        assert!(std::time::Instant::now() < deadline, "nothing was noticed");
        for seq in &seqs {
            let _ = journal.load(*seq).await;
        }
    }
    is_open(&journal).await;
    assert_eq!(journal.append(received("new")).await, Ok(Appended::New));
    let mut kept = 0;
    for seq in &seqs {
        kept += i64::from(journal.load(*seq).await.unwrap().is_some());
    }
    assert!(kept > 0);
    assert_eq!(kept + 1, journal.depth().pending, "{:?}", journal.depth());
    // It is fed again, for nobody knows what was read meanwhile.
    let mut again = 0;
    while let Ok(entry) = feed.try_recv() {
        again += 1;
        let loaded = journal.load(entry.waiting.seq).await.unwrap().unwrap();
        assert_eq!(loaded.key, entry.key);
    }
    assert_eq!(again, kept + 1);
}

#[tokio::test]
async fn a_file_that_was_wrongly_suspected_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(&dir).await;
    let path = file.parent().unwrap();
    for round in 1..=2 {
        let rescued = files::open(path, Some("somebody said so"), at(round)).unwrap();
        let rescued = rescued.rescued.unwrap();
        assert_eq!(
            (rescued.saved, rescued.broken, rescued.unreadable),
            (300, 0, 0)
        );
    }
    let (journal, _feed) = open(&dir).await;
    let depth = journal.depth();
    assert_eq!((depth.pending, depth.dead), before());
    for i in 0..300 {
        let appended = journal.append(received(&body(i))).await;
        assert_eq!(appended, Ok(Appended::Known));
    }
}

#[tokio::test]
async fn what_was_refused_keeps_its_next_try_and_rows_that_cannot_be_read_are_mended_once() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _feed) = open(&dir).await;
    let now = Timestamp::now();
    for body in ["refused", "odd time", "odd labels"] {
        assert_eq!(journal.append(received(body)).await, Ok(Appended::New));
        let key = received(body).key;
        journal.bury(key, refused("a policy"), now).await.unwrap();
    }
    journal.close().await;
    let path = dir.path().join("journal");
    let before = dead::list(&visit(&dir), 0, 10, false).unwrap();
    let connection = files::visit(&path, true).unwrap();
    connection
        .execute_batch(
            "UPDATE records SET retry_at = 9223372036854775807, refusals = -7 WHERE seq = 2; \
             UPDATE records SET labels = 'x', retry_at = 5 WHERE seq = 3",
        )
        .unwrap();
    drop(connection);
    drop(files::open(&path, Some("somebody said so"), at(1)).unwrap());
    let after = dead::list(&visit(&dir), 0, 10, false).unwrap();
    assert_eq!(before[0], after[0]);
    assert_eq!((after[1].refusals, after[1].retry_at), (0, Some(at(1))));
    // Both are due, and can be taken up.
    let (journal, mut feed) = open(&dir).await;
    let first = feed.recv().await.unwrap().waiting.seq;
    journal
        .settle(after[usize::try_from(first).unwrap() - 1].key, now)
        .await
        .unwrap();
    let second = feed.recv().await.unwrap().waiting.seq;
    assert_eq!([first.min(second), first.max(second)], [2, 3]);
    assert_eq!(journal.depth().quarantined, 0);
}

#[tokio::test]
async fn an_emptied_file_beside_its_log_is_not_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("journal.sqlite"), "").unwrap();
    fs::write(path.join("journal.sqlite-wal"), "a log").unwrap();
    let (journal, _feed) = open(&dir).await;
    assert_eq!(journal.depth().quarantined, 1);
    let aside = damaged(&dir).remove(0);
    let log = format!("{}-wal", aside.display());
    assert_eq!(fs::read_to_string(log).unwrap(), "a log");
}

#[tokio::test]
async fn three_damaged_files_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    fs::create_dir(&path).unwrap();
    for i in 0..5 {
        fs::write(path.join(files::FILE), format!("garbage {i} ").repeat(600)).unwrap();
        drop(files::open(&path, None, at(i)).unwrap());
    }
    let kept = damaged(&dir);
    assert_eq!(kept.len(), rescue::KEPT);
    for (i, file) in kept.iter().enumerate() {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.starts_with(&format!("garbage {} ", i + 2)), "{i}");
    }
}

#[tokio::test]
async fn a_crash_between_the_renames_is_made_good_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(&dir).await;
    let path = dir.path().join("journal");
    // As after the second name was given and before anything was set aside.
    fs::rename(&file, path.join("journal-rescued.sqlite")).unwrap();
    fs::write(&file, "garbage").unwrap();
    fs::write(path.join("journal.sqlite-wal"), "of the garbage").unwrap();
    let (journal, _feed) = open(&dir).await;
    let depth = journal.depth();
    assert_eq!((depth.pending, depth.dead), before());
    assert_eq!(damaged(&dir).len(), 1);
    journal.close().await;
    // One that was not complete is worth nothing.
    fs::write(path.join("journal-rescue.sqlite"), "half").unwrap();
    let (journal, _feed) = open(&dir).await;
    assert_eq!(journal.depth().pending, before().0);
    assert!(!path.join("journal-rescue.sqlite").exists());
}

#[tokio::test]
async fn a_journal_that_is_deleted_while_it_is_in_use_is_written_anew() {
    for names in [
        &["journal.sqlite"][..],
        &["journal.sqlite-wal"],
        &[
            "journal.sqlite",
            "journal.sqlite-wal",
            "journal.sqlite-shm",
            "journal.lock",
        ],
        &[],
    ] {
        let dir = tempfile::tempdir().unwrap();
        filled(&dir).await;
        let (journal, _feed) = open(&dir).await;
        assert_eq!(
            journal.append(received("in the log")).await,
            Ok(Appended::New)
        );
        let path = dir.path().join("journal");
        for name in names {
            fs::remove_file(path.join(name)).unwrap();
        }
        if names.is_empty() {
            fs::remove_dir_all(&path).unwrap();
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while files::identity(&path).unwrap().contains(&None) {
            assert!(std::time::Instant::now() < deadline, "{names:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It may be between two openings.
        while journal.append(received("later")).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "{names:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(journal);
        let (journal, _feed) = open(&dir).await;
        let depth = journal.depth();
        let (pending, dead) = before();
        assert_eq!(
            (depth.pending, depth.dead),
            (pending + 2, dead),
            "{names:?}"
        );
    }
}

#[tokio::test]
async fn a_journal_that_is_deleted_just_before_the_end_is_written_anew_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(&dir).await;
    let (journal, _feed) = open(&dir).await;
    fs::remove_file(file).unwrap();
    journal.close().await;
    let (journal, _feed) = open(&dir).await;
    assert_eq!((journal.depth().pending, journal.depth().dead), before());
}
