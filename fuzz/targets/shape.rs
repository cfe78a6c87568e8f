//! A record around a body, and what the API server asks of an Event.

use std::collections::BTreeMap;

use chekt_operator::delivery::{Class, DeliveryKey, KeyPlace, Received, event, note};
use chekt_operator::resources::keyring::WebhookIdentity;
use k8s_openapi::jiff::Timestamp;

/// A delivery that was received with this body.
pub fn received(webhook: &str, body: &[u8]) -> Received {
    Received {
        key: DeliveryKey::of("u-1", body),
        occurrence: None,
        webhook: WebhookIdentity {
            namespace: "security".into(),
            name: webhook.into(),
            uid: "u-1".into(),
        },
        class: Class::Other,
        key_id: "k".into(),
        place: KeyPlace::Current,
        received_at: Timestamp::UNIX_EPOCH,
        labels: BTreeMap::new(),
        webhook_id: Some("webhook_abc123".into()),
        body: body.to_vec(),
    }
}

/// Builds the Event of a delivery and holds it against the API server's validation (events.k8s.io/v1 and object
/// metadata).
pub fn fits(received: &Received) {
    // What says nothing is a dead letter, and no Event of its own.
    let Ok(event) = event::build(received, "pod-1", Timestamp::UNIX_EPOCH) else {
        return;
    };
    let note = event.note.unwrap_or_default();
    assert!(!note.is_empty() && note.len() <= note::LONGEST, "{note}");
    assert!(!note.chars().any(char::is_control), "{note:?}");
    let reason = event.reason.unwrap_or_default();
    assert!(!reason.is_empty() && reason.len() <= 128);
    for (name, value) in event.metadata.labels.unwrap_or_default() {
        assert!(value.len() <= 63, "{name}={value}");
        let ends = value.chars().next().into_iter().chain(value.chars().last());
        assert!(
            ends.into_iter().all(|c| c.is_ascii_alphanumeric()),
            "{name}={value}"
        );
        assert!(
            value
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
            "{name}={value}"
        );
    }
    let annotations = event.metadata.annotations.unwrap_or_default();
    let size: usize = annotations
        .iter()
        .map(|(name, text)| name.len() + text.len())
        .sum();
    assert!(size <= 256 * 1024, "{size} bytes of annotations");
    let name = event.metadata.name.unwrap_or_default();
    assert!(!name.is_empty() && name.len() <= 253, "{name}");
    assert!(
        name.split('.').all(|part| {
            let ends = part.chars().next().into_iter().chain(part.chars().last());
            !part.is_empty() && ends.into_iter().all(|c| c.is_ascii_alphanumeric())
        }) || !received
            .webhook
            .name
            .split('.')
            .all(|p| !p.is_empty() && !p.starts_with('-') && !p.ends_with('-')),
        "{name}"
    );
}
