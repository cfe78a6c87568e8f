//! A delivery as a CloudEvent 1.0 in an HTTP request, by the HTTP protocol binding and the JSON format.
//!
//! By hand and not with the `cloudevents` SDK, which brings chrono and an older reqwest into the tree for the forty
//! lines below. Nothing of the body is interpreted anew: what was signed is what is sent on.

use data_encoding::BASE64;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::envelope::Unreadable;
use super::received::Received;
use crate::resources::foreign::bounded;

/// What is percent-encoded in a header: a space, a quotation mark, a percent sign, and all that is not printable
/// ASCII (HTTP binding 1.0.2, 3.1.3.2).
const HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
/// The longest value of an attribute in bytes, where the sender decides on it: headers have limits everywhere. What
/// is cut is whole in the data.
const LONGEST: usize = 256;
/// What every type begins with.
const TYPE: &str = "com.chekt.";
/// The end of the type of a delivery that cannot be read.
const UNREADABLE: &str = "unreadable";

/// How an event is put into a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The body is the delivery's, the attributes are headers.
    #[default]
    Binary,
    /// The body is a JSON object with attributes and data.
    Structured,
}

/// A request without its method and target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Names in lower case, values of printable ASCII.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The request for a delivery.
#[must_use]
pub fn encode(received: &Received, mode: Mode) -> Message {
    let attributes = attributes(received);
    match mode {
        Mode::Binary => {
            let mut headers: Vec<_> = attributes
                .into_iter()
                .filter(|(name, _)| *name != "datacontenttype")
                .map(|(name, value)| {
                    let value = utf8_percent_encode(&value, HEADER).to_string();
                    (format!("ce-{name}"), value)
                })
                .collect();
            let content = content_type(&received.body).to_owned();
            headers.push(("content-type".to_owned(), content));
            Message {
                headers,
                body: received.body.clone(),
            }
        }
        Mode::Structured => {
            let event = Structured {
                attributes: attributes.into_iter().collect(),
                data: json(&received.body),
                data_base64: json(&received.body)
                    .is_none()
                    .then(|| BASE64.encode(&received.body)),
            };
            let content = "application/cloudevents+json; charset=utf-8".to_owned();
            Message {
                headers: vec![("content-type".to_owned(), content)],
                // Strings and JSON can always be written as JSON, so the default is never used.
                body: serde_json::to_vec(&event).unwrap_or_default(),
            }
        }
    }
}

#[derive(Serialize)]
struct Structured<'r> {
    #[serde(flatten)]
    attributes: std::collections::BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'r RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

fn attributes(received: &Received) -> Vec<(&'static str, String)> {
    let webhook = &received.webhook;
    let (event, subject, mended) = match received.envelope() {
        Ok(envelope) => {
            let ids = ["alarm_id", "device_id", "site_id"];
            let subject = ids.iter().find_map(|field| envelope.text(field));
            let mended = envelope.mendings();
            (envelope.event, subject, mended)
        }
        Err(Unreadable::NotJson { .. } | Unreadable::NotAnObject | Unreadable::NoEvent) => {
            (UNREADABLE.to_owned(), None, None)
        }
    };
    let mut attributes = vec![
        ("specversion", "1.0".to_owned()),
        ("id", received.key.to_string()),
        (
            "source",
            format!("/chekt.com/webhooks/{}/{}", webhook.namespace, webhook.name),
        ),
        ("type", format!("{TYPE}{}", foreign(&event))),
        ("time", received.received_at.to_string()),
        ("datacontenttype", content_type(&received.body).to_owned()),
        ("webhookuid", webhook.uid.clone()),
        ("keyid", foreign(&received.key_id)),
    ];
    if let Some(subject) = subject {
        attributes.push(("subject", foreign(&subject)));
    }
    if let Some(mended) = mended {
        attributes.push(("mended", foreign(&mended)));
    }
    if let Some(id) = &received.webhook_id {
        attributes.push(("remotewebhookid", foreign(id)));
    }
    attributes
}

fn content_type(body: &[u8]) -> &'static str {
    if json(body).is_some() {
        "application/json"
    } else {
        "application/octet-stream"
    }
}

