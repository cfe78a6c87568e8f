//! From the journal to the Event: journal, pace, create, settled.
//!
//! A delivery leaves the queue only when its Event is known to be there, or when it is certain that it never can
//! be. A crash between the two acts is harmless: the name of the Event is made from the delivery, so the second
//! attempt is told that it exists already. For the same reason nobody waits for the journal to note that an Event is
//! there: the next one is created meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt::{About, Attempt, attempt};
use super::metrics::Metrics;
use super::status::Reports;
use crate::cluster::ClusterError;
use crate::cluster::events::Created;
use crate::delivery::aside::Aside;
use crate::delivery::pacing::{Next, Pace, Queue};
use crate::delivery::patience::{Patience, Trouble, Verdict};
use crate::delivery::waitlist::Waitlist;
use crate::delivery::{Class, DeliveryKey, retry};
use crate::journal::{self, Cause, Entry, Feed, Journal, JournalError};

/// Events that are being created at the same time, if nothing else is said.
pub const AT_ONCE: usize = 8;
/// Events that may be there while the journal does not know it yet; after a crash, so many are tried once more.
const UNSETTLED: usize = 256;
/// How often it is looked at how things stand.
const TICK: Duration = Duration::from_secs(1);
/// How often old keys are forgotten.
const SWEEP: Duration = Duration::from_secs(60);
/// How long what is under way may take when the time to end has come.
const LAST: Duration = Duration::from_secs(1);
/// The pause before the journal is asked once more to note something; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST: Duration = Duration::from_secs(5);

/// What the publisher works with.
pub struct Publisher {
    /// Where deliveries are.
    pub journal: Journal,
    /// What is pending, and what becomes pending.
    pub feed: Feed,
    /// Where Events go.
    pub client: Client,
    /// How fast.
    pub pace: Pace,
    /// How many Events are created at the same time.
    pub at_once: usize,
    /// The name of this pod.
    pub instance: String,
    /// What is counted.
    pub metrics: Metrics,
    /// Where users see what waits for too long.
    pub reports: Reports,
    /// Rung for each new dead letter.
    pub dead_letters: Arc<Notify>,
    /// How long to go on after the end was asked for while something is pending: a pod's disk may go with it.
    pub last: Duration,
}

/// The note that the journal is to make of a delivery, until it has made it.
type Note = BoxFuture<'static, Noted>;

/// A note that was made, or that nobody can make any more.
#[derive(Clone, Copy)]
struct Noted {
    seq: i64,
    key: DeliveryKey,
    dead: bool,
}

/// All that is known of what waits.
struct State {
    queue: Queue,
    /// Everything that the journal does not know to be published, by number.
    entries: HashMap<i64, Arc<Entry>>,
    waitlist: Waitlist,
    patience: Patience,
    aside: Aside,
    notes: FuturesUnordered<Note>,
}

