//! The leader: stands by until nobody leads, keeps its lease while it does, and gives it back at the end.
//!
//! Whoever cannot keep its lease ends the process. Another one begins with nothing but what is on record, and that is
//! the same as after a crash, which every rule of the plan allows for; to go on with a memory from before would not be.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::cluster::ClusterError;
use crate::cluster::lease::{LeaseClient, Stored};
use crate::leadership::election::{Decision, Sighting, Timing, decide};
use crate::leadership::fence::Fence;
use crate::ops::clock::since_boot;
use crate::ops::health::Gate;

/// One who takes part in the election.
pub struct Candidate {
    lease: LeaseClient,
    timing: Timing,
    fence: Fence,
    metrics: Metrics,
    /// Opens once we lead or somebody else does: a candidate that may not use the lease will never lead, and must not
    /// look like one that stands by. It stays open, since whoever shares our Pod is not helped by our trouble.
    usable: Gate,
    used: bool,
    seen: Option<Sighting>,
    /// What was logged last, so that a thing that lasts is told once.
    told: Option<String>,
}

/// A lease that we hold.
pub struct Term {
    stored: Stored,
    /// Until when we act on it, since the machine was started.
    until: Duration,
}

/// Why the lease is not ours any more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// It could not be renewed in time.
    #[error(
        "the lease {name} could not be renewed within {acts:?} ({why}): ending, so that another controller acts alone"
    )]
    Late {
        /// Its name.
        name: String,
        /// How much time there was.
        acts: Duration,
        /// What kept it from being renewed.
        why: String,
    },
    /// It has another name in it, or none.
    #[error(
        "the lease {name} is not ours any more, {now}: ending, so that another controller acts alone"
    )]
    Taken {
        /// Its name.
        name: String,
        /// Who has it.
        now: String,
    },
}

impl Candidate {
    /// One who has not looked yet.
    #[must_use]
    pub fn new(
        lease: LeaseClient,
        timing: Timing,
        fence: Fence,
        metrics: Metrics,
        usable: Gate,
    ) -> Self {
        Candidate {
            lease,
            timing,
            fence,
            metrics,
            usable,
            used: false,
            seen: None,
            told: None,
        }
    }

