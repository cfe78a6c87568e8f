//! The verdict: what the sandbox's ledger and the API server say of the end of a cell.

use std::fmt;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::harness::sandbox_client::{Entry, Ledger};

/// What became of one cell.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Live remote webhooks beyond the one.
    pub duplicates: usize,
    /// Live remote webhooks whose object is gone.
    pub leaks: usize,
    /// An object without a remote webhook, or a delivery that did not become an Event.
    pub losses: usize,
    /// Why it did not come to its end, or came to another one.
    pub stuck: Option<String>,
    /// Remote webhooks that were made beyond the one and taken away again.
    pub twins: usize,
    /// The most calls in any minute.
    pub calls: usize,
    /// How long it took to its end.
    pub took: Duration,
    /// For whoever looks into a failure.
    pub record: String,
}

impl Verdict {
    /// Whether nothing is wrong. `twins`: how many there may be on the way.
    pub fn is_good(&self, twins: usize, most_calls: usize) -> bool {
        self.duplicates + self.leaks + self.losses == 0
            && self.stuck.is_none()
            && self.twins <= twins
            && self.calls <= most_calls
    }

    /// All of it that is a number.
    pub fn counts(&self) -> String {
        let Verdict {
            duplicates,
            leaks,
            losses,
            stuck: _,
            twins,
            calls,
            took,
            record: _,
        } = self;
        format!(
            "{duplicates} duplicates, {leaks} leaks, {losses} losses, {twins} twins on the way, {calls} calls a minute, {:.0} s",
            took.as_secs_f64()
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.counts())?;
        if let Some(why) = &self.stuck {
            write!(f, "\n  stuck: {why}\n  {}", self.record)?;
        }
        Ok(())
    }
}

/// The most calls of the API in any sixty seconds.
pub fn most_calls_a_minute(ledger: &Ledger) -> usize {
    let times: Vec<Timestamp> = ledger
        .entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Call(call) if call.route.as_deref() != Some("token") => Some(call.at),
            Entry::Call(_) | Entry::Delivery(_) | Entry::Other => None,
        })
        .collect();
    let within = |first: Timestamp| {
        let last = first + Duration::from_secs(60);
        times
            .iter()
            .filter(|at| first <= **at && **at < last)
            .count()
    };
    times
        .iter()
        .map(|first| within(*first))
        .max()
        .unwrap_or_default()
}
