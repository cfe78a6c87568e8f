//! Which tables are in the file, under which number, and how a file of an older number becomes one of ours.
//!
//! A file is looked at before anything in it is changed: another program's database and one of a later version are
//! left as they are. Columns are only ever added at the end, so that one `CREATE TABLE` describes the rows of every
//! version, and the table stays where it is; [`super::rescue`] relies on it.

use rusqlite::{Connection, TransactionBehavior};

/// The schema that this program writes, kept in SQLite's `user_version`.
pub const VERSION: i64 = 3;
/// SQLite's `application_id`: tells our file from another program's.
const APPLICATION: i64 = 0x0c4e_4b74;

/// The first version. A row of it is a row of every later version, with the defaults of the later columns.
const V1: &str = "
CREATE TABLE records (
    seq         INTEGER PRIMARY KEY,
    key         BLOB    NOT NULL UNIQUE,
    occurrence  BLOB    UNIQUE,
    state       INTEGER NOT NULL,
    class       INTEGER NOT NULL,
    namespace   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    uid         TEXT    NOT NULL,
    key_id      TEXT    NOT NULL,
    received_at INTEGER NOT NULL,
    settled_at  INTEGER,
    webhook_id  TEXT,
    labels      TEXT    NOT NULL,
    reason      TEXT,
    size        INTEGER NOT NULL,
    body        BLOB    NOT NULL
) STRICT;
CREATE INDEX settled ON records (state, settled_at) WHERE state <> 0;
";

/// What the second version changes: keys are not indexed any more ([`super::keys`] has them in memory), for that made
/// each append touch four pages instead of one.
///
/// SQLite drops no index that belongs to a constraint. So the two are given names and statements of their own, the
/// constraints are taken out of the table's statement, and then they can be dropped. Compared with writing all rows
/// into another table this needs no room on the disk, and the table keeps its first page, the second of the file:
/// [`super::rescue`] finds it there in a file whose first page is broken, whichever version made it.
///
/// It adds which key verified (`place`), who was told of a dead letter (`told_at`), and how far other readers have
/// come. A published row without its bytes has the size -1.
///
/// In the first version each unreadable delivery was an Event of its own, so those dead letters count as told; their
/// reasons all begin with `it`.
const V2: &str = "
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET name = 'unique_key', sql = 'CREATE UNIQUE INDEX unique_key ON records (key)'
    WHERE name = 'sqlite_autoindex_records_1';
UPDATE sqlite_schema SET name = 'unique_occurrence',
    sql = 'CREATE UNIQUE INDEX unique_occurrence ON records (occurrence)' WHERE name = 'sqlite_autoindex_records_2';
UPDATE sqlite_schema SET sql = replace(sql, ' UNIQUE', '') WHERE name = 'records';
PRAGMA writable_schema = RESET;
DROP INDEX unique_key;
DROP INDEX unique_occurrence;
ALTER TABLE records ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN told_at INTEGER;
CREATE INDEX untold ON records (uid, seq) WHERE state = 2 AND told_at IS NULL;
CREATE INDEX told ON records (uid, told_at) WHERE state = 2 AND told_at IS NOT NULL;
CREATE TABLE cursors (
    name TEXT    PRIMARY KEY,
    seq  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
UPDATE records SET told_at = settled_at WHERE state = 2 AND reason LIKE 'it %';
UPDATE records SET size = -1 WHERE state = 1;
";

/// What the third version adds: how often the API server refused a delivery, and when it is tried again. A dead letter
/// with such a time was refused, one without it is unreadable. The indexes find the oldest of a webhook, which is what
/// is evicted, and what is due.
///
/// Dead letters of before that are not unreadable, by their reasons, are due at once.
const V3: &str = "
ALTER TABLE records ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN retry_at INTEGER;
UPDATE records SET refusals = 1, retry_at = coalesce(settled_at, 0)
    WHERE state IN (2, 3) AND reason NOT LIKE 'it %' AND reason NOT LIKE 'its %';
CREATE INDEX unreadable ON records (uid, seq) WHERE state = 2 AND retry_at IS NULL;
CREATE INDEX refused ON records (uid, seq) WHERE state = 2 AND retry_at IS NOT NULL;
CREATE INDEX due ON records (uid, retry_at) WHERE state = 2 AND retry_at IS NOT NULL;
CREATE INDEX kept ON records (uid, seq) WHERE state = 1 AND size >= 0;
";

/// What is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing at all.
    Nothing,
    /// A journal of this version.
    Version(i64),
    /// Another program's database.
    Foreign,
}

