//! One delivery as a row, there and back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};

use super::Entry;
use super::keys::Named;
use super::rooms::Held;
use crate::delivery::holdings::Amount;
use crate::delivery::pacing::Waiting;
use crate::delivery::{Class, DeliveryKey, KeyPlace, Occurrence, Received};
use crate::resources::keyring::WebhookIdentity;

/// Waits to be published.
pub const PENDING: i64 = 0;
/// Was published; only its key matters now.
pub const PUBLISHED: i64 = 1;
/// Cannot be published as it is.
pub const DEAD: i64 = 2;
/// A dead letter that somebody wants to be tried again. Another process may set it; the writer makes it pending.
pub const REPLAY: i64 = 3;

/// The size of a published row whose bytes are gone.
pub const STRIPPED: i64 = -1;

/// What [`received`] reads, in its order.
const COLUMNS: &str = "key, occurrence, class, namespace, name, uid, key_id, received_at, webhook_id, labels, body, place";

/// The statement of [`insert`].
pub const INSERT: &str = "\
INSERT INTO records (seq, key, occurrence, state, class, namespace, name, uid, key_id, received_at, webhook_id, labels, \
size, body, place) VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

/// Inserts a pending row under a number. Whether it is a copy was asked before ([`super::keys`]).
///
/// The number is the caller's: SQLite would give out that of a forgotten row again, which a cursor has passed.
///
/// # Errors
/// What SQLite says.
pub fn insert(
    statement: &mut Statement<'_>,
    seq: i64,
    received: &Received,
) -> rusqlite::Result<()> {
    let labels = if received.labels.is_empty() {
        Cow::Borrowed("{}")
    } else {
        // A map of strings can always be written as JSON, so the default is never used.
        Cow::Owned(serde_json::to_string(&received.labels).unwrap_or_default())
    };
    statement.execute(params![
        seq,
        received.key.as_bytes(),
        received.occurrence.map(Occurrence::to_bytes),
        received.class.rank(),
        received.webhook.namespace,
        received.webhook.name,
        received.webhook.uid,
        received.key_id,
        received.received_at.as_microsecond(),
        received.webhook_id,
        labels,
        size(&received.body),
        received.body,
        place_number(received.place),
    ])?;
    Ok(())
}

/// Notes that something else was said of a row's alarm after it, so that it cannot be what a later delivery repeats.
///
/// # Errors
/// What SQLite says.
pub fn overtaken(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE records SET occurrence = NULL WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

/// The size of a body as the journal counts it.
#[must_use]
pub fn size(body: &[u8]) -> i64 {
    i64::try_from(body.len()).unwrap_or(i64::MAX)
}

/// Marks a row as published if it is pending. Its bytes go, unless its number is beyond `cursor`: then another reader
/// still wants them. Returns what it held if it was pending.
///
/// # Errors
/// What SQLite says.
pub fn settle(
    connection: &Connection,
    seq: i64,
    at: Timestamp,
    cursor: i64,
) -> rusqlite::Result<Option<Held>> {
    let held = connection
        .prepare_cached("SELECT size, namespace, uid FROM records WHERE seq = ?1 AND state = 0")?
        .query_row([seq], held)
        .optional()?;
    if held.is_some() {
        settle_row(connection, seq, at, seq <= cursor)?;
    }
    Ok(held)
}

/// What a row holds, from the columns `size, namespace, uid`, the first of it.
pub(super) fn held(row: &Row<'_>) -> rusqlite::Result<Held> {
    Ok(Held {
        size: row.get(0)?,
        namespace: row.get(1)?,
        uid: row.get(2)?,
    })
}

/// Marks the row with this number as published, with or without its bytes.
///
/// # Errors
/// What SQLite says.
pub fn settle_row(
    connection: &Connection,
    seq: i64,
    at: Timestamp,
    strip: bool,
) -> rusqlite::Result<()> {
    let sql = if strip {
        "UPDATE records SET state = ?2, settled_at = ?3, size = -1, namespace = '', name = '', uid = '', key_id = '', \
         webhook_id = NULL, labels = '{}', reason = NULL, told_at = NULL, refusals = 0, retry_at = NULL, body = x'' \
         WHERE seq = ?1"
    } else {
        "UPDATE records SET state = ?2, settled_at = ?3, reason = NULL, told_at = NULL, refusals = 0, retry_at = NULL \
         WHERE seq = ?1"
    };
    connection
        .prepare_cached(sql)?
        .execute(params![seq, PUBLISHED, at.as_microsecond()])?;
    Ok(())
}

/// Takes the bytes of published rows whose number is in `(after, up_to]`.
///
/// # Errors
/// What SQLite says.
pub fn strip(connection: &Connection, after: i64, up_to: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE records SET size = -1, namespace = '', name = '', uid = '', key_id = '', webhook_id = NULL, \
             labels = '{}', body = x'' WHERE seq > ?1 AND seq <= ?2 AND state = ?3 AND size >= 0",
        )?
        .execute(params![after, up_to, PUBLISHED])?;
    Ok(())
}

