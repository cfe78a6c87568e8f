//! Dead letters: deliveries that were acknowledged and cannot be published as they are. They are kept with their
//! reason and their bytes, somebody is told, and they can be tried again.
//!
//! ```text
//! pending --bury--> dead --told--> dead, told
//!    ^               |              |
//!    +--- replay ----+--------------+      asked for by another process, done by the writer
//!    +--- retry -----+--------------+      of what the API server refused: by the writer, with growing intervals
//! ```

use k8s_openapi::jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::keys::{Keys, Named};
use super::record::{DEAD, PENDING, REPLAY, time};
use super::rooms::{Held, kind};
use super::{Untold, record};
use crate::delivery::{DeadKind, DeliveryKey, Occurrence, Received, again};
use crate::resources::foreign::bounded;
use crate::resources::keyring::WebhookIdentity;

/// The longest reason in bytes. The API server may use many words.
const LONGEST_REASON: usize = 1024;

/// The statement of [`evict`] for unreadable ones.
pub const EVICT_UNREADABLE: &str = "\
DELETE FROM records WHERE seq = (SELECT seq FROM records WHERE state = 2 AND retry_at IS NULL AND uid = ?1 \
ORDER BY seq LIMIT 1) RETURNING seq, key, occurrence, size, namespace, uid, name";
/// The statement of [`evict`] for refused ones.
pub const EVICT_REFUSED: &str = "\
DELETE FROM records WHERE seq = (SELECT seq FROM records WHERE state = 2 AND retry_at IS NOT NULL AND uid = ?1 \
ORDER BY seq LIMIT 1) RETURNING seq, key, occurrence, size, namespace, uid, name";
/// The statement of [`marked`]; it says `state <> 0` as [`record::FORGET`] does.
pub const MARKED: &str = "\
SELECT seq, size, namespace, uid, settled_at, retry_at IS NOT NULL FROM records \
WHERE state <> 0 AND state = 3 AND (settled_at, seq) > (?1, ?2) ORDER BY settled_at, seq LIMIT ?3";
/// The statement of [`due`].
pub const DUE: &str = "\
SELECT seq, size, namespace, uid, retry_at FROM records WHERE state = 2 AND retry_at IS NOT NULL AND uid = ?1 \
ORDER BY retry_at LIMIT ?2";

/// A dead letter as a person looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number.
    pub seq: i64,
    /// Its key.
    pub key: DeliveryKey,
    /// The webhook it was delivered to.
    pub webhook: WebhookIdentity,
    /// When it arrived.
    pub received_at: Timestamp,
    /// When it became a dead letter.
    pub buried_at: Timestamp,
    /// Why.
    pub reason: String,
    /// Bytes of its body.
    pub size: i64,
    /// What it is.
    pub kind: DeadKind,
    /// How often the API server has refused it.
    pub refusals: u32,
    /// When it is tried again by itself, if it is.
    pub retry_at: Option<Timestamp>,
    /// When its webhook was told of it.
    pub told_at: Option<Timestamp>,
    /// Whether it is to be tried again.
    pub replay: bool,
    /// Its body, if that was asked for.
    pub body: Option<Vec<u8>>,
}

/// What became of a row that was to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It waits to be published.
    Pending(Box<Received>),
    /// The same occurrence is there already, so there is nothing left to do.
    Copy,
}

/// Why a delivery is buried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What it decides.
    pub kind: DeadKind,
    /// In words.
    pub reason: String,
}

/// A kind in a log, a metric or a list.
#[must_use]
pub fn word(kind: DeadKind) -> &'static str {
    match kind {
        DeadKind::Unreadable => "unreadable",
        DeadKind::Refused => "refused",
    }
}

/// Makes a row a dead letter if it is pending. Returns what it held if it was, and when it is tried again by itself.
///
/// # Errors
/// What SQLite says.
pub fn bury(
    connection: &Connection,
    seq: i64,
    cause: &Cause,
    at: Timestamp,
) -> rusqlite::Result<Option<(Held, Option<Timestamp>)>> {
    let found = connection
        .prepare_cached(
            "SELECT size, namespace, uid, refusals FROM records WHERE seq = ?1 AND state = 0",
        )?
        .query_row([seq], |row| Ok((record::held(row)?, row.get::<_, u32>(3)?)))
        .optional()?;
    let Some((held, before)) = found else {
        return Ok(None);
    };
    let (refusals, retry_at) = match cause.kind {
        DeadKind::Unreadable => (before, None),
        DeadKind::Refused => {
            let refusals = before.saturating_add(1);
            (refusals, Some(again::next_try(refusals, at)))
        }
    };
    connection
        .prepare_cached(
            "UPDATE records SET state = ?2, settled_at = ?3, reason = ?4, refusals = ?5, retry_at = ?6 WHERE seq = ?1",
        )?
        .execute(params![
            seq,
            DEAD,
            at.as_microsecond(),
            bounded(&cause.reason, LONGEST_REASON),
            refusals,
            retry_at.map(Timestamp::as_microsecond),
        ])?;
    Ok(Some((held, retry_at)))
}

