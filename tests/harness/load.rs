//! A sender under load: signed deliveries at a steady rate over a few connections, and a record of what became of each.
//!
//! The loop is open: a delivery is due at its time whether or not those before it were answered, as alarms are. And
//! nothing is sent again behind our back: each connection is hyper's own and not a pool's, so that what a receiver
//! breaks is on record as broken. A second attempt is made only where a test asks for it, after CHeKT's pauses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// For how long CHeKT waits for an answer (webhook-setup-guide, "Prerequisites").
const PATIENCE: Duration = Duration::from_secs(5);

/// CHeKT's pauses before its second, third and fourth attempt, in milliseconds.
const RETRIES: [u32; 3] = [5_000, 30_000, 300_000];

/// CHeKT's pauses before its second, third and fourth attempt, by a factor: 0.01 makes 50 ms of 5 s.
pub fn retries(scale: f64) -> Vec<Duration> {
    RETRIES
        .map(|pause| Duration::from_secs_f64(f64::from(pause) / 1_000.0 * scale))
        .to_vec()
}

/// One delivery as it is sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// By what its Event is known: the `alarm_id`, or the digest of the body where it has none. Copies share it.
    pub id: String,
    /// The bytes.
    pub body: String,
    /// The value of the signature header.
    pub signature: String,
}

/// `sha256=` and the HMAC of a body, made here and not by the code under test.
pub fn sign(secret: &str, body: &str) -> String {
    sign_bytes(secret, body.as_bytes())
}

/// The same of a body that may be no text.
#[expect(clippy::unwrap_used, reason = "HMAC takes a key of any length")]
pub fn sign_bytes(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!(
        "sha256={}",
        data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
    )
}

/// An alarm with this id, signed.
pub fn alarm(secret: &str, id: &str) -> Delivery {
    let body = json!({
        "event": "alarm.triggered",
        "webhook_id": "webhook_abc123",
        "timestamp": "2024-01-15T14:20:00Z",
        "data": {"alarm_id": id, "site_id": "site_123", "device_id": "device_456", "zone": "Front Door"},
    })
    .to_string();
    Delivery {
        id: id.to_owned(),
        signature: sign(secret, &body),
        body,
    }
}

/// What is to be sent, and how.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to connect to.
    pub to: SocketAddr,
    /// The path of the webhook.
    pub path: String,
    /// Deliveries that are due in a second.
    pub per_second: u32,
    /// Connections, each kept for as long as both sides keep it. They take turns.
    pub connections: usize,
    /// How many deliveries at most.
    pub most: usize,
    /// The pause before each further attempt; empty for a single one.
    pub retries: Vec<Duration>,
}

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// An answer with this status.
    Status(u16),
    /// None, and why not.
    Broken(String),
}

/// One attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it ended, since the start of the load.
    pub at: Duration,
    /// What came of it.
    pub answer: Answer,
}

/// One delivery and what became of it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// By what its Event is known.
    pub id: String,
    /// When it was due, since the start of the load.
    pub due: Duration,
    /// The attempts, one at least.
    pub attempts: Vec<Attempt>,
}

impl Sent {
    /// Whether a 200 was seen. Nothing else is an acknowledgement.
    pub fn acknowledged(&self) -> bool {
        self.attempts
            .iter()
            .any(|attempt| attempt.answer == Answer::Status(200))
    }
}

/// Every delivery that was sent, in the order in which they were due.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// All of them; copies are deliveries of their own.
    pub sent: Vec<Sent>,
}

impl Record {
    /// The ids of what was acknowledged.
    pub fn acknowledged(&self) -> BTreeSet<&str> {
        let acknowledged = self.sent.iter().filter(|sent| sent.acknowledged());
        acknowledged.map(|sent| sent.id.as_str()).collect()
    }

    /// The ids of all that was sent.
    pub fn ids(&self) -> BTreeSet<&str> {
        self.sent.iter().map(|sent| sent.id.as_str()).collect()
    }

    /// How many attempts had which answer.
    pub fn answers(&self) -> BTreeMap<Answer, usize> {
        let mut answers = BTreeMap::new();
        for attempt in self.sent.iter().flat_map(|sent| &sent.attempts) {
            *answers.entry(attempt.answer.clone()).or_default() += 1;
        }
        answers
    }

    /// The answers other than 200, each with the time at which it came and the delivery.
    pub fn faults(&self) -> Vec<String> {
        let attempts = self
            .sent
            .iter()
            .flat_map(|sent| sent.attempts.iter().map(move |attempt| (sent, attempt)));
        let faults = attempts.filter(|(_, attempt)| attempt.answer != Answer::Status(200));
        faults
            .map(|(sent, a)| format!("{} after {:?}: {:?}", sent.id, a.at, a.answer))
            .collect()
    }

    /// The longest time from a delivery's being due to the answer of its first attempt.
    pub fn slowest(&self) -> Duration {
        let waits = self.sent.iter().filter_map(|sent| {
            let first = sent.attempts.first()?;
            Some(first.at.saturating_sub(sent.due))
        });
        waits.max().unwrap_or_default()
    }
}

/// A load that is under way. It ends by itself: its count, its attempts and each attempt's time are bounded.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    acknowledged: watch::Receiver<usize>,
    task: JoinHandle<anyhow::Result<Record>>,
}

