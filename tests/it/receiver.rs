//! The receiver over real HTTP and with a real journal, as far as no API server is needed: what is answered, and
//! what is on disk when the answer is 200.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chekt_operator::delivery::profile;
use chekt_operator::delivery::received::Known;
use chekt_operator::journal::{self, Feed, Journal, Limits as JournalLimits, State};
use chekt_operator::ops::metrics::Table;
use chekt_operator::receiver::body::Allowance;
use chekt_operator::receiver::ingest::Ingest;
use chekt_operator::receiver::keyring::{Index, Webhook};
use chekt_operator::receiver::metrics::{self, Metrics};
use chekt_operator::receiver::origin::{Origins, range};
use chekt_operator::receiver::server::{self, Door, Limits};
use chekt_operator::receiver::status::Reports;
use chekt_operator::resources::keyring::{Key, Keyring, SigningSecret, WebhookIdentity};
use hmac::{Hmac, KeyInit, Mac};
use prometheus_client::registry::Registry;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const SECRET: &[u8] = b"test-secret-1";
pub(crate) const PATH: &str = "/webhooks/security/alarms";
pub(crate) const ALARM: &str = r#"{"event":"alarm.triggered","webhook_id":"webhook_abc123","timestamp":"2024-01-15T14:20:00Z","data":{"alarm_id":"alarm_xyz789"}}"#;

/// A receiver on a port of its own, with one webhook whose keyring is there.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    pub(crate) index: watch::Sender<Index>,
    pub(crate) journal: Journal,
    feed: Feed,
    registry: Registry,
    pub(crate) leaving: CancellationToken,
    pub(crate) end: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    pub(crate) http: reqwest::Client,
    _dir: tempfile::TempDir,
}

fn identity(name: &str) -> WebhookIdentity {
    WebhookIdentity {
        namespace: "security".into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
    }
}

pub(crate) fn webhook(name: &str) -> Webhook {
    Webhook {
        identity: identity(name),
        known: Known::default(),
        deliveries: None,
        version: None,
    }
}

pub(crate) fn keyring(name: &str) -> Keyring {
    Keyring {
        current: Some(Key {
            id: "key-1".into(),
            secret: SigningSecret::new(SECRET.to_vec()).unwrap(),
        }),
        ..Keyring::empty(identity(name))
    }
}