/// A dead letter that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// What identified it.
    pub named: Named,
    /// What it held.
    pub held: Held,
    /// The name of its webhook.
    pub name: String,
}

/// Drops the oldest dead letter of a kind of the webhook with this uid. Returns it, if there was one.
///
/// # Errors
/// What SQLite says.
pub fn evict(
    connection: &Connection,
    kind: DeadKind,
    uid: &str,
) -> rusqlite::Result<Option<Evicted>> {
    let sql = match kind {
        DeadKind::Unreadable => EVICT_UNREADABLE,
        DeadKind::Refused => EVICT_REFUSED,
    };
    connection
        .prepare_cached(sql)?
        .query_row([uid], |row| {
            Ok(Evicted {
                named: Named::read(row)?,
                held: Held {
                    size: row.get(3)?,
                    namespace: row.get(4)?,
                    uid: row.get(5)?,
                },
                name: row.get(6)?,
            })
        })
        .optional()
}

/// Dead letters that nobody was told of, by webhook, the one that waits longest first.
///
/// # Errors
/// What SQLite says.
pub fn untold(connection: &Connection) -> rusqlite::Result<Vec<Untold>> {
    let mut statement = connection.prepare_cached(
        "SELECT g.uid, r.namespace, r.name, g.count, g.first, g.last, r.reason, \
         (SELECT max(told_at) FROM records WHERE state = 2 AND told_at IS NOT NULL AND uid = g.uid), g.refused \
         FROM (SELECT uid, count(*) AS count, count(retry_at) AS refused, min(seq) AS first, max(seq) AS last \
               FROM records WHERE state = 2 AND told_at IS NULL GROUP BY uid) AS g \
         JOIN records AS r ON r.seq = g.last ORDER BY g.first",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Untold {
            webhook: WebhookIdentity {
                uid: row.get(0)?,
                namespace: row.get(1)?,
                name: row.get(2)?,
            },
            count: row.get(3)?,
            first: row.get(4)?,
            last: row.get(5)?,
            last_reason: row.get::<_, Option<String>>(6)?.unwrap_or_default(),
            last_told_at: perhaps_time(row, 7)?,
            refused: row.get(8)?,
        })
    })?;
    rows.collect()
}

/// Notes that a webhook was told of its dead letters up to a number.
///
/// # Errors
/// What SQLite says.
pub fn told(connection: &Connection, uid: &str, up_to: i64, at: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE records SET told_at = ?3 WHERE state = 2 AND told_at IS NULL AND uid = ?1 AND seq <= ?2",
        )?
        .execute(params![uid, up_to, at.as_microsecond()])?;
    Ok(())
}

/// Dead letters with numbers beyond `after`, the lowest first, those that are to be tried again among them.
///
/// # Errors
/// What SQLite says.
pub fn list(
    connection: &Connection,
    after: i64,
    most: usize,
    bodies: bool,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut statement = connection.prepare(
        "SELECT seq, key, namespace, name, uid, received_at, settled_at, reason, size, told_at, state, \
         CASE WHEN ?3 THEN body END, refusals, retry_at \
         FROM records WHERE state IN (2, 3) AND seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let rows = statement.query_map(params![after, most, bodies], |row| {
        Ok(DeadLetter {
            seq: row.get(0)?,
            key: DeliveryKey::from_bytes(row.get(1)?),
            webhook: WebhookIdentity {
                namespace: row.get(2)?,
                name: row.get(3)?,
                uid: row.get(4)?,
            },
            received_at: time(row, 5)?,
            buried_at: time(row, 6)?,
            reason: row.get::<_, Option<String>>(7)?.unwrap_or_default(),
            size: row.get(8)?,
            kind: kind(row.get::<_, Option<i64>>(13)?.is_some()),
            refusals: row.get(12)?,
            retry_at: perhaps_time(row, 13)?,
            told_at: perhaps_time(row, 9)?,
            replay: row.get::<_, i64>(10)? == REPLAY,
            body: row.get(11)?,
        })
    })?;
    rows.collect()
}

