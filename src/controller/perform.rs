//! Perform: one step becomes one call at one edge, and memory takes in what became of it.
//!
//! This is the only place from which CHeKT is written to.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::runtime::events::EventType;

use super::connection::Connection;
use super::context::Context;
use super::gather::{Gathered, PassError};
use super::memory::Remembered;
use super::metrics::StepLabels;
use super::{holds, orphans, transitions};
use crate::cluster::secrets::{self, StoredKeyring};
use crate::cluster::{ClusterError, write};
use crate::partner::fault::{Kind, PartnerError};
use crate::partner::http::Fields;
use crate::resources::account::{Orphan, OrphanReason};
use crate::resources::told::Told;
use crate::resources::{ChektWebhook, FINALIZER};
use crate::webhook::health::{self, Act, State};
use crate::webhook::rotation::{self, Entropy};
use crate::webhook::step::{Change, Draft, KeyringChange, Left, Step, Why};
use crate::webhook::world::{Attempt, Refusal, Test, World};

/// How soon a webhook looks again by itself after a list that failed. Whoever lists next wakes it if that is news.
const LIST_AGAIN: Duration = Duration::from_secs(2);

/// How many failures in a row a write goes on under its own number before a 5xx makes it take a new one. Until then, one
/// of them that lands late after all is the same write.
const KEPT: u32 = 2;

/// What a step changed of what the pass holds in its hands.
pub enum Performed {
    /// The object, as the API server answered.
    Object(Box<ChektWebhook>),
    /// The keyring, as it was written.
    Keyring(Box<StoredKeyring>),
    /// The keyring, which is gone.
    NoKeyring,
    /// The object is gone, or will be without us.
    Gone,
    /// Something at CHeKT, or nothing.
    Remote,
}

