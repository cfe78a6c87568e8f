//! Creating one Event of one delivery.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::api::PostParams;
use kube::{Api, Client};

use super::{ClusterError, within};

/// How long the API server may take for one Event.
const DEADLINE: Duration = Duration::from_secs(10);

/// Whether the Event is new. Either way it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was made now.
    New,
    /// One of its name is there: its name is made from the delivery, so it is this delivery's.
    AlreadyThere,
}

/// Creates an Event in its own namespace.
///
/// # Errors
/// [`ClusterError`]; after [`ClusterError::Deadline`] and [`ClusterError::Unavailable`] it may be there all the
/// same, and trying again finds out.
pub async fn create(client: &Client, event: &Event) -> Result<Created, ClusterError> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    match within(DEADLINE, api.create(&PostParams::default(), event)).await {
        Ok(_) => Ok(Created::New),
        Err(ClusterError::AlreadyExists(_)) => Ok(Created::AlreadyThere),
        Err(error) => Err(error),
    }
}
