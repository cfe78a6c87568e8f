//! Holds: an account that webhooks are with stays until they are gone, because only its credentials can delete them at
//! CHeKT.
//!
//! A finalizer of ours is on it from before the first webhook is made with it until the last one is gone. A webhook is
//! with an account once it has a keyring, which names it; in the moment before, this process knows of it. Putting the
//! finalizer on and taking it off wait for each other, so that nobody begins to use an account that is just being let go.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::{Api, Resource, ResourceExt};
use tokio::sync::Mutex as AsyncMutex;

use super::connection::Wake;
use super::context::{Context, Known};
use crate::cluster::{ClusterError, secrets, write};
use crate::resources::account::AccountName;
use crate::resources::{ACCOUNT_FINALIZER, ChektAccount, ChektWebhook};

/// How many webhooks are named where an account waits for them.
const NAMED: usize = 3;

/// What this process knows of who holds which account.
#[derive(Debug, Default)]
pub struct Holds {
    state: Mutex<State>,
    turn: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Webhooks, by uid, that are about to be with an account and have no keyring yet.
    beginning: HashMap<String, AccountName>,
    /// Webhooks, by uid, that are gone and may still be in a store.
    gone: HashSet<String>,
    /// Whether the finalizer is on, as far as this process did the last write: the stores show it later.
    written: HashMap<AccountName, bool>,
}

/// Who is with an account.
#[derive(Debug)]
pub struct Users {
    /// Some of them, as `namespace/name`.
    pub some: Vec<String>,
    /// How many there are.
    pub in_all: usize,
}

