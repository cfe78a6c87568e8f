//! The definition of `ChektWebhook`: whether it is being deleted, and with it every webhook.
//!
//! It is looked at before a webhook is deleted at CHeKT, and never from a watch: the one moment that matters is after the
//! deletion of the webhook was asked for, since whoever deletes a definition marks it first and its objects then. Passes
//! that want to know at the same moment share one look.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kube::Client;
use tokio::sync::Mutex;

use crate::cluster::{ClusterError, definition};
use crate::ops::clock::Clock;
use crate::resources::ChektWebhook;

/// What is known of the definition.
#[derive(Debug, Default)]
pub struct Definition {
    last: Mutex<Option<(Instant, bool)>>,
    refused: AtomicBool,
}

impl Definition {
    /// Whether it is being deleted, by a look that begins no earlier than now.
    ///
    /// Whoever may not look takes it for one that stays, and deletes at CHeKT as usual: a right that is missing must not
    /// keep every deletion for ever. That is logged once.
    ///
    /// # Errors
    /// [`ClusterError`]: then nothing is known.
    pub async fn goes(&self, client: &Client, clock: &Clock) -> Result<bool, ClusterError> {
        let asked = clock.now();
        let mut last = self.last.lock().await;
        if let Some((began, goes)) = *last
            && began >= asked
        {
            return Ok(goes);
        }
        let began = clock.now();
        let goes = match definition::is_being_deleted::<ChektWebhook>(client).await {
            Ok(goes) => goes,
            Err(ClusterError::Forbidden(why)) => {
                if !self.refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        why,
                        "the definition of ChektWebhook may not be looked at, so whoever deletes it deletes every webhook at CHeKT: let the controller get customresourcedefinitions"
                    );
                }
                false
            }
            Err(error) => return Err(error),
        };
        *last = Some((began, goes));
        Ok(goes)
    }
}
