//! What every process of ours has, whatever it does: logs, metrics, probes, a clock and an orderly end.

pub mod build;
pub mod clock;
pub mod exposition;
pub mod health;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod server;
pub mod shutdown;
pub mod version;
