//! The checkup: what was seen on the way of a delivery becomes findings, and the findings one verdict with the next thing
//! to do.
//!
//! It is the guide's "Troubleshooting" as functions: is the webhook active, can the endpoint be reached, does a manual
//! trigger arrive, does the signature fit. Nothing here looks at anything: facts come in, with the time where it matters.
//!
//! ```text
//! webhook -> account -> remote -> dns -> tcp -> tls -> answer -> probe -> delivery -> event -> journal
//! ```

pub mod certificate;
pub mod delivery;
pub mod installation;
pub mod object;
pub mod path;
pub mod probe;
pub mod remote;
pub mod summary;
pub mod verdict;

/// What is looked at, in this order. The first eleven are about one webhook, the others about the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The `ChektWebhook` and its conditions.
    Webhook,
    /// Its `ChektAccount` and its conditions.
    Account,
    /// The remote webhook, as CHeKT shows it.
    Remote,
    /// The addresses of the host in the url.
    Dns,
    /// A connection to each of them.
    Tcp,
    /// The certificate.
    Tls,
    /// Who answers a request, and how.
    Answer,
    /// What the receiver saw of that request.
    Probe,
    /// A test delivery, signed by CHeKT.
    Delivery,
    /// The Event that it became.
    Event,
    /// What the receiver holds back.
    Journal,
    /// The API server.
    Api,
    /// The definitions of our kinds.
    Definitions,
    /// The Lease of the controllers.
    Lease,
    /// The receiver, through its Service.
    Receiver,
    /// All accounts.
    Accounts,
    /// All webhooks.
    Webhooks,
}

impl Step {
    /// The word for it in the output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Webhook => "webhook",
            Step::Account => "account",
            Step::Remote => "remote",
            Step::Dns => "dns",
            Step::Tcp => "tcp",
            Step::Tls => "tls",
            Step::Answer => "answer",
            Step::Probe => "probe",
            Step::Delivery => "delivery",
            Step::Event => "event",
            Step::Journal => "journal",
            Step::Api => "api",
            Step::Definitions => "definitions",
            Step::Lease => "lease",
            Step::Receiver => "receiver",
            Step::Accounts => "accounts",
            Step::Webhooks => "webhooks",
        }
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not as it should be, and no delivery is lost by it now.
    Warning,
    /// Deliveries do not arrive, or will not.
    Failed,
    /// Not looked at; why is said.
    Skipped,
}

impl Outcome {
    /// The word for it in the output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}

/// What was found at one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The step.
    pub step: Step,
    /// What it came to.
    pub outcome: Outcome,
    /// What was seen, for people. No secret is in it, and what strangers wrote is cut and cleaned before.
    pub said: String,
    /// What to do about it.
    pub next: Option<String>,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(step: Step, said: impl Into<String>) -> Self {
        Finding {
            step,
            outcome: Outcome::Ok,
            said: said.into(),
            next: None,
        }
    }

    /// Something to look after.
    #[must_use]
    pub fn warning(step: Step, said: impl Into<String>, next: impl Into<String>) -> Self {
        Finding {
            step,
            outcome: Outcome::Warning,
            said: said.into(),
            next: Some(next.into()),
        }
    }

    /// Something is broken.
    #[must_use]
    pub fn failed(step: Step, said: impl Into<String>, next: impl Into<String>) -> Self {
        Finding {
            step,
            outcome: Outcome::Failed,
            said: said.into(),
            next: Some(next.into()),
        }
    }

    /// Not looked at, and why.
    #[must_use]
    pub fn skipped(step: Step, why: impl Into<String>) -> Self {
        Finding {
            step,
            outcome: Outcome::Skipped,
            said: why.into(),
            next: None,
        }
    }

    /// The same, as somebody sees it who is within the cluster: there, the public url may lead nowhere and still be
    /// right, so nothing that is seen on the way to it is proof of a failure.
    #[must_use]
    pub fn seen_from_inside(mut self) -> Self {
        if self.outcome == Outcome::Failed {
            self.outcome = Outcome::Warning;
            self.said.push_str(
                " (seen from inside the cluster, where the public url may lead elsewhere)",
            );
        }
        self
    }

    /// Whether what comes after it on the way of a delivery makes sense.
    #[must_use]
    pub fn lets_go_on(&self) -> bool {
        match self.outcome {
            Outcome::Ok | Outcome::Warning => true,
            Outcome::Failed | Outcome::Skipped => false,
        }
    }
}
