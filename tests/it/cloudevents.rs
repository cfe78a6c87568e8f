//! The second sink: every acknowledged delivery arrives there at least once, with one id, whatever the sink does; and
//! the Events know nothing of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::harness::eventually::throughout;
use crate::harness::{Identity, Lone, eventually};

const SOON: Duration = Duration::from_secs(30);

/// What the sink does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Takes,
    Breaks,
    Hangs,
    AsksForAPause,
    RefusesBombs,
}

/// One request that the sink was sent.
#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    headers: HeaderMap,
    body: Vec<u8>,
    taken: bool,
}

#[derive(Clone)]
struct Shared {
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Somebody's event broker.
struct Broker {
    address: SocketAddr,
    shared: Shared,
    serving: JoinHandle<()>,
}

impl Broker {
    async fn open(mood: Mood) -> anyhow::Result<Broker> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Shared {
            mood: Arc::new(Mutex::new(mood)),
            seen: Arc::default(),
        };
        let router = Router::new().fallback(receive).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Broker {
            address,
            shared,
            serving,
        })
    }

    fn url(&self) -> String {
        format!("http://{}/events?key=k3y-in-the-url", self.address)
    }

    fn set(&self, mood: Mood) {
        *self
            .shared
            .mood
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = mood;
    }

    fn seen(&self) -> Vec<Seen> {
        let seen = self.shared.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often each body was taken, and under which ids.
    fn taken(&self) -> BTreeMap<Vec<u8>, Vec<String>> {
        let mut taken: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for seen in self.seen().into_iter().filter(|seen| seen.taken) {
            let id = seen.headers.get("ce-id").and_then(|id| id.to_str().ok());
            let ids = taken.entry(seen.body).or_default();
            ids.push(id.unwrap_or_default().to_owned());
        }
        taken
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap) {
    let mood = *shared.mood.lock().unwrap_or_else(PoisonError::into_inner);
    let mut answer = HeaderMap::new();
    let status = match mood {
        Mood::Takes => StatusCode::ACCEPTED,
        Mood::Breaks => StatusCode::INTERNAL_SERVER_ERROR,
        Mood::Hangs => StatusCode::GATEWAY_TIMEOUT,
        Mood::AsksForAPause => {
            answer.insert("retry-after", http::HeaderValue::from_static("2"));
            StatusCode::SERVICE_UNAVAILABLE
        }
        Mood::RefusesBombs if body.windows(4).any(|word| word == b"bomb") => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Mood::RefusesBombs => StatusCode::OK,
    };
    let seen = Seen {
        at: Instant::now(),
        headers,
        body: body.to_vec(),
        taken: status.is_success(),
    };
    shared
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(seen);
    if mood == Mood::Hangs {
        std::future::pending::<()>().await;
    }
    (status, answer)
}

async fn lone(idea: &str, broker: &Broker, more: &[&str]) -> anyhow::Result<Lone> {
    let url = broker.url();
    let mut flags = vec!["--cloudevents-url", &url];
    flags.extend(more);
    Lone::start(idea, &["alarms"], Identity::Admin, &flags).await
}

/// Waits until the sink has so many different bodies.
async fn until_taken(broker: &Broker, count: usize) -> anyhow::Result<()> {
    eventually("the sink to have all", Duration::from_secs(60), || async {
        let taken = broker.taken().len();
        anyhow::ensure!(taken == count, "{taken} of {count}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_sink_that_fails_hangs_and_asks_for_a_pause_has_every_delivery_in_the_end_and_events_do_not_wait()
-> anyhow::Result<()> {
    let broker = Broker::open(Mood::Breaks).await?;
    let mut lone = lone("sink", &broker, &[]).await?;
    lone.post_alarms("alarms", 40).await?;
    lone.post("alarms", "no json").await?;
    // The Events are there while the sink has taken nothing.
    let within = Duration::from_secs(15);
    lone.users
        .events_with_reason("alarms", "AlarmTriggered", 40, within)
        .await?;
    lone.users
        .events_with_reason("alarms", "DeliveryUnreadable", 1, within)
        .await?;
    eventually("failures to be counted", SOON, || async {
        let failed = lone
            .metric("chekt_receiver_sink_failed_total{class=\"answered\"}")
            .await?;
        let lag = lone.metric("chekt_receiver_sink_lag_records").await?;
        anyhow::ensure!(failed > 0 && lag == 41, "{failed}, {lag}");
        Ok(())
    })
    .await?;
    assert!(broker.taken().is_empty());

    // Killed while it waits, and again while nobody answers: what was acknowledged is still sent.
    lone.receiver.kill9()?;
    broker.set(Mood::Hangs);
    lone.receiver.restart().await?;
    lone.receiver.ready(SOON).await?;
    let before = broker.seen().len();
    eventually("requests that hang", SOON, || async {
        let seen = broker.seen().len();
        anyhow::ensure!(seen > before, "{seen}");
        Ok(())
    })
    .await?;
    lone.post_alarms("alarms", 10).await?;
    lone.users
        .events_with_reason("alarms", "AlarmTriggered", 50, within)
        .await?;
    lone.receiver.kill9()?;

    broker.set(Mood::AsksForAPause);
    let before = broker.seen().len();
    lone.receiver.restart().await?;
    lone.receiver.ready(SOON).await?;
    eventually("a pause to be asked for twice", SOON, || async {
        let throttled = "chekt_receiver_sink_failed_total{class=\"throttled\"}";
        let first = broker.seen().get(before).map(|seen| seen.at);
        let waited = first.is_some_and(|at| at.elapsed() > Duration::from_secs(3));
        anyhow::ensure!(lone.metric(throttled).await? > 0 && waited, "not yet");
        Ok(())
    })
    .await?;
    let asked = broker.seen().split_off(before);
    // Those that were under way at first, and then one every two seconds.
    let late: Vec<_> = asked
        .iter()
        .filter(|seen| seen.at > asked[0].at + Duration::from_secs(1))
        .collect();
    assert!(
        asked.len() <= 4 + 2 && late.len() <= 2,
        "{} and {} requests",
        asked.len(),
        late.len()
    );

    broker.set(Mood::Takes);
    until_taken(&broker, 51).await?;
    for (body, ids) in broker.taken() {
        let body = String::from_utf8_lossy(&body);
        assert!(
            ids.iter().all(|id| *id == ids[0] && id.len() == 64),
            "{body}: {ids:?}"
        );
    }
    eventually("nothing to be behind", SOON, || async {
        let lag = lone.metric("chekt_receiver_sink_lag_records").await?;
        let age = lone.metric("chekt_receiver_sink_lag_seconds").await?;
        anyhow::ensure!((lag, age) == (0, 0), "{lag}, {age}");
        Ok(())
    })
    .await?;
    // Once everything was taken, a restart sends nothing again.
    let before = broker.seen().len();
    lone.receiver.terminate(SOON).await?;
    lone.receiver.restart().await?;
    lone.receiver.ready(SOON).await?;
    lone.post("alarms", "one more").await?;
    until_taken(&broker, 52).await?;
    assert_eq!(broker.seen().len(), before + 1);
    let log = lone.receiver.log_lines().join("\n");
    assert!(!log.contains("k3y-in-the-url"), "the url is in the log");
    // The Events were not published again for the sink's sake.
    let events = lone.users.events_of("alarms").await?;
    let alarms = events
        .iter()
        .filter(|e| e.reason.as_deref() == Some("AlarmTriggered"));
    assert_eq!(alarms.count(), 50);
    Ok(())
}

#[tokio::test]
async fn a_cloudevent_has_the_attributes_of_its_delivery_and_the_token_of_the_moment()
-> anyhow::Result<()> {
    let broker = Broker::open(Mood::Takes).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("token");
    std::fs::write(&file, "first-token\n")?;
    let file = file.display().to_string();
    let lone = lone("attributes", &broker, &["--cloudevents-token-file", &file]).await?;
    let body = r#"{"event":"alarm.triggered", "data":{"alarm_id":"Tür 7"}}"#;
    lone.post("alarms", body).await?;
    until_taken(&broker, 1).await?;
    std::fs::write(&file, "second-token\n")?;
    lone.post("alarms", "no json").await?;
    until_taken(&broker, 2).await?;
    let seen = broker.seen();
    let header = |n: usize, name: &str| seen[n].headers.get(name).and_then(|v| v.to_str().ok());
    assert_eq!(seen[0].body, body.as_bytes());
    let source = format!("/chekt.com/webhooks/{}/alarms", lone.users.namespace);
    for (name, value) in [
        ("authorization", "Bearer first-token"),
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-type", "com.chekt.alarm.triggered"),
        ("ce-source", &source),
        ("ce-subject", "T%C3%BCr%207"),
        ("ce-keyid", "key-of-alarms"),
    ] {
        assert_eq!(header(0, name), Some(value), "{name}");
    }
    let event = lone
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    let annotations = event[0].metadata.annotations.clone().unwrap_or_default();
    let key = annotations
        .get("chekt.com/delivery-key")
        .map(String::as_str);
    assert_eq!(
        header(0, "ce-id"),
        key,
        "the id is the Event's delivery key"
    );
    assert_eq!(header(1, "authorization"), Some("Bearer second-token"));
    assert_eq!(header(1, "ce-type"), Some("com.chekt.unreadable"));
    assert_eq!(header(1, "content-type"), Some("application/octet-stream"));
    let log = lone.receiver.log_lines().join("\n");
    assert!(!log.contains("first-token") && !log.contains("second-token"));
    Ok(())
}

#[tokio::test]
async fn what_the_sink_refuses_for_good_is_skipped_counted_and_told() -> anyhow::Result<()> {
    let broker = Broker::open(Mood::RefusesBombs).await?;
    let lone = lone("refuses", &broker, &["--cloudevents-mode", "structured"]).await?;
    let body = |id: &str| format!(r#"{{"event":"alarm.triggered","data":{{"alarm_id":"{id}"}}}}"#);
    for id in ["one", "bomb", "two"] {
        lone.post("alarms", body(id)).await?;
    }
    eventually("two to be taken", SOON, || async {
        let sent = lone.metric("chekt_receiver_sink_sent_total").await?;
        let skipped = lone.metric("chekt_receiver_sink_skipped_total").await?;
        anyhow::ensure!((sent, skipped) == (2, 1), "{sent}, {skipped}");
        Ok(())
    })
    .await?;
    let told = lone.logged("the sink refuses a CloudEvent for good; it is skipped");
    assert_eq!((told.len(), told[0]["status"].as_i64()), (1, Some(422)));
    throughout(
        "nothing more to be sent",
        Duration::from_secs(2),
        || async {
            let seen = broker.seen().len();
            anyhow::ensure!(seen == 3, "{seen}");
            Ok(())
        },
    )
    .await?;
    for seen in broker.seen() {
        let content = seen
            .headers
            .get("content-type")
            .and_then(|v| v.to_str().ok());
        assert_eq!(content, Some("application/cloudevents+json; charset=utf-8"));
        let event: Value = serde_json::from_slice(&seen.body)?;
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["subject"], event["data"]["data"]["alarm_id"]);
    }
    Ok(())
}
