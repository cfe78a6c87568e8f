//! Who may deliver where: an index from the path of a webhook to its keyring, fed by two watches.
//!
//! The index is plain data with plain methods. It holds the `ChektWebhook`s (so that a path can be told from one
//! that nobody has) and the keyrings by the uid of their webhook: a keyring that an earlier webhook of the same
//! name left behind is never found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::DynamicObject;
use tokio::time::Instant;

use crate::delivery::received::Known;
use crate::resources::keyring::{Keyring, WebhookIdentity};
use crate::resources::webhook::Deliveries;

/// How long after a webhook was first seen its keyring may be on its way: the controller writes it before it tells CHeKT.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// What the receiver needs to know of a `ChektWebhook`.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// Its namespace, name and uid.
    pub identity: WebhookIdentity,
    /// Its labels and the id of its remote webhook.
    pub known: Known,
    /// Its `status.deliveries` as last seen.
    pub deliveries: Option<Deliveries>,
    /// The version of the object that says so.
    pub version: Option<String>,
}

impl Webhook {
    /// Reads an object leniently: whatever else is wrong with it, its deliveries are still received.
    #[must_use]
    pub fn of(object: &DynamicObject) -> Self {
        let status = &object.data["status"];
        Webhook {
            identity: WebhookIdentity {
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
                uid: object.uid().unwrap_or_default(),
            },
            known: Known {
                labels: object.labels().clone(),
                webhook_id: status["webhookID"].as_str().map(str::to_owned),
            },
            deliveries: serde_json::from_value(status["deliveries"].clone()).ok(),
            version: object.resource_version(),
        }
    }
}

/// What there is under a path.
#[derive(Clone, Debug)]
pub enum Found {
    /// No such webhook.
    Nobody,
    /// We have not read all webhooks yet, so nobody can say.
    NotRead,
    /// A webhook whose keyring is not there, or holds no key.
    NoKey(Arc<Webhook>),
    /// A webhook and a keyring with at least one key.
    Ready(Arc<Webhook>, Arc<Keyring>),
}

/// Webhooks by `namespace/name`, keyrings by uid.
#[derive(Debug)]
pub struct Index {
    webhooks: HashMap<String, Arc<Webhook>>,
    keyrings: HashMap<String, (String, Arc<Keyring>)>,
    /// One for each watch of webhooks.
    scopes: Vec<Listing>,
    secrets: Listing,
    /// When each webhook came, by uid, for as long as its keyring may be on its way; and when the last of them did.
    fresh: HashMap<String, Instant>,
    newest: Option<Instant>,
}

/// How far a watch has come. A list replaces what was known, but only once it is complete.
#[derive(Debug, Default)]
struct Listing {
    complete_once: bool,
    seen: Option<HashSet<String>>,
}

impl Index {
    /// An empty index, fed by this many watches of webhooks and one of keyrings.
    #[must_use]
    pub fn new(scopes: usize) -> Self {
        Index {
            webhooks: HashMap::new(),
            keyrings: HashMap::new(),
            scopes: (0..scopes).map(|_| Listing::default()).collect(),
            secrets: Listing::default(),
            fresh: HashMap::new(),
            newest: None,
        }
    }

    /// Whether no keyring is on its way: all was read once, and no webhook without a key has come just now. The answer
    /// is about all webhooks at once, so it is the same for every path.
    #[must_use]
    pub fn is_settled(&self, now: Instant) -> bool {
        let has_key = |uid: &String| {
            let keyring = self.keyrings.get(uid).map(|(_, keyring)| keyring);
            keyring.is_some_and(|k| k.current.is_some() || k.next.is_some())
        };
        let is_over = |came: &Instant| now >= *came + ON_ITS_WAY;
        let mut fresh = self.fresh.iter();
        self.is_read()
            && (self.newest.as_ref().is_none_or(is_over)
                || fresh.all(|(uid, came)| is_over(came) || has_key(uid)))
    }

