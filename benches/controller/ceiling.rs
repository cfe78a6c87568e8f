//! The ceiling: how many status patches a second the API server takes on this machine, by a bare loop.

use std::time::Instant;

use chekt_operator::resources::ChektWebhook;
use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::scene::Scene;

/// Status patches a second, with so many in flight, on the webhooks of a scene on which nobody else works.
///
/// # Errors
/// When the API server refuses one.
pub async fn measure(scene: &Scene, webhooks: usize, in_flight: usize) -> anyhow::Result<f64> {
    run(scene, webhooks, in_flight, |_| {
        let status =
            json!({"status": {"state": format!("ceiling-{in_flight}"), "observedGeneration": 0}});
        (PatchParams::default(), Patch::Merge(status))
    })
    .await
}

/// The same by server-side apply, as our controller does it, which costs the API server more.
///
/// # Errors
/// When the API server refuses one.
pub async fn measure_applied(
    scene: &Scene,
    webhooks: usize,
    in_flight: usize,
) -> anyhow::Result<f64> {
    run(scene, webhooks, in_flight, |name| {
        let object = json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": name},
            "status": {"state": "applied", "observedGeneration": 0},
        });
        (PatchParams::apply("ceiling").force(), Patch::Apply(object))
    })
    .await
}

async fn run(
    scene: &Scene,
    webhooks: usize,
    in_flight: usize,
    patch: impl Fn(&str) -> (PatchParams, Patch<Value>),
) -> anyhow::Result<f64> {
    let api: Api<ChektWebhook> = scene.users.webhooks();
    let began = Instant::now();
    let patches = futures::stream::iter(0..webhooks).map(|number| {
        let (api, name) = (&api, format!("w{number}"));
        let (parameters, patch) = patch(&name);
        async move {
            api.patch_status(&name, &parameters, &patch).await?;
            anyhow::Ok(())
        }
    });
    let done: Vec<()> = patches.buffer_unordered(in_flight).try_collect().await?;
    #[allow(clippy::cast_precision_loss)] // A few thousand.
    Ok(done.len() as f64 / began.elapsed().as_secs_f64())
}
