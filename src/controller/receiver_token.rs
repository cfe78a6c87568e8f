//! The receiver's credentials: a short-lived token of a lesser service account, fetched here and left in a directory.
//!
//! The receiver faces the internet, so it holds no token that could do more than make Events and read keyrings. Every
//! controller does this for the receiver of its own Pod, whether it leads or stands by: it is no write that could be made
//! twice, and so it is outside of the fence, with a client of its own.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use super::args::ReceiverCredentials;
use super::metrics::Metrics;
use crate::cluster;
use crate::cluster::credentials::Directory;
use crate::cluster::token::{self, Issued};
use crate::ops::clock::since_boot;
use crate::ops::health::Gate;
use crate::token::{LIFE, Renewal};

/// How long to sleep at most: the machine may sleep meanwhile, and its clock for sleeping stands still then.
const NAP: Duration = Duration::from_secs(10);

/// Looks after the receiver's credentials.
pub struct Keeper {
    directory: Directory,
    wanted: ReceiverCredentials,
    namespace: String,
    metrics: Metrics,
    /// Opens with the first token: until then the receiver cannot work.
    gate: Gate,
}

impl Keeper {
    /// One that has not begun.
    ///
    /// # Errors
    /// When the directory is not there.
    pub fn new(
        wanted: ReceiverCredentials,
        namespace: String,
        metrics: Metrics,
        gate: Gate,
    ) -> anyhow::Result<Self> {
        let path: PathBuf = wanted.directory.clone();
        anyhow::ensure!(
            path.is_dir(),
            "--receiver-credentials {} is no directory: mount a volume there that the receiver has, too",
            path.display()
        );
        Ok(Keeper {
            directory: Directory::new(path),
            wanted,
            namespace,
            metrics,
            gate,
        })
    }

    /// Keeps the credentials fresh. It does not end.
    pub async fn run(self) -> Infallible {
        let mut renewal = Renewal::first();
        // What was logged last, so that a thing that lasts is told once.
        let mut told = None;
        let mut handed = false;
        loop {
            let wait = renewal.wait(since_boot());
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(NAP)).await;
                continue;
            }
            let asked = since_boot();
            match self.hand_over().await {
                Ok(issued) => {
                    let failures = renewal.succeeded(asked, issued.life, dice());
                    self.metrics.receiver_token(Some(issued.ends));
                    self.gate.open();
                    handed = true;
                    let seconds = issued.life.as_secs();
                    if told.take().is_some() {
                        tracing::info!(failures, seconds, "the receiver has a token again");
                    } else {
                        tracing::debug!(seconds, "the receiver has a new token");
                    }
                }
                Err(error) => {
                    renewal.failed(since_boot(), dice());
                    self.metrics.receiver_token(None);
                    let why = format!("{error:#}");
                    // Later it stays open: whoever shares our Pod is not helped by our trouble.
                    if !handed {
                        self.gate.close(&why);
                    }
                    if told.as_ref() != Some(&why) {
                        let service_account = &self.wanted.service_account;
                        tracing::warn!(
                            service_account,
                            why,
                            "the receiver cannot be given a token; trying again"
                        );
                        told = Some(why);
                    }
                }
            }
        }
    }

    /// Fetches a token and leaves it in the directory. The client is made anew each time, since the certificates that the
    /// API server is trusted by may be others by then.
    async fn hand_over(&self) -> anyhow::Result<Issued> {
        let (client, ca) = cluster::client::connect_and_trust().await?;
        let issued = token::request(
            &client,
            &self.namespace,
            &self.wanted.service_account,
            LIFE,
            self.wanted.pod.as_ref(),
        )
        .await?;
        self.directory.write(&issued.token, &ca, &self.namespace)?;
        Ok(issued)
    }
}

/// A byte to spread renewals with. Without chance they come at one time, which is no harm.
fn dice() -> u8 {
    let mut byte = [0];
    match getrandom::fill(&mut byte) {
        Ok(()) => byte[0],
        Err(_) => 0,
    }
}
