//! Quirks: at least one of each group over HTTP; the rest are tables beside the code.

use reqwest::Method;
use serde_json::{Value, json};

use super::bench::{CLIENT_SECRET, SECRET, TOKEN, WEBHOOKS, bench, ids, parsed, reply, until};
use super::receiver::Receiver;

#[tokio::test]
async fn a_create_may_answer_202_without_saying_which() {
    let bench = bench().await;
    bench
        .quirks(json!({"create_status": 202, "duplicate_url": "409"}))
        .await;
    let made = bench.create("https://a.example/", &["site.armed"]).await;
    assert_eq!((made.status, made.body), (202, Value::Null));
    assert_eq!(bench.list().await.body[0]["url"], "https://a.example/");
    let twin = bench.create("https://a.example/", &["site.armed"]).await;
    assert_eq!(
        (twin.status, &twin.body["error"]["code"]),
        (409, &json!("duplicate_url"))
    );
}

#[tokio::test]
async fn echoes_may_differ_from_what_was_sent() {
    let bench = bench().await;
    bench
        .quirks(json!({
            "url_echo": "normalised", "events_echo": "drop_unknown", "unknown_events": "accept",
        }))
        .await;
    let made = bench
        .create("https://A.Example", &["alarm.exploded", "site.armed"])
        .await;
    assert_eq!(made.body["url"], "https://a.example/");
    assert_eq!(made.body["events"], json!(["site.armed"]));
    let kept = bench.webhook().await;
    assert_eq!(kept["url"], "https://A.Example");
    assert_eq!(kept["events"], json!(["alarm.exploded", "site.armed"]));
}

#[tokio::test]
async fn a_list_may_be_wrapped_and_paged() {
    let bench = bench().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(bench.made("https://a.example/", &["site.armed"]).await);
    }
    let page =
        |query: &'static str| reply(bench.partner(Method::GET, &format!("{WEBHOOKS}{query}")));
    bench
        .quirks(json!({"list_shape": "data_webhooks", "list_paging": "page", "page_size": 2}))
        .await;
    let first = page("").await.body;
    assert_eq!(ids(&first["data"]["webhooks"]), made[..2]);
    assert_eq!(first["data"]["total_count"], 3);
    let second = page("?page=2").await.body;
    assert_eq!(ids(&second["data"]["webhooks"]), made[2..]);

    bench
        .quirks(json!({"list_shape": "bare", "list_paging": "link"}))
        .await;
    let first = page("").await;
    assert_eq!(ids(&first.body), made[..2]);
    let link = first.header("link").unwrap();
    let (url, _) = link.trim_start_matches('<').split_once('>').unwrap();
    let second = reply(bench.http.get(url).bearer_auth(TOKEN)).await;
    assert_eq!(ids(&second.body), made[2..]);
    assert_eq!(second.header("link"), None);
}