/// Performs one step.
///
/// # Errors
/// What Kubernetes made of it. What CHeKT made of it is no error of the pass: memory takes it in, and the next
/// plan decides with it.
pub async fn perform(
    context: &Context,
    webhook: &ChektWebhook,
    gathered: &Gathered,
    step: &Step,
    memory: &mut Remembered,
) -> Result<Performed, PassError> {
    let world = &gathered.world;
    let api: Api<ChektWebhook> = Api::namespaced(context.client.clone(), &world.webhook.namespace);
    let connection = || {
        gathered
            .connection
            .as_deref()
            .ok_or(PassError::NoConnection)
    };
    tracing::debug!(namespace = %world.webhook.namespace, name = %world.webhook.name, step = name(step), why = step.why(), "step");
    match step {
        Step::Rest(_) => Ok(Performed::Remote),
        Step::AddFinalizer(_) => {
            let object = write::finalizer(&api, webhook, FINALIZER, true).await?;
            Ok(Performed::Object(Box::new(object)))
        }
        Step::ReleaseFinalizer(why) => {
            tracing::info!(namespace = %world.webhook.namespace, name = %world.webhook.name, why = why.text(), "webhook released");
            match write::finalizer(&api, webhook, FINALIZER, false).await {
                Ok(_) | Err(ClusterError::NotFound(_)) => Ok(Performed::Gone),
                Err(error) => Err(error.into()),
            }
        }
        Step::HoldAccount(_) => {
            holds::hold(context, &world.account_name, &world.webhook.uid).await?;
            Ok(Performed::Remote)
        }
        Step::Keyring(change, _) => keyring(context, gathered, *change, memory).await,
        Step::LookAtDefinition(_) => {
            let goes = context
                .definition
                .goes(&context.client, &context.clock)
                .await?;
            memory.definition = Some((goes, context.clock.now()));
            Ok(Performed::Remote)
        }
        Step::Orphan(left, why) => {
            // Rare, and large: not in every pass.
            Box::pin(orphan(context, webhook, world, left, *why)).await?;
            memory.orphaned = true;
            Ok(Performed::Remote)
        }
        Step::RemoveKeyring(_) => {
            secrets::remove(&context.keyrings(), &world.webhook.uid).await?;
            Ok(Performed::NoKeyring)
        }
        Step::List(oldest, _) => {
            let connection = connection()?;
            let now = context.clock.now();
            match connection
                .list(now.checked_sub(*oldest).unwrap_or(now))
                .await
            {
                Ok(()) => memory.listed_for.clone_from(&world.reconcile_requested),
                Err(error) => {
                    // No failure of this webhook: the account paces the next try for everyone.
                    let now = context.clock.now();
                    let wait = connection.wait(now).max(LIST_AGAIN);
                    memory.trouble = Some((error.detail.into(), now + wait));
                    memory.unanswered = Some(now);
                }
            }
            Ok(Performed::Remote)
        }
        Step::Create(draft, _) => {
            let to = connection()?;
            let before = memory.sends(context.clock.now());
            let outcome = create(context, webhook, to, world, draft, memory).await;
            memory.heard(before, &outcome);
            settle(context, webhook, to, step, outcome, memory, world);
            Ok(Performed::Remote)
        }
        Step::Patch(id, change, why) => {
            let to = connection()?;
            let before = memory.sends(context.clock.now());
            let outcome = patch(context, webhook, to, world, (id, change, *why), memory).await;
            memory.heard(before, &outcome);
            settle(context, webhook, to, step, outcome, memory, world);
            Ok(Performed::Remote)
        }
        Step::Delete(id, why) => {
            let to = connection()?;
            let before = memory.sends(context.clock.now());
            let outcome = delete(context, webhook, to, world, (id, *why), memory).await;
            memory.heard(before, &outcome);
            settle(context, webhook, to, step, outcome, memory, world);
            Ok(Performed::Remote)
        }
        Step::Test(id, _) => {
            let to = connection()?;
            memory.asks_for_test(context.clock.now());
            recovered(world, memory);
            let outcome = to.client.test(id, &test_key(world)).await;
            to.heard(&world.webhook.uid, &outcome);
            count(context, step, outcome.is_ok());
            audit(world, step, Some(id), &outcome);
            match &outcome {
                Ok(()) => {
                    memory.trouble = None;
                    memory.failures = 0;
                    memory.asked_for_test(Test::Sent);
                }
                Err(error) if error.unclear => memory.asked_for_test(Test::Unclear),
                Err(error) => {
                    memory.test = match error.kind {
                        Kind::Network => Test::Recorded,
                        Kind::Throttled | Kind::Credentials => Test::Denied,
                        _ => Test::Refused(error.detail.to_string()),
                    };
                }
            }
            if let Err(error) = outcome {
                // A refused test does not make the webhook itself refused.
                if matches!(memory.test, Test::Recorded | Test::Denied) {
                    let now = context.clock.now();
                    memory.failed(error.detail.to_string(), error.retry_after, now);
                }
                if error.kind == Kind::Credentials {
                    connection()?.failed(&error);
                }
            }
            Ok(Performed::Remote)
        }
    }
}

async fn keyring(
    context: &Context,
    gathered: &Gathered,
    change: KeyringChange,
    memory: &mut Remembered,
) -> Result<Performed, PassError> {
    let mut entropy = Entropy {
        secret: [0; 32],
        id: [0; 6],
    };
    getrandom::fill(&mut entropy.secret).map_err(PassError::Entropy)?;
    getrandom::fill(&mut entropy.id).map_err(PassError::Entropy)?;
    let world = &gathered.world;
    let keyring = rotation::apply(change, world, &entropy)?;
    let namespace = &context.settings.operator_namespace;
    let version = gathered.keyring_version.as_deref();
    let account = &world.account_name;
    let keyrings = context.keyrings();
    let stored = secrets::store(&keyrings, namespace, &keyring, account, version).await?;
    if !change.numbers() {
        return Ok(Performed::Keyring(Box::new(stored)));
    }
    // A number of ours says nothing of what an earlier process sent with the one before: a POST that lands beside ours,
    // or an old key that lands after a new one.
    let sent_before = world.keyring.as_ref().is_some_and(|k| k.attempt > 0);
    let matters = world.roster.recorded.is_none() || change == KeyringChange::Next;
    if memory.attempt == Attempt::Unknown && sent_before && matters {
        memory.unclear_at.get_or_insert(context.started);
    }
    memory.attempt = Attempt::Open;
    if let Some(test) = keyring
        .test
        .as_ref()
        .filter(|_| rotation::notes_test(change, world))
    {
        let again = rotation::notes_again(world, &keyring);
        memory.noted(test, again, context.clock.now());
    }
    if change == KeyringChange::NoteTest {
        recovered(world, memory);
    }
    if matches!(change, KeyringChange::First | KeyringChange::Next) {
        // What was refused is about to be replaced.
        memory.refusal = None;
    }
    if change == KeyringChange::Next {
        memory.next_at = Some(context.clock.now());
    }
    Ok(Performed::Keyring(Box::new(stored)))
}

