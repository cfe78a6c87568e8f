//! How we connect to the API server.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};

use super::fenced::FenceLayer;
use super::meter::{Meter, MeterLayer};
use crate::leadership::fence::Fence;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A client for the cluster that the kubeconfig names, or that we run in.
///
/// The retry that kube has built in is off: it repeats any method up to fifteen times below our feet, a create
/// among them, and one call may then last for minutes. What is to be tried again is decided by those who call.
///
/// # Errors
/// When neither a kubeconfig nor an in-cluster identity can be read.
pub async fn connect() -> anyhow::Result<Client> {
    Ok(Client::try_from(config().await?)?)
}

/// The same, with a meter that counts every request.
///
/// # Errors
/// As [`connect`].
pub async fn connect_metered(meter: &Meter) -> anyhow::Result<Client> {
    let builder = ClientBuilder::try_from(config().await?)?;
    Ok(builder.with_layer(&MeterLayer(meter.clone())).build())
}

/// The same, with a fence that every write must pass. What does not pass it is no request, and is not counted.
///
/// # Errors
/// As [`connect`].
pub async fn connect_behind(fence: &Fence, meter: &Meter) -> anyhow::Result<Client> {
    let builder = ClientBuilder::try_from(config().await?)?;
    let builder = builder.with_layer(&MeterLayer(meter.clone()));
    Ok(builder.with_layer(&FenceLayer(fence.clone())).build())
}

async fn config() -> anyhow::Result<Config> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    Ok(config)
}
