//! The plan: what to do next for a webhook that is wanted. It is a table, [`LINES`]: read it from top to bottom, and the
//! first line that fits is the step, with the reason for it in its value.
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

use super::step::{Because, Draft, KeyringChange, Rest, Step, Why};
use super::world::{AccountView, Attempt, Test, WantedSecret, World};
use super::{drift, health, removal, rotation};
use crate::resources::conditions::{self, STALLED};
use crate::resources::reasons::Reason;
use crate::resources::remote::{RemoteWebhook, SETTLE};
use crate::resources::webhook::TestPolicy;

/// The oldest list that a POST may rest on: long enough that many creations share one list, short enough that
/// little can have happened since.
pub const FRESH: Duration = Duration::from_secs(10);

/// How often a Secret that may not be read is tried again.
const ASK_FOR_RIGHT: Duration = Duration::from_secs(10);
/// How often a request that CHeKT refused is tried again although nothing changed: rules over there change too.
pub const ASK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// How long a test delivery may take before it counts as lost: CHeKT's first two retries come within 35 s. It is then
/// asked for under a new number; the pause doubles up to [`ASK_AGAIN`].
pub const TEST_PATIENCE: Duration = Duration::from_secs(60);

/// After this time a request for a test delivery is repeated under its number, where it is not known whether CHeKT has it.
/// If CHeKT does, the `Idempotency-Key` makes the second request nothing but the same answer.
pub const TEST_AGAIN: Duration = Duration::from_secs(30);

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

/// A line of the table: what to do if it fits.
type Line = fn(&World) -> Option<Step>;

/// The table. What a line may rely on is that none of those above it fits.
const LINES: [Line; 22] = [
    // What a person must change first.
    suspended,
    without_finalizer,
    claimed,
    without_account,
    without_secret,
    adoption_refused,
    without_hold,
    // The keyring before anything that is signed with it, and before a refusal that a new key may end.
    without_key,
    another_key,
    refusal,
    trouble,
    // What must be known of CHeKT before it is changed.
    never_listed,
    pass_requested,
    outcome_unknown,
    pinned_one_missing,
    several_with_our_url,
    // The remote webhook.
    missing,
    drifted,
    new_key_in_force,
    // Only now: until the one that stays is as written, the other may be the one that delivers.
    twin,
    health::recover,
    // The proof, and what ends by itself.
    proof,
];

/// What to do next.
#[must_use]
pub fn plan(world: &World) -> Step {
    // Receivers accept a previous key for as long as it is in the keyring, so whatever else is the matter it goes in time.
    let keyring = world.keyring.as_ref();
    let expiry = keyring.and_then(|k| rotation::next_expiry(k, world.now));
    if expiry == Some(Duration::ZERO) {
        return Step::Keyring(KeyringChange::DropExpired, Why::PreviousRanOut);
    }
    let step = if world.deleting {
        removal::plan(world)
    } else {
        let first = LINES.iter().find_map(|line| line(world));
        first.unwrap_or_else(|| nothing_to_do(world))
    };
    match step {
        Step::Rest(Rest { because, again }) => {
            rest(because, [again, expiry].into_iter().flatten().min())
        }
        step => step,
    }
}

fn suspended(world: &World) -> Option<Step> {
    world.spec.suspend.then(|| rest(Because::Suspended, None))
}

fn without_finalizer(world: &World) -> Option<Step> {
    (!world.finalizer).then_some(Step::AddFinalizer(Why::FinalizerFirst))
}

/// Another webhook that has what this one wants.
fn claimed(world: &World) -> Option<Step> {
    let (reason, message) = if let Some(older) = &world.claimed_by {
        let message = format!(
            "{older} is older and has the same url: give this one another url, or delete one of the two"
        );
        (Reason::UrlClaimed, message)
    } else {
        let (other, id) = (world.pin_claimed_by.as_ref()?, world.pin()?);
        let message = format!(
            "{other} has the remote webhook {id}, which spec.webhookID names: delete one of the two, or leave webhookID out"
        );
        (Reason::WebhookClaimed, message)
    };
    Some(rest(Because::Stalled(reason, message), Some(CLAIM)))
}

