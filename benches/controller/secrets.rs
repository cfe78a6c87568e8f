//! Two thousand large Secrets that are none of our business, in the namespace that is watched.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use crate::goals::{Goal, Goals};
use crate::harness::ControlPlane;
use crate::many::{looked_at, ours, resident, still};
use crate::scene::{Scene, Shape};

const WEBHOOKS: usize = 1_000;
const SECRETS: usize = 2_000;
/// Bytes of each.
const SIZE: usize = 512 * 1024;
/// Creations at once.
const AT_ONCE: usize = 4;

/// Measures and fills the table.
///
/// # Errors
/// When something does not start or is not done in time.
#[allow(clippy::cast_precision_loss)]
pub async fn measure(plane: &'static ControlPlane, goals: &mut Goals) -> anyhow::Result<()> {
    let scene = Scene::new(plane, "secrets", "60s").await?;
    scene.plant(0..WEBHOOKS, Shape::Given).await?;
    let process = ours(&scene).await?;
    scene.until_made(WEBHOOKS, Duration::from_secs(120)).await?;
    still(&scene, Duration::from_secs(3)).await?;
    drop(process);

    let process = ours(&scene).await?;
    looked_at(&process, WEBHOOKS).await?;
    let before = resident(process.id()).await?;
    drop(process);

    let api: Api<Secret> = scene.users.secrets();
    let large = data_encoding::BASE64.encode(&vec![0x5a; SIZE]);
    let made = futures::stream::iter(0..SECRETS).map(|number| {
        let (api, large) = (&api, &large);
        async move {
            let secret: Secret = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": format!("unrelated-{number}"), "labels": {"unrelated": "true"}},
                "data": {"blob": large},
            }))?;
            api.create(&PostParams::default(), &secret).await?;
            anyhow::Ok(())
        }
    });
    made.buffer_unordered(AT_ONCE).try_collect::<()>().await?;

    let process = ours(&scene).await?;
    looked_at(&process, WEBHOOKS).await?;
    let after = resident(process.id()).await?;
    drop(process);
    let unrelated = ListParams::default().labels("unrelated=true");
    api.delete_collection(&DeleteParams::default(), &unrelated)
        .await?;
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    goals.goal(Goal {
        what: format!(
            "resident memory with {WEBHOOKS} webhooks and {SECRETS} unrelated Secrets of 512 KiB / without those"
        ),
        value: after as f64 / before as f64,
        at_most: Some(1.1),
        at_least: None,
        scale: format!("{:.1} MiB / {:.1} MiB", mib(after), mib(before)),
    });
    Ok(())
}
