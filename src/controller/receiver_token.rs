//! The receiver's credentials: a short-lived token of a lesser service account, fetched here and left in a directory.
//!
//! The receiver faces the internet, so it holds no token that could do more than make Events and read keyrings. Every
//! controller does this for the receiver of its own Pod, whether it leads or stands by: it is no write that could be made
//! twice, and so it is outside of the fence, with a client of its own.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
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
    handing: Handing,
    metrics: Metrics,
    /// Opens with the first token: until then the receiver cannot work.
    gate: Gate,
}

/// Whose tokens are fetched, and where they are left.
struct Handing {
    directory: Directory,
    wanted: ReceiverCredentials,
    namespace: String,
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
            handing: Handing {
                directory: Directory::new(path),
                wanted,
                namespace,
            },
            metrics,
            gate,
        })
    }

    /// Keeps the credentials fresh. It does not end.
    pub async fn run(self) -> Infallible {
        let handing = Arc::new(self.handing);
        let hand_over = move || {
            let handing = Arc::clone(&handing);
            async move { handing.hand_over().await }
        };
        keep(since_boot, self.metrics, self.gate, hand_over).await
    }
}

impl Handing {
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

/// Hands a token over whenever one is due.
async fn keep<F>(
    clock: impl Fn() -> Duration,
    metrics: Metrics,
    gate: Gate,
    hand_over: impl Fn() -> F,
) -> Infallible
where
    F: Future<Output = anyhow::Result<Issued>>,
{
    let mut renewal = Renewal::first();
    // What was logged last, so that a thing that lasts is told once.
    let mut told = None;
    let mut handed = false;
    loop {
        let wait = renewal.wait(clock());
        if !wait.is_zero() {
            tokio::time::sleep(wait.min(NAP)).await;
            continue;
        }
        let asked = clock();
        match hand_over().await {
            Ok(issued) => {
                let failures = renewal.succeeded(asked, issued.life, dice());
                metrics.receiver_token(Some(issued.ends));
                gate.open();
                handed = true;
                let seconds = issued.life.as_secs();
                if told.take().is_some() {
                    tracing::info!(failures, seconds, "the receiver has a token again");
                } else {
                    tracing::debug!(seconds, "the receiver has a new token");
                }
            }
            Err(error) => {
                renewal.failed(clock(), dice());
                metrics.receiver_token(None);
                let why = format!("{error:#}");
                // Later it stays open: whoever shares our Pod is not helped by our trouble.
                if !handed {
                    gate.close(&why);
                }
                if told.as_ref() != Some(&why) {
                    tracing::warn!(why, "the receiver cannot be given a token; trying again");
                    told = Some(why);
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use k8s_openapi::jiff::Timestamp;
    use tokio::time::Instant;

    use super::*;
    use crate::ops::health::Readiness;

    const fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_has_a_valid_token_at_any_time_but_while_none_can_be_had() {
        let readiness = Readiness::new();
        let (metrics, gate) = (
            Metrics::default(),
            readiness.gate("receiver-token", "none yet"),
        );
        let start = Instant::now();
        let clock = || start.elapsed();
        // When each was asked for. From the third hour on there is none, for two hours.
        let (had, refused) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let hand_over = || {
            let now = clock();
            if (minutes(180)..minutes(300)).contains(&now) {
                refused.borrow_mut().push(now);
                return std::future::ready(Err(anyhow::anyhow!("forbidden")));
            }
            had.borrow_mut().push(now);
            std::future::ready(Ok(Issued {
                token: "t".into(),
                life: LIFE,
                ends: Timestamp::UNIX_EPOCH,
            }))
        };
        let keeping = keep(clock, metrics, gate, hand_over);
        let kept = tokio::time::timeout(minutes(480), keeping).await;
        assert!(kept.is_err(), "it has ended");
        let had = had.borrow();
        assert!(readiness.waiting().is_empty());
        assert_eq!(had[0], Duration::ZERO);
        let pauses: Vec<_> = had
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]))
            .collect();
        for (pause, asked) in pauses.iter().zip(had.iter()) {
            let next = *asked + *pause;
            if next < minutes(180) || *asked >= minutes(300) {
                let share = minutes(30)..=minutes(42) + NAP;
                assert!(share.contains(pause), "{pause:?} after {asked:?}");
            } else {
                // The longest pause between two failures is a minute.
                assert!(next < minutes(302), "back only at {next:?}");
            }
        }
        // One a minute from the first one on, and more at the beginning; at most a quarter more of them by chance. The
        // first one comes when the last token is due, which chance decides as well.
        let refused = refused.borrow();
        let rest = minutes(300).saturating_sub(refused[0]);
        let least = usize::try_from(rest.as_secs() / 60).unwrap();
        let most = least + least / 4 + 30;
        assert!(
            (least..=most).contains(&refused.len()),
            "{} of {least}",
            refused.len()
        );
    }
}
