//! The five operations of the partner API, as plain functions of the state: no socket, no clock.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Refusal};
use super::book::Full;
use super::catalogue;
use super::fields::{self, ACTIVE, Fields, normalised};
use super::quirks::{
    CreateStatus, DeleteAnswer, DuplicateUrl, GetOne, LimitStatus, PatchAnswer, PatchEvents,
    Reenable, SecondDelete, TestAnswer,
};
use super::state::{Emission, State};
use super::store::{Moment, Webhook};

/// POST /partner/v1/webhooks
///
/// # Errors
/// 400, 409, 422 as the documents and the quirks say.
pub fn create(state: &mut State, body: &[u8], moment: Moment) -> Result<Answer, Refusal> {
    let quirks = &state.quirks;
    let Fields {
        url,
        events,
        secret,
        // A webhook begins active, whatever is asked for.
        status: _,
    } = fields::parse(body, quirks, state.urls)?;
    let url = fields::required("url", url)?;
    let events = fields::required("events", events)?;
    let secret = fields::required("secret", secret)?;

    let twin = state
        .store
        .webhooks
        .live()
        .find(|webhook| normalised(&webhook.url) == normalised(&url));
    if let Some(twin) = twin {
        let why = "there is a webhook with this url";
        match quirks.duplicate_url {
            DuplicateUrl::Allow => {}
            DuplicateUrl::Conflict => return Err(Refusal::new(409, "duplicate_url", why)),
            DuplicateUrl::Unprocessable => return Err(Refusal::field("url", why)),
            DuplicateUrl::Existing => return Ok(Answer::json(200, &twin.told(quirks))),
        }
    }

    let live = state.store.webhooks.live().count();
    if quirks.webhook_limit != 0 && live >= quirks.webhook_limit {
        let why = format!("there are {live} webhooks, no more are allowed");
        return Err(match quirks.webhook_limit_status {
            LimitStatus::Forbidden => Refusal::new(403, "webhook_limit", why),
            LimitStatus::Conflict => Refusal::new(409, "webhook_limit", why),
            LimitStatus::Unprocessable => Refusal::new(422, "webhook_limit", why),
        });
    }

    let webhook = Webhook {
        id: state
            .store
            .webhooks
            .new_id(quirks.numeric_ids, moment.random),
        url,
        events,
        secret,
        status: ACTIVE.to_owned(),
        created_at: moment.now,
        failures: 0,
        deleted_at: None,
        earlier: None,
    };
    let told = webhook.told(quirks);
    let answer = match quirks.create_status {
        CreateStatus::Created => Answer::json(201, &told),
        CreateStatus::Ok => Answer::json(200, &told),
        CreateStatus::Accepted => Answer::empty(202),
    };
    state.store.webhooks.add(webhook);
    Ok(answer)
}

/// GET /partner/v1/webhooks/{id}, which is not documented and there by quirk only
///
/// # Errors
/// 404 or 405.
pub fn get_one(state: &State, id: &str) -> Result<Answer, Refusal> {
    let told = || {
        let webhook = state.store.webhooks.get(id).ok_or_else(|| unknown(id))?;
        Ok::<Value, Refusal>(webhook.told(&state.quirks))
    };
    match state.quirks.get_one {
        GetOne::NotFound => Err(Refusal::new(404, "not_found", "no such route")),
        GetOne::MethodNotAllowed => Err(Refusal::new(
            405,
            "method_not_allowed",
            "this path does not take this method",
        )),
        GetOne::Object => Ok(Answer::json(200, &told()?)),
        GetOne::Data => Ok(Answer::json(200, &json!({"data": told()?}))),
    }
}

