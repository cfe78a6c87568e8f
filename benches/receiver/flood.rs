//! What valid deliveries notice of a flood, and how much memory it takes: the real receiver, all attacks at once.
//!
//! - ten forged signatures for each valid delivery, and a thousand paths that nobody has;
//! - 2,000 connections that send a byte a second, half of them in their headers and half in their body, all from one
//!   address or eight from each of 250, since a cap by address sees the one and not the other; who is cut comes back
//!   within half a second to a second and a half;
//! - bodies of 200 MB, announced or in chunks.
//!
//! Valid deliveries come on a connection of their own each, as they do from a sender that delivers rarely: whoever
//! cannot get in is as lost as one who is not answered. All of it is on loopback and ends by itself.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::keyring::WebhookIdentity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::deliveries::{Deliveries, Kind};
use crate::driver::{Outcome, Pace, Plan, Run, Stream, drive};
use crate::harness::ControlPlane;
use crate::machine;
use crate::planted::Planted;
use crate::table::{Goal, Table, mib, millis};

/// Valid deliveries a second.
const VALID: f64 = 200.0;
/// Forged ones a second.
const FORGED: f64 = 10.0 * VALID;
/// Requests a second to paths that nobody has.
const UNKNOWN: f64 = 500.0;
/// Connections that are slow.
const SLOW: u64 = 2_000;
/// Senders of huge bodies.
const HUGE: u64 = 8;
/// Bytes of such a body.
const HUGE_BODY: usize = 200_000_000;
/// Resident memory that is not exceeded, in bytes.
const CEILING: u64 = 96 * 1024 * 1024;

const PLAN: Plan = Plan {
    warm_up: Duration::from_secs(3),
    time: Duration::from_secs(10),
};

/// Measures and fills the table.
///
/// # Errors
/// When something does not start, or the receiver dies.
pub async fn measure(
    plane: &'static ControlPlane,
    run: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let planted = Planted::new(plane, &format!("bench-flood-{run}"), 1).await?;
    let webhook = &planted.webhooks[0];
    let receiving = planted.receive(&[]).await?;
    let (pid, address) = (receiving.process.id(), receiving.process.public()?);
    let valid = |first| valid(webhook, first);

    let quiet = tokio::task::block_in_place(|| drive(address, pid, vec![valid(0)?], PLAN))?;
    said(table, "quiet", &quiet, None);
    let before = machine::resident(pid)?;
    for (from, first) in [(Addresses::One, 1), (Addresses::Many, 2)] {
        let streams = vec![
            valid(first * 1_000_000)?,
            Stream {
                deliveries: Deliveries::new(Kind::Forged, webhook, false, 0)?,
                pace: Pace::Open(FORGED),
                connections: 32,
                fresh: false,
                from: Ipv4Addr::new(127, 0, 0, 3),
            },
            Stream {
                deliveries: Deliveries::new(Kind::UnknownPath, webhook, false, 0)?,
                pace: Pace::Open(UNKNOWN),
                connections: 8,
                fresh: false,
                from: Ipv4Addr::new(127, 0, 0, 4),
            },
        ];
        let attack = Attack::begin(address, webhook, from);
        let run = tokio::task::block_in_place(|| drive(address, pid, streams, PLAN));
        let seen = attack.end()?;
        let run = run?;
        said(table, from.described(), &run, Some(&seen));
        let (p99, floor) = (
            run.outcomes[0].quantile(0.99),
            quiet.outcomes[0].quantile(0.99),
        );
        table.goal(Goal {
            what: format!(
                "p99 of valid deliveries: flood / quiet, {}",
                from.described()
            ),
            value: p99.as_secs_f64() / floor.as_secs_f64(),
            at_most: Some(2.0),
            at_least: None,
            scale: format!("{} / {}", millis(p99), millis(floor)),
        });
        #[allow(clippy::cast_precision_loss)]
        let share = run.outcomes[0].answered(200) as f64 / (VALID * PLAN.time.as_secs_f64());
        table.goal(Goal {
            what: format!("valid deliveries answered 200 / sent, {}", from.described()),
            value: share,
            at_most: None,
            at_least: Some(0.999),
            scale: run.outcomes[0].other_than(200).unwrap_or("all".to_owned()),
        });
    }
    let after = machine::resident(pid)?;
    #[allow(clippy::cast_precision_loss)]
    table.goal(Goal {
        what: format!("most resident memory in the flood / {}", mib(CEILING)),
        value: after.peak as f64 / CEILING as f64,
        at_most: Some(1.0),
        at_least: None,
        scale: format!("{}, {} before", mib(after.peak), mib(before.now)),
    });
    Ok(())
}

