//! One commit: what was asked for, in one transaction, and the answers, which are given only after it.
//!
//! CPU an append, with a 300-byte body, in a release build on one core: 9 us alone, 3 us with 8 to a commit and 2 us
//! with 64, on a tmpfs; 55 to 80, 9 and 3 to 4 us on a disk, where waiting for it costs CPU as well. It writes 5.6,
//! 2.3 and 1.1 KB. Occurrences and 200,000 rows in the file make no difference beyond what one run has from the next.
//! Settling costs a little more. Whoever asks pays for channels and threads: 5 us alone, 1 us with 8 and 0.5 us with
//! 64. (With keys in two unique indexes of the file, and each answer given from the writer's thread, an append with
//! its asking cost 10 to 16 us with 64 to a commit, and wrote 11 to 21 KB.) Pages of 1, 2 or 8 KiB, a log that is
//! worked off four times more rarely, a cache of 16 MB and mmap made less difference than one run has from the next,
//! or made it worse, so SQLite's defaults stay, but for a smaller cache ([`super::files`]).

use std::collections::{HashSet, VecDeque};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rusqlite::{CachedStatement, Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::dead::{By, Cause, Replayed};
use super::keys::{Keys, Named};
use super::record::{self, PUBLISHED, REPLAY};
use super::rooms::{Held, Rooms};
use super::{Appended, Depth, Entry, JournalError, MEMORY, Options, cursor, dead};
use crate::delivery::again::{is_due, next_try};
use crate::delivery::holdings::{Amount, Holdings, Measure};
use crate::delivery::pacing::Waiting;
use crate::delivery::share::Verdict;
use crate::delivery::{Class, DeadKind, DeliveryKey, Received};

/// Rows that are forgotten, or tried again, in one commit: deliveries must not wait for housekeeping.
const SLICE: i64 = 256;
/// The most commands in one commit, so that the first of them does not wait for ever.
pub const TOGETHER: usize = 512;
/// Rows that are forgotten in one commit because there are too many: as many as a commit can bring.
const MOST: i64 = 512;

/// Where an answer goes. Whoever asked may be gone.
pub type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

/// What the writer can be asked for.
#[derive(Debug)]
pub enum Command {
    /// Write a delivery.
    Append(Box<Received>, Reply<Appended>),
    /// It was published.
    Settle(DeliveryKey, Timestamp, Reply<()>),
    /// It is a dead letter.
    Bury(DeliveryKey, Cause, Timestamp, Reply<()>),
    /// The webhook with this uid was told of its dead letters up to a number.
    Told(String, i64, Timestamp, Reply<()>),
    /// The sink has taken everything up to a number.
    Advance(i64, Reply<()>),
    /// Forget what is old.
    Sweep(Timestamp, Reply<()>),
    /// A reader found the file to be damaged that was the how manieth to be opened.
    Suspect(u64, String),
    /// Commit what came before and end.
    Close(Reply<()>),
}

impl Command {
    /// Whether it may wait for others of its kind. Nothing depends on when an Event is noted to be there: what a crash
    /// leaves unnoted is found to be there when it is published again.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        match self {
            Command::Settle(..) => true,
            Command::Append(..)
            | Command::Bury(..)
            | Command::Told(..)
            | Command::Advance(..)
            | Command::Sweep(..)
            | Command::Suspect(..)
            | Command::Close(..) => false,
        }
    }

    /// Answers without having done it.
    pub fn refuse(self, error: JournalError) {
        match self {
            Command::Append(_, reply) => drop(reply.send(Err(error))),
            Command::Settle(.., reply)
            | Command::Bury(.., reply)
            | Command::Told(.., reply)
            | Command::Advance(_, reply)
            | Command::Sweep(_, reply)
            | Command::Close(reply) => drop(reply.send(Err(error))),
            Command::Suspect(..) => {}
        }
    }
}

/// What is said after the commit.
pub enum Answer {
    /// To an append.
    Append(Reply<Appended>, Result<Appended, JournalError>),
    /// To what has no result.
    Done(Reply<()>),
}

impl Answer {
    /// Gives it, or the reason why nothing was committed.
    pub fn give(self, failed: Option<&JournalError>) {
        match (self, failed) {
            (Answer::Append(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Answer::Append(reply, result), None) => drop(reply.send(result)),
            (Answer::Done(reply), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Answer::Done(reply), None) => drop(reply.send(Ok(()))),
        }
    }
}

/// The answers of one commit. They are given wherever it is dropped.
pub struct Round {
    answers: Vec<Answer>,
    failed: Option<JournalError>,
}

impl Round {
    /// Takes the answers to what was committed, or not.
    pub fn take(answers: &mut Vec<Answer>, failed: Option<JournalError>) -> Self {
        let room = Vec::with_capacity(answers.len());
        Round {
            answers: std::mem::replace(answers, room),
            failed,
        }
    }