impl Publisher {
    /// Publishes until `end` is cancelled and nothing is pending, or the time for that is over.
    pub async fn run(mut self, end: CancellationToken) {
        let start = Instant::now();
        let instance: Arc<str> = self.instance.as_str().into();
        let mut state = State {
            queue: Queue::new(self.pace),
            entries: HashMap::new(),
            waitlist: Waitlist::default(),
            patience: Patience::new(self.at_once),
            aside: Aside::default(),
            notes: FuturesUnordered::new(),
        };
        let mut attempts = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = Duration::ZERO;
        let mut fed = Vec::new();
        let mut open = true;
        let mut ending: Option<Instant> = None;
        loop {
            let now = start.elapsed();
            if ending.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            for waiting in state.aside.due(now) {
                state.queue.push(&waiting);
            }
            let mut wake = None;
            while attempts.len() < state.patience.width() && state.notes.len() < UNSETTLED {
                let paused_until = state.patience.paused_until();
                if paused_until > now {
                    wake = Some(paused_until);
                    break;
                }
                match state.queue.next(now) {
                    Next::Take(waiting) => {
                        let entry = state.entries.get(&waiting.seq);
                        if let Some(entry) = entry.filter(|entry| entry.waiting == waiting) {
                            attempts.push(attempt(
                                self.journal.clone(),
                                self.client.clone(),
                                Arc::clone(&instance),
                                Arc::clone(entry),
                            ));
                        }
                    }
                    Next::At(at) => {
                        wake = Some(at);
                        break;
                    }
                    Next::Idle => break,
                }
            }
            if ending.is_some() && attempts.is_empty() && state.entries.is_empty() {
                break;
            }
            tokio::select! {
                count = self.feed.recv_many(&mut fed, 256), if open => {
                    open = count > 0;
                    fed.drain(..).for_each(|entry| state.take_in(entry));
                }
                Some((entry, attempt)) = attempts.next(), if !attempts.is_empty() => {
                    self.conclude(&mut state, &entry, attempt, start.elapsed());
                }
                Some(noted) = state.notes.next(), if !state.notes.is_empty() => {
                    self.noted(&mut state, noted);
                }
                () = sleep_until(earlier(wake, state.aside.next_at()).map(|at| start + at)) => {}
                () = sleep_until(ending), if ending.is_some() => {}
                _ = tick.tick() => {
                    self.show(&state);
                    if start.elapsed() >= swept + SWEEP {
                        swept = start.elapsed();
                        state.queue.tidy(swept);
                        self.sweep().await;
                    }
                }
                () = end.cancelled(), if ending.is_none() => {
                    ending = Some(Instant::now() + self.last);
                }
            }
        }
        let rest = async {
            while let Some((entry, attempt)) = attempts.next().await {
                self.conclude(&mut state, &entry, attempt, start.elapsed());
            }
            while let Some(noted) = state.notes.next().await {
                self.noted(&mut state, noted);
            }
        };
        // In time or not: what is not noted is published again under the same name.
        let _ = tokio::time::timeout(LAST, rest).await;
        self.show(&state);
        if !state.entries.is_empty() {
            tracing::warn!(
                pending = state.entries.len(),
                "ending with deliveries in the journal; the next start goes on with them"
            );
        }
    }

    /// Draws the conclusion from one attempt.
    fn conclude(&self, state: &mut State, entry: &Entry, attempt: Attempt, now: Duration) {
        match attempt {
            Attempt::Published(about, created) => {
                let outcome = match created {
                    Created::New => "created",
                    Created::AlreadyThere => "already_there",
                };
                self.metrics.event(outcome);
                let outcome = match created {
                    Created::New => "published",
                    Created::AlreadyThere => "already_there",
                };
                tell(entry, &about, outcome, None);
                let age = Timestamp::now().duration_since(entry.received_at);
                let seconds = age.as_secs_f64().max(0.0);
                self.metrics.publish_seconds.observe(seconds);
                Self::works_again(state, entry);
                state.publish(entry);
                state.notes.push(Box::pin(settle(
                    self.journal.clone(),
                    entry.waiting.seq,
                    entry.key,
                )));
            }
            Attempt::Dead(about, cause) => {
                self.metrics.event("buried");
                tell(entry, &about, "dead_letter", Some(&cause.reason));
                state.patience.forget(&entry.waiting.namespace);
                state.queue.release(&entry.waiting.namespace);
                state.publish(entry);
                state.notes.push(Box::pin(bury(
                    self.journal.clone(),
                    entry.waiting.seq,
                    entry.key,
                    cause,
                )));
            }
            Attempt::Gone => {
                state.queue.release(&entry.waiting.namespace);
                state.publish(entry);
                state.forget(entry.waiting.seq, entry.key);
            }
            Attempt::Refused(error) => {
                let trouble = trouble(&error);
                self.metrics.event(match trouble {
                    Trouble::Namespace => "held",
                    Trouble::Throttled(_) => "throttled",
                    Trouble::Everywhere => "failed",
                });
                Self::put_back(state, entry, trouble, &error, now);
            }
            Attempt::Unread(error) => {
                self.metrics.event("failed");
                Self::put_back(state, entry, Trouble::Everywhere, &error, now);
            }
        }
    }

