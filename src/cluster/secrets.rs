//! Secrets: one value of a user's Secret, and the keyring Secrets, which are ours.
//!
//! A keyring is replaced with the resource version that was read, so that two controllers that believe
//! themselves in charge cannot both advance a rotation.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};

use super::error::{ClusterError, within};
use crate::resources::account::AccountName;
use crate::resources::keyring::{
    ACCOUNT, Keyring, KeyringError, LABEL, WEBHOOK_NAME, WEBHOOK_NAMESPACE, WEBHOOK_UID,
    WebhookIdentity,
};

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a value cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// The Secret does not exist.
    #[error("Secret {secret} does not exist: create it with the key {key}")]
    NoSecret {
        /// Its name.
        secret: String,
        /// The wanted key.
        key: String,
    },
    /// The key does not exist in it.
    #[error("Secret {secret} has no key {key}: add it, or name another key (it has: {has})")]
    NoKey {
        /// Its name.
        secret: String,
        /// The wanted key.
        key: String,
        /// The keys it has.
        has: String,
    },
    /// The value has no bytes.
    #[error("key {key} of Secret {secret} is empty: write a value into it")]
    Empty {
        /// Its name.
        secret: String,
        /// The wanted key.
        key: String,
    },
    /// We may not read the Secret.
    #[error(
        "Secret {secret} may not be read ({why}): let the operator get it, or name one that it may read"
    )]
    Forbidden {
        /// Its name.
        secret: String,
        /// What the API server says.
        why: String,
    },
    /// The API server could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Reads a Secret.
///
/// # Errors
/// [`ClusterError`]; a Secret that does not exist is `None`.
pub async fn get(secrets: &Api<Secret>, name: &str) -> Result<Option<Secret>, ClusterError> {
    within(DEADLINE, secrets.get_opt(name)).await
}

/// One value of a Secret.
///
/// # Errors
/// [`ValueError`], each with what to write instead.
pub async fn value(secrets: &Api<Secret>, name: &str, key: &str) -> Result<Vec<u8>, ValueError> {
    let (secret, key) = (name.to_owned(), key.to_owned());
    let found = match get(secrets, name).await {
        Ok(Some(found)) => found,
        Ok(None) => return Err(ValueError::NoSecret { secret, key }),
        Err(ClusterError::Forbidden(why)) => return Err(ValueError::Forbidden { secret, why }),
        Err(error) => return Err(error.into()),
    };
    pick(&found, name, &key)
}

/// One value of a Secret that was read.
fn pick(found: &Secret, name: &str, key: &str) -> Result<Vec<u8>, ValueError> {
    let (secret, key) = (name.to_owned(), key.to_owned());
    let data = found.data.clone().unwrap_or_default();
    match data.get(&key) {
        None => {
            let has = data.keys().cloned().collect::<Vec<_>>().join(", ");
            let has = if has.is_empty() {
                "none".to_owned()
            } else {
                has
            };
            Err(ValueError::NoKey { secret, key, has })
        }
        Some(value) if value.0.is_empty() => Err(ValueError::Empty { secret, key }),
        Some(value) => Ok(value.0.clone()),
    }
}

/// A keyring and the resource version that it was read at.
#[derive(Clone, Debug)]
pub struct StoredKeyring {
    /// The keyring.
    pub keyring: Keyring,
    /// The account that its requests are sent to.
    pub account: Option<AccountName>,
    /// What a replacement must name.
    pub resource_version: Option<String>,
}

/// Why a keyring cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API server could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Somebody has changed it by hand.
    #[error(
        "keyring Secret {0} cannot be read ({1}): delete it, and a new secret is made and given to CHeKT"
    )]
    Damaged(String, KeyringError),
}

/// Reads the keyring of a webhook.
///
/// # Errors
/// [`ReadError`]; a keyring that does not exist is `None`.
pub async fn keyring(secrets: &Api<Secret>, uid: &str) -> Result<Option<StoredKeyring>, ReadError> {
    let name = Keyring::secret_name(uid);
    let Some(secret) = get(secrets, &name).await? else {
        return Ok(None);
    };
    let damaged = |e| ReadError::Damaged(name.clone(), e);
    let keyring = Keyring::from_secret(&secret).map_err(damaged)?;
    let account = secret
        .annotations()
        .get(ACCOUNT)
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| damaged(KeyringError::Unreadable(format!("annotation {ACCOUNT}"))))?;
    Ok(Some(StoredKeyring {
        keyring,
        account,
        resource_version: secret.metadata.resource_version,
    }))
}

/// Reads the keyring of a webhook as one may who may list Secrets and not get them, which is the receiver.
///
/// # Errors
/// [`ReadError`]; a keyring that does not exist is `None`.
pub async fn listed_keyring(
    secrets: &Api<Secret>,
    uid: &str,
    limit: Duration,
) -> Result<Option<Keyring>, ReadError> {
    let name = Keyring::secret_name(uid);
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    let listed = within(limit, secrets.list(&only)).await?;
    let keyring = listed.items.first().map(Keyring::from_secret).transpose();
    keyring.map_err(|error| ReadError::Damaged(name, error))
}

/// Whose keyrings name an account. Only their metadata is read.
///
/// # Errors
/// [`ClusterError`].
pub async fn keyrings_of(
    secrets: &Api<Secret>,
    account: &AccountName,
) -> Result<Vec<WebhookIdentity>, ClusterError> {
    let labelled = ListParams::default().labels(LABEL);
    let all = within(DEADLINE, secrets.list_metadata(&labelled)).await?;
    let account = account.to_string();
    let of_account = all.items.into_iter().filter_map(|secret| {
        let text = |name: &str| secret.annotations().get(name).cloned();
        (text(ACCOUNT)? == account).then_some(WebhookIdentity {
            namespace: text(WEBHOOK_NAMESPACE)?,
            name: text(WEBHOOK_NAME)?,
            uid: text(WEBHOOK_UID)?,
        })
    });
    Ok(of_account.collect())
}

/// Writes a keyring and the account that its requests are sent to: creates it, or replaces the one that was read.
///
/// # Errors
/// [`ClusterError::Conflict`] or [`ClusterError::AlreadyExists`] when somebody else wrote in between.
pub async fn store(
    secrets: &Api<Secret>,
    namespace: &str,
    keyring: &Keyring,
    account: &AccountName,
    read_at: Option<&str>,
) -> Result<StoredKeyring, ClusterError> {
    let mut secret = keyring.to_secret(namespace);
    secret
        .annotations_mut()
        .insert(ACCOUNT.to_owned(), account.to_string());
    let parameters = PostParams {
        field_manager: Some(crate::resources::CONTROLLER_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let written = match read_at {
        None => within(DEADLINE, secrets.create(&parameters, &secret)).await?,
        Some(version) => {
            secret.metadata.resource_version = Some(version.to_owned());
            let name = Keyring::secret_name(&keyring.webhook.uid);
            within(DEADLINE, secrets.replace(&name, &parameters, &secret)).await?
        }
    };
    Ok(StoredKeyring {
        keyring: keyring.clone(),
        account: Some(account.clone()),
        resource_version: written.metadata.resource_version,
    })
}

/// Deletes the keyring of a webhook. One that does not exist is deleted already.
///
/// # Errors
/// [`ClusterError`].
pub async fn remove(secrets: &Api<Secret>, uid: &str) -> Result<(), ClusterError> {
    let name = Keyring::secret_name(uid);
    match within(DEADLINE, secrets.delete(&name, &DeleteParams::default())).await {
        Ok(_) | Err(ClusterError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
