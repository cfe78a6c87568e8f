//! The harness: starts the real thing for tests and for the demo, and leaves nothing behind.
//!
//! ```text
//! Stage ─┬─ ControlPlane   etcd, kube-apiserver, kube-controller-manager: one per test process
//!        ├─ Cluster        kubectl and a client in it; a namespace of its own per test
//!        ├─ Gate           a cut that can be made between a process and a server
//!        ├─ Admission      a webhook of the API server that hangs, fails or refuses, for namespaces of a test's choice
//!        ├─ Interceptor    reads the calls of a controller, and stops the world at one of them
//!        ├─ Adversary      a partner server that misbehaves on purpose
//!        ├─ Balancer       in front of several receivers, as a Service is
//!        ├─ Proxy          nginx or haproxy in front of a receiver, as an Ingress or a CDN is
//!        ├─ Load           a sender of signed deliveries, and the oracle that says what became of them
//!        ├─ ArgoCd         syncs the cluster from a repository on this disk
//!        └─ Process        our own binary as sandbox, receiver and controller, on port 0
//!              └─ reaper   ends all of it, whatever becomes of the test
//! ```
//!
//! Every function gives back an error that says what was seen, so that a test may end with `?` and the demo may
//! print it. Nothing here sleeps to let something happen: [`eventually`] looks until a deadline.

// Each binary that includes this module uses only a part of it.
#![allow(dead_code, unused_imports)]

pub mod admission;
pub mod adversary;
pub mod argocd;
pub mod assets;
pub mod balancer;
pub mod cluster;
pub mod control_plane;
pub mod debian;
pub mod dice;
pub mod eventually;
pub mod faketime;
pub mod gate;
pub mod git;
pub mod go_build;
pub mod interceptor;
pub mod load;
pub mod lone;
pub mod node;
pub mod node_assets;
pub mod oracle;
pub mod process;
pub mod proxy;
pub mod reaper;
pub mod sandbox_client;
pub mod stage;
pub mod tools;

pub use admission::{Admission, Manner};
pub use adversary::Adversary;
pub use argocd::ArgoCd;
pub use balancer::Balancer;
pub use cluster::Cluster;
pub use control_plane::{ControlPlane, Identity};
pub use eventually::eventually;
pub use faketime::FakeTime;
pub use gate::Gate;
pub use interceptor::{Interceptor, Point, Strike};
pub use lone::Lone;
pub use node::Node;
pub use process::{Launch, Process, Role};
pub use proxy::Proxy;
pub use sandbox_client::SandboxClient;
pub use stage::{Stage, StageOptions};
