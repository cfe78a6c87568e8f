//! Rotation: what a step does to the keyring.
//!
//! A change of the secret is: write `next`, receivers accept both, PATCH, `current` = next and `previous` = old,
//! a test delivery, and after the retry horizon `previous` goes. Each phase can be interrupted, and the next one
//! follows from what the keyring says. No delivery is refused because of a rotation.

use std::time::Duration;

use data_encoding::HEXLOWER;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::step::{KeyringChange, Why};
use super::world::{WantedSecret, World};
use crate::resources::conditions::whole_seconds;
use crate::resources::keyring::{EmptySecret, Key, Keyring, Retired, SigningSecret, TestRequest};
use crate::resources::webhook::TestPolicy;

pub use crate::resources::keyring::RETRY_HORIZON;

/// The most previous keys that are kept. Only a person who changes a secret every minute gets there.
const MOST_PREVIOUS: usize = 16;

/// Random bytes for a key, made where randomness may be had.
#[derive(Clone, Copy)]
pub struct Entropy {
    /// For the secret: 256 bits, as many as the HMAC that it keys.
    pub secret: [u8; 32],
    /// For its name.
    pub id: [u8; 6],
}

/// Whether a new key must become `next`, and why.
///
/// A `next` that CHeKT may have taken is brought to its end first, whatever is wanted by now: deliveries may be
/// signed with it. Only one that CHeKT has refused is replaced.
#[must_use]
pub fn wants_new_key(world: &World, keyring: &Keyring) -> Option<Why> {
    let fits = |key: &Key| match &world.secret {
        WantedSecret::Generated => key.is_generated(),
        WantedSecret::Given(secret) => !key.is_generated() && key.secret == *secret,
        WantedSecret::Unusable(..) => true,
    };
    match (&keyring.next, &keyring.current) {
        (Some(next), _) => {
            let refused = world
                .memory
                .refusal
                .as_ref()
                .and_then(|r| r.key_id.as_ref());
            (refused == Some(&next.id) && !fits(next)).then_some(Why::SecretRefused)
        }
        (None, Some(current)) if !fits(current) => Some(Why::SecretChanged),
        (None, Some(_)) => {
            let requested = world.rotate_requested.is_some()
                && world.rotate_requested != keyring.rotation_requested;
            let ours = world.secret == WantedSecret::Generated;
            (requested && ours).then_some(Why::RotationRequested)
        }
        (None, None) => Some(Why::NoKey),
    }
}

/// The keyring after a change.
///
/// # Errors
/// [`EmptySecret`] when the secret to be used has no bytes.
pub fn apply(
    change: KeyringChange,
    world: &World,
    entropy: &Entropy,
) -> Result<Keyring, EmptySecret> {
    let mut keyring = world
        .keyring
        .clone()
        .unwrap_or_else(|| Keyring::empty(world.webhook.clone()));
    keyring.previous.retain(|p| world.now < p.until);
    if notes_test(change, world) {
        // After a keyring that was lost or put back, the numbers of tests go on where the receiver saw them last.
        let seen = world.status.deliveries.as_ref();
        let seen = seen.and_then(|d| d.last_test_number).unwrap_or_default();
        keyring.attempt = keyring.attempt.max(seen);
    }
    if change.numbers() {
        keyring.attempt = keyring.attempt.saturating_add(1);
    }
    keyring.post_url = post_url(change, world, &keyring);
    match change {
        KeyringChange::First => {
            keyring.current = Some(make(world, entropy)?);
            keyring
                .rotation_requested
                .clone_from(&world.rotate_requested);
        }
        KeyringChange::Next => {
            keyring.next = Some(make(world, entropy)?);
            keyring
                .rotation_requested
                .clone_from(&world.rotate_requested);
        }
        KeyringChange::Promote => {
            let until = whole_seconds(world.now)
                + SignedDuration::try_from(RETRY_HORIZON).unwrap_or_default();
            if let Some(next) = keyring.next.take() {
                let old = keyring.current.replace(next);
                keyring
                    .previous
                    .splice(0..0, old.map(|key| Retired { key, until }));
                keyring.previous.truncate(MOST_PREVIOUS);
            }
        }
        KeyringChange::NoteTest | KeyringChange::Number | KeyringChange::DropExpired => {}
    }
    if notes_test(change, world) {
        keyring.test = note(world, &keyring);
        keyring.test_requested.clone_from(&world.test_requested);
    }
    Ok(keyring)
}

/// The url of the POST that the new number is for, or of one before it that may have landed.
fn post_url(change: KeyringChange, world: &World, keyring: &Keyring) -> Option<String> {
    let for_a_post = match change {
        KeyringChange::First => true,
        KeyringChange::Number => world.target().is_none() && !world.deleting,
        KeyringChange::Next
        | KeyringChange::Promote
        | KeyringChange::NoteTest
        | KeyringChange::DropExpired => false,
    };
    if for_a_post {
        return Some(world.url.clone());
    }
    // What is on record is what came of it.
    let settled = world.roster.recorded.is_some();
    keyring.post_url.clone().filter(|_| !settled)
}

/// Whether a change notes a test delivery.
#[must_use]
pub fn notes_test(change: KeyringChange, world: &World) -> bool {
    match change {
        KeyringChange::NoteTest => true,
        KeyringChange::First | KeyringChange::Promote => {
            world.spec.test_policy == TestPolicy::OnChange
        }
        KeyringChange::Next | KeyringChange::Number | KeyringChange::DropExpired => false,
    }
}

/// Whether the test delivery in `keyring` is noted because the one before it has not arrived, which was for the same key
/// and url, and not because a person asks for another one.
#[must_use]
pub fn notes_again(world: &World, keyring: &Keyring) -> bool {
    let before = world.keyring.as_ref();
    let of = |k: &Keyring| k.test.as_ref().map(|t| (t.key_id.clone(), t.url.clone()));
    !world.is_verified()
        && before
            .is_some_and(|b| of(b) == of(keyring) && b.test_requested == keyring.test_requested)
}

/// How long until the first previous key runs out.
#[must_use]
pub fn next_expiry(keyring: &Keyring, now: Timestamp) -> Option<Duration> {
    let first = keyring.previous.iter().map(|p| p.until).min()?;
    Some(Duration::try_from(first.duration_since(now)).unwrap_or_default())
}

fn make(world: &World, entropy: &Entropy) -> Result<Key, EmptySecret> {
    let name = HEXLOWER.encode(&entropy.id);
    Ok(match &world.secret {
        WantedSecret::Given(secret) => Key {
            id: format!("given-{name}"),
            secret: secret.clone(),
        },
        // Hexadecimal, because the secret travels in JSON and CHeKT keys its HMAC with the text.
        WantedSecret::Generated | WantedSecret::Unusable(..) => Key {
            id: format!("generated-{name}"),
            secret: SigningSecret::new(HEXLOWER.encode(&entropy.secret).into_bytes())?,
        },
    })
}

fn note(world: &World, keyring: &Keyring) -> Option<TestRequest> {
    let current = keyring.current.as_ref()?;
    Some(TestRequest {
        key_id: current.id.clone(),
        url: world.url.clone(),
        number: keyring.attempt,
    })
}
