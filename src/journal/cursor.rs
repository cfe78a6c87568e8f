//! How far another reader of the journal has come: the sink, which takes every delivery whatever became of its Event.

use rusqlite::{Connection, OptionalExtension, params};

/// The name of the sink's cursor.
const SINK: &str = "sink";

/// The number of the last delivery that the sink has taken or given up, 0 at first.
///
/// # Errors
/// What SQLite says.
pub fn sink(connection: &Connection) -> rusqlite::Result<i64> {
    let seq = connection
        .prepare_cached("SELECT seq FROM cursors WHERE name = ?1")?
        .query_row([SINK], |row| row.get(0))
        .optional()?;
    Ok(seq.unwrap_or(0))
}

/// Moves it.
///
/// # Errors
/// What SQLite says.
pub fn set_sink(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO cursors (name, seq) VALUES (?1, ?2)")?
        .execute(params![SINK, seq])?;
    Ok(())
}

/// Writes something that nobody reads, to learn whether anything can be written.
///
/// # Errors
/// What SQLite says.
pub fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO cursors (name, seq) VALUES ('probe', 1) ON CONFLICT DO UPDATE SET seq = seq + 1",
        [],
    )?;
    Ok(())
}
