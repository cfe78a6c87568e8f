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
pub mod connection;
pub mod context;
pub mod gather;
pub mod memory;
pub mod metrics;
pub mod perform;
pub mod transitions;
pub mod triggers;
pub mod webhook;

use std::time::Duration;

use anyhow::Context as _;
use kube::Api;
use kube::api::ListParams;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use args::ControllerArgs;

use crate::cluster::{self, ClusterError, within};
use crate::ops::health::{Gate, Readiness};
use crate::ops::metrics::Table;
use crate::ops::server;
use crate::resources::{ChektAccount, ChektWebhook};

/// How often a cluster without our kinds is asked again.
const ASK_FOR_KINDS: Duration = Duration::from_secs(2);

/// Runs the controller until `end` is cancelled.
///
/// # Errors
/// A flag that makes no sense, a kubeconfig that cannot be read, an address that cannot be bound.
pub async fn run(args: ControllerArgs, end: CancellationToken) -> anyhow::Result<()> {
    let settings = args.settle()?;
    let client = cluster::client::connect().await?;
    let listener = TcpListener::bind(args.ops_address)
        .await
        .with_context(|| format!("cannot listen on {} (--ops-address)", args.ops_address))?;
    let ops = listener.local_addr()?;
    let readiness = Readiness::new();
    let kinds = readiness.gate(
        "kinds",
        "the custom resource definitions were not looked for yet",
    );
    let stores = readiness.gate("stores", "the resources were not listed yet");
    let mut table = Table::new(metrics::PREFIX);
    let metrics = metrics::Metrics::register(&mut table);
    tracing::info!(role = "controller", %ops, public_url = %settings.public_url, "listening");
    let served = tokio::spawn(server::serve(
        listener,
        table.into_registry(),
        readiness,
        end.clone(),
    ));

    if wait_for_kinds(&client, &settings.watch_namespaces, &kinds, &end).await {
        triggers::run(client, settings, metrics, stores, end.clone()).await?;
    }
    served.await??;
    Ok(())
}

/// Waits until the API server knows our kinds. `false`: it is time to end.
async fn wait_for_kinds(
    client: &kube::Client,
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
fn namespaced<K>(client: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
