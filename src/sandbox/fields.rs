//! The fields of a webhook as a caller sends them, checked one by one.
//!
//! A message never repeats a secret.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::{Host, Url};

use super::answer::Refusal;
use super::catalogue;
use super::quirks::{Quirks, UnknownEvents};

/// The status of a webhook that gets deliveries.
pub const ACTIVE: &str = "active";

/// Longest url accepted, in bytes. None is documented; this is what common servers take.
const LONGEST_URL: usize = 2048;
/// Longest secret accepted, in bytes.
const LONGEST_SECRET: usize = 256;

/// A signing secret: written to the state file and to nothing that is printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(redacted)")
    }
}

/// The fields that were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub url: Option<String>,
    pub events: Option<Vec<String>>,
    pub secret: Option<Secret>,
    pub status: Option<String>,
}

/// Reads the body of a create or a PATCH. Unknown fields are passed over. What becomes of unknown events and of
/// secrets is a matter of quirk.
///
/// # Errors
/// 400 when the body is no JSON object, 422 with the field when a field is not acceptable.
pub fn parse(body: &[u8], quirks: &Quirks, urls: Urls) -> Result<Fields, Refusal> {
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
        // The error of a mistyped value would repeat it, so only the place is told.
        Refusal::new(
            400,
            "invalid_request",
            format!(
                "the body is not a JSON object (line {}, column {})",
                error.line(),
                error.column()
            ),
        )
    })?;
    let mut fields = Fields::default();
    if let Some(value) = object.get("url") {
        let url = text("url", value)?;
        target(url, urls).map_err(|why| Refusal::field("url", why))?;
        fields.url = Some(url.to_owned());
    }
    if let Some(value) = object.get("events") {
        fields.events = Some(events(value, quirks)?);
    }
    if let Some(value) = object.get("secret") {
        let mut secret = text("secret", value)?;
        if quirks.secret_trimmed {
            secret = secret.trim();
        }
        let shortest = quirks.secret_min;
        if !(shortest..=LONGEST_SECRET).contains(&secret.len()) {
            return Err(Refusal::field(
                "secret",
                format!("a secret has {shortest} to {LONGEST_SECRET} bytes"),
            ));
        }
        fields.secret = Some(Secret(secret.to_owned()));
    }
    if let Some(value) = object.get("status") {
        fields.status = Some(text("status", value)?.to_owned());
    }
    Ok(fields)
}

/// A field that a create cannot do without.
///
/// # Errors
/// 422 with the field when it was not sent.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::field(field, format!("{field} is required")))
}

fn text<'a>(field: &str, value: &'a Value) -> Result<&'a str, Refusal> {
    value
        .as_str()
        .ok_or_else(|| Refusal::field(field, format!("{field} is a string")))
}

fn events(value: &Value, quirks: &Quirks) -> Result<Vec<String>, Refusal> {
    let refuse = |why: String| Refusal::field("events", why);
    let list = value
        .as_array()
        .ok_or_else(|| refuse("events is a list of names".to_owned()))?;
    let unknown = quirks.unknown_events;
    let mut events: Vec<String> = Vec::new();
    for name in list {
        let name = name
            .as_str()
            .ok_or_else(|| refuse("events is a list of names".to_owned()))?;
        if !catalogue::is_known(name) {
            match unknown {
                UnknownEvents::Refuse => return Err(refuse(format!("unknown event {name:?}"))),
                UnknownEvents::Accept => {}
                UnknownEvents::Drop => continue,
            }
        }
        if quirks.withheld_events.iter().any(|held| held == name) {
            continue;
        }
        if !events.iter().any(|known| known == name) {
            events.push(name.to_owned());
        }
    }
    if list.is_empty() && unknown == UnknownEvents::Refuse {
        return Err(refuse("events names at least one event".to_owned()));
    }
    Ok(events)
}

/// Which urls a webhook may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urls {
    /// https, or plain http to a loopback host, where nobody can listen in.
    #[default]
    Secure,
    /// Plain http to any host: the Service of a receiver without TLS, in a cluster that is played with.
    Any,
}

