//! The report: what a status says of a world and of the step that comes next.
//!
//! It is computed anew each time and compared with what stands there, so that a pass which changes nothing
//! writes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::drift;
use super::health::{self, State};
use super::plan::TEST_PATIENCE;
use super::step::{Because, Rest, Step};
use super::world::{AccountView, Test, World};
use crate::resources::conditions::{
    self, ACTIVE, DELIVERIES_DELAYED, READY, RECONCILING, STALLED, SUSPENDED, SYNCED, Truth,
    VERIFIED, Verdict,
};
use crate::resources::reasons::Reason;
use crate::resources::remote::RemoteWebhook;
use crate::resources::webhook::{ChektWebhookStatus, Delay, RecoveryPolicy, TestPolicy};

/// The status that stands for `world` while `step` is what comes next. `deliveries` is left out: it is the
/// receiver's.
#[must_use]
pub fn report(world: &World, step: &Step) -> ChektWebhookStatus {
    let target = world.target();
    let old = &world.status;
    let verdicts = verdicts(world, step, target);
    let handled =
        matches!(step, Step::Rest(_)) && world.reconcile_requested == world.memory.listed_for;
    ChektWebhookStatus {
        observed_generation: Some(world.generation),
        account: match &world.keyring {
            Some(_) => Some(world.account_name.to_string()),
            None => old.account.clone(),
        },
        // One that is still to be taken over is nobody's yet: what is on record is deleted with the object, and needs no
        // key any more. Without a keyring nothing was ever sent to it.
        webhook_id: target
            .filter(|t| world.keyring.is_some() && drift::change(world, t).is_empty())
            .map(|t| t.id.clone())
            .or_else(|| world.recorded_id.clone()),
        url: target.map(|t| t.url.clone()).or_else(|| old.url.clone()),
        events: target.map_or_else(|| old.events.clone(), |t| sorted(&t.events)),
        state: target.map_or_else(|| old.state.clone(), |t| t.state.clone()),
        created_at: target.map_or_else(|| old.created_at.clone(), |t| t.created_at.clone()),
        last_handled_reconcile_at: if handled {
            world.reconcile_requested.clone()
        } else {
            old.last_handled_reconcile_at.clone()
        },
        last_handled_test_at: handled_test(world, step),
        last_handled_rotate_at: handled_rotation(world, step),
        last_outage: health::outage(world),
        deliveries: None,
        conditions: conditions::merge(&old.conditions, &verdicts, world.generation, world.now),
    }
}

/// The last request for a test delivery that was acted on.
fn handled_test(world: &World, step: &Step) -> Option<String> {
    let noted = world
        .keyring
        .as_ref()
        .filter(|_| matches!(step, Step::Rest(_)) && !world.test_is_unsent())
        .and_then(|k| k.test_requested.clone());
    noted.or_else(|| world.status.last_handled_test_at.clone())
}

/// The last request for a new secret whose secret is in force.
fn handled_rotation(world: &World, step: &Step) -> Option<String> {
    let in_force = world
        .keyring
        .as_ref()
        .filter(|k| matches!(step, Step::Rest(_)) && k.next.is_none())
        .and_then(|k| k.rotation_requested.clone());
    in_force.or_else(|| world.status.last_handled_rotate_at.clone())
}

