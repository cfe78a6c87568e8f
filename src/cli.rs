//! The command line: one binary, one subcommand per process, and each flag also an environment variable.

use clap::{Args, Parser, Subcommand};

use crate::controller::{self, ControllerArgs};
use crate::ops::logs::{self, LogFormat};
use crate::ops::shutdown;
use crate::receiver::deadletters::{self, DeadLettersArgs, ReplayArgs};
use crate::receiver::{self, ReceiverArgs};
use crate::sandbox::{self, SandboxArgs};

/// Registers CHeKT webhooks from Kubernetes resources and turns their deliveries into Kubernetes Events.
#[derive(Debug, Parser)]
#[command(name = "chekt-operator", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Logging {
    /// How log lines are written: text on a terminal and JSON otherwise, or always one of them.
    #[arg(
        long,
        env = "CHEKT_LOG_FORMAT",
        value_enum,
        default_value_t,
        global = true
    )]
    log_format: LogFormat,

    /// What is logged, as `level` or a list of `target=level`. The client for Kubernetes is silent by default, since
    /// whoever called it says what became of the call.
    #[arg(
        long,
        env = "CHEKT_LOG",
        default_value = "info,kube_client=off",
        global = true
    )]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keeps the webhooks at CHeKT as the resources say.
    Controller(Box<ControllerArgs>),
    /// Receives deliveries and turns them into Kubernetes Events.
    Receiver(Box<ReceiverArgs>),
    /// Simulates CHeKT's partner API, for trying things out and for tests.
    Sandbox(Box<SandboxArgs>),
    /// Lists the deliveries in a receiver's journal that could not be published.
    #[command(name = "deadletters")]
    DeadLetters(DeadLettersArgs),
    /// Has deliveries that could not be published tried again.
    Replay(ReplayArgs),
    /// Prints the custom resource definitions as YAML.
    Crds,
}

impl Cli {
    /// Does what was asked for, until it is done or the process is told to end.
    ///
    /// # Errors
    /// Whatever keeps the process from starting or from going on.
    pub async fn run(self) -> anyhow::Result<()> {
        logs::init(self.logging.log_format, &self.logging.log)?;
        match self.command {
            Command::Controller(args) => controller::run(*args, shutdown::on_signal()?).await,
            Command::Receiver(args) => receiver::run(*args, shutdown::on_signal()?).await,
            Command::Sandbox(args) => sandbox::run(*args, shutdown::on_signal()?).await,
            Command::DeadLetters(args) => deadletters::list(&args),
            Command::Replay(args) => deadletters::replay(&args),
            Command::Crds => {
                print!("{}", crate::resources::crds_yaml()?);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_accepts_the_definition() {
        Cli::command().debug_assert();
    }
}
