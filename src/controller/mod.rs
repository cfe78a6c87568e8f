//! The controller process.

use clap::Args;
use tokio_util::sync::CancellationToken;

/// Flags of the controller.
#[derive(Debug, Args)]
pub struct ControllerArgs {}

/// Runs the controller until `end` is cancelled.
///
/// # Errors
/// Whatever keeps it from starting or from going on.
pub async fn run(args: ControllerArgs, end: CancellationToken) -> anyhow::Result<()> {
    let _ = args;
    end.cancelled().await;
    Ok(())
}