/// An account that cannot be asked.
pub(super) fn without_account(world: &World) -> Option<Step> {
    match &world.account {
        AccountView::Ready => None,
        // An incomplete list is no proof that something is absent. What is known by its id is cared for all the same.
        AccountView::NotReady(Reason::ListIncomplete, _) if world.roster.recorded.is_some() => None,
        AccountView::Unknown => Some(rest(Because::Starting, Some(START))),
        AccountView::NotReady(reason, message) => {
            Some(rest(Because::Lacking(*reason, message.clone()), None))
        }
    }
}

/// An account that could go before what is about to be made with it. The keyring says whose webhook it is, so this comes
/// before the first one.
fn without_hold(world: &World) -> Option<Step> {
    (!world.account_held).then_some(Step::HoldAccount(Why::AccountFirst))
}

fn without_secret(world: &World) -> Option<Step> {
    match &world.secret {
        WantedSecret::Unusable(reason, message) => {
            // A Secret tells when it changes. A right that is given tells nothing.
            let again = (*reason == Reason::Forbidden).then_some(ASK_FOR_RIGHT);
            Some(rest(Because::Lacking(*reason, message.clone()), again))
        }
        WantedSecret::Generated | WantedSecret::Given(_) => None,
    }
}

/// A remote webhook that is there already and may not be taken over. It is looked for before there is a keyring, since
/// a number in a keyring says that one with this url may be ours.
fn adoption_refused(world: &World) -> Option<Step> {
    if !world.refuses_adoption() {
        return None;
    }
    trouble(world).or_else(|| never_listed(world)).or_else(|| {
        let there = ids(&world.roster.by_url);
        let message = format!(
            "adoptionPolicy is Refuse, and CHeKT has a webhook with this url that is not on record here ({there}): set adoptionPolicy to Adopt to take it over, or delete it at CHeKT"
        );
        let again = Some(ASK_AGAIN);
        (!there.is_empty()).then(|| rest(Because::Stalled(Reason::AdoptionRefused, message), again))
    })
}

fn without_key(world: &World) -> Option<Step> {
    let keyring = world.keyring.as_ref();
    if keyring.is_some_and(|k| k.current.is_some() || k.next.is_some()) {
        return None;
    }
    // One on record signs with a key that was lost with the keyring: CHeKT must be told the new one.
    let change = if world.recorded_id.is_some() {
        KeyringChange::Next
    } else {
        KeyringChange::First
    };
    Some(Step::Keyring(change, Why::NoKey))
}

fn another_key(world: &World) -> Option<Step> {
    let why = rotation::wants_new_key(world, world.keyring.as_ref()?)?;
    Some(Step::Keyring(KeyringChange::Next, why))
}

/// A definite no of CHeKT's, which waits for a change of the spec or for a long while.
pub(super) fn refusal(world: &World) -> Option<Step> {
    let refusal = world.memory.refusal.as_ref()?;
    if refusal.generation != world.generation || refusal.ago >= ASK_AGAIN {
        return None;
    }
    // One that was not to be made a second time, and has shown since.
    if refusal.create && world.target().is_some() {
        return None;
    }
    let because = Because::Stalled(Reason::Rejected, refusal.message.clone());
    Some(rest(because, Some(ASK_AGAIN.saturating_sub(refusal.ago))))
}

/// A failure that is waited out.
pub(super) fn trouble(world: &World) -> Option<Step> {
    let trouble = world.memory.trouble.as_ref()?;
    (!trouble.wait.is_zero()).then(|| {
        let because = Because::Retrying(trouble.message.clone());
        rest(because, Some(trouble.wait))
    })
}