impl Holds {
    /// Forgets a webhook that is gone.
    pub fn forget(&self, uid: &str) {
        self.state().beginning.remove(uid);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an account cannot go before a webhook. `bound`: whether the webhook has a keyring. One that has none is held
/// for in memory, which only [`hold`] does.
#[must_use]
pub fn is_held(context: &Context, key: &AccountName, uid: &str, bound: bool) -> bool {
    let Known::There(account) = context.account(key) else {
        // Nothing is made with it before it is there.
        return true;
    };
    let state = context.holds.state();
    // Nothing can be put on an account that is being deleted, and whoever is with it stays so.
    if bound && account.meta().deletion_timestamp.is_some() {
        return true;
    }
    let is_on = state
        .written
        .get(key)
        .copied()
        .unwrap_or_else(|| has_finalizer(&account));
    is_on && (bound || state.beginning.get(uid) == Some(key))
}

/// Holds an account for a webhook that is about to be with it.
///
/// # Errors
/// [`ClusterError`]; then it is not held. [`ClusterError::Conflict`] if it has just changed, or is being deleted.
pub async fn hold(context: &Context, key: &AccountName, uid: &str) -> Result<(), ClusterError> {
    let _turn = context.holds.turn.lock().await;
    let shown = matches!(context.account(key), Known::There(account) if has_finalizer(&account));
    let is_on = context.holds.state().written.get(key).copied();
    if !is_on.unwrap_or(shown) {
        put_on(context, key).await?;
    }
    let mut state = context.holds.state();
    state.beginning.insert(uid.to_owned(), key.clone());
    state.written.insert(key.clone(), true);
    Ok(())
}

async fn put_on(context: &Context, key: &AccountName) -> Result<(), ClusterError> {
    let api = accounts(context, key);
    let Some(account) = write::latest(&api, &key.name).await? else {
        return Err(ClusterError::NotFound(format!("ChektAccount {key}")));
    };
    if has_finalizer(&account) {
        return Ok(());
    }
    if account.meta().deletion_timestamp.is_some() {
        let why = format!("ChektAccount {key} is being deleted");
        return Err(ClusterError::Conflict(why));
    }
    write::finalizer(&api, &account, ACCOUNT_FINALIZER, true)
        .await
        .map(drop)
}

/// Takes in that a webhook is gone, and wakes the account if that was its last one.
pub fn left(context: &Context, key: &AccountName, uid: &str) {
    let last = {
        let mut state = context.holds.state();
        state.beginning.remove(uid);
        state.gone.insert(uid.to_owned());
        !is_used(context, key, &state)
    };
    if last && context.wake.send(Wake::Account(key.clone())).is_err() {
        tracing::debug!("nobody is left to be woken");
    }
}

/// Who is with an account, as far as its finalizer or its deletion makes it worth to know; `None`: nobody.
///
/// The stores tell. Before the last of them is believed to be gone, the keyrings are asked: a webhook is with an account
/// from its keyring on, and its status may say so later.
///
/// # Errors
/// [`ClusterError`].
pub async fn users(
    context: &Context,
    key: &AccountName,
    account: &ChektAccount,
) -> Result<Option<Users>, ClusterError> {
    if account.meta().deletion_timestamp.is_some() {
        let names = names_of_users(context, key);
        if !names.is_empty() {
            return Ok(some_of(names));
        }
    } else if is_used(context, key, &context.holds.state()) {
        let (some, in_all) = (Vec::new(), 0);
        return Ok(Some(Users { some, in_all }));
    }
    if !has_finalizer(account) {
        return Ok(None);
    }
    let mut names = Vec::new();
    for keyring in secrets::keyrings_of(&context.keyrings(), key).await? {
        // One that somebody left behind by taking the finalizer off a webhook holds nothing.
        let is_there = context.webhooks.iter().any(|store| {
            store
                .find(|w: &ChektWebhook| w.uid().as_deref() == Some(&keyring.uid))
                .is_some()
        });
        if is_there || !context.settings.looks_after(&keyring.namespace) {
            names.push(format!("{}/{}", keyring.namespace, keyring.name));
        }
    }
    names.sort();
    Ok(some_of(names))
}

/// Puts the finalizer on an account that is used, and takes it off one that is not.
///
/// # Errors
/// [`ClusterError::Conflict`] when the account has changed since it was read, and any other.
pub async fn keep(
    context: &Context,
    key: &AccountName,
    account: &ChektAccount,
    used: bool,
) -> Result<(), ClusterError> {
    tidy(context);
    let is_on = has_finalizer(account);
    if used && !is_on && account.meta().deletion_timestamp.is_none() {
        let _turn = context.holds.turn.lock().await;
        put_on(context, key).await?;
        context.holds.state().written.insert(key.clone(), true);
        return Ok(());
    }
    if used || !is_on {
        return Ok(());
    }
    let _turn = context.holds.turn.lock().await;
    {
        let mut state = context.holds.state();
        if state.beginning.values().any(|begun| begun == key) || is_used(context, key, &state) {
            return Ok(());
        }
        // From here on whoever wants to begin asks for the turn first, whatever the stores show.
        state.written.insert(key.clone(), false);
    }
    match write::finalizer(&accounts(context, key), account, ACCOUNT_FINALIZER, false).await {
        Ok(_) | Err(ClusterError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a webhook is with an account, as far as the stores and this process know. Its status says so.
fn is_used(context: &Context, key: &AccountName, state: &State) -> bool {
    let written = key.to_string();
    let user = |w: &ChektWebhook| is_with(w, &written) && !is_among(w, &state.gone);
    context
        .webhooks
        .iter()
        .any(|store| store.find(user).is_some())
}

fn names_of_users(context: &Context, key: &AccountName) -> Vec<String> {
    let (written, state) = (key.to_string(), context.holds.state());
    let user = |w: &ChektWebhook| is_with(w, &written) && !is_among(w, &state.gone);
    let users = context.webhooks.iter().flat_map(|s| s.state_filter(user));
    let mut names: Vec<String> = users.map(|w| name(&w)).collect();
    names.sort();
    names
}

fn is_with(webhook: &ChektWebhook, account: &str) -> bool {
    let status = webhook.status.as_ref();
    status.and_then(|s| s.account.as_deref()) == Some(account)
}

fn is_among(webhook: &ChektWebhook, uids: &HashSet<String>) -> bool {
    webhook.uid().is_some_and(|uid| uids.contains(&uid))
}

/// Forgets what the stores show by now: who is gone, and who has begun.
fn tidy(context: &Context) {
    let mut state = context.holds.state();
    let State {
        beginning,
        gone,
        written: _,
    } = &mut *state;
    if beginning.is_empty() && gone.is_empty() {
        return;
    }
    let concerned = |w: &ChektWebhook| {
        w.uid()
            .is_some_and(|uid| gone.contains(&uid) || beginning.contains_key(&uid))
    };
    let there: HashMap<String, bool> = context
        .webhooks
        .iter()
        .flat_map(|store| store.state_filter(concerned))
        .filter_map(|w| {
            let on_record = w.status.as_ref().is_some_and(|s| s.account.is_some());
            Some((w.uid()?, on_record))
        })
        .collect();
    gone.retain(|uid| there.contains_key(uid));
    beginning.retain(|uid, _| there.get(uid) == Some(&false));
}

fn some_of(names: Vec<String>) -> Option<Users> {
    let in_all = names.len();
    let some = names.into_iter().take(NAMED).collect();
    (in_all > 0).then_some(Users { some, in_all })
}

fn name(webhook: &ChektWebhook) -> String {
    format!(
        "{}/{}",
        webhook.namespace().unwrap_or_default(),
        webhook.name_any()
    )
}

fn has_finalizer(account: &ChektAccount) -> bool {
    account.finalizers().iter().any(|f| f == ACCOUNT_FINALIZER)
}

fn accounts(context: &Context, key: &AccountName) -> Api<ChektAccount> {
    Api::namespaced(context.client.clone(), &key.namespace)
}