async fn create(
    context: &Context,
    webhook: &ChektWebhook,
    connection: &Connection,
    world: &World,
    draft: &Draft,
    memory: &mut Remembered,
) -> Result<(), PartnerError> {
    let Draft {
        url,
        events,
        key_id,
        secret,
    } = draft;
    let fields = Fields {
        url: Some(url.clone()),
        events: Some(events.clone()),
        secret: Some(secret.clone()),
        active: false,
    };
    let sent = context.clock.now();
    let created = connection
        .client
        .create(&fields, &key(world, "create"))
        .await?;
    memory.answered();
    memory.asserted = Some(key_id.clone());
    memory.deleted = false;
    let note = if let Some(remote) = created {
        let note = format!("Created {} at CHeKT", remote.id);
        memory.webhook_id = Some(remote.id.clone());
        connection.roster().wrote(remote, context.clock.now());
        note
    } else {
        // It exists, and only a list that is young enough can say under which id.
        memory.unclear_at = Some(sent);
        "Created at CHeKT, which did not say its id".to_owned()
    };
    transitions::publish(
        context,
        webhook,
        EventType::Normal,
        Told::Created,
        "Create",
        &note,
    );
    Ok(())
}

async fn patch(
    context: &Context,
    webhook: &ChektWebhook,
    connection: &Connection,
    world: &World,
    (id, change, why): (&str, &Change, Why),
    memory: &mut Remembered,
) -> Result<(), PartnerError> {
    let Change {
        url,
        events,
        key: new_key,
        reactivate,
    } = change;
    if *reactivate {
        memory.recovery = Some((Act::Asked, context.clock.now()));
    }
    let secret = new_key.as_ref().map(|(_, secret)| secret.clone());
    let fields = Fields {
        url: url.clone(),
        events: events.clone(),
        secret,
        active: *reactivate,
    };
    let sent = context.clock.now();
    let patched = connection
        .client
        .update(id, &fields, &key(world, "patch"))
        .await?;
    memory.answered();
    memory.patched(world.generation, context.clock.now());
    if *reactivate {
        memory.recovery = Some((Act::Patched, context.clock.now()));
    }
    memory.webhook_id = Some(id.to_owned());
    if let Some((key_id, _)) = new_key {
        memory.asserted = Some(key_id.clone());
    }
    match patched {
        Some(remote) => connection.roster().wrote(remote, context.clock.now()),
        None => memory.unclear_at = Some(sent),
    }
    let told = match why {
        Why::SwitchedOff => Told::Reactivated,
        Why::TakesOver | Why::TakesOverPinned => Told::Adopted,
        _ => Told::Updated,
    };
    let note = format!("Set {} of {id} at CHeKT: {}", change.fields(), why.text());
    transitions::publish(context, webhook, EventType::Normal, told, "Update", &note);
    Ok(())
}

