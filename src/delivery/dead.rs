//! Why a delivery became a dead letter, as far as it decides what happens to it later.

/// What kept a delivery from becoming an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadKind {
    /// Its bytes cannot be read as an event.
    Unreadable,
    /// The API server does not accept its Event.
    Refused,
}