pub(crate) fn sign(body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    format!("sha256={}", data_encoding::HEXLOWER.encode(&digest))
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::start_with(JournalLimits::default(), Limits::default()).await
    }

    pub(crate) async fn limited(limits: Limits) -> Self {
        Self::start_with(JournalLimits::default(), limits).await
    }

    async fn start_with(journal_limits: JournalLimits, limits: Limits) -> Self {
        Self::behind(journal_limits, Door::open(limits), Origins::default()).await
    }

    pub(crate) async fn behind(
        journal_limits: JournalLimits,
        door: Door,
        origins: Origins,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = journal::Options {
            limits: journal_limits,
            sink: false,
        };
        let (journal, feed) = Journal::start(dir.path(), options).unwrap();
        let mut state = journal.state();
        let open = state.wait_for(|state| *state == State::Open);
        open.await.unwrap();
        let mut index = Index::new(1);
        index.webhooks_begin(0);
        index.put_webhook(0, webhook("alarms"));
        index.webhooks_complete(0, None);
        index
            .put_keyring(&keyring("alarms").to_secret("ops"))
            .unwrap();
        index.keyrings_complete();
        let (index, indexed) = watch::channel(index);
        let mut table = Table::new(metrics::PREFIX);
        let ingest = Ingest {
            profile: profile::PARTNER,
            origins,
            bodies: Allowance::default(),
            index: indexed,
            journal: journal.clone(),
            reports: Reports::default(),
            metrics: Metrics::register(&mut table),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (leaving, end) = (door.leaving.clone(), door.end.clone());
        let served = tokio::spawn(server::serve(listener, Arc::new(ingest), door));
        Receiver {
            address,
            index,
            journal,
            feed,
            registry: table.into_registry(),
            leaving,
            end,
            served,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            _dir: dir,
        }
    }

    pub(crate) fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> reqwest::RequestBuilder {
        let body = body.into();
        self.http
            .post(format!("http://{}{path}", self.address))
            .header("X-Webhook-Signature", sign(&body))
            .body(body)
    }

    pub(crate) async fn answer(&self, request: reqwest::RequestBuilder) -> StatusCode {
        request.send().await.unwrap().status()
    }

    pub(crate) fn metrics_text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    fn counted(&self, outcome: &str) -> bool {
        let text = self.metrics_text();
        let series = format!("chekt_receiver_deliveries_total{{outcome=\"{outcome}\"}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&series));
        count.is_some_and(|count| count != "0")
    }

    /// Sends bytes as they are and reads until the server has nothing more to say.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .expect("the connection ends");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn a_signed_alarm_is_on_disk_when_the_answer_is_200() {
    let mut receiver = Receiver::start().await;
    let status = receiver.answer(receiver.post(PATH, ALARM)).await;
    assert_eq!(status, StatusCode::OK);
    let entry = receiver.feed.try_recv().unwrap();
    let loaded = receiver.journal.load(entry.waiting.seq).await;
    let on_disk = loaded.unwrap().unwrap();
    assert_eq!(on_disk.body, ALARM.as_bytes());
    assert_eq!(on_disk.key_id, "key-1");
    assert_eq!(on_disk.webhook, identity("alarms"));
}

#[tokio::test]
async fn the_same_delivery_four_times_is_four_times_200_and_one_record() {
    let mut receiver = Receiver::start().await;
    for _ in 0..4 {
        let status = receiver.answer(receiver.post(PATH, ALARM)).await;
        assert_eq!(status, StatusCode::OK);
    }
    assert_eq!(receiver.journal.depth().pending, 1);
    assert!(receiver.feed.try_recv().is_ok());
    assert!(receiver.feed.try_recv().is_err());
    assert!(receiver.counted("duplicate"));
}

#[tokio::test]
async fn a_valid_signature_earns_200_whatever_the_body() {
    let receiver = Receiver::start().await;
    let bodies: [&[u8]; 7] = [
        b"{ \"event\" : \"alarm.triggered\" }",
        br#"{"event":"door.opened","data":{"x":1}}"#,
        br#"{"event":"alarm.triggered","webhook_id":"somebody-elses"}"#,
        b"{broken",
        b"",
        b"\xff\xfe",
        b"[1,2,3]",
    ];
    for body in bodies {
        let status = receiver.answer(receiver.post(PATH, body)).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(receiver.journal.depth().pending, 7);
}

#[tokio::test]
async fn unknown_path_wrong_and_missing_signature_get_the_same_answer() {
    let receiver = Receiver::start().await;
    let url = |path: &str| format!("http://{}{path}", receiver.address);
    let mut answers = Vec::new();
    for request in [
        receiver.post("/webhooks/security/others", ALARM),
        receiver.post("/", ALARM),
        receiver.post("/webhooks/security/alarms/x", ALARM),
        receiver.post("/webhooks/security/Alarms", ALARM),
        receiver.post("/healthz", ALARM),
        receiver.http.post(url(PATH)).body(ALARM),
        receiver
            .http
            .post(url(PATH))
            .header("X-Webhook-Signature", "sha256=zz")
            .body(ALARM),
        receiver
            .http
            .post(url(PATH))
            .header("X-Webhook-Signature", sign(b"another body"))
            .body(ALARM),
    ] {
        let response = request.send().await.unwrap();
        let status = response.status();
        let mut headers: Vec<String> = response
            .headers()
            .iter()
            .filter(|(name, _)| *name != "date")
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        headers.sort();
        answers.push((status, headers, response.text().await.unwrap()));
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(receiver.journal.depth().pending, 0);
}

#[tokio::test]
async fn every_spelling_of_a_valid_signature_is_accepted() {
    let receiver = Receiver::start().await;
    let good = sign(ALARM.as_bytes());
    let bare = good.trim_start_matches("sha256=").to_owned();
    let wrong = format!("sha256={}", "0".repeat(64));
    let headers = [
        vec![good.clone()],
        vec![bare.to_uppercase()],
        vec![wrong.clone(), good.clone()],
        vec![good.clone(), wrong.clone()],
        vec![format!("{wrong}, {bare}")],
    ];
    for values in headers {
        let mut request = receiver
            .http
            .post(format!("http://{}{PATH}", receiver.address))
            .body(ALARM);
        for value in &values {
            request = request.header("x-webhook-signature", value);
        }
        assert_eq!(receiver.answer(request).await, StatusCode::OK, "{values:?}");
    }
}

#[tokio::test]
async fn a_large_body_gets_413_and_is_not_read() {
    let receiver = Receiver::start().await;
    let status = receiver
        .answer(receiver.post(PATH, vec![b'x'; 300 * 1024]))
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // Announced and never sent: whoever waited for the body would wait for ever.
    let began = Instant::now();
    let answer = receiver
        .raw(
            format!("POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 307200\r\n\r\n").as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(2));
    // The largest that is allowed.
    let status = receiver
        .answer(receiver.post(PATH, vec![b'x'; 256 * 1024]))
        .await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_chunked_body_is_capped_while_it_is_read() {
    let receiver = Receiver::start().await;
    let body = vec![b'x'; 300 * 1024];
    let chunked = |body: Vec<u8>| {
        let mut bytes = format!(
            "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Webhook-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            sign(&body)
        )
        .into_bytes();
        for chunk in body.chunks(10_000) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    };
    let answer = receiver.raw(&chunked(body)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer = receiver.raw(&chunked(vec![b'y'; 30_000])).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn other_methods_get_405_and_a_content_coding_costs_no_200() {
    let receiver = Receiver::start().await;
    let url = format!("http://{}{PATH}", receiver.address);
    let response = receiver.http.get(&url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "POST");
    let packed = receiver
        .post(PATH, ALARM)
        .header("Content-Encoding", "gzip");
    assert_eq!(receiver.answer(packed).await, StatusCode::OK);
}

#[tokio::test]
async fn a_valid_signature_earns_200_whatever_the_path_and_the_other_headers_look_like() {
    let receiver = Receiver::start().await;
    let targets = [
        PATH.to_owned(),
        format!("{PATH}/"),
        format!("/{PATH}"),
        format!("{PATH}?a=b&c=/d"),
        format!("http://elsewhere.example{PATH}"),
        "/webhooks/security/al%61rms".to_owned(),
        "/%77ebhooks/security%2Falarms".to_owned(),
        "/webhooks/./x/../security/alarms".to_owned(),
    ];
    let headers = [
        "Content-Encoding: gzip",
        "Content-Encoding: br",
        "Content-Encoding: utf-8",
        "Content-Encoding:",
        "Content-Encoding: identity, gzip",
        "Content-Encoding: gzip\r\nContent-Encoding: zstd",
        "Content-Encoding: \u{e4}",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type:",
        "Content-Type: a/b\r\nContent-Type: c/d",
        "Content-Language: en",
        "Content-MD5: x",
        "Digest: sha-256=x",
        "Accept: text/html",
        "Accept-Encoding: gzip;q=x",
        "Expect: 100-continue",
        "Expect: nonsense",
        "Expect:",
        "Upgrade: websocket",
        "Connection: upgrade, x",
        "Transfer-Encoding: identity",
        "TE: trailers",
        "Trailer: X",
        "Range: bytes=1-2",
        "If-Match: x",
        "If-None-Match: *",
        "Authorization: Basic x",
        "Cookie: a=b\r\nCookie: a=b",
        "X-HTTP-Method-Override: GET",
        "X-Forwarded-For: nonsense",
        "Forwarded: nonsense",
        "Host: second.example",
        "Origin: null",
        "X-Webhook-Signature: sha256=00",
        "X-Webhook-Signature: nonsense",
        "Max-Forwards: 0",
        "Date: yesterday",
        "X-Empty:",
        "X-Long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];
    let plain = targets.iter().map(|target| (target.as_str(), "X-A: b"));
    let cases = plain.chain(headers.into_iter().map(|header| (PATH, header)));
    let mut wrong = Vec::new();
    let mut sent = 0;
    for (target, header) in cases {
        for chunked in [false, true] {
            sent += 1;
            let body =
                format!(r#"{{"event":"alarm.triggered","data":{{"alarm_id":"odd-{sent}"}}}}"#);
            let signature = sign(body.as_bytes());
            // hyper knows no other coding of a transfer than chunks, and says so.
            if header.starts_with("Transfer-Encoding") && !chunked {
                sent -= 1;
                continue;
            }
            let (length, body) = if chunked {
                let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
                ("Transfer-Encoding: chunked".to_owned(), chunks)
            } else {
                (format!("Content-Length: {}", body.len()), body)
            };
            let request = format!(
                "POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\nX-Webhook-Signature: {signature}\r\n{length}\r\n\r\n{body}"
            );
            let answer = receiver.raw(request.as_bytes()).await;
            let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
            if !answer.starts_with("HTTP/1.1 200 ") {
                wrong.push(format!("{target} {header} {chunked}: {answer}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let written = receiver.journal.depth().pending;
    assert_eq!(written, sent, "not every delivery is there");
}

#[tokio::test]
async fn a_health_check_is_answered_200_whoever_asks_and_is_no_delivery() {
    let origins = Origins {
        allowed: vec![range("192.0.2.0/24").unwrap()],
        ..Origins::default()
    };
    let door = Door::open(Limits::default());
    let receiver = Receiver::behind(JournalLimits::default(), door, origins).await;
    for request in [
        "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: GoogleHC/1.0\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.0\r\n\r\n",
        "GET /healthz?x=y HTTP/1.1\r\nHost: [fd00::1]\r\nConnection: close\r\n\r\n",
    ] {
        let answer = receiver.raw(request.as_bytes()).await;
        assert!(
            answer.contains(" 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"),
            "{request}: {answer}"
        );
        let head = receiver
            .raw(request.replacen("GET", "HEAD", 1).as_bytes())
            .await;
        assert!(
            head.contains(" 200 OK\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    }
    let delivered = receiver.metrics_text();
    let mut counts = delivered
        .lines()
        .filter(|line| line.starts_with("chekt_receiver_deliveries_total"));
    assert!(counts.all(|line| line.ends_with(" 0")), "{delivered}");
}

#[tokio::test]
async fn a_keyring_that_arrives_within_two_seconds_is_waited_for() {
    let receiver = Receiver::start().await;
    receiver
        .index
        .send_modify(|index| index.put_webhook(0, webhook("fresh")));
    let request = receiver.post("/webhooks/security/fresh", ALARM).send();
    let request = tokio::spawn(request);
    let deadline = Instant::now() + Duration::from_secs(5);
    // The request holds a receiver of its own once it waits.
    while receiver.index.receiver_count() < 2 {
        assert!(Instant::now() < deadline, "nobody waits");
        tokio::task::yield_now().await;
    }
    assert!(!request.is_finished());
    receiver.index.send_modify(|index| {
        index
            .put_keyring(&keyring("fresh").to_secret("ops"))
            .unwrap();
    });
    let response = request.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_new_webhook_without_a_keyring_gets_401_after_two_seconds() {
    let receiver = Receiver::start().await;
    receiver
        .index
        .send_modify(|index| index.put_webhook(0, webhook("fresh")));
    let began = Instant::now();
    let status = receiver
        .answer(receiver.post("/webhooks/security/fresh", ALARM))
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1_900) && took < Duration::from_secs(4),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_changed_keyring_is_in_force_with_the_next_request() {
    let receiver = Receiver::start().await;
    receiver.index.send_modify(|index| {
        let mut changed = keyring("alarms");
        changed.next = changed.current.replace(Key {
            id: "key-2".into(),
            secret: SigningSecret::new(b"another".to_vec()).unwrap(),
        });
        index.put_keyring(&changed.to_secret("ops")).unwrap();
    });
    assert_eq!(
        receiver.answer(receiver.post(PATH, ALARM)).await,
        StatusCode::OK
    );
    receiver.index.send_modify(|index| {
        let mut changed = keyring("alarms");
        changed.current = None;
        index.put_keyring(&changed.to_secret("ops")).unwrap();
    });
    assert_eq!(
        receiver.answer(receiver.post(PATH, ALARM)).await,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_full_journal_and_a_closed_one_answer_503() {
    let limits = JournalLimits {
        max_records: 1,
        ..JournalLimits::default()
    };
    let receiver = Receiver::start_with(limits, Limits::default()).await;
    let post = |body: &'static str| receiver.answer(receiver.post(PATH, body));
    assert_eq!(post("one").await, StatusCode::OK);
    assert_eq!(post("two").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(post("one").await, StatusCode::OK, "a copy costs no room");
    assert!(receiver.counted("journal_full"));
    receiver.journal.close().await;
    assert_eq!(post("one").await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(receiver.counted("journal_failed"));
}

#[tokio::test]
async fn who_says_nothing_or_half_a_header_is_cut_off() {
    let mut limits = Limits::default();
    limits.patience.headers = Duration::from_millis(300);
    let receiver = Receiver::limited(limits).await;
    for start in ["", "P", "PRI * HTTP/2", "POST / HTTP/1.1\r\nHost: x\r\nX-A"] {
        let began = Instant::now();
        let answer = receiver.raw(start.as_bytes()).await;
        assert!(!answer.contains(" 200 "), "{start:?}: {answer}");
        assert!(began.elapsed() < Duration::from_secs(5), "{start:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_gets_408_within_four_seconds() {
    let receiver = Receiver::start().await;
    let began = Instant::now();
    let answer = receiver
        .raw(
            format!(
                "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Webhook-Signature: {}\r\nContent-Length: 100\r\n\r\nhalf",
                sign(b"x")
            )
            .as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(began.elapsed() < Duration::from_millis(4_900));
}

#[tokio::test]
async fn a_request_in_flight_is_finished_when_the_end_is_asked_for() {
    let receiver = Receiver::start().await;
    receiver
        .index
        .send_modify(|index| index.put_webhook(0, webhook("fresh")));
    let request = tokio::spawn(receiver.post("/webhooks/security/fresh", ALARM).send());
    while receiver.index.receiver_count() < 2 {
        tokio::task::yield_now().await;
    }
    receiver.end.cancel();
    receiver.index.send_modify(|index| {
        index
            .put_keyring(&keyring("fresh").to_secret("ops"))
            .unwrap();
    });
    assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
    receiver.served.await.unwrap();
    assert!(TcpStream::connect(receiver.address).await.is_err());
}

#[tokio::test]
async fn http_2_is_spoken_too() {
    let receiver = Receiver::start().await;
    let http2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let status = http2
        .post(format!("http://{}{PATH}", receiver.address))
        .header("X-Webhook-Signature", sign(ALARM.as_bytes()))
        .body(ALARM)
        .send()
        .await
        .unwrap()
        .status();
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_sender_that_asks_first_is_told_to_go_on_only_if_it_has_a_chance() {
    let receiver = Receiver::start().await;
    let ask = |length: usize, signature: &str| {
        format!(
            "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n\
             X-Webhook-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let large = receiver.raw(ask(307_200, &sign(b"x")).as_bytes()).await;
    assert!(large.starts_with("HTTP/1.1 413 "), "{large}");
    let unsigned = receiver.raw(ask(ALARM.len(), "none").as_bytes()).await;
    assert!(unsigned.starts_with("HTTP/1.1 401 "), "{unsigned}");

    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    let asked = ask(ALARM.len(), &sign(ALARM.as_bytes()));
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(ALARM.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_refused_sender_that_is_still_sending_reads_the_answer_and_no_reset() {
    let receiver = Receiver::start().await;
    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 307200\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer is there, and the sender has not looked yet.
    stream.readable().await.unwrap();
    for _ in 0..30 {
        stream.write_all(&[b'x'; 10_240]).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}
