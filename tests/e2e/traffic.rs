//! Traffic: signed deliveries at a steady rate through the Service, and the verdict on them. What a stage does to the
//! release meanwhile must cost none of them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::load::{Load, Record, Running, alarm};
use crate::harness::{Cluster, oracle};

/// Deliveries in a second.
const RATE: u32 = 50;
/// The most that are sent, in case a stage takes for ever.
const MOST: usize = 50 * 180;
/// How long all Events may take to be there, counted from the last delivery.
const SETTLE: Duration = Duration::from_secs(60);

/// Deliveries on their way to one webhook.
pub(crate) struct Traffic {
    running: Running,
    webhook: String,
}

/// What became of them.
pub(crate) struct Outcome {
    /// All attempts.
    pub record: Record,
    /// Events there are for them.
    pub events: usize,
}

impl Traffic {
    /// Begins to send. `idea` is the beginning of the alarms' ids.
    pub(crate) fn start(
        to: SocketAddr,
        namespace: &str,
        webhook: &str,
        secret: String,
        idea: &'static str,
        retries: Vec<Duration>,
    ) -> Traffic {
        let load = Load {
            to,
            path: format!("/webhooks/{namespace}/{webhook}"),
            per_second: RATE,
            connections: 8,
            most: MOST,
            retries,
        };
        Traffic {
            running: load.start(move |number| alarm(&secret, &format!("{idea}-{number}"))),
            webhook: webhook.to_owned(),
        }
    }

    /// Waits for some more answers of 200.
    pub(crate) async fn flows(&mut self, more: usize) -> anyhow::Result<()> {
        self.running
            .acknowledge(more, Duration::from_secs(60))
            .await
    }

    /// Stops, and fails unless every delivery was acknowledged, and every acknowledged one is there as one Event.
    pub(crate) async fn finish(self, users: &Cluster) -> anyhow::Result<Outcome> {
        let record = self.running.finish().await?;
        let unheard: Vec<_> = record.sent.iter().filter(|s| !s.acknowledged()).collect();
        anyhow::ensure!(
            unheard.is_empty(),
            "{} of {} never acknowledged: {:#?}",
            unheard.len(),
            record.sent.len(),
            record.faults()
        );
        let verdict = oracle::settled(users, &self.webhook, &record, SETTLE).await?;
        anyhow::ensure!(
            verdict.missing.is_empty() && verdict.twice.is_empty(),
            "of {} acknowledged deliveries, missing {:?}, twice {:?}",
            record.sent.len(),
            verdict.missing,
            verdict.twice
        );
        Ok(Outcome {
            record,
            events: verdict.events,
        })
    }
}

impl Outcome {
    /// Fails if a single attempt was not answered 200.
    pub(crate) fn flawless(&self) -> anyhow::Result<()> {
        let faults = self.record.faults();
        anyhow::ensure!(
            faults.is_empty(),
            "{} of {}: {faults:#?}",
            faults.len(),
            self.record.sent.len()
        );
        Ok(())
    }

    /// In a few words.
    pub(crate) fn spoken(&self) -> String {
        let others = self.record.faults().len();
        format!(
            "{} deliveries, {others} attempts without a 200, slowest {:.2} s, {} Events, none missing, none twice",
            self.record.sent.len(),
            self.record.slowest().as_secs_f64(),
            self.events
        )
    }
}
