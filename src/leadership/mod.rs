//! Leadership: which of several controllers acts, and until when that is certain.
//!
//! Decisions only. [`crate::cluster::lease`] reads and writes the record that they are about.

pub mod election;
pub mod fence;
