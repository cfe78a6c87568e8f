//! A delivery that we have said yes to, with everything that publishing it needs.
//!
//! This is what the journal keeps: after a restart, nothing but the API server is needed to go on.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::catalogue::Class;
use super::envelope::{self, Envelope, Unreadable};
use super::identity::{DeliveryKey, Occurrence};
use super::signature::{Delivery, KeyPlace, Verified};
use crate::resources::keyring::WebhookIdentity;

/// A verified delivery and what was known of its webhook when it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What its copies share.
    pub key: DeliveryKey,
    /// What it says of which alarm, where the data names one: a copy with a fresh timestamp is recognised by it.
    pub occurrence: Option<Occurrence>,
    /// The webhook it was delivered to.
    pub webhook: WebhookIdentity,
    /// Its place in the queue.
    pub class: Class,
    /// The id of the key that verified it.
    pub key_id: String,
    /// Which key of the keyring that was.
    pub place: KeyPlace,
    /// When it arrived.
    pub received_at: Timestamp,
    /// The labels of the `ChektWebhook` then.
    pub labels: BTreeMap<String, String>,
    /// The id of the remote webhook, as far as it was known then.
    pub webhook_id: Option<String>,
    /// The bytes that were signed.
    pub body: Vec<u8>,
}

/// What is known of the webhook from its resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The id of its remote webhook, once it has one.
    pub webhook_id: Option<String>,
}

impl Received {
    /// Makes the record of a delivery, with what the body was read as.
    pub fn new(
        delivery: Delivery<Verified>,
        known: &Known,
        now: Timestamp,
    ) -> (Self, Result<Envelope, Unreadable>) {
        let content = delivery.envelope();
        let place = delivery.place();
        let (webhook, body, key_id) = delivery.into_parts();
        let key = DeliveryKey::of(&webhook.uid, &body);
        let (class, occurrence) = placed(&webhook.uid, &key, &content);
        let received = Received {
            key,
            occurrence,
            webhook,
            class,
            key_id,
            place,
            received_at: now,
            labels: known.labels.clone(),
            webhook_id: known.webhook_id.clone(),
            body,
        };
        (received, content)
    }

    /// What the body says.
    ///
    /// # Errors
    /// [`Unreadable`] when it is not an envelope.
    pub fn envelope(&self) -> Result<Envelope, Unreadable> {
        envelope::read(&self.body)
    }

    /// The same delivery as this program reads its body: whoever kept it may have read it differently.
    #[must_use]
    pub fn read_again(mut self) -> Self {
        (self.class, self.occurrence) = placed(&self.webhook.uid, &self.key, &self.envelope());
        self
    }
}

/// Class and occurrence of what a body was read as.
fn placed(
    uid: &str,
    key: &DeliveryKey,
    content: &Result<Envelope, Unreadable>,
) -> (Class, Option<Occurrence>) {
    match content {
        Ok(envelope) => (
            Class::of(&envelope.event),
            Occurrence::of(uid, key, envelope),
        ),
        Err(_) => (Class::Other, None),
    }
}
