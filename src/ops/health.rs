//! Readiness: one value that feeds the probe and the log, so that the two never tell different stories.
//!
//! Liveness says only that the process serves: a process that waits for an API server is not helped by being
//! killed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a process still waits for. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

/// One thing that must be so before the process is ready. It starts closed.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// A process that waits for nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a closed gate, with the reason that the probe shows while it is closed.
    #[must_use]
    pub fn gate(&self, name: &'static str, why: &str) -> Gate {
        let gate = Gate {
            name,
            readiness: self.clone(),
        };
        gate.close(why);
        gate
    }

    /// What is waited for, as `name: reason`; empty when ready.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .iter()
            .map(|(name, why)| format!("{name}: {why}"))
            .collect()
    }
}

impl Gate {
    /// Lets the process be ready as far as this gate is concerned.
    pub fn open(&self) {
        let mut waiting = self
            .readiness
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.remove(self.name).is_some() {
            tracing::info!(gate = self.name, "gate open");
        }
    }

    /// Makes the process not ready, with the reason that the probe shows.
    pub fn close(&self, why: &str) {
        let mut waiting = self
            .readiness
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.insert(self.name, why.to_owned()).as_deref() != Some(why) {
            tracing::info!(gate = self.name, why, "gate closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_gate_is_open() {
        let readiness = Readiness::new();
        let (a, b) = (
            readiness.gate("a", "starting"),
            readiness.gate("b", "starting"),
        );
        a.open();
        assert_eq!(readiness.waiting(), ["b: starting"]);
        b.open();
        assert!(readiness.waiting().is_empty());
        a.close("draining");
        assert_eq!(readiness.waiting(), ["a: draining"]);
    }
}
