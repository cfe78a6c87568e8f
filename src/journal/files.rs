//! The files: where they are, who holds them, and how they are opened.
//!
//! ```text
//! journal.lock                 locked by the process that holds the journal, and by nobody once it is dead
//! journal.sqlite, -wal, -shm   the journal
//! journal-rescue.sqlite        being filled from a damaged journal; worth nothing until it has the next name
//! journal-rescued.sqlite       filled, on its way to be the journal
//! journal-damaged-<UTC time>.sqlite, -wal, -shm    a damaged journal, set aside; the youngest three are kept
//! ```

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::rescue::{self, Rescued};
use super::schema::{self, Found, VERSION};

/// Name of the database in the journal's directory.
pub const FILE: &str = "journal.sqlite";
/// Name of the file that the process holding the journal locks.
const LOCK: &str = "journal.lock";
/// How long to wait for another process that writes: `replay` is done within milliseconds.
const BUSY: Duration = Duration::from_secs(2);
/// Statements that are kept prepared.
const STATEMENTS: usize = 64;
/// Bytes of a page of a new file.
pub const PAGE: i64 = 4096;
/// Memory for pages, in KiB, of the connection that writes: a commit of 64 deliveries touches ten pages at the table's end.
const WRITER_CACHE: i64 = 512;
/// The same for the connection of readers, which read each row once.
const READER_CACHE: i64 = 128;
/// Bytes of the write-ahead log that stay allocated once it was worked off.
const LOG_KEPT: i64 = 16 * 1024 * 1024;

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
    /// An earlier version of this program wrote it, and whoever asks may not change it.
    #[error(
        "the journal in {dir} has schema {found} and this program writes schema {VERSION}; start this program's receiver on it once"
    )]
    Older {
        /// The directory.
        dir: PathBuf,
        /// What is in the file.
        found: i64,
    },
    /// There is none.
    #[error("there is no journal in {0}; give --journal the directory that the receiver has")]
    Missing(PathBuf),
    /// Another program wrote it.
    #[error("{0} holds another program's database; give --journal a directory of its own")]
    Foreign(PathBuf),
    /// The file is not what SQLite wrote.
    #[error("the journal in {dir} is damaged: {why}")]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
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

impl OpenError {
    pub(super) fn directory(dir: &Path) -> impl Fn(std::io::Error) -> Self + Copy + '_ {
        move |source| OpenError::Directory {
            dir: dir.to_owned(),
            source,
        }
    }

    /// What SQLite said, which may be that the file is damaged.
    pub(super) fn database(dir: &Path) -> impl Fn(rusqlite::Error) -> Self + Copy + '_ {
        move |source| {
            let dir = dir.to_owned();
            if is_damage(&source) {
                let why = source.to_string();
                OpenError::Damaged { dir, why }
            } else {
                OpenError::Database { dir, source }
            }
        }
    }
}

/// Whether an error means that what is in the file is not what was written there.
#[must_use]
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    ) || matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
    )
}

/// An open journal: one connection that writes and one that reads.
#[derive(Debug)]
pub struct Files {
    /// The only connection of this process that writes.
    pub writer: Connection,
    /// Reads beside it.
    pub reader: Connection,
    /// What was saved, when the journal was damaged.
    pub rescued: Option<Rescued>,
}

/// Makes the directory if need be and takes the lock. The kernel lets go of it when the process dies.
///
/// # Errors
/// [`OpenError::Held`], or [`OpenError::Directory`].
pub fn lock(dir: &Path) -> Result<File, OpenError> {
    let directory = OpenError::directory(dir);
    if !dir.is_dir() {
        // Deliveries tell where people live and what is alarmed: nobody else needs to read them.
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(dir);
        made.map_err(directory)?;
        if let Some(parent) = dir.parent().filter(|parent| parent.is_dir()) {
            rescue::sync(parent).map_err(directory)?;
        }
    }
    let lock = File::create(dir.join(LOCK)).map_err(directory)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Held(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(directory(error)),
    }
}

/// A file by device and number.
pub type Identity = (u64, u64);

/// Which files are there under the names of the database and its log: what is open may be there no more.
///
/// # Errors
/// When the system cannot say.
pub fn identity(dir: &Path) -> std::io::Result<[Option<Identity>; 2]> {
    let look = |end: &str| match std::fs::metadata(dir.join(format!("{FILE}{end}"))) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    Ok([look("")?, look("-wal")?])
}

/// Opens or makes the journal in a directory whose lock is held. A damaged one is set aside and what can be read of
/// it is carried over; `suspect` says that it was found to be damaged while it was in use.
///
/// # Errors
/// [`OpenError`]. No data was overwritten.
pub fn open(dir: &Path, suspect: Option<&str>, now: Timestamp) -> Result<Files, OpenError> {
    rescue::finish(dir, now)?;
    let why = match (attempt(dir), suspect) {
        (Ok(files), None) => return Ok(files),
        (Ok(_), Some(why)) => why.to_owned(),
        (Err(OpenError::Damaged { why, .. }), _) => why,
        (Err(error), _) => return Err(error),
    };
    let rescued = rescue::rescue(dir, &why, now)?;
    let files = attempt(dir)?;
    Ok(Files {
        rescued: Some(rescued),
        ..files
    })
}

