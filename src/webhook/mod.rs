//! What is decided about a webhook: no async, no client, no clock.
//!
//! ```text
//! World ---plan---> Step        one step, read from top to bottom like a table
//! World, Step ---report---> status and the time of the next look
//! ```
//!
//! [`world`] is everything that a decision may look at, times included, as durations; [`plan`] decides for a
//! webhook that is wanted and [`removal`] for one that is not; [`rotation`] is what a step does to the keyring, [`health`]
//! what is done about a webhook that CHeKT has switched off.

pub mod drift;
pub mod health;
pub mod identity;
pub mod plan;
pub mod rehearsal;
pub mod removal;
pub mod report;
pub mod rotation;
pub mod step;
pub mod world;

#[cfg(test)]
mod cases;