/// The body as it is, if it is JSON that a reader with a limit of depth can read, ours among them.
fn json(body: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice::<Value>(body).ok()?;
    serde_json::from_slice(body).ok()
}

/// Foreign text as the value of an attribute: shortened, and without the characters that no attribute may have
/// (specification 1.0.2, "String").
fn foreign(text: &str) -> String {
    bounded(text, LONGEST)
        .chars()
        .map(|c| {
            let point = u32::from(c);
            let is_none = (0xFDD0..=0xFDEF).contains(&point) || point & 0xFFFE == 0xFFFE;
            if c.is_control() || is_none {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::jiff::Timestamp;

    use super::super::{Class, DeliveryKey, KeyPlace};
    use super::*;
    use crate::resources::keyring::WebhookIdentity;

    fn received(body: &[u8]) -> Received {
        Received {
            key: DeliveryKey::of("u-1", body),
            occurrence: None,
            webhook: WebhookIdentity {
                namespace: "security".into(),
                name: "alarms".into(),
                uid: "u-1".into(),
            },
            class: Class::Alarm,
            key_id: "k-1".into(),
            place: KeyPlace::Current,
            received_at: Timestamp::from_millisecond(1_700_000_000_250).unwrap(),
            labels: BTreeMap::new(),
            webhook_id: Some("webhook_abc123".into()),
            body: body.to_vec(),
        }
    }

    fn header(body: &str, name: &str) -> Option<String> {
        let message = encode(&received(body.as_bytes()), Mode::Binary);
        let found = message.headers.into_iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value)
    }

    const ALARM: &str = r#"{"event":"alarm.triggered", "data":{"alarm_id":"alarm_xyz789","site_id":"s","zone":"Tür"}}"#;

    #[test]
    fn binary_has_the_body_as_it_was_signed_and_the_attributes_in_headers() {
        let message = encode(&received(ALARM.as_bytes()), Mode::Binary);
        assert_eq!(message.body, ALARM.as_bytes());
        let headers: Vec<_> = message
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let id = DeliveryKey::of("u-1", ALARM.as_bytes());
        assert_eq!(
            headers,
            [
                "ce-specversion: 1.0",
                &format!("ce-id: {id}"),
                "ce-source: /chekt.com/webhooks/security/alarms",
                "ce-type: com.chekt.alarm.triggered",
                "ce-time: 2023-11-14T22:13:20.25Z",
                "ce-webhookuid: u-1",
                "ce-keyid: k-1",
                "ce-subject: alarm_xyz789",
                "ce-remotewebhookid: webhook_abc123",
                "content-type: application/json",
            ]
        );
    }

    #[test]
    fn structured_is_one_object_with_the_body_untouched_inside() {
        let message = encode(&received(ALARM.as_bytes()), Mode::Structured);
        let text = String::from_utf8(message.body).unwrap();
        assert!(text.contains(&format!("\"data\":{ALARM}")), "{text}");
        let object: Value = serde_json::from_str(&text).unwrap();
        for (name, value) in [
            ("specversion", "1.0"),
            ("source", "/chekt.com/webhooks/security/alarms"),
            ("type", "com.chekt.alarm.triggered"),
            ("subject", "alarm_xyz789"),
            ("time", "2023-11-14T22:13:20.25Z"),
            ("datacontenttype", "application/json"),
            ("webhookuid", "u-1"),
            ("remotewebhookid", "webhook_abc123"),
            ("keyid", "k-1"),
        ] {
            assert_eq!(object[name], value, "{name}");
        }
        assert_eq!(
            message.headers,
            [(
                "content-type".to_owned(),
                "application/cloudevents+json; charset=utf-8".to_owned()
            )]
        );
    }

    #[test]
    fn what_is_no_json_goes_as_bytes() {
        let deep = "[".repeat(1_000) + &"]".repeat(1_000);
        for body in [b"{broken".as_slice(), b"\xff\xfe", b"", deep.as_bytes()] {
            let structured = encode(&received(body), Mode::Structured).body;
            let object: Value = serde_json::from_slice(&structured).unwrap();
            assert_eq!(object["data_base64"], BASE64.encode(body));
            assert_eq!(object["datacontenttype"], "application/octet-stream");
            assert_eq!(object["type"], "com.chekt.unreadable");
            assert!(object.get("data").is_none());
            let binary = encode(&received(body), Mode::Binary);
            assert_eq!(binary.body, body);
        }
        // What could be read all the same goes as it came, and says what was mended.
        let body = br#"{"event":"alarm.triggered","data":{"alarm_id":"a","zone":"Door \ud83d"}}"#;
        let message = encode(&received(body), Mode::Structured);
        let object: Value = serde_json::from_slice(&message.body).unwrap();
        for (name, value) in [
            ("type", "com.chekt.alarm.triggered"),
            ("subject", "a"),
            ("mended", "lone surrogate"),
            ("datacontenttype", "application/octet-stream"),
            ("data_base64", &BASE64.encode(body)),
        ] {
            assert_eq!(object[name], value, "{name}");
        }
        let binary = encode(&received(body), Mode::Binary);
        assert_eq!(binary.body, body);
        let mended = ("ce-mended".to_owned(), "lone%20surrogate".to_owned());
        assert!(binary.headers.contains(&mended));
        // JSON that is no envelope is JSON all the same.
        let list = encode(&received(b" [1] "), Mode::Structured).body;
        let object: Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(object["data"], serde_json::json!([1]));
        assert_eq!(object["type"], "com.chekt.unreadable");
    }

    #[test]
    fn headers_are_percent_encoded_as_the_binding_says() {
        for (id, expected) in [
            ("plain_id-7", "plain_id-7"),
            ("a b", "a%20b"),
            ("\\\"q\\\"", "%22q%22"),
            ("100%", "100%25"),
            ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("a\\u0000b\\nc", "a%EF%BF%BDb%EF%BF%BDc"),
            ("\\uffff", "%EF%BF%BD"),
            ("~!$&'()*+,/:;=?@[]", "~!$&'()*+,/:;=?@[]"),
        ] {
            let body = format!(r#"{{"event":"site.armed","data":{{"site_id":"{id}"}}}}"#);
            assert_eq!(
                header(&body, "ce-subject").as_deref(),
                Some(expected),
                "{id}"
            );
        }
    }

    #[test]
    fn the_subject_is_the_most_exact_id_there_is() {
        for (data, expected) in [
            (
                r#"{"site_id":"s","device_id":"d","alarm_id":"a"}"#,
                Some("a"),
            ),
            (r#"{"site_id":"s","device_id":4}"#, Some("4")),
            (r#"{"site_id":"s","alarm_id":""}"#, Some("s")),
            (r#"{"zone":"z"}"#, None),
        ] {
            let body = format!(r#"{{"event":"x.y","data":{data}}}"#);
            assert_eq!(header(&body, "ce-subject").as_deref(), expected, "{data}");
        }
        assert_eq!(
            header(r#"{"event":" x.y "}"#, "ce-type").as_deref(),
            Some("com.chekt.x.y")
        );
    }

    proptest::proptest! {
            #[test]
            fn every_body_makes_valid_headers_and_an_object_that_gives_it_back(body: Vec<u8>, event: String, id: String) {
                let named = serde_json::json!({"event": event, "data": {"alarm_id": id}}).to_string();
                for body in [body.as_slice(), named.as_bytes()] {
                    let message = encode(&received(body), Mode::Binary);
                    for (name, value) in &message.headers {
                        proptest::prop_assert!(http::HeaderName::from_bytes(name.as_bytes()).is_ok());
                        proptest::prop_assert!(http::HeaderValue::from_str(value).is_ok());
                        proptest::prop_assert!(value.bytes().all(|b| (0x20..0x7f).contains(&b)));
                        proptest::prop_assert!(!value.is_empty() && value.len() <= 3 * LONGEST + TYPE.len());
                    }
                    let structured = encode(&received(body), Mode::Structured).body;
                    let object: Value = serde_json::from_slice(&structured).unwrap();
                    if let Some(text) = object.get("data_base64") {
                            let bytes = BASE64.decode(text.as_str().unwrap().as_bytes()).unwrap();
                            proptest::prop_assert_eq!(bytes, body);
    } else {
                            let read: Value = serde_json::from_slice(body).unwrap();
                            proptest::prop_assert_eq!(&object["data"], &read);
    }
                }
            }
        }
}
