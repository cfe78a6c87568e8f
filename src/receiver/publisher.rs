//! From the journal to the Event: journal, pace, create, settled.
//!
//! A delivery leaves the queue only when its Event is known to be there, or when it is certain that it never can
//! be. A crash between the two acts is harmless: the name of the Event is made from the delivery, so the second
//! attempt is told that it exists already. For the same reason nobody waits for the journal to note that an Event is
//! there: the next one is created meanwhile.
//!
//! From the signal to end on there is no pace, and ever more attempts are under way, for as long as the API server takes
//! them. What is left after that is told by an Event on its webhook.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
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
use crate::cluster::events::{self, Created};
use crate::delivery::aside::Aside;
use crate::delivery::delay::Delayed;
use crate::delivery::event::{self, Left};
use crate::delivery::health::{Fault, Health};
use crate::delivery::pacing::{Next, Pace, Queue, Waiting};
use crate::delivery::slots::Slots;
use crate::delivery::waitlist::Waitlist;
use crate::delivery::{Class, DeliveryKey, retry};
use crate::journal::{self, Entry, Feed, Journal, JournalError};
use crate::resources::foreign::plain;

/// Events that are being created at the same time in namespaces that are well, if nothing else is said.
pub const AT_ONCE: usize = 64;
/// The same in one namespace while the process ends; before that it is fewer.
const AT_ONCE_ENDING: usize = 64;
/// Events that may be there while the journal does not know it yet; after a crash, so many are tried once more.
const UNSETTLED: usize = 256;
/// How often it is looked at how things stand.
const TICK: Duration = Duration::from_secs(1);
/// How often old keys are forgotten.
const SWEEP: Duration = Duration::from_secs(60);
/// How long what is under way may take when the time to end has come.
const LAST: Duration = Duration::from_secs(1);
/// How long the Events about what is left may take.
const TELL_LEFT: Duration = Duration::from_secs(2);
/// The most webhooks that are told of what is left.
const MAX_TOLD_LEFT: usize = 256;
/// The most bytes of what the API server answered, in a log line, a status or a condition.
const MAX_CAUSE_BYTES: usize = 400;
/// The least time between two lines of the log about single deliveries that are refused in one namespace.
const EVERY_REFUSAL: Duration = Duration::from_secs(60);
/// The least time between two lines of the log that say that a namespace is held.
const EVERY_HOLD: Duration = Duration::from_secs(10);
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
    /// How many Events are created at the same time in namespaces that are well.
    pub at_once: usize,
    /// The directory of the journal, as it is told where deliveries are left in it.
    pub place: String,
    /// Cancelled when the process is asked to end: the pace is lifted from then on.
    pub leaving: CancellationToken,
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
    /// How many wait in each namespace.
    namespaces: HashMap<String, usize>,
    health: Health,
    slots: Slots,
    aside: Aside,
    /// What the API server answers in the namespaces that are held.
    causes: HashMap<String, Cause>,
    /// When something was last logged about a namespace.
    logged: HashMap<(&'static str, String), Duration>,
    /// How often the journal could not be read in a row, and until when it is not asked.
    unread: (u32, Duration),
    notes: FuturesUnordered<Note>,
}