/// The place that deliveries go to.
///
/// # Errors
/// Why the url is not accepted.
pub fn target(url: &str, urls: Urls) -> Result<Url, String> {
    if url.len() > LONGEST_URL {
        return Err(format!("a url has at most {LONGEST_URL} bytes"));
    }
    let parsed = Url::parse(url).map_err(|error| format!("not a url: {error}"))?;
    match parsed.scheme() {
        "https" => Ok(parsed),
        "http" if urls == Urls::Any || is_loopback(&parsed) => Ok(parsed),
        "http" => Err(
            "http is accepted for loopback hosts only, use https, or start the sandbox with --allow-insecure-urls"
                .to_owned(),
        ),
        _ => Err("the url must be https".to_owned()),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => Ipv4Addr::is_loopback(&address),
        Some(Host::Ipv6(address)) => Ipv6Addr::is_loopback(&address),
        None => false,
    }
}

/// The url as a server that normalises would keep it: scheme and host in lower case, no default port, `/` for
/// an empty path. One that cannot be parsed stays as it is.
pub fn normalised(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), |parsed| parsed.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> (u16, Option<String>) {
        let refusal = parse(body.as_bytes(), &Quirks::default(), Urls::Secure).unwrap_err();
        (refusal.status, refusal.field)
    }

    #[test]
    fn plain_http_is_for_loopback_hosts() {
        for good in [
            "https://example.com/x",
            "http://localhost:8080/x",
            "http://a.localhost/x",
            "http://127.9.9.9/",
            "http://[::1]:1/",
        ] {
            assert!(target(good, Urls::Secure).is_ok(), "{good}");
        }
        for bad in [
            "http://example.com/",
            "http://localhost.example.com/",
            "http://10.0.0.1/",
            "ftp://localhost/",
            "/x",
            "",
        ] {
            assert!(target(bad, Urls::Secure).is_err(), "{bad}");
        }
        let service = "http://chekt-operator.chekt-system.svc/x";
        assert!(target(service, Urls::Secure).is_err());
        assert!(target(service, Urls::Any).is_ok());
        assert!(target("ftp://localhost/", Urls::Any).is_err());
    }

    #[test]
    fn each_bad_field_is_named() {
        let long = "x".repeat(257);
        for (body, field) in [
            (r#"{"url": 1}"#.to_owned(), "url"),
            (r#"{"url": "http://example.com"}"#.to_owned(), "url"),
            (r#"{"events": []}"#.to_owned(), "events"),
            (r#"{"events": "alarm.cleared"}"#.to_owned(), "events"),
            (r#"{"events": [1]}"#.to_owned(), "events"),
            (r#"{"events": ["webhook.test"]}"#.to_owned(), "events"),
            (r#"{"secret": ""}"#.to_owned(), "secret"),
            (format!(r#"{{"secret": "{long}"}}"#), "secret"),
            (r#"{"status": true}"#.to_owned(), "status"),
        ] {
            assert_eq!(refused(&body), (422, Some(field.to_owned())), "{body}");
        }
    }

    #[test]
    fn what_is_no_object_is_a_bad_request() {
        for body in ["", "[]", "{", "\"x\""] {
            assert_eq!(refused(body), (400, None), "{body}");
        }
    }

    #[test]
    fn unknown_events_are_kept_or_dropped_by_quirk() {
        let body = br#"{"events": ["alarm.cleared", "alarm.created", "alarm.cleared"]}"#;
        let events = |unknown_events| {
            let quirks = Quirks {
                unknown_events,
                ..Quirks::default()
            };
            parse(body, &quirks, Urls::Secure).unwrap().events.unwrap()
        };
        let accepted = events(UnknownEvents::Accept);
        assert_eq!(accepted, ["alarm.cleared", "alarm.created"]);
        let dropped = events(UnknownEvents::Drop);
        assert_eq!(dropped, ["alarm.cleared"]);
    }

    #[test]
    fn a_secret_may_be_trimmed_or_found_too_short() {
        let body = br#"{"secret": " hush "}"#;
        let quirks = |secret_trimmed, secret_min| Quirks {
            secret_min,
            secret_trimmed,
            ..Quirks::default()
        };
        let secret =
            |quirks| parse(body, &quirks, Urls::Secure).map(|fields| fields.secret.unwrap().0);
        assert_eq!(secret(quirks(false, 6)).unwrap(), " hush ");
        assert_eq!(secret(quirks(true, 4)).unwrap(), "hush");
        assert!(secret(quirks(true, 5)).is_err());
    }

    #[test]
    fn a_url_is_normalised_as_servers_do() {
        assert_eq!(
            normalised("HTTPS://Example.COM:443"),
            "https://example.com/"
        );
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret("hush".to_owned())), "(redacted)");
    }
}
