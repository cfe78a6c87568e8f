//! What a list answers: which webhooks, in which order, on which page, wrapped in what.
//!
//! The documents show no list at all, so each shape that CHeKT's other APIs use is here (partner-API facts,
//! "List conventions elsewhere").

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::answer::{Answer, Refusal};
use super::quirks::{ListChurn, ListOrder, ListPaging, ListShape, Quirks};
use super::store::{Moment, Webhook, Webhooks, seconds};

/// Whether a query asks for the beginning of a list.
pub fn is_first_page(query: &str) -> bool {
    url::form_urlencoded::parse(query.as_bytes())
        .all(|(name, value)| name != "cursor" && (name != "page" || value == "1"))
}

/// Answers a list. `here` is the absolute url of the collection, for a Link header. `disturbed`: another client writes
/// after the first page, if the quirks have one that does.
///
/// # Errors
/// 400 when a paging parameter cannot be read.
pub fn answer(
    webhooks: &Webhooks,
    quirks: &Quirks,
    query: &str,
    here: &str,
    disturbed: bool,
    moment: Moment,
) -> Result<Answer, Refusal> {
    let mut all: Vec<Value> = ordered(webhooks, quirks, moment)
        .into_iter()
        .map(|webhook| webhook.listed(quirks, moment.now))
        .collect();
    if disturbed && !is_first_page(query) {
        match quirks.list_churn {
            ListChurn::None => {}
            ListChurn::Skip => drop((!all.is_empty()).then(|| all.remove(0))),
            // It need not be told: the first page was answered before.
            ListChurn::Repeat => all.insert(0, Value::Null),
        }
    }
    let total = all.len();
    let part = part(quirks, query, total)?;
    let shown: Vec<Value> = all.into_iter().skip(part.start).take(part.size).collect();
    let end = part.start + shown.len();

    let mut told = Map::new();
    let mut headers = Vec::new();
    match quirks.list_paging {
        ListPaging::None | ListPaging::PageWithoutTotal | ListPaging::CappedSilently => {}
        ListPaging::Page => {
            told.insert("total_count".to_owned(), json!(total));
            told.insert("page".to_owned(), json!(part.page));
            told.insert("per_page".to_owned(), json!(part.size));
        }
        ListPaging::Cursor => {
            let more = end < total;
            told.insert(
                "next_cursor".to_owned(),
                more.then(|| cursor(end)).map_or(Value::Null, Value::String),
            );
            told.insert("has_more".to_owned(), json!(more));
        }
        ListPaging::Link => {
            if end < total {
                let next = format!(
                    "<{here}?page={}&per_page={}>; rel=\"next\"",
                    part.page + 1,
                    part.size
                );
                headers.push(("link", next));
            }
        }
    }
    Ok(Answer {
        headers,
        ..Answer::json(200, &wrapped(quirks.list_shape, shown, told, moment.now))
    })
}

struct Part {
    start: usize,
    size: usize,
    page: usize,
}

fn part(quirks: &Quirks, query: &str, total: usize) -> Result<Part, Refusal> {
    let parameters: HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let number = |name: &str| match parameters.get(name) {
        None => Ok(None),
        Some(text) => match text.parse::<usize>() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(Refusal {
                field: Some(name.to_owned()),
                ..Refusal::new(400, "invalid_request", format!("{name} is a number from 1"))
            }),
        },
    };
    let size = |asked: Option<usize>| asked.map_or(quirks.page_size, |n| n.min(quirks.page_size));
    match quirks.list_paging {
        ListPaging::None => Ok(Part {
            start: 0,
            size: total,
            page: 1,
        }),
        ListPaging::CappedSilently => Ok(Part {
            start: 0,
            size: quirks.page_size,
            page: 1,
        }),
        ListPaging::Page | ListPaging::PageWithoutTotal | ListPaging::Link => {
            let size = size(number("per_page")?);
            let page = number("page")?.unwrap_or(1);
            Ok(Part {
                start: (page - 1).saturating_mul(size),
                size,
                page,
            })
        }
        ListPaging::Cursor => {
            let start = match parameters.get("cursor") {
                None => 0,
                Some(text) => text
                    .strip_prefix(CURSOR)
                    .and_then(|start| start.parse().ok())
                    .ok_or_else(|| {
                        Refusal::new(400, "invalid_request", "the cursor is not one of ours")
                    })?,
            };
            Ok(Part {
                start,
                size: size(number("per_page")?),
                page: 1,
            })
        }
    }
}

const CURSOR: &str = "after_";

fn cursor(start: usize) -> String {
    format!("{CURSOR}{start}")
}

fn ordered<'a>(webhooks: &'a Webhooks, quirks: &Quirks, moment: Moment) -> Vec<&'a Webhook> {
    let mut listed: Vec<&Webhook> = webhooks
        .all()
        .iter()
        .filter(|webhook| webhook.is_listed(quirks, moment.now))
        .collect();
    match quirks.list_order {
        ListOrder::Creation => {}
        ListOrder::Random => {
            // Pages of one listing must fit together, so chance changes only once a minute.
            let minute = moment.now.as_second() / 60;
            listed.sort_by_cached_key(|webhook| {
                Sha256::digest(format!("{minute} {}", webhook.id).as_bytes())
            });
        }
    }
    listed
}

