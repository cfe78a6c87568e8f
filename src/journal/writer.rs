//! The one thread that writes: it commits together whatever has gathered, and answers only after the commit.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::record::{self, DEAD, PENDING};
use super::{Appended, Counts, Depth, Entry, JournalError, Limits, MEMORY, OpenError};
use crate::delivery::pacing::Waiting;
use crate::delivery::{DeliveryKey, Received};

/// The most commands in one commit, so that the first of them does not wait for ever.
const TOGETHER: usize = 512;

type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

/// What the writer can be asked for.
#[derive(Debug)]
pub enum Command {
    /// Write a delivery.
    Append(Box<Received>, Reply<Appended>),
    /// It was published.
    Settle(DeliveryKey, Timestamp, Reply<()>),
    /// It is a dead letter.
    Bury(DeliveryKey, String, Timestamp, Reply<()>),
    /// Forget what is old.
    Sweep(Timestamp, Reply<usize>),
    /// Commit what came before and end.
    Close(Reply<()>),
}

/// What is said after the commit. A reply whose asker is gone is dropped.
enum Answer {
    Append(Reply<Appended>, Result<Appended, JournalError>),
    Done(Reply<()>),
    Swept(Reply<usize>, usize),
}

impl Answer {
    fn send(self, failed: Option<&JournalError>) {
        match (self, failed) {
            (Answer::Append(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Answer::Append(reply, result), None) => drop(reply.send(result)),
            (Answer::Done(reply), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Answer::Done(reply), None) => drop(reply.send(Ok(()))),
            (Answer::Swept(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Answer::Swept(reply, count), None) => drop(reply.send(Ok(count))),
        }
    }
}

struct Writer {
    connection: Connection,
    limits: Limits,
    depth: Depth,
    counts: Arc<Counts>,
    feed: mpsc::UnboundedSender<Entry>,
}

/// Starts the thread. It ends after [`Command::Close`], or when nobody is left to ask.
///
/// # Errors
/// [`OpenError`] when what is there cannot be read, or no thread can be had.
pub(super) fn start(
    connection: Connection,
    lock: File,
    limits: Limits,
    counts: Arc<Counts>,
    inbox: mpsc::Receiver<Command>,
    feed: mpsc::UnboundedSender<Entry>,
) -> Result<(), OpenError> {
    let unreadable = |source| OpenError::Database {
        dir: connection.path().unwrap_or_default().into(),
        source,
    };
    let (pending, bytes) = record::count(&connection, PENDING).map_err(unreadable)?;
    let (dead, _) = record::count(&connection, DEAD).map_err(unreadable)?;
    record::pending(&connection, |entry| {
        // The receiver was made a moment ago and is not gone.
        let _ = feed.send(entry);
    })
    .map_err(unreadable)?;
    let mut writer = Writer {
        connection,
        limits,
        depth: Depth {
            pending,
            bytes,
            dead,
        },
        counts,
        feed,
    };
    writer.show();
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || {
            writer.run(inbox);
            // The file is closed before the lock goes, so that the next holder finds it at rest.
            drop(writer);
            drop(lock);
        })
        .map_err(OpenError::Thread)?;
    Ok(())
}

impl Writer {
    fn run(&mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(first) = inbox.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < TOGETHER {
                match inbox.try_recv() {
                    Ok(next) => batch.push(next),
                    Err(_) => break,
                }
            }
            let mut closing = Vec::new();
            let mut rest = Vec::with_capacity(batch.len());
            for command in batch {
                match command {
                    Command::Close(reply) => closing.push(reply),
                    other => rest.push(other),
                }
            }
            if !closing.is_empty() {
                inbox.close();
            }
            self.commit(rest);
            if !closing.is_empty() {
                while let Some(command) = inbox.blocking_recv() {
                    match command {
                        Command::Close(reply) => closing.push(reply),
                        other => self.commit(vec![other]),
                    }
                }
                for reply in closing {
                    let _ = reply.send(Ok(()));
                }
                return;
            }
        }
    }

    /// Everything or nothing of a batch.
    fn commit(&mut self, batch: Vec<Command>) {
        if batch.is_empty() {
            return;
        }
        let mut answers = Vec::with_capacity(batch.len());
        let mut fresh = Vec::new();
        let mut depth = self.depth;
        let outcome = self.write(batch, &mut depth, &mut answers, &mut fresh);
        let failed = outcome.err().map(|error| {
            tracing::error!(%error, waiting = answers.len(), "the journal cannot be written");
            JournalError::Io(error.to_string())
        });
        if failed.is_none() {
            self.depth = depth;
            self.show();
            for entry in fresh {
                // Nobody publishes any more: the next process will read it from the file.
                let _ = self.feed.send(entry);
            }
        }
        for answer in answers {
            answer.send(failed.as_ref());
        }
    }

