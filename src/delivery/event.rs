//! A delivery as a Kubernetes Event: one each, never a series, on the `ChektWebhook` and in its namespace. What cannot
//! be told one by one, dead letters, is told as their number.
//!
//! kube's recorder is not used: it folds Events of the same reason within six minutes into one and drops the later
//! notes, which is right for transitions and wrong for alarms.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use super::catalogue::Kind;
use super::envelope::{Envelope, Unreadable};
use super::received::{Known, Received};
use super::{identity, labels, note, notice};
use crate::resources::ChektWebhook;
use crate::resources::foreign::bounded;
use crate::resources::keyring::WebhookIdentity;

/// Who reports: the same for every receiver.
pub const REPORTING_CONTROLLER: &str = "chekt.com/receiver";
/// Reason of the Event about deliveries that a receiver could not publish before it ended.
pub const LEFT: &str = "DeliveriesLeft";
/// What was done.
pub const ACTION: &str = "Received";
/// Reason of the Event about dead letters.
pub const UNREADABLE: &str = "DeliveryUnreadable";
/// The annotation with the name of CHeKT's event.
pub const EVENT: &str = "chekt.com/event";
/// The longest name of a reporting instance (events.k8s.io/v1 validation).
const LONGEST_INSTANCE: usize = 128;
/// Annotations hold exact ids, but not of any length: all together may have 256 KiB.
const LONGEST_ANNOTATION: usize = 4096;

/// The name under which ids are found: field of `data`, and the end of the label and annotation.
const IDS: [(&str, &str); 4] = [
    ("site_id", "site-id"),
    ("device_id", "device-id"),
    ("alarm_id", "alarm-id"),
    ("severity", "severity"),
];

/// The Event of a delivery, published at `now` by `instance` (the pod).
///
/// # Errors
/// When the body says nothing that could be told: it is a dead letter.
pub fn build(received: &Received, instance: &str, now: Timestamp) -> Result<Event, Unreadable> {
    let webhook = &received.webhook;
    let envelope = received.envelope()?;
    let kind = Kind::of(&envelope.event);
    let mut marks = Marks::default();
    marks.annotate("body-sha256", &identity::body_digest(&received.body));
    marks.annotate("delivery-key", &received.key.to_string());
    marks.annotate("received-at", &received.received_at.to_string());
    marks.annotate("key-id", &received.key_id);
    marks.of_envelope(&envelope);
    let foreign = foreign_webhook_id(received, &envelope);
    if let Some(expected) = foreign {
        marks.annotate("expected-webhook-id", expected);
    }
    let type_ = if kind.warns(&envelope) {
        "Warning"
    } else {
        "Normal"
    };
    // Copies to the byte are one Event at every receiver. Whether other bytes are a copy only the receiver knows that has
    // seen both, and what came in between.
    let name = received.key.event_name(&webhook.name, &webhook.uid);
    let told = Told {
        type_,
        reason: kind.reason(),
        note: note::of(kind, &envelope, foreign),
    };
    Ok(regarding(
        webhook,
        &received.labels,
        name,
        told,
        marks,
        instance,
        now,
    ))
}

/// Dead letters of one webhook that nobody was told of yet.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetters<'d> {
    /// The webhook.
    pub webhook: &'d WebhookIdentity,
    /// What is known of it now; its labels go on the Event.
    pub known: &'d Known,
    /// How many.
    pub count: i64,
    /// How many of them the API server refused.
    pub refused: i64,
    /// Why the newest of them is one.
    pub newest: &'d str,
}

/// The Event that tells of dead letters, in the minute of `now`.
#[must_use]
pub fn of_dead_letters(letters: DeadLetters<'_>, instance: &str, now: Timestamp) -> Event {
    let DeadLetters {
        webhook,
        known,
        count,
        refused,
        newest,
    } = letters;
    let mut marks = Marks::default();
    if let Some(id) = &known.webhook_id {
        marks.label("webhook-id", id);
        marks.annotate("webhook-id", id);
    }
    let name = identity::notice_name(&webhook.name, &webhook.uid, notice::minute(now));
    let told = Told {
        type_: "Warning",
        reason: UNREADABLE,
        note: note::of_dead_letters(count, refused, newest, instance),
    };
    regarding(webhook, &known.labels, name, told, marks, instance, now)
}

