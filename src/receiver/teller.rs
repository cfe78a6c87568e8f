//! Tells of dead letters: a Warning Event on the webhook, at once for the first and then at most one a minute.
//!
//! What was not told yet is asked of the journal, so no restart loses a number. This is no part of the publisher: a
//! flood of nonsense must not take turns away from alarms. One webhook of a namespace is told at a time, and a namespace
//! in which that takes long or fails holds up no other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keyring::Index;
use super::metrics::Metrics;
use super::publisher::meaning;
use crate::cluster::ClusterError;
use crate::cluster::events::{self, Created};
use crate::delivery::event::{self, DeadLetters};
use crate::delivery::health::{Health, MAX_DEADLINE};
use crate::delivery::notice::Notices;
use crate::delivery::received::Known;
use crate::journal::{Journal, JournalError, Untold};
use crate::resources::foreign::plain;

/// The least time between two looks, so that a flood of dead letters is not counted anew for each of them.
const BREATH: Duration = Duration::from_secs(1);
/// The pause after the journal could not be asked.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the last look may take when the process ends.
const LAST: Duration = Duration::from_secs(1);
/// Namespaces in which webhooks are told at the same time.
const AT_ONCE: usize = 64;
/// The most bytes of what the API server answered, in a log line.
const MAX_CAUSE_BYTES: usize = 400;

/// What the teller works with.
pub struct Teller {
    /// Where dead letters are.
    pub journal: Journal,
    /// Where Events go.
    pub client: Client,
    /// What is known of the webhooks.
    pub index: watch::Receiver<Index>,
    /// The name of this pod.
    pub instance: String,
    /// What is counted.
    pub metrics: Metrics,
    /// Rung for each new dead letter.
    pub dead_letters: Arc<Notify>,
}

/// What is remembered from look to look.
struct State {
    notices: Notices,
    health: Health,
    held: HashMap<String, Duration>,
    /// Namespaces in which a webhook is being told.
    busy: HashSet<String>,
}

/// What became of an Event about dead letters.
type Told = (Untold, Result<Created, ClusterError>);

impl Teller {
    /// Tells until `end` is cancelled, and then once more.
    pub async fn run(self, end: CancellationToken) {
        let start = Instant::now();
        let mut state = State {
            notices: Notices::default(),
            health: Health::new(AT_ONCE),
            held: HashMap::new(),
            busy: HashSet::new(),
        };
        let mut telling = FuturesUnordered::new();
        let mut looked = None;
        let mut next = Some(Duration::ZERO);
        while !end.is_cancelled() {
            tokio::select! {
                () = async {
                    sleep_until(looked.map(|at: Instant| at + BREATH)).await;
                    tokio::select! {
                        () = self.dead_letters.notified() => {}
                        () = sleep_until(next.map(|at| start + at)) => {}
                    }
                }, if looked.is_some() => {}
                () = std::future::ready(()), if looked.is_none() => {}
                Some(told) = telling.next(), if !telling.is_empty() => {
                    let again = self.conclude(&mut state, told, start).await;
                    next = next.into_iter().chain(again).min();
                    continue;
                }
                () = end.cancelled() => break,
            }
            looked = Some(Instant::now());
            let (due, again) = self.look(&mut state, start).await;
            next = again;
            for letters in due {
                state.busy.insert(letters.webhook.namespace.clone());
                telling.push(self.tell(letters));
            }
        }
        // What cannot be told in time is told by the next start.
        let last = async {
            while let Some(told) = telling.next().await {
                self.conclude(&mut state, told, start).await;
            }
            loop {
                let (due, _) = self.look(&mut state, start).await;
                if due.is_empty() {
                    return;
                }
                telling.extend(due.into_iter().map(|letters| self.tell(letters)));
                while let Some(told) = telling.next().await {
                    self.conclude(&mut state, told, start).await;
                }
            }
        };
        let _ = tokio::time::timeout(LAST, last).await;
    }

