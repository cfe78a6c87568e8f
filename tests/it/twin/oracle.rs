//! The oracle: what CHeKT and the API server hold, against what was asked for. It asks nobody what they remember.

use std::collections::{BTreeMap, BTreeSet};

use chekt_operator::resources::conditions::{self, READY};
use chekt_operator::resources::keyring::Keyring;
use chekt_operator::resources::{
    ChektWebhook, RECONCILE_REQUESTED_AT, ROTATE_REQUESTED_AT, TEST_REQUESTED_AT, remote,
};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::apiserver::ApiServer;
use super::chekt::{Chekt, Remote};

/// What there is to be in the end.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// By name.
    pub webhooks: BTreeMap<String, WantedWebhook>,
    /// Urls of webhooks at CHeKT that are somebody else's, or were left there.
    pub strangers: BTreeSet<String>,
}

/// What one webhook is to be in the end.
#[derive(Clone, Debug)]
pub struct WantedWebhook {
    pub url: String,
    pub events: BTreeSet<String>,
    /// The secret, where a user gives it.
    pub secret: Option<String>,
}

/// No two live webhooks have one url, at no time.
pub fn no_twins(live: &[Remote]) -> anyhow::Result<()> {
    for (at, one) in live.iter().enumerate() {
        if let Some(other) = live[..at].iter().find(|o| remote::same(&o.url, &one.url)) {
            anyhow::bail!(
                "{} and {} have one url: {}",
                other.webhook_id,
                one.webhook_id,
                one.url
            );
        }
    }
    Ok(())
}

/// All is as it was asked for.
pub async fn judge(wanted: &Wanted, api: &ApiServer, chekt: &Chekt) -> anyhow::Result<()> {
    let mut live = chekt.live().await?;
    no_twins(&live)?;
    let objects: Vec<ChektWebhook> = api.all("chektwebhooks")?;
    for object in &objects {
        let name = object.name_any();
        anyhow::ensure!(wanted.webhooks.contains_key(&name), "{name} is still there");
    }
    let keyrings: Vec<Secret> = api.all("secrets")?;
    let keyrings: Vec<Keyring> = keyrings
        .iter()
        .filter(|secret| secret.name_any().starts_with("chekt-keyring-"))
        .map(Keyring::from_secret)
        .collect::<Result<_, _>>()?;
    for keyring in &keyrings {
        let owner = &keyring.webhook;
        let is_owned = objects
            .iter()
            .any(|o| o.uid().as_deref() == Some(&owner.uid));
        anyhow::ensure!(
            is_owned,
            "the keyring of {} {} is left",
            owner.name,
            owner.uid
        );
    }
    for (name, wanted) in &wanted.webhooks {
        let Some(object) = objects.iter().find(|o| o.name_any() == *name) else {
            anyhow::bail!("{name} is gone");
        };
        let uid = object.uid().unwrap_or_default();
        let keyring = keyrings.iter().find(|k| k.webhook.uid == uid);
        let at = live
            .iter()
            .position(|r| remote::same(&r.url, &wanted.url))
            .ok_or_else(|| anyhow::anyhow!("{name}: no remote webhook has {}", wanted.url))?;
        judge_one(object, wanted, keyring, &live.remove(at))
            .map_err(|why| anyhow::anyhow!("{name}: {why}"))?;
    }
    for stranger in &wanted.strangers {
        let at = live.iter().position(|r| remote::same(&r.url, stranger));
        let at = at.ok_or_else(|| anyhow::anyhow!("{stranger}, not ours, is gone"))?;
        live.remove(at);
    }
    let left: Vec<_> = live.iter().map(|r| (&r.webhook_id, &r.url)).collect();
    anyhow::ensure!(left.is_empty(), "nobody's remote webhooks: {left:?}");
    Ok(())
}

fn judge_one(
    object: &ChektWebhook,
    wanted: &WantedWebhook,
    keyring: Option<&Keyring>,
    remote: &Remote,
) -> anyhow::Result<()> {
    let events: BTreeSet<String> = remote.events.iter().cloned().collect();
    anyhow::ensure!(events == wanted.events, "events {events:?}");
    anyhow::ensure!(remote.status == "active", "it is {}", remote.status);
    let Some(keyring) = keyring else {
        anyhow::bail!("no keyring");
    };
    let current = keyring.current.as_ref().map(|key| key.secret.expose());
    anyhow::ensure!(
        keyring.next.is_none() && current == Some(remote.secret.as_bytes()),
        "CHeKT signs with another key than the current one"
    );
    if let Some(secret) = &wanted.secret {
        anyhow::ensure!(*secret == remote.secret, "the secret is not the user's");
    }
    let status = object.status.clone().unwrap_or_default();
    anyhow::ensure!(
        status.webhook_id.as_deref() == Some(&remote.webhook_id),
        "on record is {:?} and not {}",
        status.webhook_id,
        remote.webhook_id
    );
    let asked = |name: &str| object.annotations().get(name).cloned();
    anyhow::ensure!(
        asked(RECONCILE_REQUESTED_AT) == status.last_handled_reconcile_at,
        "a pass that was asked for is not shown"
    );
    anyhow::ensure!(
        asked(TEST_REQUESTED_AT) == status.last_handled_test_at,
        "a test that was asked for is not shown"
    );
    anyhow::ensure!(
        object.spec.secret_ref.is_some()
            || asked(ROTATE_REQUESTED_AT) == status.last_handled_rotate_at,
        "a new secret that was asked for is not shown"
    );
    let ready = conditions::find(&status.conditions, READY);
    let generation = object.metadata.generation;
    anyhow::ensure!(
        ready.is_some_and(|c| c.status == "True" && c.observed_generation == generation)
            && status.observed_generation == generation,
        "generation {generation:?}, observed {:?}, {:?}",
        status.observed_generation,
        ready.map(|c| (&c.status, &c.reason, &c.message))
    );
    Ok(())
}
