//! What a stranger installs: the chart, its permissions, the alerts and the examples for GitOps, each judged by the
//! programs that people use them with, and tried on a real API server.
//!
//! A binary apart from `tests/it`, since it stands on programs that take minutes to build on a new machine.

// Clippy knows the functions of a test by their attribute, and not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod alerts;
mod argocd;
mod chart;
mod dashboard;
mod definitions;
mod flags;
mod flux;
mod health;
mod helm;
mod helm_test;
mod image;
mod install;
mod private_ca;
mod privilege;
mod promql;
mod readers;
mod receiver_token;
mod release;
mod scene;
mod schemas;
mod tools;
mod values;
mod waiting;
mod workflows;
