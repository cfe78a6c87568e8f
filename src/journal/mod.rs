//! The record on disk of deliveries acknowledged and not yet published. A 200 means: it is in here.
//!
//! ```text
//! append --> pending --settle--> published --(30 min)--> gone
//!             ^     \--bury----> dead letter, kept with its reason and raw bytes
//!             +------replay-------------/
//! ```
//!
//! One SQLite file in WAL mode with `synchronous = FULL`, so that anybody can look into it with `sqlite3`. One
//! thread writes ([`writer`]): it takes whatever has gathered while the last commit was on its way to the disk and
//! commits it at once ([`batch`]), which makes one `fsync` serve many deliveries. Which deliveries are there is known
//! without a look into the file ([`keys`]), so that an append only writes at the file's end. Readers have a connection of their
//! own. A file that is damaged is set aside and what can be read of it is carried over ([`rescue`]).
//!
//! # What bounds the file, and the memory
//!
//! - Pending rows by [`Limits::max_records`] and [`Limits::max_bytes`]. Beyond half of that, appends are refused to the
//!   webhooks that are over their share ([`crate::delivery::share`]).
//! - Unreadable dead letters by [`Limits::max_dead`] and [`Limits::max_dead_bytes`], those that the API server refused by
//!   [`Limits::max_refused`] and [`Limits::max_refused_bytes`]: beyond that the oldest of the webhook that has most are
//!   evicted.
//! - Published rows that are kept for the sink, by the same records and bytes as what is pending: beyond that it misses
//!   the oldest of the webhook that has most.
//! - Published rows keep their keys for [`MEMORY`] and nothing else, about 150 bytes, and no more than
//!   [`Limits::max_keys`] of them: 11 namespaces at the full pace for all of that time. A copy of one that was
//!   forgotten earlier makes no second Event, for the Event's name is made of the key.
//! - In memory a row takes 29 to 57 bytes for its key, and the last row about each alarm 47 to 94 more: with all that
//!   the defaults allow, a sink and an alarm for each row, 35 MB. That is reached in steps of the double; 18,000 rows,
//!   which one namespace at the full pace has, take 2.2 MB.
//! - Pages that became free are used again before the file grows, so it is as large as it ever had to be: at most
//!   what the above come to, about 1.2 GB with the defaults and a sink, and some MB in all but the worst of times.
//!   It is not made smaller: the room is needed again the next time, and a full disk is then no surprise.
//! - The write-ahead log is worked off every 1,000 pages and begins anew when no reader is in it. Readers here read a
//!   row and leave; should they still keep it from beginning anew, the writer holds them up once it has 64 MiB.
//! - Three damaged files are kept ([`rescue::KEPT`]).

pub mod batch;
pub mod cursor;
pub mod dead;
pub mod files;
pub mod keys;
pub mod record;
pub mod rescue;
pub mod rooms;
pub mod schema;
pub mod shelf;
pub mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::delivery::pacing::Waiting;
use crate::delivery::{DeliveryKey, Received};
use crate::resources::keyring::WebhookIdentity;
use batch::{Command, Reply, Round, Tally, Work};
use record::PENDING;
use writer::Writer;

pub use dead::Cause;
pub use files::OpenError;

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
    /// Unreadable dead letters; beyond that the oldest of the webhook that has most are evicted.
    pub max_dead: i64,
    /// Bytes of their bodies together, in the same way.
    pub max_dead_bytes: i64,
    /// Dead letters that the API server refused, in the same way.
    pub max_refused: i64,
    /// Bytes of their bodies together, in the same way.
    pub max_refused_bytes: i64,
    /// Keys of published deliveries; beyond that the oldest are forgotten before [`MEMORY`] is over.
    pub max_keys: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_records: 100_000,
            max_bytes: 256 * 1024 * 1024,
            max_dead: 10_000,
            max_dead_bytes: 64 * 1024 * 1024,
            max_refused: 10_000,
            max_refused_bytes: 64 * 1024 * 1024,
            max_keys: 200_000,
        }
    }
}

/// How a journal is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much it may hold.
    pub limits: Limits,
    /// Whether a second reader, the sink, takes part. Bodies are then kept until it has them, too.
    pub sink: bool,
}

/// What the journal is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being opened for the first time.
    Opening,
    /// It cannot be opened or written, for this reason, and that is tried again.
    Waiting(String),
    /// It takes deliveries.
    Open,
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
    /// The journal is more than half full, and the webhook or its namespace holds more than its share of it.
    #[error("the webhook is over its share of the journal")]
    OverShare,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// The disk or SQLite failed; nothing of what was asked is certain to be there.
    #[error("the journal cannot be written: {0}")]
    Io(String),
}

