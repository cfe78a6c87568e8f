//! The sandbox as its users meet it: over HTTP, with a real receiver at the other end.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chekt_operator::sandbox::{self, Settings};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "canary-static-token";
const CLIENT_SECRET: &str = "canary-client-secret";
const SECRET: &str = "canary-signing-secret";
const WEBHOOKS: &str = "/partner/v1/webhooks";

/// Retries after 10 ms, 60 ms and 600 ms.
const FAST: f64 = 0.002;

/// A sandbox in this process.
struct Bench {
    base: String,
    http: reqwest::Client,
    end: CancellationToken,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn settings() -> Settings {
    Settings {
        token: Some(TOKEN.into()),
        client: Some(("me".to_owned(), CLIENT_SECRET.into())),
        time_scale: FAST,
        state: None,
        requests_per_minute: 0,
        burst: 5,
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

async fn bench() -> Bench {
    start(settings()).await
}

async fn start(settings: Settings) -> Bench {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let end = CancellationToken::new();
    Bench {
        base,
        http: client(),
        served: tokio::spawn(sandbox::serve(listener, settings, end.clone())),
        end,
    }
}

/// What came back: status, headers, and the body as JSON (null when there is none, a string when it is no JSON).
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

async fn reply(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    Reply {
        status,
        headers,
        body,
    }
}

impl Bench {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    fn partner(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(TOKEN)
    }

    async fn list(&self) -> Reply {
        reply(self.partner(Method::GET, WEBHOOKS)).await
    }

    async fn create(&self, url: &str, events: &[&str]) -> Reply {
        let body = json!({"url": url, "events": events, "secret": SECRET});
        reply(self.partner(Method::POST, WEBHOOKS).json(&body)).await
    }

    /// Creates a webhook; its id.
    async fn made(&self, url: &str, events: &[&str]) -> String {
        let made = self.create(url, events).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["webhook_id"].as_str().unwrap().to_owned()
    }

    async fn patch(&self, id: &str, body: Value) -> Reply {
        reply(
            self.partner(Method::PATCH, &format!("{WEBHOOKS}/{id}"))
                .json(&body),
        )
        .await
    }

    async fn delete(&self, id: &str) -> Reply {
        reply(self.partner(Method::DELETE, &format!("{WEBHOOKS}/{id}"))).await
    }

    async fn test(&self, id: &str) -> Reply {
        reply(self.partner(Method::POST, &format!("{WEBHOOKS}/{id}/test"))).await
    }

    async fn control(&self, method: Method, path: &str, body: Value) -> Reply {
        let reply = reply(
            self.request(method, &format!("/sandbox/{path}"))
                .json(&body),
        )
        .await;
        assert!(reply.status < 300, "{path}: {reply:?}");
        reply
    }

    async fn quirks(&self, quirks: Value) {
        self.control(Method::PUT, "quirks", quirks).await;
    }

    async fn faults(&self, faults: Value) {
        self.control(Method::PUT, "faults", faults).await;
    }

    async fn emit(&self, event: &str) -> Vec<Value> {
        let reply = self
            .control(Method::POST, "emit", json!({"event": event}))
            .await;
        assert_eq!(reply.status, 202);
        reply.body["deliveries"].as_array().unwrap().clone()
    }

    async fn read(&self, path: &str) -> Value {
        reply(self.request(Method::GET, &format!("/sandbox/{path}")))
            .await
            .body
    }

    /// The ledger's lines of one kind.
    async fn ledger(&self, kind: &str) -> Vec<Value> {
        let page = self.read("ledger").await;
        let entries = page["entries"].as_array().unwrap().iter();
        entries
            .filter(|entry| entry["kind"] == kind)
            .cloned()
            .collect()
    }

    /// The one webhook there is, as the control routes show it.
    async fn webhook(&self) -> Value {
        let all = self.read("webhooks").await;
        assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
        all[0].clone()
    }

    /// Waits until every delivery has ended.
    async fn settled(&self) -> Vec<Value> {
        until("deliveries to end", || async {
            let all = self.read("deliveries").await;
            let all = all.as_array().unwrap().clone();
            all.iter()
                .all(|delivery| delivery["state"] != "pending")
                .then_some(all)
        })
        .await
    }

    async fn stop(self) {
        self.end.cancel();
        self.served.await.unwrap().unwrap();
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A receiver that writes down what it gets and answers as it is told to.
struct Receiver {
    url: String,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    /// Answers in order; 200 when there are no more; 0 to never answer.
    answers: Mutex<VecDeque<u16>>,
    got: Mutex<Vec<(HeaderMap, Bytes)>>,
}

async fn receive(State(told): State<Arc<Told>>, headers: HeaderMap, body: Bytes) -> Response {
    told.got.lock().unwrap().push((headers, body));
    let answer = told.answers.lock().unwrap().pop_front().unwrap_or(200);
    if answer == 0 {
        std::future::pending::<()>().await;
    }
    let status = StatusCode::from_u16(answer).unwrap();
    (status, [("location", "/elsewhere")]).into_response()
}

impl Receiver {
    async fn start(answers: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let told = Arc::new(Told::default());
        told.answers.lock().unwrap().extend(answers);
        let router = Router::new().fallback(receive).with_state(told.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Receiver { url, told }
    }

    fn answer(&self, answers: &[u16]) {
        *self.told.answers.lock().unwrap() = answers.iter().copied().collect();
    }

    /// The bodies so far, each proved to be signed with `secret`.
    fn bodies(&self, secret: &str) -> Vec<String> {
        let got = self.told.got.lock().unwrap();
        got.iter()
            .map(|(headers, body)| {
                assert_eq!(headers["x-webhook-signature"], signed(secret, body));
                assert_eq!(headers["content-type"], "application/json");
                String::from_utf8(body.to_vec()).unwrap()
            })
            .collect()
    }

    fn count(&self) -> usize {
        self.told.got.lock().unwrap().len()
    }
}

fn signed(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!(
        "sha256={}",
        data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
    )
}

fn parsed(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|webhook| webhook["webhook_id"].as_str().unwrap())
        .collect()
}

// What is not switchable.

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
async fn a_test_delivery_is_an_envelope_signed_over_the_bytes_that_arrive() {
    let bench = bench().await;
    let receiver = Receiver::start(&[]).await;
    let id = bench.made(&receiver.url, &["site.armed"]).await;
    bench.test(&id).await;
    bench.settled().await;
    let bodies = receiver.bodies(SECRET);
    assert_eq!(bodies.len(), 1);
    let start = format!(r#"{{"event":"webhook.test","webhook_id":"{id}","timestamp":""#);
    assert!(bodies[0].starts_with(&start), "{}", bodies[0]);
    let envelope = parsed(&bodies[0]);
    assert_eq!(envelope.as_object().unwrap().len(), 4);
    assert_eq!(envelope["data"]["message"], "This is a test webhook");
    let deliveries = bench.ledger("delivery").await;
    assert_eq!(deliveries[0]["body"], bodies[0]);
    assert_eq!(deliveries[0]["status"], 200);
    assert_eq!(deliveries[0]["attempt"], 1);
}

#[tokio::test]
async fn every_event_of_the_catalogue_reaches_its_subscribers_and_nobody_else() {
    let bench = bench().await;
    let all = [
        "alarm.triggered",
        "alarm.cleared",
        "alarm.acknowledged",
        "device.status_changed",
        "device.registered",
        "device.removed",
        "site.armed",
        "site.disarmed",
        "site.created",
    ];
    let (everything, one) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    bench.made(&everything.url, &all).await;
    bench.made(&one.url, &["site.created"]).await;
    for event in all {
        bench.emit(event).await;
    }
    bench.settled().await;
    let mut got: Vec<String> = everything
        .bodies(SECRET)
        .iter()
        .map(|body| {
            let body = parsed(body);
            assert!(!body["data"].as_object().unwrap().is_empty());
            body["event"].as_str().unwrap().to_owned()
        })
        .collect();
    got.sort_unstable();
    let mut expected = all.to_vec();
    expected.sort_unstable();
    assert_eq!(got, expected);
    assert_eq!(one.count(), 1);
}

#[tokio::test]
async fn an_event_is_told_as_it_was_given() {
    let bench = bench().await;
    let (here, there) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    let id = bench.made(&here.url, &["site.armed"]).await;
    bench.made(&there.url, &["site.armed"]).await;
    let emission = json!({
        "event": "door.opened", "data": {"door": "Tür 🚪"}, "webhook_id": id,
        "timestamp": "2024-01-15T14:20:00Z",
    });
    bench.control(Method::POST, "emit", emission).await;
    bench.settled().await;
    assert_eq!(
        here.bodies(SECRET),
        [format!(
            r#"{{"event":"door.opened","webhook_id":"{id}","timestamp":"2024-01-15T14:20:00Z","data":{{"door":"Tür 🚪"}}}}"#
        )]
    );
    assert_eq!(there.count(), 0);
    let unknown = reply(
        bench
            .request(Method::POST, "/sandbox/emit")
            .json(&json!({"event": "site.armed", "webhook_id": "nobody"})),
    );
    assert_eq!(unknown.await.status, 404);
}

#[tokio::test]
async fn raw_bytes_are_delivered_as_they_are_and_as_often_as_asked() {
    let bench = bench().await;
    let receiver = Receiver::start(&[]).await;
    let id = bench.made(&receiver.url, &["site.armed"]).await;
    for body in [" {\"event\" :\t1.0}\n", "no JSON, ü", ""] {
        let order = json!({"webhook_id": id, "body": body, "copies": 2});
        let reply = bench.control(Method::POST, "deliver", order).await;
        assert_eq!(reply.status, 202);
        assert_eq!(reply.body["deliveries"].as_array().unwrap().len(), 2);
    }
    bench.settled().await;
    let bodies = receiver.bodies(SECRET);
    assert_eq!(bodies.len(), 6);
    for body in [" {\"event\" :\t1.0}\n", "no JSON, ü", ""] {
        assert_eq!(bodies.iter().filter(|got| *got == body).count(), 2);
    }
}

#[tokio::test]
async fn a_refused_delivery_is_repeated_byte_for_byte_until_it_gets_200() {
    let bench = bench().await;
    let receiver = Receiver::start(&[500, 204]).await;
    bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    let ended = bench.settled().await;
    assert_eq!(ended[0]["state"], "delivered");
    let bodies = receiver.bodies(SECRET);
    assert_eq!(bodies.len(), 3);
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    let attempts: Vec<_> = bench
        .ledger("delivery")
        .await
        .iter()
        .map(|line| (line["attempt"].clone(), line["status"].clone()))
        .collect();
    assert_eq!(
        attempts,
        [(1, 500), (2, 204), (3, 200)].map(|(attempt, status)| (json!(attempt), json!(status)))
    );
    let webhook = bench.webhook().await;
    assert_eq!(
        (&webhook["status"], &webhook["failures"]),
        (&json!("active"), &json!(0))
    );
}

#[tokio::test]
async fn the_pauses_between_attempts_are_those_of_the_guide_times_the_scale() {
    let bench = bench().await;
    bench.quirks(json!({"disables_after": 0})).await;
    let receiver = Receiver::start(&[500, 500, 500, 500]).await;
    bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    let ended = bench.settled().await;
    assert_eq!(ended[0]["state"], "failed");
    let times: Vec<f64> = ended[0]["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| {
            let at: k8s_openapi::jiff::Timestamp = attempt["at"].as_str().unwrap().parse().unwrap();
            at.as_duration().as_secs_f64() * 1000.0
        })
        .collect();
    assert_eq!(times.len(), 4);
    // 5 s, 30 s and 5 min, times 0.002. Nothing bounds how late a busy machine is, so only the lower bound holds.
    for (pair, pause) in times.windows(2).zip([10.0, 60.0, 600.0]) {
        assert!(pair[1] - pair[0] >= pause, "{times:?}");
    }
}

#[tokio::test]
async fn the_third_failure_in_a_row_disables_and_a_patch_of_status_brings_it_back() {
    let bench = bench().await;
    let receiver = Receiver::start(&[500, 201, 307]).await;
    let id = bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    let ended = bench.settled().await;
    assert_eq!(ended[0]["state"], "failed");
    assert_eq!(bench.list().await.body[0]["status"], "disabled");
    assert_eq!(bench.ledger("disabled").await[0]["webhook_id"], id);
    // No redirect was followed, and no fourth attempt made.
    assert_eq!(receiver.count(), 3);

    // What would have been sent while it is off is lost, and written down.
    assert!(bench.emit("alarm.triggered").await.is_empty());
    assert_eq!(bench.test(&id).await.status, 202);
    let dropped: Vec<Value> = bench.ledger("dropped").await;
    let events: Vec<_> = dropped.iter().map(|line| line["event"].clone()).collect();
    assert_eq!(
        events,
        ["alarm.triggered", "alarm.triggered", "webhook.test"]
    );
    assert_eq!(receiver.count(), 3);

    let patched = bench.patch(&id, json!({"status": "active"})).await;
    assert_eq!(patched.body["status"], "active");
    assert_eq!(bench.webhook().await["failures"], 0);
    bench.emit("alarm.triggered").await;
    bench.settled().await;
    assert_eq!(receiver.count(), 4);
}

#[tokio::test]
async fn failed_tests_do_not_disable() {
    let bench = bench().await;
    bench.quirks(json!({"disables_after": 1})).await;
    let receiver = Receiver::start(&[500; 4]).await;
    let id = bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.test(&id).await;
    bench.settled().await;
    assert_eq!(receiver.count(), 4);
    assert_eq!(bench.webhook().await["status"], "active");
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_5_s_is_none_whatever_the_scale() {
    let bench = bench().await;
    let receiver = Receiver::start(&[0]).await;
    bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    bench.settled().await;
    let first = &bench.ledger("delivery").await[0];
    assert!(
        first["error"].as_str().unwrap().starts_with("timeout"),
        "{first}"
    );
    let took = first["duration_ms"].as_u64().unwrap();
    assert!((5000..8000).contains(&took), "{took} ms");
}

#[tokio::test]
async fn a_deleted_webhook_gets_nothing_more() {
    let bench = start(Settings {
        // The first retry is due in 100 s.
        time_scale: 20.0,
        ..settings()
    })
    .await;
    let receiver = Receiver::start(&[500]).await;
    let id = bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    until("the first attempt", || async {
        (bench.ledger("delivery").await.len() == 1).then_some(())
    })
    .await;
    bench.delete(&id).await;
    let ended = bench.settled().await;
    assert_eq!(ended[0]["reason"], "webhook is deleted");
    assert!(bench.emit("alarm.triggered").await.is_empty());
    assert_eq!(receiver.count(), 1);
    assert_eq!(bench.read("webhooks").await, json!([]));
    assert_eq!(bench.read("webhooks?all=true").await[0]["deleted"], true);
    // Nor does it hold up the end.
    bench.stop().await;
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

#[tokio::test]
async fn a_restart_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        // The first retry is due in 500 ms.
        time_scale: 0.1,
        state: Some(folder.path().join("state.json")),
        ..settings()
    };
    let bench = start(settings.clone()).await;
    let receiver = Receiver::start(&[500]).await;
    let body = json!({"url": receiver.url, "events": ["site.armed"], "secret": SECRET});
    let create = |bench: &Bench| {
        let request = bench.partner(Method::POST, WEBHOOKS);
        reply(request.header("idempotency-key", "k").json(&body))
    };
    let made = create(&bench).await;
    let gone = bench.made("https://a.example/", &["site.armed"]).await;
    bench.delete(&gone).await;
    let token = reply(bench.request(Method::POST, "/oauth/token").form(&[
        ("grant_type", "client_credentials"),
        ("client_id", "me"),
        ("client_secret", CLIENT_SECRET),
    ]));
    let token = token.await.body["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    bench.emit("site.armed").await;
    until("the first attempt", || async {
        (bench.ledger("delivery").await.len() == 1).then_some(())
    })
    .await;
    bench.stop().await;

    let bench = start(settings).await;
    let list = reply(bench.request(Method::GET, WEBHOOKS).bearer_auth(token)).await;
    assert_eq!(list.body, json!([made.body]));
    assert_eq!(create(&bench).await.body, made.body);
    assert_eq!(bench.list().await.body, json!([made.body]));
    let ended = bench.settled().await;
    assert_eq!(ended[0]["state"], "delivered");
    assert_eq!(ended[0]["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(receiver.bodies(SECRET).len(), 2);
    bench.stop().await;
}

// The process itself.

async fn spawn(arguments: &[&str], state: Option<&PathBuf>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chekt-operator"));
    command
        .args(["--log-format", "json", "--log", "debug"])
        .args(["sandbox", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for variable in ["CHEKT_TOKEN", "CHEKT_CLIENT_ID", "CHEKT_CLIENT_SECRET"] {
        command.env_remove(variable);
    }
    if let Some(state) = state {
        command.arg("--state").arg(state);
    }
    command.spawn().unwrap()
}

/// The base url of a process, from the line in which it says where it listens.
async fn address(log: &mut BufReader<tokio::process::ChildStderr>) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).await.unwrap(), 0, "the log ended");
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "listening" {
            assert_eq!(line["role"], "sandbox");
            return format!("http://{}", line["public"].as_str().unwrap());
        }
    }
}

#[tokio::test]
async fn a_killed_process_forgets_nothing_that_it_answered_and_logs_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let mut process = spawn(&["--token", TOKEN], Some(&state)).await;
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let base = address(&mut log).await;
    let body = json!({"url": "https://a.example/", "events": ["site.armed"], "secret": SECRET});
    let webhooks = format!("{base}{WEBHOOKS}");
    let made = reply(client().post(webhooks).bearer_auth(TOKEN).json(&body)).await;
    assert_eq!(made.status, 201);
    process.kill().await.unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).await.unwrap();
    assert!(!rest.contains("canary"), "{rest}");

    let mut process = spawn(&["--token", TOKEN], Some(&state)).await;
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let base = address(&mut log).await;
    let webhooks = format!("{base}{WEBHOOKS}");
    let list = reply(client().get(webhooks).bearer_auth(TOKEN)).await;
    assert_eq!(list.body, json!([made.body]));
}

#[tokio::test]
async fn a_process_that_nobody_could_call_does_not_start_and_says_what_to_pass() {
    let process = spawn(&[], None).await;
    let output = process.wait_with_output().await.unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("--token") && error.contains("--client-id"),
        "{error}"
    );
}

// Faults.

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

// Control.

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

// Quirks, at least one of each group; the rest are tables beside the code.

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
async fn a_hundred_webhooks_and_a_burst_of_events_are_no_trouble() {
    let bench = bench().await;
    let receiver = Receiver::start(&[]).await;
    for _ in 0..100 {
        bench.made(&receiver.url, &["site.armed"]).await;
    }
    for _ in 0..5 {
        assert_eq!(bench.emit("site.armed").await.len(), 100);
    }
    bench.settled().await;
    assert_eq!(receiver.count(), 500);
    receiver.answer(&[500]);
    bench.emit("site.armed").await;
    bench.settled().await;
    // One of them was refused once and repeated.
    assert_eq!(receiver.count(), 601);
}
