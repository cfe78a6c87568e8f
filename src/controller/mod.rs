//! The controller: keeps the webhooks at CHeKT as the resources say.
//!
//! ```text
//! stores -> triggers -> gather -> World -> plan -> Step -> perform -> look again
//!                                           \-> report -> status, time of the next look
//! ```
//!
//! The decisions are in [`crate::webhook`] and [`crate::account`]; here is what feeds them and what carries them
//! out.

pub mod account;
pub mod args;
pub mod claims;
pub mod commands;
pub mod connection;
pub mod context;
pub mod credentials;
pub mod definition;
pub mod echoes;
pub mod forbidden;
pub mod gather;
pub mod holds;
pub mod inventory;
pub mod leader;
pub mod memory;
pub mod metrics;
pub mod namespaces;
pub mod orphans;
pub mod perform;
pub mod receiver_token;
pub mod transitions;
pub mod triggers;
pub mod webhook;

use std::time::Duration;

use anyhow::Context as _;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use args::ControllerArgs;

use args::{ElectionSettings, Settings};
use leader::Candidate;
use metrics::Metrics;
use receiver_token::Keeper;
use triggers::Watches;

use crate::cluster::lease::LeaseClient;
use crate::cluster::{self, ClusterError, within};
use crate::leadership::election::Timing;
use crate::leadership::fence::Fence;
use crate::ops::clock::since_boot;
use crate::ops::health::{Gate, Readiness};
use crate::ops::listen::listen;
use crate::ops::metrics::Table;
use crate::ops::{build, process, server};
use crate::resources::{ChektAccount, ChektWebhook};

/// How often a cluster without our kinds is asked again.
const ASK_FOR_KINDS: Duration = Duration::from_secs(2);

/// Runs the controller until `end` is cancelled.
///
/// # Errors
/// A flag that makes no sense, a kubeconfig that cannot be read, an address that cannot be bound.
pub async fn run(args: ControllerArgs, end: CancellationToken) -> anyhow::Result<()> {
    let settings = args.settle()?;
    let fence = match settings.election {
        Some(_) => Fence::closed(since_boot),
        None => Fence::open(),
    };
    let mut table = Table::new(metrics::PREFIX);
    let metrics = Metrics::register(&mut table, args.metrics_webhooks);
    process::register(&mut table);
    build::register(&mut table);
    let client = cluster::client::connect_behind(&fence, &metrics.kubernetes).await?;
    let listener = listen(args.ops_address)
        .await
        .with_context(|| format!("cannot listen on {} (--ops-address)", args.ops_address))?;
    let ops = listener.local_addr()?;
    let readiness = Readiness::new();
    let kinds = readiness.gate(
        "kinds",
        "the custom resource definitions were not looked for yet",
    );
    let stores = readiness.gate("stores", "the resources were not listed yet");
    let lease = readiness.gate("lease", "the lease was not looked at yet");
    let receiver = match settings.receiver.clone() {
        Some(wanted) => {
            let gate = readiness.gate("receiver-token", "none was asked for yet");
            let namespace = settings.operator_namespace.clone();
            Some(Keeper::new(wanted, namespace, metrics.clone(), gate)?)
        }
        None => None,
    };
    tracing::info!(role = "controller", %ops, public_url = %settings.public_url, "listening");
    let served = tokio::spawn(server::serve(
        listener,
        table.into_registry(),
        readiness,
        end.clone(),
    ));

    let credentials = async {
        match receiver {
            Some(keeper) => AbortOnDropHandle::new(tokio::spawn(keeper.run())).await,
            None => std::future::pending().await,
        }
    };
    // In a box, since it is large and lives as long as the process.
    let work = Box::pin(async {
        if !wait_for_kinds(&client, &settings.watch_namespaces, &kinds, &end).await {
            return Ok(());
        }
        let watches = Watches::new(&client, &settings, stores);
        let work = Work {
            client,
            settings,
            metrics,
            fence,
            watches,
        };
        if let Some(election) = work.settings.election.clone() {
            stand(work, election, lease, &end).await
        } else {
            lease.open();
            work.metrics.leader.set(1);
            work.run(&end).await
        }
    });
    tokio::select! {
        worked = work => worked?,
        ended = credentials => anyhow::bail!("the receiver's credentials are not looked after any more: {ended:?}"),
    }
    served.await??;
    Ok(())
}

/// What a leader does.
struct Work {
    client: Client,
    settings: Settings,
    metrics: Metrics,
    fence: Fence,
    watches: Watches,
}

impl Work {
    async fn run(self, end: &CancellationToken) -> anyhow::Result<()> {
        let (client, settings, metrics) = (self.client, self.settings, self.metrics);
        triggers::run(
            client,
            settings,
            metrics,
            self.fence,
            self.watches,
            end.clone(),
        )
        .await
    }
}

/// Stands for election, works while it leads, and resigns once every pass has ended.
async fn stand(
    mut work: Work,
    election: ElectionSettings,
    usable: Gate,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    let timing = Timing::of(election.lasts);
    let namespace = &work.settings.operator_namespace;
    // Without the fence, which stands only once the lease is ours.
    let client = cluster::client::connect_metered(&work.metrics.kubernetes).await?;
    let lease = LeaseClient {
        leases: Api::namespaced(client, namespace),
        name: election.lease_name,
        me: leader::identity()?,
        lasts: timing.lasts,
        deadline: timing.deadline(),
    };
    let (fence, metrics) = (work.fence.clone(), work.metrics.clone());
    let mut candidate = Candidate::new(lease, timing, fence, metrics, usable);
    let won = tokio::select! {
        won = candidate.win(end) => won,
        () = work.watches.warm() => anyhow::bail!("the watches have ended by themselves"),
    };
    let Some(term) = won else {
        return Ok(());
    };
    let done = CancellationToken::new();
    let mut keeping = std::pin::pin!(candidate.keep(term, &done));
    let term = tokio::select! {
        // The work is dropped where it stands, and the process ends.
        lost = &mut keeping => lost?,
        worked = work.run(end) => {
            worked?;
            done.cancel();
            keeping.await?
        }
    };
    candidate.resign(term).await;
    Ok(())
}

/// Waits until the API server knows our kinds. `false`: it is time to end.
async fn wait_for_kinds(
    client: &Client,
    namespaces: &[String],
    gate: &Gate,
    end: &CancellationToken,
) -> bool {
    loop {
        let one = ListParams::default().limit(1);
        let limit = Duration::from_secs(10);
        let namespace = namespaces.first();
        let accounts: Api<ChektAccount> = namespaced(client, namespace.map(String::as_str));
        let webhooks: Api<ChektWebhook> = namespaced(client, namespace.map(String::as_str));
        let known = match within(limit, accounts.list(&one)).await {
            Ok(_) => within(limit, webhooks.list(&one)).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match known {
            Ok(()) => {
                gate.open();
                return true;
            }
            Err(ClusterError::NotFound(_)) => {
                gate.close("the custom resource definitions are not installed: run chekt-operator crds | kubectl apply -f -");
            }
            Err(error) => gate.close(&error.to_string()),
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_FOR_KINDS) => {}
            () = end.cancelled() => return false,
        }
    }
}

/// An API for one namespace, or for all.
fn namespaced<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
