//! The record of orphans, in the status of their account: the only place from which it is written.
//!
//! Several write it: passes over webhooks that are let go of, the pass over the account that finds one gone, and people by
//! the command line. So it has a field manager of its own, and each write names the version of the account that it was
//! made from. Whoever comes second gets a conflict and looks again; nobody takes away what another has just written.

use kube::{Api, Client, ResourceExt};

use super::connection::Connection;
use super::context::Context;
use crate::account::orphans;
use crate::cluster::{ClusterError, write};
use crate::resources::ChektAccount;
use crate::resources::account::{AccountName, Orphan};
use crate::resources::remote::SETTLE;

/// How often a write is tried that others come before.
const TRIES: usize = 10;

/// Puts an orphan on record, and gives back the account that has it; `None`: there is no such account.
///
/// # Errors
/// [`ClusterError`]; then it may not be on record.
pub async fn record(
    client: &Client,
    key: &AccountName,
    orphan: Orphan,
) -> Result<Option<ChektAccount>, ClusterError> {
    change(client, key, |all| orphans::with(all, orphan.clone())).await
}

/// Changes the record, from what the API server has now. Gives back the account; `None`: there is none.
///
/// # Errors
/// [`ClusterError`]; then it may not be changed.
pub async fn change(
    client: &Client,
    key: &AccountName,
    change: impl Fn(&[Orphan]) -> Vec<Orphan>,
) -> Result<Option<ChektAccount>, ClusterError> {
    let api: Api<ChektAccount> = Api::namespaced(client.clone(), &key.namespace);
    let mut tries = TRIES;
    loop {
        let Some(account) = write::latest(&api, &key.name).await? else {
            return Ok(None);
        };
        let old = of(&account);
        let new = change(old);
        if new == old {
            return Ok(Some(account));
        }
        tries -= 1;
        match write::orphans(&api, &account, &new).await {
            Err(ClusterError::Conflict(_)) if tries > 0 => {}
            Err(ClusterError::NotFound(_)) => return Ok(None),
            written => return written.map(Some),
        }
    }
}

/// The orphans that are on record.
#[must_use]
pub fn of(account: &ChektAccount) -> &[Orphan] {
    account.status.as_ref().map_or(&[], |s| &s.orphans)
}

/// Takes off the record what CHeKT no longer has and what is managed again. `account` as it was read or written last.
///
/// # Errors
/// [`ClusterError::Conflict`] when it has changed since, and any other.
pub async fn tidy(
    context: &Context,
    key: &AccountName,
    account: &ChektAccount,
    connection: &Connection,
) -> Result<(), ClusterError> {
    let old = of(account);
    if old.is_empty() {
        return Ok(());
    }
    let managed: Vec<String> = context
        .webhooks_of(key)
        .iter()
        .filter(|w| w.metadata.deletion_timestamp.is_none())
        .filter_map(|w| w.status.as_ref()?.webhook_id.clone())
        .collect();
    let mut left = old.to_vec();
    {
        let roster = connection.roster();
        let began = roster.complete_since();
        // As with a webhook that is to be released: two lists without it that began far enough apart.
        let is_gone = |id: &str| {
            began
                .zip(roster.absent_since(id))
                .is_some_and(|(began, since)| began.saturating_duration_since(since) >= SETTLE)
        };
        left.retain(|o| !managed.contains(&o.id) && !is_gone(&o.id));
    }
    if left == old {
        return Ok(());
    }
    tracing::info!(account = %key, left = left.len(), "orphans are gone from CHeKT or managed again");
    let api: Api<ChektAccount> = Api::namespaced(
        context.client.clone(),
        &account.namespace().unwrap_or_default(),
    );
    write::orphans(&api, account, &left).await.map(drop)
}
