//! The command line: one binary, one subcommand per process, and each flag also an environment variable.
//!
//! What people run with a kubeconfig of their own is a [`Verb`]. The same binary under the name `kubectl-chekt` is a plugin
//! of kubectl that has the verbs and nothing else, and under the name `kubectl_complete-chekt` it completes them.

pub mod completion;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

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
/// The name under which kubectl finds a plugin for `kubectl chekt`.
const PLUGIN: &str = "kubectl-chekt";
/// The name under which kubectl asks for what completes a plugin's command line.
const COMPLETER: &str = "kubectl_complete-chekt";

/// Registers CHeKT webhooks from Kubernetes resources and turns their deliveries into Kubernetes Events.
#[derive(Debug, Parser)]
#[command(name = "chekt-operator", version = version::line(), propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

/// Looks after CHeKT webhooks: says how they are, follows the way of a delivery, and asks the operator for things.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-chekt",
    bin_name = "kubectl chekt",
    version = version::line(),
    propagate_version = true
)]
pub struct Plugin {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    verb: Verb,
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
    /// Prints the custom resource definitions as YAML.
    Crds,
    #[command(flatten)]
    Verb(Verb),
}

/// What people run, as `chekt-operator VERB` or `kubectl chekt VERB`.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Says how accounts and webhooks are, what is wrong with them and what to do, or all about one webhook. Exit code 0: all
    /// is well; 2: something is not; 1: it cannot be said.
    Status(commands::status::StatusArgs),
    /// Follows the way of a delivery from CHeKT to its Event, step by step, and says what is broken and what to do. Exit code
    /// 0: deliveries arrive; 2: something is broken; 3: nothing is known to be broken, and nothing proves that they arrive;
    /// 1: it cannot be said. It sends a probe, which the receiver refuses, and has a test delivery made (--no-test: not).
    Verify(Box<commands::verify::VerifyArgs>),
    /// Asks for a test delivery. Exit code with --wait 0: it has arrived; 2: it has not; 1: it cannot be asked for.
    Test(commands::asked::AskArgs),
    /// Asks for a new generated secret. The old one is accepted until CHeKT has the new one, and for 15 minutes more. Exit code
    /// with --wait 0: it is in force and proved; 2: it is not; 1: it cannot be asked for.
    Rotate(commands::asked::AskArgs),
    /// Sets spec.suspend: nothing is changed at CHeKT any more, deliveries are still received.
    Suspend(commands::asked::WebhookArgs),
    /// Takes spec.suspend back.
    Resume(commands::asked::WebhookArgs),
    /// Says what would be done for a webhook and why, without doing it. Exit code 0: nothing; 2: something; 3: something is
    /// in the way; 1: it cannot be said.
    Plan(Box<commands::plan::PlanArgs>),
    /// Lists the remote webhooks that were let go of without being deleted, and removes them on request.
    Orphans(commands::orphans::OrphansArgs),
    /// Prints manifests for the remote webhooks of an account that nobody manages.
    Import(commands::import::ImportArgs),
    /// Prints a script that completes commands and flags in a shell.
    Completion(CompletionArgs),
}

/// Flags of `completion`.
#[derive(Debug, Args)]
struct CompletionArgs {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Does what the command line says, under whatever name the program was called.
pub async fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let done = match called(&name) {
        COMPLETER => {
            let words = std::env::args().skip(1).collect();
            completion::complete(Plugin::command(), words).await;
            return ExitCode::SUCCESS;
        }
        PLUGIN => Plugin::parse().run().await,
        _ => Cli::parse().run().await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The name of a program without its folder and, on Windows, its ending.
fn called(name: &OsStr) -> &str {
    let stem = Path::new(name).file_name().and_then(OsStr::to_str);
    let stem = stem.unwrap_or_default();
    stem.strip_suffix(".exe").unwrap_or(stem)
}

impl Cli {
    /// Does what was asked for, until it is done or the process is told to end.
    ///
    /// # Errors
    /// Whatever keeps the process from starting or from going on.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let command = match self.command {
            Command::Verb(verb) => return verb.run(&self.logging, Cli::command()).await,
            command => command,
        };
        logs::init(self.logging.log_format, &self.logging.log)?;
        match command {
            Command::Controller(args) => controller::run(*args, shutdown::on_signal()?).await,
            Command::Receiver(args) => receiver::run(*args, shutdown::on_signal()?).await,
            Command::Sandbox(args) => sandbox::run(*args, shutdown::on_signal()?).await,
            Command::DeadLetters(args) => deadletters::list(&args),
            Command::Replay(args) => deadletters::replay(&args),
            Command::Crds => {
                print!("{}", crate::resources::crds_yaml()?);
                Ok(())
            }
            Command::Verb(_) => Ok(()),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

impl Plugin {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What keeps it from being done.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.verb.run(&self.logging, Plugin::command()).await
    }
}

impl Verb {
    async fn run(self, logging: &Logging, program: clap::Command) -> anyhow::Result<ExitCode> {
        let log = if logging.log == LOG {
            LOG_OF_COMMANDS
        } else {
            &logging.log
        };
        logs::init(logging.log_format, log)?;
        let code = match self {
            Verb::Status(args) => commands::status::run(args).await?,
            Verb::Verify(args) => commands::verify::run(*args).await?,
            Verb::Test(args) => commands::asked::test(args).await?,
            Verb::Rotate(args) => commands::asked::rotate(args).await?,
            Verb::Suspend(args) => commands::asked::suspend(args, true).await?,
            Verb::Resume(args) => commands::asked::suspend(args, false).await?,
            Verb::Plan(args) => commands::plan::run(*args).await?,
            Verb::Orphans(args) => done(commands::orphans::run(args).await)?,
            Verb::Import(args) => done(commands::import::run(args).await)?,
            Verb::Completion(args) => {
                completion::script(program, args.shell);
                0
            }
        };
        Ok(ExitCode::from(code))
    }
}

/// The exit code of a command that has no other than success and failure.
fn done(outcome: anyhow::Result<()>) -> anyhow::Result<u8> {
    outcome.map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_definitions() {
        Cli::command().debug_assert();
        Plugin::command().debug_assert();
    }

    #[test]
    fn the_name_of_the_program_says_what_it_is() {
        for (path, name) in [
            ("/usr/local/bin/kubectl-chekt", PLUGIN),
            ("kubectl-chekt.exe", PLUGIN),
            ("./kubectl_complete-chekt", COMPLETER),
            ("target/debug/chekt-operator", "chekt-operator"),
        ] {
            assert_eq!(called(OsStr::new(path)), name);
        }
    }
}
