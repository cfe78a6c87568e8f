//! Steps: the one thing to do next, with the reason for it in its value.

use std::time::Duration;

use crate::resources::account::OrphanReason;
use crate::resources::keyring::SigningSecret;
use crate::resources::reasons::Reason;

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put our finalizer on the object.
    AddFinalizer(Why),
    /// Put our finalizer on the account.
    HoldAccount(Why),
    /// Change the keyring.
    Keyring(KeyringChange, Why),
    /// Make sure of a list that began no longer ago than this. Whoever needs one first makes it, and everyone whose
    /// need it meets shares it.
    List(Duration, Why),
    /// Create the remote webhook.
    Create(Draft, Why),
    /// Change the remote webhook.
    Patch(String, Change, Why),
    /// Delete a remote webhook.
    Delete(String, Why),
    /// Ask for a test delivery.
    Test(String, Why),
    /// Look whether the definition of the kind is being deleted as well.
    LookAtDefinition(Why),
    /// Put on record that the remote webhook is let go of.
    Orphan(Left, Why),
    /// Delete the keyring.
    RemoveKeyring(Why),
    /// Take our finalizer off the object.
    ReleaseFinalizer(Why),
    /// Do nothing for now.
    Rest(Rest),
}

impl Step {
    /// Whether it is a request to CHeKT that changes something.
    #[must_use]
    pub fn is_remote_write(&self) -> bool {
        match self {
            Step::Create(..) | Step::Patch(..) | Step::Delete(..) | Step::Test(..) => true,
            Step::AddFinalizer(_)
            | Step::HoldAccount(_)
            | Step::Keyring(..)
            | Step::List(..)
            | Step::LookAtDefinition(_)
            | Step::Orphan(..)
            | Step::RemoveKeyring(_)
            | Step::ReleaseFinalizer(_)
            | Step::Rest(_) => false,
        }
    }

    /// Whether it is the operator's own care, which lets go first what people have asked for: a drift that is put right
    /// although it was in sync as written, a twin that is removed, a test delivery.
    #[must_use]
    pub fn is_care(&self) -> bool {
        match self {
            Step::Test(..) => true,
            Step::Delete(_, why) => *why == Why::Twin,
            Step::Patch(_, _, why) => *why == Why::Drifted,
            Step::AddFinalizer(_)
            | Step::HoldAccount(_)
            | Step::Keyring(..)
            | Step::List(..)
            | Step::Create(..)
            | Step::LookAtDefinition(_)
            | Step::Orphan(..)
            | Step::RemoveKeyring(_)
            | Step::ReleaseFinalizer(_)
            | Step::Rest(_) => false,
        }
    }

    /// Why it is what comes next, as a sentence without a full stop.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Step::AddFinalizer(why)
            | Step::HoldAccount(why)
            | Step::Keyring(_, why)
            | Step::List(_, why)
            | Step::Create(_, why)
            | Step::Patch(_, _, why)
            | Step::Delete(_, why)
            | Step::Test(_, why)
            | Step::LookAtDefinition(why)
            | Step::Orphan(_, why)
            | Step::RemoveKeyring(why)
            | Step::ReleaseFinalizer(why) => why.text().to_owned(),
            Step::Rest(rest) => rest.because.text(),
        }
    }
}

macro_rules! whys {
    ($($name:ident: $text:literal,)*) => {
        /// Why a step is what comes next. Each line of the plan's table has its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Why {
            $(#[doc = $text] $name,)*
        }

        impl Why {
            /// The reason, as a sentence without a full stop.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Why::$name => $text,)* }
            }
        }
    };
}

whys! {
    FinalizerFirst: "the finalizer must be there before anything is sent to CHeKT",
    AccountFirst: "the account must not go before what is made with it",
    NoKey: "there is no secret to sign deliveries with",
    SecretChanged: "the wanted secret is another one than the one in force",
    SecretRefused: "CHeKT refused the secret, and another one is wanted by now",
    RotationRequested: "a new secret was asked for",
    NumberUsed: "CHeKT has answered the last number, and the next request needs its own",
    UrlChanged: "the last number was written for another url, and nothing came of it",
    NewKeyInForce: "CHeKT has confirmed the new secret",
    PreviousRanOut: "a previous secret is no longer accepted",
    NeverListed: "nothing complete was listed yet",
    PassRequested: "a pass was asked for",
    OutcomeUnknown: "the outcome of the last request is not known",
    OneListIsNoProof: "one list without the webhook on record proves nothing",
    EarlierProcess: "a request of an earlier process may have landed",
    ListTooOld: "the last list is too old to rest on",
    NoneThere: "a complete list shows no webhook of ours",
    TakesOver: "it has this url, and nobody here knows its secret",
    TakesOverPinned: "it is the one that spec.webhookID names, and nobody here knows its secret",
    NewKey: "receivers accept the new secret, and CHeKT does not sign with it yet",
    SpecChanged: "the spec has changed",
    Drifted: "it was changed at CHeKT",
    SwitchedOff: "CHeKT has switched it off",
    StaysOff: "it stays off, so it is made anew",
    Twin: "it is a twin of the webhook on record",
    NotProved: "no test delivery was asked for under this secret and url",
    NotProvedAgain: "it was switched on again, and no test delivery has proved it since",
    TestLost: "the last test delivery did not arrive",
    TestUnclear: "it is not known whether CHeKT has the last request for a test delivery",
    TestRequested: "a test delivery was asked for",
    TestNoted: "it stands in the keyring that it is asked for",
    BeingDeleted: "the object is being deleted",
    OrphanPolicy: "deletionPolicy is Orphan",
    DefinitionUnknown: "the definition of the kind may be being deleted as well, and then nothing is deleted at CHeKT",
    DefinitionGoes: "the definition of the kind is being deleted",
    CredentialsGone: "the credentials for it are gone for good",
    NeverSent: "nothing was ever sent to CHeKT",
    DeletionConfirmed: "CHeKT confirmed the deletion",
    KeptByAnother: "another webhook keeps the remote webhook with this url",
    NothingOfOurs: "a complete list shows nothing of ours",
}