/// Deliveries of one webhook that a receiver could not publish before it ended.
#[derive(Clone, Copy, Debug)]
pub struct Left<'l> {
    /// One of them.
    pub received: &'l Received,
    /// How many.
    pub count: usize,
    /// The directory of the journal that holds them.
    pub place: &'l str,
}

/// The Event that tells of them, at `now`.
#[must_use]
pub fn of_left(left: &Left<'_>, instance: &str, now: Timestamp) -> Event {
    let webhook = &left.received.webhook;
    let name = identity::left_name(&webhook.name, &webhook.uid, instance, now.as_second());
    let told = Told {
        type_: "Warning",
        reason: LEFT,
        note: note::of_left(left.count, instance, left.place),
    };
    let marks = Marks::default();
    regarding(
        webhook,
        &left.received.labels,
        name,
        told,
        marks,
        instance,
        now,
    )
}

/// What an Event tells.
struct Told {
    type_: &'static str,
    reason: &'static str,
    note: String,
}

fn regarding(
    webhook: &WebhookIdentity,
    users_labels: &BTreeMap<String, String>,
    name: String,
    told: Told,
    marks: Marks,
    instance: &str,
    now: Timestamp,
) -> Event {
    // Ours come last, so that a user's label cannot pose as one of them.
    let mut all_labels = users_labels.clone();
    all_labels.extend(marks.labels);
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(webhook.namespace.clone()),
            labels: Some(all_labels),
            annotations: Some(marks.annotations),
            ..ObjectMeta::default()
        },
        action: Some(ACTION.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(told.note),
        reason: Some(told.reason.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(ChektWebhook::api_version(&()).into_owned()),
            kind: Some(ChektWebhook::kind(&()).into_owned()),
            namespace: Some(webhook.namespace.clone()),
            name: Some(webhook.name.clone()),
            uid: Some(webhook.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(REPORTING_CONTROLLER.to_owned()),
        reporting_instance: Some(bounded(instance, LONGEST_INSTANCE).to_owned()),
        type_: Some(told.type_.to_owned()),
        ..Event::default()
    }
}

/// The id of our remote webhook, if it is known and the delivery names another one. Two webhooks with one secret
/// look like this; the signature is valid, so it is shown and not refused.
fn foreign_webhook_id<'r>(received: &'r Received, envelope: &Envelope) -> Option<&'r str> {
    let ours = received.webhook_id.as_deref()?;
    let named = envelope.webhook_id.as_deref()?;
    (ours != named).then_some(ours)
}

#[derive(Default)]
struct Marks {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Marks {
    fn annotate(&mut self, name: &str, text: &str) {
        let text = bounded(text, LONGEST_ANNOTATION);
        self.annotations
            .insert(format!("chekt.com/{name}"), text.to_owned());
    }

    fn label(&mut self, name: &str, text: &str) {
        self.labels
            .insert(format!("chekt.com/{name}"), labels::value(text));
    }

