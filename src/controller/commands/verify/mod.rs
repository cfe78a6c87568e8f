//! `verify`: the guide's troubleshooting as one command, from the object to the Event, with the time that each step took.
//!
//! What is found is judged in [`crate::checkup`]; this folder looks. It leaves three traces: a probe, which the receiver counts
//! and notes in `status.deliveries.probes`; the annotation that asks for a test delivery; and that delivery's Event.
//! `--no-test` leaves out the last two.
//!
//! A test delivery that fails counts at CHeKT like any other that fails, three of which switch a webhook off. So none is
//! asked for while something on the way is known to be broken.

mod installation;
mod report;
mod webhook;

use std::time::Duration;

use clap::{Args, ValueEnum};
use url::Url;

use super::target::Scope;
use crate::controller::args::duration;

/// How long a connection, a name or a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line for each step as it is done, and the verdict.
    #[default]
    Text,
    /// One object.
    Json,
}

/// Whether CHeKT is asked for the remote webhook, with the account's credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Ask {
    /// If you may read the credentials and CHeKT can be reached from here; else what the operator saw last is told.
    #[default]
    Auto,
    /// It is, and where that is not possible the step fails.
    Always,
    /// It is not.
    Never,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
// Each is a flag of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct VerifyArgs {
    /// The webhook, as NAMESPACE/NAME, or as NAME with --namespace.
    #[arg(
        value_name = "[NAMESPACE/]NAME",
        required_unless_present = "installation"
    )]
    pub webhook: Option<String>,

    /// Namespace and cluster.
    #[command(flatten)]
    pub scope: Scope,

    /// Makes no test delivery. What is on record counts instead, and nothing is written.
    #[arg(long, env = "CHEKT_VERIFY_NO_TEST")]
    pub no_test: bool,

    /// Whether CHeKT is asked for the remote webhook with the account's credentials.
    #[arg(
        long,
        env = "CHEKT_ASK_CHEKT",
        value_name = "WHEN",
        value_enum,
        default_value_t
    )]
    pub ask_chekt: Ask,

    /// Takes what is seen of the public url for no proof of a failure: within a cluster it may lead elsewhere than on the
    /// internet. The test delivery then decides.
    #[arg(long, env = "CHEKT_FROM_INSIDE")]
    pub from_inside: bool,

    /// How long a probe or a test delivery may take to show in the webhook's status. The receiver tells of what it refused at
    /// most every 30 seconds, so with less the reason may be missing.
    #[arg(
        long,
        env = "CHEKT_VERIFY_TIMEOUT",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = duration
    )]
    pub timeout: Duration,

    /// Looks at the installation instead of a webhook: API server, definitions, the Lease of the controllers, the receiver
    /// through its Service, all accounts and webhooks.
    #[arg(
        long,
        env = "CHEKT_VERIFY_INSTALLATION",
        conflicts_with = "webhook",
        requires = "operator_namespace"
    )]
    pub installation: bool,

    /// The namespace of the operator; with --installation.
    #[arg(long, env = "CHEKT_OPERATOR_NAMESPACE", value_name = "NAMESPACE")]
    pub operator_namespace: Option<String>,

    /// Where the receiver's Service is, as http://NAME.NAMESPACE.svc; with --installation.
    #[arg(long, env = "CHEKT_RECEIVER_URL", value_name = "URL")]
    pub receiver_url: Option<Url>,

    /// The Lease in the operator's namespace; with --installation.
    #[arg(
        long,
        env = "CHEKT_LEASE_NAME",
        value_name = "NAME",
        default_value = "chekt-controller"
    )]
    pub lease_name: String,

    /// A namespace that the operator looks after; may be given more than once. Without it, all are. With --installation.
    #[arg(
        long,
        env = "CHEKT_WATCH_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub watch_namespace: Vec<String>,

    /// How it is written.
    #[arg(
        short,
        long,
        env = "CHEKT_VERIFY_OUTPUT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub output: Output,

    /// Lets the account have a plain http baseURL that is not this machine's.
    #[arg(long, env = "CHEKT_ALLOW_INSECURE_PARTNER")]
    pub allow_insecure_partner: bool,
}

/// Writes what is found on the standard output. Gives back the exit code.
///
/// # Errors
/// When it cannot be said: the API server cannot be asked, or the webhook may not be read.
pub async fn run(args: VerifyArgs) -> anyhow::Result<u8> {
    let (client, namespace) = args.scope.connect().await?;
    match (&args.webhook, &args.operator_namespace) {
        (Some(written), _) => {
            let (namespace, name) = args.scope.names(written, &namespace)?;
            webhook::verify(&client, &args, &namespace, &name).await
        }
        (None, Some(operator)) => installation::verify(&client, &args, operator).await,
        (None, None) => anyhow::bail!("name a webhook, or write --installation"),
    }
}
