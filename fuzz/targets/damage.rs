//! One damaged byte inside a text of an alarm: the alarm keeps its name, wherever the text stands in the body.
#![no_main]

mod shape;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Damaged {
    text: String,
    first: bool,
    pretty: bool,
    place: usize,
    byte: u8,
}

fuzz_target!(|damaged: Damaged| {
    let text = serde_json::json!(damaged.text).to_string();
    let inside = text.len() - 2;
    if inside == 0 {
        return;
    }
    let space = if damaged.pretty { "\n  " } else { "" };
    let event = format!("{space}\"event\":{space}\"alarm.triggered\"");
    let before = format!("{space}\"data\":{space}{{\"alarm_id\": \"a\",{space}\"zone\":");
    let behind = format!(",\"tags\":[1,\"x\"]{space}}}");
    let (head, tail) = if damaged.first {
        (format!("{{{event},{before}"), format!("{behind}}}"))
    } else {
        (format!("{{{before}"), format!("{behind},{event}}}"))
    };
    let mut body = format!("{head}{text}{tail}").into_bytes();
    body[head.len() + 1 + damaged.place % inside] = damaged.byte;
    let received = shape::received("alarms", &body);
    let read = received.envelope().map(|envelope| envelope.event);
    assert_eq!(
        read.as_deref(),
        Ok("alarm.triggered"),
        "{}",
        String::from_utf8_lossy(&body)
    );
    shape::fits(&received);
});
