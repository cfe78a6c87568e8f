//! A pass over one account: connect, list when it is time, report.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use super::connection::{Connection, Wake};
use super::context::{Context, Slot, lighten};
use super::echoes::is_ours_alone;
use super::{holds, orphans};
use crate::account::budget::Budget;
use crate::account::report::{Problem, report, still_used};
use crate::cluster::secrets::{self, ValueError};
use crate::cluster::{ClusterError, write};
use crate::ops::clock::Clock;
use crate::partner::assertion::{self, SigningKey};
use crate::partner::http::{self, PartnerClient};
use crate::partner::token::{ClientGrant, Credentials, Proof};
use crate::resources::account::{AccountName, Auth, ChektAccountSpec, WebhookCounts};
use crate::resources::reasons::Reason;
use crate::resources::remote;
use crate::resources::{CONTROLLER_MANAGER, ChektAccount, ChektAccountStatus};

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
    let status = report(
        &old,
        generation,
        problem.as_ref(),
        counts,
        context.clock.wall(),
    );
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
    let budget = Budget::new(per_minute, burst, context.clock.now());
    let (fence, clock) = (&context.fence, &context.clock);
    let client = http::client(&base, fence)
        .map_err(http::ClientError::from)
        .and_then(|http| {
            PartnerClient::new(
                &base,
                http,
                credentials,
                budget,
                fence.clone(),
                clock.clone(),
            )
        });
    Ok(match client {
        Ok(client) => {
            let (wake, metrics) = (context.wake.clone(), context.metrics.clone());
            let waiting = client.waiting();
            let connection =
                Connection::new(key.clone(), client, made_of, wake, metrics, clock.clone());
            let connection = Arc::new(connection);
            let turns = Connection::give_turns(Arc::downgrade(&connection), waiting);
            // It ends by itself once nobody holds the connection any more.
            drop(tokio::spawn(turns));
            Ok(connection)
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
    let Auth {
        access_token,
        client_credentials,
        private_key_jwt,
    } = &spec.auth;
    let api = context.secrets(&key.namespace);
    let endpoint = |field: &str, url: Option<&str>| {
        let url = match url {
            None => base
                .join("/oauth/token")
                .map_err(|_| http::ClientError::Base(base.to_string())),
            Some(url) => http::check(url, context.settings.allow_insecure_partner),
        };
        url.map_err(|error| Problem {
            reason: Reason::BaseUrlNotUsable,
            message: format!("spec.auth.{field}.tokenURL: {error}"),
        })
    };
    let credentials = async {
        if let Some(method) = access_token {
            let (secret, key) = (&method.secret_ref.name, &method.secret_ref.key);
            let token = word(secret, key, bytes(&api, secret, key, made_of).await?)?;
            return Ok(Credentials::AccessToken(SecretString::from(token)));
        }
        if let Some(method) = client_credentials {
            let url = endpoint("clientCredentials", method.token_url.as_deref())?;
            let (secret, id, key) = (&method.secret_ref.name, "client_id", "client_secret");
            let client_id = word(secret, id, bytes(&api, secret, id, made_of).await?)?;
            let proof = word(secret, key, bytes(&api, secret, key, made_of).await?)?;
            let grant = ClientGrant {
                url,
                client_id,
                proof: Proof::Secret(SecretString::from(proof)),
                audience: method.audience.clone(),
                scopes: method.scopes.clone(),
            };
            return Ok(Credentials::Client(Box::new(grant)));
        }
        if let Some(method) = private_key_jwt {
            let url = endpoint("privateKeyJWT", Some(&method.token_url))?;
            let (secret, key) = (&method.secret_ref.name, &method.secret_ref.key);
            let pem = Zeroizing::new(bytes(&api, secret, key, made_of).await?);
            let signing = SigningKey::read(&pem).map_err(|error| Problem {
                reason: Reason::SecretNotUsable,
                message: format!("key {key} of Secret {secret}: {error}"),
            })?;
            let client = assertion::Client {
                id: method.client_id.clone(),
                key_id: method.key_id.clone(),
                server: assertion::server(&url),
            };
            let grant = ClientGrant {
                url,
                client_id: method.client_id.clone(),
                proof: Proof::Key {
                    key: signing,
                    client,
                },
                audience: method.audience.clone(),
                scopes: Vec::new(),
            };
            return Ok(Credentials::Client(Box::new(grant)));
        }
        Err(Lack::Problem(Problem {
            reason: Reason::SecretNotUsable,
            message:
                "spec.auth names no method: write accessToken, clientCredentials or privateKeyJWT"
                    .to_owned(),
        }))
    };
    match credentials.await {
        Ok(credentials) => Ok(Ok(credentials)),
        Err(Lack::Problem(problem)) => Ok(Err(problem)),
        Err(Lack::Cluster(error)) => Err(error),
    }
}

/// Why there are no credentials.
enum Lack {
    /// What is written cannot be used.
    Problem(Problem),
    /// The API server could not be asked.
    Cluster(ClusterError),
}

impl From<Problem> for Lack {
    fn from(problem: Problem) -> Self {
        Lack::Problem(problem)
    }
}

/// One value of a Secret, which also goes into the digest of what a connection is made of.
async fn bytes(
    api: &Api<Secret>,
    secret: &str,
    key: &str,
    made_of: &mut Sha256,
) -> Result<Vec<u8>, Lack> {
    let bytes = secrets::value(api, secret, key).await.map_err(|why| {
        let reason = match why {
            ValueError::Cluster(error) => return Lack::Cluster(error),
            ValueError::Empty { .. } => Reason::SecretNotUsable,
            ValueError::NoSecret { .. } | ValueError::NoKey { .. } => Reason::SecretNotFound,
        };
        Lack::Problem(Problem {
            reason,
            message: why.to_string(),
        })
    })?;
    made_of.update((bytes.len() as u64).to_le_bytes());
    made_of.update(&bytes);
    Ok(bytes)
}

/// A value that is one word. A line break at the end is what `kubectl create secret --from-file` puts there.
fn word(secret: &str, key: &str, bytes: Vec<u8>) -> Result<String, Problem> {
    match String::from_utf8(bytes).map(|t| t.trim_end_matches(['\r', '\n']).to_owned()) {
        Ok(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => Ok(text),
        _ => Err(Problem {
            reason: Reason::SecretNotUsable,
            message: format!(
                "key {key} of Secret {secret} is not a token: write it in printable characters without spaces"
            ),
        }),
    }
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
