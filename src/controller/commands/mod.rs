//! The commands with which a person looks at an account, or puts it in order, with a kubeconfig of their own.
//!
//! Each reaches CHeKT as the controller does, with the account's credentials, and changes nothing but what it was asked to.

pub mod asked;
mod columns;
pub mod import;
pub mod orphans;
pub mod plan;
pub mod status;
pub mod target;
mod trial;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;

use super::connection::Connection;
use super::credentials;
use super::metrics::Metrics;
use crate::account::report::Problem;
use crate::cluster::{ClusterError, within, write};
use crate::leadership::fence::Fence;
use crate::ops::clock::Clock;
use crate::resources::account::AccountName;
use crate::resources::{ChektAccount, ChektWebhook};

/// How long one list of objects may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// An account, and the way to CHeKT with its credentials.
struct Reached {
    key: AccountName,
    account: ChektAccount,
    connection: Arc<Connection>,
    clock: Clock,
}

impl Reached {
    /// Reads an account and its credentials.
    async fn account(
        client: &Client,
        key: &AccountName,
        allow_insecure: bool,
    ) -> anyhow::Result<Reached> {
        let accounts: Api<ChektAccount> = Api::namespaced(client.clone(), &key.namespace);
        let Some(account) = write::latest(&accounts, &key.name).await? else {
            bail!(
                "ChektAccount {} does not exist in namespace {}",
                key.name,
                key.namespace
            );
        };
        let reached = Reached::through(client, key, account, allow_insecure).await?;
        reached.map_err(|p| anyhow::anyhow!("account {key}: {}", p.message))
    }

    /// Reads the credentials of an account. Inside: what is wrong with it.
    async fn through(
        client: &Client,
        key: &AccountName,
        account: ChektAccount,
        allow_insecure: bool,
    ) -> anyhow::Result<Result<Reached, Problem>> {
        let secrets = Api::namespaced(client.clone(), &key.namespace);
        let resolved = credentials::resolve(&secrets, &account.spec, allow_insecure)
            .await
            .with_context(|| format!("the credentials of account {key} cannot be read"))?;
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(problem) => return Ok(Err(problem)),
        };
        let (made_of, clock) = (resolved.made_of, Clock::machine());
        let partner = match resolved.client(&account.spec, &Fence::open(), &clock) {
            Ok(partner) => partner,
            Err(problem) => return Ok(Err(problem)),
        };
        // Nobody waits here, and nobody reads the numbers.
        let (wake, _) = mpsc::unbounded_channel();
        let numbers = Metrics::default();
        let connection =
            Connection::open(key.clone(), partner, made_of, wake, numbers, clock.clone());
        Ok(Ok(Reached {
            key: key.clone(),
            account,
            connection,
            clock,
        }))
    }

    /// Lists what CHeKT holds, completely.
    async fn list(&self) -> anyhow::Result<()> {
        let listed = self.connection.list(self.clock.now()).await;
        listed.map_err(|e| anyhow::anyhow!("CHeKT's list for account {}: {}", self.key, e.detail))
    }
}

/// All webhooks of the cluster: whether one is managed can be said only by who sees them all.
async fn webhooks(client: &Client) -> anyhow::Result<Vec<ChektWebhook>> {
    let all: Api<ChektWebhook> = Api::all(client.clone());
    match within(DEADLINE, all.list(&ListParams::default())).await {
        Ok(list) => Ok(list.items),
        Err(error @ ClusterError::Forbidden(_)) => Err(error).context(
            "whether a ChektWebhook manages a remote webhook can be said only by who may list chektwebhooks in all namespaces",
        ),
        Err(error) => Err(error.into()),
    }
}

/// The webhook that has a remote webhook, or wants to take it over by its id, as `namespace/name`.
fn manager(webhooks: &[ChektWebhook], account: &AccountName, id: &str) -> Option<String> {
    let is_with = |w: &ChektWebhook| {
        let on_record = w.status.as_ref().and_then(|s| s.account.as_deref());
        on_record.is_none_or(|a| a == account.to_string())
    };
    let has = |w: &ChektWebhook| {
        let on_record = w.status.as_ref().and_then(|s| s.webhook_id.as_deref());
        on_record == Some(id) || (on_record.is_none() && w.spec.webhook_id.as_deref() == Some(id))
    };
    let manager = webhooks.iter().find(|w| is_with(w) && has(w))?;
    Some(format!(
        "{}/{}",
        manager.namespace().unwrap_or_default(),
        manager.name_any()
    ))
}
