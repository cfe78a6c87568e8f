//! The receiver process: signed POSTs in, Events out, and a journal between the two.
//!
//! ```text
//! server -> ingest -> journal -> 200          the sender waits for this much
//!                     journal -> publisher -> Event
//!                     journal -> teller    -> Event about dead letters
//!                     journal -> forwarder -> CloudEvent, where a sink is named
//! watch  -> keyring (index)      reports -> status.deliveries
//! ```

pub mod admission;
pub mod attempt;
pub mod body;
pub mod conduct;
pub mod deadletters;
pub mod forwarder;
pub mod ingest;
pub mod keyring;
pub mod linger;
pub mod metrics;
pub mod opening;
pub mod origin;
mod probe;
pub mod publisher;
pub mod server;
pub mod status;
pub mod teller;
pub mod tls;
pub mod watch;
pub mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use kube::Api;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::client;
use crate::delivery::pacing::Pace;
use crate::delivery::profile;
use crate::journal::{self, Journal, State};
use crate::ops;
use crate::ops::health::{Gate, Readiness};
use crate::ops::metrics::Table;
use body::Allowance;
use forwarder::{Forwarder, SinkArgs};
use ingest::Ingest;
use keyring::Index;
use metrics::Metrics;
use origin::Origins;
use publisher::Publisher;
use server::Door;
use status::Reports;
use teller::Teller;

/// Flags of the receiver.
#[derive(Debug, Args)]
pub struct ReceiverArgs {
    /// Where deliveries arrive, as address:port. Port 0 takes a free one, which the log names.
    #[arg(long, env = "CHEKT_LISTEN", default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// Where probes and metrics are, as address:port.
    #[arg(long, env = "CHEKT_OPS_ADDRESS", default_value = "[::]:8081")]
    pub ops_address: SocketAddr,

    /// The directory of the journal; it is made if it is not there. Each receiver needs its own.
    #[arg(
        long,
        env = "CHEKT_JOURNAL",
        value_name = "DIR",
        default_value = "/var/lib/chekt-operator/journal"
    )]
    pub journal: PathBuf,

    /// The most deliveries that may wait to be published; beyond that the answer is 503.
    #[arg(
        long,
        env = "CHEKT_JOURNAL_MAX_RECORDS",
        value_name = "N",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub journal_max_records: i64,

    /// The most MiB that the bodies of waiting deliveries may have together; beyond that the answer is 503.
    #[arg(
        long,
        env = "CHEKT_JOURNAL_MAX_MIB",
        value_name = "N",
        default_value_t = 256,
        value_parser = clap::value_parser!(i64).range(1..=1_048_576)
    )]
    pub journal_max_mib: i64,

    /// The namespace that holds the keyrings.
    #[arg(long, env = "CHEKT_OPERATOR_NAMESPACE", value_name = "NS")]
    pub operator_namespace: String,

    /// A namespace whose webhooks are received for; may be given several times. Default: all namespaces.
    #[arg(
        long = "watch-namespace",
        env = "CHEKT_WATCH_NAMESPACE",
        value_name = "NS",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,

    /// The directory with the token and the ca.crt for the API server, which `KUBERNETES_SERVICE_HOST` and
    /// `KUBERNETES_SERVICE_PORT` name. They may be written later. Default: a kubeconfig says how to get there, or else
    /// /var/run/secrets/kubernetes.io/serviceaccount.
    #[arg(long, env = "CHEKT_KUBERNETES_CREDENTIALS", value_name = "DIR")]
    pub kubernetes_credentials: Option<PathBuf>,

    /// How many Events a second a namespace may get in the long run.
    #[arg(
        long,
        env = "CHEKT_EVENTS_PER_SECOND",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub events_per_second: u32,

    /// How many Events a namespace may get at once after a time of silence.
    #[arg(
        long,
        env = "CHEKT_EVENTS_BURST",
        value_name = "N",
        default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub events_burst: u32,

    /// How many connections may be open at once. Beyond that, whoever comes takes the place of the connection that has
    /// been open the longest without a valid delivery. Each may cost 256 KiB at the very worst.
    #[arg(
        long,
        env = "CHEKT_MAX_CONNECTIONS",
        value_name = "N",
        default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_connections: u32,

    /// How many of them may come from one address (IPv6: from one /64); beyond that its own make room. Not counted for
    /// trusted proxies.
    #[arg(
        long,
        env = "CHEKT_MAX_CONNECTIONS_PER_PEER",
        value_name = "N",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_connections_per_peer: u32,

    /// Addresses that deliveries may come from, as 192.0.2.0/24 or 2001:db8::/32; may be given several times. Everybody
    /// else gets the answer of a wrong signature. Default: all addresses.
    #[arg(
        long,
        env = "CHEKT_ALLOW_FROM",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = origin::range
    )]
    pub allow_from: Vec<IpNet>,

    /// Addresses of the proxies before the receiver, as 10.0.0.0/8; may be given several times. Only they are believed
    /// where a request comes from (`X-Forwarded-For`, `Forwarded`), and they must write it. Default: none.
    #[arg(
        long = "trusted-proxy",
        env = "CHEKT_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = origin::range
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// The certificate, and those that lead to its root, in a PEM file. With it the receiver speaks TLS itself. The file
    /// is read again every 10 seconds. Default: plain http, for an Ingress before it.
    #[arg(
        long,
        env = "CHEKT_TLS_CERT_FILE",
        value_name = "FILE",
        requires = "tls_key_file"
    )]
    pub tls_cert_file: Option<PathBuf>,

    /// The private key of the certificate, in a PEM file.
    #[arg(
        long,
        env = "CHEKT_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_key_file: Option<PathBuf>,

    /// How many seconds to go on serving after the signal to end. The receiver is not ready by then, and asks whoever
    /// keeps a connection to make the next one elsewhere. Kubernetes takes some seconds to tell everybody.
    #[arg(
        long,
        env = "CHEKT_DRAIN_DELAY",
        value_name = "SECONDS",
        default_value_t = 5
    )]
    pub drain_delay: u32,

    /// How many seconds to go on publishing what waits after the last connection has ended. There is no pace from the signal
    /// on, and the process ends earlier once nothing waits.
    #[arg(
        long,
        env = "CHEKT_DRAIN_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 30
    )]
    pub drain_timeout: u32,

    /// The second sink.
    #[command(flatten)]
    pub sink: SinkArgs,

    /// The name of this receiver in the Events that it makes. Default: the host name, which is the pod's.
    #[arg(long, env = "CHEKT_INSTANCE", value_name = "NAME")]
    pub instance: Option<String>,
}

