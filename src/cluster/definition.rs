//! The definition of one of our kinds: whether it is being deleted. Only its metadata is read.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, Resource};

use super::error::{ClusterError, within};

/// How long the call may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Whether the definition of a kind is being deleted. One that is not there is not being deleted: an API server that
/// serves the kind without knowing its definition is a proxy of some sort.
///
/// # Errors
/// [`ClusterError`]; [`ClusterError::Forbidden`] where we may not look.
pub async fn is_being_deleted<K>(client: &Client) -> Result<bool, ClusterError>
where
    K: Resource<DynamicType = ()>,
{
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = format!("{}.{}", K::plural(&()), K::group(&()));
    let found = within(DEADLINE, api.get_metadata_opt(&name)).await?;
    Ok(found.is_some_and(|d| d.metadata.deletion_timestamp.is_some()))
}
