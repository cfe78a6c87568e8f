//! What is decided about a delivery: no async, no client, no clock.
//!
//! ```text
//! Delivery<Unverified> --verify--> Delivery<Verified> --receive--> Received --event::build--> Event
//!   bytes, no meaning                bytes we may read               what the journal keeps
//! ```
//!
//! The arrow only goes right: an unverified body has no method that reads it.

pub mod again;
pub mod answers;
pub mod aside;
pub mod catalogue;
pub mod cloudevent;
pub mod cursor;
pub mod dead;
pub mod delay;
pub mod envelope;
pub mod event;
pub mod health;
pub mod holdings;
pub mod identity;
pub mod json;
pub mod labels;
pub mod note;
pub mod notice;
pub mod pacing;
pub mod patience;
pub mod probe;
pub mod profile;
pub mod received;
pub mod retry;
pub mod share;
pub mod signature;
pub mod slots;
pub mod waitlist;

pub use catalogue::{Class, Kind};
pub use dead::DeadKind;
pub use envelope::{Envelope, Unreadable};
pub use identity::{DeliveryKey, Occurrence};
pub use profile::Profile;
pub use received::Received;
pub use signature::{Delivery, KeyPlace, Refused, Signatures, Unverified, Verified};
