//! Writing `status.deliveries`, the one part of a webhook's status that the receiver owns.

use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::json;

use super::{ClusterError, within};
use crate::resources::keyring::WebhookIdentity;
use crate::resources::webhook::Deliveries;
use crate::resources::{ChektWebhook, RECEIVER_MANAGER};

/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Applies the whole of `status.deliveries`, made from what `version` of the object says. The uid goes along, so that a
/// webhook made again under the same name does not inherit what was seen of the other.
///
/// # Errors
/// [`ClusterError`]; [`ClusterError::NotFound`] means that this webhook is gone, [`ClusterError::Conflict`] that it is,
/// or that it was changed since that version.
pub async fn apply(
    client: &Client,
    webhook: &WebhookIdentity,
    version: Option<&str>,
    deliveries: &Deliveries,
) -> Result<(), ClusterError> {
    let body = json!({
        "apiVersion": ChektWebhook::api_version(&()),
        "kind": ChektWebhook::kind(&()),
        "metadata": {
            "name": webhook.name,
            "namespace": webhook.namespace,
            "uid": webhook.uid,
            "resourceVersion": version,
        },
        "status": {"deliveries": deliveries},
    });
    // Untyped: what the answer holds of other people's fields must not be able to fail this write.
    let resource = ApiResource::erase::<ChektWebhook>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &webhook.namespace, &resource);
    let params = PatchParams::apply(RECEIVER_MANAGER).force();
    within(
        DEADLINE,
        api.patch_status(&webhook.name, &params, &Patch::Apply(&body)),
    )
    .await
    .map(drop)
}