    /// Runs the batch in one transaction. After an error the rest is not tried, but every asker gets an answer.
    fn write(
        &mut self,
        batch: Vec<Command>,
        depth: &mut Depth,
        answers: &mut Vec<Answer>,
        fresh: &mut Vec<Entry>,
    ) -> rusqlite::Result<()> {
        let begun = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let (transaction, mut outcome) = match begun {
            Ok(transaction) => (Some(transaction), Ok(())),
            Err(error) => (None, Err(error)),
        };
        for command in batch {
            let connection = transaction.as_deref().filter(|_| outcome.is_ok());
            let done = match command {
                Command::Append(received, reply) => {
                    let result = connection
                        .map(|c| append(c, &received, self.limits, depth, fresh))
                        .transpose();
                    let (result, done) = split(result, Ok(Appended::Known));
                    answers.push(Answer::Append(reply, result));
                    done
                }
                Command::Settle(key, at, reply) => {
                    let result = connection.map(|c| record::settle(c, &key, at)).transpose();
                    let (size, done) = split(result, None);
                    if let Some(size) = size {
                        depth.pending -= 1;
                        depth.bytes -= size;
                    }
                    answers.push(Answer::Done(reply));
                    done
                }
                Command::Bury(key, reason, at, reply) => {
                    let result = connection
                        .map(|c| record::bury(c, &key, &reason, at))
                        .transpose();
                    let (size, done) = split(result, None);
                    if let Some(size) = size {
                        depth.pending -= 1;
                        depth.bytes -= size;
                        depth.dead += 1;
                    }
                    answers.push(Answer::Done(reply));
                    done
                }
                Command::Sweep(now, reply) => {
                    let result = connection
                        .map(|c| sweep(c, now, self.limits, depth))
                        .transpose();
                    let (gone, done) = split(result, 0);
                    answers.push(Answer::Swept(reply, gone));
                    done
                }
                Command::Close(reply) => {
                    answers.push(Answer::Done(reply));
                    Ok(())
                }
            };
            if outcome.is_ok() {
                outcome = done;
            }
        }
        outcome?;
        transaction.map_or(Ok(()), rusqlite::Transaction::commit)
    }

    fn show(&mut self) {
        let Depth {
            pending,
            bytes,
            dead,
        } = self.depth;
        self.counts.pending.store(pending, Ordering::Relaxed);
        self.counts.bytes.store(bytes, Ordering::Relaxed);
        self.counts.dead.store(dead, Ordering::Relaxed);
    }
}

/// The value to go on with, and the error that ends the batch. `None` was not tried since another one failed.
fn split<T>(result: rusqlite::Result<Option<T>>, otherwise: T) -> (T, rusqlite::Result<()>) {
    match result {
        Ok(Some(value)) => (value, Ok(())),
        Ok(None) => (otherwise, Ok(())),
        Err(error) => (otherwise, Err(error)),
    }
}

fn append(
    connection: &Connection,
    received: &Received,
    limits: Limits,
    depth: &mut Depth,
    fresh: &mut Vec<Entry>,
) -> rusqlite::Result<Result<Appended, JournalError>> {
    let size = i64::try_from(received.body.len()).unwrap_or(i64::MAX);
    let full =
        depth.pending >= limits.max_records || depth.bytes.saturating_add(size) > limits.max_bytes;
    if full {
        // A copy of what is on disk may still be acknowledged: it costs no room.
        return Ok(if record::is_known(connection, received)? {
            Ok(Appended::Known)
        } else {
            Err(JournalError::Full)
        });
    }
    let Some(seq) = record::insert(connection, received)? else {
        return Ok(Ok(Appended::Known));
    };
    depth.pending += 1;
    depth.bytes += size;
    fresh.push(Entry {
        waiting: Waiting {
            seq,
            class: received.class,
            namespace: received.webhook.namespace.clone(),
            uid: received.webhook.uid.clone(),
        },
        key: received.key,
        received_at: received.received_at,
    });
    Ok(Ok(Appended::New))
}

fn sweep(
    connection: &Connection,
    now: Timestamp,
    limits: Limits,
    depth: &mut Depth,
) -> rusqlite::Result<usize> {
    let memory = SignedDuration::try_from(MEMORY).unwrap_or(SignedDuration::MAX);
    let before = now.checked_sub(memory).unwrap_or(Timestamp::MIN);
    record::forget_published(connection, before)?;
    let gone = record::forget_dead(connection, limits.max_dead)?;
    depth.dead -= i64::try_from(gone).unwrap_or(0);
    Ok(gone)
}
