//! What nothing but a cluster can show: the image and the chart of this commit, installed on a real Kubernetes of one
//! node, upgraded, rolled back, restarted under load, killed and removed. `make e2e` makes the image and runs it.
//!
//! It is no part of a plain `cargo test`: it takes root on Linux, and the image.

// Clippy knows the functions of a test by their attribute, and not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod interruption;
mod release;
mod story;
mod traffic;
