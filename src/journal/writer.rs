//! The one thread that writes. It opens the files, tries again for as long as it cannot, and commits together
//! whatever has gathered while the last commit was on its way to the disk.
//!
//! ```text
//! Opening --> Open <--> Waiting, while a commit fails
//!    \         |
//!     \        +--> damaged: closed, set aside, opened again
//!      +--> Waiting, until it can be opened
//! ```
//!
//! A process that cannot use its disk goes on running: it answers 503 and says why, which helps more than being
//! started again and again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::batch::{self, Command, Replays, Reply, Round, TOGETHER, Tally, Work, remembered_since};
use super::files::{self, Files, Identity, OpenError, is_damage};
use super::keys::Keys;
use super::rooms::Rooms;
use super::{Entry, JournalError, Options, Reader, Shared, State, cursor, record, rescue};
use crate::delivery::DeadKind;

/// How long a note that nobody waits for may wait for others, so that many of them are one commit.
const GATHER: Duration = Duration::from_millis(5);
/// So many of them do not wait any longer.
const GATHERED: usize = 128;
/// How often to look whether another process wrote, and whether a disk that failed works again.
const TICK: Duration = Duration::from_millis(500);
/// The first pause before the journal is opened again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long commits may fail before the files are opened anew.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least time between two logs of evictions.
const BETWEEN_EVICTION_LOGS: Duration = Duration::from_secs(30);
/// Bytes of the write-ahead log from which readers are held up to work it off. It is worked off every 4 MB anyway,
/// but begins anew only when nobody reads in it.
const LONGEST_LOG: u64 = 64 * 1024 * 1024;

