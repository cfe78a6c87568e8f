//! The command line: one binary, one subcommand per process, and each flag also an environment variable.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::controller::{self, ControllerArgs, commands};
use crate::ops::logs::{self, LogFormat};
use crate::ops::{shutdown, version};
use crate::receiver::deadletters::{self, DeadLettersArgs, ReplayArgs};
use crate::receiver::{self, ReceiverArgs};
use crate::sandbox::{self, SandboxArgs};

/// What is logged where nobody says otherwise.
const LOG: &str = "info,kube_client=off";
/// The same for a command that a person waits for, who is told what became of it anyway.
const LOG_OF_COMMANDS: &str = "warn,kube_client=off";

/// Registers CHeKT webhooks from Kubernetes resources and turns their deliveries into Kubernetes Events.
#[derive(Debug, Parser)]
#[command(name = "chekt-operator", version = version::line(), propagate_version = true)]
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
        default_value = LOG,
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
    /// Lists the remote webhooks that were let go of without being deleted, and removes them on request.
    Orphans(commands::orphans::OrphansArgs),
    /// Prints manifests for the remote webhooks of an account that nobody manages.
    Import(commands::import::ImportArgs),
    /// Says what would be done for a webhook and why, without doing it. Exit code 0: nothing; 2: something; 3: something is
    /// in the way; 1: it cannot be said.
    Plan(Box<commands::plan::PlanArgs>),
    /// Follows the way of a delivery from CHeKT to its Event, step by step, and says what is broken and what to do. Exit code
    /// 0: deliveries arrive; 2: something is broken; 3: nothing is known to be broken, and nothing proves that they arrive;
    /// 1: it cannot be said. It sends one request without a signature, and has a test delivery made (--no-test: not).
    Verify(Box<commands::verify::VerifyArgs>),
    /// Prints the custom resource definitions as YAML.
    Crds,
}

impl Cli {
    /// Does what was asked for, until it is done or the process is told to end.
    ///
    /// # Errors
    /// Whatever keeps the process from starting or from going on.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let log = match &self.command {
            Command::Orphans(_) | Command::Import(_) | Command::Plan(_) | Command::Verify(_)
                if self.logging.log == LOG =>
            {
                LOG_OF_COMMANDS
            }
            Command::Controller(_)
            | Command::Receiver(_)
            | Command::Sandbox(_)
            | Command::DeadLetters(_)
            | Command::Replay(_)
            | Command::Orphans(_)
            | Command::Import(_)
            | Command::Plan(_)
            | Command::Verify(_)
            | Command::Crds => &self.logging.log,
        };
        logs::init(self.logging.log_format, log)?;
        match self.command {
            Command::Controller(args) => controller::run(*args, shutdown::on_signal()?).await,
            Command::Receiver(args) => receiver::run(*args, shutdown::on_signal()?).await,
            Command::Sandbox(args) => sandbox::run(*args, shutdown::on_signal()?).await,
            Command::DeadLetters(args) => deadletters::list(&args),
            Command::Replay(args) => deadletters::replay(&args),
            Command::Orphans(args) => commands::orphans::run(args).await,
            Command::Import(args) => commands::import::run(args).await,
            Command::Plan(args) => {
                return commands::plan::run(*args).await.map(ExitCode::from);
            }
            Command::Verify(args) => {
                return commands::verify::run(*args).await.map(ExitCode::from);
            }
            Command::Crds => {
                print!("{}", crate::resources::crds_yaml()?);
                Ok(())
            }
        }
        .map(|()| ExitCode::SUCCESS)
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