/// What the API server answers in a namespace.
struct Cause {
    answer: &'static str,
    text: Arc<str>,
    /// Whether the log says so, and is to say when it is over.
    is_logged: bool,
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
            namespaces: HashMap::new(),
            health: Health::new(self.at_once),
            slots: Slots::default(),
            aside: Aside::default(),
            causes: HashMap::new(),
            logged: HashMap::new(),
            unread: (0, Duration::ZERO),
            notes: FuturesUnordered::new(),
        };
        let mut attempts = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = Duration::ZERO;
        let mut fed = Vec::new();
        let mut open = true;
        let mut hastened = false;
        let mut ending: Option<Instant> = None;
        loop {
            let now = start.elapsed();
            if ending.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let mut wake = None;
            while let Some(entry) = state.take(now, &mut wake) {
                let namespace = &entry.waiting.namespace;
                let is_sick = state.queue.is_sick(namespace);
                let deadline = state.health.deadline(namespace);
                let ticket = state.slots.begin(namespace, is_sick, now);
                state.health.begun(is_sick, now);
                let (journal, client) = (self.journal.clone(), self.client.clone());
                let attempt = attempt(journal, client, Arc::clone(&instance), entry, deadline);
                attempts.push(async move { (ticket, attempt.await) });
            }
            if ending.is_some() && attempts.is_empty() && state.entries.is_empty() {
                break;
            }
            tokio::select! {
                count = self.feed.recv_many(&mut fed, 256), if open => {
                    open = count > 0;
                    fed.drain(..).for_each(|entry| state.take_in(entry));
                }
                Some((ticket, (entry, attempt))) = attempts.next(), if !attempts.is_empty() => {
                    let now = start.elapsed();
                    let took = state.slots.end(ticket, now);
                    self.conclude(&mut state, &entry, attempt, took, now);
                    state.queue.landed(&entry.waiting.namespace);
                }
                Some(noted) = state.notes.next(), if !state.notes.is_empty() => {
                    self.noted(&mut state, noted);
                }
                () = sleep_until(wake.map(|at| start + at)) => {}
                () = sleep_until(ending), if ending.is_some() => {}
                _ = tick.tick() => {
                    self.show(&state);
                    if start.elapsed() >= swept + SWEEP {
                        swept = start.elapsed();
                        state.queue.tidy(swept);
                        state.logged.retain(|_, at| *at + EVERY_REFUSAL > swept);
                        self.sweep().await;
                    }
                }
                () = self.leaving.cancelled(), if !hastened => {
                    hastened = true;
                    state.hasten(start.elapsed());
                }
                () = end.cancelled(), if ending.is_none() => {
                    ending = Some(Instant::now() + self.last);
                }
            }
        }
        let rest = async {
            while let Some((ticket, (entry, attempt))) = attempts.next().await {
                let now = start.elapsed();
                let took = state.slots.end(ticket, now);
                self.conclude(&mut state, &entry, attempt, took, now);
            }
            while let Some(noted) = state.notes.next().await {
                self.noted(&mut state, noted);
            }
        };
        // In time or not: what is not noted is published again under the same name.
        let _ = tokio::time::timeout(LAST, rest).await;
        self.show(&state);
        let left = state.waitlist.left().collect();
        drop(state);
        self.tell_left(left).await;
    }

    /// Tells of what waits when the process ends: in the log, and by an Event on each webhook.
    async fn tell_left(&self, left: Vec<(usize, i64)>) {
        let all: usize = left.iter().map(|(count, _)| count).sum();
        if all == 0 {
            return;
        }
        let (place, webhooks) = (&self.place, left.len());
        tracing::warn!(
            left = all,
            webhooks,
            journal = place,
            "ending with acknowledged deliveries that are not published; a receiver that starts with this journal goes on with them"
        );
        let tell = futures::stream::iter(left.into_iter().take(MAX_TOLD_LEFT));
        let tell = tell.for_each_concurrent(None, |(count, seq)| async move {
            let Ok(Some(received)) = self.journal.load(seq).await else {
                return;
            };
            let webhook = format!("{}/{}", received.webhook.namespace, received.webhook.name);
            let left = Left {
                received: &received,
                count,
                place,
            };
            let event = event::of_left(&left, &self.instance, Timestamp::now());
            match events::create(&self.client, &event, TELL_LEFT).await {
                Ok(_) => tracing::warn!(webhook, count, "deliveries are left; its Event says so"),
                Err(error) => tracing::warn!(webhook, count, %error, "deliveries are left, and no Event can say so"),
            }
        });
        if tokio::time::timeout(TELL_LEFT, tell).await.is_err() {
            tracing::warn!("not every webhook could be told of what is left");
        }
    }

    /// Draws the conclusion from one attempt.
    fn conclude(
        &self,
        state: &mut State,
        entry: &Arc<Entry>,
        attempt: Attempt,
        took: Duration,
        now: Duration,
    ) {
        if !matches!(attempt, Attempt::Unread(_)) {
            state.unread = (0, Duration::ZERO);
        }
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
                self.works(state, &entry.waiting, took, now);
                self.publish(state, entry);
                state.notes.push(Box::pin(settle(
                    self.journal.clone(),
                    entry.waiting.seq,
                    entry.key,
                )));
            }
            Attempt::Dead(about, cause) => {
                self.metrics.event("buried");
                tell(entry, &about, "dead_letter", Some(&cause.reason));
                self.publish(state, entry);
                state.notes.push(Box::pin(bury(
                    self.journal.clone(),
                    entry.waiting.seq,
                    entry.key,
                    cause,
                )));
            }
            Attempt::Gone => {
                self.publish(state, entry);
                state.forget(entry.waiting.seq, entry.key);
            }
            Attempt::Refused(error) => self.refused(state, &entry.waiting, &error, now),
            Attempt::Unread(error) => {
                self.metrics.event("failed");
                let (failures, until) = state.unread;
                if until <= now {
                    state.unread = (
                        failures.saturating_add(1),
                        now + retry::pause(failures, FIRST, LONGEST),
                    );
                }
                if failures == 0 {
                    tracing::warn!(%error, "the journal cannot be read; nothing is published meanwhile");
                }
                state.queue.push(&entry.waiting);
            }
        }
    }

    fn works(&self, state: &mut State, waiting: &Waiting, took: Duration, now: Duration) {
        let namespace = &waiting.namespace;
        let is_fast = state.slots.succeeded(took);
        let recovered = state.health.succeeded(namespace, is_fast, now);
        state.queue.works(namespace, is_fast);
        if self.no_cause(state, namespace) {
            tracing::info!(namespace, "publishing again in this namespace");
        }
        for other in &recovered.again {
            state.queue.again(other, now);
        }
        for waiting in state.aside.succeeded(waiting, recovered.namespace, now) {
            state.queue.push(&waiting);
        }
        if recovered.all {
            let pending = state.entries.len();
            tracing::info!(pending, "publishing again");
        }
    }

    fn refused(&self, state: &mut State, waiting: &Waiting, error: &ClusterError, now: Duration) {
        let namespace = &waiting.namespace;
        let (fault, answer) = meaning(error);
        self.metrics.event(match fault {
            Fault::Refused => "held",
            Fault::Throttled(_) => "throttled",
            Fault::Failed | Fault::Late => "failed",
        });
        let text = format!("No Event can be made in namespace {namespace}: {error}");
        let text: Arc<str> = plain(&text, MAX_CAUSE_BYTES).into();
        let verdict = state.health.failed(fault, namespace, now);
        let is_stuck = state
            .aside
            .refused(waiting.clone(), &text, verdict.hold, now);
        if let Some(until) = verdict.hold {
            state.queue.hold(namespace, until);
            let is_logged = verdict.first && state.may_log("held", namespace, EVERY_HOLD, now);
            if is_logged {
                tracing::warn!(
                    namespace,
                    answer,
                    error = %text,
                    "no Event can be made in this namespace; its deliveries wait in the journal"
                );
            }
            let text = Arc::clone(&text);
            let cause = Cause {
                answer,
                text,
                is_logged,
            };
            self.cause(state, namespace, cause);
        } else if is_stuck && state.may_log("refused", namespace, EVERY_REFUSAL, now) {
            tracing::warn!(
                namespace,
                answer,
                error = %text,
                "an Event cannot be made although others can; its delivery waits in the journal"
            );
        }
        if verdict.everywhere {
            let pending = state.entries.len();
            tracing::warn!(
                pending,
                error = %text,
                "several namespaces fail and none succeeds; one is tried after the other"
            );
        }
    }

    /// Keeps and shows why a namespace is held.
    fn cause(&self, state: &mut State, namespace: &str, cause: Cause) {
        let answer = cause.answer;
        let kept = state.causes.entry(namespace.to_owned());
        let before = match kept {
            Occupied(mut kept) => {
                let is_logged = cause.is_logged || kept.get().is_logged;
                Some(kept.insert(Cause { is_logged, ..cause }))
            }
            Vacant(room) => {
                room.insert(cause);
                None
            }
        };
        let before = before.map(|before| before.answer);
        if before != Some(answer) {
            if let Some(before) = before {
                self.metrics.held(namespace, before, false);
            }
            self.metrics.held(namespace, answer, true);
        }
    }

    /// A namespace is not held any more. Returns whether the log says that it was.
    fn no_cause(&self, state: &mut State, namespace: &str) -> bool {
        let Some(cause) = state.causes.remove(namespace) else {
            return false;
        };
        self.metrics.held(namespace, cause.answer, false);
        cause.is_logged
    }

    /// It waits no longer, whether the journal knows or not.
    fn publish(&self, state: &mut State, entry: &Entry) {
        let waiting = &entry.waiting;
        state.aside.done(waiting);
        state.waitlist.remove(waiting, entry.received_at);
        if state.leave(&waiting.namespace) {
            state.health.forget(&waiting.namespace);
            self.no_cause(state, &waiting.namespace);
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
        let delayed = state.delayed(now);
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
            let known = Arc::clone(known);
            self.waitlist.remove(&known.waiting, known.received_at);
            self.leave(&known.waiting.namespace);
        }
        let namespace = &entry.waiting.namespace;
        *self.namespaces.entry(namespace.clone()).or_default() += 1;
        self.queue.push(&entry.waiting);
        self.waitlist.insert(&entry.waiting, entry.received_at);
        self.entries.insert(seq, Arc::new(entry));
    }

    /// One waits less in a namespace. Returns whether none does any more.
    fn leave(&mut self, namespace: &str) -> bool {
        let Some(count) = self.namespaces.get_mut(namespace) else {
            return true;
        };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return false;
        }
        self.namespaces.remove(namespace);
        true
    }

    /// The next delivery to be tried at `now`; where there is none, `wake` is when to look again by the clock.
    fn take(&mut self, now: Duration, wake: &mut Option<Duration>) -> Option<Arc<Entry>> {
        for namespace in self.slots.aged(now) {
            self.health.slow(&namespace);
            self.queue.slow(&namespace);
        }
        for waiting in self.aside.due(now) {
            self.queue.push(&waiting);
        }
        let (_, unread_until) = self.unread;
        let mut times = vec![
            self.aside.next_at(),
            self.slots.next_at(),
            self.health.next_at(now),
        ];
        if unread_until > now {
            times.push(Some(unread_until));
        } else if self.notes.len() < UNSETTLED {
            loop {
                let (well, sick) = (self.health.well(), self.health.sick(now));
                match self.queue.next(now, self.slots.room(well, sick)) {
                    Next::Take(waiting) => {
                        let entry = self.entries.get(&waiting.seq);
                        if let Some(entry) = entry.filter(|entry| entry.waiting == waiting) {
                            return Some(Arc::clone(entry));
                        }
                        self.queue.landed(&waiting.namespace);
                    }
                    Next::At(at) => {
                        times.push(Some(at));
                        break;
                    }
                    Next::Idle => break,
                }
            }
        }
        *wake = times.into_iter().flatten().min();
        None
    }

    /// Whether the log may say this of a namespace at `now`, once in so long a time.
    fn may_log(
        &mut self,
        what: &'static str,
        namespace: &str,
        every: Duration,
        now: Duration,
    ) -> bool {
        let key = (what, namespace.to_owned());
        let may = self.logged.get(&key).is_none_or(|at| *at + every <= now);
        if may {
            self.logged.insert(key, now);
        }
        may
    }

    /// The process is asked to end: everything is tried at once, as fast as the API server takes it.
    fn hasten(&mut self, now: Duration) {
        self.queue.hasten(AT_ONCE_ENDING);
        for namespace in self.health.hasten(AT_ONCE_ENDING, now) {
            self.queue.again(&namespace, now);
        }
        for waiting in self.aside.all() {
            self.queue.push(&waiting);
        }
    }

    /// The webhooks, by uid, of which a delivery has waited for too long, and why.
    fn delayed(&self, now: Timestamp) -> HashMap<String, Delayed> {
        let delayed = self.waitlist.delayed(now).into_iter();
        let why = |seq: i64| {
            let own = self.aside.why(seq);
            let entry = self.entries.get(&seq);
            let all = entry.and_then(|entry| self.causes.get(&entry.waiting.namespace));
            own.or(all.map(|cause| &cause.text)).cloned()
        };
        delayed
            .map(|(uid, (since, seq))| {
                let cause = why(seq);
                (uid, Delayed { since, cause })
            })
            .collect()
    }

    /// The journal knows what became of it.
    fn forget(&mut self, seq: i64, key: DeliveryKey) {
        if self.entries.get(&seq).is_some_and(|entry| entry.key == key) {
            self.entries.remove(&seq);
        }
    }
}

