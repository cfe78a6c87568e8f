//! Tells of dead letters: a Warning Event on the webhook, at once for the first and then at most one a minute.
//!
//! What was not told yet is asked of the journal, so no restart loses a number. This is no part of the publisher: a
//! flood of nonsense must not take turns away from alarms.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keyring::Index;
use super::metrics::Metrics;
use super::publisher::trouble;
use crate::cluster::ClusterError;
use crate::cluster::events::{self, Created};
use crate::delivery::event::{self, DeadLetters};
use crate::delivery::notice::Notices;
use crate::delivery::patience::{Patience, Verdict};
use crate::delivery::received::Known;
use crate::journal::{Journal, JournalError, Untold};

/// The least time between two looks, so that a flood of dead letters is not counted anew for each of them.
const BREATH: Duration = Duration::from_secs(1);
/// The pause after the journal could not be asked.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the last look may take when the process ends.
const LAST: Duration = Duration::from_secs(1);

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
    patience: Patience,
    held: HashMap<String, Duration>,
}

/// Whether to go on with the next webhook.
enum Told {
    /// Yes; this one is to be looked at again after this time, if at all.
    Next(Option<Duration>),
    /// No Event can be made anywhere before this time.
    Stop(Duration),
}

impl Teller {
    /// Tells until `end` is cancelled, and then once more.
    pub async fn run(self, end: CancellationToken) {
        let start = Instant::now();
        let mut state = State {
            notices: Notices::default(),
            patience: Patience::new(1),
            held: HashMap::new(),
        };
        while !end.is_cancelled() {
            let next = self.look(&mut state, start).await;
            tokio::select! {
                () = async {
                    tokio::time::sleep(BREATH).await;
                    tokio::select! {
                        () = self.dead_letters.notified() => {}
                        () = sleep_until(next.map(|at| start + at)) => {}
                    }
                } => {}
                () = end.cancelled() => {}
            }
        }
        // What cannot be told in time is told by the next start.
        let _ = tokio::time::timeout(LAST, self.look(&mut state, start)).await;
    }

    /// Tells of what is due. Returns when to look again, if nothing is rung before.
    async fn look(&self, state: &mut State, start: Instant) -> Option<Duration> {
        let untold = match self.journal.untold().await {
            Ok(untold) => untold,
            Err(JournalError::Closed) => return None,
            // The journal says itself that it cannot be used.
            Err(JournalError::Full | JournalError::OverShare | JournalError::Io(_)) => {
                return Some(start.elapsed() + AGAIN);
            }
        };
        let mut earliest: Option<Duration> = None;
        for letters in untold {
            let again = match self.consider(state, &letters, start).await {
                Told::Next(again) => again,
                Told::Stop(until) => return Some(until),
            };
            earliest = earliest.into_iter().chain(again).min();
        }
        earliest
    }

    async fn consider(&self, state: &mut State, letters: &Untold, start: Instant) -> Told {
        let Untold {
            webhook,
            last_told_at,
            ..
        } = letters;
        let (now, elapsed) = (Timestamp::now(), start.elapsed());
        let paused_until = state.patience.paused_until();
        if paused_until > elapsed {
            return Told::Stop(paused_until);
        }
        let held_until = state.held.get(&webhook.namespace).copied();
        if let Some(until) = held_until.filter(|until| *until > elapsed) {
            return Told::Next(Some(until));
        }
        let due_at = state.notices.due_at(&webhook.uid, *last_told_at, now);
        if due_at > now {
            let wait = Duration::try_from(due_at.duration_since(now)).unwrap_or_default();
            return Told::Next(Some(elapsed + wait));
        }
        self.tell(state, letters, now, start).await
    }

    async fn tell(
        &self,
        state: &mut State,
        letters: &Untold,
        now: Timestamp,
        start: Instant,
    ) -> Told {
        let webhook = &letters.webhook;
        let name = format!("{}/{}", webhook.namespace, webhook.name);
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
        let event = event::of_dead_letters(told, &self.instance, now);
        let error = match events::create(&self.client, &event).await {
            Ok(Created::New) => {
                self.metrics.notice("told");
                state.patience.succeeded(&webhook.namespace);
                state.held.remove(&webhook.namespace);
                tracing::info!(
                    webhook = name,
                    count = letters.count,
                    "told of dead letters"
                );
                return self.told(letters, start).await;
            }
            Ok(Created::AlreadyThere) => {
                self.metrics.notice("taken");
                state.patience.succeeded(&webhook.namespace);
                state.notices.taken(&webhook.uid, now);
                let due_at = state.notices.due_at(&webhook.uid, None, now);
                let wait = Duration::try_from(due_at.duration_since(now)).unwrap_or_default();
                return Told::Next(Some(start.elapsed() + wait));
            }
            Err(error) => error,
        };
        // Not valid is not because of what it says, which is ours, but of what it is about.
        let never = matches!(
            error,
            ClusterError::NamespaceGone(_) | ClusterError::Invalid(_)
        );
        if never {
            self.metrics.notice("untellable");
            state.held.remove(&webhook.namespace);
            tracing::warn!(webhook = name, count = letters.count, %error, "nobody can be told of dead letters by an Event; chekt-operator deadletters lists them");
            return self.told(letters, start).await;
        }
        self.metrics.notice("failed");
        let verdict = state
            .patience
            .failed(trouble(&error), &webhook.namespace, start.elapsed());
        match verdict {
            Verdict::Hold { first, until } => {
                if first {
                    tracing::warn!(webhook = name, %error, "no Event can tell of dead letters in this namespace");
                }
                state.held.insert(webhook.namespace.clone(), until);
                Told::Next(Some(until))
            }
            Verdict::Pause { first } => {
                if first {
                    tracing::warn!(webhook = name, %error, "no Event can tell of dead letters");
                }
                Told::Stop(state.patience.paused_until())
            }
        }
    }

    /// Has the journal note it. What it does not note is told again in another minute.
    async fn told(&self, letters: &Untold, start: Instant) -> Told {
        let uid = letters.webhook.uid.clone();
        let noted = self.journal.told(uid, letters.last, Timestamp::now()).await;
        match noted {
            Ok(()) => Told::Next(None),
            Err(_) => Told::Next(Some(start.elapsed() + AGAIN)),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
