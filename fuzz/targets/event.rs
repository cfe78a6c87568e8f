//! Envelopes whose every text is arbitrary: note, labels, annotations and name stay within what the API server takes.
#![no_main]

mod shape;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Sent {
    webhook: String,
    event: String,
    webhook_id: Option<String>,
    timestamp: Option<String>,
    data: Vec<(Field, String)>,
}

/// The fields that we look at, and any other.
#[derive(Arbitrary, Debug)]
enum Field {
    Alarm,
    Site,
    SiteName,
    Device,
    DeviceName,
    Severity,
    Status,
    Zone,
    Other(String),
}

fuzz_target!(|sent: Sent| {
    let data = sent.data.into_iter().map(|(field, text)| {
        let name = match field {
            Field::Alarm => "alarm_id".to_owned(),
            Field::Site => "site_id".to_owned(),
            Field::SiteName => "site_name".to_owned(),
            Field::Device => "device_id".to_owned(),
            Field::DeviceName => "device_name".to_owned(),
            Field::Severity => "severity".to_owned(),
            Field::Status => "status".to_owned(),
            Field::Zone => "zone".to_owned(),
            Field::Other(name) => name,
        };
        (name, serde_json::Value::from(text))
    });
    let body = serde_json::json!({
        "event": sent.event,
        "webhook_id": sent.webhook_id,
        "timestamp": sent.timestamp,
        "data": data.collect::<serde_json::Map<_, _>>(),
    });
    // The name of a resource has letters, digits, `-` and `.`, and begins and ends with one of the former.
    let name: String = sent
        .webhook
        .chars()
        .filter(|c| "abcdefghijklmnopqrstuvwxyz0123456789-.".contains(*c))
        .take(251)
        .collect();
    shape::fits(&shape::received(
        &format!("a{name}z"),
        body.to_string().as_bytes(),
    ));
});
