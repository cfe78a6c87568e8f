//! Claims: which webhooks want which url, so that a pass does not walk through all of them to find a rival.
//!
//! It is fed by the watch that fills the store, and keeps numbers instead of texts. So it may name too many, never too
//! few, and whoever asks looks at the objects themselves.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use url::Url;

use crate::resources::ChektWebhook;
use crate::resources::remote::canonical;
use crate::webhook::identity;

/// The wanted urls of the webhooks of one store.
#[derive(Debug)]
pub struct Claims {
    public_url: Url,
    known: Mutex<Known>,
    numbers: RandomState,
}

/// Namespace and name.
type Named = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Known {
    /// Whether the watch has shown all there are at least once.
    complete: bool,
    by_url: HashMap<u64, Vec<Named>>,
    url_of: HashMap<Named, u64>,
}

impl Claims {
    /// Nobody's yet. `public_url`: where the receiver is reached, for urls that are derived.
    #[must_use]
    pub fn new(public_url: Url) -> Self {
        Claims {
            public_url,
            known: Mutex::default(),
            numbers: RandomState::new(),
        }
    }

    /// Takes in what a watch shows, once the store has.
    pub fn saw(&self, event: &watcher::Event<ChektWebhook>, store: &Store<ChektWebhook>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |webhook: &ChektWebhook| self.number(&wanted_url(&self.public_url, webhook));
        match event {
            watcher::Event::Apply(webhook) => known.put(named(webhook), number(webhook)),
            watcher::Event::Delete(webhook) => known.remove(&named(webhook)),
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
            // What went while the watch was broken off is only known by its absence.
            watcher::Event::InitDone => {
                *known = Known {
                    complete: true,
                    ..Known::default()
                };
                for webhook in store.state() {
                    known.put(named(&webhook), number(&webhook));
                }
            }
        }
    }

    /// Whether all webhooks are known: before that, nothing follows from what is missing.
    pub fn is_complete(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.complete
    }

    /// Those that may want a url, and perhaps some that do not.
    #[must_use]
    pub fn of(&self, url: &str, store: &Store<ChektWebhook>) -> Vec<Arc<ChektWebhook>> {
        let named = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let number = self.number(url);
            known.by_url.get(&number).cloned().unwrap_or_default()
        };
        let each = named
            .iter()
            .filter_map(|(namespace, name)| store.get(&ObjectRef::new(name).within(namespace)));
        each.collect()
    }

    fn number(&self, url: &str) -> u64 {
        self.numbers.hash_one(canonical(url))
    }
}

impl Known {
    fn put(&mut self, webhook: Named, url: u64) {
        match self.url_of.insert(webhook.clone(), url) {
            Some(old) if old == url => return,
            Some(old) => self.leave(&webhook, old),
            None => {}
        }
        self.by_url.entry(url).or_default().push(webhook);
    }

    fn remove(&mut self, webhook: &Named) {
        if let Some(url) = self.url_of.remove(webhook) {
            self.leave(webhook, url);
        }
    }

    fn leave(&mut self, webhook: &Named, url: u64) {
        let Some(claimants) = self.by_url.get_mut(&url) else {
            return;
        };
        claimants.retain(|known| known != webhook);
        if claimants.is_empty() {
            self.by_url.remove(&url);
        }
    }
}

/// The url of the receiver at `public_url` for a webhook.
#[must_use]
pub fn derived_url(public_url: &Url, webhook: &ChektWebhook) -> String {
    let namespace = webhook.namespace().unwrap_or_default();
    identity::derived(public_url, &namespace, &webhook.name_any())
}

/// The url that a webhook wants, given or derived.
#[must_use]
pub fn wanted_url(public_url: &Url, webhook: &ChektWebhook) -> String {
    let given = webhook.spec.url.clone();
    given.unwrap_or_else(|| derived_url(public_url, webhook))
}

fn named(webhook: &ChektWebhook) -> Named {
    let namespace = webhook.namespace().unwrap_or_default();
    (namespace.into(), webhook.name_any().into())
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use serde_json::json;

    use super::*;

    fn webhook(name: &str, url: &str) -> ChektWebhook {
        serde_json::from_value(json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"events": ["alarm.triggered"], "url": url},
        }))
        .unwrap()
    }

    #[test]
    fn whoever_wants_a_url_in_any_spelling_is_found_and_is_not_after_it_left() {
        let (store, mut writer) = reflector::store();
        let claims = Claims::new("https://alarms.example".parse().unwrap());
        let mut show = |event: watcher::Event<ChektWebhook>| {
            writer.apply_watcher_event(&event);
            claims.saw(&event, &store);
        };
        let of = |url: &str| {
            let mut names: Vec<_> = claims
                .of(url, &store)
                .iter()
                .map(|w| w.name_any())
                .collect();
            names.sort();
            names.join(" ")
        };
        show(watcher::Event::Init);
        show(watcher::Event::InitApply(webhook(
            "a",
            "https://x.example/1",
        )));
        show(watcher::Event::InitDone);
        show(watcher::Event::Apply(webhook(
            "b",
            "https://X.example:443/1",
        )));
        assert_eq!(of("https://x.example/1"), "a b");
        show(watcher::Event::Apply(webhook("b", "https://x.example/2")));
        assert_eq!(
            (of("https://x.example/1"), of("https://x.example/2")),
            ("a".into(), "b".into())
        );
        show(watcher::Event::Delete(webhook("a", "https://x.example/1")));
        assert_eq!(of("https://x.example/1"), "");
        // A list without it, after the watch was broken off.
        show(watcher::Event::Init);
        show(watcher::Event::InitDone);
        assert_eq!(of("https://x.example/2"), "");
    }
}