async fn delete(
    context: &Context,
    webhook: &ChektWebhook,
    connection: &Connection,
    world: &World,
    (id, why): (&str, Why),
    memory: &mut Remembered,
) -> Result<(), PartnerError> {
    connection.client.delete(id, &key(world, "delete")).await?;
    memory.answered();
    memory.deleted = world.deleting;
    if !world.deleting && world.recorded_id.as_deref() == Some(id) {
        memory.recovery = Some((Act::Deleted, context.clock.now()));
    }
    connection.roster().removed(id, context.clock.now());
    let note = format!("Deleted {id} at CHeKT: {}", why.text());
    transitions::publish(
        context,
        webhook,
        EventType::Normal,
        Told::Deleted,
        "Delete",
        &note,
    );
    Ok(())
}

/// Puts on record that a remote webhook is let go of: in the account's status, which lasts, and in Events and the log for
/// those who look. Done again after a crash, it changes nothing in the status.
async fn orphan(
    context: &Context,
    webhook: &ChektWebhook,
    world: &World,
    left: &Left,
    why: Why,
) -> Result<(), PassError> {
    let Left { id, url, reason } = left;
    let (namespace, name) = (&world.webhook.namespace, &world.webhook.name);
    let account = match id {
        Some(id) => {
            let orphan = Orphan {
                id: id.clone(),
                url: url.clone(),
                since: Time(world.now),
                reason: *reason,
            };
            let one_at_a_time = context.orphans.lock().await;
            let account = orphans::record(&context.client, &world.account_name, orphan).await?;
            drop(one_at_a_time);
            account
        }
        None => None,
    };
    let what = match id {
        Some(id) => format!("{id} ({url}), which may still exist at CHeKT"),
        None => format!("a webhook that may have been made at CHeKT with the url {url}"),
    };
    let kind = match reason {
        // As written is no reason to worry anybody.
        OrphanReason::DeletionPolicy | OrphanReason::DefinitionDeleted => EventType::Normal,
        OrphanReason::AccountNotFound
        | OrphanReason::SecretNotFound
        | OrphanReason::SecretNotUsable
        | OrphanReason::CredentialsRejected => {
            tracing::warn!(
                namespace,
                name,
                id,
                url,
                why = why.text(),
                "a remote webhook was let go of"
            );
            EventType::Warning
        }
    };
    let advice = "Delete it with `chekt-operator orphans` or at CHeKT, or create a ChektWebhook with this url to have it managed again";
    let note = format!("Let go of {what}: {}. {advice}", why.text());
    transitions::publish(context, webhook, kind, Told::Orphaned, "Orphan", &note);
    if let Some(account) = account {
        let note = format!(
            "Let go of {what}, when ChektWebhook {namespace}/{name} was deleted: {}. {advice}",
            why.text()
        );
        transitions::publish(context, &account, kind, Told::Orphaned, "Orphan", &note);
    }
    Ok(())
}

fn count(context: &Context, step: &Step, is_ok: bool) {
    let labels = StepLabels {
        step: name(step),
        outcome: if is_ok { "ok" } else { "error" },
    };
    context.metrics.steps.get_or_create(&labels).inc();
}

/// Writes the one line of the log about a remote write: for which webhook, what, why, under which number, and what came of
/// it. CHeKT's own request id is in the error, where CHeKT names one.
fn audit(world: &World, step: &Step, id: Option<&str>, outcome: &Result<(), PartnerError>) {
    let (id, fields) = match step {
        Step::Create(..) => (id, "url, events, secret".to_owned()),
        Step::Patch(id, change, _) => (Some(id.as_str()), change.fields()),
        Step::Delete(id, _) | Step::Test(id, _) => (Some(id.as_str()), String::new()),
        _ => (id, String::new()),
    };
    let webhook = format!("{}/{}", world.webhook.namespace, world.webhook.name);
    let account = world.account_name.to_string();
    let (step, reason, key) = (name(step), step.why(), key(world, name(step)));
    match outcome {
        Ok(()) => {
            tracing::info!(
                webhook,
                account,
                step,
                id,
                fields,
                reason,
                key,
                "remote write"
            );
        }
        Err(error) => {
            tracing::warn!(webhook, account, step, id, fields, reason, key, unclear = error.unclear, error = %error.detail, "partner API request failed");
        }
    }
}

