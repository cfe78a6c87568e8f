//! A test delivery on request: the annotation is written, and the status is looked at until it says what became of it.

use std::time::Duration;

use kube::{Api, ResourceExt};

use crate::checkup::delivery::{self, Mark, Progress};
use crate::cluster::{ClusterError, requests, write};
use crate::ops::clock::Clock;
use crate::resources::{ChektWebhook, TEST_REQUESTED_AT};

/// The pause between two looks at what is waited for.
pub const LOOK: Duration = Duration::from_millis(250);
/// How long a refusal is doubted: anybody may send the receiver something that it refuses.
const DOUBT: Duration = Duration::from_secs(3);
/// CHeKT's timestamps have whole seconds, so two test deliveries of one second are the same bytes, and the second one becomes
/// no Event. The receiver's have too, so two refusals of one second look like one. How long ago the last one was, no clock
/// here can tell.
const SECOND: Duration = Duration::from_millis(1_100);

/// How a test delivery went.
pub struct Trial {
    /// How far it has come.
    pub progress: Progress,
    /// The webhook as it was then; `None`: it was deleted meanwhile.
    pub webhook: Option<ChektWebhook>,
}

/// Has a test delivery made and waits for it, at most for `limit`.
///
/// # Errors
/// [`ClusterError`]; [`ClusterError::Forbidden`] where the webhook may not be patched: then nothing was asked for.
pub async fn run(
    webhooks: &Api<ChektWebhook>,
    webhook: &ChektWebhook,
    clock: &Clock,
    limit: Duration,
) -> Result<Trial, ClusterError> {
    let name = webhook.name_any();
    let before = Mark::of(webhook);
    if before.arrived.is_some() || before.refused.is_some() {
        tokio::time::sleep(SECOND).await;
    }
    let request = clock.wall().to_string();
    let began = clock.now();
    requests::annotate(webhooks, &name, TEST_REQUESTED_AT, &request).await?;
    let mut doubted = None;
    loop {
        let Some(seen) = write::latest(webhooks, &name).await? else {
            return Ok(Trial {
                progress: Progress::Requested,
                webhook: None,
            });
        };
        let progress = delivery::progress(&seen, &request, &before);
        let now = clock.now();
        let is_final = match &progress {
            Progress::Refused(_) => {
                now.saturating_duration_since(*doubted.get_or_insert(now)) >= DOUBT
            }
            Progress::NotSent(_) | Progress::Arrived => true,
            Progress::Requested | Progress::Asked | Progress::OtherKey => false,
        };
        if is_final || now.saturating_duration_since(began) >= limit {
            return Ok(Trial {
                progress,
                webhook: Some(seen),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}
