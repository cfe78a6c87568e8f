//! The bench: a sandbox in this process, and what a test does with it.

use std::future::Future;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use chekt_operator::sandbox::{self, Settings};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub const TOKEN: &str = "canary-static-token";
pub const CLIENT_SECRET: &str = "canary-client-secret";
pub const SECRET: &str = "canary-signing-secret";
pub const WEBHOOKS: &str = "/partner/v1/webhooks";

/// Retries after 10 ms, 60 ms and 600 ms.
pub const FAST: f64 = 0.002;

/// A sandbox in this process.
pub struct Bench {
    pub base: String,
    pub http: reqwest::Client,
    pub end: CancellationToken,
    pub served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

pub fn settings() -> Settings {
    Settings {
        token: Some(TOKEN.into()),
        client: Some(("me".to_owned(), CLIENT_SECRET.into())),
        client_key: None,
        time_scale: FAST,
        state: None,
        requests_per_minute: 0,
        burst: 5,
        insecure_urls: false,
    }
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

pub async fn bench() -> Bench {
    start(settings()).await
}

pub async fn start(settings: Settings) -> Bench {
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
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub async fn reply(request: RequestBuilder) -> Reply {
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
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub fn partner(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(TOKEN)
    }

    pub async fn list(&self) -> Reply {
        reply(self.partner(Method::GET, WEBHOOKS)).await
    }

    pub async fn create(&self, url: &str, events: &[&str]) -> Reply {
        let body = json!({"url": url, "events": events, "secret": SECRET});
        reply(self.partner(Method::POST, WEBHOOKS).json(&body)).await
    }

    /// Creates a webhook; its id.
    pub async fn made(&self, url: &str, events: &[&str]) -> String {
        let made = self.create(url, events).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["webhook_id"].as_str().unwrap().to_owned()
    }

    pub async fn patch(&self, id: &str, body: Value) -> Reply {
        reply(
            self.partner(Method::PATCH, &format!("{WEBHOOKS}/{id}"))
                .json(&body),
        )
        .await
    }

    pub async fn delete(&self, id: &str) -> Reply {
        reply(self.partner(Method::DELETE, &format!("{WEBHOOKS}/{id}"))).await
    }

    pub async fn test(&self, id: &str) -> Reply {
        reply(self.partner(Method::POST, &format!("{WEBHOOKS}/{id}/test"))).await
    }

    pub async fn control(&self, method: Method, path: &str, body: Value) -> Reply {
        let reply = reply(
            self.request(method, &format!("/sandbox/{path}"))
                .json(&body),
        )
        .await;
        assert!(reply.status < 300, "{path}: {reply:?}");
        reply
    }

    pub async fn quirks(&self, quirks: Value) {
        self.control(Method::PUT, "quirks", quirks).await;
    }

    pub async fn faults(&self, faults: Value) {
        self.control(Method::PUT, "faults", faults).await;
    }

    pub async fn emit(&self, event: &str) -> Vec<Value> {
        let reply = self
            .control(Method::POST, "emit", json!({"event": event}))
            .await;
        assert_eq!(reply.status, 202);
        reply.body["deliveries"].as_array().unwrap().clone()
    }

    pub async fn read(&self, path: &str) -> Value {
        reply(self.request(Method::GET, &format!("/sandbox/{path}")))
            .await
            .body
    }

    /// The ledger's lines of one kind.
    pub async fn ledger(&self, kind: &str) -> Vec<Value> {
        let page = self.read("ledger").await;
        let entries = page["entries"].as_array().unwrap().iter();
        entries
            .filter(|entry| entry["kind"] == kind)
            .cloned()
            .collect()
    }

    /// The one webhook there is, as the control routes show it.
    pub async fn webhook(&self) -> Value {
        let all = self.read("webhooks").await;
        assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
        all[0].clone()
    }

    /// Waits until every delivery has ended.
    pub async fn settled(&self) -> Vec<Value> {
        until("deliveries to end", || async {
            let all = self.read("deliveries").await;
            let all = all.as_array().unwrap().clone();
            all.iter()
                .all(|delivery| delivery["state"] != "pending")
                .then_some(all)
        })
        .await
    }

    pub async fn stop(self) {
        self.end.cancel();
        self.served.await.unwrap().unwrap();
    }
}

pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn parsed(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

pub fn ids(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|webhook| webhook["webhook_id"].as_str().unwrap())
        .collect()
}
