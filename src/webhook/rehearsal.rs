//! The rehearsal: a world in which a step was done and all went well, so that it can be said what would come next without
//! doing anything.
//!
//! It is no second plan: the steps come from [`super::plan`], and here is only what CHeKT and Kubernetes are believed to
//! make of them.

use std::time::Duration;

use super::health::{Act, Attempted};
use super::plan::{SPREAD, plan};
use super::rotation::{self, Entropy};
use super::step::{Because, Change, KeyringChange, Rest, Step};
use super::world::{Attempt, Definition, Test, World};
use crate::resources::remote::{RemoteWebhook, SETTLE};

/// The most steps that are rehearsed: more than any sequence has that goes well.
const MOST: usize = 32;

/// What an id stands for that CHeKT has not given yet.
pub const NEW_ID: &str = "(new)";

/// The steps that would be done one after the other if all went well, up to where there is nothing to do. What must only be
/// waited for in between is left out.
#[must_use]
pub fn steps(world: &World) -> Vec<Step> {
    let mut world = world.clone();
    // Whoever asks is not the process that has sent something a moment ago.
    world.memory.running_for = world.memory.running_for.max(2 * SETTLE);
    let mut steps: Vec<Step> = Vec::new();
    while steps.len() < MOST {
        let step = plan(&world);
        if let Step::Rest(Rest { because, .. }) = &step {
            match because {
                Because::Settling | Because::Spreading | Because::Queued => {
                    let waited = world.roster.absent_for >= SETTLE
                        && world.memory.unclear.is_none()
                        && world.memory.next_for.is_none_or(|ago| ago >= SPREAD);
                    if !waited {
                        wait(&mut world);
                        continue;
                    }
                }
                Because::Starting
                | Because::InSync
                | Because::Retrying(_)
                | Because::Suspended
                | Because::Lacking(..)
                | Because::Stalled(..)
                | Because::Gone => {}
            }
            steps.push(step);
            break;
        }
        done(&mut world, &step);
        steps.push(step);
    }
    steps
}

fn wait(world: &mut World) {
    world.memory.unclear = None;
    world.memory.next_for = world.memory.next_for.map(|ago| ago.max(SPREAD));
    world.roster.absent_for = SETTLE;
    world.roster.age = Some(Duration::ZERO);
}

/// The world after a step that went well.
fn done(world: &mut World, step: &Step) {
    if step.is_remote_write() {
        world.memory.attempt = Attempt::Used;
    }
    match step {
        Step::AddFinalizer(_) => world.finalizer = true,
        Step::HoldAccount(_) => world.account_held = true,
        Step::Keyring(change, _) => keyring(world, *change),
        Step::List(..) => {
            world
                .memory
                .listed_for
                .clone_from(&world.reconcile_requested);
            wait(world);
        }
        Step::Create(draft, _) => {
            world.memory.asserted = Some(draft.key_id.clone());
            have(
                world,
                RemoteWebhook {
                    id: NEW_ID.to_owned(),
                    url: draft.url.clone(),
                    events: draft.events.clone(),
                    state: Some("active".to_owned()),
                    created_at: None,
                },
            );
        }
        Step::Patch(id, change, _) => patched(world, id, change),
        Step::Delete(id, _) => {
            world.memory.deleted = world.deleting;
            if !world.deleting && world.recorded_id.as_ref() == Some(id) {
                let (ago, act) = (Duration::ZERO, Act::Deleted);
                world.memory.recovery = Some(Attempted { ago, act });
            }
            let is_it = |remote: &RemoteWebhook| remote.id == *id;
            world.roster.by_url.retain(|remote| !is_it(remote));
            world.roster.recorded = world.roster.recorded.take().filter(|r| !is_it(r));
            world.roster.pinned = world.roster.pinned.take().filter(|r| !is_it(r));
            world.roster.absent_for = SETTLE;
        }
        Step::Test(..) => world.memory.test = Test::Sent,
        Step::LookAtDefinition(_) => world.removal.definition = Definition::Stays,
        Step::Orphan(..) => world.memory.orphaned = true,
        Step::RemoveKeyring(_) => world.keyring = None,
        Step::ReleaseFinalizer(_) => world.finalizer = false,
        Step::Rest(_) => {}
    }
}

fn keyring(world: &mut World, change: KeyringChange) {
    // What is made up here is never shown and never sent.
    let entropy = Entropy {
        secret: [0; 32],
        id: [0; 6],
    };
    if rotation::notes_test(change, world) {
        world.memory.test = Test::Recorded;
    }
    if change == KeyringChange::Next {
        world.memory.next_for = Some(SPREAD);
    }
    // An empty secret is refused where it is read, so it does not come this far.
    if let Ok(keyring) = rotation::apply(change, world, &entropy) {
        world.keyring = Some(keyring);
    }
    world.memory.attempt = Attempt::Open;
}

fn patched(world: &mut World, id: &str, change: &Change) {
    let Change {
        url,
        events,
        key,
        reactivate,
    } = change;
    if let Some((key_id, _)) = key {
        world.memory.asserted = Some(key_id.clone());
    }
    let Some(mut remote) = world.target().filter(|t| t.id == id).cloned() else {
        return;
    };
    if let Some(url) = url {
        remote.url.clone_from(url);
    }
    if let Some(events) = events {
        remote.events.clone_from(events);
    }
    if *reactivate {
        remote.state = Some("active".to_owned());
        let (ago, act) = (Duration::ZERO, Act::Worked);
        world.memory.recovery = Some(Attempted { ago, act });
    }
    have(world, remote);
}

/// CHeKT has it, and its id is on record.
fn have(world: &mut World, remote: RemoteWebhook) {
    world.recorded_id = Some(remote.id.clone());
    world.status.webhook_id = Some(remote.id.clone());
    world.roster.by_url.retain(|r| r.id != remote.id);
    world.roster.by_url.insert(0, remote.clone());
    world.roster.recorded = Some(remote);
}
