//! Transitions as Events on the object, for people who read `kubectl describe`.
//!
//! They are a courtesy and never hold up the work: a pass puts them into a queue, and one task publishes them one after
//! the other, so that those of one object stay in order and the API server has its strength for what matters. What the
//! queue cannot hold is counted and not published.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::context::Context;
use super::metrics::Metrics;
use crate::cluster::within;
use crate::delivery::note::LONGEST;
use crate::resources::ChektWebhook;
use crate::resources::conditions::{self, READY};
use crate::resources::foreign::bounded;
use crate::resources::told::Told;
use crate::resources::webhook::ChektWebhookStatus;

/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many may wait: what four thousand webhooks tell that are made at once.
const MOST: usize = 8_192;
/// How long those that wait may take to be published when the process ends.
const LAST: Duration = Duration::from_secs(5);
/// After so many a new recorder: it folds what repeats itself, and to that end looks through all of the last six minutes
/// at each Event.
const FOLDED: usize = 256;

/// Where transitions wait to be published, and the task that does it. Dropped, it publishes nothing more.
pub struct Transitions {
    queue: Sender<Transition>,
    metrics: Metrics,
    end: CancellationToken,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// One that waits.
struct Transition {
    event: Event,
    regarding: ObjectReference,
}

impl Transitions {
    /// An empty queue, and a task on the runtime of the caller.
    #[must_use]
    pub fn start(client: Client, metrics: Metrics) -> Self {
        let (queue, waiting) = mpsc::channel(MOST);
        let end = CancellationToken::new();
        let task = publish_all(client, waiting, metrics.clone(), end.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(task));
        Transitions {
            queue,
            metrics,
            end,
            task: Mutex::new(Some(task)),
        }
    }

    /// Publishes what still waits, as far as there is time, and ends. What is put into the queue after that is lost.
    pub async fn finish(&self) {
        self.end.cancel();
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Err(error)) = futures::future::OptionFuture::from(task).await {
            tracing::warn!(%error, "the task that publishes transitions has failed");
        }
    }

    fn put(&self, transition: Transition) {
        if self.queue.try_send(transition).is_ok() {
            return;
        }
        // Once for all: whoever wants the number finds it in the metric.
        if self.metrics.transitions_lost.inc() == 0 {
            tracing::warn!(
                "more Events about transitions than can be published: what does not fit is counted in chekt_controller_transitions_lost"
            );
        }
    }
}

/// Publishes what waits, until `end` is cancelled and then what still waits.
async fn publish_all(
    client: Client,
    mut waiting: Receiver<Transition>,
    metrics: Metrics,
    end: CancellationToken,
) {
    let reporter = Reporter {
        controller: "chekt.com/controller".to_owned(),
        instance: std::env::var("HOSTNAME").ok(),
    };
    let mut recorder = Recorder::new(client.clone(), reporter.clone());
    let mut published = 0_usize;
    let mut failing = false;
    let mut publish = async |Transition { event, regarding }: Transition| {
        if published.is_multiple_of(FOLDED) {
            recorder = Recorder::new(client.clone(), reporter.clone());
        }
        published += 1;
        let told = within(DEADLINE, recorder.publish(&event, &regarding)).await;
        if let Err(error) = &told {
            metrics.transitions_lost.inc();
            if !failing {
                tracing::warn!(reason = event.reason, %error, "an Event about a transition could not be published; the next ones that cannot are only counted");
            }
        }
        failing = told.is_err();
    };
    loop {
        tokio::select! {
            // The end first, since there may always be one more.
            biased;
            () = end.cancelled() => break,
            transition = waiting.recv() => match transition {
                Some(transition) => publish(transition).await,
                None => return,
            },
        }
    }
    waiting.close();
    let rest = async {
        while let Some(transition) = waiting.recv().await {
            publish(transition).await;
        }
    };
    let in_time = tokio::time::timeout(LAST, rest).await.is_ok();
    if !in_time {
        let left = waiting.len();
        tracing::warn!(
            left,
            "Events about transitions could not all be published before the end"
        );
    }
}

/// Has one Event about an object of ours published.
pub fn publish<K: Resource<DynamicType = ()>>(
    context: &Context,
    object: &K,
    kind: EventType,
    told: Told,
    action: &str,
    note: &str,
) {
    tell(context, object, kind, told.as_str(), action, note);
}

fn tell<K: Resource<DynamicType = ()>>(
    context: &Context,
    object: &K,
    kind: EventType,
    reason: &str,
    action: &str,
    note: &str,
) {
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(bounded(note, LONGEST).to_owned()),
        action: action.to_owned(),
        secondary: None,
    };
    let regarding = object.object_ref(&());
    context.transitions.put(Transition { event, regarding });
}

/// Has published what changed in Ready, if something did.
pub fn ready(context: &Context, webhook: &ChektWebhook, new: &ChektWebhookStatus) {
    let old = webhook
        .status
        .as_ref()
        .and_then(|s| conditions::find(&s.conditions, READY));
    let Some(now) = conditions::find(&new.conditions, READY) else {
        return;
    };
    if old.is_some_and(|old| old.status == now.status && old.reason == now.reason) {
        return;
    }
    let (kind, reason) = match now.status.as_str() {
        "True" => (EventType::Normal, Told::Ready.as_str()),
        _ if conditions::find(&new.conditions, conditions::RECONCILING).is_some() => return,
        _ => (EventType::Warning, now.reason.as_str()),
    };
    tell(context, webhook, kind, reason, "Reconcile", &now.message);
}
