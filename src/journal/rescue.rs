//! A damaged journal is set aside, and every row of it that can still be read goes into a fresh one.
//!
//! ```text
//! journal.sqlite --read--> journal-rescue.sqlite --> journal-rescued.sqlite      filled and on the disk
//! journal.sqlite --> journal-damaged-<UTC time>.sqlite
//! journal-rescued.sqlite --> journal.sqlite
//! ```
//!
//! The second name says that the fresh file is complete, so a crash at any point is made good by [`finish`] or by
//! starting over. Rows keep their numbers, for the queue and the sink's cursor name them.
//!
//! What can be read: rows are read in order from both ends until a page is broken, and one by one in between. Where
//! the first page is broken, which holds the names of the tables, that of a fresh file is put in its place in a copy.
//! Of what is there twice the first is kept.
//! A row whose body is broken, or is not what was signed, becomes a dead letter: its webhook is told at least that
//! something is lost. What SQLite's checksums refuse in the write-ahead log is no longer there for SQLite, and cannot
//! be told from the half-written end that a crash leaves.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Row, params_from_iter};

use super::files::{FILE, OpenError, PAGE};
use super::keys::{Keys, Named};
use super::record::{DEAD, PENDING, PUBLISHED, REPLAY, STRIPPED};
use super::{cursor, schema};
use crate::delivery::{DeliveryKey, Occurrence};

/// Damaged journals that are kept; the oldest beyond that are deleted.
pub const KEPT: usize = 3;
/// Being filled.
const FILLING: &str = "journal-rescue.sqlite";
/// Filled, and on its way to be the journal.
const FILLED: &str = "journal-rescued.sqlite";
/// A copy of the damaged journal with another first page.
const PATCHED: &str = "journal-patched.sqlite";
/// What the names of damaged journals begin with.
const ASIDE: &str = "journal-damaged-";
/// Files that SQLite keeps beside a database, by what their names end with.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// The most numbers that are tried one by one beside a broken page. Rows in use lie closer together.
const SPAN: usize = 1_000_000;
/// How far pending rows may lie from those that an index names.
const NEAR: i64 = 200_000;

/// What became of a damaged journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescued {
    /// What was wrong.
    pub why: String,
    /// Where the damaged file is now.
    pub file: PathBuf,
    /// Rows that were carried over.
    pub saved: u64,
    /// Rows among them that became dead letters, since their bodies are broken.
    pub broken: u64,
    /// Numbers at which nothing could be read; there need not have been a row at each.
    pub unreadable: u64,
}

/// One row as it is, in whatever state.
struct Raw {
    values: Vec<Value>,
    state: i64,
}

/// Columns of a row that can be read without its body, which may be broken.
const HEAD: &str = "seq, key, occurrence, state, class, namespace, name, uid, key_id, received_at, settled_at, \
                    webhook_id, labels, reason, size";
/// Positions in [`HEAD`].
const SEQ: usize = 0;
const KEY: usize = 1;
const OCCURRENCE: usize = 2;
const STATE: usize = 3;
const UID: usize = 7;
const RECEIVED: usize = 9;
const SETTLED: usize = 10;
const LABELS: usize = 12;
const REASON: usize = 13;
const SIZE: usize = 14;
const BODY: usize = 15;
const TOLD: usize = 17;
const REFUSALS: usize = 18;
const RETRY: usize = 19;
/// How many columns a row has.
const COLUMNS: usize = 20;

/// Fills a fresh journal from the damaged one in a directory whose lock is held, and puts it in its place.
///
/// # Errors
/// [`OpenError`], among others when the disk has no room for it. The damaged journal is then where it was.
pub fn rescue(dir: &Path, why: &str, now: Timestamp) -> Result<Rescued, OpenError> {
    fill(dir, None, why, now)
}

/// The same from a journal that is open, and whose file was moved or deleted.
///
/// # Errors
/// As [`rescue`].
pub fn refill(
    dir: &Path,
    open: &Connection,
    why: &str,
    now: Timestamp,
) -> Result<Rescued, OpenError> {
    fill(dir, Some(open), why, now)
}

