//! The note of an Event: a sentence for people, then `key=value` pairs for their tools.
//!
//! It is at most 1,024 bytes, which is what the API server takes, and is cut on a character boundary. What comes
//! first survives: the sentence, the ids, then the rest of the data in alphabetical order.

use std::fmt::Write;

use super::catalogue::Kind;
use super::envelope::Envelope;
use super::json::Value;
use crate::resources::foreign::bounded;

/// The most bytes that the API server takes for a note (events.k8s.io/v1 validation).
pub const LONGEST: usize = 1024;
/// Stands at the end of what was cut.
const ELLIPSIS: &str = "…";
/// Fields of `data` that come first, because one looks for them first.
const FIRST: [&str; 5] = ["alarm_id", "site_id", "device_id", "severity", "status"];
/// A value in the sentence is shortened to this many characters; in the pairs it is whole if there is room.
const IN_SENTENCE: usize = 80;

/// The note of a delivery that could be read. `expected` is the id of our remote webhook if the delivery names
/// another one.
#[must_use]
pub fn of(kind: Kind, envelope: &Envelope, expected: Option<&str>) -> String {
    let mut note = sentence(kind, envelope);
    if let Some(expected) = expected {
        let named = envelope.webhook_id.as_deref().unwrap_or("");
        let _ = write!(
            note,
            " It names another webhook than ours: {} instead of {}.",
            quoted(&shortened(named)),
            quoted(&shortened(expected))
        );
    }
    if !envelope.flaws.is_empty() {
        let fields: Vec<&str> = envelope.flaws.iter().map(|flaw| flaw.field()).collect();
        let _ = write!(note, " It lacks {}.", fields.join(", "));
    }
    if let Some(mendings) = envelope.mendings() {
        let _ = write!(note, " Its body was mended: {mendings}.");
    }
    pair(&mut note, "event", &envelope.event);
    for field in FIRST {
        if let Some(text) = envelope.text(field) {
            pair(&mut note, field, &text);
        }
    }
    for (name, text) in [
        ("webhook_id", &envelope.webhook_id),
        ("timestamp", &envelope.timestamp),
    ] {
        if let Some(text) = text {
            pair(&mut note, name, text);
        }
    }
    let is_rest = |(name, _): &(&String, &Value)| !FIRST.contains(&name.as_str());
    for (name, value) in envelope.data.iter().filter(is_rest) {
        let text = match value {
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => value.to_string(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                envelope.text(name).unwrap_or_default()
            }
        };
        pair(&mut note, &quoted(name), &text);
        if note.len() > LONGEST {
            break;
        }
    }
    cut(note)
}

/// The note about deliveries that a receiver keeps as dead letters: how many since the last note, how many of them the
/// receiver retries, and why the newest is one. Nothing of a body is in it.
#[must_use]
pub fn of_dead_letters(count: i64, refused: i64, newest: &str, receiver: &str) -> String {
    let newest: String = newest.chars().filter(|c| !disturbs(*c)).collect();
    let receiver = quoted(&shortened(receiver));
    let them = if count == 1 {
        "A delivery with a valid signature cannot become an Event and is kept as a dead letter: "
            .to_owned()
    } else {
        format!(
            "{count} deliveries with a valid signature cannot become Events and are kept as dead letters; the newest: "
        )
    };
    let retried = match (refused, count) {
        (0, _) => String::new(),
        (_, 1) => "The receiver retries it by itself. ".to_owned(),
        (refused, _) => format!("The receiver retries {refused} of them by itself. "),
    };
    let end = format!(
        ". {retried}On receiver {receiver}, chekt-operator deadletters lists what its journal keeps."
    );
    // The reason may be long, and the command must not be cut.
    let mut note = them + &newest;
    let room = LONGEST.saturating_sub(end.len() + ELLIPSIS.len());
    if note.len() > room {
        note.truncate(bounded(&note, room).len());
        note.push_str(ELLIPSIS);
    }
    cut(note + &end)
}

/// The note about deliveries that a receiver left in its journal when it ended.
#[must_use]
pub fn of_left(count: usize, receiver: &str, place: &str) -> String {
    let (receiver, place) = (quoted(&shortened(receiver)), quoted(&shortened(place)));
    let them = if count == 1 {
        "1 acknowledged delivery was".to_owned()
    } else {
        format!("{count} acknowledged deliveries were")
    };
    cut(format!(
        "{them} not published before receiver {receiver} ended. The journal in {place} of that Pod holds them: a receiver \
         that starts with the same volume publishes them, and without a volume that outlives the Pod they are lost."
    ))
}