/// What published rows whose number is in `(after, up_to]` hold, by webhook.
///
/// # Errors
/// What SQLite says.
pub fn kept(
    connection: &Connection,
    after: i64,
    up_to: i64,
) -> rusqlite::Result<Vec<(String, String, Amount)>> {
    let mut statement = connection.prepare_cached(
        "SELECT namespace, uid, count(*), sum(size) FROM records \
         WHERE seq > ?1 AND seq <= ?2 AND state = 1 AND size >= 0 GROUP BY namespace, uid",
    )?;
    let rows = statement.query_map([after, up_to], |row| {
        let amount = Amount {
            records: row.get(2)?,
            bytes: row.get(3)?,
        };
        Ok((row.get(0)?, row.get(1)?, amount))
    })?;
    rows.collect()
}

/// The statement of [`strip_oldest`] that finds the row.
pub const OLDEST_KEPT: &str = "\
SELECT size, namespace, uid, seq FROM records WHERE state = 1 AND size >= 0 AND uid = ?1 ORDER BY seq LIMIT 1";

/// Takes the bytes of a webhook's oldest published row that has them. Returns what it held, if there was one.
///
/// # Errors
/// What SQLite says.
pub fn strip_oldest(connection: &Connection, uid: &str) -> rusqlite::Result<Option<Held>> {
    let found: Option<(Held, i64)> = connection
        .prepare_cached(OLDEST_KEPT)?
        .query_row([uid], |row| Ok((held(row)?, row.get(3)?)))
        .optional()?;
    if let Some((_, seq)) = &found {
        strip(connection, seq - 1, *seq)?;
    }
    Ok(found.map(|(held, _)| held))
}

/// The statement of [`forget_published`]. SQLite takes the index `settled` only where its condition, `state <> 0`, is
/// said as it is there, and otherwise reads the whole table.
pub const FORGET: &str = "\
DELETE FROM records WHERE seq IN (SELECT seq FROM records WHERE state <> 0 AND state = 1 AND settled_at < ?1 \
AND (size < 0 OR NOT ?2) ORDER BY settled_at LIMIT ?3) RETURNING seq, key, occurrence";

/// Forgets keys of deliveries that were published before a time, the oldest first and at most so many. With `taken`,
/// only those whose bytes are gone. Each is named to the caller; returns how many.
///
/// # Errors
/// What SQLite says.
pub fn forget_published(
    connection: &Connection,
    before: Timestamp,
    taken: bool,
    most: i64,
    mut each: impl FnMut(&Named),
) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(FORGET)?;
    let mut rows = statement.query(params![before.as_microsecond(), taken, most])?;
    let mut gone = 0;
    while let Some(row) = rows.next()? {
        each(&Named::read(row)?);
        gone += 1;
    }
    Ok(gone)
}