    /// Whether every watch has been complete at least once.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.secrets.complete_once && self.webhooks_read()
    }

    /// Whether every watch of webhooks has been complete at least once.
    #[must_use]
    pub fn webhooks_read(&self) -> bool {
        self.scopes.iter().all(|scope| scope.complete_once)
    }

    /// Looks up `namespace/name`.
    #[must_use]
    pub fn find(&self, place: &str) -> Found {
        let Some(webhook) = self.webhooks.get(place) else {
            return if self.webhooks_read() {
                Found::Nobody
            } else {
                Found::NotRead
            };
        };
        match self.keyrings.get(&webhook.identity.uid) {
            // The names are compared too: a keyring says whose it is in three words, and all must fit.
            Some((_, keyring))
                if keyring.webhook == webhook.identity && keyring.accepted().next().is_some() =>
            {
                Found::Ready(Arc::clone(webhook), Arc::clone(keyring))
            }
            _ => Found::NoKey(Arc::clone(webhook)),
        }
    }

    /// The webhook at `namespace/name`, whether it has a key or not.
    #[must_use]
    pub fn at(&self, place: &str) -> Option<&Arc<Webhook>> {
        self.webhooks.get(place)
    }

    /// The webhook with this identity, if it is still there.
    #[must_use]
    pub fn webhook(&self, identity: &WebhookIdentity) -> Option<&Arc<Webhook>> {
        self.webhooks
            .get(&place(&identity.namespace, &identity.name))
            .filter(|webhook| webhook.identity.uid == identity.uid)
    }

    /// Every webhook that is known.
    pub fn webhooks(&self) -> impl Iterator<Item = &Arc<Webhook>> {
        self.webhooks.values()
    }

    /// A watch of webhooks begins to list.
    pub fn webhooks_begin(&mut self, scope: usize) {
        if let Some(listing) = self.scopes.get_mut(scope) {
            listing.seen = Some(HashSet::new());
        }
    }

    /// A webhook was listed, made or changed.
    pub fn put_webhook(&mut self, scope: usize, webhook: Webhook) {
        let place = place(&webhook.identity.namespace, &webhook.identity.name);
        if let Some(seen) = self.scopes.get_mut(scope).and_then(|s| s.seen.as_mut()) {
            seen.insert(place.clone());
        }
        let uid = webhook.identity.uid.clone();
        let known = self.webhooks.insert(place, Arc::new(webhook));
        if known.is_none_or(|known| known.identity.uid != uid) {
            let now = Instant::now();
            self.fresh.retain(|_, came| now < *came + ON_ITS_WAY);
            self.fresh.insert(uid, now);
            self.newest = Some(now);
        }
    }

    /// A webhook is gone.
    pub fn remove_webhook(&mut self, webhook: &Webhook) {
        let place = place(&webhook.identity.namespace, &webhook.identity.name);
        if self
            .webhooks
            .get(&place)
            .is_some_and(|known| known.identity.uid == webhook.identity.uid)
        {
            self.webhooks.remove(&place);
            self.fresh.remove(&webhook.identity.uid);
        }
    }

    /// A list is complete: what it did not show in its namespace (or anywhere) is gone.
    pub fn webhooks_complete(&mut self, scope: usize, namespace: Option<&str>) {
        let Some(listing) = self.scopes.get_mut(scope) else {
            return;
        };
        listing.complete_once = true;
        if let Some(seen) = listing.seen.take() {
            self.webhooks.retain(|place, webhook| {
                seen.contains(place) || namespace.is_some_and(|n| n != webhook.identity.namespace)
            });
        }
    }

    /// The watch of keyrings begins to list.
    pub fn keyrings_begin(&mut self) {
        self.secrets.seen = Some(HashSet::new());
    }

    /// A keyring was listed, made or changed. One that cannot be read leaves in place what was known before, and
    /// is reported.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn put_keyring(
        &mut self,
        secret: &Secret,
    ) -> Result<(), crate::resources::keyring::KeyringError> {
        let name = secret.name_any();
        if let Some(seen) = &mut self.secrets.seen {
            seen.insert(name.clone());
        }
        let keyring = Keyring::from_secret(secret)?;
        self.keyrings
            .insert(keyring.webhook.uid.clone(), (name, Arc::new(keyring)));
        Ok(())
    }

    /// A keyring is gone.
    pub fn remove_keyring(&mut self, secret: &Secret) {
        let name = secret.name_any();
        self.keyrings.retain(|_, (held_in, _)| *held_in != name);
    }

    /// The list is complete: what it did not show is gone.
    pub fn keyrings_complete(&mut self) {
        self.secrets.complete_once = true;
        if let Some(seen) = self.secrets.seen.take() {
            self.keyrings.retain(|_, (name, _)| seen.contains(name));
        }
    }
}

