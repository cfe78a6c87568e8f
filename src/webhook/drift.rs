//! Drift: how the remote webhook differs from what is written.

use std::collections::BTreeSet;

use super::step::{Change, Why};
use super::world::World;
use crate::resources::conditions::{self, SYNCED};
use crate::resources::keyring::{Key, Keyring};
use crate::resources::remote::{RemoteWebhook, same};

/// What a PATCH must ask for so that `remote` is as written.
///
/// Events are compared as sets and urls as parsed, so that an order or a spelling is no drift. The secret cannot
/// be read back; it is sent while a new key is not confirmed, and to a webhook that is not the one on record,
/// whose secret nobody here knows.
#[must_use]
pub fn change(world: &World, remote: &RemoteWebhook) -> Change {
    let mut change = Change::default();
    if !same(&remote.url, &world.url) {
        change.url = Some(world.url.clone());
    }
    let wanted: BTreeSet<&str> = world.spec.events.iter().map(String::as_str).collect();
    if remote
        .events
        .iter()
        .map(String::as_str)
        .collect::<BTreeSet<_>>()
        != wanted
    {
        change.events = Some(wanted.into_iter().map(ToOwned::to_owned).collect());
    }
    let stranger = world.recorded_id.as_deref() != Some(remote.id.as_str());
    if let Some(key) = world
        .keyring
        .as_ref()
        .and_then(|k| unconfirmed(world, k, stranger))
    {
        change.key = Some((key.id.clone(), key.secret.clone()));
    }
    change
}

/// Why `remote` is to be changed.
#[must_use]
pub fn why(world: &World, remote: &RemoteWebhook, change: &Change) -> Why {
    if world.recorded_id.as_deref() != Some(remote.id.as_str()) {
        return if world.pin().is_some() {
            Why::TakesOverPinned
        } else {
            Why::TakesOver
        };
    }
    if change.key.is_some() {
        return Why::NewKey;
    }
    let synced = conditions::find(&world.status.conditions, SYNCED);
    let was = synced
        .is_some_and(|c| c.status == "True" && c.observed_generation == Some(world.generation));
    if was { Why::Drifted } else { Why::SpecChanged }
}

/// How `remote` differs from what is written, for people.
#[must_use]
pub fn difference(world: &World, remote: &RemoteWebhook) -> String {
    let mut parts = Vec::new();
    if !same(&remote.url, &world.url) {
        parts.push(format!("url is {} and not {}", remote.url, world.url));
    }
    let wanted: BTreeSet<&str> = world.spec.events.iter().map(String::as_str).collect();
    let shown: BTreeSet<&str> = remote.events.iter().map(String::as_str).collect();
    let names = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| {
        a.difference(b).copied().collect::<Vec<_>>().join(", ")
    };
    let (lacking, foreign) = (names(&wanted, &shown), names(&shown, &wanted));
    if !lacking.is_empty() {
        parts.push(format!("events lack {lacking}"));
    }
    if !foreign.is_empty() {
        parts.push(format!("events have {foreign} too"));
    }
    parts.join("; ")
}

/// The key that must be sent, if one must.
fn unconfirmed<'a>(world: &World, keyring: &'a Keyring, stranger: bool) -> Option<&'a Key> {
    let wanted = keyring
        .next
        .as_ref()
        .or_else(|| keyring.current.as_ref().filter(|_| stranger))?;
    (world.memory.asserted.as_deref() != Some(wanted.id.as_str())).then_some(wanted)
}