/// Takes in what became of a write.
fn settle(
    context: &Context,
    webhook: &ChektWebhook,
    connection: &Connection,
    step: &Step,
    outcome: Result<(), PartnerError>,
    memory: &mut Remembered,
    world: &World,
) {
    count(context, step, outcome.is_ok());
    audit(world, step, memory.webhook_id.as_deref(), &outcome);
    connection.heard(&world.webhook.uid, &outcome);
    let Err(error) = outcome else { return };
    let now = context.clock.now();
    if error.unclear {
        memory.unclear_at = Some(now);
    }
    // What answers 5xx again and again may be answering from what it keeps under our key, for a day.
    let is_kept = error.kind == Kind::Server && memory.failures >= KEPT;
    if !error.unclear || is_kept {
        memory.attempt = Attempt::Used;
    }
    match error.kind {
        Kind::Credentials | Kind::NoWebhooksApi => connection.failed(&error),
        // Whether it may be switched on says nothing of the rest of it; the cooldown decides what is tried next.
        Kind::Rejected | Kind::Forbidden if matches!(step, Step::Patch(_, _, Why::SwitchedOff)) => {
            memory.recovery = Some((Act::Patched, now));
        }
        Kind::Rejected | Kind::Forbidden => {
            let key_id = match step {
                Step::Create(draft, _) => Some(draft.key_id.clone()),
                Step::Patch(_, change, _) => change.key.as_ref().map(|(id, _)| id.clone()),
                _ => None,
            };
            let refusal = Refusal {
                generation: world.generation,
                create: matches!(step, Step::Create(..)),
                key_id,
                message: error.detail.to_string(),
                ago: Duration::ZERO,
            };
            memory.refusal = Some((refusal, now));
            transitions::publish(
                context,
                webhook,
                EventType::Warning,
                Told::Rejected,
                "Update",
                &error.detail,
            );
        }
        Kind::Missing => {
            if let Step::Patch(id, ..) | Step::Delete(id, _) = step {
                connection.roster().vanished(id, now);
            }
        }
        // Somebody else is at work on it: look again once that can show.
        Kind::Conflict => memory.unclear_at = Some(now),
        Kind::Throttled | Kind::Server | Kind::Network | Kind::Unreadable => {}
    }
    memory.failed(error.detail.into(), error.retry_after, now);
    if matches!(error.kind, Kind::Network | Kind::Server) {
        memory.unanswered = Some(now);
    }
}

/// The idempotency key of a write: uid, number and verb. Two writes share one only if the first had no answer.
fn key(world: &World, verb: &str) -> String {
    let attempt = world.keyring.as_ref().map_or(0, |k| k.attempt);
    format!("{}-{attempt}-{verb}", world.webhook.uid)
}

/// Takes in that a test delivery is noted or asked for, which proves that a webhook is on again if it is.
fn recovered(world: &World, memory: &mut Remembered) {
    if world.target().map(health::state) != Some(State::Off) {
        memory.recovery = memory.recovery.map(|(_, at)| (Act::Worked, at));
    }
}

/// The idempotency key of a request for a test delivery: uid and the number in the keyring, whatever was numbered since.
fn test_key(world: &World) -> String {
    let test = world.keyring.as_ref().and_then(|k| k.test.as_ref());
    let number = test.map_or(0, |test| test.number);
    format!("{}-{number}-test", world.webhook.uid)
}

/// The name of a step, for logs and metrics.
#[must_use]
pub fn name(step: &Step) -> &'static str {
    match step {
        Step::AddFinalizer(_) => "add_finalizer",
        Step::HoldAccount(_) => "hold_account",
        Step::Keyring(..) => "keyring",
        Step::List(..) => "list",
        Step::Create(..) => "create",
        Step::Patch(..) => "patch",
        Step::Delete(..) => "delete",
        Step::Test(..) => "test",
        Step::LookAtDefinition(_) => "definition",
        Step::Orphan(..) => "orphan",
        Step::RemoveKeyring(_) => "remove_keyring",
        Step::ReleaseFinalizer(_) => "release_finalizer",
        Step::Rest(_) => "rest",
    }
}
