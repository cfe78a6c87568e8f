//! A pass over one account: connect, list when it is time, report.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};

use super::connection::{Connection, Wake};
use super::context::{Context, Slot, lighten};
use super::echoes::is_ours_alone;
use super::{credentials, forbidden, holds, orphans};
use crate::account::report::{Problem, report, still_used};
use crate::cluster::{ClusterError, write};
use crate::ops::clock::Clock;
use crate::resources::account::{AccountName, ChektAccountSpec, WebhookCounts};
use crate::resources::reasons::Reason;
use crate::resources::remote;
use crate::resources::{CONTROLLER_MANAGER, ChektAccount, ChektAccountStatus};

/// The pause after a pass that Kubernetes kept from being finished.
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// How soon an account is looked at again while the webhooks are still being listed.
const UNTIL_KNOWN: Duration = Duration::from_millis(50);
/// How often an account that cannot be connected to is looked at, beside every change of what it is made of.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The interval that stands in for one that cannot be read; the API server lets none of those in.
const MINUTE: Duration = Duration::from_secs(60);

/// One pass.
///
/// # Errors
/// None: what Kubernetes made of it is logged here.
pub async fn reconcile(
    account: Arc<ChektAccount>,
    context: Arc<Context>,
) -> Result<Action, std::convert::Infallible> {
    let (namespace, name) = (account.namespace().unwrap_or_default(), account.name_any());
    let began = context.clock.now();
    let passed = pass(&context, &account).await;
    let took = context.clock.now().saturating_duration_since(began);
    context.metrics.passed("account", took);
    Ok(match passed {
        Ok(action) => action,
        Err(ClusterError::Conflict(why) | ClusterError::NotFound(why)) => {
            tracing::debug!(namespace, name, why, "the account changed meanwhile");
            Action::requeue(AFTER_ERROR)
        }
        Err(error) => {
            context.metrics.errors.inc();
            tracing::warn!(namespace, name, %error, "the pass over an account could not be finished");
            if let ClusterError::Forbidden(why) = &error {
                forbidden::tell_account(&context, &account, why).await;
            }
            Action::requeue(AFTER_ERROR)
        }
    })
}

async fn pass(context: &Context, account: &ChektAccount) -> Result<Action, ClusterError> {
    if !context.knows_all_webhooks() {
        // Counted now, too few would be; and one that nobody seems to use might be let go.
        return Ok(Action::requeue(UNTIL_KNOWN));
    }
    let key = AccountName {
        namespace: account.namespace().unwrap_or_default(),
        name: account.name_any(),
    };
    let interval = interval(&account.spec.sync_interval);
    if context.has_changed(&key, &account.spec.allowed_namespaces)
        && context.wake.send(Wake::Everyone(key.clone())).is_err()
    {
        tracing::debug!("nobody is left to be woken");
    }
    let slot = match connect(context, &key, &account.spec).await? {
        Ok(connection) => Slot::Connected(connection),
        Err(problem) => {
            let last = context
                .slot(&key)
                .and_then(|slot| slot.last_connection().cloned());
            Slot::Broken(problem, last)
        }
    };
    let before = context.set_slot(key.clone(), slot.clone());
    let (problem, counts, again) = match &slot {
        Slot::Broken(problem, _) => {
            let known = matches!(&before, Some(Slot::Broken(old, _)) if old == problem);
            if !known && context.wake.send(Wake::Everyone(key.clone())).is_err() {
                tracing::debug!("nobody is left to be woken");
            }
            // Nothing tells of a right that is given.
            let again = if problem.reason == Reason::Forbidden {
                AFTER_ERROR
            } else {
                LOOK_AGAIN
            };
            (Some(problem.clone()), None, again)
        }
        Slot::Connected(connection) => {
            let again = keep_listed(connection, interval, &context.clock).await;
            let counts = connection
                .has_listed()
                .then(|| count(context, &key, connection));
            (connection.problem(), counts, again)
        }
    };
    let users = holds::users(context, &key, account).await?;
    let problem = match &users {
        Some(users) if account.meta().deletion_timestamp.is_some() => {
            Some(still_used(&users.some, users.in_all, problem.as_ref()))
        }
        Some(_) | None => problem,
    };
    let old = ChektAccountStatus {
        orphans: Vec::new(),
        ..account.status.clone().unwrap_or_default()
    };
    let generation = account.meta().generation.unwrap_or_default();
    let status = report(&old, generation, problem.as_ref(), counts, context.time());
    let mut account = account.clone();
    if status != old {
        let api: Api<ChektAccount> = Api::namespaced(context.client.clone(), &key.namespace);
        let mut written = write::status(&api, &account, &status, CONTROLLER_MANAGER).await?;
        lighten(&mut written);
        if is_ours_alone(account.meta(), written.meta()) {
            let uid = written.uid().unwrap_or_default();
            context
                .account_echoes
                .expect(&uid, written.resource_version());
        }
        account = written;
    }
    holds::keep(context, &key, &account, users.is_some()).await?;
    if let Slot::Connected(connection) = &slot {
        orphans::tidy(context, &key, &account, connection).await?;
    }
    Ok(Action::requeue(again))
}

/// Lists if it is time. Returns when it will be.
async fn keep_listed(connection: &Connection, interval: Duration, clock: &Clock) -> Duration {
    let due = jittered(interval);
    let now = clock.now();
    let wait = connection.wait(now);
    if !wait.is_zero() {
        return wait;
    }
    let age = connection
        .roster()
        .complete_since()
        .map(|began| now.saturating_duration_since(began));
    if let Some(age) =
        age.filter(|age| *age < interval.mul_f64(0.85) && connection.problem().is_none())
    {
        return due.saturating_sub(age).max(Duration::from_millis(100));
    }
    match connection.list(now).await {
        Ok(()) => due,
        Err(error) => {
            tracing::debug!(error = %error.detail, "the account could not be listed");
            connection.wait(clock.now())
        }
    }
}

