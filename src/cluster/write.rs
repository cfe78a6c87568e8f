//! Writes to our own kinds: the finalizer and the status, and nothing else ever.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::error::{ClusterError, within};
use crate::resources::account::Orphan;
use crate::resources::{CONTROLLER_MANAGER, ChektAccount, ORPHANS_MANAGER};

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Puts a finalizer of ours on an object, or takes it off. The resource version goes along, so that a finalizer that
/// somebody else writes at the same moment is not lost.
///
/// # Errors
/// [`ClusterError::Conflict`] when the object has changed since; [`ClusterError::NotFound`] when it is gone.
pub async fn finalizer<K>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    wanted: bool,
) -> Result<K, ClusterError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut finalizers: Vec<String> = object
        .finalizers()
        .iter()
        .filter(|f| *f != finalizer)
        .cloned()
        .collect();
    if wanted {
        finalizers.push(finalizer.to_owned());
    }
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
    let parameters = PatchParams {
        field_manager: Some(CONTROLLER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    within(
        DEADLINE,
        api.patch(&object.name_any(), &parameters, &Patch::Merge(patch)),
    )
    .await
}

/// Applies a complete status. It names no resource version, so that nobody else's write can make it fail: an id that is
/// not recorded is how webhooks are made twice. The uid is for those who read along: the API server does not look at it in
/// a status, so a new object under an old name may be told the old one's story for a moment.
///
/// # Errors
/// [`ClusterError`].
pub async fn status<K, S>(
    api: &Api<K>,
    object: &K,
    status: &S,
    manager: &str,
) -> Result<K, ClusterError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": object.name_any(), "namespace": object.namespace(), "uid": object.uid()},
        "status": status,
    });
    let parameters = PatchParams::apply(manager).force();
    within(
        DEADLINE,
        api.patch_status(&object.name_any(), &parameters, &Patch::Apply(body)),
    )
    .await
}

/// An object as the API server has it now; `None`: it has none.
///
/// # Errors
/// [`ClusterError`].
pub async fn latest<K>(api: &Api<K>, name: &str) -> Result<Option<K>, ClusterError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    within(DEADLINE, api.get_opt(name)).await
}

/// Applies the orphans of an account, all of them. Unlike a status it names the resource version: what it says depends on
/// what stood there.
///
/// # Errors
/// [`ClusterError::Conflict`] when the account has changed since.
pub async fn orphans(
    api: &Api<ChektAccount>,
    account: &ChektAccount,
    orphans: &[Orphan],
) -> Result<ChektAccount, ClusterError> {
    let status = if orphans.is_empty() {
        json!({})
    } else {
        json!({"orphans": orphans})
    };
    let body = json!({
        "apiVersion": ChektAccount::api_version(&()),
        "kind": ChektAccount::kind(&()),
        "metadata": {
            "name": account.name_any(),
            "namespace": account.namespace(),
            "uid": account.uid(),
            "resourceVersion": account.resource_version(),
        },
        "status": status,
    });
    let parameters = PatchParams::apply(ORPHANS_MANAGER).force();
    let name = account.name_any();
    let patch = Patch::Apply(body);
    within(DEADLINE, api.patch_status(&name, &parameters, &patch)).await
}