/// Runs the receiver until `end` is cancelled.
///
/// # Errors
/// Whatever keeps it from starting or from going on.
pub async fn run(args: ReceiverArgs, end: CancellationToken) -> anyhow::Result<()> {
    let sink = args.sink.sink()?;
    let options = journal::Options {
        limits: journal::Limits {
            max_records: args.journal_max_records,
            max_bytes: args.journal_max_mib.saturating_mul(1024 * 1024),
            ..journal::Limits::default()
        },
        sink: sink.is_some(),
    };
    let (door, certificate) = door(&args)?;
    let (journal, feed) = Journal::start(&args.journal, options)?;
    let mut table = Table::new(metrics::PREFIX);
    let metrics = Metrics::register(&mut table);
    ops::process::register(&mut table);
    ops::build::register(&mut table);
    let (client, arrival) =
        client::connect_when_possible(args.kubernetes_credentials.as_deref(), &metrics.kubernetes)
            .await?;
    let public = listen(args.listen).await?;
    let ops = listen(args.ops_address).await?;

    let readiness = Readiness::new();
    let keyrings_read = readiness.gate("keyrings", "webhooks and keyrings are being read");
    let serving = readiness.gate("receiver", "starting");
    let writable = readiness.gate("journal", "it is being opened");

    let scopes = scopes(args.watch_namespaces);
    let (index, indexed) = tokio::sync::watch::channel(Index::new(scopes.len()));
    let reports = Reports::default();

    // None of these ends by itself; if one does, the process has no reason to go on.
    let mut background = JoinSet::new();
    for (scope, namespace) in scopes.into_iter().enumerate() {
        background.spawn(watch::webhooks(
            client.clone(),
            scope,
            namespace,
            index.clone(),
        ));
    }
    background.spawn(watch::keyrings(
        client.clone(),
        args.operator_namespace.clone(),
        index,
    ));
    background.spawn({
        let mut indexed = indexed.clone();
        async move {
            if indexed.wait_for(Index::is_read).await.is_ok() {
                keyrings_read.open();
            }
            std::future::pending::<()>().await;
        }
    });

    if let Some(arrival) = arrival {
        let gate = readiness.gate("credentials", "looking for them");
        background.spawn(arrival.wait(gate));
    }
    background.spawn(follow(journal.state(), writable));
    if let Some(certificate) = certificate {
        background.spawn(certificate.follow(tls::EVERY, metrics.clone()));
    }

    let (ops_end, work_end) = (CancellationToken::new(), CancellationToken::new());
    tracing::info!(role = "receiver", public = %public.local_addr()?, ops = %ops.local_addr()?, "listening");
    background.spawn({
        let serve = ops::server::serve(ops, table.into_registry(), readiness, ops_end.clone());
        async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the operations server has ended");
            }
        }
    });

    let instance = args.instance.unwrap_or_else(host_name);
    let last = Duration::from_secs(u64::from(args.drain_timeout));
    let dead_letters = Arc::new(Notify::new());
    let mut publisher = tokio::spawn(
        Publisher {
            journal: journal.clone(),
            feed,
            client: client.clone(),
            pace: Pace {
                per_second: f64::from(args.events_per_second),
                burst: args.events_burst,
            },
            at_once: publisher::AT_ONCE,
            place: args.journal.display().to_string(),
            leaving: door.leaving.clone(),
            instance: instance.clone(),
            metrics: metrics.clone(),
            reports: reports.clone(),
            dead_letters: Arc::clone(&dead_letters),
            last,
        }
        .run(work_end.clone()),
    );
    let told_end = CancellationToken::new();
    let mut teller = tokio::spawn(
        Teller {
            journal: journal.clone(),
            client: client.clone(),
            index: indexed.clone(),
            instance: instance.clone(),
            metrics: metrics.clone(),
            dead_letters,
        }
        .run(told_end.clone()),
    );
    let mut forwarder = tokio::spawn({
        let forward = sink.map(|sink| {
            tracing::info!(host = sink.host(), "sending CloudEvents");
            let forwarder = Forwarder {
                journal: journal.clone(),
                sink,
                mode: args.sink.cloudevents_mode.into(),
                metrics: metrics.clone(),
                last,
            };
            forwarder.run(work_end.clone())
        });
        let end = work_end.clone();
        async move {
            match forward {
                Some(forward) => forward.await,
                None => end.cancelled().await,
            }
        }
    });
    let mut status = tokio::spawn(reports.clone().run(
        client.clone(),
        Api::namespaced(client, &args.operator_namespace),
        instance,
        indexed.clone(),
        metrics.clone(),
        work_end.clone(),
    ));

    let ingest = Arc::new(Ingest {
        profile: profile::PARTNER,
        origins: Origins {
            allowed: args.allow_from,
            trusted: args.trusted_proxies,
        },
        bodies: Allowance::default(),
        index: indexed,
        journal: journal.clone(),
        reports,
        metrics,
    });
    let mut server = tokio::spawn(server::serve(public, ingest, door.clone()));
    serving.open();

    // What ends early leaves the rest to a new process: everything that was acknowledged is in the journal.
    tokio::select! {
        () = end.cancelled() => {}
        ended = background.join_next() => anyhow::bail!("a background task has ended: {ended:?}"),
        ended = &mut server => anyhow::bail!("the accept loop has ended: {ended:?}"),
        ended = &mut publisher => anyhow::bail!("the publisher has ended: {ended:?}"),
        ended = &mut status => anyhow::bail!("the status writer has ended: {ended:?}"),
        ended = &mut teller => anyhow::bail!("the teller of dead letters has ended: {ended:?}"),
        ended = &mut forwarder => anyhow::bail!("the forwarder to the sink has ended: {ended:?}"),
    }

    // Kubernetes kills what has not ended when the grace period of the Pod is over, which the chart computes: at most 5 s of
    // serving (--drain-delay), 6 s for what is in flight (server::Limits::drain), 30 s of publishing (--drain-timeout), 1 s
    // for what is under way then, 2 s to tell of what is left and 1 s to tell of dead letters are 45.
    serving.close("ending");
    door.leaving.cancel();
    tokio::time::sleep(Duration::from_secs(u64::from(args.drain_delay))).await;
    door.end.cancel();
    server.await.context("the accept loop")?;
    work_end.cancel();
    publisher.await.context("the publisher")?;
    // After the last that can make a dead letter.
    told_end.cancel();
    teller.await.context("the teller of dead letters")?;
    forwarder.await.context("the forwarder to the sink")?;
    status.await.context("the status writer")?;
    journal.close().await;
    ops_end.cancel();
    background.shutdown().await;
    tracing::info!("ended");
    Ok(())
}