/// PATCH /partner/v1/webhooks/{id}
///
/// # Errors
/// 400, 404, 422 as the documents and the quirks say.
pub fn patch(state: &mut State, id: &str, body: &[u8], moment: Moment) -> Result<Answer, Refusal> {
    let State {
        store,
        quirks,
        urls,
        ..
    } = state;
    let webhook = store.webhooks.get_mut(id).ok_or_else(|| unknown(id))?;
    let mut fields = fields::parse(body, quirks, *urls)?;
    let before = webhook.told(quirks);
    if let Some(status) = &fields.status
        && status != ACTIVE
        && *status != quirks.disabled_word
    {
        return Err(Refusal::field(
            "status",
            format!("status is {ACTIVE:?} or {:?}", quirks.disabled_word),
        ));
    }
    let sent = |field: &String| match field.as_str() {
        "url" => fields.url.is_some(),
        "events" => fields.events.is_some(),
        "secret" => fields.secret.is_some(),
        "status" => fields.status.is_some(),
        // The quirks hold no other.
        _ => false,
    };
    if let Some(field) = quirks.patch_refuses.iter().find(|field| sent(field)) {
        return Err(Refusal::field(
            field,
            format!("{field} cannot be changed: delete the webhook and create another"),
        ));
    }
    webhook.changes(quirks, moment.now);
    for ignored in &quirks.patch_ignores {
        match ignored.as_str() {
            "url" => fields.url = None,
            "events" => fields.events = None,
            "secret" => fields.secret = None,
            "status" => fields.status = None,
            // The quirks hold no other.
            _ => {}
        }
    }

    let Fields {
        url,
        events,
        secret,
        status,
    } = fields;
    let mut changed = Map::new();
    if let Some(url) = url {
        webhook.url = url;
        changed.insert("url".to_owned(), json!(webhook.told_url(quirks)));
    }
    if let Some(events) = events {
        match quirks.patch_events {
            PatchEvents::Replace => webhook.events = events,
            PatchEvents::Merge => {
                for event in events {
                    if !webhook.events.contains(&event) {
                        webhook.events.push(event);
                    }
                }
            }
        }
        changed.insert("events".to_owned(), json!(webhook.told_events(quirks)));
    }
    if let Some(secret) = secret {
        webhook.secret = secret;
    }
    let reenabled = match quirks.reenable {
        Reenable::PatchStatus => status.as_deref() == Some(ACTIVE),
        Reenable::AnyPatch => status.as_deref().is_none_or(|status| status == ACTIVE),
        Reenable::OnlyRecreate => false,
    };
    if reenabled && !webhook.is_active() {
        webhook.activate();
    }
    if let Some(status) = status {
        if status != ACTIVE {
            webhook.status = status;
        }
        changed.insert("status".to_owned(), json!(webhook.status));
    }
    let answer = match quirks.patch_answer {
        PatchAnswer::Object => Answer::json(200, &webhook.told(quirks)),
        PatchAnswer::NoContent => Answer::empty(204),
        PatchAnswer::Stale => Answer::json(200, &before),
        PatchAnswer::ChangedFields => Answer::json(200, &Value::Object(changed)),
    };
    if webhook.is_active() {
        state.release(id, moment.now);
    } else {
        state.drop_pending(id, moment.now);
    }
    Ok(answer)
}

/// DELETE /partner/v1/webhooks/{id}
///
/// # Errors
/// 404 when it is not there.
pub fn delete(state: &mut State, id: &str, moment: Moment) -> Result<Answer, Refusal> {
    let told = state
        .store
        .webhooks
        .get(id)
        .map(|webhook| webhook.told(&state.quirks));
    let Some(mut told) = told else {
        return match state.quirks.second_delete {
            SecondDelete::NoContent if state.store.webhooks.was_deleted(id) => {
                Ok(Answer::empty(204))
            }
            SecondDelete::NoContent | SecondDelete::NotFound => Err(unknown(id)),
        };
    };
    state.store.webhooks.delete(id, moment.now);
    state.drop_pending(id, moment.now);
    Ok(match state.quirks.delete_answer {
        DeleteAnswer::NoContent => Answer::empty(204),
        DeleteAnswer::Ok => {
            told["status"] = json!("deleted");
            Answer::json(200, &told)
        }
        DeleteAnswer::Accepted => Answer::empty(202),
    })
}

/// POST /partner/v1/webhooks/{id}/test
///
/// # Errors
/// 404 when the webhook is not there, 409 by quirk when it is disabled, 503 when the sandbox is overrun.
pub fn test(state: &mut State, id: &str, moment: Moment) -> Result<Answer, Refusal> {
    let webhook = state.store.webhooks.get(id).ok_or_else(|| unknown(id))?;
    if !webhook.is_active() && state.quirks.test_answer == TestAnswer::ConflictWhenDisabled {
        return Err(Refusal::new(
            409,
            "webhook_disabled",
            "the webhook is disabled",
        ));
    }
    let emission = Emission {
        event: catalogue::TEST.to_owned(),
        data: None,
        webhook_id: Some(id.to_owned()),
        timestamp: None,
    };
    state
        .emit(&emission, moment)
        .map_err(|full| overrun(&full))?;
    Ok(match state.quirks.test_answer {
        TestAnswer::Accepted | TestAnswer::ConflictWhenDisabled => Answer::json(202, &json!({})),
        TestAnswer::Ok => Answer::json(200, &json!({"success": true})),
        TestAnswer::NoContent => Answer::empty(204),
    })
}

/// No webhook of this id.
pub fn unknown(id: &str) -> Refusal {
    Refusal::new(404, "webhook_not_found", format!("no webhook {id}"))
}

