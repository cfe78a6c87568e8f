//! The servers that are compared, each a process of its own on the servers' core.
//!
//! - `bare` is the floor of the processor: an axum handler that reads the body, checks the HMAC and answers 200.
//! - `append` is the floor of the disk: the same handler, which answers once a record as large as the journal's row is at
//!   the end of a plain file. One thread writes all that has gathered while the disk was busy, with one `fdatasync`.
//! - `append-in-place` is that with a file which has its length already, so that no commit changes the file system.
//! - `receiver` is the receiving half of the product, put together as `receiver::run` does it, logs at info included,
//!   without a cluster: nothing is published. Forged deliveries take the way of a valid one up to and including
//!   the verification, and that is how verify-only is measured without a switch in the product.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use chekt_operator::delivery::profile;
use chekt_operator::delivery::received::Known;
use chekt_operator::journal::{self, Journal};
use chekt_operator::ops::logs::{self, LogFormat};
use chekt_operator::ops::metrics;
use chekt_operator::receiver::body::Allowance;
use chekt_operator::receiver::ingest::Ingest;
use chekt_operator::receiver::keyring::{Index, Webhook};
use chekt_operator::receiver::metrics::{Metrics, PREFIX};
use chekt_operator::receiver::origin::Origins;
use chekt_operator::receiver::server::{self, Door, Limits};
use chekt_operator::receiver::status::Reports;
use chekt_operator::resources::keyring::{Key, Keyring, SigningSecret, WebhookIdentity};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::deliveries::SECRET;

/// Where the floors listen.
const ROUTE: &str = "/webhooks/{namespace}/{name}";
/// What a row of the journal has beside the body of a delivery here: keys, names, times and labels, in bytes.
const BESIDE_THE_BODY: usize = 192;
/// Bytes of a file that has its length before it is written to.
const IN_PLACE: usize = 16 * 1024 * 1024;
/// The bytes of which it is made at a time.
const PIECE: usize = 4096;
/// How long the journal may take to open.
const OPEN: Duration = Duration::from_secs(5);

/// The webhook that everything is delivered to.
pub fn identity() -> WebhookIdentity {
    WebhookIdentity {
        namespace: "security".to_owned(),
        name: "alarms".to_owned(),
        uid: "6f0c8a52-3b1e-4c7d-9a55-0d2f4e6b8c11".to_owned(),
    }
}

/// Serves until our parent closes our standard input.
///
/// # Errors
/// Whatever keeps it from that.
pub fn serve(kind: &str, dir: &Path) -> anyhow::Result<()> {
    // As `main` does. It asks how many cores it may use, and is told one.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        eprintln!("listening on {}", listener.local_addr()?);
        match kind {
            "bare" => bare(listener).await,
            "append" => append(listener, dir, 0).await,
            "append-in-place" => append(listener, dir, IN_PLACE).await,
            "receiver" => receiver(listener, dir).await,
            _ => anyhow::bail!("there is no server {kind}"),
        }
    })
}

type Answer = (StatusCode, &'static str);

/// Whether a body has a valid signature: the least that may stand before a 200.
fn verified(secret: &[u8], headers: &HeaderMap, body: &[u8]) -> bool {
    let signature = headers
        .get("x-webhook-signature")
        .and_then(|value| value.as_bytes().strip_prefix(b"sha256="));
    let mut digest = [0; 32];
    match signature {
        Some(hex) if hex.len() == 64 => {
            if data_encoding::HEXLOWER
                .decode_mut(hex, &mut digest)
                .is_err()
            {
                return false;
            }
        }
        _ => return false,
    }
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return false;
    };
    mac.update(body);
    mac.verify_slice(&digest).is_ok()
}

async fn bare(listener: TcpListener) -> anyhow::Result<()> {
    async fn handle(State(secret): State<Arc<Vec<u8>>>, headers: HeaderMap, body: Bytes) -> Answer {
        if verified(&secret, &headers, &body) {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::UNAUTHORIZED, "not authorized\n")
        }
    }
    let router = axum::Router::new()
        .route(ROUTE, axum::routing::post(handle))
        .with_state(Arc::new(SECRET.to_vec()));
    axum::serve(listener, router).await?;
    Ok(())
}

/// A body that is to be on disk, and who waits for that.
type Record = (Bytes, oneshot::Sender<()>);