/// Rows in a state and the bytes of their bodies.
///
/// # Errors
/// What SQLite says.
pub fn count(connection: &Connection, state: i64) -> rusqlite::Result<(i64, i64)> {
    connection.query_row(
        "SELECT count(*), coalesce(sum(max(size, 0)), 0) FROM records WHERE state = ?1",
        [state],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Rows whose number is in `(after, up_to]` and whose bytes are there, and how many bytes that is.
///
/// # Errors
/// What SQLite says.
pub fn count_whole(
    connection: &Connection,
    after: i64,
    up_to: i64,
) -> rusqlite::Result<(i64, i64)> {
    connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(size), 0) FROM records WHERE seq > ?1 AND seq <= ?2 AND size >= 0",
        )?
        .query_row([after, up_to], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The highest number that is in use.
///
/// # Errors
/// What SQLite says.
pub fn highest(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(seq), 0) FROM records", [], |row| {
        row.get(0)
    })
}

/// Everything pending, oldest first, without the bodies.
///
/// # Errors
/// What SQLite says.
pub fn pending(connection: &Connection, mut each: impl FnMut(Entry)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT seq, class, namespace, uid, key, received_at FROM records WHERE state = ?1 ORDER BY seq",
    )?;
    let mut rows = statement.query([PENDING])?;
    while let Some(row) = rows.next()? {
        each(Entry {
            waiting: Waiting {
                seq: row.get(0)?,
                class: Class::from_rank(row.get(1)?),
                namespace: row.get(2)?,
                uid: row.get(3)?,
            },
            key: DeliveryKey::from_bytes(row.get(4)?),
            received_at: time(row, 5)?,
            durable_at: None,
        });
    }
    Ok(())
}

/// The delivery with this number, if it is in this state.
///
/// # Errors
/// What SQLite says.
pub fn load(connection: &Connection, seq: i64, state: i64) -> rusqlite::Result<Option<Received>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM records WHERE seq = ?1 AND state = ?2"
        ))?
        .query_row(params![seq, state], |row| received(row, 0))
        .optional()
}

/// Deliveries whose bytes are there, whatever their state, with numbers beyond `after`, the lowest first.
///
/// # Errors
/// What SQLite says.
pub fn whole_after(
    connection: &Connection,
    after: i64,
    most: usize,
) -> rusqlite::Result<Vec<(i64, Received)>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT seq, {COLUMNS} FROM records WHERE seq > ?1 AND size >= 0 ORDER BY seq LIMIT ?2"
    ))?;
    let rows = statement.query_map([after, most], |row| Ok((row.get(0)?, received(row, 1)?)))?;
    rows.collect()
}

fn received(row: &Row<'_>, first: usize) -> rusqlite::Result<Received> {
    Ok(Received {
        key: DeliveryKey::from_bytes(row.get(first)?),
        occurrence: row
            .get::<_, Option<[u8; 32]>>(first + 1)?
            .map(Occurrence::from_bytes),
        class: Class::from_rank(row.get(first + 2)?),
        webhook: WebhookIdentity {
            namespace: row.get(first + 3)?,
            name: row.get(first + 4)?,
            uid: row.get(first + 5)?,
        },
        key_id: row.get(first + 6)?,
        received_at: time(row, first + 7)?,
        webhook_id: row.get(first + 8)?,
        labels: labels(row, first + 9)?,
        body: row.get(first + 10)?,
        place: place(row.get(first + 11)?),
    })
}

fn place_number(place: KeyPlace) -> i64 {
    match place {
        KeyPlace::Current => 0,
        KeyPlace::Next => 1,
        KeyPlace::Previous => 2,
    }
}

/// Rows of the first version do not know it and have the number of the key in force.
fn place(number: i64) -> KeyPlace {
    match number {
        1 => KeyPlace::Next,
        2 => KeyPlace::Previous,
        _ => KeyPlace::Current,
    }
}

/// A time in a row: microseconds since 1970.
///
/// # Errors
/// When the number is no time.
pub fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(row.get(column)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error))
    })
}

fn labels(row: &Row<'_>, column: usize) -> rusqlite::Result<BTreeMap<String, String>> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}
