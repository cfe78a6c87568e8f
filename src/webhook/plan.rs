//! The plan: what to do next for a webhook that is wanted. Read it from top to bottom like a table; the first
//! line that fits is the step.
//!
//! What must hold whatever crashes and whatever answer is lost:
//!
//! - the finalizer is there before the first POST;
//! - a POST is sent only when a complete list that began after every earlier attempt shows no webhook with this
//!   url, and an outcome that is not known is resolved by listing, never by sending again;
//! - the number of an attempt is in the keyring before the attempt is sent;
//! - nothing loops hot: what CHeKT refuses waits for a change or for a long while, and what does not converge
//!   ends in Stalled.

use std::time::Duration;

use super::step::{Because, Draft, KeyringChange, Rest, Step};
use super::world::{AccountView, Attempt, Test, WantedSecret, World};
use super::{drift, health, removal, rotation};
use crate::resources::conditions::{self, SYNCED};
use crate::resources::keyring::Keyring;
use crate::resources::reasons::Reason;
use crate::resources::remote::{RemoteWebhook, SETTLE};
use crate::resources::webhook::TestPolicy;

/// The oldest list that a POST may rest on: long enough that many creations share one list, short enough that
/// little can have happened since.
pub const FRESH: Duration = Duration::from_secs(10);

/// How often a request that CHeKT refused is tried again although nothing changed: rules over there change too.
pub const ASK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// How long a test delivery may take before it counts as lost: CHeKT's first two retries come within 35 s.
pub const TEST_PATIENCE: Duration = Duration::from_secs(60);

/// How long a new key has to reach the receivers before CHeKT is told to sign with it. They watch the keyrings, and
/// see a change within some ten milliseconds; a delivery that came before would be refused.
pub const SPREAD: Duration = Duration::from_secs(1);

/// How often a webhook whose url is claimed looks whether the other one has gone: nothing else would tell it.
pub const CLAIM: Duration = Duration::from_secs(15);

/// How soon a webhook looks again whose account, or the right to use it, is not known yet. Whatever makes it known wakes
/// the webhook too; this is for what was known in between.
pub const START: Duration = Duration::from_secs(1);

/// How many PATCHes without effect are enough to stop.
pub const PATIENCE: u32 = 2;

/// What to do next.
#[must_use]
pub fn plan(world: &World) -> Step {
    if world.deleting {
        return removal::plan(world);
    }
    if world.spec.suspend {
        return rest(Because::Suspended, None);
    }
    if !world.finalizer {
        return Step::AddFinalizer;
    }
    if let Some(older) = &world.claimed_by {
        let message = format!(
            "ChektWebhook {older} is older and has the same url: give this one another url, or delete one of the two"
        );
        return rest(Because::Stalled(Reason::UrlClaimed, message), Some(CLAIM));
    }
    if let Some(wait) = without_account(world) {
        return wait;
    }
    if let WantedSecret::Unusable(reason, message) = &world.secret {
        return rest(Because::Lacking(*reason, message.clone()), None);
    }
    match &world.keyring {
        Some(keyring) if !rotation::wants_new_key(world, keyring) => wanted(world, keyring),
        _ => Step::Keyring(KeyringChange::Next),
    }
}

/// Whether a remote write is the operator's own care, which lets go first what people have asked for: a drift that is put
/// right although it was in sync as written, a twin that is removed, a test delivery.
#[must_use]
pub fn is_care(world: &World, step: &Step) -> bool {
    match step {
        Step::Test(_) => true,
        Step::Delete(id, _) => !world.deleting && world.recorded_id.as_deref() != Some(id),
        Step::Patch(_, change) => {
            let synced = conditions::find(&world.status.conditions, SYNCED);
            !change.reactivate
                && change.key.is_none()
                && synced.is_some_and(|c| {
                    c.status == "True" && c.observed_generation == Some(world.generation)
                })
        }
        Step::AddFinalizer
        | Step::Keyring(_)
        | Step::List(..)
        | Step::Create(_)
        | Step::RemoveKeyring
        | Step::ReleaseFinalizer(_)
        | Step::Rest(_) => false,
    }
}

