//! One delivery as a row, there and back.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Entry;
use crate::delivery::pacing::Waiting;
use crate::delivery::{Class, DeliveryKey, Received};
use crate::resources::keyring::WebhookIdentity;

/// Waits to be published.
pub const PENDING: i64 = 0;
/// Was published; only its key matters now.
pub const PUBLISHED: i64 = 1;
/// Cannot be published as it is.
pub const DEAD: i64 = 2;

/// Inserts a pending row unless one with this key or occurrence is there, and returns its number if it is new.
///
/// # Errors
/// What SQLite says.
pub fn insert(connection: &Connection, received: &Received) -> rusqlite::Result<Option<i64>> {
    // A map of strings can always be written as JSON, so the default is never used.
    let labels = serde_json::to_string(&received.labels).unwrap_or_default();
    let inserted = connection
        .prepare_cached(
            "INSERT INTO records (key, occurrence, state, class, namespace, name, uid, key_id, received_at, \
             webhook_id, labels, size, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            received.key.as_bytes(),
            received.occurrence.as_ref().map(DeliveryKey::as_bytes),
            PENDING,
            received.class.rank(),
            received.webhook.namespace,
            received.webhook.name,
            received.webhook.uid,
            received.key_id,
            received.received_at.as_microsecond(),
            received.webhook_id,
            labels,
            i64::try_from(received.body.len()).unwrap_or(i64::MAX),
            received.body,
        ])?;
    Ok((inserted > 0).then(|| connection.last_insert_rowid()))
}

/// Whether a copy is there, in whatever state.
///
/// # Errors
/// What SQLite says.
pub fn is_known(connection: &Connection, received: &Received) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM records WHERE key = ?1 OR occurrence = ?2")?
        .exists(params![
            received.key.as_bytes(),
            received.occurrence.as_ref().map(DeliveryKey::as_bytes)
        ])
}

/// Marks a pending row as published and drops its bytes. Returns its size if it was pending.
///
/// # Errors
/// What SQLite says.
pub fn settle(
    connection: &Connection,
    key: &DeliveryKey,
    at: Timestamp,
) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "UPDATE records SET state = ?3, settled_at = ?2, labels = '{}', body = x'' \
             WHERE key = ?1 AND state = ?4 RETURNING size",
        )?
        .query_row(
            params![key.as_bytes(), at.as_microsecond(), PUBLISHED, PENDING],
            |row| row.get(0),
        )
        .optional()
}

/// Makes a pending row a dead letter. Returns its size if it was pending.
///
/// # Errors
/// What SQLite says.
pub fn bury(
    connection: &Connection,
    key: &DeliveryKey,
    reason: &str,
    at: Timestamp,
) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "UPDATE records SET state = ?4, settled_at = ?2, reason = ?3 \
             WHERE key = ?1 AND state = ?5 RETURNING size",
        )?
        .query_row(
            params![key.as_bytes(), at.as_microsecond(), reason, DEAD, PENDING],
            |row| row.get(0),
        )
        .optional()
}

/// Forgets keys of deliveries that were published before a time. Returns how many.
///
/// # Errors
/// What SQLite says.
pub fn forget_published(connection: &Connection, before: Timestamp) -> rusqlite::Result<usize> {
    connection
        .prepare_cached("DELETE FROM records WHERE state = ?1 AND settled_at < ?2")?
        .execute(params![PUBLISHED, before.as_microsecond()])
}

/// Drops the oldest dead letters beyond a number. Returns how many.
///
/// # Errors
/// What SQLite says.
pub fn forget_dead(connection: &Connection, beyond: i64) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM records WHERE seq IN (SELECT seq FROM records WHERE state = ?1 \
             ORDER BY settled_at DESC, seq DESC LIMIT -1 OFFSET ?2)",
        )?
        .execute(params![DEAD, beyond])
}

/// The number of rows in a state and the bytes of their bodies.
///
/// # Errors
/// What SQLite says.
pub fn count(connection: &Connection, state: i64) -> rusqlite::Result<(i64, i64)> {
    connection.query_row(
        "SELECT count(*), coalesce(sum(size), 0) FROM records WHERE state = ?1",
        [state],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
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
        });
    }
    Ok(())
}

/// The pending delivery with this number.
///
/// # Errors
/// What SQLite says.
pub fn load(connection: &Connection, seq: i64) -> rusqlite::Result<Option<Received>> {
    connection
        .prepare_cached(
            "SELECT key, occurrence, class, namespace, name, uid, key_id, received_at, webhook_id, labels, body \
             FROM records WHERE seq = ?1 AND state = ?2",
        )?
        .query_row(params![seq, PENDING], |row| {
            Ok(Received {
                key: DeliveryKey::from_bytes(row.get(0)?),
                occurrence: row
                    .get::<_, Option<[u8; 32]>>(1)?
                    .map(DeliveryKey::from_bytes),
                class: Class::from_rank(row.get(2)?),
                webhook: WebhookIdentity {
                    namespace: row.get(3)?,
                    name: row.get(4)?,
                    uid: row.get(5)?,
                },
                key_id: row.get(6)?,
                received_at: time(row, 7)?,
                webhook_id: row.get(8)?,
                labels: labels(row, 9)?,
                body: row.get(10)?,
            })
        })
        .optional()
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
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
