//! The receiver process.

use clap::Args;
use tokio_util::sync::CancellationToken;

/// Flags of the receiver.
#[derive(Debug, Args)]
pub struct ReceiverArgs {}

/// Runs the receiver until `end` is cancelled.
///
/// # Errors
/// Whatever keeps it from starting or from going on.
pub async fn run(args: ReceiverArgs, end: CancellationToken) -> anyhow::Result<()> {
    let _ = args;
    end.cancelled().await;
    Ok(())
}
