//! From the journal to the Event: journal, pace, create, settled.
//!
//! A delivery leaves the queue only when its Event is known to be there, or when it is certain that it never can
//! be. A crash between the two acts is harmless: the name of the Event is made from the delivery, so the second
//! attempt is told that it exists already.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::cluster::ClusterError;
use crate::cluster::events::{self, Created};
use crate::delivery::event;
use crate::delivery::pacing::{Next, Pace, Queue, Waiting};
use crate::journal::{Entry, Feed, Journal};

/// Events that are being created at the same time.
const AT_ONCE: usize = 8;
/// How often gauges are set.
const TICK: Duration = Duration::from_secs(1);
/// How often old keys are forgotten.
const SWEEP: Duration = Duration::from_secs(60);
/// The longest that the API server can make us wait by a Retry-After.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

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
    /// The name of this pod.
    pub instance: String,
    /// What is counted.
    pub metrics: Metrics,
    /// How long to go on after the end was asked for while something is pending: a pod's disk may go with it.
    pub last: Duration,
}

/// What became of one attempt.
enum Attempt {
    /// The Event is there, and the journal knows.
    Settled(Created),
    /// It is a dead letter, and the journal knows.
    Buried,
    /// The journal holds no such pending delivery any more.
    Gone,
    /// Not yet.
    Again(Trouble),
}

/// A namespace in which no Event can be made, and when that is tried again.
#[derive(Default)]
struct Hold {
    failures: u32,
    until: Duration,
}

/// Why not yet.
enum Trouble {
    Cluster(ClusterError),
    Journal(String),
}

struct State {
    queue: Queue,
    unsettled: BTreeMap<i64, Entry>,
    /// Nothing is sent before this time.
    paused_until: Duration,
    /// Failures in a row that had nothing to do with a single namespace.
    failures: u32,
    /// Namespaces in which no Event can be made.
    held: HashMap<String, Hold>,
}

