//! CHeKT's words on the wire: what a webhook and a list of webhooks may look like.
//!
//! The guide shows one object and no list at all, and CHeKT's other APIs disagree with each other. So every
//! shape that any of them uses is read, and anything else is a fault: an unknown shape is never an empty list,
//! because an empty list is a reason to create.
//!
//! A page is read in place, one entry at a time: as one tree of values it would take some thirty times its size.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::Url;

use crate::resources::foreign::Redactor;
use crate::resources::remote::RemoteWebhook;

/// The most bytes of an id.
const MAX_ID_BYTES: usize = 256;
/// The most events of one webhook; what CHeKT documents are some twenty.
const MAX_EVENTS: usize = 256;

/// Something that CHeKT sent and that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// Not JSON.
    #[error("the answer is not JSON")]
    NotJson,
    /// No list where one should be.
    #[error("the answer holds no list of webhooks in any known shape")]
    NoList,
    /// No webhook where one should be.
    #[error("the answer holds no webhook with an id and a url")]
    NoWebhook,
    /// An id that cannot be shown or sent as it is.
    #[error(
        "the answer holds an id that has control characters, a credential or more than {MAX_ID_BYTES} bytes in it"
    )]
    OddId,
}

/// What follows a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The answer says that there is nothing more.
    Nothing,
    /// The answer says nothing about it.
    Unsaid,
    /// The answer says that there is more, and gives no way to it that we may take.
    Unreachable,
    /// More, on the page of this number.
    Page(u64),
    /// More, behind this cursor.
    Cursor(String),
    /// More, at this address.
    Link(Url),
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// What it shows.
    pub webhooks: Vec<RemoteWebhook>,
    /// What follows it.
    pub next: Next,
    /// How many webhooks there are in all, where the answer says so.
    pub total: Option<u64>,
}

/// Reads one webhook: bare, or under `data` or `webhook`.
///
/// # Errors
/// [`WireError::NotJson`], [`WireError::NoWebhook`] and [`WireError::OddId`].
pub fn webhook(body: &[u8], redactor: &Redactor) -> Result<RemoteWebhook, WireError> {
    let value: Value = serde_json::from_slice(body).map_err(|_| WireError::NotJson)?;
    let found = [&value, &value["data"], &value["webhook"]]
        .into_iter()
        .map(|value| read(value, redactor))
        .find(|read| *read != Err(WireError::NoWebhook));
    found.unwrap_or(Err(WireError::NoWebhook))
}