/// How much the journal holds, and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Deliveries that wait to be published.
    pub pending: i64,
    /// Bytes of their bodies together.
    pub bytes: i64,
    /// Dead letters, those that are being retried among them.
    pub dead: i64,
    /// Bytes of their bodies together.
    pub dead_bytes: i64,
    /// Those among them that the API server refused.
    pub refused: i64,
    /// Unreadable dead letters that were evicted, since this process started.
    pub evicted_unreadable: i64,
    /// Refused ones that were.
    pub evicted_refused: i64,
    /// The most deliveries that may wait.
    pub max_records: i64,
    /// The most bytes that they may have.
    pub max_bytes: i64,
    /// Deliveries that the sink has not taken.
    pub sink_pending: i64,
    /// Bytes of their bodies together.
    pub sink_bytes: i64,
    /// Deliveries that the sink has missed, since this process started.
    pub sink_skipped: i64,
    /// Damaged files that were set aside, since this process started.
    pub quarantined: i64,
}

/// The dead letters of one webhook that nobody was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    /// The webhook.
    pub webhook: WebhookIdentity,
    /// How many they are.
    pub count: i64,
    /// The lowest of their numbers.
    pub first: i64,
    /// The highest.
    pub last: i64,
    /// How many of them the API server refused.
    pub refused: i64,
    /// Why the last of them cannot be published.
    pub last_reason: String,
    /// When the webhook was last told of others.
    pub last_told_at: Option<Timestamp>,
}

/// What all handles and the writer share.
#[derive(Debug)]
struct Shared {
    /// Whether commands are taken. It is false while the file is being opened; commands are then refused at once.
    open: AtomicBool,
    reader: Mutex<Option<Reader>>,
    state: watch::Sender<State>,
    appended: watch::Sender<i64>,
    depth: Mutex<Depth>,
}

/// The connection of readers.
#[derive(Debug)]
struct Reader {
    connection: Connection,
    /// How often the file had been opened by then: what is said of an earlier file must not be taken for this one.
    opened: u64,
}

impl Shared {
    fn reader(&self) -> MutexGuard<'_, Option<Reader>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is so after a commit.
    fn show(&self, depth: Depth, last: i64) {
        *self.depth.lock().unwrap_or_else(PoisonError::into_inner) = depth;
        self.appended.send_if_modified(|known| {
            let changed = last > *known;
            *known = last;
            changed
        });
    }

    /// Why nothing can be asked for.
    fn refusal(&self) -> JournalError {
        match &*self.state.borrow() {
            State::Waiting(why) => JournalError::Io(why.clone()),
            State::Opening | State::Open => JournalError::Io("it is being opened".to_owned()),
        }
    }
}

/// A delivery that waits to be published, as the feed names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the queue.
    pub waiting: Waiting,
    /// Its key.
    pub key: DeliveryKey,
    /// When it arrived, or was taken up again as a dead letter.
    pub received_at: Timestamp,
    /// When it was on disk; `None` if an earlier process wrote it, or an earlier opening of the file.
    pub durable_at: Option<Timestamp>,
}

/// Everything pending: first what an earlier process left, then what is appended.
///
/// The writer feeds it after the commit, so that a request that is dropped while it waits for the disk is
/// published all the same. It is as bounded as the journal is. After a replay, or after the file was opened again
/// while the process runs, it names a number that it has named before.
pub type Feed = mpsc::UnboundedReceiver<Entry>;

/// A handle on the journal. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

impl Journal {
    /// Starts the writer of the journal in `dir`, which is made if it is not there.
    ///
    /// The writer opens the file, and tries again for as long as it cannot: the disk is full or cannot be written,
    /// another process holds the lock, the file is another program's or a later version's. [`Journal::state`] says
    /// which, and until then everything that is asked for fails with [`JournalError::Io`].
    ///
    /// # Errors
    /// [`OpenError::Thread`] when no thread can be had, and nothing else.
    pub fn start(dir: &Path, options: Options) -> Result<(Self, Feed), OpenError> {
        let (commands, inbox) = mpsc::channel(BACKLOG);
        let (feed, pending) = mpsc::unbounded_channel();
        let depth = Depth {
            max_records: options.limits.max_records,
            max_bytes: options.limits.max_bytes,
            ..Depth::default()
        };
        let shared = Arc::new(Shared {
            open: AtomicBool::new(false),
            reader: Mutex::new(None),
            state: watch::Sender::new(State::Opening),
            appended: watch::Sender::new(0),
            depth: Mutex::new(depth),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(OpenError::Thread)?;
        // Outside of a runtime, or when it has ended, the writer gives the answers itself.
        let (rounds, mut given) = mpsc::unbounded_channel();
        if let Ok(askers) = tokio::runtime::Handle::try_current() {
            askers.spawn(async move {
                while let Some(round) = given.recv().await {
                    drop::<Round>(round);
                }
            });
        }
        let writer = Writer {
            dir: dir.to_owned(),
            options,
            shared: Arc::clone(&shared),
            feed,
            inbox,
            runtime,
            tally: Tally::default(),
            work: Work::default(),
            rounds,
            evicted: BTreeMap::new(),
            evictions_logged: None,
            said: Vec::new(),
        };
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        Ok((Journal { commands, shared }, pending))
    }

    /// What it is doing, for the readiness of the process.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// Writes a delivery, and returns once it is on disk.
    ///
    /// # Errors
    /// [`JournalError`]; none of them may be answered with a 200.
    pub async fn append(&self, received: Received) -> Result<Appended, JournalError> {
        self.ask(|reply| Command::Append(Box::new(received), reply))
            .await
    }

    /// Notes that a delivery was published. Its key is remembered for [`MEMORY`], its bytes are not, unless the sink
    /// still wants them.
    ///
    /// # Errors
    /// [`JournalError`]; the delivery is then published again after a restart and found to be there.
    pub async fn settle(&self, key: DeliveryKey, at: Timestamp) -> Result<(), JournalError> {
        self.ask(|reply| Command::Settle(key, at, reply)).await
    }

    /// Makes a delivery a dead letter that its webhook was not told of. What the API server refused is fed again by
    /// itself, with growing intervals ([`crate::delivery::again`]), and the webhook is not told of it anew.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn bury(
        &self,
        key: DeliveryKey,
        cause: Cause,
        at: Timestamp,
    ) -> Result<(), JournalError> {
        self.ask(|reply| Command::Bury(key, cause, at, reply)).await
    }

    /// The dead letters that nobody was told of, by webhook, the one that waits longest first.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub async fn untold(&self) -> Result<Vec<Untold>, JournalError> {
        self.read(dead::untold).await
    }