fn fill(
    dir: &Path,
    open: Option<&Connection>,
    why: &str,
    now: Timestamp,
) -> Result<Rescued, OpenError> {
    let (directory, database) = (OpenError::directory(dir), OpenError::database(dir));
    let filling = dir.join(FILLING);
    remove(&filling).map_err(directory)?;
    let mut fresh = Connection::open(&filling).map_err(database)?;
    // Nobody reads it before it is complete, and it is synchronised as a whole.
    fresh
        .execute_batch(&format!(
            "PRAGMA page_size = {PAGE}; PRAGMA journal_mode = off; PRAGMA synchronous = off;"
        ))
        .map_err(database)?;
    schema::bring_up(&mut fresh).map_err(database)?;
    let mut carried = Carried::default();
    let damaged = match open {
        Some(_) => None,
        None => source(dir, &dir.join(FILE)).map_err(directory)?,
    };
    if let Some(source) = open.or(damaged.as_ref()) {
        fresh.execute_batch("BEGIN").map_err(database)?;
        carry(source, &fresh, now, &mut carried).map_err(database)?;
        fresh.execute_batch("COMMIT").map_err(database)?;
    }
    drop(damaged);
    fresh.close().map_err(|(_, error)| database(error))?;
    remove(&dir.join(PATCHED)).map_err(directory)?;
    File::open(&filling)
        .and_then(|file| file.sync_all())
        .map_err(directory)?;
    fs::rename(&filling, dir.join(FILLED)).map_err(directory)?;
    sync(dir).map_err(directory)?;
    let file = finish(dir, now)?.unwrap_or_else(|| dir.join(FILE));
    Ok(Rescued {
        why: why.to_owned(),
        file,
        saved: carried.saved,
        broken: carried.broken,
        unreadable: carried.unreadable,
    })
}

/// Finishes what a crash may have cut short: if a filled journal is there, the damaged one goes aside and it takes its
/// place. Returns where the damaged one is.
///
/// # Errors
/// [`OpenError::Directory`].
pub fn finish(dir: &Path, now: Timestamp) -> Result<Option<PathBuf>, OpenError> {
    let directory = OpenError::directory(dir);
    let filled = dir.join(FILLED);
    if !filled.try_exists().map_err(directory)? {
        remove(&dir.join(FILLING)).map_err(directory)?;
        remove(&dir.join(PATCHED)).map_err(directory)?;
        return Ok(None);
    }
    let aside = set_aside(dir, now).map_err(directory)?;
    fs::rename(&filled, dir.join(FILE)).map_err(directory)?;
    sync(dir).map_err(directory)?;
    prune(dir).map_err(directory)?;
    Ok(Some(aside))
}

/// Moves a journal with the files beside it. The database goes last: what is beside it must never be found beside
/// another one.
fn set_aside(dir: &Path, now: Timestamp) -> std::io::Result<PathBuf> {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ");
    let mut aside = dir.join(format!("{ASIDE}{stamp}.sqlite"));
    let mut again = 1;
    while aside.try_exists()? {
        again += 1;
        aside = dir.join(format!("{ASIDE}{stamp}-{again}.sqlite"));
    }
    for end in BESIDE.into_iter().chain([""]) {
        let from = dir.join(format!("{FILE}{end}"));
        if from.try_exists()? {
            fs::rename(from, with_end(&aside, end))?;
        }
    }
    sync(dir)?;
    Ok(aside)
}

/// Deletes the oldest damaged journals beyond [`KEPT`]. Their names sort by time.
fn prune(dir: &Path) -> std::io::Result<()> {
    let mut damaged = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(ASIDE) && name.ends_with(".sqlite") {
            damaged.push(name);
        }
    }
    damaged.sort_unstable();
    for name in damaged.iter().rev().skip(KEPT) {
        remove(&dir.join(name))?;
        tracing::warn!(file = %dir.join(name).display(), kept = KEPT, "an old damaged journal was deleted");
    }
    Ok(())
}