async fn append(listener: TcpListener, dir: &Path, length: usize) -> anyhow::Result<()> {
    async fn handle(
        State((secret, records)): State<(Arc<Vec<u8>>, mpsc::Sender<Record>)>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Answer {
        if !verified(&secret, &headers, &body) {
            return (StatusCode::UNAUTHORIZED, "not authorized\n");
        }
        let (done, on_disk) = oneshot::channel();
        if records.send((body, done)).await.is_ok() && on_disk.await.is_ok() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not written\n")
        }
    }
    std::fs::create_dir_all(dir)?;
    let file = File::create(dir.join("records"))?;
    // In pieces as small as a commit's: the kernel counts a piece as written whenever a part of it is.
    for at in (0..length).step_by(PIECE) {
        file.write_all_at(&[0; PIECE], at as u64)?;
    }
    file.sync_all()?;
    let (records, inbox) = mpsc::channel(4096);
    let (answers, mut given) = mpsc::unbounded_channel::<Vec<oneshot::Sender<()>>>();
    // On the askers' side, as the journal gives its own: one wake-up for each commit.
    tokio::spawn(async move {
        while let Some(answers) = given.recv().await {
            for answer in answers {
                let _ = answer.send(());
            }
        }
    });
    std::thread::spawn(move || commit_together(&file, inbox, &answers, length));
    let router = axum::Router::new()
        .route(ROUTE, axum::routing::post(handle))
        .with_state((Arc::new(SECRET.to_vec()), records));
    axum::serve(listener, router).await?;
    Ok(())
}

/// Writes what has gathered, again and again. With a `length` it begins anew where that is reached.
fn commit_together(
    file: &File,
    mut inbox: mpsc::Receiver<Record>,
    answers: &mpsc::UnboundedSender<Vec<oneshot::Sender<()>>>,
    length: usize,
) {
    let (mut bytes, mut at) = (Vec::new(), 0_u64);
    while let Some(mut record) = inbox.blocking_recv() {
        bytes.clear();
        let mut waiting = Vec::new();
        loop {
            bytes.extend_from_slice(&record.0);
            bytes.resize(bytes.len() + BESIDE_THE_BODY, b'x');
            waiting.push(record.1);
            match inbox.try_recv() {
                Ok(next) => record = next,
                Err(_) => break,
            }
        }
        if length > 0 && at + bytes.len() as u64 > length as u64 {
            at = 0;
        }
        let written = file
            .write_all_at(&bytes, at)
            .and_then(|()| file.sync_data());
        at += bytes.len() as u64;
        // What is not written is dropped, and so answered with a 503.
        if written.is_ok() && answers.send(waiting).is_err() {
            return;
        }
    }
}

async fn receiver(listener: TcpListener, dir: &Path) -> anyhow::Result<()> {
    logs::init(LogFormat::Json, "info,kube_client=off")?;
    // More room than by default: nothing is published here, so nothing leaves.
    let limits = journal::Limits {
        max_records: i64::MAX,
        max_bytes: i64::MAX,
        ..journal::Limits::default()
    };
    let options = journal::Options {
        limits,
        sink: false,
    };
    let (journal, mut feed) = Journal::start(dir, options)?;
    let mut state = journal.state();
    let open = state.wait_for(|state| *state == journal::State::Open);
    tokio::time::timeout(OPEN, open).await??;
    // The publisher takes what is fed to it; its queue is not what is measured here.
    tokio::spawn(async move { while feed.recv().await.is_some() {} });
    let mut index = Index::new(1);
    index.webhooks_begin(0);
    index.put_webhook(0, webhook(&identity()));
    index.webhooks_complete(0, None);
    index.put_keyring(&keyring(&identity())?.to_secret("ops"))?;
    index.keyrings_complete();
    let (_index, indexed) = tokio::sync::watch::channel(index);
    let mut counted = metrics::Table::new(PREFIX);
    let ingest = Ingest {
        profile: profile::PARTNER,
        origins: Origins::default(),
        bodies: Allowance::default(),
        index: indexed,
        journal,
        reports: Reports::default(),
        metrics: Metrics::register(&mut counted),
    };
    server::serve(listener, Arc::new(ingest), Door::open(granted())).await;
    Ok(())
}

/// As it is by default, but for what would cut the driver off: it is one address and proves nothing.
fn granted() -> Limits {
    let mut limits = Limits::default();
    limits.caps.per_peer = limits.caps.connections;
    limits.patience.unproven_requests = limits.patience.requests;
    limits
}

/// A webhook as the watch would bring it.
fn webhook(identity: &WebhookIdentity) -> Webhook {
    Webhook {
        identity: identity.clone(),
        known: Known {
            labels: [("team".to_owned(), "security".to_owned())].into(),
            webhook_id: Some("webhook_abc123".to_owned()),
        },
        deliveries: None,
        version: None,
    }
}

/// The keyring of a webhook, with the one secret that all have here.
///
/// # Errors
/// Never; the secret is not empty.
pub fn keyring(identity: &WebhookIdentity) -> anyhow::Result<Keyring> {
    Ok(Keyring {
        current: Some(Key {
            id: "generated-bench".to_owned(),
            secret: SigningSecret::new(SECRET.to_vec())?,
        }),
        ..Keyring::empty(identity.clone())
    })
}
