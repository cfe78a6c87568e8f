//! From an edit to the PATCH at CHeKT: from the moment before the edit is sent to the API server, to the moment that the
//! sandbox writes into its ledger.

use std::fmt;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::harness::eventually;
use crate::scene::Scene;

/// Edits, one after the other.
const EDITS: usize = 300;
/// How long one may take.
const LONGEST: Duration = Duration::from_secs(30);

/// How long each took, in milliseconds, the shortest first.
#[derive(Clone, Debug)]
pub struct Times(Vec<f64>);

impl Times {
    /// The time that this share of them did not exceed, in milliseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (half, most, last) = (self.quantile(0.5), self.quantile(0.99), self.quantile(1.0));
        write!(f, "p50 {half:.1}, p99 {most:.1}, max {last:.1} ms")
    }
}

/// Edits the events of one webhook after the other.
///
/// # Errors
/// When an edit does not reach CHeKT.
pub async fn measure(scene: &Scene, webhooks: usize) -> anyhow::Result<Times> {
    let api = scene.users.webhooks();
    let mut times = Vec::new();
    for edit in 0..EDITS {
        // Spread over all of them, and another wish at every round.
        let name = format!("w{}", edit * webhooks.div_ceil(EDITS).max(1) % webhooks);
        let events = if (edit / webhooks.min(EDITS)).is_multiple_of(2) {
            json!(["alarm.triggered"])
        } else {
            json!(["alarm.triggered", "alarm.cleared"])
        };
        let mark = scene.mark().await?;
        let began = Timestamp::now();
        api.patch(
            &name,
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"events": events}})),
        )
        .await?;
        let at = eventually(&format!("the PATCH of {name}"), LONGEST, || async {
            let calls = scene.calls(mark).await?;
            let patch = calls.iter().find(|c| c.route.as_deref() == Some("patch"));
            patch
                .map(|c| c.at)
                .ok_or_else(|| anyhow::anyhow!("{} calls", calls.len()))
        })
        .await?;
        times.push(at.duration_since(began).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Times(times))
}
