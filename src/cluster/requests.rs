//! What a person asks the operator for: an annotation, or `spec.suspend`. It is written under a name of its own, so that
//! `kubectl get --show-managed-fields` tells it from what git or the operator writes.

use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::error::{ClusterError, within};
use crate::resources::{ChektWebhook, PERSON_MANAGER};

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Writes an annotation, such as one of those that ask for something.
///
/// # Errors
/// [`ClusterError`].
pub async fn annotate(
    api: &Api<ChektWebhook>,
    name: &str,
    annotation: &str,
    value: &str,
) -> Result<ChektWebhook, ClusterError> {
    let patch = json!({"metadata": {"annotations": {annotation: value}}});
    merge(api, name, patch).await
}

/// Sets `spec.suspend`.
///
/// # Errors
/// [`ClusterError`].
pub async fn suspend(
    api: &Api<ChektWebhook>,
    name: &str,
    suspend: bool,
) -> Result<ChektWebhook, ClusterError> {
    merge(api, name, json!({"spec": {"suspend": suspend}})).await
}

async fn merge(
    api: &Api<ChektWebhook>,
    name: &str,
    patch: Value,
) -> Result<ChektWebhook, ClusterError> {
    let parameters = PatchParams {
        field_manager: Some(PERSON_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    within(DEADLINE, api.patch(name, &parameters, &Patch::Merge(patch))).await
}
