//! The integration tests: the real binary against a real API server. One binary, because each one more would be
//! linked anew and would start a control plane of its own.

// Clippy knows the functions of a test by their attribute, and not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod account_deletion;
mod adoption;
mod adversary;
mod ambiguity;
mod bodies;
mod canary;
mod change;
mod clocks;
mod cloudevents;
mod control_plane;
mod crash;
mod create;
mod credentials;
mod definition;
mod deletion;
mod deliveries;
mod ending;
mod faults;
mod generated;
mod hardness;
mod import;
mod in_front;
mod journal;
mod keyrings;
mod kill;
mod kstatus;
mod leadership;
mod links;
mod needs;
mod neighbours;
mod orphans;
mod orphans_command;
mod outage;
mod plan_command;
mod plugin;
mod processes;
mod promises;
mod proxies;
mod publishing;
mod quiet;
mod receiver;
mod recovery;
mod reference;
mod refusals;
mod replicas;
mod requests;
mod resources;
mod rings;
mod sandbox;
mod shared;
mod shown;
mod storm;
mod tenancy;
mod tls;
mod twin;
mod verify;
