//! The two watches that feed the index: `ChektWebhook`s where we look for them, and keyrings in our namespace.
//!
//! Both go on for ever. An error is logged once, a watch that cannot be had is tried again after at most five
//! seconds, and meanwhile the index keeps what it knew: receiving does not depend on the API server.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use super::keyring::{Index, Webhook};
use crate::resources::ChektWebhook;
use crate::resources::keyring::LABEL;

/// The pause after the first failure in a row; it doubles.
const FIRST: Duration = Duration::from_millis(200);
/// The longest pause: a keyring that changed while the API server was away is wanted soon.
const LONGEST: Duration = Duration::from_secs(5);
/// Objects of one page of a list. All of a page are in memory at once, and the allocator keeps what that took.
const PAGE_SIZE: u32 = 100;

/// Failures in a row: logs the first and that it is over, and pauses after each.
struct Trouble {
    what: &'static str,
    failures: u32,
}

impl Trouble {
    fn none(what: &'static str) -> Self {
        Trouble { what, failures: 0 }
    }

    /// Lets events through. kube's own backoff would begin anew with each attempt, since the watcher announces a
    /// list (`Init`) before it has asked for it; that is no sign of recovery here.
    async fn see<K>(&mut self, item: Result<Event<K>, watcher::Error>) -> Option<Event<K>> {
        match item {
            Ok(event) => {
                if self.failures > 0 && !matches!(event, Event::Init) {
                    tracing::info!(what = self.what, "the watch is back");
                    self.failures = 0;
                }
                Some(event)
            }
            Err(error) => {
                if self.failures == 0 {
                    tracing::warn!(what = self.what, %error, "the watch is broken; going on with what is known");
                }
                let pause = FIRST.saturating_mul(1 << self.failures.min(8));
                self.failures = self.failures.saturating_add(1);
                // The stream does nothing while it is not polled.
                tokio::time::sleep(pause.min(LONGEST)).await;
                None
            }
        }
    }
}

/// Keeps the webhooks of one namespace, or of all, in the index.
pub async fn webhooks(
    client: Client,
    scope: usize,
    namespace: Option<String>,
    index: watch::Sender<Index>,
) {
    // Untyped, so that an object that does not fit the type cannot stop the watch of all others.
    let resource = ApiResource::erase::<ChektWebhook>(&());
    let api: Api<DynamicObject> = match &namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let mut trouble = Trouble::none("webhooks");
    let stream = watcher(api, watcher::Config::default().page_size(PAGE_SIZE));
    futures::pin_mut!(stream);
    while let Some(item) = stream.next().await {
        let Some(event) = trouble.see(item).await else {
            continue;
        };
        index.send_modify(|index| match event {
            Event::Init => index.webhooks_begin(scope),
            Event::InitApply(object) | Event::Apply(object) => {
                index.put_webhook(scope, Webhook::of(&object));
            }
            Event::Delete(object) => index.remove_webhook(&Webhook::of(&object)),
            Event::InitDone => index.webhooks_complete(scope, namespace.as_deref()),
        });
    }
}

/// Keeps the keyrings of the operator's namespace in the index.
pub async fn keyrings(client: Client, namespace: String, index: watch::Sender<Index>) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default()
        .labels(&format!("{LABEL}=true"))
        .page_size(PAGE_SIZE);
    let mut trouble = Trouble::none("keyrings");
    let stream = watcher(api, config);
    futures::pin_mut!(stream);
    while let Some(item) = stream.next().await {
        let Some(event) = trouble.see(item).await else {
            continue;
        };
        index.send_modify(|index| match event {
            Event::Init => index.keyrings_begin(),
            Event::InitApply(secret) | Event::Apply(secret) => {
                if let Err(error) = index.put_keyring(&secret) {
                    let name = secret.name_any();
                    tracing::error!(secret = %name, %error, "a keyring cannot be read; going on with the one before");
                }
            }
            Event::Delete(secret) => index.remove_keyring(&secret),
            Event::InitDone => index.keyrings_complete(),
        });
    }
}