    /// Waits until we lead. `None`: it is time to end.
    pub async fn win(&mut self, end: &CancellationToken) -> Option<Term> {
        loop {
            // Not cut short by the end: a lease that was taken in the last moment would lie in the others' way.
            let looked = self.look().await;
            if looked.is_ok() && !self.used {
                self.usable.open();
                self.used = true;
            }
            let wait = match looked {
                Ok(Looked::Leading(term)) => return Some(*term),
                Ok(Looked::StandingBy(holder, wait)) => {
                    self.told(holder, |me, holder| {
                        tracing::info!(me, holder, "standing by");
                    });
                    wait.min(self.timing.pause)
                }
                Err(ClusterError::Conflict(_) | ClusterError::AlreadyExists(_)) => {
                    self.timing.pause
                }
                Err(error) => {
                    if !self.used {
                        self.usable.close(&error.to_string());
                    }
                    let lease = self.lease.name.clone();
                    self.told(error.to_string(), |_, error| {
                        tracing::warn!(
                            lease,
                            error,
                            "the lease cannot be used, so nobody is known to lead"
                        );
                    });
                    self.timing.pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = end.cancelled() => return None,
            }
        }
    }

    /// Looks at the lease once, and takes it if it is free.
    async fn look(&mut self) -> Result<Looked, ClusterError> {
        let asked = since_boot();
        let found = self.lease.read().await?;
        let unchanged_for = match &found {
            None => Duration::ZERO,
            Some(stored) => {
                self.metrics.lease_seen(stored.transitions);
                let (seen, unchanged_for) =
                    Sighting::of(self.seen.take(), &stored.version, asked, since_boot());
                self.seen = Some(seen);
                unchanged_for
            }
        };
        let record = found.as_ref().map(|stored| &stored.record);
        let holder = record.and_then(|r| r.holder.clone()).unwrap_or_default();
        let sent = since_boot();
        let stored = match (decide(record, &self.lease.me, unchanged_for), &found) {
            (Decision::Wait(left), _) => return Ok(Looked::StandingBy(holder, left)),
            (Decision::Renew, Some(ours)) => self.lease.renew(ours).await?,
            (Decision::Renew | Decision::Acquire, before) => {
                self.lease.acquire(before.as_ref()).await?
            }
        };
        let until = sent + self.timing.acts;
        self.fence.move_to(until);
        self.metrics.lease_seen(stored.transitions);
        self.metrics.leader.set(1);
        tracing::info!(lease = %self.lease.name, me = %self.lease.me, before = holder, "leading");
        Ok(Looked::Leading(Box::new(Term { stored, until })))
    }

    /// Renews the lease until `done` is cancelled.
    ///
    /// # Errors
    /// [`Lost`]: whatever runs must end now.
    pub async fn keep(&self, mut term: Term, done: &CancellationToken) -> Result<Term, Lost> {
        let mut trouble: Option<ClusterError> = None;
        loop {
            tokio::select! {
                biased;
                () = done.cancelled() => return Ok(term),
                () = tokio::time::sleep(self.timing.pause) => {}
            }
            let sent = since_boot();
            let left = term.until.saturating_sub(sent);
            // No longer than the fence stands: what is on its way elsewhere ends with the process.
            let answer = match left {
                Duration::ZERO => None,
                left => tokio::time::timeout(left, self.renew(&mut term)).await.ok(),
            };
            match answer {
                Some(Ok(())) => {
                    term.until = sent + self.timing.acts;
                    self.fence.move_to(term.until);
                    trouble = None;
                }
                Some(Err(Renewal::Lost(lost))) => return Err(lost),
                Some(Err(Renewal::Failed(error))) => {
                    if trouble.is_none() {
                        tracing::warn!(lease = %self.lease.name, %error, "the lease could not be renewed yet");
                    }
                    trouble = Some(error);
                }
                None => {
                    return Err(Lost::Late {
                        name: self.lease.name.clone(),
                        acts: self.timing.acts,
                        why: trouble.map_or_else(
                            || "the process was paused, or the API server is silent".to_owned(),
                            |error| error.to_string(),
                        ),
                    });
                }
            }
        }
    }

    async fn renew(&self, term: &mut Term) -> Result<(), Renewal> {
        loop {
            match self.lease.renew(&term.stored).await {
                Ok(stored) => {
                    term.stored = stored;
                    return Ok(());
                }
                Err(ClusterError::Conflict(_) | ClusterError::NotFound(_)) => {}
                Err(error) => return Err(Renewal::Failed(error)),
            }
            // Somebody else wrote it: another controller, a person, or we ourselves, and the answer was lost.
            match self.lease.read().await.map_err(Renewal::Failed)? {
                Some(found) if found.record.holder.as_deref() == Some(&self.lease.me) => {
                    term.stored = found;
                }
                found => {
                    let now = match found.and_then(|f| f.record.holder) {
                        Some(holder) => format!("{holder} holds it"),
                        None => "it was deleted or emptied".to_owned(),
                    };
                    let name = self.lease.name.clone();
                    return Err(Renewal::Lost(Lost::Taken { name, now }));
                }
            }
        }
    }

    /// Gives the lease back. Whatever runs must have ended.
    pub async fn resign(&self, term: Term) {
        self.fence.close();
        self.metrics.leader.set(0);
        match self.lease.resign(&term.stored).await {
            Ok(()) => tracing::info!(lease = %self.lease.name, "resigned"),
            Err(error) => {
                tracing::warn!(lease = %self.lease.name, %error, "the lease could not be given back; the others wait until it runs out");
            }
        }
    }

    /// Tells something that may be so again at the next look, once.
    fn told(&mut self, what: String, tell: impl FnOnce(&str, &str)) {
        if self.told.as_ref() != Some(&what) {
            tell(&self.lease.me, &what);
            self.told = Some(what);
        }
    }
}

enum Looked {
    Leading(Box<Term>),
    /// Whose the lease is, and for how long at least.
    StandingBy(String, Duration),
}

enum Renewal {
    Failed(ClusterError),
    Lost(Lost),
}

/// A name that no other process has, and that says where it runs: that of the host, which is the Pod's, and some
/// random letters. A process that is started again in the same Pod is another one.
///
/// # Errors
/// When no random bytes can be had.
pub fn identity() -> anyhow::Result<String> {
    let mut random = [0; 5];
    getrandom::fill(&mut random)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "controller",
        host => host,
    };
    let suffix = data_encoding::BASE32_DNSSEC.encode(&random);
    Ok(format!("{host}-{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_have_two_names() {
        assert_ne!(identity().unwrap(), identity().unwrap());
    }
}
