//! A connection: what the process holds of one account. One client with one budget, one roster, one health.
//!
//! Lists are made by whoever needs one first; those who come meanwhile share it, and its failure too.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as AsyncMutex;
use tokio::sync::mpsc::UnboundedSender;

use super::metrics::Metrics;
use crate::account::report::Problem;
use crate::account::roster::{Changes, Roster};
use crate::partner::fault::{Kind, PartnerError};
use crate::partner::http::PartnerClient;
use crate::resources::account::AccountName;
use crate::resources::reasons::Reason;

/// How many failures in a row make an account not ready, if they are of a kind that passes.
const PATIENCE: u32 = 2;
/// The first pause between two tries of an account that does not answer; it doubles.
const FIRST: Duration = Duration::from_secs(2);

/// Who must look again.
#[derive(Clone, Debug)]
pub enum Wake {
    /// The webhooks that a list says something new of.
    Concerned(AccountName, Changes),
    /// Every webhook of the account, and the account itself.
    Everyone(AccountName),
    /// The webhooks of these namespaces that use an account of another one.
    Guests(HashSet<String>),
}

/// What the process holds of one account.
#[derive(Debug)]
pub struct Connection {
    /// Which account.
    pub account: AccountName,
    /// The client.
    pub client: PartnerClient,
    /// A digest of everything that the client was made of.
    pub made_of: [u8; 32],
    roster: Mutex<Roster>,
    health: Mutex<Health>,
    flight: AsyncMutex<Option<(Instant, PartnerError)>>,
    wake: UnboundedSender<Wake>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Health {
    problem: Option<Problem>,
    failures: u32,
    listed: bool,
}

impl Connection {
    /// A connection that has listed nothing yet.
    #[must_use]
    pub fn new(
        account: AccountName,
        client: PartnerClient,
        made_of: [u8; 32],
        wake: UnboundedSender<Wake>,
        metrics: Metrics,
    ) -> Self {
        let (roster, health, flight) = (Mutex::default(), Mutex::default(), AsyncMutex::default());
        Connection {
            account,
            client,
            made_of,
            roster,
            health,
            flight,
            wake,
            metrics,
        }
    }

    /// The roster. Nobody awaits while holding it.
    pub fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps the account from being ready.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        self.health().problem.clone()
    }

    /// Whether a list was ever made with success.
    #[must_use]
    pub fn has_listed(&self) -> bool {
        self.health().listed
    }

    /// How long to wait before the account is tried again.
    #[must_use]
    pub fn pause(&self, longest: Duration) -> Duration {
        let failures = self.health().failures.saturating_sub(1).min(16);
        let asked = self.client.silent_for(Instant::now()).unwrap_or_default();
        FIRST.saturating_mul(1 << failures).min(longest).max(asked)
    }

    /// Makes sure that a complete list began at `newer_than` or later.
    ///
    /// # Errors
    /// Why it could not be made; the account's health has taken it in.
    pub async fn list(&self, newer_than: Instant) -> Result<(), PartnerError> {
        let mut last_failure = self.flight.lock().await;
        if self
            .roster()
            .complete_since()
            .is_some_and(|began| began >= newer_than)
        {
            return Ok(());
        }
        if let Some((began, error)) = last_failure.as_ref()
            && *began >= newer_than
        {
            return Err(error.clone());
        }
        let began = Instant::now();
        self.metrics.lists.inc();
        match self.client.list().await {
            Ok(listing) => {
                let complete = listing.complete;
                let changes = self.roster().listed(listing, began);
                *last_failure = None;
                self.listed(complete);
                if changes != Changes::default() {
                    self.tell(Wake::Concerned(self.account.clone(), changes));
                }
                if complete {
                    return Ok(());
                }
                let detail = "the list says that there is more and not where";
                let error = PartnerError::new(Kind::Unreadable, false, detail);
                *last_failure = Some((began, error.clone()));
                Err(error)
            }
            Err(error) => {
                self.failed(&error);
                *last_failure = Some((began, error.clone()));
                Err(error)
            }
        }
    }

    /// Takes in a failure that says something of the account and not of one webhook.
    pub fn failed(&self, error: &PartnerError) {
        let reason = match error.kind {
            Kind::Credentials => Reason::CredentialsRejected,
            Kind::Forbidden => Reason::NotPermitted,
            Kind::NoWebhooksApi => Reason::WebhooksNotAvailable,
            Kind::Unreadable => Reason::Unreadable,
            Kind::Throttled | Kind::Server | Kind::Network => Reason::Unreachable,
            Kind::Missing | Kind::Conflict | Kind::Rejected => Reason::Rejected,
        };
        let passing = matches!(reason, Reason::Unreachable);
        let changed = {
            let mut health = self.health();
            health.failures = health.failures.saturating_add(1);
            if passing && health.listed && health.failures < PATIENCE {
                return;
            }
            let problem = Problem {
                reason,
                message: advice(reason, &error.detail),
            };
            let changed = health.problem.as_ref() != Some(&problem);
            health.problem = Some(problem);
            changed
        };
        if changed {
            tracing::warn!(account = %self.account.name, namespace = %self.account.namespace, reason = reason.as_str(), error = %error.detail, "account not ready");
            self.tell(Wake::Everyone(self.account.clone()));
        }
    }

    fn listed(&self, complete: bool) {
        let news = {
            let mut health = self.health();
            let incomplete = (!complete).then(|| Problem {
                reason: Reason::ListIncomplete,
                message: "CHeKT's list of webhooks says that there is more and not where, so nothing can be created or removed safely: tell CHeKT's support".to_owned(),
            });
            let news = health.problem != incomplete || !health.listed;
            *health = Health {
                problem: incomplete,
                failures: 0,
                listed: true,
            };
            news
        };
        if news {
            tracing::info!(account = %self.account.name, namespace = %self.account.namespace, complete, "account listed");
            self.tell(Wake::Everyone(self.account.clone()));
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, wake: Wake) {
        // The other end is gone only when the process is ending.
        if self.wake.send(wake).is_err() {
            tracing::debug!("nobody is left to be woken");
        }
    }
}

/// What happened and what to do about it.
fn advice(reason: Reason, detail: &str) -> String {
    match reason {
        Reason::CredentialsRejected => {
            format!("{detail}. Check the credentials in the account's Secret")
        }
        Reason::NotPermitted => {
            format!(
                "{detail}. Ask CHeKT to permit this account to manage webhooks, and check its IP allow list"
            )
        }
        Reason::WebhooksNotAvailable => {
            format!(
                "Webhooks are not available to this account: {detail}. Check spec.baseURL, or ask CHeKT for them"
            )
        }
        _ => detail.to_owned(),
    }
}