    /// Notes that the webhook with this uid was told of its dead letters up to and including a number.
    ///
    /// # Errors
    /// [`JournalError`]; it is then told again.
    pub async fn told(&self, uid: String, up_to: i64, at: Timestamp) -> Result<(), JournalError> {
        self.ask(|reply| Command::Told(uid, up_to, at, reply)).await
    }

    /// The deliveries beyond the number `after`, the lowest first and at most so many, whatever became of them.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub async fn for_sink(
        &self,
        after: i64,
        most: usize,
    ) -> Result<Vec<(i64, Received)>, JournalError> {
        self.read(move |connection| record::whole_after(connection, after, most))
            .await
    }

    /// The number of the last delivery that the sink has taken or missed, 0 at first.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub async fn sink_cursor(&self) -> Result<i64, JournalError> {
        self.read(cursor::sink).await
    }

    /// Notes that the sink has taken, or given up, everything up to and including a number. A lower number than
    /// before changes nothing.
    ///
    /// # Errors
    /// [`JournalError`]; the sink then gets it again after a restart.
    pub async fn advance_sink(&self, seq: i64) -> Result<(), JournalError> {
        self.ask(|reply| Command::Advance(seq, reply)).await
    }

    /// The highest number that is on disk: it changes when something was appended.
    #[must_use]
    pub fn appended(&self) -> watch::Receiver<i64> {
        self.shared.appended.subscribe()
    }

    /// Forgets what was published more than [`MEMORY`] before `now`, a little with each commit.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn sweep(&self, now: Timestamp) -> Result<(), JournalError> {
        self.ask(|reply| Command::Sweep(now, reply)).await
    }

    /// Finishes what was asked for before, closes the file and lets go of the lock. Later calls fail with
    /// [`JournalError::Closed`].
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        // Who is gone has closed it already.
        if self.commands.send(Command::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// The delivery with this number, if it is still pending.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub async fn load(&self, seq: i64) -> Result<Option<Received>, JournalError> {
        self.read(move |connection| record::load(connection, seq, PENDING))
            .await
    }

    /// How much it holds.
    #[must_use]
    pub fn depth(&self) -> Depth {
        *self
            .shared
            .depth
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, JournalError> {
        if self.commands.is_closed() {
            return Err(JournalError::Closed);
        }
        if !self.shared.open.load(Ordering::Acquire) {
            return Err(self.shared.refusal());
        }
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }

    /// Reads beside the writer, which is told when the file is damaged.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let shared = Arc::clone(&self.shared);
        let outcome = tokio::task::spawn_blocking(move || {
            let reader = shared.reader();
            let reader = reader.as_ref()?;
            Some((read(&reader.connection), reader.opened))
        })
        .await
        .map_err(|e| JournalError::Io(e.to_string()))?;
        match outcome {
            Some((Ok(value), _)) => Ok(value),
            Some((Err(error), opened)) => {
                if files::is_damage(&error) {
                    // If the writer has no time for it, the next reader says so again.
                    let _ = self
                        .commands
                        .try_send(Command::Suspect(opened, error.to_string()));
                }
                Err(JournalError::Io(error.to_string()))
            }
            None if self.commands.is_closed() => Err(JournalError::Closed),
            None => Err(self.shared.refusal()),
        }
    }
}

#[cfg(test)]
mod tests;
