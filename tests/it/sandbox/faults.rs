//! Faults: before and after the effect.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::bench::{WEBHOOKS, bench, reply, until};

#[tokio::test]
async fn a_fault_before_leaves_no_effect_and_a_fault_after_leaves_it() {
    let bench = bench().await;
    for (when, count) in [("before", 0), ("after", 1)] {
        for effect in [
            json!("drop"),
            json!("truncate"),
            json!({"status": 500}),
            json!({"status": 502, "html": true}),
        ] {
            bench
                .faults(json!([{"route": "create", "when": when, "effect": effect, "times": 1}]))
                .await;
            let before = bench.list().await.body.as_array().unwrap().len();
            let body =
                json!({"url": "https://a.example/", "events": ["site.armed"], "secret": "s"});
            let sent = bench
                .partner(Method::POST, WEBHOOKS)
                .json(&body)
                .send()
                .await;
            match effect.as_str() {
                Some("drop") => assert!(sent.is_err(), "{sent:?}"),
                Some(_) => {
                    let sent = sent.unwrap();
                    assert!(sent.status().is_success());
                    assert!(sent.bytes().await.is_err());
                }
                None => {
                    let sent = sent.unwrap();
                    assert_eq!(sent.status().as_u16(), effect["status"]);
                    let text = sent.text().await.unwrap();
                    assert_eq!(text.contains("<html>"), effect["html"] == true, "{text}");
                }
            }
            let after = bench.list().await.body.as_array().unwrap().len();
            assert_eq!(after - before, count, "{when} {effect}");
            assert_eq!(bench.read("faults").await, json!([]));
        }
    }
    let calls = bench.ledger("call").await;
    let dropped = calls
        .iter()
        .filter(|call| call["status"].is_null() && call["fault"]["effect"] == "drop");
    assert_eq!(dropped.count(), 2);
}

#[tokio::test]
async fn a_stalled_call_still_has_its_effect_after_the_caller_gave_up() {
    let bench = bench().await;
    let fault =
        json!([{"route": "create", "when": "before", "effect": {"stall_ms": 1500}, "times": 1}]);
    bench.faults(fault).await;
    let body = json!({"url": "https://a.example/", "events": ["site.armed"], "secret": "s"});
    let sent = bench
        .partner(Method::POST, WEBHOOKS)
        .timeout(Duration::from_millis(50))
        .json(&body)
        .send()
        .await;
    assert!(sent.unwrap_err().is_timeout());
    assert_eq!(bench.list().await.body, json!([]));
    until("the effect", || async {
        let list = bench.list().await.body;
        (list.as_array().unwrap().len() == 1).then_some(())
    })
    .await;

    let fault = json!([{"route": "list", "when": "after", "effect": {"stall_ms": 200}}]);
    bench.faults(fault).await;
    let start = Instant::now();
    assert_eq!(bench.list().await.status, 200);
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn faults_stay_until_they_are_used_up_or_cleared() {
    let bench = bench().await;
    let faults = json!([
        {"route": "any", "when": "before", "effect": {"status": 429, "retry_after": 7}, "times": 2},
        {"route": "list", "when": "before", "effect": {"status": 503}, "times": null},
    ]);
    bench.faults(faults).await;
    let limited = bench.list().await;
    assert_eq!(
        (limited.status, limited.header("retry-after")),
        (429, Some("7"))
    );
    assert!(limited.header("x-ratelimit-limit").is_some());
    assert_eq!(bench.test("x").await.status, 429);
    for _ in 0..3 {
        let failed = bench.list().await;
        assert_eq!(failed.status, 503);
        assert!(failed.body["error"]["request_id"].is_string());
    }
    let cleared = reply(bench.request(Method::DELETE, "/sandbox/faults")).await;
    assert_eq!(cleared.status, 204);
    assert_eq!(bench.list().await.status, 200);

    // A slip is refused and changes nothing.
    let slip = json!([{"route": "lits", "when": "before", "effect": "drop"}]);
    let refused = reply(bench.request(Method::PUT, "/sandbox/faults").json(&slip)).await;
    assert_eq!(refused.status, 422);
}