/// Removes a database and the files beside it, as far as they are there.
fn remove(file: &Path) -> std::io::Result<()> {
    for end in BESIDE.into_iter().chain([""]) {
        match fs::remove_file(with_end(file, end)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn with_end(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A rename is on the disk once the directory is.
pub(super) fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The damaged journal as it is, or a copy of it with a sound first page, or nothing if neither can be read at all.
fn source(dir: &Path, file: &Path) -> std::io::Result<Option<Connection>> {
    // Beside an empty database SQLite deletes the log, in which the last commits are.
    let length = fs::metadata(file).map_or(0, |found| found.len());
    if length > 0
        && let Some(connection) = readable(file)
    {
        return Ok(Some(connection));
    }
    let patched = dir.join(PATCHED);
    remove(&patched)?;
    let mut first = vec![0; usize::try_from(PAGE).unwrap_or(4096)];
    let mut fresh = File::open(dir.join(FILLING))?;
    fresh.read_exact(&mut first)?;
    // The count of changes: one that does not fit the header's other count makes SQLite ask the file for its size.
    first[24..28].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut copy = File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&patched)?;
    std::io::copy(&mut File::open(file)?, &mut copy)?;
    // Every table of the first page must have its place, be it an empty one.
    copy.set_len(length.max(fresh.metadata()?.len()))?;
    copy.seek(SeekFrom::Start(0))?;
    copy.write_all(&first)?;
    let log = with_end(file, "-wal");
    if log.try_exists()? {
        fs::copy(log, with_end(&patched, "-wal"))?;
    }
    Ok(readable(&patched))
}

/// A connection through which the table can be named, if not read.
fn readable(file: &Path) -> Option<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).ok()?;
    connection.prepare("SELECT seq, body FROM records").ok()?;
    Some(connection)
}

#[derive(Default)]
struct Carried {
    /// What was carried over. A broken page may show a row twice, under two numbers.
    keys: Keys,
    saved: u64,
    broken: u64,
    unreadable: u64,
}

/// Reads what can be read. Only the fresh journal's errors are errors.
fn carry(
    source: &Connection,
    fresh: &Connection,
    now: Timestamp,
    carried: &mut Carried,
) -> rusqlite::Result<()> {
    let has = |columns: &str| {
        let sql = format!("SELECT {columns} FROM records");
        source.prepare(&sql).is_ok()
    };
    // Earlier versions have not all columns.
    let later = if has("place, told_at, refusals, retry_at") {
        "place, told_at, refusals, retry_at"
    } else if has("place, told_at") {
        "place, told_at, 0, NULL"
    } else {
        "0, NULL, 0, NULL"
    };
    let columns = format!("{HEAD}, body, {later}");
    let mut keep = |raw: Raw| -> rusqlite::Result<()> {
        let inserted = insert(fresh, raw, now, carried)?;
        carried.saved += u64::from(inserted);
        Ok(())
    };
    if let Some(last) = walk(source, &columns, 0, true, &mut keep)?
        && let Some(lowest) = walk(source, &columns, last, false, &mut keep)?
    {
        for seq in between(source, last, lowest) {
            match by_number(source, &columns, seq) {
                Looked::Nothing => {}
                Looked::Unreadable => carried.unreadable += 1,
                Looked::Row(raw) => carried.saved += u64::from(insert(fresh, raw, now, carried)?),
            }
        }
    }
    if let Ok(seq) = cursor::sink(source) {
        cursor::set_sink(fresh, seq)?;
    }
    Ok(())
}

/// Reads in order until the end or a broken page. Returns the number of the last row that was read before that page,
/// `beyond` if there was none, and `None` if the end was reached.
fn walk(
    source: &Connection,
    columns: &str,
    beyond: i64,
    up: bool,
    keep: &mut impl FnMut(Raw) -> rusqlite::Result<()>,
) -> rusqlite::Result<Option<i64>> {
    let order = if up { "ASC" } else { "DESC" };
    let sql =
        format!("SELECT {columns} FROM records NOT INDEXED WHERE seq > ?1 ORDER BY seq {order}");
    let mut last = beyond;
    let Ok(mut statement) = source.prepare(&sql) else {
        return Ok(Some(last));
    };
    let Ok(mut rows) = statement.query([beyond]) else {
        return Ok(Some(last));
    };
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                if let Ok(seq) = row.get(SEQ) {
                    last = seq;
                }
                // What is no row of ours is looked at again by its number, and counted there.
                let Some(raw) = raw(row, COLUMNS) else {
                    return Ok(Some(if up { last - 1 } else { last + 1 }));
                };
                keep(raw)?;
            }
            Ok(None) => return Ok(None),
            Err(_) => return Ok(Some(last)),
        }
    }
}