    fn works_again(state: &mut State, entry: &Entry) {
        let namespace = &entry.waiting.namespace;
        let recovered = state.patience.succeeded(namespace);
        state.queue.release(namespace);
        for waiting in state.aside.call_back() {
            state.queue.push(&waiting);
        }
        if recovered.all {
            let pending = state.entries.len();
            tracing::info!(pending, "publishing again");
        }
        if recovered.namespace {
            tracing::info!(namespace, "publishing again in this namespace");
        }
    }

    fn put_back(
        state: &mut State,
        entry: &Entry,
        trouble: Trouble,
        error: &dyn std::fmt::Display,
        now: Duration,
    ) {
        let namespace = &entry.waiting.namespace;
        let pending = state.entries.len();
        let next = match state.patience.failed(trouble, namespace, now) {
            Verdict::Hold { first, until } => {
                if first {
                    tracing::warn!(
                        namespace,
                        %error,
                        "no Event can be made in this namespace; its deliveries wait in the journal"
                    );
                }
                state.queue.hold(namespace, until);
                until
            }
            Verdict::Pause { first } => {
                if first {
                    tracing::warn!(
                        %error,
                        pending,
                        "no Event can be made; deliveries wait in the journal"
                    );
                }
                state.queue.release(namespace);
                state.patience.paused_until()
            }
        };
        if let Some(waiting) = state.aside.refused(entry.waiting.clone(), next) {
            state.queue.push(&waiting);
        }
    }

    fn noted(&self, state: &mut State, noted: Noted) {
        state.forget(noted.seq, noted.key);
        if noted.dead {
            self.dead_letters.notify_one();
        }
    }

    fn show(&self, state: &State) {
        let depth = self.journal.depth();
        self.metrics.journal_pending.set(depth.pending);
        self.metrics.journal_bytes.set(depth.bytes);
        self.metrics.journal_dead.set(depth.dead);
        self.metrics.journal_dead_bytes.set(depth.dead_bytes);
        self.metrics.journal_refused.set(depth.refused);
        self.metrics.evicted("unreadable", depth.evicted_unreadable);
        self.metrics.evicted("refused", depth.evicted_refused);
        self.metrics.journal_quarantined.set(depth.quarantined);
        self.metrics.journal_max_records.set(depth.max_records);
        self.metrics.journal_max_bytes.set(depth.max_bytes);
        let now = Timestamp::now();
        let age = |since: Timestamp| now.duration_since(since).as_secs().max(0);
        let mut oldest = 0;
        for class in Class::ALL {
            let count = i64::try_from(state.waitlist.count(class)).unwrap_or(i64::MAX);
            let seconds = state.waitlist.oldest(class).map_or(0, age);
            self.metrics.waiting(class, count, seconds);
            oldest = oldest.max(seconds);
        }
        self.metrics.journal_oldest_seconds.set(oldest);
        let delayed = state.waitlist.delayed(now);
        let count = i64::try_from(delayed.len()).unwrap_or(i64::MAX);
        self.metrics.delayed_webhooks.set(count);
        // Before the journal is open, nobody knows what waits.
        if *self.journal.state().borrow() == journal::State::Open {
            self.reports.delayed(delayed);
        }
    }

    async fn sweep(&self) {
        if let Err(error) = self.journal.sweep(Timestamp::now()).await {
            tracing::warn!(%error, "old keys cannot be forgotten");
        }
    }
}

impl State {
    /// A delivery waits. One that is named again waits already, or is on its way; and where the journal had to begin
    /// anew, a number may now be another delivery's.
    fn take_in(&mut self, entry: Entry) {
        let seq = entry.waiting.seq;
        if let Some(known) = self.entries.get(&seq) {
            if known.key == entry.key {
                return;
            }
            self.waitlist.remove(&known.waiting, known.received_at);
        }
        self.queue.push(&entry.waiting);
        self.waitlist.insert(&entry.waiting, entry.received_at);
        self.entries.insert(seq, Arc::new(entry));
    }

    /// The journal knows what became of it.
    fn forget(&mut self, seq: i64, key: DeliveryKey) {
        if self.entries.get(&seq).is_some_and(|entry| entry.key == key) {
            self.entries.remove(&seq);
        }
    }

