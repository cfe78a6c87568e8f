//! A connection: what the process holds of one account. One client with one budget, one roster, one health.
//!
//! Lists are made by whoever needs one first; those who come meanwhile share it, and its failure too.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::metrics::Metrics;
use crate::account::breaker::Breaker;
use crate::account::report::Problem;
use crate::account::roster::{Changes, Roster};
use crate::account::turns::{Asker, Next};
use crate::ops::clock::Clock;
use crate::partner::fault::{Kind, PartnerError};
use crate::partner::http::PartnerClient;
use crate::resources::account::AccountName;
use crate::resources::reasons::Reason;

/// How many failed looks in a row make an account not ready, if CHeKT did not say no for good.
const PATIENCE: u32 = 2;
/// The first pause between two looks at an account that is not ready; it doubles.
const FIRST: Duration = Duration::from_secs(2);
/// The longest pause while the next look may well succeed.
const LONGEST: Duration = Duration::from_secs(60);
/// The pause after a no that only CHeKT's staff can turn into a yes.
const SLOW: Duration = Duration::from_secs(5 * 60);
/// How often one who gives turns looks whether there is still an account to give them for.
const IDLE: Duration = Duration::from_secs(60);

/// Who must look again.
#[derive(Clone, Debug)]
pub enum Wake {
    /// The webhooks that a list says something new of.
    Concerned(AccountName, Changes),
    /// Every webhook of the account, and the account itself.
    Everyone(AccountName),
    /// The account itself.
    Account(AccountName),
    /// The webhooks of these namespaces that use an account of another one.
    Guests(HashSet<String>),
    /// The webhook whose turn it is.
    One(Asker),
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
    clock: Clock,
}

