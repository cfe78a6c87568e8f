//! chekt-operator: CHeKT webhooks as Kubernetes resources, and every alarm as a Kubernetes Event.
//!
//! # The map
//!
//! ```text
//! kubectl apply / helm / Argo CD                                 CHeKT partner API
//!           |                                                      ^         |
//!           v            one Pod, one image, every replica         |         | signed POST
//!     +-----------+   +---------------------------------------+    |         v
//!     | Kubernetes|<->| controller                            |----+   Ingress / Gateway (TLS)
//!     |    API    |   |---------------------------------------|               |
//!     |           |<->| receiver    (every replica receives)  |<--------------+
//!     +-----------+   +---------------------------------------+
//!       Events, status        journal on disk (SQLite)
//! ```
//!
//! The two processes share no memory. They meet in the custom resources and in the keyring Secrets.
//!
//! # The rings
//!
//! A module imports only modules of lower rings, and a test reads the `use` lines and enforces it.
//!
//! | ring | modules | what is there |
//! | --- | --- | --- |
//! | 0 | [`resources`] | what users write and read; the Secret in which the processes meet |
//! | 1 | [`account`], [`webhook`], [`delivery`], [`leadership`], [`token`], [`checkup`] | decisions: no async, no client, no clock |
//! | 2 | [`ops`] | what every process has: logs, metrics, probes, a clock |
//! | 3 | [`cluster`], [`partner`], [`journal`], [`sink`], [`reach`] | edges: Kubernetes, CHeKT, the disk, a second sink, what stands at a url |
//! | 4 | [`controller`], [`receiver`], [`sandbox`] | processes |
//! | 5 | [`cli`] | the command line that starts them |

pub mod account;
pub mod checkup;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod delivery;
pub mod journal;
pub mod leadership;
pub mod ops;
pub mod partner;
pub mod reach;
pub mod receiver;
pub mod resources;
pub mod sandbox;
pub mod sink;
pub mod token;
pub mod webhook;