/// A webhook to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Where to deliver.
    pub url: String,
    /// Which events, in alphabetical order.
    pub events: Vec<String>,
    /// The id of the key.
    pub key_id: String,
    /// Its secret.
    pub secret: SigningSecret,
}

/// What is let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The id of the remote webhook; `None`: a request to make it was sent, and nobody knows what became of it.
    pub id: Option<String>,
    /// Where it delivers.
    pub url: String,
    /// Why it is let go of.
    pub reason: OrphanReason,
}

/// What a PATCH asks for; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Where to deliver.
    pub url: Option<String>,
    /// Which events: always the whole list, in alphabetical order.
    pub events: Option<Vec<String>>,
    /// The id and the secret of the key.
    pub key: Option<(String, SigningSecret)>,
    /// Whether the state is set to `active`.
    pub reactivate: bool,
}

impl Change {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Change {
            url,
            events,
            key,
            reactivate,
        } = self;
        url.is_none() && events.is_none() && key.is_none() && !reactivate
    }

    /// The names of the fields it asks for.
    #[must_use]
    pub fn fields(&self) -> String {
        let Change {
            url,
            events,
            key,
            reactivate,
        } = self;
        let names = [
            url.as_ref().map(|_| "url"),
            events.as_ref().map(|_| "events"),
            key.as_ref().map(|_| "secret"),
            reactivate.then_some("status"),
        ];
        names.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What is done to the keyring. Each but the last also gives the next remote write its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyringChange {
    /// The first key: nothing is in force at CHeKT, so it takes its place at once. A test delivery is noted if one is
    /// wanted.
    First,
    /// A new key is about to be in force.
    Next,
    /// The next key is in force, the current one becomes previous; a test delivery is noted if one is wanted.
    Promote,
    /// A new number, since the last one was answered.
    Number,
    /// A test delivery is noted.
    NoteTest,
    /// Keys that have run out go.
    DropExpired,
}

impl KeyringChange {
    /// Whether it gives the next remote write its number.
    #[must_use]
    pub fn numbers(self) -> bool {
        match self {
            KeyringChange::First
            | KeyringChange::Next
            | KeyringChange::Promote
            | KeyringChange::Number
            | KeyringChange::NoteTest => true,
            KeyringChange::DropExpired => false,
        }
    }
}

/// Nothing to do for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Why.
    pub because: Because,
    /// When to look again, at the latest; `None`: when something changes.
    pub again: Option<Duration>,
}

/// Why there is nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// The account was not looked at yet. Nothing is reported: after a restart, what was said last still holds.
    Starting,
    /// All is as written.
    InSync,
    /// A new key must reach the receivers first. Nothing is reported: it takes a moment.
    Spreading,
    /// The account's budget is used up for now, and others come first.
    Queued,
    /// The outcome of a request must show first.
    Settling,
    /// A request failed and is tried again later.
    Retrying(String),
    /// `spec.suspend`.
    Suspended,
    /// Something that the webhook needs is missing.
    Lacking(Reason, String),
    /// Nothing will change before a person acts.
    Stalled(Reason, String),
    /// The object is being deleted and our part is done.
    Gone,
}

impl Because {
    /// The reason, as a sentence without a full stop.
    #[must_use]
    pub fn text(&self) -> String {
        let fixed = match self {
            Because::Starting => "the account was not looked at yet",
            Because::InSync => "the remote webhook is as written",
            Because::Spreading => "a new secret must reach the receivers first",
            Because::Queued => {
                "the account's budget of requests is used up for now, and others come first"
            }
            Because::Settling => "the outcome of an earlier request must show first",
            Because::Suspended => "spec.suspend is true",
            Because::Gone => "our part is done",
            Because::Retrying(why) | Because::Lacking(_, why) | Because::Stalled(_, why) => {
                return why.clone();
            }
        };
        fixed.to_owned()
    }
}