fn valid(webhook: &WebhookIdentity, first: u64) -> anyhow::Result<Stream> {
    Ok(Stream {
        deliveries: Deliveries::new(Kind::Valid, webhook, true, first)?,
        pace: Pace::Open(VALID),
        connections: 1_000,
        fresh: true,
        from: Ipv4Addr::LOCALHOST,
    })
}

fn said(table: &mut Table, when: &str, run: &Run, seen: Option<&Seen>) {
    let spoken = |outcome: &Outcome| {
        let answers = outcome
            .answers
            .iter()
            .map(|(status, n)| format!("{n} x {status}"));
        let mut all: Vec<String> = answers.collect();
        all.push(format!("{} broken", outcome.broken));
        all.push(format!("{} unanswered", outcome.unanswered));
        all.join(", ")
    };
    let names = ["valid", "forged", "unknown path"];
    let mut said: Vec<String> = names
        .iter()
        .zip(&run.outcomes)
        .map(|(name, outcome)| format!("{name}: {}", spoken(outcome)))
        .collect();
    if let Some(seen) = seen {
        said.push(seen.to_string());
    }
    let (p50, p99) = (
        run.outcomes[0].quantile(0.5),
        run.outcomes[0].quantile(0.99),
    );
    let (server, _) = run.busy();
    table.note(&format!(
        "flood, {when}: p50 {}, p99 {}, server's core {:.0} %; {}",
        millis(p50),
        millis(p99),
        server * 100.0,
        said.join("; ")
    ));
}

/// Where slow connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addresses {
    One,
    Many,
}

impl Addresses {
    fn described(self) -> &'static str {
        match self {
            Addresses::One => "slow connections from one address",
            Addresses::Many => "slow connections from 250 addresses",
        }
    }

    fn of(self, number: u64) -> Ipv4Addr {
        match self {
            Addresses::One => Ipv4Addr::new(127, 0, 0, 2),
            Addresses::Many => {
                let host = u8::try_from(number % 250).unwrap_or(0);
                Ipv4Addr::new(127, 0, 1, host + 1)
            }
        }
    }
}

/// What the attackers saw.
#[derive(Debug, Default)]
struct Seen {
    connected: AtomicU64,
    cut: AtomicU64,
    huge: AtomicU64,
    huge_bytes: AtomicU64,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "slow: {} connected, {} of them cut; 200 MB bodies: {} begun, {} MB of them taken",
            self.connected.load(Relaxed),
            self.cut.load(Relaxed),
            self.huge.load(Relaxed),
            self.huge_bytes.load(Relaxed) / 1_000_000,
        )
    }
}

/// The part of the flood that needs many connections, on a thread of its own. It gives way to the driver, which
/// shares its core: what the driver measures must be the server's doing.
struct Attack {
    seen: Arc<Seen>,
    end: CancellationToken,
    thread: std::thread::JoinHandle<anyhow::Result<()>>,
}