/// The part of the table for a webhook that has all it needs.
fn wanted(world: &World, keyring: &Keyring) -> Step {
    if let Some(wait) = hindrance(world) {
        return wait;
    }
    if let Some(step) = look(world) {
        return step;
    }
    let by_url = &world.roster.by_url;
    if world.roster.recorded.is_none() && by_url.len() > 1 && !world.derived {
        return rest(ambiguous(by_url), None);
    }
    let Some(target) = world.target() else {
        return create(world, keyring);
    };
    // Two remote webhooks under a derived url are both ours: one POST landed twice, or late.
    let twin = by_url
        .iter()
        .find(|w| w.id != target.id)
        .filter(|_| world.derived);
    if let Some(twin) = twin {
        return numbered(
            world,
            Step::Delete(twin.id.clone(), "it is a twin of the webhook on record"),
        );
    }
    let change = drift::change(world, target);
    if !change.is_empty() {
        if world.memory.patches >= PATIENCE {
            let fields = change.fields();
            let message = format!(
                "CHeKT answers a change of {fields} with success and does not make it: write what CHeKT shows in status, or ask CHeKT's support"
            );
            return rest(
                Because::Stalled(Reason::NotConverging, message),
                Some(ASK_AGAIN),
            );
        }
        let spreads = world
            .memory
            .next_for
            .filter(|_| change.key.is_some() && keyring.current.is_some());
        if let Some(left) = spreads
            .and_then(|since| SPREAD.checked_sub(since))
            .filter(|left| !left.is_zero())
        {
            return rest(Because::Spreading, Some(left));
        }
        return numbered(world, Step::Patch(target.id.clone(), change));
    }
    if keyring.next.is_some() {
        return Step::Keyring(KeyringChange::Promote);
    }
    if let Some(step) = health::recover(world, target) {
        return step;
    }
    if let Some(step) = test(world, keyring, target) {
        return step;
    }
    let expiry = rotation::next_expiry(keyring, world.now);
    if expiry == Some(Duration::ZERO) {
        return Step::Keyring(KeyringChange::DropExpired);
    }
    let retest = world.waits_for_test().and_then(|ago| {
        TEST_PATIENCE
            .checked_sub(ago)
            .filter(|left| !left.is_zero())
            .or_else(|| ASK_AGAIN.checked_sub(ago))
    });
    rest(
        Because::InSync,
        [expiry, retest].into_iter().flatten().min(),
    )
}

/// An account that cannot be asked.
pub(super) fn without_account(world: &World) -> Option<Step> {
    match &world.account {
        AccountView::Ready => None,
        AccountView::Unknown => Some(rest(Because::Starting, Some(START))),
        AccountView::NotReady(reason, message) => {
            Some(rest(Because::Lacking(*reason, message.clone()), None))
        }
    }
}

/// A failure or a refusal that is waited out.
pub(super) fn hindrance(world: &World) -> Option<Step> {
    if let Some(refusal) = &world.memory.refusal
        && refusal.generation == world.generation
        && refusal.ago < ASK_AGAIN
    {
        let because = Because::Stalled(Reason::Rejected, refusal.message.clone());
        return Some(rest(because, Some(ASK_AGAIN.saturating_sub(refusal.ago))));
    }
    let trouble = world
        .memory
        .trouble
        .as_ref()
        .filter(|t| !t.wait.is_zero())?;
    Some(rest(
        Because::Retrying(trouble.message.clone()),
        Some(trouble.wait),
    ))
}

/// What must be known of CHeKT before anything is decided.
pub(super) fn look(world: &World) -> Option<Step> {
    let Some(age) = world.roster.age else {
        return Some(Step::List(FRESH / 2, "nothing complete was listed yet"));
    };
    if world.reconcile_requested.is_some()
        && world.reconcile_requested != world.status.last_handled_reconcile_at
        && world.reconcile_requested != world.memory.listed_for
    {
        return Some(Step::List(Duration::ZERO, "a pass was asked for"));
    }
    world
        .memory
        .unclear
        .and_then(|ago| settled(ago, age, "the outcome of the last request is not known"))
}