pub(super) fn never_listed(world: &World) -> Option<Step> {
    let never = world.roster.age.is_none() && world.roster.recorded.is_none();
    never.then_some(Step::List(FRESH / 2, Why::NeverListed))
}

pub(super) fn pass_requested(world: &World) -> Option<Step> {
    let requested = world.reconcile_requested.as_ref()?;
    world.roster.age?;
    let handled = [
        &world.status.last_handled_reconcile_at,
        &world.memory.listed_for,
    ];
    (!handled.contains(&&Some(requested.clone())))
        .then_some(Step::List(Duration::ZERO, Why::PassRequested))
}

pub(super) fn outcome_unknown(world: &World) -> Option<Step> {
    let (ago, age) = (world.memory.unclear?, world.roster.age?);
    settled(ago, age, Why::OutcomeUnknown)
}

/// Waits until a list can show what was sent `ago`, and makes it if the last one, `age` old, cannot.
fn settled(ago: Duration, age: Duration, why: Why) -> Option<Step> {
    match ago.checked_sub(SETTLE) {
        None => Some(rest(Because::Settling, Some(SETTLE.saturating_sub(ago)))),
        Some(since) if age > since => Some(Step::List(since, why)),
        Some(_) => None,
    }
}

/// The one that is to be taken over, and is not there.
fn pinned_one_missing(world: &World) -> Option<Step> {
    let id = world.pin()?;
    if world.roster.pinned.is_some() {
        return None;
    }
    if world.roster.age? > FRESH {
        return Some(Step::List(FRESH / 2, Why::ListTooOld));
    }
    let there = match world.roster.by_url.as_slice() {
        [] => "leave webhookID out to have one made".to_owned(),
        some => format!(
            "leave webhookID out to take over the one with this url ({})",
            ids(some)
        ),
    };
    let message =
        format!("CHeKT has no webhook {id}, which spec.webhookID names: write its id, or {there}");
    let because = Because::Stalled(Reason::WebhookNotFound, message);
    Some(rest(because, Some(ASK_AGAIN)))
}

fn several_with_our_url(world: &World) -> Option<Step> {
    let unknown = world.roster.recorded.is_none() && !world.derived;
    let several = world.as_written();
    (unknown && several.len() > 1).then(|| rest(ambiguous(several), None))
}

/// No remote webhook: it is created, once it is certain that there is none.
fn missing(world: &World) -> Option<Step> {
    if world.target().is_some() {
        return None;
    }
    if let Some(step) = absence(world) {
        return Some(step);
    }
    let keyring = world.keyring.as_ref()?;
    let key = keyring.next.as_ref().or(keyring.current.as_ref())?;
    let mut events = world.spec.events.clone();
    events.sort();
    events.dedup();
    let draft = Draft {
        url: world.url.clone(),
        events,
        key_id: key.id.clone(),
        secret: key.secret.clone(),
    };
    // A number that was written for a POST to another url is not this one's.
    let elsewhere = keyring.post_url.as_ref().is_some_and(|u| *u != world.url);
    if elsewhere {
        return Some(Step::Keyring(KeyringChange::Number, Why::UrlChanged));
    }
    Some(numbered(world, Step::Create(draft, Why::NoneThere)))
}

/// Whether it is certain that CHeKT has no webhook of ours, or what to do to be certain.
pub(super) fn absence(world: &World) -> Option<Step> {
    let age = world.roster.age.unwrap_or(Duration::MAX);
    if world.recorded_id.is_some() && world.roster.absent_for < SETTLE {
        // A list may lag, or have been made while somebody wrote.
        let since = world.roster.absent_for.saturating_add(age);
        if since < SETTLE {
            return Some(rest(Because::Settling, Some(SETTLE.saturating_sub(since))));
        }
        return Some(Step::List(
            since.saturating_sub(SETTLE),
            Why::OneListIsNoProof,
        ));
    }
    let sent = world.keyring.as_ref().is_some_and(|k| k.attempt > 0);
    if sent
        && world.memory.attempt == Attempt::Unknown
        && let Some(step) = settled(world.memory.running_for, age, Why::EarlierProcess)
    {
        return Some(step);
    }
    (age > FRESH).then_some(Step::List(FRESH / 2, Why::ListTooOld))
}

