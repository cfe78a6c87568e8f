//! Steps: the one thing to do next, with the reason for it in its value.

use std::time::Duration;

use crate::resources::keyring::SigningSecret;
use crate::resources::reasons::Reason;

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put our finalizer on the object.
    AddFinalizer,
    /// Change the keyring.
    Keyring(KeyringChange),
    /// Make sure of a list that began no longer ago than this, and why. Whoever needs one first makes it, and
    /// everyone whose need it meets shares it.
    List(Duration, &'static str),
    /// Create the remote webhook.
    Create(Draft),
    /// Change the remote webhook.
    Patch(String, Change),
    /// Delete a remote webhook, and why.
    Delete(String, &'static str),
    /// Ask for a test delivery.
    Test(String),
    /// Delete the keyring.
    RemoveKeyring,
    /// Take our finalizer off the object, and why.
    ReleaseFinalizer(&'static str),
    /// Do nothing for now.
    Rest(Rest),
}

impl Step {
    /// Whether it is a request to CHeKT that changes something.
    #[must_use]
    pub fn is_remote_write(&self) -> bool {
        match self {
            Step::Create(_) | Step::Patch(..) | Step::Delete(..) | Step::Test(_) => true,
            Step::AddFinalizer
            | Step::Keyring(_)
            | Step::List(..)
            | Step::RemoveKeyring
            | Step::ReleaseFinalizer(_)
            | Step::Rest(_) => false,
        }
    }
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

/// What is done to the keyring. Each also gives the next remote write its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyringChange {
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