    /// What is due, one webhook of a namespace, and when to look again, if nothing is rung before.
    async fn look(&self, state: &mut State, start: Instant) -> (Vec<Untold>, Option<Duration>) {
        let elapsed = start.elapsed();
        let untold = match self.journal.untold().await {
            Ok(untold) => untold,
            Err(JournalError::Closed) => return (Vec::new(), None),
            // The journal says itself that it cannot be used.
            Err(JournalError::Full | JournalError::OverShare | JournalError::Io(_)) => {
                return (Vec::new(), Some(elapsed + AGAIN));
            }
        };
        let now = Timestamp::now();
        let mut due = Vec::new();
        let mut chosen = state.busy.clone();
        let mut earliest: Option<Duration> = None;
        for letters in untold {
            let webhook = &letters.webhook;
            let until = state.held.get(&webhook.namespace).copied();
            let due_at = state
                .notices
                .due_at(&webhook.uid, letters.last_told_at, now);
            let wait = Duration::try_from(due_at.duration_since(now)).unwrap_or_default();
            let at = until.unwrap_or_default().max(elapsed + wait);
            if at > elapsed {
                earliest = earliest.into_iter().chain([at]).min();
            } else if chosen.len() < AT_ONCE && chosen.insert(webhook.namespace.clone()) {
                due.push(letters);
            }
            // One that is not chosen is looked at again when the one before it is told.
        }
        (due, earliest)
    }

    /// Makes the Event.
    async fn tell(&self, letters: Untold) -> Told {
        let webhook = &letters.webhook;
        let known = self
            .index
            .borrow()
            .webhook(webhook)
            .map_or_else(Known::default, |webhook| webhook.known.clone());
        let told = DeadLetters {
            webhook,
            known: &known,
            count: letters.count,
            refused: letters.refused,
            newest: &letters.last_reason,
        };
        let event = event::of_dead_letters(told, &self.instance, Timestamp::now());
        let outcome = events::create(&self.client, &event, MAX_DEADLINE).await;
        (letters, outcome)
    }

    /// Draws the conclusion. Returns when to look again.
    async fn conclude(
        &self,
        state: &mut State,
        (letters, outcome): Told,
        start: Instant,
    ) -> Option<Duration> {
        let webhook = &letters.webhook;
        let namespace = &webhook.namespace;
        let name = format!("{namespace}/{}", webhook.name);
        let now = start.elapsed();
        state.busy.remove(namespace);
        if outcome.is_ok() {
            state.health.succeeded(namespace, true, now);
            state.held.remove(namespace);
        }
        match outcome {
            Ok(Created::New) => {
                self.metrics.notice("told");
                tracing::info!(
                    webhook = name,
                    count = letters.count,
                    "told of dead letters"
                );
                self.told(&letters, start).await
            }
            Ok(Created::AlreadyThere) => {
                self.metrics.notice("taken");
                state.notices.taken(&webhook.uid, Timestamp::now());
                Some(now)
            }
            // Not valid is not because of what it says, which is ours, but of what it is about.
            Err(error @ (ClusterError::NamespaceGone(_) | ClusterError::Invalid(_))) => {
                self.metrics.notice("untellable");
                state.held.remove(namespace);
                state.health.forget(namespace);
                tracing::warn!(webhook = name, count = letters.count, %error, "no Event can tell of dead letters in a namespace that is gone; chekt-operator deadletters lists them");
                self.told(&letters, start).await
            }
            Err(error) => {
                self.metrics.notice("failed");
                let (fault, _) = meaning(&error);
                // Each webhook of the namespace has its minute, and one that fails is tried again with the others.
                let verdict = state.health.failed(fault, namespace, now);
                let verdict = match verdict.hold {
                    Some(_) => verdict,
                    None => state.health.failed(fault, namespace, now),
                };
                if verdict.first {
                    let error = plain(&error.to_string(), MAX_CAUSE_BYTES);
                    tracing::warn!(
                        webhook = name,
                        namespace,
                        error,
                        "no Event can tell of dead letters in this namespace"
                    );
                }
                let until = verdict.hold.unwrap_or(now + AGAIN);
                state.held.insert(namespace.clone(), until);
                Some(until)
            }
        }
    }

    /// Has the journal note it. What it does not note is told again in another minute.
    async fn told(&self, letters: &Untold, start: Instant) -> Option<Duration> {
        let uid = letters.webhook.uid.clone();
        let noted = self.journal.told(uid, letters.last, Timestamp::now()).await;
        // Another webhook of the namespace may be due.
        let pause = noted.map_or(AGAIN, |()| Duration::ZERO);
        Some(start.elapsed() + pause)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
