//! The two watches that feed the index: `ChektWebhook`s where we look for them, and keyrings in our namespace.
//!
//! Both go on for ever. An error is logged once, a watch that cannot be had is tried again after at most five
//! seconds, and meanwhile the index keeps what it knew: receiving does not depend on the API server.

use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use super::keyring::{Index, Webhook};
use crate::resources::ChektWebhook;
use crate::resources::keyring::LABEL;

/// 0.2 s, doubled up to 5 s: a keyring that changed while the API server was away is wanted soon.
#[derive(Debug, Default)]
struct Pauses(u32);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(200).saturating_mul(1 << self.0.min(5));
        self.0 = self.0.saturating_add(1);
        Some(pause.min(Duration::from_secs(5)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Logs the first error of a row of them, and that it is over.
struct Trouble {
    what: &'static str,
    now: bool,
}

impl Trouble {
    fn see<K>(&mut self, item: Result<Event<K>, watcher::Error>) -> Option<Event<K>> {
        match item {
            Ok(event) => {
                if self.now {
                    tracing::info!(what = self.what, "the watch is back");
                    self.now = false;
                }
                Some(event)
            }
            Err(error) => {
                if !self.now {
                    tracing::warn!(what = self.what, %error, "the watch is broken; going on with what is known");
                    self.now = true;
                }
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
    let mut trouble = Trouble {
        what: "webhooks",
        now: false,
    };
    let stream = stream(watcher(api, watcher::Config::default()));
    futures::pin_mut!(stream);
    while let Some(item) = stream.next().await {
        let Some(event) = trouble.see(item) else {
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
    let config = watcher::Config::default().labels(&format!("{LABEL}=true"));
    let mut trouble = Trouble {
        what: "keyrings",
        now: false,
    };
    let stream = stream(watcher(api, config));
    futures::pin_mut!(stream);
    while let Some(item) = stream.next().await {
        let Some(event) = trouble.see(item) else {
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

fn stream<K: 'static + Send>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send {
    events.backoff(Pauses::default())
}
