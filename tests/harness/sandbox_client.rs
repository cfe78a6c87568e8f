//! The sandbox's control routes, typed: what a test does in CHeKT's place, and how it learns what CHeKT saw.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::eventually::eventually;

/// A client of one sandbox.
#[derive(Clone, Debug)]
pub struct SandboxClient {
    base: String,
    http: reqwest::Client,
}

/// A remote webhook with what only the sandbox knows of it.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteWebhook {
    /// Its id.
    pub webhook_id: String,
    /// Where it delivers.
    pub url: String,
    /// What it is subscribed to.
    pub events: Vec<String>,
    /// `active`, or a word for off.
    pub status: String,
    /// As the API spells it.
    pub created_at: String,
    /// What deliveries are signed with.
    pub secret: String,
    /// Consecutive failures.
    #[serde(default)]
    pub failures: u64,
    /// Whether it was deleted; such a one is listed only on demand.
    #[serde(default)]
    pub deleted: bool,
}

/// A delivery that was put on its way.
#[derive(Clone, Debug, Deserialize)]
pub struct Sent {
    /// Names it in the ledger.
    pub delivery_id: String,
    /// Whose it is.
    pub webhook_id: String,
}

/// The answer to an event.
#[derive(Deserialize)]
struct Emitted {
    deliveries: Vec<Sent>,
}

/// A line of the ledger.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// Somebody called the API.
    Call(Call),
    /// The sandbox tried to deliver.
    Delivery(Delivery),
    /// Anything else it notes, such as that a webhook was switched off.
    #[serde(other)]
    Other,
}

/// A call of the API.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// Position in the ledger.
    pub seq: u64,
    /// When it was answered.
    pub at: Timestamp,
    /// `GET`, `POST`, …
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, where there was one.
    #[serde(default)]
    pub query: Option<String>,
    /// `create`, `list`, `patch`, `delete`, `test` or `token`.
    #[serde(default)]
    pub route: Option<String>,
    /// What was answered, if anything was.
    #[serde(default)]
    pub status: Option<u16>,
    /// Whether the answer was given before, to a call with the same idempotency key.
    #[serde(default)]
    pub replayed: bool,
    /// The header of that name.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// The header `x-partner-trace-id`.
    #[serde(default)]
    pub trace_id: Option<String>,
    /// What the sandbox called this request.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The body of the request.
    #[serde(default)]
    pub body: Value,
}

/// An attempt to deliver.
#[derive(Clone, Debug, Deserialize)]
#[allow(clippy::struct_field_names)] // As the ledger spells them.
pub struct Delivery {
    /// Position in the ledger.
    pub seq: u64,
    /// The delivery it is an attempt of.
    pub delivery_id: String,
    /// Whose it is.
    pub webhook_id: String,
    /// The event, where it has one.
    #[serde(default)]
    pub event: Option<String>,
    /// 1 for the first.
    #[serde(default)]
    pub attempt: u64,
    /// What the receiver answered.
    #[serde(default)]
    pub status: Option<u16>,
    /// Why there was no answer.
    #[serde(default)]
    pub error: Option<String>,
    /// How long it took.
    #[serde(default)]
    pub duration_ms: Option<f64>,
    /// The body as it was sent.
    #[serde(default)]
    pub body: Value,
}

/// The ledger from some position on.
#[derive(Clone, Debug, Deserialize)]
pub struct Ledger {
    /// Its lines.
    pub entries: Vec<Entry>,
    /// The position to go on from.
    pub next: u64,
}

impl Ledger {
    /// The calls on one route.
    pub fn calls(&self, route: &str) -> Vec<&Call> {
        let calls = self.entries.iter().filter_map(|entry| match entry {
            Entry::Call(call) if call.route.as_deref() == Some(route) => Some(call),
            Entry::Call(_) | Entry::Delivery(_) | Entry::Other => None,
        });
        calls.collect()
    }