/// The numbers between two broken pages, or beyond the only one that was met. Of many it is those next to what can be
/// read, and next to those that an index names: it has rows that are not pending.
fn between(source: &Connection, last: i64, lowest: i64) -> Vec<i64> {
    let first = last.saturating_add(1);
    let end = if lowest > last { lowest } else { i64::MAX };
    let named = |order: &str| -> rusqlite::Result<Vec<i64>> {
        let mut statement = source.prepare(&format!(
            "SELECT seq FROM records INDEXED BY settled WHERE state <> 0 ORDER BY state {order}, settled_at {order}"
        ))?;
        let rows = statement.query_map([], |row| row.get(0))?;
        // As far as it goes.
        Ok(rows.map_while(Result::ok).collect())
    };
    let named: Vec<i64> = [named("ASC"), named("DESC")]
        .into_iter()
        .flatten()
        .flatten()
        .filter(|seq| *seq >= first && *seq < end)
        .collect();
    let mut numbers = Vec::new();
    if last > 0 || lowest > last {
        numbers.extend((first..end).take(SPAN));
    }
    if lowest > last {
        numbers.extend((first..end).rev().take(SPAN));
    }
    if let (Some(from), Some(to)) = (named.iter().min(), named.iter().max()) {
        let from = from.saturating_sub(NEAR).max(first);
        numbers.extend((from..to.saturating_add(NEAR).min(end)).take(SPAN));
    }
    numbers.extend(named);
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

enum Looked {
    Row(Raw),
    Nothing,
    Unreadable,
}

/// One row, without its body if that cannot be read.
fn by_number(source: &Connection, columns: &str, seq: i64) -> Looked {
    let look = |columns: &str, count: usize| {
        source
            .prepare_cached(&format!("SELECT {columns} FROM records WHERE seq = ?1"))?
            .query_row([seq], |row| Ok(raw(row, count)))
    };
    match look(columns, COLUMNS) {
        Ok(Some(raw)) => Looked::Row(raw),
        Err(rusqlite::Error::QueryReturnedNoRows) => Looked::Nothing,
        Ok(None) | Err(_) => match look(HEAD, BODY) {
            Ok(Some(raw)) => Looked::Row(without_body(raw)),
            Ok(None) | Err(_) => Looked::Unreadable,
        },
    }
}

/// A row if it has the types of one.
fn raw(row: &Row<'_>, columns: usize) -> Option<Raw> {
    let values: Vec<Value> = (0..columns).map_while(|i| row.get(i).ok()).collect();
    let text = |i: usize| matches!(values.get(i), Some(Value::Text(_)));
    let number = |i: usize| matches!(values.get(i), Some(Value::Integer(_)));
    let sound = values.len() == columns
        && matches!(&values[KEY], Value::Blob(key) if key.len() == 32)
        && match &values[OCCURRENCE] {
            Value::Null => true,
            Value::Blob(occurrence) => occurrence.len() == 32,
            Value::Integer(_) | Value::Real(_) | Value::Text(_) => false,
        }
        && [SEQ, STATE, STATE + 1, RECEIVED, SIZE]
            .into_iter()
            .all(number)
        && [5, 6, UID, 8, 12].into_iter().all(text);
    let state = match values.get(STATE) {
        Some(Value::Integer(state)) if (PENDING..=REPLAY).contains(state) => *state,
        _ => return None,
    };
    sound.then_some(Raw { values, state })
}

fn without_body(mut raw: Raw) -> Raw {
    raw.values.extend([
        Value::Blob(Vec::new()),
        Value::Integer(0),
        Value::Null,
        Value::Integer(0),
        Value::Null,
    ]);
    raw
}

/// Inserts a row as it was, or as a dead letter if its body is not the one that its key was made of.
fn insert(
    fresh: &Connection,
    mut raw: Raw,
    now: Timestamp,
    carried: &mut Carried,
) -> rusqlite::Result<bool> {
    if !is_time(&raw.values[RECEIVED]) {
        raw.values[RECEIVED] = Value::Integer(now.as_microsecond());
    }
    // Labels that cannot be read would have it set aside again and again.
    if !matches!(&raw.values[LABELS], Value::Text(text) if is_labels(text)) {
        raw.values[LABELS] = Value::Text("{}".to_owned());
    }
    // A time that is none would make it unreadable for ever.
    if !matches!(raw.values[RETRY], Value::Null) && !is_time(&raw.values[RETRY]) {
        raw.values[RETRY] = Value::Integer(now.as_microsecond());
    }
    if !matches!(raw.values[REFUSALS], Value::Integer(count) if u32::try_from(count).is_ok()) {
        raw.values[REFUSALS] = Value::Integer(0);
    }
    if raw.state == PUBLISHED {
        if matches!(&raw.values[BODY], Value::Blob(body) if body.is_empty()) {
            raw.values[SIZE] = Value::Integer(STRIPPED);
        }
    } else if !is_whole(&raw) {
        carried.broken += 1;
        raw.values[STATE] = Value::Integer(DEAD);
        raw.values[SETTLED] = Value::Integer(now.as_microsecond());
        raw.values[REASON] = Value::Text("its bytes were damaged on the disk".to_owned());
        raw.values[TOLD] = Value::Null;
        raw.values[REFUSALS] = Value::Integer(0);
        raw.values[RETRY] = Value::Null;
        if let Value::Blob(body) = &raw.values[BODY] {
            raw.values[SIZE] = Value::Integer(super::record::size(body));
        }
    }
    let named = named(&raw);
    if named.is_some_and(|named| carried.keys.find(&named.key).is_some()) {
        return Ok(false);
    }
    let inserted = fresh
        .prepare_cached(&format!(
            "INSERT OR IGNORE INTO records ({HEAD}, body, place, told_at, refusals, retry_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)"
        ))?
        .execute(params_from_iter(&raw.values))?;
    if let Some(named) = named.filter(|_| inserted > 0) {
        if let Some(seq) = carried.keys.add(&named) {
            super::record::overtaken(fresh, seq)?;
        }
        carried.keys.keep();
    }
    Ok(inserted > 0)
}

fn named(raw: &Raw) -> Option<Named> {
    let key = |at: usize| match &raw.values[at] {
        Value::Blob(key) => <[u8; 32]>::try_from(key.as_slice()).ok(),
        Value::Null | Value::Integer(_) | Value::Real(_) | Value::Text(_) => None,
    };
    match &raw.values[SEQ] {
        Value::Integer(seq) => Some(Named {
            seq: *seq,
            key: DeliveryKey::from_bytes(key(KEY)?),
            occurrence: key(OCCURRENCE).map(Occurrence::from_bytes),
        }),
        Value::Null | Value::Real(_) | Value::Text(_) | Value::Blob(_) => None,
    }
}

fn is_labels(text: &str) -> bool {
    serde_json::from_str::<BTreeMap<String, String>>(text).is_ok()
}

fn is_time(value: &Value) -> bool {
    matches!(value, Value::Integer(time) if Timestamp::from_microsecond(*time).is_ok())
}

fn is_whole(raw: &Raw) -> bool {
    match (&raw.values[UID], &raw.values[BODY], &raw.values[KEY]) {
        (Value::Text(uid), Value::Blob(body), Value::Blob(key)) => {
            DeliveryKey::of(uid, body).as_bytes()[..] == key[..]
        }
        _ => false,
    }
}
