//! The integration tests: the real binary against a real API server. One binary, because each one more would be
//! linked anew and would start a control plane of its own.

#[path = "../harness/mod.rs"]
mod harness;

mod canary;
mod change;
mod control_plane;
mod create;
mod deletion;
mod deliveries;
mod faults;
mod needs;
mod quiet;
mod resources;
mod rings;