/// Waits until a list can show what was sent `ago`, and makes it if the last one, `age` old, cannot.
pub(super) fn settled(ago: Duration, age: Duration, why: &'static str) -> Option<Step> {
    match ago.checked_sub(SETTLE) {
        None => Some(rest(Because::Settling, Some(SETTLE.saturating_sub(ago)))),
        Some(since) if age > since => Some(Step::List(since, why)),
        Some(_) => None,
    }
}

/// Whether it is certain that CHeKT has no webhook of ours, or what to do to be certain.
pub(super) fn absence(world: &World) -> Option<Step> {
    let age = world.roster.age.unwrap_or(Duration::MAX);
    if world.recorded_id.is_some() && world.roster.absent_for < SETTLE {
        // One list without it is no proof: a list may lag, or have been made while somebody wrote.
        let since = world.roster.absent_for.saturating_add(age);
        if since < SETTLE {
            return Some(rest(Because::Settling, Some(SETTLE.saturating_sub(since))));
        }
        return Some(Step::List(
            since.saturating_sub(SETTLE),
            "one list without the webhook on record proves nothing",
        ));
    }
    let sent = world.keyring.as_ref().is_some_and(|k| k.attempt > 0);
    if sent && world.memory.attempt == Attempt::Unknown {
        let why = "a request of an earlier process may have landed";
        if let Some(step) = settled(world.memory.running_for, age, why) {
            return Some(step);
        }
    }
    (age > FRESH).then_some(Step::List(FRESH / 2, "the last list is too old to rest on"))
}

fn create(world: &World, keyring: &Keyring) -> Step {
    if let Some(step) = absence(world) {
        return step;
    }
    let Some(key) = keyring.next.as_ref().or(keyring.current.as_ref()) else {
        return Step::Keyring(KeyringChange::Next);
    };
    let mut events = world.spec.events.clone();
    events.sort();
    events.dedup();
    let draft = Draft {
        url: world.url.clone(),
        events,
        key_id: key.id.clone(),
        secret: key.secret.clone(),
    };
    numbered(world, Step::Create(draft))
}

/// The test delivery, if one must be noted or asked for.
fn test(world: &World, keyring: &Keyring, target: &RemoteWebhook) -> Option<Step> {
    if world.spec.test_policy == TestPolicy::Never {
        return None;
    }
    let current = keyring.current.as_ref()?;
    if world.memory.test == Test::Recorded {
        return Some(numbered(world, Step::Test(target.id.clone())));
    }
    let noted = keyring
        .test
        .as_ref()
        .is_some_and(|t| t.key_id == current.id && t.url == world.url);
    if !noted || health::is_to_be_proved(world, target) {
        return Some(Step::Keyring(KeyringChange::NoteTest));
    }
    let again = world.waits_for_test().is_some_and(|ago| ago >= ASK_AGAIN);
    again.then_some(Step::Keyring(KeyringChange::NoteTest))
}

/// A remote write, or first the number that it needs.
pub(super) fn numbered(world: &World, write: Step) -> Step {
    // Without a keyring there is nowhere to keep a number, and nothing that it could protect.
    if world.keyring.is_none() || world.attempt_is_open() {
        write
    } else {
        Step::Keyring(KeyringChange::Number)
    }
}

pub(super) fn ambiguous(by_url: &[RemoteWebhook]) -> Because {
    let ids: Vec<&str> = by_url.iter().map(|w| w.id.as_str()).collect();
    let message = format!(
        "several remote webhooks have this url ({}): delete all but one of them at CHeKT",
        ids.join(", ")
    );
    Because::Stalled(Reason::UrlAmbiguous, message)
}

pub(super) fn rest(because: Because, again: Option<Duration>) -> Step {
    Step::Rest(Rest { because, again })
}