/// Keeps the gate as the journal is. It does not end.
async fn follow(mut state: Receiver<State>, gate: Gate) {
    loop {
        match &*state.borrow_and_update() {
            State::Open => gate.open(),
            State::Opening => gate.close("it is being opened"),
            State::Waiting(why) => gate.close(why),
        }
        if state.changed().await.is_err() {
            // Closed at the end of the process.
            return std::future::pending().await;
        }
    }
}

/// How to serve, and what looks after the certificate where we have one.
fn door(args: &ReceiverArgs) -> anyhow::Result<(Door, Option<tls::Watched>)> {
    let mut limits = server::Limits::default();
    limits.caps.connections = usize::try_from(args.max_connections)?;
    limits.caps.per_peer = usize::try_from(args.max_connections_per_peer)?;
    let mut door = Door::open(limits);
    // One file without the other is refused by the command line.
    let (Some(cert), Some(key)) = (&args.tls_cert_file, &args.tls_key_file) else {
        return Ok((door, None));
    };
    let (cert, key) = (cert.clone(), key.clone());
    let (tls, certificate) = tls::Files { cert, key }.load()?;
    door.tls = Some(tls);
    Ok((door, Some(certificate)))
}

/// One watch for each namespace, or one for all.
fn scopes(namespaces: Vec<String>) -> Vec<Option<String>> {
    let mut namespaces: Vec<String> = namespaces
        .into_iter()
        .filter(|namespace| !namespace.is_empty())
        .collect();
    namespaces.sort();
    namespaces.dedup();
    if namespaces.is_empty() {
        vec![None]
    } else {
        namespaces.into_iter().map(Some).collect()
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    ops::listen::listen(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// The name that the kernel knows this host, or pod, by.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "receiver".to_owned(),
        name => name.to_owned(),
    }
}
