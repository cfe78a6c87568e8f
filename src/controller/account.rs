//! A pass over one account: connect, list when it is time, report.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use url::Url;

use super::connection::{Connection, Wake};
use super::context::{Context, Slot};
use crate::account::budget::Budget;
use crate::account::report::{Problem, report};
use crate::cluster::secrets::{self, ValueError};
use crate::cluster::{ClusterError, write};
use crate::partner::http::{self, PartnerClient};
use crate::partner::token::Credentials;
use crate::resources::account::{AccountName, ChektAccountSpec, WebhookCounts};
use crate::resources::reasons::Reason;
use crate::resources::remote;
use crate::resources::{CONTROLLER_MANAGER, ChektAccount};

/// The pause after a pass that Kubernetes kept from being finished.
const AFTER_ERROR: Duration = Duration::from_secs(5);
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
    Ok(match pass(&context, &account).await {
        Ok(action) => action,
        Err(ClusterError::Conflict(why) | ClusterError::NotFound(why)) => {
            tracing::debug!(namespace, name, why, "the account changed meanwhile");
            Action::requeue(AFTER_ERROR)
        }
        Err(error) => {
            context.metrics.errors.inc();
            tracing::warn!(namespace, name, %error, "the pass over an account could not be finished");
            Action::requeue(AFTER_ERROR)
        }
    })
}

async fn pass(context: &Context, account: &ChektAccount) -> Result<Action, ClusterError> {
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
            (Some(problem.clone()), None, LOOK_AGAIN)
        }
        Slot::Connected(connection) => {
            let again = keep_listed(connection, interval).await;
            let counts = connection
                .has_listed()
                .then(|| count(context, &key, connection));
            (connection.problem(), counts, again)
        }
    };
    let old = account.status.clone().unwrap_or_default();
    let generation = account.meta().generation.unwrap_or_default();
    let status = report(&old, generation, problem.as_ref(), counts, Timestamp::now());
    if status != old {
        let api: Api<ChektAccount> = Api::namespaced(context.client.clone(), &key.namespace);
        write::status(&api, account, &status, CONTROLLER_MANAGER).await?;
    }
    Ok(Action::requeue(again))
}

/// Lists if it is time. Returns when it will be.
async fn keep_listed(connection: &Connection, interval: Duration) -> Duration {
    let due = jittered(interval);
    let now = Instant::now();
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
            connection.pause(interval.max(LOOK_AGAIN))
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
    let base = match http::check(&spec.base_url, context.settings.allow_insecure_partner) {
        Ok(base) => base,
        Err(error) => {
            return Ok(Err(Problem {
                reason: Reason::BaseUrlNotUsable,
                message: format!("spec.baseURL: {error}"),
            }));
        }
    };
    let mut made_of = Sha256::new();
    made_of.update(
        serde_json::to_vec(&(&spec.base_url, &spec.auth, &spec.rate_limit)).unwrap_or_default(),
    );
    let credentials = match credentials(context, key, spec, &base, &mut made_of).await? {
        Ok(credentials) => credentials,
        Err(problem) => return Ok(Err(problem)),
    };
    let made_of: [u8; 32] = made_of.finalize().into();
    if let Some(Slot::Connected(connection)) = context.slot(key)
        && connection.made_of == made_of
    {
        return Ok(Ok(connection));
    }
    let per_minute = u32::try_from(spec.rate_limit.requests_per_minute).unwrap_or(1);
    let burst = u32::try_from(spec.rate_limit.burst).unwrap_or(1);
    let budget = Budget::new(per_minute, burst, Instant::now());
    let fence = &context.fence;
    let client = http::client(&base, fence)
        .map_err(http::ClientError::from)
        .and_then(|http| PartnerClient::new(&base, http, credentials, budget, fence.clone()));
    Ok(match client {
        Ok(client) => {
            let (wake, metrics) = (context.wake.clone(), context.metrics.clone());
            Ok(Arc::new(Connection::new(
                key.clone(),
                client,
                made_of,
                wake,
                metrics,
            )))
        }
        Err(error) => Err(Problem {
            reason: Reason::BaseUrlNotUsable,
            message: format!("spec.baseURL: {error}"),
        }),
    })
}

