//! The world: everything that a decision about one webhook may look at.
//!
//! Nothing in it can be asked again or waited for, and no clock ticks in it: ages are durations that were taken
//! when it was gathered. So a case of the plan is a value that a test can write down.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::health::Attempted;
use crate::resources::account::{AccountName, OrphanReason};
use crate::resources::keyring::{Keyring, SigningSecret, WebhookIdentity};
use crate::resources::reasons::Reason;
use crate::resources::remote::RemoteWebhook;
use crate::resources::webhook::{AdoptionPolicy, ChektWebhookSpec, ChektWebhookStatus, TestPolicy};

/// Everything that a decision about one webhook may look at.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and none excludes another"
)]
pub struct World {
    /// Which webhook.
    pub webhook: WebhookIdentity,
    /// The generation of its spec.
    pub generation: i64,
    /// What is wanted.
    pub spec: ChektWebhookSpec,
    /// Whether the object is being deleted.
    pub deleting: bool,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
    /// The annotation that asks for a pass now.
    pub reconcile_requested: Option<String>,
    /// The annotation that asks for a test delivery.
    pub test_requested: Option<String>,
    /// The annotation that asks for a new generated secret.
    pub rotate_requested: Option<String>,
    /// What was last reported.
    pub status: ChektWebhookStatus,
    /// The time by the clock of the API server. The deletion of an object and the end of a previous key are judged by it,
    /// since the next process may run on another machine.
    pub now: Timestamp,
    /// Where CHeKT is to deliver.
    pub url: String,
    /// Whether that url was derived and not given.
    pub derived: bool,
    /// Whether it leads to our own receiver, so that a delivery can be seen.
    pub received_here: bool,
    /// Which account it is with.
    pub account_name: AccountName,
    /// That account.
    pub account: AccountView,
    /// Whether that account cannot go before this webhook.
    pub account_held: bool,
    /// An older webhook that has the same url, as words for a message.
    pub claimed_by: Option<String>,
    /// Another webhook that has the remote webhook which this one names, as words for a message.
    pub pin_claimed_by: Option<String>,
    /// What deliveries are to be signed with.
    pub secret: WantedSecret,
    /// The keyring, where there is one.
    pub keyring: Option<Keyring>,
    /// The id of the remote webhook, where one is on record.
    pub recorded_id: Option<String>,
    /// What CHeKT holds.
    pub roster: RosterView,
    /// What letting go depends on, while the object is being deleted.
    pub removal: RemovalView,
    /// What this process remembers.
    pub memory: Memory,
}

/// What letting go of a webhook without a confirmed deletion depends on.
#[derive(Clone, Debug, Default)]
pub struct RemovalView {
    /// When the deletion was asked for, as the object says: a crash does not change it.
    pub asked_at: Option<Timestamp>,
    /// How long after that a webhook may be let go of whose credentials are gone for good.
    pub orphan_after: Duration,
    /// That they are.
    pub loss: Option<Loss>,
    /// Whether the definition of the kind is being deleted as well.
    pub definition: Definition,
}

/// What is known of the definition of the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Definition {
    /// It was not looked at since the deletion of the webhook was asked for, or not for a while.
    #[default]
    Unknown,
    /// It stays.
    Stays,
    /// It is being deleted, and every webhook with it.
    Goes,
}

/// The credentials for a webhook are gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// In which way.
    pub reason: OrphanReason,
    /// For how long this process has seen that without a break.
    pub seen_for: Duration,
}

/// The account as far as a webhook is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountView {
    /// This process has not looked at it yet.
    Unknown,
    /// It can be asked.
    Ready,
    /// It cannot, and here is why.
    NotReady(Reason, String),
}

/// What deliveries are to be signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedSecret {
    /// Whatever the operator makes.
    Generated,
    /// What a Secret of the user says.
    Given(SigningSecret),
    /// A Secret of the user that is not there or cannot be used.
    Unusable(Reason, String),
}