fn sentence(kind: Kind, envelope: &Envelope) -> String {
    let text = |field| envelope.text(field).map(|text| shown(&text));
    let device = || text("device_name").or_else(|| text("device_id"));
    let site = || text("site_name").or_else(|| text("site_id"));
    let at_site = || site().map(|s| format!(" at site {s}")).unwrap_or_default();
    let a_device = || device().map_or_else(|| "A device".to_owned(), |d| format!("Device {d}"));
    let the_site = || site().map_or_else(|| "A site".to_owned(), |s| format!("Site {s}"));
    let alarm = || text("alarm_id").map_or_else(|| "An alarm".to_owned(), |a| format!("Alarm {a}"));
    match kind {
        Kind::AlarmTriggered => {
            let zone = text("zone").map(|z| format!(" in zone {z}"));
            let by = device().map(|d| format!(" by device {d}"));
            let severity = text("severity").map(|s| format!(", severity {s}"));
            let parts = [zone, by, severity].map(Option::unwrap_or_default);
            let [zone, by, severity] = parts;
            format!("Alarm triggered{zone}{}{by}{severity}.", at_site())
        }
        Kind::AlarmCleared => format!("{} was cleared{}.", alarm(), at_site()),
        Kind::AlarmAcknowledged => {
            format!("{} was acknowledged by an operator{}.", alarm(), at_site())
        }
        Kind::DeviceStatusChanged => match text("status") {
            Some(status) => format!("{}{} is now {status}.", a_device(), at_site()),
            None => format!("{}{} changed its status.", a_device(), at_site()),
        },
        Kind::DeviceRegistered => format!("{} was registered{}.", a_device(), at_site()),
        Kind::DeviceRemoved => format!("{} was removed{}.", a_device(), at_site()),
        Kind::SiteArmed => format!("{} was armed.", the_site()),
        Kind::SiteDisarmed => format!("{} was disarmed.", the_site()),
        Kind::SiteCreated => format!("{} was created.", the_site()),
        Kind::WebhookTest => {
            "A test delivery arrived: CHeKT reaches this receiver, and the signature fits."
                .to_owned()
        }
        Kind::Unknown => format!(
            "CHeKT sent an event that this version does not know: {}.",
            shown(&envelope.event)
        ),
    }
}

fn pair(note: &mut String, name: &str, text: &str) {
    let _ = write!(note, " {name}={}", quoted(text));
}

fn shown(text: &str) -> String {
    quoted(&shortened(text))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(IN_SENTENCE) {
        Some((at, _)) => format!("{}{ELLIPSIS}", &text[..at]),
        None => text.to_owned(),
    }
}