/// Two remote webhooks under a derived url are both ours: one POST landed twice, or late.
fn twin(world: &World) -> Option<Step> {
    let target = world.target()?;
    world.roster.age?;
    let mut others = world.roster.by_url.iter().filter(|w| w.id != target.id);
    let twin = others.next().filter(|_| world.derived)?;
    Some(numbered(world, Step::Delete(twin.id.clone(), Why::Twin)))
}

/// Why there is nothing to do: all is as written, or what is not cannot be made so. That keeps nobody from all else that
/// there is to do, such as switching the webhook on again.
pub(super) fn contentment(world: &World) -> Because {
    not_converging(world)
        .or_else(|| older_key(world))
        .map_or(Because::InSync, |message| {
            Because::Stalled(Reason::NotConverging, message)
        })
}

/// A change that CHeKT has answered with success, more than once, and has not made.
fn not_converging(world: &World) -> Option<String> {
    let change = drift::change(world, world.target()?);
    world.memory.unheeded.filter(|u| {
        u.patches >= PATIENCE && u.generation == world.generation && u.ago < ASK_AGAIN
    })?;
    // A key that was not sent yet is another change.
    if change.is_empty() || change.key.is_some() {
        return None;
    }
    Some(format!(
        "CHeKT answers a change of {} with success and does not make it: {}. Write what CHeKT shows in status, or ask CHeKT's support",
        change.fields(),
        drift::difference(world, world.target()?)
    ))
}

/// A secret that CHeKT has answered with success and does not sign with: the test delivery that was to prove it came
/// back under the one before.
fn older_key(world: &World) -> Option<String> {
    let under = world.tested_under_another_key()?;
    let keyring = world.keyring.as_ref()?;
    let is_before = keyring.previous.iter().any(|p| p.key.id == under);
    let waits = world.waits_for_test();
    let waited = waits.is_some_and(|proof| proof.since >= TEST_PATIENCE);
    // Said once, it is not taken back while the next test delivery is on its way, nor when the key before has run out.
    let said = conditions::find(&world.status.conditions, STALLED)
        .is_some_and(|c| c.reason == Reason::NotConverging.as_str());
    (said || (is_before && waited)).then(|| {
        "CHeKT answers a change of the secret with success and goes on signing with the one before, which is accepted for 15 minutes and no longer: delete this ChektWebhook and create it anew, or set the secret back".to_owned()
    })
}

/// A remote webhook that is not as written, or does not sign as it is to.
fn drifted(world: &World) -> Option<Step> {
    let target = world.target()?;
    let change = drift::change(world, target);
    if change.is_empty() || not_converging(world).is_some() {
        return None;
    }
    let replaces = world.keyring.as_ref().is_some_and(|k| k.current.is_some());
    let spread = world.memory.next_for.unwrap_or(SPREAD);
    let left = SPREAD.saturating_sub(spread);
    if change.key.is_some() && replaces && !left.is_zero() {
        return Some(rest(Because::Spreading, Some(left)));
    }
    let why = drift::why(world, target, &change);
    Some(numbered(world, Step::Patch(target.id.clone(), change, why)))
}

fn new_key_in_force(world: &World) -> Option<Step> {
    world.keyring.as_ref()?.next.as_ref()?;
    if drift::change(world, world.target()?).key.is_some() {
        return None;
    }
    Some(Step::Keyring(KeyringChange::Promote, Why::NewKeyInForce))
}

