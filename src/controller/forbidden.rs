//! A right that is missing: told where people look, which is the object and not the controller's log.
//!
//! It is told of the object as it is now. A pass that was cut off may have written since it began, and a status is written
//! whole: one from before would take an id off the record.

use kube::{Api, Resource, ResourceExt};

use super::context::Context;
use crate::account::report::{Problem, report};
use crate::cluster::{ClusterError, write};
use crate::resources::account::ChektAccountStatus;
use crate::resources::conditions::{self, READY, RECONCILING, STALLED, Truth, Verdict};
use crate::resources::reasons::Reason;
use crate::resources::webhook::ChektWebhookStatus;
use crate::resources::{CONTROLLER_MANAGER, ChektAccount, ChektWebhook};

/// What people are told. `why` is what the API server said, which names the right.
fn message(why: &str) -> String {
    format!(
        "The operator is not allowed what it needs: {why}. Give it this right, as docs/rbac.md says"
    )
}

/// Tells of a webhook whose pass could not be finished.
pub async fn tell_webhook(context: &Context, webhook: &ChektWebhook, why: &str) {
    let told = webhook_now(context, webhook, &message(why)).await;
    untold(webhook, told);
}

/// Tells of an account whose pass could not be finished.
pub async fn tell_account(context: &Context, account: &ChektAccount, why: &str) {
    let problem = Problem {
        reason: Reason::Forbidden,
        message: message(why),
    };
    let told = account_now(context, account, &problem).await;
    untold(account, told);
}

/// Whoever may not read or write the object itself has nothing but the log, which says so already.
fn untold<K: Resource>(object: &K, told: Result<(), ClusterError>) {
    if let Err(error) = told {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        tracing::debug!(namespace, name, %error, "the missing right is not in the status");
    }
}

async fn webhook_now(
    context: &Context,
    known: &ChektWebhook,
    message: &str,
) -> Result<(), ClusterError> {
    let namespace = known.namespace().unwrap_or_default();
    let api: Api<ChektWebhook> = Api::namespaced(context.client.clone(), &namespace);
    let Some(webhook) = write::latest(&api, &known.name_any()).await? else {
        return Ok(());
    };
    if webhook.uid() != known.uid() {
        return Ok(());
    }
    let old = ChektWebhookStatus {
        deliveries: None,
        ..webhook.status.clone().unwrap_or_default()
    };
    let verdict = |kind, truth| Verdict {
        kind,
        truth,
        reason: Reason::Forbidden,
        message: message.to_owned(),
    };
    let verdicts = [
        verdict(READY, Truth::False),
        verdict(RECONCILING, Truth::True),
    ];
    let generation = webhook.metadata.generation.unwrap_or_default();
    let now = context.time();
    let mut all = conditions::merge(&old.conditions, &verdicts, generation, now);
    let replaced = [READY, RECONCILING, STALLED];
    let others = old.conditions.iter();
    all.extend(
        others
            .filter(|c| !replaced.contains(&c.type_.as_str()))
            .cloned(),
    );
    let status = ChektWebhookStatus {
        conditions: all,
        observed_generation: Some(generation),
        ..old.clone()
    };
    if status != old {
        write::status(&api, &webhook, &status, CONTROLLER_MANAGER).await?;
    }
    Ok(())
}

async fn account_now(
    context: &Context,
    known: &ChektAccount,
    problem: &Problem,
) -> Result<(), ClusterError> {
    let namespace = known.namespace().unwrap_or_default();
    let api: Api<ChektAccount> = Api::namespaced(context.client.clone(), &namespace);
    let Some(account) = write::latest(&api, &known.name_any()).await? else {
        return Ok(());
    };
    if account.uid() != known.uid() {
        return Ok(());
    }
    let old = ChektAccountStatus {
        orphans: Vec::new(),
        ..account.status.clone().unwrap_or_default()
    };
    let generation = account.metadata.generation.unwrap_or_default();
    let now = context.time();
    let status = report(&old, generation, Some(problem), None, now);
    if status != old {
        write::status(&api, &account, &status, CONTROLLER_MANAGER).await?;
    }
    Ok(())
}