    /// It waits no longer, whether the journal knows or not.
    fn publish(&mut self, entry: &Entry) {
        self.aside.done(entry.waiting.seq);
        self.waitlist.remove(&entry.waiting, entry.received_at);
    }
}

/// The earlier of two times, where there are any.
fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// What an error of the API server means for what comes next.
pub(super) fn trouble(error: &ClusterError) -> Trouble {
    match error {
        ClusterError::Forbidden(_) | ClusterError::Terminating(_) => Trouble::Namespace,
        ClusterError::Throttled { retry_after } => Trouble::Throttled(*retry_after),
        ClusterError::NotFound(_)
        | ClusterError::NamespaceGone(_)
        | ClusterError::AlreadyExists(_)
        | ClusterError::Conflict(_)
        | ClusterError::Unauthorized(_)
        | ClusterError::Invalid(_)
        | ClusterError::Deadline(_)
        | ClusterError::Unavailable(_) => Trouble::Everywhere,
    }
}

/// The one line of the log about what became of a delivery. Nothing of the body but the event's name is in it.
fn tell(entry: &Entry, about: &About, outcome: &'static str, why: Option<&str>) {
    let About {
        webhook,
        event,
        key_id,
        place,
    } = about;
    let (place, delivery) = (place.as_str(), entry.key.short());
    let since = |at: Timestamp| {
        let age = at.duration_since(entry.received_at);
        u64::try_from(age.as_millis()).unwrap_or(0)
    };
    // Only the process that wrote it knows when it was on disk.
    let durable_ms = entry.durable_at.map(since);
    let published_ms = since(Timestamp::now());
    match why {
        None => tracing::info!(
            webhook,
            event,
            delivery,
            key_id,
            place,
            durable_ms,
            published_ms,
            outcome,
            "delivery"
        ),
        Some(why) => tracing::warn!(
            webhook,
            event,
            delivery,
            key_id,
            place,
            durable_ms,
            published_ms,
            outcome,
            why,
            "delivery"
        ),
    }
}

/// Notes that an Event is there, however long that takes.
async fn settle(journal: Journal, seq: i64, key: DeliveryKey) -> Noted {
    note(seq, key, false, || journal.settle(key, Timestamp::now())).await
}

/// Notes that a delivery is a dead letter, however long that takes.
async fn bury(journal: Journal, seq: i64, key: DeliveryKey, cause: Cause) -> Noted {
    note(seq, key, true, || {
        journal.bury(key, cause.clone(), Timestamp::now())
    })
    .await
}

/// The journal says itself, where it fails, that it does.
async fn note<F>(seq: i64, key: DeliveryKey, dead: bool, mut write: impl FnMut() -> F) -> Noted
where
    F: Future<Output = Result<(), JournalError>>,
{
    let mut failures = 0;
    loop {
        match write().await {
            Ok(()) => return Noted { seq, key, dead },
            // The next process will find that the Event is there.
            Err(JournalError::Closed) => {
                return Noted {
                    seq,
                    key,
                    dead: false,
                };
            }
            Err(JournalError::Full | JournalError::OverShare | JournalError::Io(_)) => {}
        }
        tokio::time::sleep(retry::pause(failures, FIRST, LONGEST)).await;
        failures = failures.saturating_add(1);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_concerns_one_namespace_or_everything() {
        let why = || "why".to_owned();
        let wait = Some(Duration::from_secs(3));
        for (error, expected) in [
            (ClusterError::Forbidden(why()), Trouble::Namespace),
            (ClusterError::Terminating(why()), Trouble::Namespace),
            (
                ClusterError::Throttled { retry_after: wait },
                Trouble::Throttled(wait),
            ),
            // A wrong proxy, or a kind that is not served: nothing that was sent is to blame.
            (ClusterError::NotFound(why()), Trouble::Everywhere),
            (ClusterError::Unauthorized(why()), Trouble::Everywhere),
            (ClusterError::Conflict(why()), Trouble::Everywhere),
            (
                ClusterError::Deadline(Duration::from_secs(1)),
                Trouble::Everywhere,
            ),
        ] {
            assert_eq!(trouble(&error), expected, "{error}");
        }
    }
}