#[derive(Debug, Default)]
struct Health {
    problem: Option<Problem>,
    failures: u32,
    listed: bool,
    breaker: Breaker,
    /// When the account may be looked at again, while it is not ready.
    look_at: Option<Instant>,
    /// When it last became ready again.
    recovered: Option<Instant>,
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
        clock: Clock,
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
            clock,
        }
    }

    /// The same, with somebody who gives turns. That ends by itself once nobody holds the connection any more.
    #[must_use]
    pub fn open(
        account: AccountName,
        client: PartnerClient,
        made_of: [u8; 32],
        wake: UnboundedSender<Wake>,
        metrics: Metrics,
        clock: Clock,
    ) -> Arc<Self> {
        let waiting = client.waiting();
        let connection = Connection::new(account, client, made_of, wake, metrics, clock);
        let connection = Arc::new(connection);
        let turns = Connection::give_turns(Arc::downgrade(&connection), waiting);
        drop(tokio::spawn(turns));
        connection
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

    /// Whether CHeKT does not answer, so that only single looks at the account are tried.
    #[must_use]
    pub fn is_left_alone(&self) -> bool {
        self.health().breaker.is_open()
    }

    /// How long to wait before the account is looked at again; nothing while all is well.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        let look_at = self.health().look_at;
        let asked = self.client.silent_for(now).unwrap_or_default();
        look_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
            .max(asked)
    }

    /// When the account last became ready again after it was not.
    #[must_use]
    pub fn recovered(&self) -> Option<Instant> {
        self.health().recovered
    }

    /// Gives turns to those who wait for one, for as long as there is a connection.
    pub async fn give_turns(connection: Weak<Connection>, waiting: Arc<Notify>) {
        loop {
            let Some(this) = connection.upgrade() else {
                return;
            };
            let pause = match this.client.next_turn() {
                Next::Wake(asker) => {
                    this.tell(Wake::One(asker));
                    continue;
                }
                Next::At(at) => at.saturating_duration_since(this.clock.now()),
                Next::Nobody => IDLE,
            };
            drop(this);
            // Either way, look again.
            drop(tokio::time::timeout(pause, waiting.notified()).await);
        }
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
        let began = self.clock.now();
        self.metrics.lists.inc();
        match self.client.list().await {
            Ok(listing) => {
                let (changes, complete) = {
                    let mut roster = self.roster();
                    let changes = roster.listed(listing, began);
                    (changes, roster.complete_since() == Some(began))
                };
                *last_failure = None;
                self.listed(complete);
                if changes != Changes::default() {
                    self.tell(Wake::Concerned(self.account.clone(), changes));
                }
                if complete {
                    return Ok(());
                }
                let detail = "the list is not whole";
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
        let now = self.clock.now();
        let reason = reason(error.kind);
        let changed = {
            let mut health = self.health();
            health.failures = health.failures.saturating_add(1);
            if has_no_answer(error.kind) {
                health.breaker.look_failed(LONGEST, now);
            } else {
                health.breaker.look_answered();
            }
            let pause = match reason {
                Reason::NotPermitted | Reason::WebhooksNotAvailable => SLOW,
                _ if health.breaker.is_open() => health.breaker.wait(now),
                _ => {
                    let doubled = health.failures.saturating_sub(1).min(16);
                    FIRST.saturating_mul(1 << doubled).min(LONGEST)
                }
            };
            health.look_at = Some(now + pause);
            let passing = reason == Reason::Unreachable;
            if passing && health.listed && health.failures < PATIENCE {
                return;
            }
            health.has(reason, advice(reason, &error.detail))
        };
        if changed {
            self.tell_trouble(reason, error);
        }
    }

    /// Takes in whether CHeKT answered a request of one webhook: five that it did not answer are the account's trouble.
    pub fn heard(&self, uid: &str, outcome: &Result<(), PartnerError>) {
        let now = self.clock.now();
        let error = match outcome {
            Err(error) if has_no_answer(error.kind) => error,
            Ok(()) | Err(_) => return self.health().breaker.webhook_answered(),
        };
        let changed = {
            let mut health = self.health();
            let was_open = health.breaker.is_open();
            if was_open || !health.breaker.webhook_failed(uid, LONGEST, now) {
                return;
            }
            health.look_at = Some(now + health.breaker.wait(now));
            let message = format!(
                "CHeKT leaves the requests of several webhooks without an answer, so only one request at a time tries it: {}",
                error.detail
            );
            health.has(Reason::Unreachable, message)
        };
        if changed {
            self.tell_trouble(Reason::Unreachable, error);
        }
    }

    fn tell_trouble(&self, reason: Reason, error: &PartnerError) {
        tracing::warn!(account = %self.account.name, namespace = %self.account.namespace, reason = reason.as_str(), error = %error.detail, "account not ready");
        self.tell(Wake::Everyone(self.account.clone()));
    }

    fn listed(&self, complete: bool) {
        let news = {
            let mut health = self.health();
            let incomplete = (!complete).then(|| Problem {
                reason: Reason::ListIncomplete,
                message: "CHeKT's list of webhooks is not whole: it says that there is more and not where, or lacks one that CHeKT has confirmed. So nothing can be created or removed safely: tell CHeKT's support".to_owned(),
            });
            let news = health.problem != incomplete || !health.listed;
            // Only a look that failed before says that nothing else could have succeeded meanwhile.
            let is_back = complete && health.problem.is_some() && health.failures > 0;
            let now = self.clock.now();
            *health = Health {
                problem: incomplete,
                failures: 0,
                listed: true,
                breaker: {
                    let mut breaker = health.breaker.clone();
                    breaker.look_answered();
                    breaker
                },
                look_at: (!complete).then(|| now + LONGEST),
                recovered: if is_back { Some(now) } else { health.recovered },
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

impl Health {
    /// Takes in a problem. Returns whether it is another one than before.
    fn has(&mut self, reason: Reason, message: String) -> bool {
        let problem = Some(Problem { reason, message });
        let changed = self.problem != problem;
        self.problem = problem;
        changed
    }
}

/// Whether a failure says that nobody is there, and not that somebody said no.
fn has_no_answer(kind: Kind) -> bool {
    match kind {
        Kind::Network | Kind::Server => true,
        Kind::Credentials
        | Kind::Forbidden
        | Kind::Missing
        | Kind::NoWebhooksApi
        | Kind::Conflict
        | Kind::Rejected
        | Kind::Throttled
        | Kind::Unreadable => false,
    }
}

/// The word for a failure of the account.
fn reason(kind: Kind) -> Reason {
    match kind {
        Kind::Credentials => Reason::CredentialsRejected,
        Kind::Forbidden => Reason::NotPermitted,
        Kind::NoWebhooksApi => Reason::WebhooksNotAvailable,
        Kind::Unreadable => Reason::Unreadable,
        Kind::Throttled | Kind::Server | Kind::Network => Reason::Unreachable,
        Kind::Missing | Kind::Conflict | Kind::Rejected => Reason::Rejected,
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
