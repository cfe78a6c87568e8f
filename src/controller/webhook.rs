//! A pass over one webhook: gather, plan, perform, until there is nothing to do for now.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};

use super::context::{Context, lighten};
use super::echoes::is_ours_alone;
use super::gather::{Gathered, Held, PassError, gather};
use super::memory::Remembered;
use super::perform::{Performed, perform};
use super::{forbidden, holds, transitions};
use crate::account::turns::{Asker, Turn, Urgency};
use crate::cluster::secrets::ReadError;
use crate::cluster::{ClusterError, within, write};
use crate::resources::keyring::{Keyring, WebhookIdentity};
use crate::resources::webhook::{ChektWebhookStatus, TestPolicy};
use crate::resources::{CONTROLLER_MANAGER, ChektWebhook};
use crate::webhook::health::{self, Act};
use crate::webhook::plan::plan;
use crate::webhook::report::{self, report};
use crate::webhook::step::{Because, Rest, Step};
use crate::webhook::world::World;

/// The most steps of one pass; a webhook that needs more gives the others a turn.
const MOST_STEPS: usize = 24;
/// How long the API server may take to show an object.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause after a pass that was not finished because somebody else wrote first.
const AFTER_CONFLICT: Duration = Duration::from_millis(200);
/// How soon a webhook that waits for its turn looks again by itself, should the account that gives turns be made anew
/// meanwhile.
const TURN: Duration = Duration::from_secs(60);
/// The pause after a pass that Kubernetes kept from being finished.
const AFTER_ERROR: Duration = Duration::from_secs(5);

/// One pass.
///
/// # Errors
/// None: what Kubernetes made of it is logged here, and decides when the next pass comes.
pub async fn reconcile(
    webhook: Arc<ChektWebhook>,
    context: Arc<Context>,
) -> Result<Action, std::convert::Infallible> {
    context.metrics.passes.inc();
    let uid = webhook.uid().unwrap_or_default();
    let memory = context.memory(&uid);
    let mut memory = memory.lock().await;
    let (namespace, name) = (webhook.namespace().unwrap_or_default(), webhook.name_any());
    let began = context.clock.now();
    let passed = Box::pin(pass(&context, &webhook, &mut memory)).await;
    let took = context.clock.now().saturating_duration_since(began);
    context.metrics.passed("webhook", took);
    Ok(match passed {
        Ok(action) => action,
        Err(PassError::Cluster(ClusterError::Conflict(why) | ClusterError::AlreadyExists(why))) => {
            tracing::debug!(namespace, name, why, "somebody else wrote first");
            Action::requeue(AFTER_CONFLICT)
        }
        Err(PassError::Cluster(ClusterError::NotFound(what))) => {
            tracing::debug!(namespace, name, what, "gone meanwhile");
            Action::requeue(AFTER_ERROR)
        }
        Err(error) => {
            context.metrics.errors.inc();
            tracing::warn!(namespace, name, %error, "the pass could not be finished");
            if let PassError::Cluster(ClusterError::Forbidden(why))
            | PassError::Keyring(ReadError::Cluster(ClusterError::Forbidden(why))) = &error
            {
                forbidden::tell_webhook(&context, &webhook, why).await;
            }
            Action::requeue(AFTER_ERROR)
        }
    })
}

/// The object as it is. A store that does not show our own last write yet would have it made again. `None`: another
/// object is under its name by now, of which the store will tell.
async fn present(
    context: &Context,
    known: &ChektWebhook,
) -> Result<Option<ChektWebhook>, ClusterError> {
    let uid = known.uid().unwrap_or_default();
    let version = known.metadata.resource_version.as_deref();
    if !context.webhook_echoes.is_behind(&uid, version) {
        return Ok(Some(known.clone()));
    }
    let namespace = known.namespace().unwrap_or_default();
    let api: Api<ChektWebhook> = Api::namespaced(context.client.clone(), &namespace);
    let mut present = within(DEADLINE, api.get(&known.name_any())).await?;
    lighten(&mut present);
    if present.resource_version() == known.resource_version() {
        // Somebody else has written since, and the store shows that.
        context.webhook_echoes.forget(&uid);
    }
    Ok(Some(present).filter(|present| present.uid() == known.uid()))
}