fn attempt(dir: &Path) -> Result<Files, OpenError> {
    let database = OpenError::database(dir);
    let file = dir.join(FILE);
    let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
    if length(file.clone()) == 0 && length(dir.join(format!("{FILE}-wal"))) > 0 {
        // SQLite would take the one for a new database and throw the other away.
        return Err(OpenError::Damaged {
            dir: dir.to_owned(),
            why: "the file is empty and its write-ahead log is not".to_owned(),
        });
    }
    let mut writer = Connection::open(&file).map_err(database)?;
    writer.busy_timeout(BUSY).map_err(database)?;
    match schema::look(&writer).map_err(database)? {
        Found::Foreign => return Err(OpenError::Foreign(dir.to_owned())),
        Found::Version(found) if found > VERSION => {
            return Err(OpenError::Newer {
                dir: dir.to_owned(),
                found,
            });
        }
        Found::Nothing => writer
            .pragma_update(None, "page_size", PAGE)
            .map_err(database)?,
        Found::Version(_) => {
            if let Some(why) = flaw(&writer).map_err(database)? {
                let dir = dir.to_owned();
                return Err(OpenError::Damaged { dir, why });
            }
        }
    }
    settings(&writer, WRITER_CACHE).map_err(database)?;
    schema::bring_up(&mut writer).map_err(database)?;
    let reader = Connection::open(&file).map_err(database)?;
    reader.busy_timeout(BUSY).map_err(database)?;
    settings(&reader, READER_CACHE).map_err(database)?;
    reader
        .pragma_update(None, "query_only", true)
        .map_err(database)?;
    Ok(Files {
        writer,
        reader,
        rescued: None,
    })
}

/// The first thing that is wrong with the structure of the file. It reads every page, about a second for a GiB.
fn flaw(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    // Several lines, of which the first only names the table.
    Ok((said != "ok").then(|| said.lines().last().unwrap_or_default().to_owned()))
}

fn settings(connection: &Connection, cache: i64) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
    // FULL: a commit is on the disk when it returns, not only with the operating system.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "journal_size_limit", LOG_KEPT)?;
    // A negative number is one of KiB.
    connection.pragma_update(None, "cache_size", -cache)?;
    Ok(())
}

/// Opens the journal of another process, which may be running or not, without its lock. Only `writable` connections
/// can change anything, and none makes a file that is not there.
///
/// # Errors
/// [`OpenError`].
pub fn visit(dir: &Path, writable: bool) -> Result<Connection, OpenError> {
    let database = OpenError::database(dir);
    let file = dir.join(FILE);
    match std::fs::metadata(&file) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(OpenError::Missing(dir.to_owned()));
        }
        Err(error) => return Err(OpenError::directory(dir)(error)),
    }
    let flags = if writable {
        OpenFlags::SQLITE_OPEN_READ_WRITE
    } else {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    };
    let connection = Connection::open_with_flags(&file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(database)?;
    connection.busy_timeout(BUSY).map_err(database)?;
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(database)?;
    let dir = dir.to_owned();
    match schema::look(&connection).map_err(database)? {
        Found::Version(VERSION) => Ok(connection),
        Found::Version(found) if found > VERSION => Err(OpenError::Newer { dir, found }),
        Found::Version(found) => Err(OpenError::Older { dir, found }),
        Found::Nothing => Err(OpenError::Missing(dir)),
        Found::Foreign => Err(OpenError::Foreign(dir)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_is_built_with_the_flags_of_the_cargo_configuration() {
        let connection = Connection::open_in_memory().unwrap();
        let mut statement = connection.prepare("PRAGMA compile_options").unwrap();
        let options = statement.query_map([], |row| row.get(0)).unwrap();
        let options: Vec<String> = options.map(Result::unwrap).collect();
        // HAVE_FDATASYNC comes with the others and is not listed.
        assert!(options.contains(&"DEFAULT_MEMSTATUS=0".to_owned()));
        for off in ["ENABLE_FTS3", "ENABLE_FTS5", "ENABLE_RTREE"] {
            assert!(!options.contains(&off.to_owned()), "{options:?}");
        }
        assert!(
            option_env!("LIBSQLITE3_FLAGS").is_some_and(|all| all.contains("-DHAVE_FDATASYNC"))
        );
    }

    #[test]
    fn an_open_journal_holds_less_than_a_mib_of_pages_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = lock(dir.path()).unwrap();
        let files = open(dir.path(), None, Timestamp::UNIX_EPOCH).unwrap();
        let cache = |connection: &Connection| -> i64 {
            let read = connection.pragma_query_value(None, "cache_size", |row| row.get(0));
            read.unwrap()
        };
        let kib = -cache(&files.writer) - cache(&files.reader);
        assert!((1..1024).contains(&kib), "{kib} KiB");
    }
}