#[tokio::test]
async fn a_list_may_lag() {
    let bench = bench().await;
    bench
        .quirks(json!({"create_visible_after_ms": 1000, "deleted_listed_for_ms": 1000}))
        .await;
    let id = bench.made("https://a.example/", &["site.armed"]).await;
    assert_eq!(bench.list().await.body, json!([]));
    until("the list to show it", || async {
        (bench.list().await.body != json!([])).then_some(())
    })
    .await;
    bench.delete(&id).await;
    assert_eq!(bench.list().await.body[0]["status"], "deleted");
    until("the list to forget it", || async {
        (bench.list().await.body == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ids_may_be_numbers_everywhere() {
    let bench = bench().await;
    bench.quirks(json!({"numeric_ids": true})).await;
    let receiver = Receiver::start(&[]).await;
    let made = bench.create(&receiver.url, &["site.armed"]).await;
    let id = made.body["webhook_id"].as_u64().unwrap();
    assert_eq!(bench.list().await.body[0]["webhook_id"], id);
    assert_eq!(bench.test(&id.to_string()).await.status, 202);
    bench.settled().await;
    assert_eq!(parsed(&receiver.bodies(SECRET)[0])["webhook_id"], id);
}

#[tokio::test]
async fn patch_delete_and_test_may_answer_otherwise() {
    let bench = bench().await;
    let id = bench.made("https://a.example/", &["site.armed"]).await;
    bench
        .quirks(json!({
            "patch_events": "merge", "patch_ignores": ["url"], "patch_answer": "changed_fields",
            "delete_answer": 200, "second_delete": 204, "test_answer": 204,
        }))
        .await;
    let change = json!({"url": "https://b.example/", "events": ["site.created"]});
    let patched = bench.patch(&id, change).await;
    assert_eq!(patched.status, 200);
    assert_eq!(
        patched.body,
        json!({"events": ["site.armed", "site.created"]})
    );
    assert_eq!(bench.webhook().await["url"], "https://a.example/");
    assert_eq!(bench.test(&id).await.status, 204);
    let deleted = bench.delete(&id).await;
    assert_eq!(
        (deleted.status, &deleted.body["status"]),
        (200, &json!("deleted"))
    );
    assert_eq!(bench.delete(&id).await.status, 204);
}

#[tokio::test]
async fn disabling_may_have_another_word_and_another_measure() {
    let bench = bench().await;
    bench
        .quirks(json!({
            "disabled_word": "suspended", "disables_after": 1, "reenable": "only_recreate",
            "test_answer": "409_when_disabled",
        }))
        .await;
    let receiver = Receiver::start(&[500]).await;
    let id = bench.made(&receiver.url, &["site.armed"]).await;
    bench.emit("site.armed").await;
    bench.settled().await;
    assert_eq!(bench.list().await.body[0]["status"], "suspended");
    let patched = bench.patch(&id, json!({"status": "active"})).await;
    assert_eq!(
        (patched.status, &patched.body["status"]),
        (200, &json!("suspended"))
    );
    assert_eq!(bench.test(&id).await.status, 409);
}

#[tokio::test]
async fn deliveries_may_be_spelled_stamped_and_repeated_otherwise() {
    let bench = bench().await;
    bench
        .quirks(json!({
            "success": "any_2xx", "body_style": "pretty", "retry_body": "fresh_timestamp",
            "duplicate_deliveries": 2,
        }))
        .await;
    let receiver = Receiver::start(&[500, 204]).await;
    bench.made(&receiver.url, &["site.armed"]).await;
    let emission = json!({"event": "site.armed", "timestamp": "2024-01-15T14:20:00Z"});
    bench.control(Method::POST, "emit", emission).await;
    until("four deliveries", || async {
        (receiver.count() == 4).then_some(())
    })
    .await;
    let ended = bench.settled().await;
    assert_eq!(ended.len(), 3);
    let bodies = receiver.bodies(SECRET);
    assert!(bodies[0].contains("\n  \"event\": \"site.armed\""));
    assert_eq!(parsed(&bodies[0])["timestamp"], "2024-01-15T14:20:00Z");
    assert_ne!(parsed(&bodies[1])["timestamp"], "2024-01-15T14:20:00Z");
    assert_eq!(parsed(&bodies[1])["data"], parsed(&bodies[0])["data"]);
    assert_eq!((&bodies[2], &bodies[3]), (&bodies[1], &bodies[1]));
}

#[tokio::test]
async fn the_collection_may_be_absent_and_errors_may_say_less() {
    let bench = bench().await;
    for status in [404, 405, 501] {
        bench.quirks(json!({"collection": status})).await;
        assert_eq!(bench.list().await.status, status);
        assert_eq!(bench.test("x").await.status, status);
    }
    bench
        .quirks(json!({"collection": "present", "error_style": "string"}))
        .await;
    assert!(bench.test("x").await.body["error"].is_string());
    bench.quirks(json!({"error_style": "empty"})).await;
    let refused = bench.test("x").await;
    assert_eq!((refused.status, refused.body), (404, Value::Null));
}

#[tokio::test]
async fn the_static_token_may_be_refused_and_a_token_may_end_soon() {
    let bench = bench().await;
    bench
        .quirks(json!({"static_token_on_partner": "refuse", "token_expires_in": 1}))
        .await;
    assert_eq!(bench.list().await.status, 401);
    let granted = reply(bench.request(Method::POST, "/oauth/token").form(&[
        ("grant_type", "client_credentials"),
        ("client_id", "me"),
        ("client_secret", CLIENT_SECRET),
    ]))
    .await;
    assert_eq!(granted.body["expires_in"], 1);
    let token = granted.body["access_token"].as_str().unwrap();
    until("the token to expire", || async {
        let list = reply(bench.request(Method::GET, WEBHOOKS).bearer_auth(token)).await;
        (list.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_signature_may_be_written_otherwise() {
    let bench = bench().await;
    let receiver = Receiver::start(&[]).await;
    bench.made(&receiver.url, &["site.armed"]).await;
    for style in ["doubled", "absent"] {
        bench.quirks(json!({"signature_style": style})).await;
        bench.emit("site.armed").await;
        bench.settled().await;
    }
    assert_eq!(receiver.signatures(), [2, 0]);
}

#[tokio::test]
async fn a_second_call_under_a_key_that_has_no_answer_yet_may_be_a_conflict() {
    let bench = bench().await;
    bench.quirks(json!({"idempotency": "409_in_flight"})).await;
    bench
        .faults(json!([{"route": "create", "when": "before", "effect": {"stall_ms": 1500}, "times": 1}]))
        .await;
    let body = json!({"url": "https://a.example/", "events": ["site.armed"], "secret": SECRET});
    let post = || {
        let request = bench.partner(Method::POST, WEBHOOKS);
        reply(request.header("idempotency-key", "k").json(&body))
    };
    let first = tokio::spawn(post());
    until("the first call to be on its way", || async {
        (bench.read("faults").await == json!([])).then_some(())
    })
    .await;
    let second = post().await;
    assert_eq!(
        (second.status, &second.body["error"]["code"]),
        (409, &json!("idempotency_conflict"))
    );
    let first = first.await.unwrap();
    assert_eq!(first.status, 201);
    let third = post().await;
    assert_eq!((third.status, third.body), (201, first.body));
}

#[tokio::test]
async fn events_may_wait_while_a_webhook_is_disabled_and_come_all_at_once() {
    let bench = bench().await;
    bench.quirks(json!({"while_disabled": "queue"})).await;
    let receiver = Receiver::start(&[]).await;
    let id = bench.made(&receiver.url, &["site.armed"]).await;
    let path = format!("webhooks/{id}");
    bench
        .control(Method::PATCH, &path, json!({"status": "disabled"}))
        .await;
    for _ in 0..3 {
        assert!(bench.emit("site.armed").await.is_empty());
    }
    assert_eq!(bench.read("deliveries").await, json!([]));
    bench.patch(&id, json!({"status": "active"})).await;
    assert_eq!(bench.settled().await.len(), 3);
    assert_eq!(receiver.count(), 3);
}