async fn pass(
    context: &Context,
    known: &ChektWebhook,
    memory: &mut Remembered,
) -> Result<Action, PassError> {
    let Some(mut webhook) = present(context, known).await? else {
        return Ok(Action::await_change());
    };
    let mut held = Held::read(context, &webhook).await?;
    for _ in 0..MOST_STEPS {
        if held.is_for_another(&webhook) {
            held = Held::read(context, &webhook).await?;
        }
        let test = held.keyring.as_ref().and_then(|k| k.keyring.test.as_ref());
        let deliveries = webhook.status.as_ref().and_then(|s| s.deliveries.as_ref());
        let delay = deliveries.and_then(|d| d.delayed.as_ref());
        memory.look(test, delay, context.clock.now());
        let gathered = gather(context, &webhook, memory, &held);
        let world = &gathered.world;
        let now = context.clock.now();
        let lost = world.removal.loss.is_some();
        memory.lost_at = lost.then(|| memory.lost_at.unwrap_or(now));
        let step = plan(world);
        if world
            .target()
            .is_some_and(|t| crate::webhook::drift::change(world, t).is_empty())
        {
            memory.unheeded = None;
        }
        if world.spec.test_policy == TestPolicy::Never
            && world
                .target()
                .is_some_and(|t| health::is_to_be_proved(world, t))
        {
            memory.recovery = memory.recovery.map(|(_, at)| (Act::Worked, at));
        }
        if let Some(wait) = without_turn(context, &gathered, &step) {
            let because = Because::Queued;
            let again = Some(wait);
            report_to(
                context,
                webhook,
                world,
                &Step::Rest(Rest { because, again }),
            )
            .await?;
            return Ok(Action::requeue(wait));
        }
        webhook = report_to(context, webhook, world, &step).await?;
        if let Step::Rest(Rest { because, again }) = step {
            if because == Because::Gone {
                context.forget(&world.webhook.uid);
            }
            let again = [again, report::ages_in(world)].into_iter().flatten().min();
            return Ok(again.map_or_else(Action::await_change, |wait| {
                Action::requeue(wait.max(Duration::from_millis(50)))
            }));
        }
        match perform(context, &webhook, &gathered, &step, memory).await? {
            Performed::Object(object) => webhook = wrote(context, &webhook, *object),
            Performed::Keyring(stored) => {
                let name = Keyring::secret_name(&stored.keyring.webhook.uid);
                let version = stored.resource_version.clone();
                context.keyring_echoes.expect(&name, version);
                held.keyring = Some(*stored);
            }
            Performed::NoKeyring => held.keyring = None,
            Performed::Gone => {
                context.forget(&world.webhook.uid);
                holds::left(context, &world.account_name, &world.webhook.uid);
                return Ok(Action::await_change());
            }
            Performed::Remote => {}
        }
    }
    Ok(Action::requeue(Duration::from_secs(1)))
}

/// How long to wait, if it is not this webhook's turn. A pass never sleeps: there are few at once, and one of another
/// account might need the place. Whoever rests no longer waits for a turn.
fn without_turn(context: &Context, gathered: &Gathered, step: &Step) -> Option<Duration> {
    let connection = gathered.connection.as_ref()?;
    let WebhookIdentity {
        namespace, name, ..
    } = &gathered.world.webhook;
    let asker = Asker {
        namespace: namespace.clone(),
        name: name.clone(),
    };
    if step.is_remote_write() {
        let urgency = if step.is_care() {
            Urgency::Care
        } else {
            Urgency::Wanted
        };
        return match connection.client.ask(&asker, urgency) {
            Turn::Now => None,
            Turn::Later => Some(TURN),
        };
    }
    if matches!(step, Step::Rest(_)) {
        connection.client.leave(&asker);
    }
    let looks = matches!(step, Step::List(..));
    connection
        .client
        .silent_for(context.clock.now())
        .filter(|_| looks)
}

/// Whether a status is worth a write: when there is nothing more to do for now, and at once when an id or an outage must
/// be put on record.
fn is_worth_a_write(world: &World, step: &Step, status: &ChektWebhookStatus) -> bool {
    match step {
        Step::Rest(rest) => !matches!(
            rest.because,
            Because::Gone | Because::Starting | Because::Spreading
        ),
        Step::AddFinalizer(_)
        | Step::HoldAccount(_)
        | Step::LookAtDefinition(_)
        | Step::Orphan(..)
        | Step::RemoveKeyring(_)
        | Step::ReleaseFinalizer(_) => false,
        Step::Keyring(..)
        | Step::List(..)
        | Step::Create(..)
        | Step::Patch(..)
        | Step::Delete(..)
        | Step::Test(..) => {
            let old = &world.status;
            !world.deleting
                && (status.webhook_id != old.webhook_id || status.last_outage != old.last_outage)
        }
    }
}

async fn report_to(
    context: &Context,
    webhook: ChektWebhook,
    world: &World,
    step: &Step,
) -> Result<ChektWebhook, ClusterError> {
    let status = report(world, step);
    if !is_worth_a_write(world, step, &status) {
        return Ok(webhook);
    }
    let old = ChektWebhookStatus {
        deliveries: None,
        ..webhook.status.clone().unwrap_or_default()
    };
    if status == old {
        return Ok(webhook);
    }
    let api: Api<ChektWebhook> = Api::namespaced(context.client.clone(), &world.webhook.namespace);
    let written = write::status(&api, &webhook, &status, CONTROLLER_MANAGER).await?;
    transitions::ready(context, &webhook, &status);
    Ok(wrote(context, &webhook, written))
}

/// Takes in what a write of ours has made of a webhook, so that its echo wakes nobody.
fn wrote(context: &Context, before: &ChektWebhook, mut after: ChektWebhook) -> ChektWebhook {
    lighten(&mut after);
    let deliveries = |w: &ChektWebhook| w.status.as_ref().and_then(|s| s.deliveries.clone());
    if is_ours_alone(&before.metadata, &after.metadata) && deliveries(before) == deliveries(&after)
    {
        let uid = after.uid().unwrap_or_default();
        context
            .webhook_echoes
            .expect(&uid, after.resource_version());
    }
    after
}
