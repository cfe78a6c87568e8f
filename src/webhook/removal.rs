//! The plan for a webhook that is being deleted: the remote webhook first, then the keyring, then the finalizer.
//!
//! The finalizer goes only when CHeKT has confirmed the deletion, or when a complete list that is fresh and
//! younger than every request of ours shows nothing of ours. A list that failed or was cut short is never a
//! reason.
//!
//! One thing else lets it go: credentials that are gone for good ([`crate::account::orphans::loss`]), some time after the
//! deletion was asked for. Nobody here can delete anything with them, and whoever waits for the object would wait for
//! ever. The remote webhook is put on record as an orphan first.
//!
//! And whoever deletes the definition of the kind takes the operator away, and wants no alarm to fall silent by that: so
//! its webhooks are let go of, too, and the same manifests take them over again one day.

use std::time::Duration;

use super::plan::{
    absence, ambiguous, never_listed, numbered, outcome_unknown, pass_requested, refusal, rest,
    trouble, without_account,
};
use super::step::{Because, Left, Step, Why};
use super::world::{AccountView, Definition, Loss, World};
use crate::resources::account::OrphanReason;
use crate::resources::reasons::Reason;
use crate::resources::remote::same;
use crate::resources::webhook::DeletionPolicy;

/// How long credentials must have been seen to be gone, at least, where the deletion was asked for long ago: a Secret
/// that is being replaced is gone for a moment, and what has just come back from an outage may say no at first.
pub const LOSS_PROOF: Duration = Duration::from_secs(60);

/// How long it counts that the definition of the kind stays: whoever waits to be deleted at CHeKT must not keep a
/// definition that is deleted meanwhile.
pub const DEFINITION_AGE: Duration = Duration::from_secs(60);

/// What to do next.
#[must_use]
pub fn plan(world: &World) -> Step {
    if !world.finalizer {
        return rest(Because::Gone, None);
    }
    if world.spec.deletion_policy == DeletionPolicy::Orphan {
        return let_go(world, OrphanReason::DeletionPolicy, Why::OrphanPolicy);
    }
    if world.recorded_id.is_none() && (!sent(world) || world.claimed_by.is_some()) {
        return leave(world, Why::NeverSent);
    }
    if world.memory.deleted && world.target().is_none() {
        return leave(world, Why::DeletionConfirmed);
    }
    match world.removal.definition {
        Definition::Unknown => return Step::LookAtDefinition(Why::DefinitionUnknown),
        Definition::Goes => {
            return let_go(world, OrphanReason::DefinitionDeleted, Why::DefinitionGoes);
        }
        Definition::Stays => {}
    }
    if world.spec.suspend {
        let message = "spec.suspend is true, so the remote webhook is not deleted: set suspend to false, or deletionPolicy to Orphan";
        return rest(
            Because::Lacking(Reason::Suspended, message.to_owned()),
            Some(DEFINITION_AGE),
        );
    }
    if let AccountView::NotReady(reason, message) = &world.account
        && without_account(world).is_some()
    {
        if let Some(loss) = world.removal.loss {
            return lost(world, loss, *reason, message);
        }
        let message = format!(
            "{message}. To leave the remote webhook where it is, set spec.deletionPolicy to Orphan"
        );
        return rest(Because::Lacking(*reason, message), Some(DEFINITION_AGE));
    }
    if let Some(step) = without_account(world)
        .or_else(|| refusal(world))
        .or_else(|| trouble(world))
        .or_else(|| never_listed(world))
        .or_else(|| pass_requested(world))
        .or_else(|| outcome_unknown(world))
    {
        return step;
    }
    if world.claimed_by.is_some()
        && world
            .roster
            .recorded
            .as_ref()
            .is_some_and(|r| same(&r.url, &world.url))
    {
        return leave(world, Why::KeptByAnother);
    }
    let target = match (&world.roster.recorded, world.as_written()) {
        (Some(recorded), _) => Some(recorded),
        // Under a given url another one may be somebody else's; ours, if it ever was, is the one on record.
        (None, _) if !world.derived && world.recorded_id.is_some() => None,
        (None, [one, rest @ ..]) if world.derived || rest.is_empty() => Some(one),
        (None, []) => None,
        (None, several) => return rest(ambiguous(several), None),
    };
    match target {
        Some(remote) => numbered(world, Step::Delete(remote.id.clone(), Why::BeingDeleted)),
        None => absence(world).unwrap_or_else(|| leave(world, Why::NothingOfOurs)),
    }
}

/// Credentials that are gone for good: the finalizer is released once that has lasted.
fn lost(world: &World, loss: Loss, reason: Reason, message: &str) -> Step {
    let after = world.removal.orphan_after;
    let asked_at = world.removal.asked_at.unwrap_or(world.now);
    let waited = Duration::try_from(world.now.duration_since(asked_at)).unwrap_or_default();
    let left = after.saturating_sub(waited);
    let proof = LOSS_PROOF.min(after).saturating_sub(loss.seen_for);
    let wait = left.max(proof);
    if wait.is_zero() {
        return let_go(world, loss.reason, Why::CredentialsGone);
    }
    let when = match asked_at.checked_add(after) {
        // A moment that does not move: a message that did would be written again and again.
        Ok(at) if !left.is_zero() => format!("at {at}"),
        Ok(_) | Err(_) => "within a minute".to_owned(),
    };
    let message = format!(
        "{message}. If that stays so, this object is let go of {when}, and the remote webhook stays at CHeKT. To do that now, set spec.deletionPolicy to Orphan"
    );
    rest(
        Because::Lacking(reason, message),
        Some(wait.min(DEFINITION_AGE)),
    )
}

/// Lets go of what may be at CHeKT: first it is put on record, then the keyring and the finalizer go.
fn let_go(world: &World, reason: OrphanReason, why: Why) -> Step {
    let target = world.target().map(|t| t.id.clone());
    let id = world.recorded_id.clone().or(target);
    if world.memory.orphaned || (id.is_none() && !sent(world)) {
        return leave(world, why);
    }
    let status = &world.status;
    let url = status.url.clone().unwrap_or_else(|| world.url.clone());
    Step::Orphan(Left { id, url, reason }, why)
}

/// Whether a request was sent that may have made a remote webhook.
fn sent(world: &World) -> bool {
    world.keyring.as_ref().is_some_and(|k| k.attempt > 0)
}

fn leave(world: &World, why: Why) -> Step {
    if world.keyring.is_some() {
        Step::RemoveKeyring(why)
    } else {
        Step::ReleaseFinalizer(why)
    }
}
