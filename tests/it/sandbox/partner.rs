//! The partner routes and the token endpoint: what the documents fix.

use std::collections::BTreeSet;

use chekt_operator::sandbox::Settings;
use reqwest::Method;
use serde_json::{Value, json};

use super::bench::{CLIENT_SECRET, SECRET, TOKEN, WEBHOOKS, bench, reply, settings, start, until};
use super::receiver::Receiver;

#[tokio::test]
async fn the_five_routes_answer_with_the_documented_fields() {
    let bench = bench().await;
    let url = "https://hooks.example/Path?q=1";
    let made = bench.create(url, &["alarm.triggered", "site.armed"]).await;
    assert_eq!(made.status, 201);
    let fields: BTreeSet<_> = made.body.as_object().unwrap().keys().cloned().collect();
    let expected = ["created_at", "events", "status", "url", "webhook_id"];
    assert_eq!(fields, expected.map(str::to_owned).into());
    assert_eq!(made.body["url"], url);
    assert_eq!(
        made.body["events"],
        json!(["alarm.triggered", "site.armed"])
    );
    assert_eq!(made.body["status"], "active");
    let created_at = made.body["created_at"].as_str().unwrap();
    assert_eq!(created_at.len(), "2024-01-15T10:30:00Z".len());

    let id = made.body["webhook_id"].as_str().unwrap();
    let list = bench.list().await;
    assert_eq!((list.status, &list.body), (200, &json!([made.body])));

    let patched = bench.patch(id, json!({"events": ["site.disarmed"]})).await;
    assert_eq!(patched.status, 200);
    assert_eq!(patched.body["events"], json!(["site.disarmed"]));
    assert_eq!(patched.body["webhook_id"], id);

    let other = "https://hooks.example/other";
    let patched = bench
        .patch(id, json!({"url": other, "secret": "new"}))
        .await;
    assert_eq!(patched.body["url"], other);
    assert_eq!(bench.webhook().await["secret"], "new");

    let tested = bench.test(id).await;
    assert_eq!((tested.status, tested.body), (202, json!({})));

    let deleted = bench.delete(id).await;
    assert_eq!((deleted.status, deleted.body), (204, Value::Null));
    assert_eq!(bench.delete(id).await.status, 404);
    assert_eq!(bench.patch(id, json!({})).await.status, 404);
    assert_eq!(bench.test(id).await.status, 404);
    assert_eq!(bench.list().await.body, json!([]));
    bench.stop().await;
}

#[tokio::test]
async fn a_call_without_a_good_bearer_gets_401_in_the_error_envelope() {
    let bench = bench().await;
    for request in [
        bench.request(Method::GET, WEBHOOKS),
        bench.request(Method::GET, WEBHOOKS).bearer_auth("wrong"),
        bench
            .request(Method::GET, WEBHOOKS)
            .basic_auth("me", Some(TOKEN)),
        bench.request(Method::POST, WEBHOOKS).json(&json!({})),
        bench.request(Method::DELETE, &format!("{WEBHOOKS}/x")),
    ] {
        let refused = reply(request).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.body["error"]["code"], "invalid_api_key");
        assert!(refused.body["error"]["message"].is_string());
        let request_id = refused.body["error"]["request_id"].as_str().unwrap();
        assert_eq!(refused.header("x-request-id"), Some(request_id));
    }
}

#[tokio::test]
async fn the_token_endpoint_gives_a_bearer_to_the_right_client_only() {
    let bench = bench().await;
    let ask = |secret: &'static str| {
        reply(bench.request(Method::POST, "/oauth/token").form(&[
            ("grant_type", "client_credentials"),
            ("client_id", "me"),
            ("client_secret", secret),
        ]))
    };
    let granted = ask(CLIENT_SECRET).await;
    assert_eq!(granted.status, 200);
    assert_eq!(granted.body["token_type"], "Bearer");
    assert_eq!(granted.body["expires_in"], 3600);
    let token = granted.body["access_token"].as_str().unwrap();
    let list = reply(bench.request(Method::GET, WEBHOOKS).bearer_auth(token)).await;
    assert_eq!(list.status, 200);

    let refused = ask("wrong").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.body["error"], "invalid_client");
    assert!(refused.body["error_description"].is_string());

    // Neither what was asked with nor what was given is in the ledger.
    let ledger = bench.read("ledger").await.to_string();
    assert!(!ledger.contains(token) && !ledger.contains(CLIENT_SECRET));
    assert!(ledger.contains("\"route\":\"token\""));
}

#[tokio::test]
async fn secrets_and_tokens_are_nowhere_but_in_the_control_view_of_webhooks() {
    let bench = bench().await;
    let receiver = Receiver::start(&[]).await;
    let id = bench.made(&receiver.url, &["site.armed"]).await;
    let patched = bench.patch(&id, json!({"secret": SECRET})).await;
    bench.emit("site.armed").await;
    bench.settled().await;
    let mut shown = vec![bench.list().await.body, patched.body];
    for path in ["ledger", "deliveries", "quirks", "faults"] {
        shown.push(bench.read(path).await);
    }
    for text in shown {
        assert!(!text.to_string().contains("canary"), "{text}");
    }
    assert_eq!(bench.webhook().await["secret"], SECRET);
    let call = &bench.ledger("call").await[0];
    assert_eq!(call["body"]["secret"], "(redacted)");
}

