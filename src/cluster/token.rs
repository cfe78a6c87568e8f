//! A short-lived token of another service account (TokenRequest), which dies with our Pod.
//!
//! The API server binds a token to a Pod only for the Pod's own service account ("cannot bind token for serviceaccount
//! ... to pod running with different serviceaccount name"). So it is bound to an empty Secret that the Pod owns: once the
//! Pod is gone the garbage collector deletes the Secret, and with it the token ends.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use secrecy::SecretString;

use super::error::{ClusterError, within};
use crate::resources::CONTROLLER_MANAGER;

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// The type of the Secrets that tokens are bound to.
const ANCHOR: &str = "chekt.com/receiver-token";

/// The Pod that we run in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// A token as the API server gave it.
#[derive(Debug)]
pub struct Issued {
    /// What a request carries.
    pub token: SecretString,
    /// How long it lives from the moment on at which it was asked for.
    pub life: Duration,
    /// When it ends, by the clock of the API server.
    pub ends: Timestamp,
}

/// Asks for a token of a service account for the API server itself.
///
/// # Errors
/// [`ClusterError`]; [`ClusterError::NotFound`] where there is no such service account.
pub async fn request(
    client: &Client,
    namespace: &str,
    service_account: &str,
    life: Duration,
    pod: Option<&Pod>,
) -> Result<Issued, ClusterError> {
    let bound = match pod {
        Some(pod) => Some(anchor(client, namespace, pod).await?),
        None => None,
    };
    let wanted = TokenRequest {
        spec: TokenRequestSpec {
            // None: those of the API server.
            audiences: Vec::new(),
            bound_object_ref: bound,
            expiration_seconds: i64::try_from(life.as_secs()).ok(),
        },
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let parameters = PostParams::default();
    let call = api.create_token_request(service_account, &parameters, &wanted);
    let given = within(DEADLINE, call).await?;
    let incomplete =
        |what: &str| ClusterError::Invalid(format!("the API server gave a token without {what}"));
    let status = given.status.ok_or_else(|| incomplete("a status"))?;
    let seconds = given.spec.expiration_seconds;
    let seconds = seconds.and_then(|s| u64::try_from(s).ok());
    if status.token.is_empty() {
        return Err(incomplete("the token itself"));
    }
    Ok(Issued {
        token: status.token.into(),
        life: Duration::from_secs(seconds.ok_or_else(|| incomplete("expirationSeconds"))?),
        ends: status.expiration_timestamp.0,
    })
}

/// The Secret that tokens for our Pod are bound to; it is made if it is not there. Its name has the uid of the Pod in it,
/// so one that is there is ours.
async fn anchor(
    client: &Client,
    namespace: &str,
    pod: &Pod,
) -> Result<BoundObjectReference, ClusterError> {
    let name = format!("chekt-receiver-token-{}", pod.uid);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                // To block the owner's deletion would need another right.
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        type_: Some(ANCHOR.to_owned()),
        immutable: Some(true),
        ..Secret::default()
    };
    let parameters = PostParams {
        field_manager: Some(CONTROLLER_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    match within(DEADLINE, api.create(&parameters, &secret)).await {
        Ok(_) | Err(ClusterError::AlreadyExists(_)) => Ok(BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(name),
            uid: None,
        }),
        Err(error) => Err(error),
    }
}