fn wrapped(
    shape: ListShape,
    shown: Vec<Value>,
    mut told: Map<String, Value>,
    now: Timestamp,
) -> Value {
    match shape {
        ListShape::Bare if told.is_empty() => Value::Array(shown),
        // Numbers and cursors need an object to stand in.
        ListShape::Bare | ListShape::Data => {
            told.insert("data".to_owned(), Value::Array(shown));
            Value::Object(told)
        }
        ListShape::Webhooks => {
            told.insert("webhooks".to_owned(), Value::Array(shown));
            Value::Object(told)
        }
        ListShape::DataWebhooks => {
            told.insert("webhooks".to_owned(), Value::Array(shown));
            json!({"data": told, "meta": {"timestamp": seconds(now)}})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::answer::Content;
    use crate::sandbox::store::samples::{at, webhook};

    const HERE: &str = "http://localhost/partner/v1/webhooks";

    fn five() -> Webhooks {
        let mut webhooks = Webhooks::default();
        for id in ["a", "b", "c", "d", "e"] {
            webhooks.add(webhook(id));
        }
        webhooks
    }

    fn list(quirks: &Value, query: &str) -> (Value, Option<String>) {
        let quirks = Quirks::default().with(quirks.clone()).unwrap();
        let moment = Moment {
            now: at(0),
            random: 0,
        };
        let answer = answer(&five(), &quirks, query, HERE, true, moment).unwrap();
        let Some(Content::Json(body)) = answer.body else {
            panic!("a body was expected")
        };
        let link = answer.headers.first().map(|(_, value)| value.clone());
        (serde_json::from_str(&body).unwrap(), link)
    }

    fn ids(list: &Value) -> String {
        list.as_array()
            .unwrap()
            .iter()
            .map(|webhook| webhook["webhook_id"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn every_shape_holds_all_webhooks_in_the_order_of_creation() {
        assert_eq!(ids(&list(&json!({}), "").0), "abcde");
        let shape = |word: &str| list(&json!({"list_shape": word}), "").0;
        assert_eq!(ids(&shape("data")["data"]), "abcde");
        assert_eq!(ids(&shape("webhooks")["webhooks"]), "abcde");
        assert_eq!(ids(&shape("data_webhooks")["data"]["webhooks"]), "abcde");
    }

    #[test]
    fn pages_come_with_a_total() {
        let quirks = json!({"list_paging": "page", "page_size": 2, "list_shape": "webhooks"});
        let (first, _) = list(&quirks, "");
        assert_eq!(
            (ids(&first["webhooks"]).as_str(), &first["total_count"]),
            ("ab", &json!(5))
        );
        assert_eq!(ids(&list(&quirks, "page=3").0["webhooks"]), "e");
        assert_eq!(ids(&list(&quirks, "page=4").0["webhooks"]), "");
        assert_eq!(ids(&list(&quirks, "page=2&per_page=1").0["webhooks"]), "b");
        assert_eq!(ids(&list(&quirks, "per_page=100").0["webhooks"]), "ab");
    }

    #[test]
    fn a_cursor_leads_through_all_of_them() {
        let quirks = json!({"list_paging": "cursor", "page_size": 2});
        let (mut seen, mut query) = (String::new(), String::new());
        loop {
            let (page, _) = list(&quirks, &query);
            seen += &ids(&page["data"]);
            match page["next_cursor"].as_str() {
                Some(next) => query = format!("cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen, "abcde");
    }

    #[test]
    fn a_link_points_to_the_next_page_and_the_last_has_none() {
        let quirks = json!({"list_paging": "link", "page_size": 3});
        let (first, link) = list(&quirks, "");
        assert_eq!(ids(&first), "abc");
        assert_eq!(
            link.unwrap(),
            format!("<{HERE}?page=2&per_page=3>; rel=\"next\"")
        );
        let (second, link) = list(&quirks, "page=2&per_page=3");
        assert_eq!((ids(&second).as_str(), link), ("de", None));
    }

    #[test]
    fn a_silent_cap_shows_the_same_page_whatever_is_asked_for() {
        let quirks = json!({"list_paging": "capped_silently", "page_size": 2});
        assert_eq!(ids(&list(&quirks, "page=2").0), "ab");
        let quirks = json!({"list_paging": "page_without_total", "page_size": 2});
        assert_eq!(ids(&list(&quirks, "page=2").0), "cd");
    }

    #[test]
    fn another_client_that_writes_between_two_pages_hides_one_or_shows_one_twice() {
        for (churn, second, third, total) in [("skip", "de", "", 4), ("repeat", "bc", "de", 6)] {
            let quirks = json!({"list_paging": "page", "page_size": 2, "list_churn": churn});
            let (first, _) = list(&quirks, "");
            assert_eq!(
                (ids(&first["data"]).as_str(), &first["total_count"]),
                ("ab", &json!(5))
            );
            let page = list(&quirks, "page=2").0;
            assert_eq!(
                (ids(&page["data"]).as_str(), &page["total_count"]),
                (second, &json!(total))
            );
            assert_eq!(ids(&list(&quirks, "page=3").0["data"]), third, "{churn}");
        }
        assert!(is_first_page("") && is_first_page("page=1&per_page=2"));
        assert!(!is_first_page("page=2") && !is_first_page("cursor=after_2"));
    }

    #[test]
    fn a_random_order_loses_nobody() {
        let quirks = json!({"list_order": "random"});
        let mut shuffled: Vec<char> = ids(&list(&quirks, "").0).chars().collect();
        shuffled.sort_unstable();
        assert_eq!(shuffled, ['a', 'b', 'c', 'd', 'e']);
    }

    #[test]
    fn a_page_that_is_no_number_is_a_bad_request() {
        let quirks = Quirks::default()
            .with(json!({"list_paging": "page"}))
            .unwrap();
        let moment = Moment {
            now: at(0),
            random: 0,
        };
        for query in ["page=0", "page=x", "per_page=-1"] {
            let refusal = answer(&five(), &quirks, query, HERE, false, moment).unwrap_err();
            assert_eq!(refusal.status, 400, "{query}");
        }
    }
}
