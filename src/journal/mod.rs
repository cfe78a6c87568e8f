//! The record on disk of deliveries acknowledged and not yet published. A 200 means: it is in here.
//!
//! ```text
//! append --> pending --settle--> published --(30 min)--> gone
//!                   \--bury----> dead letter, kept with its reason and raw bytes
//! ```
//!
//! One SQLite file in WAL mode with `synchronous = FULL`, so that anybody can look into it with `sqlite3`. One
//! thread writes: it takes whatever has gathered while the last commit was on its way to the disk and commits it
//! at once, which makes one `fsync` serve many deliveries. Readers have a connection of their own.

pub mod record;
pub mod schema;
pub mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::delivery::pacing::Waiting;
use crate::delivery::{DeliveryKey, Received};
use writer::Command;

pub use schema::OpenError;

/// For how long the key of a published delivery is remembered: longer than CHeKT goes on retrying (about six
/// minutes; partner-api.md, 5).
pub const MEMORY: Duration = Duration::from_secs(30 * 60);

/// Commands that may wait for the writer; one more waits in its sender.
const BACKLOG: usize = 4096;

/// How much the journal may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Deliveries that wait to be published.
    pub max_records: i64,
    /// Bytes of their bodies together.
    pub max_bytes: i64,
    /// Dead letters; beyond that the oldest go.
    pub max_dead: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_records: 100_000,
            max_bytes: 256 * 1024 * 1024,
            max_dead: 10_000,
        }
    }
}

/// What became of an append. Either way it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It was not there before.
    New,
    /// A copy was there already.
    Known,
}

/// Why something was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// As many deliveries wait as may.
    #[error("the journal is full")]
    Full,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// The disk or SQLite failed; nothing of what was asked is certain to be there.
    #[error("the journal cannot be written: {0}")]
    Io(String),
}

/// How much the journal holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Deliveries that wait to be published.
    pub pending: i64,
    /// Bytes of their bodies together.
    pub bytes: i64,
    /// Dead letters.
    pub dead: i64,
}

/// The counts behind [`Depth`], set by the writer after each commit.
#[derive(Debug, Default)]
struct Counts {
    pending: AtomicI64,
    bytes: AtomicI64,
    dead: AtomicI64,
}

/// A delivery that waits to be published, as the feed names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the queue.
    pub waiting: Waiting,
    /// Its key.
    pub key: DeliveryKey,
    /// When it arrived.
    pub received_at: Timestamp,
}

/// Everything pending, each once: first what an earlier process left, then what is appended.
///
/// The writer feeds it after the commit, so that a request that is dropped while it waits for the disk is
/// published all the same. It is as bounded as the journal is.
pub type Feed = mpsc::UnboundedReceiver<Entry>;

/// A handle on the journal. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    reader: Arc<Mutex<Connection>>,
    counts: Arc<Counts>,
}

impl Journal {
    /// Opens the journal in `dir`, which is made if it is not there, and starts its writer.
    ///
    /// # Errors
    /// [`OpenError`] in words that say what to do.
    pub fn open(dir: &Path, limits: Limits) -> Result<(Self, Feed), OpenError> {
        let files = schema::open(dir)?;
        let counts = Arc::new(Counts::default());
        let (commands, inbox) = mpsc::channel(BACKLOG);
        let (feed, pending) = mpsc::unbounded_channel();
        writer::start(
            files.writer,
            files.lock,
            limits,
            Arc::clone(&counts),
            inbox,
            feed,
        )?;
        let journal = Journal {
            commands,
            reader: Arc::new(Mutex::new(files.reader)),
            counts,
        };
        Ok((journal, pending))
    }

    /// Writes a delivery, and returns once it is on disk.
    ///
    /// # Errors
    /// [`JournalError`]; none of them may be answered with a 200.
    pub async fn append(&self, received: Received) -> Result<Appended, JournalError> {
        self.ask(|reply| Command::Append(Box::new(received), reply))
            .await
    }

    /// Notes that a delivery was published. Its key is remembered for [`MEMORY`], its bytes are not.
    ///
    /// # Errors
    /// [`JournalError`]; the delivery is then published again after a restart and found to be there.
    pub async fn settle(&self, key: DeliveryKey, at: Timestamp) -> Result<(), JournalError> {
        self.ask(|reply| Command::Settle(key, at, reply)).await
    }

    /// Makes a delivery a dead letter.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn bury(
        &self,
        key: DeliveryKey,
        reason: String,
        at: Timestamp,
    ) -> Result<(), JournalError> {
        self.ask(|reply| Command::Bury(key, reason, at, reply))
            .await
    }

    /// Forgets what was published more than [`MEMORY`] before `now`, and the oldest dead letters if there are too
    /// many. Returns how many dead letters went.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, JournalError> {
        self.ask(|reply| Command::Sweep(now, reply)).await
    }

    /// Finishes what was asked for before and closes. Later calls fail with [`JournalError::Closed`].
    pub async fn close(&self) {
        // That it is closed already is what was asked for.
        let _: Result<(), JournalError> = self.ask(Command::Close).await;
    }

    /// The delivery with this number, if it is still pending.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub async fn load(&self, seq: i64) -> Result<Option<Received>, JournalError> {
        let reader = Arc::clone(&self.reader);
        tokio::task::spawn_blocking(move || {
            let connection = reader.lock().unwrap_or_else(PoisonError::into_inner);
            record::load(&connection, seq).map_err(|e| JournalError::Io(e.to_string()))
        })
        .await
        .map_err(|e| JournalError::Io(e.to_string()))?
    }

    /// How much it holds.
    #[must_use]
    pub fn depth(&self) -> Depth {
        Depth {
            pending: self.counts.pending.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            dead: self.counts.dead.load(Ordering::Relaxed),
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Command,
    ) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }
}

#[cfg(test)]
mod tests;