/// An interval up to a tenth shorter, so that accounts made at one moment do not list at one moment for ever.
fn jittered(interval: Duration) -> Duration {
    let share = getrandom::u32().map_or(0.5, |r| f64::from(r) / f64::from(u32::MAX));
    interval.mul_f64(1.0 - share / 10.0)
}

fn count(context: &Context, key: &AccountName, connection: &Connection) -> WebhookCounts {
    let webhooks = context.served_by(key);
    let ids: HashSet<String> = webhooks
        .iter()
        .filter_map(|w| w.status.as_ref()?.webhook_id.clone())
        .collect();
    let urls: HashSet<String> = webhooks
        .iter()
        .map(|w| remote::canonical(&context.wanted_url(w)))
        .collect();
    let mut counts = WebhookCounts::default();
    for remote in connection.roster().iter() {
        if ids.contains(&remote.id) || urls.contains(&remote::canonical(&remote.url)) {
            counts.managed += 1;
        } else {
            counts.foreign += 1;
        }
    }
    counts
}

/// The connection of an account: the one there is, if it was made of the same things, else a new one.
async fn connect(
    context: &Context,
    key: &AccountName,
    spec: &ChektAccountSpec,
) -> Result<Result<Arc<Connection>, Problem>, ClusterError> {
    let secrets = context.secrets(&key.namespace);
    let insecure = context.settings.allow_insecure_partner;
    let resolved = match credentials::resolve(&secrets, spec, insecure).await? {
        Ok(resolved) => resolved,
        Err(problem) => return Ok(Err(problem)),
    };
    if let Some(Slot::Connected(connection)) = context.slot(key)
        && connection.made_of == resolved.made_of
    {
        return Ok(Ok(connection));
    }
    let made_of = resolved.made_of;
    let client = resolved.client(spec, &context.fence, &context.clock);
    Ok(client.map(|client| {
        let (wake, metrics) = (context.wake.clone(), context.metrics.clone());
        let client = client.metered(metrics.partner.clone());
        let clock = context.clock.clone();
        Connection::open(key.clone(), client, made_of, wake, metrics, clock)
    }))
}

/// The interval of an account. The API server lets in only what the pattern of the definition allows.
pub(super) fn interval(text: &str) -> Duration {
    let parsed = text.parse::<kube::core::Duration>().ok();
    parsed
        .map(Duration::from)
        .filter(|d| *d >= Duration::from_secs(10))
        .unwrap_or(MINUTE)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::runtime::{reflector, watcher};
    use tokio::sync::mpsc;

    use super::*;
    use crate::controller::args::Settings;
    use crate::controller::claims::Claims;
    use crate::controller::context::Webhooks;
    use crate::controller::metrics::Metrics;
    use crate::leadership::fence::Fence;

    #[test]
    fn an_interval_is_read_as_kubernetes_writes_durations() {
        assert_eq!(interval("90s"), Duration::from_secs(90));
        assert_eq!(interval("1m30s"), Duration::from_secs(90));
        assert_eq!(interval("nonsense"), MINUTE);
    }

    /// An account that was looked at before its webhooks were listed seemed to be used by nobody.
    #[tokio::test]
    async fn an_account_is_not_looked_at_before_all_webhooks_are_known() {
        let asked = Arc::new(AtomicUsize::new(0));
        let asking = Arc::clone(&asked);
        let server = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            asking.fetch_add(1, Ordering::AcqRel);
            let answer = http::Response::builder().status(404);
            std::future::ready(answer.body(kube::client::Body::empty()))
        });
        let settings = Settings {
            public_url: "https://alarms.example".parse().unwrap(),
            operator_namespace: "operator".to_owned(),
            watch_namespaces: Vec::new(),
            default_account: None,
            concurrency: 1,
            allow_insecure_partner: false,
            orphan_after: Duration::from_secs(3600),
            election: None,
            secret_names: Vec::new(),
            receiver: None,
        };
        let (store, mut writer) = reflector::store();
        let claims = Arc::new(Claims::new(settings.public_url.clone()));
        let webhooks = Webhooks { store, claims };
        let context = Arc::new(Context::new(
            kube::Client::new(server, "operator"),
            settings,
            Metrics::default(),
            Fence::open(),
            Clock::machine(),
            (vec![webhooks], Vec::new()),
            mpsc::unbounded_channel().0,
        ));
        let account: ChektAccount = serde_json::from_value(serde_json::json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount",
            "metadata": {"name": "default", "namespace": "users"},
            "spec": {"auth": {"accessToken": {"secretRef": {"name": "token", "key": "token"}}}},
        }))
        .unwrap();
        let account = Arc::new(account);
        let look = || reconcile(Arc::clone(&account), Arc::clone(&context));
        assert_eq!(look().await.unwrap(), Action::requeue(UNTIL_KNOWN));
        assert_eq!(asked.load(Ordering::Acquire), 0);
        for event in [watcher::Event::Init, watcher::Event::InitDone] {
            writer.apply_watcher_event(&event);
            let known = &context.webhooks[0];
            known.claims.saw(&event, &known.store);
        }
        look().await.unwrap();
        assert!(asked.load(Ordering::Acquire) > 0);
    }

    #[test]
    fn a_jittered_interval_is_never_longer_and_at_most_a_tenth_shorter() {
        for _ in 0..100 {
            let d = jittered(Duration::from_secs(60));
            assert!(
                d <= Duration::from_secs(60) && d >= Duration::from_secs(54),
                "{d:?}"
            );
        }
    }
}