    /// Whether more than one waits for it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.answers.len() > 1
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        for answer in self.answers.drain(..) {
            answer.give(self.failed.as_ref());
        }
    }
}

/// What the writer knows of the file without asking it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// What is shown to others.
    pub depth: Depth,
    /// Published rows, whose keys are remembered.
    pub keys: i64,
    /// The highest number given out.
    pub last: i64,
    /// The sink's cursor.
    pub cursor: i64,
    /// What a person wants to be tried again.
    pub replays: Replays,
    /// Whether it is to be looked which refused deliveries are due.
    pub retries: bool,
    /// Whether there are too many keys, and the sink still wants what they are of.
    pub held: bool,
    /// How often a file was opened.
    pub opened: u64,
    /// What was published before this time is being forgotten.
    pub forget: Option<Timestamp>,
}

/// What is asked for in one commit and what comes of it. The writer has one and uses it again and again.
#[derive(Default)]
pub struct Work {
    /// What is asked for.
    pub commands: VecDeque<Command>,
    /// What was written and waits to be published.
    pub fresh: Vec<Entry>,
    /// What is said after the commit.
    pub answers: Vec<Answer>,
    /// The webhook, as `namespace/name`, and the kind of each dead letter that was evicted.
    pub evicted: Vec<(String, &'static str)>,
}

/// A commit that is being made.
struct Batch<'a> {
    connection: &'a Connection,
    insert: CachedStatement<'a>,
    options: Options,
    tally: Tally,
    keys: &'a mut Keys,
    rooms: &'a mut Rooms,
    fresh: &'a mut Vec<Entry>,
    evicted: &'a mut Vec<(String, &'static str)>,
}

/// How far the rows that a person wants to be tried again have been looked at. They are looked at in rounds, since some
/// may have no room while others have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replays {
    /// Whether there may be such a row.
    pub any: bool,
    /// Whether all that are left wait for room.
    pub cramped: bool,
    /// Up to which row this round has come.
    pub place: Option<(i64, i64)>,
    /// Whether this round has met one without room.
    pub left: bool,
}

impl Tally {
    /// Counts what is in a file. `before` is what was known of it in this process, whose numbers stay given out.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn count(
        connection: &Connection,
        options: Options,
        before: &Tally,
    ) -> rusqlite::Result<(Tally, Rooms)> {
        let (keys, _) = record::count(connection, PUBLISHED)?;
        let (replays, _) = record::count(connection, REPLAY)?;
        let cursor = cursor::sink(connection)?;
        let last = record::highest(connection)?.max(cursor).max(before.last);
        let (sink_pending, sink_bytes) = if options.sink {
            record::count_whole(connection, cursor, i64::MAX)?
        } else {
            (0, 0)
        };
        let rooms = Rooms::count(connection, options, cursor)?;
        let mut tally = Tally {
            depth: Depth {
                max_records: options.limits.max_records,
                max_bytes: options.limits.max_bytes,
                sink_pending,
                sink_bytes,
                ..before.depth
            },
            keys,
            last,
            cursor,
            replays: Replays {
                any: replays > 0,
                ..Replays::default()
            },
            retries: true,
            held: false,
            opened: before.opened + 1,
            forget: before.forget,
        };
        tally.show(&rooms);
        Ok((tally, rooms))
    }

    /// Shows others what is held.
    fn show(&mut self, rooms: &Rooms) {
        let pending = rooms.pending.held().total();
        let [unreadable, refused] =
            [DeadKind::Unreadable, DeadKind::Refused].map(|kind| rooms.dead(kind).total());
        self.depth.pending = pending.records;
        self.depth.bytes = pending.bytes;
        // One that is retried is published or it is not; until then nobody has seen fewer of them.
        let retried = i64::try_from(rooms.retries.under_way()).unwrap_or(i64::MAX);
        self.depth.refused = refused.records.saturating_add(retried);
        self.depth.dead = unreadable.records.saturating_add(self.depth.refused);
        self.depth.dead_bytes = unreadable.bytes + refused.bytes;
    }

    /// Whether there is housekeeping that needs no command to go on.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.forget.is_some() || (self.replays.any && !self.replays.cramped) || self.retries
    }
}