/// What the thread works with.
pub(super) struct Writer {
    pub dir: PathBuf,
    pub options: Options,
    pub shared: Arc<Shared>,
    pub feed: mpsc::UnboundedSender<Entry>,
    pub inbox: mpsc::Receiver<Command>,
    /// Waits for a command with a deadline.
    pub runtime: Runtime,
    pub tally: Tally,
    pub work: Work,
    /// Where answers are given.
    pub rounds: mpsc::UnboundedSender<Round>,
    /// Why deliveries were refused since the journal was last open. Each reason is logged once.
    pub said: Vec<String>,
    /// How many dead letters were evicted since that was last logged, by webhook as `namespace/name` and by kind.
    pub evicted: BTreeMap<(String, &'static str), u64>,
    /// When it was last logged.
    pub evictions_logged: Option<Instant>,
}

/// An open file.
struct Open {
    connection: Connection,
    keys: Keys,
    rooms: Rooms,
    /// Changes when another process writes.
    version: i64,
    looked: Instant,
    /// Which files they were when they were opened.
    identity: [Option<Identity>; 2],
    /// Since when commits fail.
    failing: Option<Instant>,
    sweeps: Vec<Reply<()>>,
}

/// Why the loop over an open file has ended.
enum Left {
    /// Nobody has anything to ask any more; these wait to hear that it is closed.
    Ended(Vec<Reply<()>>),
    /// The file is damaged.
    Damaged(String),
    /// It fails, and is opened anew.
    Failing(String),
    /// It was moved or deleted. As long as it is open, all that was in it can still be read.
    Displaced,
}

/// What came of waiting for a command.
enum Came {
    /// Commands are in [`Writer::work`].
    Commands,
    Nothing,
    Nobody,
}

impl Writer {
    /// Runs until [`Command::Close`], or until nobody is left to ask.
    pub fn run(mut self) {
        let mut lock = None;
        let mut suspect = None;
        let mut pause = FIRST_PAUSE;
        let closing = loop {
            match self.open(&mut lock, &mut suspect) {
                Ok(mut open) => {
                    pause = FIRST_PAUSE;
                    let left = self.serve(&mut open);
                    // Readers see either the file or why there is none.
                    self.shared.close();
                    for reply in open.sweeps {
                        let _ = reply.send(Ok(()));
                    }
                    self.log_evictions();
                    // Whoever lets go of it without closing it waits for nothing, and may have taken the directory along,
                    // as a test does.
                    let abandoned = matches!(&left, Left::Ended(closing) if closing.is_empty());
                    let moved = || files::identity(&self.dir).map(|now| now[0] != open.identity[0]);
                    let displaced = !abandoned
                        && (matches!(left, Left::Displaced) || moved().is_ok_and(|moved| moved));
                    if displaced && let Some(closing) = self.refill(&open.connection, &mut lock) {
                        break closing;
                    }
                    // Its log is worked off.
                    drop(open.connection);
                    match left {
                        Left::Ended(closing) => break closing,
                        Left::Damaged(why) => {
                            self.wait_because(format!("the journal is damaged: {why}"));
                            suspect = Some(why);
                        }
                        Left::Failing(why) => self.wait_because(why),
                        Left::Displaced => {}
                    }
                }
                Err(error) => {
                    self.wait_because(error.to_string());
                    // Its pages are sound and a row is not: it is filled anew without what is no row of ours.
                    if let OpenError::Damaged { why, .. } = error {
                        suspect = Some(why);
                    }
                    if let Some(closing) = self.refuse_for(pause) {
                        break closing;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        // The file was closed before the lock goes, so that the next holder finds it at rest.
        drop(lock);
        for reply in closing {
            let _ = reply.send(Ok(()));
        }
    }

    /// Opens the files and feeds all that is pending. `suspect` says why the file is damaged, if it is known to be; it
    /// is said once, for the file is another one then.
    fn open(
        &mut self,
        lock: &mut Option<File>,
        suspect: &mut Option<String>,
    ) -> Result<Open, OpenError> {
        if lock.is_none() {
            *lock = Some(files::lock(&self.dir)?);
        }
        let Files {
            writer,
            reader,
            rescued,
        } = files::open(&self.dir, suspect.as_deref(), Timestamp::now())?;
        *suspect = None;
        if let Some(rescued) = rescued {
            self.tally.depth.quarantined += 1;
            tracing::error!(
                why = rescued.why,
                damaged = %rescued.file.display(),
                saved = rescued.saved,
                broken = rescued.broken,
                unreadable = rescued.unreadable,
                "the journal was damaged: it was set aside and all that could be read of it is in a fresh one; \
                 check the disk, and keep the damaged file until you know what `broken` and `unreadable` have cost you"
            );
        }
        // Before anybody hears that it is open: from then on it may be deleted.
        let identity = files::identity(&self.dir).map_err(OpenError::directory(&self.dir))?;
        let database = OpenError::database(&self.dir);
        let (tally, rooms) = Tally::count(&writer, self.options, &self.tally).map_err(database)?;
        self.tally = tally;
        let keys = Keys::read(&writer).map_err(database)?;
        let version = data_version(&writer).map_err(database)?;
        record::pending(&writer, |entry| {
            // Nobody publishes any more: the next process will read it from the file.
            let _ = self.feed.send(entry);
        })
        .map_err(database)?;
        self.shared.open(Reader {
            connection: reader,
            opened: self.tally.opened,
        });
        self.show();
        self.works_again();
        Ok(Open {
            connection: writer,
            keys,
            rooms,
            version,
            looked: Instant::now(),
            identity,
            failing: None,
            sweeps: Vec::new(),
        })
    }

    /// Writes everything that is in a file that has no name any more to one that has. Returns whom to tell when the
    /// end was asked for before that could be done.
    fn refill(
        &mut self,
        connection: &Connection,
        lock: &mut Option<File>,
    ) -> Option<Vec<Reply<()>>> {
        let why = "it was moved or deleted while it was in use";
        let mut pause = FIRST_PAUSE;
        loop {
            // The lock's file may be gone as well, and another process may hold the one that is there now.
            *lock = None;
            let filled = files::lock(&self.dir).and_then(|held| {
                *lock = Some(held);
                rescue::refill(&self.dir, connection, why, Timestamp::now())
            });
            match filled {
                Ok(rescued) => {
                    tracing::error!(dir = %self.dir.display(), saved = rescued.saved, "the journal was moved or deleted while it was in use: it was written anew");
                    return None;
                }
                Err(error) => self.wait_because(format!("the journal {why}: {error}")),
            }
            if let Some(closing) = self.refuse_for(pause) {
                tracing::error!(dir = %self.dir.display(), pending = self.tally.depth.pending, "ending with deliveries that are on no disk: the journal was moved or deleted and could not be written anew");
                return Some(closing);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn serve(&mut self, open: &mut Open) -> Left {
        let mut closing = Vec::new();
        loop {
            let patience = if self.tally.is_busy() && open.failing.is_none() {
                Duration::ZERO
            } else {
                TICK.saturating_sub(open.looked.elapsed())
            };
            match self.next(patience) {
                Came::Commands | Came::Nothing => {}
                // Everything that was asked for before the end has been done.
                Came::Nobody => return Left::Ended(closing),
            }
            if let Some(why) = self.sort_out(open, &mut closing) {
                self.refuse(&JournalError::Io(why.clone()));
                return Left::Damaged(why);
            }
            let mut due = !self.work.commands.is_empty() || self.tally.is_busy();
            if open.looked.elapsed() >= TICK {
                open.looked = Instant::now();
                due |= open.failing.is_some();
                if let Some(left) = self.look_around(open) {
                    self.refuse(&JournalError::Io("it is being opened anew".to_owned()));
                    return left;
                }
                due |= self.tally.is_busy();
            }
            if due && let Some(left) = self.commit(open) {
                for reply in closing {
                    let _ = reply.send(Ok(()));
                }
                return left;
            }
            if self.tally.forget.is_none() && !open.sweeps.is_empty() {
                for reply in open.sweeps.drain(..) {
                    let _ = reply.send(Ok(()));
                }
            }
        }
    }

    /// Takes out what is for the writer itself. Returns why the file is damaged, if a reader has said so.
    fn sort_out(&mut self, open: &mut Open, closing: &mut Vec<Reply<()>>) -> Option<String> {
        let mut damaged = None;
        for _ in 0..self.work.commands.len() {
            match self.work.commands.pop_front() {
                Some(Command::Close(reply)) => {
                    self.inbox.close();
                    closing.push(reply);
                }
                Some(Command::Sweep(now, reply)) => {
                    self.tally.forget = Some(remembered_since(now));
                    open.sweeps.push(reply);
                }
                Some(Command::Suspect(opened, why)) => {
                    if opened == self.tally.opened {
                        damaged = Some(why);
                    }
                }
                other => self.work.commands.extend(other),
            }
        }
        damaged
    }

    /// Answers all that was performed, on the threads of those who asked: to wake them one by one from here takes a
    /// switch of threads for each on a single core.
    fn answer(&mut self, failed: Option<JournalError>) {
        let round = Round::take(&mut self.work.answers, failed);
        if round.is_shared() {
            // If nobody is there any more, the error holds it, and dropping that gives the answers from here.
            drop(self.rounds.send(round));
        }
    }

    /// Answers all that was not performed.
    fn refuse(&mut self, error: &JournalError) {
        for command in self.work.commands.drain(..) {
            command.refuse(error.clone());
        }
    }

    /// One commit with its answers. Returns why the file cannot be used any more, if so.
    fn commit(&mut self, open: &mut Open) -> Option<Left> {
        let outcome = if self.work.commands.is_empty() && open.failing.is_some() {
            probe(&mut open.connection).map(|()| self.tally)
        } else {
            batch::commit(
                &open.connection,
                self.options,
                self.tally,
                &mut open.keys,
                &mut open.rooms,
                &mut self.work,
                Timestamp::now(),
            )
        };
        match outcome {
            Ok(tally) => {
                self.tally = tally;
                self.show();
                self.note_evictions();
                let durable_at = Timestamp::now();
                for entry in self.work.fresh.drain(..) {
                    // As above.
                    let _ = self.feed.send(Entry {
                        durable_at: Some(durable_at),
                        ..entry
                    });
                }
                self.answer(None);
                if open.failing.take().is_some() {
                    self.works_again();
                }
                None
            }
            Err(error) => {
                let why = in_words(&error);
                let failed = JournalError::Io(why.clone());
                let damaged = is_damage(&error);
                let full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
                let since = *open.failing.get_or_insert_with(Instant::now);
                if !damaged {
                    self.wait_because(format!("the journal cannot be written: {why}"));
                }
                self.answer(Some(failed.clone()));
                self.refuse(&failed);
                if damaged {
                    Some(Left::Damaged(why))
                } else if !full && since.elapsed() > PATIENCE {
                    // What a connection holds may be what fails: a file that is no longer there, a lost mount.
                    Some(Left::Failing(why))
                } else {
                    None
                }
            }
        }
    }

    /// What happens without being asked for: another process wrote, the files were moved, or readers keep the log from
    /// beginning anew. Returns why the file cannot be used any more, if so.
    fn look_around(&mut self, open: &mut Open) -> Option<Left> {
        let [file, log] = files::identity(&self.dir).unwrap_or(open.identity);
        if file != open.identity[0] {
            return Some(Left::Displaced);
        }
        if log != open.identity[1] {
            // Closing works off the one that is still open.
            return Some(Left::Failing(
                "the write-ahead log was moved or deleted while it was in use".to_owned(),
            ));
        }
        self.tally.replays.cramped = false;
        let now = Timestamp::now();
        let mut refused = open.rooms.dead(DeadKind::Refused).webhooks();
        let is_wanted = |uid| open.rooms.retries.wanted(uid, now).is_some();
        self.tally.retries |= refused.any(is_wanted);
        if self
            .evictions_logged
            .is_none_or(|at| at.elapsed() >= BETWEEN_EVICTION_LOGS)
        {
            self.log_evictions();
        }
        match data_version(&open.connection) {
            Ok(version) if version != open.version => {
                open.version = version;
                // What it marked may lie before the place that this round has come to.
                self.tally.replays = Replays {
                    any: true,
                    ..Replays::default()
                };
            }
            Ok(_) => {}
            // A commit will meet it, too, and says so.
            Err(error) => tracing::debug!(%error, "the journal's version cannot be read"),
        }
        let log = self.dir.join(format!("{}-wal", files::FILE));
        let grown = std::fs::metadata(log).is_ok_and(|log| log.len() > LONGEST_LOG);
        // What fills the disk may be the log: it holds a page once for each commit that changed it.
        if grown || open.failing.is_some() {
            let worked_off = self.shared.without_readers(|| {
                open.connection
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                        row.get::<_, i64>(0)
                    })
            });
            tracing::debug!(?worked_off, "the journal's log was worked off");
        }
        None
    }

    fn note_evictions(&mut self) {
        for evicted in self.work.evicted.drain(..) {
            *self.evicted.entry(evicted).or_default() += 1;
        }
    }

    /// Says of which webhooks dead letters were evicted, not for each of them: a flood would fill the log.
    fn log_evictions(&mut self) {
        for ((webhook, kind), count) in std::mem::take(&mut self.evicted) {
            self.evictions_logged = Some(Instant::now());
            tracing::warn!(
                webhook,
                kind,
                count,
                "dead letters were evicted: there are too many, and this webhook had most of them"
            );
        }
    }

    fn show(&self) {
        self.shared.show(self.tally.depth, self.tally.last);
    }

    fn wait_because(&mut self, why: String) {
        if !self.said.contains(&why) {
            tracing::error!(dir = %self.dir.display(), why, "deliveries are refused until the journal can be written");
            self.said.push(why.clone());
        }
        let state = State::Waiting(why);
        self.shared.state.send_if_modified(|known| {
            let changed = *known != state;
            *known = state;
            changed
        });
    }

    fn works_again(&mut self) {
        self.said.clear();
        if self.shared.state.send_replace(State::Open) != State::Open {
            let depth = self.tally.depth;
            tracing::info!(dir = %self.dir.display(), pending = depth.pending, dead = depth.dead, "the journal is open");
        }
    }

    /// Waits for a command, at most so long, and takes what else is there.
    fn next(&mut self, patience: Duration) -> Came {
        let first = match self.inbox.try_recv() {
            Ok(first) => Some(first),
            Err(mpsc::error::TryRecvError::Disconnected) => return Came::Nobody,
            Err(mpsc::error::TryRecvError::Empty) if patience.is_zero() => None,
            Err(mpsc::error::TryRecvError::Empty) => {
                let inbox = &mut self.inbox;
                let waited = self
                    .runtime
                    .block_on(async { tokio::time::timeout(patience, inbox.recv()).await });
                match waited {
                    Ok(Some(first)) => Some(first),
                    Ok(None) => return Came::Nobody,
                    Err(_) => None,
                }
            }
        };
        let Some(first) = first else {
            return Came::Nothing;
        };
        self.work.commands.push_back(first);
        self.take_what_is_there();
        let until = tokio::time::Instant::now() + GATHER;
        let inbox = &mut self.inbox;
        let commands = &mut self.work.commands;
        while commands.len() < GATHERED && commands.iter().all(Command::can_wait) {
            let next = self
                .runtime
                .block_on(async { tokio::time::timeout_at(until, inbox.recv()).await });
            match next {
                Ok(Some(next)) => commands.push_back(next),
                Ok(None) | Err(_) => break,
            }
        }
        self.take_what_is_there();
        Came::Commands
    }

    fn take_what_is_there(&mut self) {
        while self.work.commands.len() < TOGETHER {
            match self.inbox.try_recv() {
                Ok(next) => self.work.commands.push_back(next),
                Err(_) => break,
            }
        }
    }

    /// Refuses everything for a while. Returns whom to tell when the end was asked for.
    fn refuse_for(&mut self, pause: Duration) -> Option<Vec<Reply<()>>> {
        let until = Instant::now() + pause;
        let why = match &*self.shared.state.borrow() {
            State::Waiting(why) => why.clone(),
            State::Opening | State::Open => String::new(),
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            match self.next(left) {
                Came::Nothing => return None,
                Came::Nobody => return Some(Vec::new()),
                Came::Commands => {
                    let mut closing = Vec::new();
                    for command in self.work.commands.drain(..) {
                        match command {
                            Command::Close(reply) => closing.push(reply),
                            other => other.refuse(JournalError::Io(why.clone())),
                        }
                    }
                    if !closing.is_empty() {
                        self.inbox.close();
                        while let Ok(command) = self.inbox.try_recv() {
                            command.refuse(JournalError::Closed);
                        }
                        return Some(closing);
                    }
                }
            }
        }
    }
}

/// What SQLite says, with its number: `disk I/O error` alone has thirty causes.
fn in_words(error: &rusqlite::Error) -> String {
    match error.sqlite_error() {
        Some(code) => format!("{error} (SQLite error {})", code.extended_code),
        None => error.to_string(),
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("PRAGMA data_version")?
        .query_row([], |row| row.get(0))
}

/// A commit that changes nothing that matters.
fn probe(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    cursor::probe(&transaction)?;
    transaction.commit()
}

impl Shared {
    /// Readers may read.
    fn open(&self, reader: Reader) {
        *self.reader() = Some(reader);
        self.open.store(true, Ordering::Release);
    }

    /// They may not, and none of them is in the file any more.
    fn close(&self) {
        self.open.store(false, Ordering::Release);
        *self.reader() = None;
    }

    /// Does something while none of them reads.
    fn without_readers<T>(&self, act: impl FnOnce() -> T) -> T {
        let _reader = self.reader();
        act()
    }
}
