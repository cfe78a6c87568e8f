//! The control routes.

use reqwest::Method;
use serde_json::{Value, json};

use super::bench::{bench, reply};

#[tokio::test]
async fn a_webhook_can_be_edited_and_removed_behind_the_clients_back() {
    let bench = bench().await;
    let id = bench.made("https://a.example/", &["site.armed"]).await;
    let edit = json!({
        "url": "https://b.example/", "events": ["odd.event"], "status": "under_review",
        "secret": "other",
    });
    let path = format!("webhooks/{id}");
    let edited = bench.control(Method::PATCH, &path, edit).await;
    assert_eq!(edited.status, 200);
    let listed = &bench.list().await.body[0];
    assert_eq!(listed["url"], "https://b.example/");
    assert_eq!(listed["events"], json!(["odd.event"]));
    assert_eq!(listed["status"], "under_review");
    assert_eq!(bench.webhook().await["secret"], "other");
    let gone = bench.control(Method::DELETE, &path, Value::Null).await;
    assert_eq!(gone.status, 204);
    assert_eq!(bench.list().await.body, json!([]));
    let again = bench.request(Method::DELETE, &format!("/sandbox/{path}"));
    assert_eq!(reply(again).await.status, 404);
    // No call of the partner API was made but the ones above.
    assert_eq!(bench.ledger("call").await.len(), 3);
}

#[tokio::test]
async fn reset_clears_quirks_and_faults_and_nothing_else() {
    let bench = bench().await;
    bench.made("https://a.example/", &["site.armed"]).await;
    bench.quirks(json!({"list_shape": "data"})).await;
    bench
        .faults(json!([{"route": "any", "when": "before", "effect": "drop"}]))
        .await;
    let reset = reply(bench.request(Method::POST, "/sandbox/reset")).await;
    assert_eq!(reset.status, 204);
    assert_eq!(bench.list().await.body.as_array().unwrap().len(), 1);
    assert_eq!(bench.read("quirks").await["list_shape"], "bare");
    let slip = bench.request(Method::PUT, "/sandbox/quirks");
    assert_eq!(
        reply(slip.json(&json!({"list_shap": "data"}))).await.status,
        422
    );
}

#[tokio::test]
async fn a_plain_curl_is_understood_and_a_slip_is_explained() {
    let bench = bench().await;
    let put = |path: &str, body: &'static str| {
        let request = bench.request(Method::PUT, &format!("/sandbox/{path}"));
        // What curl says without being told otherwise.
        let form = "application/x-www-form-urlencoded";
        reply(request.header("content-type", form).body(body))
    };
    assert_eq!(put("quirks", r#"{"create_status": 200}"#).await.status, 200);
    for (path, body, hint) in [
        ("quirks", r#"{"create_status": 299}"#, "299"),
        ("quirks", "{", "line 1"),
        (
            "faults",
            r#"[{"route": "list", "when": "before", "effect": "dorp"}]"#,
            "stall_ms",
        ),
        (
            "faults",
            r#"[{"route": "lits", "when": "before", "effect": "drop"}]"#,
            "`any`",
        ),
    ] {
        let refused = put(path, body).await;
        assert_eq!(refused.status, 422);
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(hint), "{message}");
    }
}