impl Publisher {
    /// Publishes until `end` is cancelled and nothing is pending, or the time for that is over.
    pub async fn run(mut self, end: CancellationToken) {
        let start = Instant::now();
        let mut state = State {
            queue: Queue::new(self.pace),
            unsettled: BTreeMap::new(),
            paused_until: Duration::ZERO,
            failures: 0,
            held: HashMap::new(),
        };
        let mut in_flight = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = Duration::ZERO;
        let mut fed = Vec::new();
        let mut open = true;
        let mut ending: Option<Instant> = None;
        loop {
            let now = start.elapsed();
            let over = ending.is_some_and(|until| Instant::now() >= until);
            let mut wake = None;
            while in_flight.len() < AT_ONCE && !over {
                if state.paused_until > now {
                    wake = Some(state.paused_until);
                    break;
                }
                match state.queue.next(now) {
                    Next::Take(waiting) => {
                        let Some(entry) = state.unsettled.get(&waiting.seq).cloned() else {
                            continue;
                        };
                        in_flight.push(self.attempt(waiting, entry));
                    }
                    Next::At(at) => {
                        wake = Some(at);
                        break;
                    }
                    Next::Idle => break,
                }
            }
            if ending.is_some() && in_flight.is_empty() && (over || state.unsettled.is_empty()) {
                break;
            }
            tokio::select! {
                count = self.feed.recv_many(&mut fed, 256), if open => {
                    open = count > 0;
                    for entry in fed.drain(..) {
                        state.queue.push(&entry.waiting);
                        state.unsettled.insert(entry.waiting.seq, entry);
                    }
                }
                Some((waiting, attempt)) = in_flight.next(), if !in_flight.is_empty() => {
                    self.conclude(&mut state, waiting, attempt, start.elapsed());
                }
                () = sleep_until(wake.map(|at| start + at)) => {}
                () = sleep_until(ending), if ending.is_some() && !over => {}
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
        self.show(&state);
        if !state.unsettled.is_empty() {
            tracing::warn!(
                pending = state.unsettled.len(),
                "ending with deliveries in the journal; the next start goes on with them"
            );
        }
    }

    /// One attempt. It borrows nothing, so that the loop can go on meanwhile.
    fn attempt(
        &self,
        waiting: Waiting,
        entry: Entry,
    ) -> impl Future<Output = (Waiting, Attempt)> + use<> {
        let (journal, client) = (self.journal.clone(), self.client.clone());
        let instance = self.instance.clone();
        let metrics = self.metrics.clone();
        async move {
            let attempt = publish(&journal, &client, &instance, &metrics, &entry).await;
            (waiting, attempt)
        }
    }

    fn conclude(&self, state: &mut State, waiting: Waiting, attempt: Attempt, now: Duration) {
        let trouble = match attempt {
            Attempt::Settled(created) => {
                self.metrics.event(match created {
                    Created::New => "created",
                    Created::AlreadyThere => "already_there",
                });
                if state.failures > 0 {
                    tracing::info!("publishing again");
                    state.failures = 0;
                }
                if state.held.remove(&waiting.namespace).is_some() {
                    tracing::info!(namespace = waiting.namespace, "publishing again");
                }
                state.unsettled.remove(&waiting.seq);
                return;
            }
            Attempt::Buried => {
                self.metrics.event("buried");
                state.unsettled.remove(&waiting.seq);
                return;
            }
            Attempt::Gone => {
                state.unsettled.remove(&waiting.seq);
                return;
            }
            Attempt::Again(trouble) => trouble,
        };
        match trouble {
            Trouble::Cluster(
                error @ (ClusterError::Forbidden(_) | ClusterError::Terminating(_)),
            ) => {
                self.metrics.event("held");
                let hold = state.held.entry(waiting.namespace.clone()).or_default();
                if hold.failures == 0 {
                    tracing::warn!(namespace = waiting.namespace, %error, "no Event can be made in this namespace; deliveries wait in the journal");
                }
                // Attempts that were on their way together are one failure.
                if hold.until <= now {
                    hold.until = now + pause(hold.failures, 1_000, 30);
                    hold.failures = hold.failures.saturating_add(1);
                    state.queue.hold(&waiting.namespace, hold.until);
                }
            }
            Trouble::Cluster(ClusterError::Throttled { retry_after }) => {
                self.metrics.event("throttled");
                let asked = retry_after.unwrap_or(Duration::from_secs(1));
                let until = now + asked.min(LONGEST_ASKED);
                state.paused_until = state.paused_until.max(until);
            }
            Trouble::Cluster(error) => {
                self.metrics.event("failed");
                Self::fail(state, &error.to_string(), now);
            }
            Trouble::Journal(error) => {
                self.metrics.event("failed");
                Self::fail(state, &error, now);
            }
        }
        state.queue.push(&waiting);
    }

    fn fail(state: &mut State, error: &str, now: Duration) {
        // Eight attempts that were on their way together are one failure, not eight.
        if state.paused_until > now {
            return;
        }
        if state.failures == 0 {
            tracing::warn!(%error, pending = state.unsettled.len(), "no Event can be made; deliveries wait in the journal");
        }
        state.paused_until = now + pause(state.failures, 100, 5);
        state.failures = state.failures.saturating_add(1);
    }

    fn show(&self, state: &State) {
        let depth = self.journal.depth();
        self.metrics.journal_pending.set(depth.pending);
        self.metrics.journal_bytes.set(depth.bytes);
        self.metrics.journal_dead.set(depth.dead);
        let oldest = state.unsettled.values().next();
        let age = oldest.map_or(0, |entry| {
            let age = Timestamp::now().duration_since(entry.received_at);
            age.as_secs().max(0)
        });
        self.metrics.journal_oldest_seconds.set(age);
    }

    async fn sweep(&self) {
        match self.journal.sweep(Timestamp::now()).await {
            Ok(0) => {}
            Ok(gone) => {
                tracing::warn!(gone, "too many dead letters, the oldest are gone");
            }
            Err(error) => tracing::warn!(%error, "old keys cannot be forgotten"),
        }
    }
}

async fn publish(
    journal: &Journal,
    client: &Client,
    instance: &str,
    metrics: &Metrics,
    entry: &Entry,
) -> Attempt {
    let received = match journal.load(entry.waiting.seq).await {
        Ok(Some(received)) => received,
        Ok(None) => return Attempt::Gone,
        Err(error) => return Attempt::Again(Trouble::Journal(error.to_string())),
    };
    let event = event::build(&received, instance, Timestamp::now());
    let webhook = format!("{}/{}", received.webhook.namespace, received.webhook.name);
    let created = match events::create(client, &event).await {
        Ok(created) => created,
        Err(error @ (ClusterError::NotFound(_) | ClusterError::Invalid(_))) => {
            let reason = match &error {
                ClusterError::NotFound(_) => "the namespace is gone",
                _ => "the API server does not take the Event",
            };
            tracing::error!(webhook = %webhook, delivery = entry.key.short(), %error, "dead letter: {reason}");
            return bury(journal, entry, format!("{reason}: {error}")).await;
        }
        Err(error) => return Attempt::Again(Trouble::Cluster(error)),
    };
    let age = Timestamp::now().duration_since(entry.received_at);
    metrics.publish_seconds.observe(age.as_secs_f64().max(0.0));
    tracing::info!(
        webhook = %webhook,
        delivery = entry.key.short(),
        event_name = event.metadata.name.as_deref().unwrap_or_default(),
        reason = event.reason.as_deref().unwrap_or_default(),
        created = created == Created::New,
        age_ms = u64::try_from(age.as_millis()).unwrap_or(0),
        "published"
    );
    if let Err(why) = received.envelope() {
        return bury(journal, entry, why.to_string()).await;
    }
    match journal.settle(entry.key, Timestamp::now()).await {
        Ok(()) => Attempt::Settled(created),
        Err(error) => Attempt::Again(Trouble::Journal(error.to_string())),
    }
}

async fn bury(journal: &Journal, entry: &Entry, reason: String) -> Attempt {
    match journal.bury(entry.key, reason, Timestamp::now()).await {
        Ok(()) => Attempt::Buried,
        Err(error) => Attempt::Again(Trouble::Journal(error.to_string())),
    }
}

/// `first` milliseconds, doubled with each failure, up to `longest` seconds.
fn pause(failures: u32, first: u64, longest: u64) -> Duration {
    Duration::from_millis(first)
        .saturating_mul(1 << failures.min(16))
        .min(Duration::from_secs(longest))
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
    fn pauses_double_up_to_their_longest() {
        let pauses = [0, 1, 2, 5, 6, 60].map(|failures| pause(failures, 100, 5).as_millis());
        assert_eq!(pauses, [100, 200, 400, 3_200, 5_000, 5_000]);
    }
}