/// The roster as far as a webhook is concerned.
#[derive(Clone, Debug, Default)]
pub struct RosterView {
    /// How long ago the last list began, if it was complete.
    pub age: Option<Duration>,
    /// The remote webhook of the recorded id.
    pub recorded: Option<RemoteWebhook>,
    /// The remote webhook that `spec.webhookID` names.
    pub pinned: Option<RemoteWebhook>,
    /// If that is absent: how far apart the first and the last list began that showed it absent.
    pub absent_for: Duration,
    /// Every remote webhook with the wanted url, the oldest first; while none is on record, also what a POST of ours to
    /// another url may have made.
    pub by_url: Vec<RemoteWebhook>,
}

/// What this process remembers of a webhook. All of it is lost when the process ends, so every rule must hold
/// with an empty memory too.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// How long the process has been running.
    pub running_for: Duration,
    /// The number in the keyring, as far as this process has used it.
    pub attempt: Attempt,
    /// How long ago a write was sent whose outcome is not known; `None` once a list could show it.
    pub unclear: Option<Duration>,
    /// The id of the key that CHeKT has confirmed to be in force.
    pub asserted: Option<String>,
    /// How long ago this process made a key `next`.
    pub next_for: Option<Duration>,
    /// CHeKT's last definite no.
    pub refusal: Option<Refusal>,
    /// The last failure that may pass by itself.
    pub trouble: Option<Trouble>,
    /// The last attempt to switch the webhook on.
    pub recovery: Option<Attempted>,
    /// What CHeKT has answered with success and not made, since the remote webhook last was as written.
    pub unheeded: Option<Unheeded>,
    /// The test delivery.
    pub test: Test,
    /// How long it has been waited for.
    pub proof: Proof,
    /// For how long the report of a delay in `status.deliveries` has not changed.
    pub delay_unchanged: Duration,
    /// Whether CHeKT has confirmed the deletion.
    pub deleted: bool,
    /// Whether it is on record that the remote webhook is let go of.
    pub orphaned: bool,
    /// The request for a pass that a list has been made for.
    pub listed_for: Option<String>,
}

/// What has become of the number in the keyring that the next remote write carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attempt {
    /// This process does not know: it has just started.
    #[default]
    Unknown,
    /// Written, and no answer has come to it: not sent yet, or sent with an unclear outcome.
    Open,
    /// Sent and answered: the next write needs a new one.
    Used,
}

/// PATCHes that were answered with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheeded {
    /// How many.
    pub patches: u32,
    /// The generation of the spec that they were for.
    pub generation: i64,
    /// How long ago the last one was.
    pub ago: Duration,
}

/// A definite no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The generation of the spec that was refused.
    pub generation: i64,
    /// Whether it was a create that was refused.
    pub create: bool,
    /// The key that was sent along, if one was.
    pub key_id: Option<String>,
    /// What CHeKT said.
    pub message: String,
    /// How long ago.
    pub ago: Duration,
}

/// A failure that may pass by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What happened.
    pub message: String,
    /// How much longer to wait.
    pub wait: Duration,
}

/// How long a test delivery has been waited for, by the clock of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// How long ago it was last asked for; where this process has not, how long ago it first saw the number.
    pub asked: Duration,
    /// The same of the first of those in a row that have not arrived.
    pub since: Duration,
    /// How many requests in a row CHeKT may have had since.
    pub requests: u32,
}

/// The test delivery, as far as this process has asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Test {
    /// Not by this process. An earlier one may have.
    #[default]
    NotAsked,
    /// It stands in the keyring that it will be asked for, and it has not been.
    Recorded,
    /// Asked for, and CHeKT said no for now: it may be asked for again, under another number.
    Denied,
    /// Asked for, and no answer came. It may be asked for again under the same number.
    Unclear,
    /// Asked for, and CHeKT has agreed.
    Sent,
    /// Asked for and refused, with what CHeKT said.
    Refused(String),
}

impl World {
    /// The remote webhook that is this webhook's: the one on record, else the first that is so by what is written.
    #[must_use]
    pub fn target(&self) -> Option<&RemoteWebhook> {
        let recorded = self.roster.recorded.as_ref();
        recorded.or_else(|| self.as_written().first())
    }