/// Does what is asked for and some housekeeping in one transaction, and returns what is so afterwards. After an error
/// nothing of it was done, `keys` and `rooms` are what they were, and what was not even begun is still in `work`.
///
/// # Errors
/// What SQLite says.
pub fn commit(
    connection: &Connection,
    options: Options,
    tally: Tally,
    keys: &mut Keys,
    rooms: &mut Rooms,
    work: &mut Work,
    now: Timestamp,
) -> rusqlite::Result<Tally> {
    let done = transact(connection, options, tally, keys, rooms, work, now);
    if done.is_ok() {
        keys.keep();
        rooms.keep();
    } else {
        keys.put_back();
        rooms.put_back();
        work.fresh.clear();
        work.evicted.clear();
    }
    done
}

fn transact(
    connection: &Connection,
    options: Options,
    tally: Tally,
    keys: &mut Keys,
    rooms: &mut Rooms,
    work: &mut Work,
    now: Timestamp,
) -> rusqlite::Result<Tally> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    // It is looked up once, and not once for each row.
    let insert = connection.prepare_cached(record::INSERT)?;
    let mut batch = Batch {
        connection,
        insert,
        options,
        tally,
        keys,
        rooms,
        fresh: &mut work.fresh,
        evicted: &mut work.evicted,
    };
    while let Some(command) = work.commands.pop_front() {
        batch.perform(command, &mut work.answers)?;
    }
    batch.keep_house(now)?;
    let mut tally = batch.tally;
    tally.show(batch.rooms);
    drop(batch);
    transaction.commit()?;
    Ok(tally)
}