async fn credentials(
    context: &Context,
    key: &AccountName,
    spec: &ChektAccountSpec,
    base: &Url,
    made_of: &mut Sha256,
) -> Result<Result<Credentials, Problem>, ClusterError> {
    let api = context.secrets(&key.namespace);
    let mut text = async |name: &str, key: &str| -> Result<Result<String, Problem>, ClusterError> {
        let bytes = match secrets::value(&api, name, key).await {
            Ok(bytes) => bytes,
            Err(ValueError::Cluster(error)) => return Err(error),
            Err(why @ ValueError::Empty { .. }) => {
                return Ok(Err(Problem {
                    reason: Reason::SecretNotUsable,
                    message: why.to_string(),
                }));
            }
            Err(why) => {
                return Ok(Err(Problem {
                    reason: Reason::SecretNotFound,
                    message: why.to_string(),
                }));
            }
        };
        made_of.update((bytes.len() as u64).to_le_bytes());
        made_of.update(&bytes);
        // A line break at the end is what `kubectl create secret --from-file` puts there.
        Ok(
            match String::from_utf8(bytes).map(|t| t.trim_end_matches(['\r', '\n']).to_owned()) {
                Ok(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
                    Ok(text)
                }
                _ => Err(Problem {
                    reason: Reason::SecretNotUsable,
                    message: format!(
                        "key {key} of Secret {name} is not a token: write it in printable characters without spaces"
                    ),
                }),
            },
        )
    };
    let auth = &spec.auth;
    if let Some(token) = &auth.access_token {
        let token = text(&token.secret_ref.name, &token.secret_ref.key).await?;
        return Ok(token.map(|t| Credentials::AccessToken(SecretString::from(t))));
    }
    let Some(client) = &auth.client_credentials else {
        let message =
            "spec.auth names no method: write accessToken or clientCredentials".to_owned();
        return Ok(Err(Problem {
            reason: Reason::SecretNotUsable,
            message,
        }));
    };
    let url = match &client.token_url {
        None => base
            .join("/oauth/token")
            .map_err(|_| http::ClientError::Base(base.to_string())),
        Some(url) => http::check(url, context.settings.allow_insecure_partner),
    };
    let url = match url {
        Ok(url) => url,
        Err(error) => {
            let message = format!("spec.auth.clientCredentials.tokenURL: {error}");
            return Ok(Err(Problem {
                reason: Reason::BaseUrlNotUsable,
                message,
            }));
        }
    };
    let client_id = match text(&client.secret_ref.name, "client_id").await? {
        Ok(id) => id,
        Err(problem) => return Ok(Err(problem)),
    };
    let client_secret = match text(&client.secret_ref.name, "client_secret").await? {
        Ok(secret) => SecretString::from(secret),
        Err(problem) => return Ok(Err(problem)),
    };
    let (audience, scopes) = (client.audience.clone(), client.scopes.clone());
    Ok(Ok(Credentials::ClientCredentials {
        url,
        client_id,
        client_secret,
        audience,
        scopes,
    }))
}

/// The interval of an account. The API server lets in only what the pattern of the definition allows.
fn interval(text: &str) -> Duration {
    let parsed = text.parse::<kube::core::Duration>().ok();
    parsed
        .map(Duration::from)
        .filter(|d| *d >= Duration::from_secs(10))
        .unwrap_or(MINUTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_read_as_kubernetes_writes_durations() {
        assert_eq!(interval("90s"), Duration::from_secs(90));
        assert_eq!(interval("1m30s"), Duration::from_secs(90));
        assert_eq!(interval("nonsense"), MINUTE);
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