    /// The attempts to deliver.
    pub fn deliveries(&self) -> Vec<&Delivery> {
        let deliveries = self.entries.iter().filter_map(|entry| match entry {
            Entry::Delivery(delivery) => Some(delivery),
            Entry::Call(_) | Entry::Other => None,
        });
        deliveries.collect()
    }

    /// All calls, each with its time and what it asked for.
    pub fn calls_with_times(&self) -> Vec<String> {
        let calls = self.entries.iter().filter_map(|entry| match entry {
            Entry::Call(call) => Some(format!("{} {call} {}", call.at, call.body)),
            Entry::Delivery(_) | Entry::Other => None,
        });
        calls.collect()
    }

    /// Calls that change something at CHeKT, as `POST /path -> 201`.
    pub fn writes(&self) -> Vec<String> {
        let writes = self.entries.iter().filter_map(|entry| match entry {
            Entry::Call(call) if call.method != "GET" && call.route.as_deref() != Some("token") => {
                Some(call.to_string())
            }
            Entry::Call(_) | Entry::Delivery(_) | Entry::Other => None,
        });
        writes.collect()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map_or("none".to_owned(), |s| s.to_string());
        write!(f, "{} {} -> {status}", self.method, self.path)
    }
}

/// A fault of one route, for the next `times` calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// `create`, `list`, `patch`, `delete`, `test` or `token`.
    pub route: String,
    /// `before` the effect or `after` it.
    pub when: String,
    /// What happens: `{"status": 500}`, `"drop"` or `{"stall_ms": 1000}`.
    pub effect: Value,
    /// How often.
    pub times: u64,
}

impl Fault {
    /// Answers with an error; `when` is `before` or `after` the effect.
    pub fn status(route: &str, when: &str, status: u16, times: u64) -> Fault {
        Fault {
            route: route.to_owned(),
            when: when.to_owned(),
            effect: json!({"status": status}),
            times,
        }
    }

    /// Drops the connection without an answer.
    pub fn drop(route: &str, when: &str, times: u64) -> Fault {
        Fault {
            route: route.to_owned(),
            when: when.to_owned(),
            effect: json!("drop"),
            times,
        }
    }
}

