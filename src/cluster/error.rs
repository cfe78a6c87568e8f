//! What can go wrong with a call to the API server, in the words that lead to different acts.

use std::future::Future;
use std::time::Duration;

/// What became of a call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The object, or its namespace, does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// An object of that name exists already.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// Somebody else wrote first.
    #[error("conflict: {0}")]
    Conflict(String),
    /// We may not do this.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The namespace is being deleted, so nothing new can be made in it.
    #[error("the namespace is being deleted: {0}")]
    Terminating(String),
    /// The object is not valid.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The API server asks for a pause.
    #[error("the API server asks for a pause")]
    Throttled {
        /// How long, where it said so.
        retry_after: Option<Duration>,
    },
    /// No answer within the deadline. What was asked for may have been done.
    #[error("no answer from the API server within {0:?}")]
    Deadline(Duration),
    /// Everything else: no connection, a broken answer, a server error. It may have been done, too.
    #[error("the API server cannot be asked: {0}")]
    Unavailable(#[source] kube::Error),
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return ClusterError::Unavailable(error);
        };
        let message = status.message.clone();
        let terminating = status
            .details
            .as_ref()
            .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"));
        match status.code {
            404 => ClusterError::NotFound(message),
            409 if status.is_already_exists() => ClusterError::AlreadyExists(message),
            409 => ClusterError::Conflict(message),
            403 if terminating => ClusterError::Terminating(message),
            401 | 403 => ClusterError::Forbidden(message),
            400 | 413 | 422 => ClusterError::Invalid(message),
            429 => {
                let seconds = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
                let retry_after = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)));
                ClusterError::Throttled { retry_after }
            }
            _ => ClusterError::Unavailable(kube::Error::Api(status)),
        }
    }
}

/// Awaits a call for at most `limit`: kube sets no read timeout, so a half-dead connection would hang for ever.
///
/// # Errors
/// What became of the call, or [`ClusterError::Deadline`].
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(ClusterError::from),
        Err(_) => Err(ClusterError::Deadline(limit)),
    }
}
