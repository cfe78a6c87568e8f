//! The file: where it is, who holds it, and which version of the schema is in it.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

/// The schema that this program writes, kept in SQLite's `user_version`.
const VERSION: i64 = 1;
/// SQLite's `application_id`: tells our file from another program's.
const APPLICATION: i64 = 0x0c4e_4b74;
/// Name of the database in the journal's directory.
const FILE: &str = "journal.sqlite";
/// Name of the file that the process holding the journal locks.
const LOCK: &str = "journal.lock";

const TABLES: &str = "
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

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be used.
    #[error(
        "the journal's directory {dir} cannot be used: {source}; give --journal a directory that this user may write to"
    )]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process holds it.
    #[error(
        "the journal in {0} is held by another process; give each receiver a directory of its own"
    )]
    Held(PathBuf),
    /// A later version of this program wrote it.
    #[error(
        "the journal in {dir} has schema {found} and this program knows schemas up to {VERSION}; use the newer program"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// What is in the file.
        found: i64,
    },
    /// Another program wrote it.
    #[error("{0} holds another program's database; give --journal a directory of its own")]
    Foreign(PathBuf),
    /// SQLite cannot read or write it.
    #[error("the journal in {dir} cannot be opened: {source}")]
    Database {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// No thread can be had.
    #[error("the journal's writer cannot be started: {0}")]
    Thread(std::io::Error),
}

/// An open journal: one connection that writes, one that reads, and the lock that says so.
#[derive(Debug)]
pub struct Files {
    /// The only connection that writes.
    pub writer: Connection,
    /// Reads beside it.
    pub reader: Connection,
    /// Held for as long as the journal is open; the kernel lets go of it when the process dies.
    pub lock: File,
}

/// Opens or makes the journal in `dir`.
///
/// # Errors
/// [`OpenError`].
pub fn open(dir: &Path) -> Result<Files, OpenError> {
    let directory = |source| OpenError::Directory {
        dir: dir.to_owned(),
        source,
    };
    let database = |source| OpenError::Database {
        dir: dir.to_owned(),
        source,
    };
    // Deliveries tell where people live and what is alarmed: nobody else needs to read them.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(directory)?;
    let lock = File::create(dir.join(LOCK)).map_err(directory)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Held(dir.to_owned())),
        Err(TryLockError::Error(error)) => return Err(directory(error)),
    }
    let mut writer = connection(&dir.join(FILE)).map_err(database)?;
    prepare(&mut writer, dir)?;
    let reader = connection(&dir.join(FILE)).map_err(database)?;
    reader
        .pragma_update(None, "query_only", true)
        .map_err(database)?;
    Ok(Files {
        writer,
        reader,
        lock,
    })
}

fn connection(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
    // FULL: a commit is on the disk when it returns, not only with the operating system.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    Ok(connection)
}

fn prepare(connection: &mut Connection, dir: &Path) -> Result<(), OpenError> {
    let database = |source| OpenError::Database {
        dir: dir.to_owned(),
        source,
    };
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(database)?;
    let number = |name: &str| -> Result<i64, OpenError> {
        transaction
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(database)
    };
    let found = number("user_version")?;
    let application = number("application_id")?;
    let tables: i64 = transaction
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(database)?;
    if tables == 0 && found == 0 && application == 0 {
        transaction.execute_batch(TABLES).map_err(database)?;
        transaction
            .pragma_update(None, "application_id", APPLICATION)
            .map_err(database)?;
        transaction
            .pragma_update(None, "user_version", VERSION)
            .map_err(database)?;
    } else if application != APPLICATION {
        return Err(OpenError::Foreign(dir.to_owned()));
    } else if found > VERSION {
        return Err(OpenError::Newer {
            dir: dir.to_owned(),
            found,
        });
    }
    transaction.commit().map_err(database)
}