/// Reads page number `number` of a list, `seen` webhooks having come before it. `link` is the `Link` header and
/// `base` the address that was asked.
///
/// # Errors
/// [`WireError::NotJson`], [`WireError::NoList`], and [`WireError::NoWebhook`] or [`WireError::OddId`] when an entry
/// cannot be read: leaving it out could hide a webhook that exists.
pub fn page(
    body: &[u8],
    link: Option<&str>,
    base: &Url,
    number: u64,
    seen: usize,
    redactor: &Redactor,
) -> Result<Page, WireError> {
    let raw: &RawValue = serde_json::from_slice(body).map_err(|_| WireError::NotJson)?;
    let webhooks = list(raw)
        .ok_or(WireError::NoList)?
        .into_iter()
        .map(|entry| {
            let value: Value =
                serde_json::from_str(entry.get()).map_err(|_| WireError::NoWebhook)?;
            read(&value, redactor)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let value = metadata(raw, 2);
    let next = next(
        &value,
        link,
        base,
        number,
        seen + webhooks.len(),
        webhooks.len(),
    );
    let total = find(&value, &["total_count", "total"]).and_then(Value::as_u64);
    Ok(Page {
        webhooks,
        next,
        total,
    })
}

/// The fields of an object, each as its text.
fn fields(raw: &RawValue) -> Option<BTreeMap<Cow<'_, str>, &RawValue>> {
    serde_json::from_str(raw.get()).ok()
}

/// The entries of the list, wherever it is.
fn list(raw: &RawValue) -> Option<Vec<&RawValue>> {
    let is_array = |raw: &&RawValue| raw.get().starts_with('[');
    if is_array(&raw) {
        return entries(raw);
    }
    let top = fields(raw)?;
    let data = top.get("data").copied();
    let inner = data.and_then(fields).unwrap_or_default();
    let places = [
        data,
        top.get("webhooks").copied(),
        top.get("items").copied(),
        top.get("results").copied(),
        inner.get("webhooks").copied(),
        inner.get("items").copied(),
    ];
    places
        .into_iter()
        .flatten()
        .find(is_array)
        .and_then(entries)
}

fn entries(array: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(array.get()).ok()
}

/// What an answer says beside its list, down to so many levels.
fn metadata(raw: &RawValue, levels: usize) -> Value {
    let mut said = Map::new();
    for (name, value) in fields(raw).unwrap_or_default() {
        let value = match &*name {
            "meta" | "pagination" | "data" if levels > 0 => metadata(value, levels - 1),
            "total_count" | "total" | "total_pages" | "next_page" | "next_cursor" | "has_more" => {
                serde_json::from_str(value.get()).unwrap_or_default()
            }
            _ => continue,
        };
        said.insert(name.into_owned(), value);
    }
    Value::Object(said)
}

fn next(
    value: &Value,
    link: Option<&str>,
    base: &Url,
    number: u64,
    seen: usize,
    here: usize,
) -> Next {
    if let Some(next) = link.and_then(|l| next_link(l, base)) {
        return next;
    }
    let find = |names: &[&str]| find(value, names);
    if let Some(cursor) = find(&["next_cursor"])
        .and_then(Value::as_str)
        .filter(|c| !c.is_empty())
    {
        return Next::Cursor(cursor.to_owned());
    }
    let mut said = link.is_some()
        || places(value)
            .iter()
            .any(|place| place.get("next_cursor").is_some());
    if let Some(page) = find(&["next_page"]).and_then(Value::as_u64) {
        return Next::Page(page);
    }
    if let Some(more) = find(&["has_more"]).and_then(Value::as_bool) {
        if more {
            return Next::Page(number + 1);
        }
        said = true;
    }
    if let Some(total) = find(&["total_count", "total"]).and_then(Value::as_u64) {
        if total > seen as u64 {
            return if here > 0 {
                Next::Page(number + 1)
            } else {
                Next::Unreachable
            };
        }
        said = true;
    }
    if let Some(pages) = find(&["total_pages"]).and_then(Value::as_u64) {
        if number < pages {
            return Next::Page(number + 1);
        }
        said = true;
    }
    if said { Next::Nothing } else { Next::Unsaid }
}

/// Where an answer may tell of pages.
fn places(value: &Value) -> [&Value; 5] {
    [
        value,
        &value["meta"],
        &value["pagination"],
        &value["data"],
        &value["data"]["meta"],
    ]
}

fn find<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    places(value)
        .iter()
        .find_map(|place| names.iter().find_map(|n| place.get(n)))
        .filter(|v| !v.is_null())
}

/// The target of `rel="next"` in a `Link` header. Another host is not asked: it would be sent our token.
fn next_link(header: &str, base: &Url) -> Option<Next> {
    header.split(',').find_map(|part| {
        let (target, parameters) = part.split_once('>')?;
        let next = parameters
            .split(';')
            .any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
        let url = base.join(target.trim().strip_prefix('<')?).ok()?;
        let same = url.origin() == base.origin();
        next.then_some(if same {
            Next::Link(url)
        } else {
            Next::Unreachable
        })
    })
}

