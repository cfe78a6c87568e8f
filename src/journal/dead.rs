//! Dead letters: deliveries that were acknowledged and cannot be published as they are. They are kept with their
//! reason and their bytes, somebody is told, and they can be tried again.
//!
//! ```text
//! pending --bury--> dead --told--> dead, told
//!    ^               |              |
//!    +--- replay ----+--------------+      asked for by another process, done by the writer
//! ```

use k8s_openapi::jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::keys::{Keys, Named};
use super::record::{DEAD, PENDING, REPLAY, time};
use super::{Untold, record};
use crate::delivery::note::bounded;
use crate::delivery::{DeliveryKey, Occurrence, Received};
use crate::resources::keyring::WebhookIdentity;

/// The longest reason in bytes. The API server may use many words.
const LONGEST_REASON: usize = 1024;

/// The statement of [`forget_oldest`]; it says `state <> 0` as [`record::FORGET`] does.
pub const FORGET_OLDEST: &str = "\
DELETE FROM records WHERE seq = (SELECT seq FROM records WHERE state <> 0 AND state = 2 ORDER BY settled_at LIMIT 1) \
RETURNING seq, key, occurrence, size";
/// The statement of [`marked`]; it does so, too.
pub const MARKED: &str = "\
SELECT seq, size FROM records WHERE state <> 0 AND state = 3 ORDER BY settled_at LIMIT ?1";

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

/// Makes a row a dead letter if it is pending. Returns its size if it was.
///
/// # Errors
/// What SQLite says.
pub fn bury(
    connection: &Connection,
    seq: i64,
    reason: &str,
    at: Timestamp,
) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "UPDATE records SET state = ?4, settled_at = ?2, reason = ?3 \
             WHERE seq = ?1 AND state = ?5 RETURNING size",
        )?
        .query_row(
            params![
                seq,
                at.as_microsecond(),
                bounded(reason, LONGEST_REASON),
                DEAD,
                PENDING
            ],
            |row| row.get(0),
        )
        .optional()
}

/// Drops the oldest dead letter. Returns what identified it, and its size.
///
/// # Errors
/// What SQLite says.
pub fn forget_oldest(connection: &Connection) -> rusqlite::Result<Option<(Named, i64)>> {
    connection
        .prepare_cached(FORGET_OLDEST)?
        .query_row([], |row| Ok((Named::read(row)?, row.get(3)?)))
        .optional()
}

/// Dead letters that nobody was told of, by webhook, the one that waits longest first.
///
/// # Errors
/// What SQLite says.
pub fn untold(connection: &Connection) -> rusqlite::Result<Vec<Untold>> {
    let mut statement = connection.prepare_cached(
        "SELECT g.uid, r.namespace, r.name, g.count, g.first, g.last, r.reason, \
         (SELECT max(told_at) FROM records WHERE state = 2 AND told_at IS NOT NULL AND uid = g.uid) \
         FROM (SELECT uid, count(*) AS count, min(seq) AS first, max(seq) AS last \
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
         CASE WHEN ?3 THEN body END \
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

/// The rows that are to be tried again, at most so many.
///
/// # Errors
/// What SQLite says.
pub fn marked(connection: &Connection, most: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut statement = connection.prepare_cached(MARKED)?;
    let rows = statement.query_map([most], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Takes up a row that is to be tried again: its body is read as this program reads it.
///
/// # Errors
/// What SQLite says.
pub fn replay(
    connection: &Connection,
    keys: &mut Keys,
    seq: i64,
    now: Timestamp,
    strip: bool,
) -> rusqlite::Result<Option<Replayed>> {
    let Some(kept) = record::load(connection, seq, REPLAY)? else {
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
    connection
        .prepare_cached(
            "UPDATE records SET state = ?2, class = ?3, occurrence = ?4, settled_at = NULL, reason = NULL, \
             told_at = NULL WHERE seq = ?1",
        )?
        .execute(params![
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