impl SandboxClient {
    /// A client of the sandbox at this address.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        // reqwest and kube may each want to choose a provider; whoever comes second finds it chosen.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .build()?;
        Ok(SandboxClient {
            base: format!("http://{address}"),
            http,
        })
    }

    /// The base URL, as an account has it.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    /// Lets an event happen: every active webhook that is subscribed to it gets a delivery.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn emit(&self, event: &str, data: Value) -> anyhow::Result<Vec<Sent>> {
        self.emit_as(json!({"event": event, "data": data})).await
    }

    /// Lets an event happen as described: `event`, and optionally `data`, `webhook_id` and `timestamp`.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn emit_as(&self, event: Value) -> anyhow::Result<Vec<Sent>> {
        let request = self.http.post(self.url("emit")).json(&event);
        Ok(json_of::<Emitted>(request).await?.deliveries)
    }

    /// Delivers these very bytes, rightly signed, `copies` times.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn deliver(
        &self,
        webhook_id: &str,
        body: &str,
        copies: u32,
    ) -> anyhow::Result<Value> {
        let order = json!({"webhook_id": webhook_id, "body": body, "copies": copies});
        json_of(self.http.post(self.url("deliver")).json(&order)).await
    }

    /// The remote webhooks that exist.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn webhooks(&self) -> anyhow::Result<Vec<RemoteWebhook>> {
        json_of(self.http.get(self.url("webhooks"))).await
    }

    /// The remote webhooks that exist or existed.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn all_webhooks(&self) -> anyhow::Result<Vec<RemoteWebhook>> {
        json_of(self.http.get(self.url("webhooks?all=true"))).await
    }

    /// Waits until one remote webhook delivers to `url`, and gives it back.
    ///
    /// # Errors
    /// When there is none, or more than one, after `limit`.
    pub async fn webhook_at(&self, url: &str, limit: Duration) -> anyhow::Result<RemoteWebhook> {
        eventually(&format!("one webhook at {url}"), limit, || async {
            let all = self.webhooks().await?;
            let here: Vec<_> = all.iter().filter(|w| w.url == url).collect();
            match here[..] {
                [one] => Ok(one.clone()),
                _ => anyhow::bail!("{} there, {} in all", here.len(), all.len()),
            }
        })
        .await
    }

    /// Changes a remote webhook behind the operator's back.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn patch_webhook(&self, id: &str, change: Value) -> anyhow::Result<()> {
        let url = self.url(&format!("webhooks/{id}"));
        done(self.http.patch(url).json(&change)).await
    }

    /// Deletes a remote webhook behind the operator's back.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn delete_webhook(&self, id: &str) -> anyhow::Result<()> {
        done(self.http.delete(self.url(&format!("webhooks/{id}")))).await
    }

    /// The ledger after a position; 0 is its beginning.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn ledger(&self, after: u64) -> anyhow::Result<Ledger> {
        json_of(self.http.get(self.url(&format!("ledger?after={after}")))).await
    }

    /// The present end of the ledger, to look at what comes after.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn mark(&self) -> anyhow::Result<u64> {
        Ok(self.ledger(0).await?.next)
    }

    /// Waits until every delivery in `sent` was answered 200.
    ///
    /// # Errors
    /// When one was not within `limit`, with what became of its attempts.
    pub async fn delivered(&self, sent: &[Sent], limit: Duration) -> anyhow::Result<()> {
        eventually("every delivery to be answered 200", limit, || async {
            let ledger = self.ledger(0).await?;
            let attempts = ledger.deliveries();
            for one in sent {
                let mine = || attempts.iter().filter(|d| d.delivery_id == one.delivery_id);
                if !mine().any(|d| d.status == Some(200)) {
                    let seen: Vec<_> = mine().map(|d| (d.status, d.error.clone())).collect();
                    anyhow::bail!("{}: {seen:?}", one.delivery_id);
                }
            }
            Ok(())
        })
        .await
    }

    /// All deliveries with their attempts, as the sandbox prints them.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn deliveries(&self) -> anyhow::Result<Value> {
        json_of(self.http.get(self.url("deliveries"))).await
    }

    /// How the sandbox behaves where CHeKT's documents are silent.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn quirks(&self) -> anyhow::Result<Value> {
        json_of(self.http.get(self.url("quirks"))).await
    }

    /// Changes that.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn set_quirks(&self, quirks: Value) -> anyhow::Result<()> {
        done(self.http.put(self.url("quirks")).json(&quirks)).await
    }

    /// Sets the faults that are to come, in place of all before.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn set_faults(&self, faults: &[Fault]) -> anyhow::Result<()> {
        done(self.http.put(self.url("faults")).json(&faults)).await
    }

    /// Takes all faults away.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn clear_faults(&self) -> anyhow::Result<()> {
        done(self.http.delete(self.url("faults"))).await
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn reset(&self) -> anyhow::Result<()> {
        done(self.http.post(self.url("reset"))).await
    }

    fn url(&self, route: &str) -> String {
        format!("{}/sandbox/{route}", self.base)
    }
}

async fn json_of<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> anyhow::Result<T> {
    let answer = request.send().await?;
    let (status, url) = (answer.status(), answer.url().clone());
    let text = answer.text().await?;
    anyhow::ensure!(
        status.is_success(),
        "{url} answered {status}: {}",
        text.trim()
    );
    serde_json::from_str(&text).map_err(|e| anyhow::anyhow!("{url} answered {text:?}: {e}"))
}

async fn done(request: reqwest::RequestBuilder) -> anyhow::Result<()> {
    let answer = request.send().await?;
    let (status, url) = (answer.status(), answer.url().clone());
    let text = answer.text().await?;
    anyhow::ensure!(
        status.is_success(),
        "{url} answered {status}: {}",
        text.trim()
    );
    Ok(())
}
