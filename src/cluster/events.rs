//! Creating one Event.
//!
//! Not by kube's `Api`: it drops the headers of an answer, and when the API server's priority and fairness asks for a
//! pause it says for how long in `Retry-After` alone. What comes back of an Event that was made is not looked at.

use std::time::Duration;

use http_body_util::BodyExt;
use k8s_openapi::api::events::v1::Event;
use kube::Resource;
use kube::api::PostParams;
use kube::client::Body;
use kube::core::Request;
use kube::{Client, Error};

use super::ClusterError;

/// A request that is larger than this is too large for any API server: etcd takes 1.5 MiB. The 413 for a smaller one is
/// that of a proxy, whose limit can be raised.
const MAX_OBJECT_BYTES: usize = 1024 * 1024;

/// Whether the Event is new. Either way it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was made now.
    New,
    /// One of its name is there: its name is made from what it tells, so it tells the same.
    AlreadyThere,
}

/// Creates an Event in its own namespace, for which the API server may take until the deadline.
///
/// # Errors
/// [`ClusterError`]; after [`ClusterError::Deadline`], [`ClusterError::Failed`] and [`ClusterError::Unavailable`] it may
/// be there all the same, and trying again finds out.
pub async fn create(
    client: &Client,
    event: &Event,
    deadline: Duration,
) -> Result<Created, ClusterError> {
    match tokio::time::timeout(deadline, post(client, event)).await {
        Ok(Ok(())) => Ok(Created::New),
        Ok(Err(ClusterError::AlreadyExists(_))) => Ok(Created::AlreadyThere),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ClusterError::Deadline(deadline)),
    }
}

async fn post(client: &Client, event: &Event) -> Result<(), ClusterError> {
    let body = serde_json::to_vec(event).map_err(Error::SerdeError)?;
    let is_too_large = body.len() > MAX_OBJECT_BYTES;
    let path = Event::url_path(&(), event.metadata.namespace.as_deref());
    let request = Request::new(path)
        .create(&PostParams::default(), body)
        .map_err(Error::BuildRequest)?;
    let answer = client.send(request.map(Body::from)).await?;
    let (head, body) = answer.into_parts();
    // To its end also where it is not wanted, or the connection could not be used again.
    let body = body.collect().await?.to_bytes();
    if head.status.is_success() {
        return Ok(());
    }
    let error = ClusterError::of_answer(head.status, &head.headers, &body);
    Err(match error {
        ClusterError::Denied { code: 413, message } if is_too_large => {
            ClusterError::Invalid(message)
        }
        error => error,
    })
}