impl Attack {
    fn begin(to: SocketAddr, webhook: &WebhookIdentity, from: Addresses) -> Self {
        let (seen, end) = (Arc::<Seen>::default(), CancellationToken::new());
        let path = format!("/webhooks/{}/{}", webhook.namespace, webhook.name);
        let thread = std::thread::spawn({
            let (seen, end) = (Arc::clone(&seen), end.clone());
            move || {
                machine::pin(machine::cores()?.driver)?;
                // Of this thread alone, on Linux.
                rustix::process::setpriority_process(None, 19)?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async move {
                    for number in 0..SLOW {
                        let (seen, path) = (Arc::clone(&seen), path.clone());
                        tokio::spawn(async move {
                            loop {
                                // Refused and cut alike: the next one.
                                let _ =
                                    slow(to, from.of(number), &path, number % 2 == 0, &seen).await;
                                // Each after a time of its own: attackers do not march in step.
                                let pause = 500 + number * 7 % 1_000;
                                tokio::time::sleep(Duration::from_millis(pause)).await;
                            }
                        });
                    }
                    for number in 0..HUGE {
                        let (seen, path) = (Arc::clone(&seen), path.clone());
                        tokio::spawn(async move {
                            loop {
                                let _ = huge(to, &path, number % 2 == 0, &seen).await;
                                tokio::time::sleep(Duration::from_millis(200)).await;
                            }
                        });
                    }
                    end.cancelled().await;
                });
                Ok(())
            }
        });
        Attack { seen, end, thread }
    }

    fn end(self) -> anyhow::Result<Arc<Seen>> {
        self.end.cancel();
        self.thread.join().ok().context("the attack panicked")??;
        Ok(self.seen)
    }
}

async fn connect(to: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddrV4::new(from, 0).into())?;
    socket.connect(to).await
}

fn head(path: &str, length: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: receiver.example.com\r\n{length}\r\nx-webhook-signature: sha256={}\r\n\r\n",
        "0".repeat(64)
    )
}

/// A byte a second, until the server has had enough.
async fn slow(
    to: SocketAddr,
    from: Ipv4Addr,
    path: &str,
    in_body: bool,
    seen: &Seen,
) -> std::io::Result<()> {
    let mut stream = connect(to, from).await?;
    seen.connected.fetch_add(1, Relaxed);
    let request = head(path, "content-length: 300") + &"x".repeat(300);
    let mut rest = request.as_bytes();
    if in_body {
        let (now, later) = rest.split_at(rest.len() - 300);
        stream.write_all(now).await?;
        rest = later;
    }
    let mut answer = [0; 512];
    for byte in rest {
        tokio::select! {
            read = stream.read(&mut answer) => {
                if !matches!(read, Ok(n) if n > 0) {
                    break;
                }
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => stream.write_all(&[*byte]).await?,
        }
    }
    seen.cut.fetch_add(1, Relaxed);
    Ok(())
}

/// 200 MB as fast as they are taken.
async fn huge(to: SocketAddr, path: &str, announced: bool, seen: &Seen) -> std::io::Result<()> {
    const CHUNK: usize = 64 * 1024;
    let mut stream = connect(to, Ipv4Addr::new(127, 0, 0, 5)).await?;
    seen.huge.fetch_add(1, Relaxed);
    let (length, frame) = if announced {
        (format!("content-length: {HUGE_BODY}"), vec![b'x'; CHUNK])
    } else {
        let frame = format!("{CHUNK:x}\r\n{}\r\n", "x".repeat(CHUNK));
        ("transfer-encoding: chunked".to_owned(), frame.into_bytes())
    };
    stream.write_all(head(path, &length).as_bytes()).await?;
    let (mut reading, mut writing) = stream.split();
    let mut answer = [0; 512];
    for _ in 0..HUGE_BODY / CHUNK {
        tokio::select! {
            biased;
            read = reading.read(&mut answer) => {
                if !matches!(read, Ok(n) if n > 0) {
                    break;
                }
            }
            written = writing.write_all(&frame) => {
                written?;
                seen.huge_bytes.fetch_add(CHUNK as u64, Relaxed);
            }
        }
    }
    Ok(())
}
