//! The integration tests: the real binary against a real API server. One binary, because each one more would be
//! linked anew and would start a control plane of its own.

#[path = "../harness/mod.rs"]
mod harness;

mod control_plane;
mod generated;
mod processes;
mod resources;
mod rings;
