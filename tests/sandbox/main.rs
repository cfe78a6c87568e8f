//! The sandbox as its users meet it: over HTTP, with a real receiver at the other end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that meets what it did not expect has failed"
)]

mod bench;
mod control;
mod deliveries;
mod faults;
mod partner;
mod quirks;
mod receiver;
mod restart;
