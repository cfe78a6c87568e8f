//! The oracle: what the record of a load says was acknowledged, held against the Events that there are.
//!
//! It asks nobody but the sender's own record and the API server. What the receiver thinks of itself is no evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

use super::cluster::Cluster;
use super::eventually::eventually;
use super::load::Record;

/// What the id of a delivery begins with that cannot be read: it becomes a dead letter, and no Event of its own.
pub const UNREADABLE: &str = "unreadable-";

/// What became of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Events of deliveries of this load.
    pub events: usize,
    /// Acknowledged and readable, and there is no Event.
    pub missing: Vec<String>,
    /// More than one Event for one delivery, acknowledged or not.
    pub twice: Vec<String>,
}

/// Compares once.
///
/// # Errors
/// When the Events cannot be listed.
pub async fn verdict(cluster: &Cluster, webhook: &str, record: &Record) -> anyhow::Result<Verdict> {
    let ids = record.ids();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for event in cluster.events_of(webhook).await? {
        if let Some(id) = id_of(&event)
            && ids.contains(id)
        {
            *found.entry(id.to_owned()).or_default() += 1;
        }
    }
    let acknowledged = record.acknowledged();
    let readable = acknowledged.iter().filter(|id| !id.starts_with(UNREADABLE));
    let missing = readable.filter(|id| !found.contains_key(**id));
    let twice = found.iter().filter(|(_, count)| **count > 1);
    Ok(Verdict {
        events: found.values().sum(),
        missing: missing.map(|id| (*id).to_owned()).collect(),
        twice: twice.map(|(id, count)| format!("{id}: {count}")).collect(),
    })
}

/// Waits until nothing that was acknowledged is missing, or for `limit`; either way the verdict is what is seen then.
///
/// # Errors
/// When the Events cannot be listed.
pub async fn settled(
    cluster: &Cluster,
    webhook: &str,
    record: &Record,
    limit: Duration,
) -> anyhow::Result<Verdict> {
    let acknowledged = record.acknowledged();
    let wanted = acknowledged.iter().filter(|id| !id.starts_with(UNREADABLE));
    let wanted = wanted.count();
    let last = eventually("every acknowledged delivery's Event", limit, async || {
        // Counting is cheap, and a list of thousands is not while they are being made.
        let there = count(cluster).await?;
        anyhow::ensure!(there >= wanted, "{there} Events of {wanted}");
        let verdict = verdict(cluster, webhook, record).await?;
        anyhow::ensure!(
            verdict.missing.is_empty(),
            "{} missing",
            verdict.missing.len()
        );
        Ok(verdict)
    })
    .await;
    match last {
        Ok(verdict) => Ok(verdict),
        Err(_) => verdict(cluster, webhook, record).await,
    }
}

/// How many Events the namespace holds, of whatever kind.
async fn count(cluster: &Cluster) -> anyhow::Result<usize> {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let first = api.list_metadata(&ListParams::default().limit(1)).await?;
    let more = first.metadata.remaining_item_count.unwrap_or_default();
    Ok(first.items.len() + usize::try_from(more).context("a negative count")?)
}

/// By what the Event is known: the alarm.
fn id_of(event: &Event) -> Option<&str> {
    let annotations = event.metadata.annotations.as_ref()?;
    annotations.get("chekt.com/alarm-id").map(String::as_str)
}
