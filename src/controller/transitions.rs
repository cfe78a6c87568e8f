//! Transitions as Events on the object, for people who read `kubectl describe`.
//!
//! They are a courtesy: one that cannot be published is logged and never holds up the work.

use std::time::Duration;

use kube::Resource;
use kube::runtime::events::{Event, EventType};

use super::context::Context;
use crate::cluster::within;
use crate::delivery::note::{LONGEST, bounded};
use crate::resources::ChektWebhook;
use crate::resources::conditions::{self, READY};
use crate::resources::webhook::ChektWebhookStatus;

/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Publishes one Event about an object of ours.
pub async fn publish<K: Resource<DynamicType = ()>>(
    context: &Context,
    object: &K,
    kind: EventType,
    reason: &str,
    action: &str,
    note: String,
) {
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(bounded(&note, LONGEST).to_owned()),
        action: action.to_owned(),
        secondary: None,
    };
    let object = object.object_ref(&());
    if let Err(error) = within(DEADLINE, context.recorder.publish(&event, &object)).await {
        tracing::warn!(reason, %error, "an Event about a transition could not be published");
    }
}

/// Publishes what changed in Ready, if something did.
pub async fn ready(context: &Context, webhook: &ChektWebhook, new: &ChektWebhookStatus) {
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
        "True" => (EventType::Normal, "Ready"),
        _ if conditions::find(&new.conditions, conditions::RECONCILING).is_some() => return,
        _ => (EventType::Warning, now.reason.as_str()),
    };
    publish(
        context,
        webhook,
        kind,
        reason,
        "Reconcile",
        now.message.clone(),
    )
    .await;
}