    fn of_envelope(&mut self, envelope: &Envelope) {
        self.label("event", &envelope.event);
        self.annotate("event", &envelope.event);
        if let Some(id) = &envelope.webhook_id {
            self.label("webhook-id", id);
            self.annotate("webhook-id", id);
        }
        if let Some(timestamp) = &envelope.timestamp {
            self.annotate("sent-at", timestamp);
        }
        if let Some(mendings) = envelope.mendings() {
            self.annotate("mended", &mendings);
        }
        for (field, name) in IDS {
            if let Some(text) = envelope.text(field) {
                self.label(name, &text);
                self.annotate(name, &text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, DeliveryKey, KeyPlace};
    use super::*;

    fn received(body: &str) -> Received {
        Received {
            key: DeliveryKey::of("u-1", body.as_bytes()),
            occurrence: None,
            webhook: WebhookIdentity {
                namespace: "security".into(),
                name: "alarms".into(),
                uid: "u-1".into(),
            },
            class: Class::Alarm,
            key_id: "k-1".into(),
            place: KeyPlace::Current,
            received_at: Timestamp::from_second(1_700_000_000).unwrap(),
            labels: BTreeMap::from([
                ("team".into(), "blue".into()),
                ("chekt.com/event".into(), "forged".into()),
            ]),
            webhook_id: Some("webhook_abc123".into()),
            body: body.as_bytes().to_vec(),
        }
    }

    fn built(body: &str) -> Event {
        build(
            &received(body),
            "pod-1",
            Timestamp::from_second(1_700_000_001).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn the_guides_alarm_is_this_event() {
        let event = built(
            r#"{"event":"alarm.triggered","webhook_id":"webhook_abc123","timestamp":"2024-01-15T14:20:00Z","data":{"alarm_id":"alarm_xyz789","site_id":"site_123","device_id":"device_456","severity":"high","zone":"Front Door"}}"#,
        );
        insta::assert_json_snapshot!(event);
    }

    #[test]
    fn each_event_has_its_type_and_reason() {
        for (event, data, type_, reason) in [
            ("alarm.triggered", "{}", "Warning", "AlarmTriggered"),
            ("alarm.cleared", "{}", "Normal", "AlarmCleared"),
            ("alarm.acknowledged", "{}", "Normal", "AlarmAcknowledged"),
            (
                "device.status_changed",
                r#"{"status":"Offline"}"#,
                "Warning",
                "DeviceStatusChanged",
            ),
            (
                "device.status_changed",
                r#"{"status":"online"}"#,
                "Normal",
                "DeviceStatusChanged",
            ),
            ("device.registered", "{}", "Normal", "DeviceRegistered"),
            ("device.removed", "{}", "Normal", "DeviceRemoved"),
            ("site.armed", "{}", "Normal", "SiteArmed"),
            ("site.disarmed", "{}", "Normal", "SiteDisarmed"),
            ("site.created", "{}", "Normal", "SiteCreated"),
            ("webhook.test", "{}", "Normal", "WebhookTest"),
            ("door.opened", "{}", "Normal", "UnknownEvent"),
        ] {
            let built = built(&format!(r#"{{"event":"{event}","data":{data}}}"#));
            assert_eq!(built.type_.as_deref(), Some(type_), "{event}");
            assert_eq!(built.reason.as_deref(), Some(reason), "{event}");
        }
        let broken = build(&received("{}"), "pod-1", Timestamp::UNIX_EPOCH);
        assert_eq!(broken, Err(Unreadable::NoEvent));
    }

    #[test]
    fn dead_letters_are_one_event_a_minute_on_their_webhook() {
        let known = Known {
            labels: BTreeMap::from([("team".into(), "blue".into())]),
            webhook_id: Some("webhook_abc123".into()),
        };
        let webhook = received("").webhook;
        let letters = DeadLetters {
            webhook: &webhook,
            known: &known,
            count: 3,
            refused: 0,
            newest: "it has no event name",
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let event = of_dead_letters(letters, "pod-1", at(1_700_000_040));
        let name = |second| of_dead_letters(letters, "pod-2", at(second)).metadata.name;
        assert_eq!(event.metadata.name, name(1_700_000_099));
        assert_ne!(event.metadata.name, name(1_700_000_100));
        insta::assert_json_snapshot!(event);
    }

    #[test]
    fn a_foreign_webhook_id_under_a_valid_signature_is_visible() {
        let event = built(r#"{"event":"site.armed","webhook_id":"w2","data":{}}"#);
        let annotations = event.metadata.annotations.unwrap();
        assert_eq!(
            annotations["chekt.com/expected-webhook-id"],
            "webhook_abc123"
        );
        assert!(event.note.unwrap().contains("names another webhook"));
        let own = built(r#"{"event":"site.armed","webhook_id":"webhook_abc123","data":{}}"#);
        assert!(
            !own.metadata
                .annotations
                .unwrap()
                .contains_key("chekt.com/expected-webhook-id")
        );
    }

    #[test]
    fn the_users_labels_are_on_it_and_cannot_pose_as_ours() {
        let labels = built(r#"{"event":"site.armed"}"#).metadata.labels.unwrap();
        assert_eq!(labels["team"], "blue");
        assert_eq!(labels["chekt.com/event"], "site.armed");
    }
}
