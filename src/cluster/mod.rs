//! The edge to Kubernetes: one client, one deadline a call, and the few words an error is worth.

pub mod access;
pub mod client;
pub mod credentials;
pub mod definition;
pub mod deliveries;
pub mod error;
pub mod events;
pub mod fenced;
pub mod late;
pub mod lease;
pub mod meter;
pub mod requests;
pub mod secrets;
pub mod token;
pub mod write;

pub use error::{ClusterError, within};
