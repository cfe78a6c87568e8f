//! The sandbox process.

use clap::Args;
use tokio_util::sync::CancellationToken;

/// Flags of the sandbox.
#[derive(Debug, Args)]
pub struct SandboxArgs {}

/// Runs the sandbox until `end` is cancelled.
///
/// # Errors
/// Whatever keeps it from starting or from going on.
pub async fn run(args: SandboxArgs, end: CancellationToken) -> anyhow::Result<()> {
    let _ = args;
    end.cancelled().await;
    Ok(())
}