/// As it is, or in quotation marks where a reader could not tell where it ends. Control characters and those that
/// turn the direction of writing are spelled out, so that no foreign text can draw over what stands beside it.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| {
            !c.is_whitespace() && !disturbs(c) && !matches!(c, '"' | '\'' | '=' | '\\' | ',' | ';')
        });
    if plain {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if disturbs(c) || (c.is_whitespace() && c != ' ') => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn disturbs(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn cut(mut note: String) -> String {
    if note.len() <= LONGEST {
        return note;
    }
    note.truncate(bounded(&note, LONGEST - ELLIPSIS.len()).len());
    note.push_str(ELLIPSIS);
    note
}

#[cfg(test)]
mod tests {
    use super::super::envelope;
    use super::*;

    fn note(body: &str) -> String {
        let envelope = envelope::read(body.as_bytes()).unwrap();
        of(Kind::of(&envelope.event), &envelope, None)
    }

    #[test]
    fn the_guides_alarm_is_a_sentence_and_its_pairs() {
        assert_eq!(
            note(
                r#"{"event":"alarm.triggered","webhook_id":"webhook_abc123","timestamp":"2024-01-15T14:20:00Z","data":{"alarm_id":"alarm_xyz789","site_id":"site_123","device_id":"device_456","severity":"high","zone":"Front Door"}}"#
            ),
            "Alarm triggered in zone \"Front Door\" at site site_123 by device device_456, severity high. \
             event=alarm.triggered alarm_id=alarm_xyz789 site_id=site_123 device_id=device_456 severity=high \
             webhook_id=webhook_abc123 timestamp=2024-01-15T14:20:00Z zone=\"Front Door\""
        );
    }

    #[test]
    fn every_event_has_a_sentence_without_any_data() {
        let sentence = |event: &str| {
            let note = note(&format!(
                r#"{{"event":"{event}","webhook_id":"w","timestamp":"t","data":{{}}}}"#
            ));
            note.split_once(" event=").unwrap().0.to_owned()
        };
        for (event, expected) in [
            ("alarm.triggered", "Alarm triggered."),
            ("alarm.cleared", "An alarm was cleared."),
            (
                "alarm.acknowledged",
                "An alarm was acknowledged by an operator.",
            ),
            ("device.status_changed", "A device changed its status."),
            ("device.registered", "A device was registered."),
            ("device.removed", "A device was removed."),
            ("site.armed", "A site was armed."),
            ("site.disarmed", "A site was disarmed."),
            ("site.created", "A site was created."),
            (
                "webhook.test",
                "A test delivery arrived: CHeKT reaches this receiver, and the signature fits.",
            ),
            (
                "door.opened",
                "CHeKT sent an event that this version does not know: door.opened.",
            ),
        ] {
            assert_eq!(sentence(event), expected);
        }
    }

    #[test]
    fn what_is_missing_and_a_foreign_webhook_id_are_said() {
        let envelope = envelope::read(br#"{"event":"site.armed","webhook_id":"w 2"}"#).unwrap();
        let note = of(Kind::SiteArmed, &envelope, Some("w1"));
        assert!(note.starts_with(
            "A site was armed. It names another webhook than ours: \"w 2\" instead of w1. It lacks timestamp, data."
        ), "{note}");
    }

    #[test]
    fn five_thousand_characters_are_cut_on_a_boundary() {
        for text in ["ü", "🚨", "a", "東"] {
            let body = format!(
                r#"{{"event":"alarm.triggered","webhook_id":"w","timestamp":"t","data":{{"zone":"{0}","alarm_id":"a","text":"{0}"}}}}"#,
                text.repeat(5_000)
            );
            let note = note(&body);
            assert!(
                note.len() <= LONGEST && note.len() > LONGEST - 8,
                "{}",
                note.len()
            );
            assert!(note.ends_with(ELLIPSIS));
            assert!(note.contains(" alarm_id=a "));
        }
    }

    #[test]
    fn dead_letters_are_counted_and_the_command_to_list_them_is_never_cut() {
        assert_eq!(
            of_dead_letters(1, 0, "it has no event name", "pod-1"),
            "A delivery with a valid signature cannot become an Event and is kept as a dead letter: it has no event \
             name. On receiver pod-1, chekt-operator deadletters lists what its journal keeps."
        );
        assert!(
            of_dead_letters(3, 0, "it is not JSON", "pod-1").starts_with(
                "3 deliveries with a valid signature cannot become Events and are kept as dead letters; the newest: \
                 it is not JSON. On receiver pod-1,"
            )
        );
        assert!(
            of_dead_letters(3, 2, "no", "pod-1")
                .contains("newest: no. The receiver retries 2 of them by itself. On receiver")
        );
        assert!(
            of_dead_letters(1, 1, "no", "pod-1")
                .contains(": no. The receiver retries it by itself. On receiver")
        );
        for reason in [
            "x".repeat(5_000),
            "🚨".repeat(5_000),
            "a\u{202e}\n".repeat(900),
        ] {
            let note = of_dead_letters(7, 7, &reason, &"r".repeat(500));
            assert!(note.len() <= LONGEST && note.len() > 900, "{}", note.len());
            assert!(
                note.ends_with(", chekt-operator deadletters lists what its journal keeps."),
                "{note}"
            );
            assert!(!note.chars().any(disturbs), "{note}");
        }
    }

    #[test]
    fn no_text_can_draw_over_its_neighbours() {
        let note = note(
            "{\"event\":\"site.armed\",\"webhook_id\":\"w\",\"timestamp\":\"t\",\"data\":{\"site_id\":\"a\\n\\u001b[2J\\u202eb\\\"c\",\"x=y\":\"1\"}}",
        );
        assert!(
            note.contains(r#"site_id="a\u{a}\u{1b}[2J\u{202e}b\"c""#),
            "{note}"
        );
        assert!(note.contains(r#" "x=y"=1"#), "{note}");
    }

    proptest::proptest! {
        #[test]
        fn a_note_is_never_too_long_and_never_empty(event: String, data: std::collections::HashMap<String, String>, expected: Option<String>) {
            let body = serde_json::json!({"event": format!("x{event}"), "data": data});
            let envelope = envelope::read(body.to_string().as_bytes()).unwrap();
            let note = of(Kind::of(&envelope.event), &envelope, expected.as_deref());
            proptest::prop_assert!(!note.is_empty() && note.len() <= LONGEST);
            proptest::prop_assert!(!note.chars().any(disturbs));
        }
    }
}
