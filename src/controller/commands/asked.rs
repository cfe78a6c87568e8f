//! `test`, `rotate`, `suspend`, `resume`: what a person asks the operator for, written where it looks.
//!
//! Each is one patch, which `kubectl` could write as well; these know the words, and can wait until it is done.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use kube::{Api, Client, ResourceExt};

use super::target::Scope;
use super::trial::{self, LOOK};
use crate::checkup::delivery::{self, Progress};
use crate::checkup::{Finding, object, summary};
use crate::cluster::{requests, write};
use crate::controller::args::duration;
use crate::ops::clock::Clock;
use crate::resources::conditions::{STALLED, VERIFIED};
use crate::resources::webhook::TestPolicy;
use crate::resources::{ChektWebhook, PERSON_MANAGER, ROTATE_REQUESTED_AT, TEST_REQUESTED_AT};

/// It is done, or asked for.
const DONE: u8 = 0;
/// It was asked for and has failed, or was not done in time.
const NOT_DONE: u8 = 2;

/// Which webhook, and whether to wait.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// The webhook, as NAMESPACE/NAME, or as NAME with --namespace.
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub webhook: String,

    /// Namespace and cluster.
    #[command(flatten)]
    pub scope: Scope,

    /// Waits until it is done, and says how it went. Exit code 2: it has failed, or was not done in time.
    #[arg(long, env = "CHEKT_WAIT")]
    pub wait: bool,

    /// How long to wait.
    #[arg(
        long,
        env = "CHEKT_WAIT_TIMEOUT",
        value_name = "DURATION",
        default_value = "90s",
        value_parser = duration
    )]
    pub timeout: Duration,
}

/// Which webhook.
#[derive(Debug, Args)]
pub struct WebhookArgs {
    /// The webhook, as NAMESPACE/NAME, or as NAME with --namespace.
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub webhook: String,

    /// Namespace and cluster.
    #[command(flatten)]
    pub scope: Scope,
}

/// A webhook that was found, and the way to it.
struct Found {
    webhooks: Api<ChektWebhook>,
    webhook: ChektWebhook,
    name: String,
}

impl Found {
    async fn by(scope: &Scope, written: &str) -> anyhow::Result<Found> {
        let (client, usual): (Client, String) = scope.connect().await?;
        let (namespace, name) = scope.names(written, &usual)?;
        let webhooks: Api<ChektWebhook> = Api::namespaced(client, &namespace);
        let Some(webhook) = write::latest(&webhooks, &name).await? else {
            bail!("ChektWebhook {name} does not exist in namespace {namespace}");
        };
        Ok(Found {
            webhooks,
            webhook,
            name,
        })
    }

    fn say(&self, what: &str) {
        println!("chektwebhook.chekt.com/{} {what}", self.name);
    }
}

/// Asks for a test delivery.
///
/// # Errors
/// When it cannot be asked for.
pub async fn test(args: AskArgs) -> anyhow::Result<u8> {
    let found = Found::by(&args.scope, &args.webhook).await?;
    if let Some(Finding { said, next, .. }) = delivery::hindrance(&found.webhook) {
        bail!("{said}: {}", next.unwrap_or_default());
    }
    let clock = Clock::machine();
    if !args.wait {
        let request = clock.wall().to_string();
        requests::annotate(&found.webhooks, &found.name, TEST_REQUESTED_AT, &request).await?;
        found.say(
            "test delivery asked for (kubectl chekt verify shows how it goes, --wait waits for it)",
        );
        return Ok(DONE);
    }
    let trial = trial::run(&found.webhooks, &found.webhook, &clock, args.timeout).await?;
    if trial.webhook.is_none() {
        bail!("the webhook was deleted meanwhile");
    }
    let waited = format!("{} s", args.timeout.as_secs());
    let Finding { said, next, .. } = delivery::judge(&trial.progress, &waited);
    found.say(&format!(": {said}"));
    if let Some(next) = next {
        println!("Next: {next}.");
    }
    Ok(if trial.progress == Progress::Arrived {
        DONE
    } else {
        NOT_DONE
    })
}

/// Asks for a new generated secret.
///
/// # Errors
/// When it cannot be asked for.
pub async fn rotate(args: AskArgs) -> anyhow::Result<u8> {
    let found = Found::by(&args.scope, &args.webhook).await?;
    let spec = &found.webhook.spec;
    if let Some(own) = &spec.secret_ref {
        bail!(
            "the secret is yours (spec.secretRef): write a new one under the key {} of Secret {}, and it is given to CHeKT within seconds",
            own.key,
            own.name
        );
    }
    if spec.suspend {
        bail!(
            "spec.suspend is true, so nothing is changed at CHeKT: kubectl chekt resume {}",
            found.name
        );
    }
    let clock = Clock::machine();
    let request = clock.wall().to_string();
    requests::annotate(&found.webhooks, &found.name, ROTATE_REQUESTED_AT, &request).await?;
    if !args.wait {
        found.say("new secret asked for; the old one is accepted until CHeKT has the new one, and for 15 minutes more");
        return Ok(DONE);
    }
    let proved = spec.test_policy == TestPolicy::OnChange;
    let began = clock.now();
    loop {
        let Some(seen) = write::latest(&found.webhooks, &found.name).await? else {
            bail!("the webhook was deleted meanwhile");
        };
        let status = seen.status.as_ref();
        let handled = status.and_then(|s| s.last_handled_rotate_at.as_deref()) == Some(&*request);
        if handled && !proved {
            found.say("has a new secret; spec.testPolicy is Never, so nothing proves it");
            return Ok(DONE);
        }
        if handled && object::holds(&seen, VERIFIED) {
            found.say("has a new secret, and a test delivery has arrived under it");
            return Ok(DONE);
        }
        if clock.now().saturating_duration_since(began) >= args.timeout {
            let said = if handled {
                "has a new secret, and no test delivery has arrived under it yet"
            } else {
                "has no new secret yet"
            };
            found.say(&format!("{said} (waited for {} s)", args.timeout.as_secs()));
            let stalled = object::condition(&seen, STALLED).map(|c| c.message.clone());
            let next = stalled.or_else(|| summary::webhook(&seen).next);
            let usual = format!("kubectl chekt verify {}", found.name);
            println!("Next: {}.", next.unwrap_or(usual));
            return Ok(NOT_DONE);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Sets `spec.suspend`.
///
/// # Errors
/// When it cannot be written.
pub async fn suspend(args: WebhookArgs, wanted: bool) -> anyhow::Result<u8> {
    let found = Found::by(&args.scope, &args.webhook).await?;
    if found.webhook.spec.suspend == wanted {
        found.say(if wanted {
            "is suspended already"
        } else {
            "is not suspended"
        });
        return Ok(DONE);
    }
    let keeper = summary::suspend_is_kept_by(&found.webhook, PERSON_MANAGER);
    requests::suspend(&found.webhooks, &found.webhook.name_any(), wanted).await?;
    found.say(if wanted {
        "suspended: nothing is changed at CHeKT; deliveries are still received"
    } else {
        "resumed"
    });
    if let Some(keeper) = keeper {
        println!(
            "Note: {keeper} has written spec.suspend as well and may write it back (GitOps does at the next sync): change it there, too."
        );
    }
    Ok(DONE)
}