fn read(value: &Value, redactor: &Redactor) -> Result<RemoteWebhook, WireError> {
    let text = |v: &Value| match v {
        Value::String(s) if !s.is_empty() => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    };
    let shown = |v: &Value| text(v).map(|text| String::from(redactor.clean(&text)));
    let id = text(&value["webhook_id"]).or_else(|| text(&value["id"]));
    let (Some(id), Some(url)) = (id, value["url"].as_str()) else {
        return Err(WireError::NoWebhook);
    };
    if id.len() > MAX_ID_BYTES || id.contains(char::is_control) || redactor.holds_secret(&id) {
        return Err(WireError::OddId);
    }
    let events = value.get("events").and_then(Value::as_array);
    let events = events.into_iter().flatten().filter_map(Value::as_str);
    Ok(RemoteWebhook {
        id,
        // Compared with what is wanted, so it stays as it is, but for control characters, which the url of a ChektWebhook never has.
        url: url.replace(char::is_control, "\u{fffd}"),
        events: events
            .take(MAX_EVENTS)
            .map(|event| redactor.clean(event).into())
            .collect(),
        state: shown(&value["status"]),
        created_at: shown(&value["created_at"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        Url::parse("https://api.chekt.com/partner/v1/webhooks").unwrap()
    }

    fn ids(body: &str) -> Result<Vec<String>, WireError> {
        page(body.as_bytes(), None, &base(), 1, 0, &Redactor::default())
            .map(|p| p.webhooks.into_iter().map(|w| w.id).collect())
    }

    fn follow(body: &str, number: u64, seen: usize) -> Next {
        page(
            body.as_bytes(),
            None,
            &base(),
            number,
            seen,
            &Redactor::default(),
        )
        .unwrap()
        .next
    }

    #[test]
    fn the_guides_own_answer_is_read() {
        let body = br#"{"webhook_id":"webhook_abc123","url":"https://your-app.com/webhooks/chekt",
            "events":["alarm.triggered","alarm.cleared"],"status":"active","created_at":"2024-01-15T10:30:00Z"}"#;
        let webhook = webhook(body, &Redactor::default()).unwrap();
        assert_eq!(webhook.id, "webhook_abc123");
        assert_eq!(webhook.state.as_deref(), Some("active"));
        assert_eq!(webhook.events, ["alarm.triggered", "alarm.cleared"]);
    }

    #[test]
    fn every_known_shape_of_a_list_is_read_and_an_unknown_one_is_a_fault() {
        let w = r#"{"webhook_id":"a","url":"https://a"}"#;
        for shape in [
            format!("[{w}]"),
            format!(r#"{{"data":[{w}]}}"#),
            format!(r#"{{"webhooks":[{w}]}}"#),
            format!(r#"{{"items":[{w}]}}"#),
            format!(r#"{{"results":[{w}]}}"#),
            format!(r#"{{"data":{{"webhooks":[{w}]}},"meta":{{"timestamp":"x"}}}}"#),
            format!(r#"{{"data":{{"items":[{w}]}}}}"#),
        ] {
            assert_eq!(ids(&shape).unwrap(), ["a"], "{shape}");
        }
        for shape in ["{}", r#"{"hooks":[]}"#, "null", r#""""#, r#"{"data":{}}"#] {
            assert_eq!(ids(shape), Err(WireError::NoList), "{shape}");
        }
        assert_eq!(ids("<html>"), Err(WireError::NotJson));
    }

    #[test]
    fn an_entry_that_cannot_be_read_spoils_the_list() {
        assert_eq!(ids(r#"[{"webhook_id":"a"}]"#), Err(WireError::NoWebhook));
    }

    #[test]
    fn numeric_ids_and_ids_named_id_are_the_same_to_us() {
        assert_eq!(
            ids(r#"[{"webhook_id":7,"url":"u"},{"id":"x","url":"u"}]"#).unwrap(),
            ["7", "x"]
        );
    }

    #[test]
    fn more_pages_are_known_from_whatever_says_so() {
        let w = r#"{"webhook_id":"a","url":"https://a"}"#;
        assert_eq!(follow(&format!("[{w}]"), 1, 0), Next::Unsaid);
        assert_eq!(
            follow(&format!(r#"{{"data":[{w}],"has_more":true}}"#), 1, 0),
            Next::Page(2)
        );
        assert_eq!(
            follow(&format!(r#"{{"data":[{w}],"has_more":false}}"#), 1, 0),
            Next::Nothing
        );
        assert_eq!(
            follow(&format!(r#"{{"data":[{w}],"next_cursor":"c"}}"#), 1, 0),
            Next::Cursor("c".into())
        );
        assert_eq!(
            follow(&format!(r#"{{"data":[{w}],"next_cursor":null}}"#), 1, 0),
            Next::Nothing
        );
        assert_eq!(
            follow(
                &format!(r#"{{"data":[{w}],"meta":{{"next_page":5}}}}"#),
                1,
                0
            ),
            Next::Page(5)
        );
        assert_eq!(
            follow(
                &format!(r#"{{"data":{{"webhooks":[{w}],"total_count":3}}}}"#),
                1,
                0
            ),
            Next::Page(2)
        );
        assert_eq!(
            follow(
                &format!(r#"{{"data":{{"webhooks":[{w}],"total_count":3}}}}"#),
                3,
                2
            ),
            Next::Nothing
        );
        assert_eq!(follow(r#"{"data":[],"total":9}"#, 3, 2), Next::Unreachable);
        assert_eq!(
            follow(&format!(r#"{{"data":[{w}],"total_pages":2}}"#), 1, 0),
            Next::Page(2)
        );
    }

    #[test]
    fn a_link_to_another_host_is_not_followed_with_our_token() {
        let at = |link| {
            page(b"[]", Some(link), &base(), 1, 0, &Redactor::default())
                .unwrap()
                .next
        };
        assert_eq!(
            at("<?page=2>; rel=\"next\""),
            Next::Link(base().join("?page=2").unwrap())
        );
        assert_eq!(
            at("<https://evil.example/x>; rel=\"next\""),
            Next::Unreachable
        );
        assert_eq!(at("<?page=1>; rel=\"prev\""), Next::Nothing);
    }
}