/// What an error of the API server means for what comes next, and the word for it.
pub(super) fn meaning(error: &ClusterError) -> (Fault, &'static str) {
    match error {
        ClusterError::Forbidden(_) => (Fault::Refused, "forbidden"),
        ClusterError::Terminating(_) => (Fault::Refused, "terminating"),
        ClusterError::Denied { .. } | ClusterError::Invalid(_) => (Fault::Refused, "denied"),
        ClusterError::Throttled { retry_after, .. } => {
            (Fault::Throttled(*retry_after), "throttled")
        }
        ClusterError::Deadline(_) => (Fault::Late, "late"),
        ClusterError::Failed { .. } => (Fault::Failed, "server"),
        ClusterError::Unavailable(_) => (Fault::Failed, "network"),
        ClusterError::NotFound(_)
        | ClusterError::NamespaceGone(_)
        | ClusterError::AlreadyExists(_)
        | ClusterError::Conflict(_)
        | ClusterError::Unauthorized(_) => (Fault::Failed, "other"),
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
async fn bury(journal: Journal, seq: i64, key: DeliveryKey, cause: journal::Cause) -> Noted {
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
    fn an_error_says_for_how_long_to_wait() {
        let why = || "why".to_owned();
        let wait = Some(Duration::from_secs(3));
        let (code, message) = (422, why());
        for (error, expected) in [
            (ClusterError::Forbidden(why()), Fault::Refused),
            (ClusterError::Terminating(why()), Fault::Refused),
            (ClusterError::Denied { code, message }, Fault::Refused),
            (
                ClusterError::Throttled {
                    retry_after: wait,
                    message: why(),
                },
                Fault::Throttled(wait),
            ),
            // A wrong proxy, or a kind that is not served: nothing that was sent is to blame.
            (ClusterError::NotFound(why()), Fault::Failed),
            (ClusterError::Unauthorized(why()), Fault::Failed),
            (ClusterError::Conflict(why()), Fault::Failed),
            (ClusterError::Deadline(FIRST), Fault::Late),
        ] {
            assert_eq!(meaning(&error).0, expected, "{error}");
        }
    }
}
