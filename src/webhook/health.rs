//! Health: what CHeKT's word for the state of a remote webhook means, and what is done when it is off.
//!
//! CHeKT switches a webhook off after three failed deliveries in a row, and what happens while it is off is lost.
//! So it is switched on again: first by a PATCH of the state; if that does not help, by deleting and creating it.
//! The cooldown keeps apart the attempts, since a receiver that cannot be reached would only make it fall again.

use std::time::Duration;

use super::plan::{contentment, numbered, rest};
use super::step::{Change, KeyringChange, Step, Why};
use super::world::World;
use crate::resources::conditions::whole_seconds;
use crate::resources::remote::RemoteWebhook;
use crate::resources::webhook::{Outage, RecoveryPolicy, TestPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The words for "switched off" that CHeKT is known or likely to use, in lower case. The guide says only that a
/// webhook is disabled after three failures; `active` is the one literal it shows.
const OFF: [&str; 5] = ["disabled", "inactive", "paused", "suspended", "failed"];

/// The cooldown that stands in for one that cannot be read; the API server lets none of those in.
const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);

/// What a word of CHeKT's means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It delivers.
    Active,
    /// It does not, and may be switched on.
    Off,
    /// A word that is not known, or none: it is shown and left alone.
    Unknown,
}

/// How far the recovery of a webhook has come, as far as this process remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// How long ago.
    pub ago: Duration,
    /// What was done.
    pub act: Act,
}

/// What was done to switch a webhook on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A PATCH of its state was sent and no answer came, or none that says anything of it.
    Asked,
    /// Its state was PATCHed, or CHeKT refused to.
    Patched,
    /// It was deleted, to be created anew.
    Deleted,
    /// It has been active since.
    Worked,
}

/// What the state of a remote webhook means.
#[must_use]
pub fn state(remote: &RemoteWebhook) -> State {
    meaning(remote.state.as_deref())
}

/// What a word for the state means, or the lack of one.
#[must_use]
pub fn meaning(word: Option<&str>) -> State {
    match word.map(str::to_ascii_lowercase).as_deref() {
        Some("active") => State::Active,
        Some(word) if OFF.contains(&word) => State::Off,
        _ => State::Unknown,
    }
}

/// What is done about a remote webhook that is off.
#[must_use]
pub fn recover(world: &World) -> Option<Step> {
    let target = world.target()?;
    if state(target) != State::Off || world.spec.recovery.policy == RecoveryPolicy::Never {
        return None;
    }
    let cooldown = cooldown(&world.spec.recovery.cooldown);
    match world.memory.recovery.filter(|a| a.act != Act::Asked) {
        Some(attempted) if attempted.ago < cooldown => Some(rest(
            contentment(world),
            Some(cooldown.saturating_sub(attempted.ago)),
        )),
        Some(Attempted {
            act: Act::Patched, ..
        }) if world.roster.age.is_none() => {
            // Without a complete list it could not be made again.
            Some(rest(contentment(world), None))
        }
        Some(Attempted {
            act: Act::Patched, ..
        }) => Some(numbered(
            world,
            Step::Delete(target.id.clone(), Why::StaysOff),
        )),
        // The test delivery that is to prove it is noted first: a crash after the PATCH must not lose it.
        Some(_) | None if is_proof_to_be_noted(world) => {
            Some(Step::Keyring(KeyringChange::NoteTest, Why::NotProvedAgain))
        }
        Some(_) | None => {
            let change = Change {
                reactivate: true,
                ..Change::default()
            };
            Some(numbered(
                world,
                Step::Patch(target.id.clone(), change, Why::SwitchedOff),
            ))
        }
    }
}

fn is_proof_to_be_noted(world: &World) -> bool {
    let has_key = world.keyring.as_ref().is_some_and(|k| k.current.is_some());
    has_key && world.spec.test_policy == TestPolicy::OnChange && !world.test_is_unsent()
}

/// Whether the webhook has just been switched on again, or made anew for it, and nothing has proved it yet.
#[must_use]
pub fn is_to_be_proved(world: &World, target: &RemoteWebhook) -> bool {
    let switched = |act| matches!(act, Act::Asked | Act::Patched | Act::Deleted);
    state(target) == State::Active && world.memory.recovery.is_some_and(|a| switched(a.act))
}

/// The last outage, as the status is to tell it: it begins when a state is first seen to be off, and ends when it
/// is first seen to be active.
#[must_use]
pub fn outage(world: &World) -> Option<Outage> {
    let old = world.status.last_outage.clone();
    let now = || Time(whole_seconds(world.now));
    let open = old.as_ref().is_some_and(|o| o.to.is_none());
    match world.target().map(state) {
        Some(State::Off) if !open => Some(Outage {
            from: now(),
            to: None,
        }),
        Some(State::Active) if open => old.map(|o| Outage {
            to: Some(now()),
            ..o
        }),
        _ => old,
    }
}

fn cooldown(text: &str) -> Duration {
    text.parse::<kube::core::Duration>()
        .map_or(FIVE_MINUTES, Duration::from)
}