#[tokio::test]
async fn each_field_that_is_not_acceptable_is_named() {
    let bench = bench().await;
    let good = json!({"url": "https://a.example/", "events": ["site.armed"], "secret": "s"});
    for (field, value) in [
        ("url", json!("http://hooks.example/")),
        ("url", json!("not a url")),
        ("url", Value::Null),
        ("events", json!([])),
        ("events", json!(["alarm.exploded"])),
        ("events", json!(["webhook.test"])),
        ("secret", json!("")),
        ("secret", json!("x".repeat(257))),
        ("secret", json!("ü".repeat(129))),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let refused = reply(bench.partner(Method::POST, WEBHOOKS).json(&body)).await;
        assert_eq!(refused.status, 422, "{body}");
        assert_eq!(refused.body["error"]["field"], field, "{body}");
    }
    let refused = reply(bench.partner(Method::POST, WEBHOOKS).body("{")).await;
    assert_eq!(
        (refused.status, refused.body["error"]["field"].is_null()),
        (400, true)
    );
    assert_eq!(bench.list().await.body, json!([]));
}

#[tokio::test]
async fn a_path_or_method_outside_the_documents_is_refused() {
    let bench = bench().await;
    let id = bench.made("https://a.example/", &["site.armed"]).await;
    for (method, path, status) in [
        (Method::GET, format!("{WEBHOOKS}/{id}"), 404),
        (Method::PUT, WEBHOOKS.to_owned(), 405),
        (Method::GET, "/partner/v1/dealers".to_owned(), 404),
    ] {
        assert_eq!(reply(bench.partner(method, &path)).await.status, status);
    }
    let health = reply(bench.request(Method::GET, "/healthz")).await;
    assert_eq!(health.status, 200);
}

#[tokio::test]
async fn rate_headers_are_on_every_partner_answer_and_the_limit_answers_429() {
    let bench = start(Settings {
        requests_per_minute: 6,
        burst: 2,
        ..settings()
    })
    .await;
    let (first, second, third) = (bench.list().await, bench.list().await, bench.list().await);
    assert_eq!(first.header("x-ratelimit-limit"), Some("6"));
    assert_eq!(first.header("x-ratelimit-remaining"), Some("1"));
    assert_eq!(second.header("x-ratelimit-remaining"), Some("0"));
    assert_eq!((first.status, second.status, third.status), (200, 200, 429));
    assert_eq!(third.body["error"]["code"], "rate_limited");
    let wait: u32 = third.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    let reset: i64 = third.header("x-ratelimit-reset").unwrap().parse().unwrap();
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    assert!((now..=now + 21).contains(&reset), "{reset}, {now}");
    let refused = reply(bench.request(Method::GET, WEBHOOKS)).await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("x-ratelimit-limit").is_some());

    bench
        .quirks(json!({"retry_after": "date", "burst": 1}))
        .await;
    let limited = until("429", || async {
        let reply = bench.list().await;
        (reply.status == 429).then_some(reply)
    })
    .await;
    assert!(limited.header("retry-after").unwrap().ends_with(" GMT"));
    bench.quirks(json!({"requests_per_minute": 0})).await;
    for _ in 0..10 {
        assert_eq!(bench.list().await.status, 200);
    }
}

#[tokio::test]
async fn the_ledger_tells_trace_id_key_and_request_id_of_a_call() {
    let bench = bench().await;
    let listed = reply(
        bench
            .partner(Method::GET, &format!("{WEBHOOKS}?page=1"))
            .header("x-partner-trace-id", "6d4f")
            .header("idempotency-key", "k1"),
    )
    .await;
    let page = bench.read("ledger").await;
    assert_eq!(page["next"], 1);
    let call = &page["entries"][0];
    for (field, value) in [
        ("kind", json!("call")),
        ("seq", json!(1)),
        ("method", json!("GET")),
        ("path", json!(WEBHOOKS)),
        ("query", json!("page=1")),
        ("route", json!("list")),
        ("status", json!(200)),
        ("trace_id", json!("6d4f")),
        ("idempotency_key", json!("k1")),
        ("request_id", json!(listed.header("x-request-id").unwrap())),
        ("body", Value::Null),
    ] {
        assert_eq!(call[field], value, "{field}");
    }
    bench.list().await;
    let rest = bench.read("ledger?after=1").await;
    assert_eq!(rest["entries"].as_array().unwrap().len(), 1);
    assert_eq!(rest["entries"][0]["seq"], 2);
    // Looking does not leave a trace.
    assert_eq!(
        bench.read("ledger?after=2").await,
        json!({"entries": [], "next": 2})
    );
}

#[tokio::test]
async fn an_idempotency_key_replays_the_answer_and_refuses_another_payload() {
    let bench = bench().await;
    let create = |key: &'static str, secret: &'static str| {
        let body = json!({"url": "https://a.example/", "events": ["site.armed"], "secret": secret});
        let request = bench.partner(Method::POST, WEBHOOKS);
        reply(request.header("idempotency-key", key).json(&body))
    };
    let first = create("k1", "s").await;
    let again = create("k1", "s").await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    let conflict = create("k1", "t").await;
    assert_eq!(conflict.status, 409);
    assert_eq!(conflict.body["error"]["code"], "idempotency_conflict");
    assert_eq!(bench.list().await.body.as_array().unwrap().len(), 1);
    let calls = bench.ledger("call").await;
    assert_eq!(
        (&calls[0]["replayed"], &calls[1]["replayed"]),
        (&json!(false), &json!(true))
    );

    // A failure is not kept: the same key works once the payload is right.
    assert_eq!(create("k2", "").await.status, 422);
    assert_eq!(create("k2", "s").await.status, 201);

    bench.quirks(json!({"idempotency": "ignored"})).await;
    assert_ne!(create("k1", "s").await.body, first.body);
    bench.quirks(json!({"idempotency": "caches_errors"})).await;
    assert_eq!(create("k3", "").await.status, 422);
    assert_eq!(create("k3", "s").await.status, 409);
    let (a, b) = (create("k4", "").await, create("k4", "").await);
    assert_eq!(a.body["error"]["request_id"], b.body["error"]["request_id"]);
}