/// Asks for a dead letter to be tried again. Returns whether it was one.
///
/// # Errors
/// What SQLite says.
pub fn mark(connection: &Connection, seq: i64) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached("UPDATE records SET state = ?2 WHERE seq = ?1 AND state = ?3")?
        .execute(params![seq, REPLAY, DEAD])?;
    Ok(changed > 0)
}

/// A row that is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Its number.
    pub seq: i64,
    /// What it holds.
    pub held: Held,
    /// What it is.
    pub kind: DeadKind,
    /// Its place in the order of [`marked`].
    pub place: (i64, i64),
}

/// The rows beyond a place that are to be tried again, at most so many.
///
/// # Errors
/// What SQLite says.
pub fn marked(
    connection: &Connection,
    after: (i64, i64),
    most: i64,
) -> rusqlite::Result<Vec<Marked>> {
    let mut statement = connection.prepare_cached(MARKED)?;
    let rows = statement.query_map(params![after.0, after.1, most], |row| {
        let seq = row.get(0)?;
        Ok(Marked {
            seq,
            held: Held {
                size: row.get(1)?,
                namespace: row.get(2)?,
                uid: row.get(3)?,
            },
            kind: kind(row.get(5)?),
            place: (row.get(4)?, seq),
        })
    })?;
    rows.collect()
}

/// The refused dead letters of the webhook with this uid, at most so many, with the time of their next try, the first to
/// be tried first.
///
/// # Errors
/// What SQLite says.
pub fn due(
    connection: &Connection,
    uid: &str,
    most: usize,
) -> rusqlite::Result<Vec<(i64, Held, Timestamp)>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(DUE)?;
    let rows = statement.query_map(params![uid, most], |row| {
        let held = Held {
            size: row.get(1)?,
            namespace: row.get(2)?,
            uid: row.get(3)?,
        };
        Ok((row.get(0)?, held, time(row, 4)?))
    })?;
    rows.collect()
}

/// Who wants a dead letter to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A person: it counts as refused by nobody yet, and its webhook is told if it is dead again.
    Person,
    /// The writer, because the time has come.
    Time,
}

/// Takes up a row that is to be tried again: its body is read as this program reads it.
///
/// # Errors
/// What SQLite says.
pub fn take_up(
    connection: &Connection,
    keys: &mut Keys,
    seq: i64,
    by: By,
    now: Timestamp,
    strip: bool,
) -> rusqlite::Result<Option<Replayed>> {
    let state = match by {
        By::Person => REPLAY,
        By::Time => DEAD,
    };
    let Some(kept) = record::load(connection, seq, state)? else {
        return Ok(None);
    };
    let before = Named {
        seq,
        key: kept.key,
        occurrence: kept.occurrence,
    };
    let received = kept.read_again();
    let copied = received.occurrence.and_then(|said| keys.repeated(&said));
    // Of a later one it is not certain that nothing came in between.
    if copied.is_some_and(|other| other < seq) {
        record::settle_row(connection, seq, now, strip)?;
        return Ok(Some(Replayed::Copy));
    }
    let sql = match by {
        By::Person => {
            "UPDATE records SET state = ?2, class = ?3, occurrence = ?4, settled_at = NULL, reason = NULL, \
             retry_at = NULL, refusals = 0, told_at = NULL WHERE seq = ?1"
        }
        By::Time => {
            "UPDATE records SET state = ?2, class = ?3, occurrence = ?4, settled_at = NULL, reason = NULL, \
             retry_at = NULL WHERE seq = ?1"
        }
    };
    connection.prepare_cached(sql)?.execute(params![
        seq,
        PENDING,
        received.class.rank(),
        received.occurrence.map(Occurrence::to_bytes),
    ])?;
    keys.remove(&before);
    let overtaken = keys.add(&Named {
        occurrence: received.occurrence,
        ..before
    });
    if let Some(seq) = overtaken {
        record::overtaken(connection, seq)?;
    }
    Ok(Some(Replayed::Pending(Box::new(received))))
}

fn perhaps_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    match row.get::<_, Option<i64>>(column)? {
        Some(_) => time(row, column).map(Some),
        None => Ok(None),
    }
}
