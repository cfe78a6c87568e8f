//! Namespaces: their labels, for accounts that choose by them whom they allow.
//!
//! They are watched as metadata only, across the cluster, and not before an account asks: whoever has no selector need
//! not give the operator this right, and an operator that looks after some namespaces only never asks for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connection::Wake;
use super::context::Context;
use crate::account::tenancy::Labels;

type ByName = HashMap<String, BTreeMap<String, String>>;

/// The labels of the cluster's namespaces.
#[derive(Debug)]
pub struct Namespaces {
    may_watch: bool,
    wanted: Notify,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
enum Seen {
    /// They were not listed yet.
    NotYet,
    /// They cannot be listed.
    Failed(String),
    /// All of them.
    All(ByName),
}

impl Namespaces {
    /// Nothing is known yet. `may_watch`: whether the operator looks after all namespaces.
    #[must_use]
    pub fn new(may_watch: bool) -> Self {
        Namespaces {
            may_watch,
            wanted: Notify::new(),
            seen: Mutex::new(Seen::NotYet),
        }
    }

    /// The labels of one namespace. Asking for the first time starts the watch.
    #[must_use]
    pub fn labels(&self, namespace: &str) -> Labels {
        if !self.may_watch {
            let why = "the operator looks after some namespaces only (--watch-namespace), so write {from: All} or name an account of the webhook's own namespace";
            return Labels::Unreadable(why.to_owned());
        }
        self.wanted.notify_one();
        match &*self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            Seen::NotYet => Labels::NotYet,
            Seen::Failed(why) => Labels::Unreadable(format!(
                "{why}. Let the operator list and watch namespaces in the whole cluster"
            )),
            // A webhook may be seen before its new namespace is.
            Seen::All(all) => all
                .get(namespace)
                .map_or(Labels::NotYet, |labels| Labels::Known(labels.clone())),
        }
    }

    /// Takes in a complete list. Returns the namespaces of which it says something new.
    fn listed(&self, new: ByName) -> HashSet<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let news = match &*seen {
            Seen::All(old) => {
                let differs = |name: &&String| old.get(*name) != new.get(*name);
                old.keys()
                    .chain(new.keys())
                    .filter(differs)
                    .cloned()
                    .collect()
            }
            Seen::NotYet | Seen::Failed(_) => new.keys().cloned().collect(),
        };
        *seen = Seen::All(new);
        news
    }

    /// Takes in one namespace, `None` when it is gone. Returns whether that is news.
    fn changed(&self, name: &str, labels: Option<BTreeMap<String, String>>) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen::All(all) = &mut *seen else {
            return false;
        };
        match labels {
            Some(labels) => all.insert(name.to_owned(), labels.clone()) != Some(labels),
            None => all.remove(name).is_some(),
        }
    }

    /// Takes in that they cannot be listed. What was known before is still the best that there is.
    fn failed(&self, why: String) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*seen, Seen::All(_)) {
            *seen = Seen::Failed(why);
        }
    }
}

/// Watches the namespaces from the moment their labels are asked for, and wakes the webhooks concerned.
pub async fn keep(context: Arc<Context>, end: CancellationToken) {
    tokio::select! {
        () = context.namespaces.wanted.notified() => {}
        () = end.cancelled() => return,
    }
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(context.client.clone());
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = pin!(events.take_until(end.cancelled_owned()));
    let mut listing = ByName::new();
    while let Some(event) = events.next().await {
        let known = &context.namespaces;
        let news = match event {
            Ok(Event::Init) => {
                listing.clear();
                HashSet::new()
            }
            Ok(Event::InitApply(namespace)) => {
                listing.insert(namespace.name_any(), namespace.labels().clone());
                HashSet::new()
            }
            Ok(Event::InitDone) => known.listed(std::mem::take(&mut listing)),
            Ok(Event::Apply(namespace)) => {
                let name = namespace.name_any();
                let news = known.changed(&name, Some(namespace.labels().clone()));
                news.then_some(name).into_iter().collect()
            }
            Ok(Event::Delete(namespace)) => {
                known.changed(&namespace.name_any(), None);
                HashSet::new()
            }
            Err(error) => {
                tracing::warn!(%error, "the watch of namespaces broke off and is tried again");
                known.failed(error.to_string());
                HashSet::new()
            }
        };
        if !news.is_empty() && context.wake.send(Wake::Guests(news)).is_err() {
            tracing::debug!("nobody is left to be woken");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("chekt".to_owned(), value.to_owned())])
    }

    #[test]
    fn only_a_namespace_whose_labels_differ_is_news() {
        let known = Namespaces::new(true);
        assert_eq!(known.labels("a"), Labels::NotYet);
        known.failed("forbidden".to_owned());
        assert!(matches!(known.labels("a"), Labels::Unreadable(why) if why.contains("forbidden")));

        let list = |a: &str, b: &str| {
            ByName::from([("a".to_owned(), labels(a)), ("b".to_owned(), labels(b))])
        };
        assert_eq!(known.listed(list("1", "1")).len(), 2);
        assert_eq!(known.labels("a"), Labels::Known(labels("1")));
        assert!(!known.changed("a", Some(labels("1"))));
        assert!(known.changed("a", Some(labels("2"))));
        // A watch that begins anew shows what was missed meanwhile.
        let news = known.listed(list("2", "2"));
        assert_eq!(news, HashSet::from(["b".to_owned()]));
        // And one that breaks off takes nothing away.
        known.failed("gone".to_owned());
        assert_eq!(known.labels("b"), Labels::Known(labels("2")));
        assert!(known.changed("b", None));
        assert_eq!(known.labels("b"), Labels::NotYet);
    }

    #[test]
    fn who_looks_after_some_namespaces_reads_no_labels() {
        let known = Namespaces::new(false);
        assert!(matches!(known.labels("a"), Labels::Unreadable(why) if why.contains("from: All")));
    }
}