/// The sandbox cannot take more deliveries.
pub fn overrun(full: &Full) -> Refusal {
    Refusal::new(503, "overrun", full.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::answer::Content;
    use super::super::rate::Limit;
    use super::super::store::Store;
    use super::super::store::samples::at;
    use super::*;

    fn state(quirks: Value) -> State {
        let limit = Limit {
            per_minute: 0,
            burst: 5,
        };
        let mut state = State::new(Store::default(), 1.0, limit, fields::Urls::Secure);
        state.quirks = state.quirks.with(quirks).unwrap();
        state
    }

    fn moment() -> Moment {
        Moment {
            now: at(0),
            random: 7,
        }
    }

    fn body(answer: &Answer) -> Value {
        match &answer.body {
            Some(Content::Json(text)) => serde_json::from_str(text).unwrap(),
            other => panic!("JSON was expected, not {other:?}"),
        }
    }

    const NEW: &[u8] =
        br#"{"url": "https://a.example/x", "events": ["site.armed"], "secret": "hush"}"#;

    /// Creates one; its id.
    fn made(state: &mut State) -> String {
        create(state, NEW, moment()).unwrap();
        state.store.webhooks.live().last().unwrap().id.clone()
    }

    #[test]
    fn a_create_answers_the_object_without_its_secret() {
        let answer = create(&mut state(json!({})), NEW, moment()).unwrap();
        assert_eq!(answer.status, 201);
        let body = body(&answer);
        let keys: Vec<_> = body.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["created_at", "events", "status", "url", "webhook_id"]
        );
    }

    #[test]
    fn a_create_misses_its_fields() {
        for (text, field) in [
            ("{}", "url"),
            (r#"{"url": "https://a.example"}"#, "events"),
            (
                r#"{"url": "https://a.example", "events": ["site.armed"]}"#,
                "secret",
            ),
        ] {
            let refusal = create(&mut state(json!({})), text.as_bytes(), moment()).unwrap_err();
            assert_eq!(
                (refusal.status, refusal.field.as_deref()),
                (422, Some(field))
            );
        }
    }

    #[test]
    fn a_second_webhook_with_the_url_of_the_first_is_a_matter_of_quirk() {
        for (quirk, outcome, count) in [
            ("allow", Ok(201), 2),
            ("409", Err(409), 1),
            ("422", Err(422), 1),
            ("existing", Ok(200), 1),
        ] {
            let mut state = state(json!({"duplicate_url": quirk}));
            made(&mut state);
            let twin =
                br#"{"url": "https://A.example:443/x", "events": ["site.armed"], "secret": "s"}"#;
            let got = create(&mut state, twin, moment())
                .map(|answer| answer.status)
                .map_err(|refusal| refusal.status);
            assert_eq!(
                (got, state.store.webhooks.live().count()),
                (outcome, count),
                "{quirk}"
            );
        }
    }

    #[test]
    fn one_webhook_too_many_is_refused() {
        for status in [403, 409, 422] {
            let mut state = state(json!({"webhook_limit": 1, "webhook_limit_status": status}));
            let id = made(&mut state);
            assert_eq!(
                create(&mut state, NEW, moment()).unwrap_err().status,
                status
            );
            delete(&mut state, &id, moment()).unwrap();
            assert!(create(&mut state, NEW, moment()).is_ok());
        }
    }

    #[test]
    fn one_webhook_can_be_read_by_quirk_only() {
        for (quirk, status) in [("404", 404), ("405", 405)] {
            let mut state = state(json!({"get_one": quirk}));
            let id = made(&mut state);
            assert_eq!(get_one(&state, &id).unwrap_err().status, status);
        }
        let mut state = state(json!({"get_one": "data", "id_key": "id", "created_at": "space"}));
        let id = made(&mut state);
        let told = body(&get_one(&state, &id).unwrap());
        assert_eq!(told["data"]["id"], id);
        assert_eq!(told["data"]["created_at"], "2023-11-14 22:13:20");
        assert_eq!(get_one(&state, "x").unwrap_err().code, "webhook_not_found");
    }

    #[test]
    fn a_patch_replaces_or_merges_or_ignores() {
        for (quirks, expected) in [
            (json!({}), vec!["site.created"]),
            (
                json!({"patch_events": "merge"}),
                vec!["site.armed", "site.created"],
            ),
            (json!({"patch_ignores": ["events"]}), vec!["site.armed"]),
            (
                json!({"withheld_events": ["site.created"]}),
                Vec::<&str>::new(),
            ),
        ] {
            let mut state = state(quirks);
            let id = made(&mut state);
            let answer = patch(
                &mut state,
                &id,
                br#"{"events": ["site.created"]}"#,
                moment(),
            );
            assert_eq!(answer.unwrap().status, 200);
            assert_eq!(state.store.webhooks.get(&id).unwrap().events, expected);
        }
    }

    #[test]
    fn a_patch_of_a_field_that_may_not_be_changed_is_refused_whole() {
        let mut state = state(json!({"patch_refuses": ["url"]}));
        let id = made(&mut state);
        let both = br#"{"url": "https://b.example/", "events": ["site.created"]}"#;
        let refusal = patch(&mut state, &id, both, moment()).unwrap_err();
        assert_eq!(
            (refusal.status, refusal.field.as_deref()),
            (422, Some("url"))
        );
        assert_eq!(
            state.store.webhooks.get(&id).unwrap().events,
            ["site.armed"]
        );
        let other = br#"{"events": ["site.created"]}"#;
        assert!(patch(&mut state, &id, other, moment()).is_ok());
    }

    #[test]
    fn a_patch_answers_as_the_quirk_says() {
        for (quirk, status, told) in [
            ("204", 204, None),
            (
                "stale",
                200,
                Some(json!({
                    "webhook_id": "webhook_10000000007", "url": "https://a.example/x",
                    "events": ["site.armed"], "status": "active",
                    "created_at": "2023-11-14T22:13:20Z",
                })),
            ),
            (
                "changed_fields",
                200,
                Some(json!({"events": ["site.created"]})),
            ),
        ] {
            let mut state = state(json!({"patch_answer": quirk}));
            let id = made(&mut state);
            let answer = patch(
                &mut state,
                &id,
                br#"{"events": ["site.created"], "secret": "new"}"#,
                moment(),
            )
            .unwrap();
            assert_eq!(answer.status, status);
            if let Some(told) = told {
                assert_eq!(body(&answer), told);
            }
            assert_eq!(state.store.webhooks.get(&id).unwrap().secret.0, "new");
        }
    }

    #[test]
    fn a_disabled_webhook_comes_back_as_the_quirk_says() {
        for (quirk, by_status, by_any) in [
            ("patch_status", true, false),
            ("any_patch", true, true),
            ("only_recreate", false, false),
        ] {
            for (body, comes_back) in [
                (br#"{"status": "active"}"#.as_slice(), by_status),
                (br#"{"events": ["site.armed"]}"#.as_slice(), by_any),
            ] {
                let mut state = state(json!({"reenable": quirk}));
                let id = made(&mut state);
                let webhook = state.store.webhooks.get_mut(&id).unwrap();
                webhook.status = "disabled".to_owned();
                webhook.failures = 3;
                assert_eq!(patch(&mut state, &id, body, moment()).unwrap().status, 200);
                let webhook = state.store.webhooks.get(&id).unwrap();
                assert_eq!(webhook.is_active(), comes_back, "{quirk}");
                assert_eq!(webhook.failures == 0, comes_back, "{quirk}");
            }
        }
    }

    #[test]
    fn a_status_is_one_of_two_words() {
        let mut state = state(json!({"disabled_word": "paused"}));
        let id = made(&mut state);
        let refusal = patch(&mut state, &id, br#"{"status": "on"}"#, moment()).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("status"));
        patch(&mut state, &id, br#"{"status": "paused"}"#, moment()).unwrap();
        assert!(!state.store.webhooks.get(&id).unwrap().is_active());
    }

    #[test]
    fn a_delete_and_a_second_one() {
        for (quirks, first, second) in [
            (json!({}), 204, Err(404)),
            (
                json!({"delete_answer": 200, "second_delete": 204}),
                200,
                Ok(204),
            ),
            (json!({"delete_answer": 202}), 202, Err(404)),
        ] {
            let mut state = state(quirks);
            let id = made(&mut state);
            assert_eq!(delete(&mut state, &id, moment()).unwrap().status, first);
            let again = delete(&mut state, &id, moment())
                .map(|answer| answer.status)
                .map_err(|refusal| refusal.status);
            assert_eq!(again, second);
            assert_eq!(
                delete(&mut state, "never", moment()).unwrap_err().status,
                404
            );
        }
    }

    #[test]
    fn a_test_of_a_disabled_webhook_sends_nothing() {
        for (quirk, status) in [("202", Ok(202)), ("409_when_disabled", Err(409))] {
            let mut state = state(json!({"test_answer": quirk}));
            let id = made(&mut state);
            patch(&mut state, &id, br#"{"status": "disabled"}"#, moment()).unwrap();
            let got = test(&mut state, &id, moment())
                .map(|answer| answer.status)
                .map_err(|refusal| refusal.status);
            assert_eq!(got, status);
            assert_eq!(state.store.book.all().count(), 0);
        }
    }
}