/// The test delivery, if one must be noted or asked for.
fn proof(world: &World) -> Option<Step> {
    let target = world.target()?;
    let keyring = world.keyring.as_ref()?;
    let note = |why| Some(Step::Keyring(KeyringChange::NoteTest, why));
    let ask = |why| Some(Step::Test(target.id.clone(), why));
    if world.test_is_unsent() {
        // What CHeKT has denied it may deny again under the same number.
        return match world.memory.test {
            Test::Denied => note(Why::TestNoted),
            _ => ask(Why::TestNoted),
        };
    }
    if world.test_requested.is_some() && world.test_requested != keyring.test_requested {
        return note(Why::TestRequested);
    }
    let waited = world.waits_for_test();
    let is_over = waited.is_some_and(|proof| proof.asked >= test_patience(world));
    if world.spec.test_policy == TestPolicy::Never {
        // One that a person has asked for, and that may never have reached CHeKT.
        return ask(Why::TestUnclear).filter(|_| is_over && test_is_unclear(world));
    }
    let current = keyring.current.as_ref()?;
    let noted = keyring
        .test
        .as_ref()
        .is_some_and(|t| t.key_id == current.id && t.url == world.url);
    if !noted {
        return note(Why::NotProved);
    }
    if health::is_to_be_proved(world, target) {
        return note(Why::NotProvedAgain);
    }
    if !is_over {
        None
    } else if test_is_unclear(world) {
        ask(Why::TestUnclear)
    } else {
        note(Why::TestLost)
    }
}

/// Whether a test delivery is to be asked for again under its number: CHeKT may not have the request. Once only, since an
/// answer that failed may be what CHeKT keeps under that number.
fn test_is_unclear(world: &World) -> bool {
    matches!(world.memory.test, Test::NotAsked | Test::Unclear) && world.memory.proof.requests < 2
}

/// How long to wait for a test delivery before it is asked for again. Where the way to the receiver is broken, or CHeKT,
/// that is ever more seldom.
fn test_patience(world: &World) -> Duration {
    match world.memory.test {
        Test::Refused(_) => ASK_AGAIN,
        _ if test_is_unclear(world) => TEST_AGAIN,
        _ => {
            let requests = world.memory.proof.requests.saturating_sub(1);
            TEST_PATIENCE
                .saturating_mul(1 << requests.min(16))
                .min(ASK_AGAIN)
        }
    }
}

/// All is as written. What ends by itself is looked at when it does.
fn nothing_to_do(world: &World) -> Step {
    let left = |limit: Duration, passed| {
        let left = limit.checked_sub(passed);
        left.filter(|left| !left.is_zero())
    };
    let waits = world.waits_for_test();
    let lost = waits.and_then(|proof| left(TEST_PATIENCE, proof.since));
    let retest = waits.and_then(|proof| left(test_patience(world), proof.asked));
    let because = contentment(world);
    let asked = world.memory.unheeded.map(|u| u.ago);
    let again = asked
        .filter(|_| because != Because::InSync)
        .and_then(|ago| ASK_AGAIN.checked_sub(ago));
    rest(because, [lost, retest, again].into_iter().flatten().min())
}

/// A remote write, or first the number that it needs.
pub(super) fn numbered(world: &World, write: Step) -> Step {
    // Without a keyring there is nowhere to keep a number, and nothing that it could protect.
    if world.keyring.is_none() || world.attempt_is_open() {
        write
    } else {
        Step::Keyring(KeyringChange::Number, Why::NumberUsed)
    }
}

pub(super) fn ambiguous(by_url: &[RemoteWebhook]) -> Because {
    let message = format!(
        "several remote webhooks have this url ({}): delete all but one of them at CHeKT, or name the right one in spec.webhookID of a new ChektWebhook",
        ids(by_url)
    );
    Because::Stalled(Reason::UrlAmbiguous, message)
}

fn ids(webhooks: &[RemoteWebhook]) -> String {
    let ids: Vec<&str> = webhooks.iter().map(|w| w.id.as_str()).collect();
    ids.join(", ")
}

pub(super) fn rest(because: Because, again: Option<Duration>) -> Step {
    Step::Rest(Rest { because, again })
}