fn sorted(events: &[String]) -> Vec<String> {
    events
        .iter()
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn verdicts(world: &World, step: &Step, target: Option<&RemoteWebhook>) -> Vec<Verdict> {
    let synced = synced(world, step, target);
    let active = active(world, target);
    let mut all = vec![
        ready(world, step, &synced, &active),
        synced,
        active,
        verified(world),
    ];
    all.extend(progress(step, is_done(world, target)));
    all.extend(delayed(world));
    all
}

/// When the report may change although nothing else does: a report of the receiver's will not have changed for too long.
#[must_use]
pub fn ages_in(world: &World) -> Option<Duration> {
    let seen = world.status.deliveries.as_ref()?;
    seen.delayed.as_ref()?;
    Delay::counts_for(world.memory.delay_unchanged)
}

/// That acknowledged deliveries wait, as long as a receiver says so. The remote webhook is none the worse for it, so
/// Ready is not touched.
fn delayed(world: &World) -> Option<Verdict> {
    ages_in(world)?;
    let delay = world.status.deliveries.as_ref()?.delayed.as_ref()?;
    let waiting = "Acknowledged deliveries have waited for longer than a minute to become Events; none of them is lost.";
    let message = match &delay.cause {
        Some(cause) => format!(
            "{waiting} {cause}. The receiver tries again by itself: see to what the API server answers there, such as RBAC, \
             an admission webhook, a policy or a quota."
        ),
        None => format!(
            "{waiting} Look at the log of receiver {}: more arrive than --events-per-second lets through, or the receiver \
             cannot reach the API server.",
            delay.receiver
        ),
    };
    Some(verdict(
        DELIVERIES_DELAYED,
        Truth::True,
        Reason::EventsWaiting,
        message,
    ))
}

fn verdict(
    kind: &'static str,
    truth: Truth,
    reason: Reason,
    message: impl Into<String>,
) -> Verdict {
    Verdict {
        kind,
        truth,
        reason,
        message: message.into(),
    }
}

/// Ready is Synced and Active; what is missing lends it its words.
fn ready(world: &World, step: &Step, synced: &Verdict, active: &Verdict) -> Verdict {
    if world.deleting {
        let (reason, message) = match step {
            Step::Rest(Rest {
                because:
                    Because::Lacking(_, why) | Because::Retrying(why) | Because::Stalled(_, why),
                ..
            }) => (
                synced.reason,
                format!("The remote webhook cannot be deleted yet: {why}"),
            ),
            _ => (
                Reason::Deleting,
                "The remote webhook is being deleted.".to_owned(),
            ),
        };
        return verdict(READY, Truth::False, reason, message);
    }
    let lacking = [synced, active]
        .into_iter()
        .find(|v| v.truth != Truth::True);
    match lacking {
        Some(v) => verdict(READY, v.truth, v.reason, v.message.clone()),
        None => verdict(
            READY,
            Truth::True,
            Reason::InSync,
            "The remote webhook is active and as written.",
        ),
    }
}

fn synced(world: &World, step: &Step, target: Option<&RemoteWebhook>) -> Verdict {
    let seen = |fallback: Truth| match target {
        Some(t) if drift::change(world, t).is_empty() => Truth::True,
        Some(_) => Truth::False,
        None => fallback,
    };
    let (truth, reason, message) = match step {
        Step::Rest(Rest { because, .. }) => match because {
            Because::InSync => return in_sync(),
            // What failed was not about the remote webhook, which is as written: a test delivery, say.
            Because::Settling | Because::Retrying(_) | Because::Queued
                if is_done(world, target) =>
            {
                return in_sync();
            }
            Because::Starting => (
                Truth::Unknown,
                Reason::Working,
                "The account was not looked at yet.".to_owned(),
            ),
            Because::Gone => (
                Truth::False,
                Reason::Deleting,
                "The remote webhook is gone.".to_owned(),
            ),
            Because::Spreading => (
                Truth::False,
                Reason::Working,
                "A new secret is on its way.".to_owned(),
            ),
            Because::Queued => (
                Truth::False,
                Reason::Queued,
                "The account's budget of requests is used up for now, and others come first."
                    .to_owned(),
            ),
            Because::Settling => (
                Truth::False,
                Reason::Settling,
                "The outcome of an earlier request must show before the next one.".to_owned(),
            ),
            Because::Suspended => (
                seen(Truth::Unknown),
                Reason::Suspended,
                "spec.suspend is true: nothing is changed at CHeKT.".to_owned(),
            ),
            Because::Retrying(why) => (Truth::False, Reason::Retrying, why.clone()),
            Because::Stalled(reason, why) => (Truth::False, *reason, why.clone()),
            Because::Lacking(reason, why) => {
                let unknown = world.account != AccountView::Ready && target.is_some();
                (
                    if unknown {
                        Truth::Unknown
                    } else {
                        Truth::False
                    },
                    *reason,
                    why.clone(),
                )
            }
        },
        Step::Test(..) => return in_sync(),
        Step::Keyring(..) if seen(Truth::False) == Truth::True => return in_sync(),
        Step::AddFinalizer(_)
        | Step::HoldAccount(_)
        | Step::Keyring(..)
        | Step::List(..)
        | Step::Create(..)
        | Step::Patch(..)
        | Step::Delete(..)
        | Step::LookAtDefinition(_)
        | Step::Orphan(..)
        | Step::RemoveKeyring(_)
        | Step::ReleaseFinalizer(_) => {
            if seen(Truth::False) == Truth::True && !world.deleting {
                return in_sync();
            }
            let reason = if world.deleting {
                Reason::Deleting
            } else {
                Reason::Working
            };
            (
                Truth::False,
                reason,
                "The remote webhook is being brought to what is written.".to_owned(),
            )
        }
    };
    verdict(SYNCED, truth, reason, message)
}

/// Whether a wanted webhook is as written, as far as CHeKT has shown.
fn is_done(world: &World, target: Option<&RemoteWebhook>) -> bool {
    !world.deleting && target.is_some_and(|t| drift::change(world, t).is_empty())
}

fn in_sync() -> Verdict {
    verdict(
        SYNCED,
        Truth::True,
        Reason::InSync,
        "The remote webhook is as written.",
    )
}

fn active(world: &World, target: Option<&RemoteWebhook>) -> Verdict {
    if target.is_none() && world.roster.age.is_none() {
        // Nothing complete was listed yet: say what was said last, and nothing if nothing was.
        if let Some(old) = conditions::find(&world.status.conditions, ACTIVE)
            && old.status == "True"
        {
            return verdict(ACTIVE, Truth::True, Reason::Active, old.message.clone());
        }
    }
    let Some(target) = target else {
        return verdict(
            ACTIVE,
            Truth::False,
            Reason::NotCreated,
            "There is no remote webhook.",
        );
    };
    let said = target.state.as_deref().unwrap_or_default();
    match health::state(target) {
        State::Active => verdict(
            ACTIVE,
            Truth::True,
            Reason::Active,
            "CHeKT says that the remote webhook is active.",
        ),
        State::Off => {
            let next = match world.spec.recovery.policy {
                RecoveryPolicy::Reactivate => {
                    "the operator switches it on again, at most once every spec.recovery.cooldown"
                }
                RecoveryPolicy::Never => "spec.recovery.policy is Never, so switch it on at CHeKT",
            };
            let message = format!(
                "CHeKT says that the remote webhook is {said}, as it does after three failed deliveries in a row: {next}"
            );
            verdict(ACTIVE, Truth::False, Reason::SwitchedOff, message)
        }
        State::Unknown if said.is_empty() => {
            let message = "CHeKT says nothing of the state of the remote webhook";
            verdict(ACTIVE, Truth::Unknown, Reason::UnknownState, message)
        }
        State::Unknown => {
            let message = format!(
                "CHeKT says that the remote webhook is {said:?}, a word that is left alone"
            );
            verdict(ACTIVE, Truth::Unknown, Reason::UnknownState, message)
        }
    }
}

fn verified(world: &World) -> Verdict {
    if world.is_verified() {
        return verdict(
            VERIFIED,
            Truth::True,
            Reason::Verified,
            "A test delivery came back under the current secret.",
        );
    }
    if let Test::Refused(why) = &world.memory.test {
        return verdict(VERIFIED, Truth::False, Reason::TestRefused, why.clone());
    }
    if world.spec.test_policy == TestPolicy::Never && !world.test_answers_a_request() {
        return verdict(
            VERIFIED,
            Truth::Unknown,
            Reason::TestNever,
            "spec.testPolicy is Never: no test delivery is asked for.",
        );
    }
    if !world.received_here {
        let message = "Deliveries go to a url that is not this operator's, so nobody here can see them arrive.";
        return verdict(VERIFIED, Truth::Unknown, Reason::ReceivedElsewhere, message);
    }
    let waits = world.waits_for_test();
    let is_lost = waits.is_some_and(|proof| proof.since >= TEST_PATIENCE);
    // Said once, it is not taken back before a test delivery has come.
    let said = conditions::find(&world.status.conditions, VERIFIED)
        .is_some_and(|c| c.status == "False" && c.reason == Reason::TestPending.as_str());
    if is_lost || said {
        let message = "A test delivery was asked for and has not arrived: check that the public URL leads to the receiver.";
        return verdict(VERIFIED, Truth::False, Reason::TestPending, message);
    }
    verdict(
        VERIFIED,
        Truth::Unknown,
        Reason::TestPending,
        "No test delivery has arrived yet.",
    )
}

/// Reconciling or Stalled, never both: kstatus lets Reconciling win, so a stall would never be seen.
fn progress(step: &Step, done: bool) -> Option<Verdict> {
    match step {
        Step::Rest(Rest { because, .. }) => match because {
            Because::InSync
            | Because::Starting
            | Because::Spreading
            | Because::Gone
            | Because::Lacking(..) => None,
            Because::Settling | Because::Retrying(_) | Because::Queued if done => None,
            Because::Queued => Some(verdict(
                RECONCILING,
                Truth::True,
                Reason::Queued,
                "It waits for its turn in the account's budget of requests.",
            )),
            Because::Settling => Some(verdict(
                RECONCILING,
                Truth::True,
                Reason::Settling,
                "The outcome of an earlier request must show.",
            )),
            Because::Retrying(why) => Some(verdict(
                RECONCILING,
                Truth::True,
                Reason::Retrying,
                why.clone(),
            )),
            Because::Stalled(reason, why) => {
                Some(verdict(STALLED, Truth::True, *reason, why.clone()))
            }
            Because::Suspended => Some(verdict(
                SUSPENDED,
                Truth::True,
                Reason::Suspended,
                "Set spec.suspend to false to go on.",
            )),
        },
        // What is left to do once the remote webhook is as written keeps nobody waiting.
        Step::Test(..) | Step::Keyring(..) => None,
        Step::AddFinalizer(_)
        | Step::HoldAccount(_)
        | Step::List(..)
        | Step::Create(..)
        | Step::Patch(..)
        | Step::Delete(..)
        | Step::LookAtDefinition(_)
        | Step::Orphan(..)
        | Step::RemoveKeyring(_)
        | Step::ReleaseFinalizer(_) => Some(verdict(
            RECONCILING,
            Truth::True,
            Reason::Working,
            "Work is under way.",
        )),
    }
}