/// Looks what is in a file, and changes nothing.
///
/// # Errors
/// What SQLite says.
pub fn look(connection: &Connection) -> rusqlite::Result<Found> {
    let number = |name: &str| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, name, |row| row.get(0))
    };
    let (version, application) = (number("user_version")?, number("application_id")?);
    if application == APPLICATION {
        return Ok(Found::Version(version));
    }
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let empty = application == 0 && version == 0 && tables == 0;
    Ok(if empty {
        Found::Nothing
    } else {
        Found::Foreign
    })
}

/// Makes a file that [`look`] called empty, or a journal of an older version, one of this version: all of it or
/// nothing.
///
/// # Errors
/// What SQLite says.
pub fn bring_up(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, change) in [(1, V1), (2, V2), (3, V3)] {
        if found < version {
            transaction.execute_batch(change)?;
        }
    }
    if found < VERSION {
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file as the first version of this program made it.
    pub fn first_version(connection: &Connection) {
        connection.execute_batch(V1).unwrap();
        connection
            .pragma_update(None, "application_id", APPLICATION)
            .unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
    }

    /// A file as the second version made it.
    pub fn second_version(connection: &Connection) {
        first_version(connection);
        connection.execute_batch(V2).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
    }

    #[test]
    fn a_new_file_and_one_of_the_first_version_end_up_with_the_same_tables() {
        let tables = |connection: &Connection| -> Vec<String> {
            let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid";
            let mut statement = connection.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let mut new = Connection::open_in_memory().unwrap();
        assert_eq!(look(&new), Ok(Found::Nothing));
        bring_up(&mut new).unwrap();
        let mut old = Connection::open_in_memory().unwrap();
        first_version(&old);
        assert_eq!(look(&old), Ok(Found::Version(1)));
        bring_up(&mut old).unwrap();
        assert_eq!(look(&old), Ok(Found::Version(VERSION)));
        assert_eq!(tables(&new), tables(&old));
        bring_up(&mut old).unwrap();
        assert_eq!(tables(&new), tables(&old));
        assert!(!tables(&new).concat().contains("UNIQUE"));
    }

    #[test]
    fn a_large_file_of_the_first_version_stays_sound_and_the_table_where_it_was() {
        let mut old = Connection::open_in_memory().unwrap();
        first_version(&old);
        old.execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
             INSERT INTO records (key, occurrence, state, class, namespace, name, uid, key_id, received_at, labels, size, \
             body) SELECT randomblob(32), randomblob(32), i % 3, 0, '', '', '', '', i, '{}', 300, randomblob(300) FROM n",
        )
        .unwrap();
        let root = |connection: &Connection| -> i64 {
            let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'records'";
            connection.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let sum = |connection: &Connection| -> (i64, i64) {
            let sql = "SELECT count(*), sum(received_at) FROM records";
            connection
                .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap()
        };
        let before = sum(&old);
        bring_up(&mut old).unwrap();
        assert_eq!((root(&old), sum(&old)), (2, before));
        let sound = old.query_row("PRAGMA integrity_check", [], |row| row.get(0));
        assert_eq!(sound, Ok("ok".to_owned()));
        let off = old.execute("UPDATE sqlite_schema SET name = name", []);
        assert!(off.is_err(), "the schema can still be written");
        let mut new = Connection::open_in_memory().unwrap();
        bring_up(&mut new).unwrap();
        assert_eq!(root(&new), 2);
    }
}
