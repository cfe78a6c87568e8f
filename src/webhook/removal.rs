//! The plan for a webhook that is being deleted: the remote webhook first, then the keyring, then the finalizer.
//!
//! The finalizer goes only when CHeKT has confirmed the deletion, or when a complete list that is fresh and
//! younger than every request of ours shows nothing of ours. A list that failed or was cut short is never a
//! reason.

use super::plan::{
    absence, ambiguous, never_listed, numbered, outcome_unknown, pass_requested, refusal, rest,
    trouble, without_account,
};
use super::step::{Because, Step, Why};
use super::world::{AccountView, World};
use crate::resources::reasons::Reason;
use crate::resources::remote::same;
use crate::resources::webhook::DeletionPolicy;

/// What to do next.
#[must_use]
pub fn plan(world: &World) -> Step {
    if !world.finalizer {
        return rest(Because::Gone, None);
    }
    if world.spec.deletion_policy == DeletionPolicy::Orphan {
        return leave(world, Why::OrphanPolicy);
    }
    let sent = world.keyring.as_ref().is_some_and(|k| k.attempt > 0);
    if world.recorded_id.is_none() && (!sent || world.claimed_by.is_some()) {
        return leave(world, Why::NeverSent);
    }
    if world.memory.deleted && world.target().is_none() {
        return leave(world, Why::DeletionConfirmed);
    }
    if world.spec.suspend {
        let message = "spec.suspend is true, so the remote webhook is not deleted: set suspend to false, or deletionPolicy to Orphan";
        return rest(
            Because::Lacking(Reason::Suspended, message.to_owned()),
            None,
        );
    }
    if let AccountView::NotReady(reason, message) = &world.account {
        let message = format!(
            "{message}. To leave the remote webhook where it is, set spec.deletionPolicy to Orphan"
        );
        return rest(Because::Lacking(*reason, message), None);
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

fn leave(world: &World, why: Why) -> Step {
    if world.keyring.is_some() {
        Step::RemoveKeyring(why)
    } else {
        Step::ReleaseFinalizer(why)
    }
}
