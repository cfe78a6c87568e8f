//! The plan for a webhook that is being deleted: the remote webhook first, then the keyring, then the finalizer.
//!
//! The finalizer goes only when CHeKT has confirmed the deletion, or when a complete list that is fresh and
//! younger than every request of ours shows nothing of ours. A list that failed or was cut short is never a
//! reason.

use super::plan::{absence, ambiguous, hindrance, look, numbered, rest, without_account};
use super::step::{Because, Step};
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
        return leave(world, "deletionPolicy is Orphan");
    }
    let sent = world.keyring.as_ref().is_some_and(|k| k.attempt > 0);
    if world.recorded_id.is_none() && (!sent || world.claimed_by.is_some()) {
        return leave(world, "nothing was ever sent to CHeKT");
    }
    if world.memory.deleted && world.target().is_none() {
        return leave(world, "CHeKT confirmed the deletion");
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
        .or_else(|| hindrance(world))
        .or_else(|| look(world))
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
        return leave(
            world,
            "another webhook keeps the remote webhook with this url",
        );
    }
    let by_url = if world.claimed_by.is_some() {
        &[]
    } else {
        world.roster.by_url.as_slice()
    };
    let target = match (&world.roster.recorded, by_url) {
        (Some(recorded), _) => Some(recorded),
        // Under a given url another one may be somebody else's; ours, if it ever was, is the one on record.
        (None, _) if !world.derived && world.recorded_id.is_some() => None,
        (None, [one, rest @ ..]) if world.derived || rest.is_empty() => Some(one),
        (None, []) => None,
        (None, several) => return rest(ambiguous(several), None),
    };
    match target {
        Some(remote) => numbered(
            world,
            Step::Delete(remote.id.clone(), "the object is being deleted"),
        ),
        None => {
            absence(world).unwrap_or_else(|| leave(world, "a complete list shows nothing of ours"))
        }
    }
}

fn leave(world: &World, why: &'static str) -> Step {
    if world.keyring.is_some() {
        Step::RemoveKeyring
    } else {
        Step::ReleaseFinalizer(why)
    }
}