impl Load {
    /// Starts to send what `make` gives for each number.
    pub fn start(self, make: impl FnMut(usize) -> Delivery + Send + 'static) -> Running {
        let stop = CancellationToken::new();
        let (count, acknowledged) = watch::channel(0);
        let task = tokio::spawn(drive(Arc::new(self), make, stop.clone(), count));
        Running {
            stop,
            acknowledged,
            task,
        }
    }
}

impl Running {
    /// Waits until `more` attempts have been acknowledged from now on.
    ///
    /// # Errors
    /// When they have not within `limit`.
    pub async fn acknowledge(&mut self, more: usize, limit: Duration) -> anyhow::Result<()> {
        let wanted = *self.acknowledged.borrow() + more;
        let counted = self.acknowledged.wait_for(|count| *count >= wanted);
        match tokio::time::timeout(limit, counted).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => anyhow::bail!("the load ended before it had {wanted} answers of 200"),
            Err(_) => anyhow::bail!("no {more} answers of 200 within {limit:?}"),
        }
    }

    /// Sends nothing new, lets what is under way come to its end, and gives back the record.
    ///
    /// # Errors
    /// When the sender itself failed.
    pub async fn finish(self) -> anyhow::Result<Record> {
        self.stop.cancel();
        self.all().await
    }

    /// Waits until everything was sent, and gives back the record.
    ///
    /// # Errors
    /// When the sender itself failed.
    pub async fn all(self) -> anyhow::Result<Record> {
        self.task.await.context("the load")?
    }
}

async fn drive(
    load: Arc<Load>,
    mut make: impl FnMut(usize) -> Delivery,
    stop: CancellationToken,
    acknowledged: watch::Sender<usize>,
) -> anyhow::Result<Record> {
    let start = Instant::now();
    let lines = Arc::new(Lines::new(&load));
    let acknowledged = Arc::new(acknowledged);
    let mut under_way = JoinSet::new();
    for number in 0..load.most {
        let number = u32::try_from(number).context("too many deliveries")?;
        let due = Duration::from_secs(1) * number / load.per_second.max(1);
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(start + due) => {}
        }
        let delivery = make(number as usize);
        let (load, lines, acknowledged) = (load.clone(), lines.clone(), acknowledged.clone());
        under_way.spawn(async move {
            let mut sent = Sent {
                id: delivery.id.clone(),
                due,
                attempts: Vec::new(),
            };
            let mut pauses = load.retries.iter();
            loop {
                let answer = lines.send(&load, &delivery).await;
                let taken = answer == Answer::Status(200);
                sent.attempts.push(Attempt {
                    at: start.elapsed(),
                    answer,
                });
                if taken {
                    acknowledged.send_modify(|count| *count += 1);
                    return sent;
                }
                match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return sent,
                }
            }
        });
    }
    let mut record = Record::default();
    while let Some(sent) = under_way.join_next().await {
        record.sent.push(sent?);
    }
    record.sent.sort_by_key(|sent| sent.due);
    Ok(record)
}

/// The connections, used in turn.
struct Lines {
    free: Mutex<VecDeque<Option<SendRequest<Full<Bytes>>>>>,
    room: Semaphore,
}

impl Lines {
    fn new(load: &Load) -> Self {
        let connections = load.connections.max(1);
        Lines {
            free: Mutex::new((0..connections).map(|_| None).collect()),
            room: Semaphore::new(connections),
        }
    }

    async fn send(&self, load: &Load, delivery: &Delivery) -> Answer {
        let Ok(_one_of_them) = self.room.acquire().await else {
            return Answer::Broken("no connection to send on".to_owned());
        };
        let mut line = self.lock().pop_front().flatten();
        let exchange = exchange(&mut line, load, delivery);
        let answer = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(status)) => Answer::Status(status),
            Ok(Err(error)) => Answer::Broken(format!("{error:#}")),
            Err(_) => Answer::Broken(format!("no answer within {PATIENCE:?}")),
        };
        self.lock().push_back(line);
        answer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Option<SendRequest<Full<Bytes>>>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request and its answer, over the connection that there is, or a new one. It is kept only if all went well.
async fn exchange(
    line: &mut Option<SendRequest<Full<Bytes>>>,
    load: &Load,
    delivery: &Delivery,
) -> anyhow::Result<u16> {
    let request = http::Request::post(&load.path)
        .header("host", load.to.to_string())
        .header("content-type", "application/json")
        .header("x-webhook-signature", &delivery.signature)
        .body(Full::new(Bytes::from(delivery.body.clone())))?;
    // A connection that was closed while nobody used it is no fault; one that breaks under a request is.
    let mut sender = match line.take() {
        Some(mut kept) => match kept.ready().await {
            Ok(()) => kept,
            Err(_) => connect(load.to).await?,
        },
        None => connect(load.to).await?,
    };
    let answer = sender.send_request(request).await.context("sending")?;
    let status = answer.status().as_u16();
    if answer.into_body().collect().await.is_ok() {
        *line = Some(sender);
    }
    Ok(status)
}

async fn connect(to: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // How it ends is what the sender is told by its request.
        let _ = connection.await;
    });
    Ok(sender)
}