fn place(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::keyring::{Key, SigningSecret};

    fn identity(name: &str, uid: &str) -> WebhookIdentity {
        WebhookIdentity {
            namespace: "security".into(),
            name: name.into(),
            uid: uid.into(),
        }
    }

    fn webhook(name: &str, uid: &str) -> Webhook {
        Webhook {
            identity: identity(name, uid),
            known: Known::default(),
            deliveries: None,
            version: None,
        }
    }

    fn secret(name: &str, uid: &str) -> Secret {
        Keyring {
            current: Some(Key {
                id: format!("key-{uid}"),
                secret: SigningSecret::new(b"secret".to_vec()).unwrap(),
            }),
            ..Keyring::empty(identity(name, uid))
        }
        .to_secret("ops")
    }

    fn found(index: &Index, place: &str) -> &'static str {
        match index.find(place) {
            Found::Nobody => "nobody",
            Found::NotRead => "not read",
            Found::NoKey(_) => "no key",
            Found::Ready(..) => "ready",
        }
    }

    fn read() -> Index {
        let mut index = Index::new(1);
        index.webhooks_begin(0);
        index.webhooks_complete(0, None);
        index.keyrings_begin();
        index.keyrings_complete();
        index
    }

    #[test]
    fn an_object_with_nonsense_in_it_is_still_a_webhook() {
        let object: DynamicObject = serde_json::from_value(serde_json::json!({
            "apiVersion": "chekt.com/v1alpha1",
            "kind": "ChektWebhook",
            "metadata": {"namespace": "security", "name": "alarms", "uid": "u", "labels": {"team": "blue"}},
            "spec": {"events": "none of your business"},
            "status": {"webhookID": 7, "deliveries": {"lastReceivedAt": "yesterday"}},
        }))
        .unwrap();
        let webhook = Webhook::of(&object);
        assert_eq!(webhook.identity, identity("alarms", "u"));
        assert_eq!(webhook.known.labels["team"], "blue");
        assert_eq!((webhook.known.webhook_id, webhook.deliveries), (None, None));
    }

    #[test]
    fn a_keyring_is_on_its_way_until_all_is_read_and_for_ten_seconds_after_a_webhook_came() {
        let mut index = Index::new(1);
        let now = Instant::now;
        assert!(!index.is_settled(now()));
        index.webhooks_complete(0, None);
        assert!(!index.is_settled(now()));
        index.keyrings_complete();
        assert!(index.is_settled(now()));
        index.put_webhook(0, webhook("alarms", "u-1"));
        index.put_webhook(0, webhook("others", "u-2"));
        assert!(!index.is_settled(now()));
        assert!(index.is_settled(now() + ON_ITS_WAY));
        index.put_keyring(&secret("alarms", "u-1")).unwrap();
        assert!(!index.is_settled(now()));
        index.remove_webhook(&webhook("others", "u-2"));
        assert!(index.is_settled(now()));
        // Seen again, it is not new.
        index.put_webhook(0, webhook("alarms", "u-1"));
        assert!(index.is_settled(now()));
    }

    #[test]
    fn before_the_first_complete_list_nobody_is_called_unknown() {
        let mut index = Index::new(2);
        assert_eq!(found(&index, "security/alarms"), "not read");
        index.webhooks_begin(0);
        index.webhooks_complete(0, Some("a"));
        assert_eq!(found(&index, "security/alarms"), "not read");
        index.webhooks_complete(1, Some("b"));
        assert_eq!(found(&index, "security/alarms"), "nobody");
        assert!(!index.is_read());
        index.keyrings_complete();
        assert!(index.is_read());
    }

    #[test]
    fn a_keyring_of_an_earlier_webhook_of_that_name_is_never_used() {
        let mut index = read();
        index.put_webhook(0, webhook("alarms", "new"));
        index.put_keyring(&secret("alarms", "old")).unwrap();
        assert_eq!(found(&index, "security/alarms"), "no key");
        index.put_keyring(&secret("alarms", "new")).unwrap();
        assert_eq!(found(&index, "security/alarms"), "ready");
        index.remove_keyring(&secret("alarms", "new"));
        assert_eq!(found(&index, "security/alarms"), "no key");
    }

    #[test]
    fn a_keyring_that_names_another_webhook_is_never_used() {
        let mut index = read();
        index.put_webhook(0, webhook("alarms", "u"));
        index.put_keyring(&secret("others", "u")).unwrap();
        assert_eq!(found(&index, "security/alarms"), "no key");
    }

    #[test]
    fn a_broken_keyring_leaves_the_one_before_in_place() {
        let mut index = read();
        index.put_webhook(0, webhook("alarms", "u"));
        index.put_keyring(&secret("alarms", "u")).unwrap();
        let mut broken = secret("alarms", "u");
        broken.metadata.annotations = None;
        assert!(index.put_keyring(&broken).is_err());
        assert_eq!(found(&index, "security/alarms"), "ready");
    }

    #[test]
    fn a_new_list_drops_what_is_gone_and_only_in_its_namespace() {
        let mut index = read();
        index.put_webhook(0, webhook("alarms", "u"));
        index.put_webhook(0, webhook("others", "v"));
        index.webhooks_begin(0);
        index.put_webhook(0, webhook("alarms", "u"));
        assert_eq!(found(&index, "security/others"), "no key", "not complete");
        index.webhooks_complete(0, Some("elsewhere"));
        assert_eq!(found(&index, "security/others"), "no key");
        index.webhooks_begin(0);
        index.put_webhook(0, webhook("alarms", "u"));
        index.webhooks_complete(0, None);
        assert_eq!(found(&index, "security/others"), "nobody");
        assert_eq!(found(&index, "security/alarms"), "no key");
    }

    #[test]
    fn the_deletion_of_an_earlier_webhook_does_not_remove_its_successor() {
        let mut index = read();
        index.put_webhook(0, webhook("alarms", "new"));
        index.remove_webhook(&webhook("alarms", "old"));
        assert_eq!(found(&index, "security/alarms"), "no key");
    }
}