impl Batch<'_> {
    /// Performs one command. Its answer is there even after an error.
    fn perform(&mut self, command: Command, answers: &mut Vec<Answer>) -> rusqlite::Result<()> {
        let (reply, done) = match command {
            Command::Append(received, reply) => {
                let (result, done) = match self.append(*received) {
                    Ok(result) => (result, Ok(())),
                    Err(error) => (Ok(Appended::Known), Err(error)),
                };
                answers.push(Answer::Append(reply, result));
                return done;
            }
            Command::Settle(key, at, reply) => (reply, self.settle(&key, at)),
            Command::Bury(key, cause, at, reply) => (reply, self.bury(&key, &cause, at)),
            Command::Told(uid, up_to, at, reply) => {
                (reply, dead::told(self.connection, &uid, up_to, at))
            }
            Command::Advance(seq, reply) => (reply, self.advance(seq)),
            // The writer keeps these to itself.
            Command::Sweep(..) | Command::Suspect(..) => return Ok(()),
            Command::Close(reply) => (reply, Ok(())),
        };
        answers.push(Answer::Done(reply));
        done
    }

    fn append(&mut self, received: Received) -> rusqlite::Result<Result<Appended, JournalError>> {
        // A copy costs no room.
        if self.keys.knows(&received.key, received.occurrence.as_ref()) {
            return Ok(Ok(Appended::Known));
        }
        let held = Held {
            namespace: received.webhook.namespace.clone(),
            uid: received.webhook.uid.clone(),
            size: record::size(&received.body),
        };
        match self.judge(&held) {
            Verdict::Admitted => {}
            Verdict::OverShare => return Ok(Err(JournalError::OverShare)),
            Verdict::Full => return Ok(Err(JournalError::Full)),
        }
        let seq = self.tally.last + 1;
        record::insert(&mut self.insert, seq, &received)?;
        let overtaken = self.keys.add(&Named {
            seq,
            key: received.key,
            occurrence: received.occurrence,
        });
        if let Some(seq) = overtaken {
            record::overtaken(self.connection, seq)?;
        }
        self.tally.last = seq;
        held.add_to(self.rooms.pending.held_mut());
        if self.options.sink {
            self.tally.depth.sink_pending += 1;
            self.tally.depth.sink_bytes += held.size;
        }
        self.fresh.push(entry(seq, received));
        Ok(Ok(Appended::New))
    }

    fn judge(&self, held: &Held) -> Verdict {
        self.rooms
            .pending
            .judge(&held.namespace, &held.uid, held.size)
    }

    fn settle(&mut self, key: &DeliveryKey, at: Timestamp) -> rusqlite::Result<()> {
        let kept_beyond = if self.options.sink {
            self.tally.cursor
        } else {
            i64::MAX
        };
        let Some(seq) = self.keys.find(key) else {
            return Ok(());
        };
        if let Some(held) = record::settle(self.connection, seq, at, kept_beyond)? {
            held.take_from(self.rooms.pending.held_mut());
            if seq > kept_beyond {
                held.add_to(&mut self.rooms.kept);
            }
            self.rooms.retries.end(seq, true, at);
            self.tally.keys += 1;
        }
        Ok(())
    }

    fn bury(&mut self, key: &DeliveryKey, cause: &Cause, at: Timestamp) -> rusqlite::Result<()> {
        let Some(seq) = self.keys.find(key) else {
            return Ok(());
        };
        if let Some((held, retry_at)) = dead::bury(self.connection, seq, cause, at)? {
            held.take_from(self.rooms.pending.held_mut());
            held.add_to(self.rooms.dead_mut(cause.kind));
            self.rooms.retries.end(seq, false, at);
            if let Some(retry_at) = retry_at {
                self.rooms.retries.refused(&held.uid, retry_at);
            }
        }
        Ok(())
    }

    /// The sink has taken everything up to `seq`, or has given it up.
    fn advance(&mut self, seq: i64) -> rusqlite::Result<()> {
        let seq = seq.min(self.tally.last);
        if seq <= self.tally.cursor {
            return Ok(());
        }
        if self.options.sink {
            let (rows, bytes) = record::count_whole(self.connection, self.tally.cursor, seq)?;
            self.tally.depth.sink_pending -= rows;
            self.tally.depth.sink_bytes -= bytes;
        }
        for (namespace, uid, amount) in record::kept(self.connection, self.tally.cursor, seq)? {
            self.rooms.kept.take(&namespace, &uid, amount);
        }
        record::strip(self.connection, self.tally.cursor, seq)?;
        cursor::set_sink(self.connection, seq)?;
        self.tally.cursor = seq;
        self.tally.held = false;
        Ok(())
    }

    fn keep_house(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        for kind in [DeadKind::Unreadable, DeadKind::Refused] {
            self.bound_dead(kind)?;
        }
        if self.options.sink {
            self.bound_sink()?;
        }
        if self.tally.replays.any && !self.tally.replays.cramped {
            self.replay(now)?;
        }
        if self.tally.retries {
            self.tally.retries = false;
            self.retry(now)?;
        }
        self.forget()
    }

    /// The oldest dead letters of the webhook that has most make room for the youngest.
    fn bound_dead(&mut self, kind: DeadKind) -> rusqlite::Result<()> {
        let limit = self.options.limits.dead(kind);
        // Those of which all that is left is to be tried again.
        let mut except = HashSet::new();
        while let Some((_, uid)) = largest(self.rooms.dead(kind), limit, &except) {
            let Some(evicted) = dead::evict(self.connection, kind, &uid)? else {
                except.insert(uid);
                continue;
            };
            self.keys.remove(&evicted.named);
            evicted.held.take_from(self.rooms.dead_mut(kind));
            match kind {
                DeadKind::Unreadable => self.tally.depth.evicted_unreadable += 1,
                DeadKind::Refused => self.tally.depth.evicted_refused += 1,
            }
            let webhook = format!("{}/{}", evicted.held.namespace, evicted.name);
            self.evicted.push((webhook, dead::word(kind)));
            if self.options.sink && evicted.named.seq > self.tally.cursor {
                self.missed(&evicted.held);
            }
        }
        Ok(())
    }

    /// The sink must not make the journal grow, nor turn deliveries away: of what it does not take in time it misses the
    /// oldest of the webhook that has most.
    fn bound_sink(&mut self) -> rusqlite::Result<()> {
        let limit = Amount {
            records: self.options.limits.max_records,
            bytes: self.options.limits.max_bytes,
        };
        let mut except = HashSet::new();
        while let Some((_, uid)) = largest(&self.rooms.kept, limit, &except) {
            let Some(held) = record::strip_oldest(self.connection, &uid)? else {
                except.insert(uid);
                continue;
            };
            held.take_from(&mut self.rooms.kept);
            self.tally.held = false;
            self.missed(&held);
        }
        Ok(())
    }

    /// The sink never gets this one.
    fn missed(&mut self, held: &Held) {
        self.tally.depth.sink_pending -= 1;
        self.tally.depth.sink_bytes -= held.size;
        self.tally.depth.sink_skipped += 1;
    }

    /// Takes up what a person wants to be tried again, as far as each webhook has room.
    fn replay(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        let after = self.tally.replays.place.unwrap_or((i64::MIN, i64::MIN));
        let marked = dead::marked(self.connection, after, SLICE)?;
        self.tally.replays.place = marked.last().map(|marked| marked.place);
        if marked.is_empty() {
            let left = self.tally.replays.left;
            self.tally.replays = Replays {
                any: left,
                cramped: left,
                ..Replays::default()
            };
            return Ok(());
        }
        for marked in marked {
            if self.judge(&marked.held) == Verdict::Admitted {
                self.take_up(marked.seq, &marked.held, marked.kind, By::Person, now)?;
            } else {
                self.tally.replays.left = true;
            }
        }
        Ok(())
    }

    /// Tries some of what the API server has refused again, as far as its time has come and its webhook has room.
    fn retry(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        let refused = self.rooms.dead(DeadKind::Refused).webhooks();
        let wanted: Vec<(String, _)> = refused
            .filter_map(|uid| Some((uid.to_owned(), self.rooms.retries.wanted(uid, now)?)))
            .collect();
        for (uid, wanted) in wanted {
            // Where all are marked by a person, or nothing has room.
            let mut until = next_try(1, now);
            let mut taken = false;
            for (seq, held, at) in dead::due(self.connection, &uid, wanted.most)? {
                if !(wanted.early || is_due(at, now)) {
                    until = at;
                    break;
                }
                if self.judge(&held) != Verdict::Admitted {
                    break;
                }
                taken = true;
                if self.take_up(seq, &held, DeadKind::Refused, By::Time, now)? {
                    self.rooms.retries.begin(&uid, seq);
                }
            }
            if !taken {
                self.rooms.retries.wait(&uid, until);
            }
        }
        Ok(())
    }

    /// Makes a dead letter pending, unless it is a copy. Returns whether it is pending.
    fn take_up(
        &mut self,
        seq: i64,
        held: &Held,
        kind: DeadKind,
        by: By,
        now: Timestamp,
    ) -> rusqlite::Result<bool> {
        let strip = !self.options.sink || seq <= self.tally.cursor;
        let taken = dead::take_up(self.connection, self.keys, seq, by, now, strip)?;
        if taken.is_some() {
            held.take_from(self.rooms.dead_mut(kind));
        }
        match taken {
            Some(Replayed::Pending(received)) => {
                held.add_to(self.rooms.pending.held_mut());
                let delivery = received.key.short();
                let mut entry = entry(seq, *received);
                // It waits from now on; and what is tried by itself comes after everything that has just arrived.
                entry.received_at = now;
                match by {
                    By::Person => tracing::info!(delivery, "a dead letter is tried again"),
                    By::Time => {
                        entry.waiting.class = Class::Other;
                        tracing::debug!(delivery, "a refused delivery is tried again");
                    }
                }
                self.fresh.push(entry);
                Ok(true)
            }
            Some(Replayed::Copy) => {
                if !strip {
                    held.add_to(&mut self.rooms.kept);
                }
                self.tally.keys += 1;
                tracing::info!(
                    seq,
                    "a dead letter is not tried again: its occurrence is known"
                );
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// Forgets some keys that are old, or that are too many.
    fn forget(&mut self) -> rusqlite::Result<()> {
        // A commit can publish no more than it has commands: what is beyond the bound does not pile up.
        let beyond = self.tally.keys - self.options.limits.max_keys;
        let mut gone = 0;
        if beyond > 0 && !self.tally.held {
            let most = beyond.min(MOST);
            gone += self.forget_before(Timestamp::MAX, most)?;
            self.tally.held = gone < most;
        }
        if let Some(before) = self.tally.forget {
            gone += self.forget_before(before, SLICE)?;
            if gone == 0 {
                self.tally.forget = None;
            }
        }
        Ok(())
    }

    fn forget_before(&mut self, before: Timestamp, most: i64) -> rusqlite::Result<i64> {
        let (keys, taken) = (&mut *self.keys, self.options.sink);
        let gone = record::forget_published(self.connection, before, taken, most, |named| {
            keys.remove(named);
        })?;
        self.tally.keys -= gone;
        Ok(gone)
    }
}

/// The webhook that has most of what is beyond its limit, if something is.
fn largest(
    holdings: &Holdings,
    limit: Amount,
    except: &HashSet<String>,
) -> Option<(String, String)> {
    let total = holdings.total();
    let measure = if total.records > limit.records {
        Measure::Records
    } else if total.bytes > limit.bytes {
        Measure::Bytes
    } else {
        return None;
    };
    holdings.most(measure, except)
}

/// Since when a published key must not be forgotten.
#[must_use]
pub fn remembered_since(now: Timestamp) -> Timestamp {
    let memory = SignedDuration::try_from(MEMORY).unwrap_or(SignedDuration::MAX);
    now.checked_sub(memory).unwrap_or(Timestamp::MIN)
}

fn entry(seq: i64, received: Received) -> Entry {
    Entry {
        waiting: Waiting {
            seq,
            class: received.class,
            namespace: received.webhook.namespace,
            uid: received.webhook.uid,
        },
        key: received.key,
        received_at: received.received_at,
        durable_at: None,
    }
}