    /// The remote webhooks that are this webhook's by what is written, whatever is on record: the one that
    /// `spec.webhookID` names, else those with its url, the oldest first. What another webhook keeps is the other one's,
    /// and must never be put on record here; nor may what is not to be taken over.
    #[must_use]
    pub fn as_written(&self) -> &[RemoteWebhook] {
        if self.claimed_by.is_some() || self.pin_claimed_by.is_some() || self.refuses_adoption() {
            return &[];
        }
        match self.pin() {
            Some(_) => self.roster.pinned.as_slice(),
            None => &self.roster.by_url,
        }
    }

    /// The id that `spec.webhookID` names, until a remote webhook is on record: it says which one is to be taken over.
    #[must_use]
    pub fn pin(&self) -> Option<&str> {
        let pin = self.spec.webhook_id.as_deref();
        pin.filter(|_| self.recorded_id.is_none())
    }

    /// Whether a remote webhook with this url is not to be taken over. One that is there after a number was written for
    /// a POST may be ours, since none was there before; so is every one under a derived url, once one was on record.
    #[must_use]
    pub fn refuses_adoption(&self) -> bool {
        let sent = self.keyring.as_ref().is_some_and(|k| k.attempt > 0);
        let ours = match &self.recorded_id {
            Some(_) => self.derived || self.roster.recorded.is_some(),
            None => sent,
        };
        self.spec.adoption_policy == AdoptionPolicy::Refuse && self.pin().is_none() && !ours
    }

    /// Whether the number in the keyring may be sent as it is: no answer has come to it.
    #[must_use]
    pub fn attempt_is_open(&self) -> bool {
        match self.memory.attempt {
            Attempt::Open => true,
            Attempt::Used => false,
            // Before a first key is in force, only a create can have carried it, and none was confirmed.
            Attempt::Unknown => self
                .keyring
                .as_ref()
                .is_some_and(|k| k.current.is_none() && k.attempt > 0),
        }
    }

    /// How long the test delivery that proves today's key and url has been waited for, while it has not come back and
    /// could.
    #[must_use]
    pub fn waits_for_test(&self) -> Option<Proof> {
        self.keyring.as_ref()?.test.as_ref()?;
        let proves = self.spec.test_policy == TestPolicy::OnChange || self.test_answers_a_request();
        if !proves || !self.received_here || self.is_verified() || self.test_is_unsent() {
            return None;
        }
        Some(self.memory.proof)
    }

    /// Whether the test delivery that stands in the keyring was not asked for yet, for certain.
    ///
    /// A new process does not know whether the one before it has asked, with one exception: none asks before the id is in
    /// the status.
    #[must_use]
    pub fn test_is_unsent(&self) -> bool {
        let noted = self.keyring.as_ref().is_some_and(|k| k.test.is_some());
        noted
            && match self.memory.test {
                Test::Recorded | Test::Denied => true,
                Test::NotAsked => self.status.webhook_id.is_none(),
                Test::Unclear | Test::Sent | Test::Refused(_) => false,
            }
    }

    /// Whether the test delivery that stands in the keyring is one that a person has asked for.
    #[must_use]
    pub fn test_answers_a_request(&self) -> bool {
        let answered = self
            .keyring
            .as_ref()
            .and_then(|k| k.test_requested.as_ref());
        answered.is_some() && answered == self.test_requested.as_ref()
    }

    /// The id of the key under which the last test delivery came back, if it is not the current one, which a later one
    /// was to prove.
    #[must_use]
    pub fn tested_under_another_key(&self) -> Option<&str> {
        let keyring = self.keyring.as_ref()?;
        let (current, test) = (keyring.current.as_ref()?, keyring.test.as_ref()?);
        let under = self.status.deliveries.as_ref()?.last_test_key.as_deref()?;
        let proves = test.key_id == current.id && !self.test_is_unsent();
        (proves && under != current.id).then_some(under)
    }

    /// Whether a test delivery came back under the current key, for the url that is wanted now, after its number was in the
    /// keyring.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        let Some(keyring) = &self.keyring else {
            return false;
        };
        let (Some(current), Some(test)) = (&keyring.current, &keyring.test) else {
            return false;
        };
        let Some(seen) = &self.status.deliveries else {
            return false;
        };
        test.key_id == current.id
            && test.url == self.url
            && seen.last_test_key.as_deref() == Some(current.id.as_str())
            && seen.last_test_number == Some(test.number)
    }
}
