//! Which cluster a person means: the words of kubectl, for the commands that people type.

use std::path::PathBuf;

use clap::Args;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::client::{config, ours};
use super::fenced::FenceLayer;
use crate::leadership::fence::Fence;

/// Which cluster a person means, in the words of kubectl.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Access {
    /// The kubeconfig to use. Default: `KUBECONFIG`, else ~/.kube/config, else the service account of the Pod.
    #[arg(long, env = "CHEKT_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig to use. Default: its current one.
    #[arg(long, env = "CHEKT_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
}

/// A cluster that was found, before anything is asked of it.
pub struct Found(Config);

impl Access {
    /// Reads the kubeconfig.
    ///
    /// # Errors
    /// When it cannot be read, or has no such context.
    pub async fn find(&self) -> anyhow::Result<Found> {
        if *self == Access::default() {
            return Ok(Found(config().await?));
        }
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &self.kubeconfig {
            Some(file) => {
                Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?
            }
            None => Config::from_kubeconfig(&options).await?,
        };
        Ok(Found(ours(config)))
    }
}

impl Found {
    /// The namespace of the context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.default_namespace
    }

    /// A client for it.
    ///
    /// # Errors
    /// When what the kubeconfig says cannot be used.
    pub fn client(self) -> anyhow::Result<Client> {
        Ok(Client::try_from(self.0)?)
    }

    /// The same, with a fence that every write must pass.
    ///
    /// # Errors
    /// As [`Found::client`].
    pub fn client_behind(self, fence: &Fence) -> anyhow::Result<Client> {
        let builder = ClientBuilder::try_from(self.0)?;
        Ok(builder.with_layer(&FenceLayer(fence.clone())).build())
    }
}
