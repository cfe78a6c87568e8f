//! Credentials: what an account's Secrets hold becomes a client for CHeKT. The controller and the commands that people run
//! resolve them in the same way.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use crate::account::budget::Budget;
use crate::account::report::Problem;
use crate::cluster::ClusterError;
use crate::cluster::secrets::{self, ValueError};
use crate::leadership::fence::Fence;
use crate::ops::clock::Clock;
use crate::partner::assertion::{self, SigningKey};
use crate::partner::http::{self, PartnerClient};
use crate::partner::token::{ClientGrant, Credentials, Proof};
use crate::resources::account::{Auth, ChektAccountSpec};
use crate::resources::reasons::Reason;

/// Everything that a client for an account is made of.
pub struct Resolved {
    base: Url,
    credentials: Credentials,
    /// A digest of all of it, so that a change is noticed.
    pub made_of: [u8; 32],
}

/// Resolves what the spec of an account says, and reads the Secrets that it names.
///
/// # Errors
/// [`ClusterError`] when they cannot be read; inside, what is written and cannot be used.
pub async fn resolve(
    secrets: &Api<Secret>,
    spec: &ChektAccountSpec,
    allow_insecure: bool,
) -> Result<Result<Resolved, Problem>, ClusterError> {
    let base = match http::check(&spec.base_url, allow_insecure) {
        Ok(base) => base,
        Err(error) => return Ok(Err(unusable(&error))),
    };
    let mut made_of = Sha256::new();
    made_of.update(
        serde_json::to_vec(&(&spec.base_url, &spec.auth, &spec.rate_limit)).unwrap_or_default(),
    );
    let credentials = credentials(secrets, spec, &base, allow_insecure, &mut made_of).await?;
    Ok(credentials.map(|credentials| Resolved {
        base,
        credentials,
        made_of: made_of.finalize().into(),
    }))
}

impl Resolved {
    /// A client with a budget of its own.
    ///
    /// # Errors
    /// When the base URL cannot be called.
    pub fn client(
        self,
        spec: &ChektAccountSpec,
        fence: &Fence,
        clock: &Clock,
    ) -> Result<PartnerClient, Problem> {
        let Resolved {
            base,
            credentials,
            made_of: _,
        } = self;
        let per_minute = u32::try_from(spec.rate_limit.requests_per_minute).unwrap_or(1);
        let burst = u32::try_from(spec.rate_limit.burst).unwrap_or(1);
        let budget = Budget::new(per_minute, burst, clock.now());
        let (fence, clock) = (fence.clone(), clock.clone());
        let client = http::client(&base, &fence)
            .map_err(http::ClientError::from)
            .and_then(|http| PartnerClient::new(&base, http, credentials, budget, fence, clock));
        client.map_err(|error| unusable(&error))
    }
}

fn unusable(error: &http::ClientError) -> Problem {
    Problem {
        reason: Reason::BaseUrlNotUsable,
        message: format!("spec.baseURL: {error}"),
    }
}

async fn credentials(
    api: &Api<Secret>,
    spec: &ChektAccountSpec,
    base: &Url,
    allow_insecure: bool,
    made_of: &mut Sha256,
) -> Result<Result<Credentials, Problem>, ClusterError> {
    let Auth {
        access_token,
        client_credentials,
        private_key_jwt,
    } = &spec.auth;
    let endpoint = |field: &str, url: Option<&str>| {
        let url = match url {
            None => base
                .join("/oauth/token")
                .map_err(|_| http::ClientError::Base(base.to_string())),
            Some(url) => http::check(url, allow_insecure),
        };
        url.map_err(|error| Problem {
            reason: Reason::BaseUrlNotUsable,
            message: format!("spec.auth.{field}.tokenURL: {error}"),
        })
    };
    let credentials = async {
        if let Some(method) = access_token {
            let (secret, key) = (&method.secret_ref.name, &method.secret_ref.key);
            let token = word(secret, key, bytes(api, secret, key, made_of).await?)?;
            return Ok(Credentials::AccessToken(SecretString::from(token)));
        }
        if let Some(method) = client_credentials {
            let url = endpoint("clientCredentials", method.token_url.as_deref())?;
            let (secret, id, key) = (&method.secret_ref.name, "client_id", "client_secret");
            let client_id = word(secret, id, bytes(api, secret, id, made_of).await?)?;
            let proof = word(secret, key, bytes(api, secret, key, made_of).await?)?;
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
            let pem = Zeroizing::new(bytes(api, secret, key, made_of).await?);
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
            ValueError::Forbidden { .. } => Reason::Forbidden,
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
