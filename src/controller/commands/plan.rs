//! `plan`: what would be done for a webhook and why, without doing it.
//!
//! The same eyes and the same head as the controller's: objects, keyring, Secret and CHeKT's list are gathered by its own
//! code and decided on by its own plan. The hands are missing: the client for the API server stands behind a fence that
//! never opens, so that no write can leave, and CHeKT is asked for nothing but its list.
//!
//! It does not see what the controller remembers: a request on its way, a refusal that is waited out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use kube::api::ListParams;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use url::Url;

use super::target::Scope;
use super::{DEADLINE, Reached};
use crate::cluster::within;
use crate::controller::args::Settings;
use crate::controller::claims::Claims;
use crate::controller::context::{Accounts, Context, Slot, Webhooks};
use crate::controller::gather::{Held, gather};
use crate::controller::memory::Remembered;
use crate::controller::metrics::Metrics;
use crate::controller::perform;
use crate::leadership::fence::Fence;
use crate::ops::clock::{Clock, since_boot};
use crate::resources::account::AccountName;
use crate::resources::{ChektAccount, ChektWebhook};
use crate::webhook::rehearsal;
use crate::webhook::step::{Because, Change, Draft, KeyringChange, Left, Rest, Step};

/// Nothing would be done.
pub const NOTHING: u8 = 0;
/// Something would be done.
pub const SOMETHING: u8 = 2;
/// Something is in the way that a person must change, or that must pass first.
pub const HINDERED: u8 = 3;

/// How it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Sentences for people.
    #[default]
    Text,
    /// One object.
    Json,
}

/// Flags of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A webhook that is there, as NAMESPACE/NAME, or as NAME with --namespace.
    #[arg(value_name = "[NAMESPACE/]NAME", required_unless_present = "file")]
    pub webhook: Option<String>,

    /// Namespace and cluster.
    #[command(flatten)]
    pub scope: Scope,

    /// A manifest of a webhook that may be there or not; `-` reads it from standard input. What it says takes the place of
    /// what the object says. It is not validated as the API server would.
    #[arg(
        short,
        long,
        env = "CHEKT_FILE",
        value_name = "FILE",
        conflicts_with = "webhook"
    )]
    pub file: Option<PathBuf>,

    /// The public URL of the controller.
    #[arg(long, env = "CHEKT_PUBLIC_URL", value_name = "URL")]
    pub public_url: Url,

    /// The namespace of the operator, where the keyrings are.
    #[arg(long, env = "CHEKT_OPERATOR_NAMESPACE", value_name = "NAMESPACE")]
    pub operator_namespace: String,

    /// The controller's own account of webhooks that name none.
    #[arg(long, env = "CHEKT_DEFAULT_ACCOUNT", value_name = "NAMESPACE/NAME")]
    pub default_account: Option<AccountName>,

    /// How it is written.
    #[arg(
        short,
        long,
        env = "CHEKT_PLAN_OUTPUT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub output: Output,

    /// Lets the account have a plain http baseURL that is not this machine's.
    #[arg(long, env = "CHEKT_ALLOW_INSECURE_PARTNER")]
    pub allow_insecure_partner: bool,
}

/// Writes on the standard output what would be done. Gives back the exit code.
///
/// # Errors
/// When something could not be read.
pub async fn run(args: PlanArgs) -> anyhow::Result<u8> {
    let found = args.scope.access.find().await?;
    let usual = args
        .scope
        .namespace
        .as_deref()
        .unwrap_or(found.namespace())
        .to_owned();
    let client = found.client_behind(&Fence::closed(since_boot))?;
    let mut all = super::webhooks(&client).await?;
    let webhook = wanted(&args, &usual, &all)?;
    let of_another = |w: &ChektWebhook| w.uid() != webhook.uid();
    all.retain(of_another);
    all.push(webhook.clone());
    let accounts: Api<ChektAccount> = Api::all(client.clone());
    let accounts = within(DEADLINE, accounts.list(&ListParams::default())).await?;

    let settings = Settings {
        public_url: args.public_url.clone(),
        operator_namespace: args.operator_namespace.clone(),
        watch_namespaces: Vec::new(),
        default_account: args.default_account.clone(),
        allow_insecure_partner: args.allow_insecure_partner,
        concurrency: 1,
        orphan_after: Duration::from_secs(3600),
        election: None,
        secret_names: Vec::new(),
        receiver: None,
    };
    let accounts = Accounts {
        namespace: None,
        store: filled(accounts.items),
        listed: Arc::new(AtomicBool::new(true)),
    };
    let store = filled(all);
    let claims = Arc::new(Claims::new(args.public_url.clone()));
    claims.saw(&Event::InitDone, &store);
    let (wake, _) = mpsc::unbounded_channel();
    let context = Context::new(
        client.clone(),
        settings,
        Metrics::default(),
        Fence::open(),
        Clock::machine(),
        (vec![Webhooks { store, claims }], vec![accounts]),
        wake,
    );
    let held = Held::read(&context, &webhook).await?;
    let bound = held.keyring.as_ref().and_then(|k| k.account.clone());
    let key = bound.unwrap_or_else(|| context.choose(&webhook, None));
    reach(&client, &context, &key).await?;
    let mut memory = Remembered::default();
    if webhook.metadata.deletion_timestamp.is_some() {
        let goes = context.definition.goes(&client, &context.clock).await?;
        memory.definition = Some((goes, context.clock.now()));
    }
    let gathered = gather(&context, &webhook, &memory, &held);
    let steps = rehearsal::steps(&gathered.world);
    let name = format!(
        "{}/{}",
        gathered.world.webhook.namespace, gathered.world.webhook.name
    );
    match args.output {
        Output::Json => println!(
            "{}",
            serde_json::to_string_pretty(&object(&name, &key, &steps))?
        ),
        Output::Text => print!("{}", text(&name, &key, &steps)),
    }
    Ok(code(&steps))
}

/// Connects the account and lists, if it is there; what is wrong with it is for the plan to say.
async fn reach(client: &Client, context: &Context, key: &AccountName) -> anyhow::Result<()> {
    let crate::controller::context::Known::There(account) = context.account(key) else {
        return Ok(());
    };
    let insecure = context.settings.allow_insecure_partner;
    let slot = match Reached::through(client, key, (*account).clone(), insecure).await? {
        Ok(reached) => {
            if let Err(error) = reached.list().await {
                eprintln!("{error:#}");
            }
            Slot::Connected(reached.connection)
        }
        Err(problem) => Slot::Broken(problem, None),
    };
    context.set_slot(key.clone(), slot);
    Ok(())
}

/// The webhook that is planned for: the live one, with a manifest over it where there is one.
fn wanted(args: &PlanArgs, usual: &str, all: &[ChektWebhook]) -> anyhow::Result<ChektWebhook> {
    let find = |namespace: &str, name: &str| {
        let is_it =
            |w: &&ChektWebhook| w.namespace().as_deref() == Some(namespace) && w.name_any() == name;
        all.iter().find(is_it).cloned()
    };
    if let Some(written) = &args.webhook {
        let (namespace, name) = args.scope.names(written, usual)?;
        return find(&namespace, &name).with_context(|| {
            format!("ChektWebhook {name} does not exist in namespace {namespace}")
        });
    }
    let Some(file) = &args.file else {
        bail!("name a webhook or a manifest");
    };
    let yaml = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    let mut manifest: ChektWebhook =
        serde_yaml::from_str(&yaml).context("the manifest is no ChektWebhook")?;
    let namespace = manifest.namespace().unwrap_or_else(|| usual.to_owned());
    let Some(mut live) = find(&namespace, &manifest.name_any()) else {
        // Whatever a manifest says of these is the API server's to say.
        manifest.metadata.namespace = Some(namespace);
        manifest.metadata.uid = Some("planned".to_owned());
        manifest.metadata.generation = Some(1);
        manifest.status = None;
        return Ok(manifest);
    };
    if live.spec != manifest.spec {
        live.metadata.generation = live.metadata.generation.map(|g| g + 1);
    }
    live.spec = manifest.spec;
    let annotations = manifest.metadata.annotations.unwrap_or_default();
    live.annotations_mut().extend(annotations);
    Ok(live)
}

fn filled<K>(objects: Vec<K>) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let (store, mut writer) = reflector::store();
    for object in objects {
        writer.apply_watcher_event(&Event::Apply(object));
    }
    store
}

/// Whether a step changes anything, here or at CHeKT.
fn changes(step: &Step) -> bool {
    match step {
        Step::List(..) | Step::LookAtDefinition(_) | Step::Rest(_) => false,
        Step::AddFinalizer(_)
        | Step::HoldAccount(_)
        | Step::Keyring(..)
        | Step::Create(..)
        | Step::Patch(..)
        | Step::Delete(..)
        | Step::Test(..)
        | Step::Orphan(..)
        | Step::RemoveKeyring(_)
        | Step::ReleaseFinalizer(_) => true,
    }
}

fn code(steps: &[Step]) -> u8 {
    let hindered = steps.iter().any(|step| {
        let Step::Rest(Rest { because, .. }) = step else {
            return false;
        };
        match because {
            Because::Lacking(..)
            | Because::Stalled(..)
            | Because::Retrying(_)
            | Because::Starting => true,
            Because::InSync
            | Because::Spreading
            | Because::Queued
            | Because::Settling
            | Because::Suspended
            | Because::Gone => false,
        }
    });
    if hindered {
        HINDERED
    } else if steps.iter().any(changes) {
        SOMETHING
    } else {
        NOTHING
    }
}

/// What a step does, as a sentence without a full stop. No secret is in it.
fn what(step: &Step) -> String {
    match step {
        Step::AddFinalizer(_) => "put the finalizer on the object".to_owned(),
        Step::HoldAccount(_) => "put the finalizer on the account".to_owned(),
        Step::Keyring(change, _) => match change {
            KeyringChange::First => "write a keyring with a first secret",
            KeyringChange::Next => "write a new secret into the keyring, beside the one in force",
            KeyringChange::Promote => "make the new secret the one in force in the keyring",
            KeyringChange::Number => "write a new number into the keyring",
            KeyringChange::NoteTest => "note a test delivery in the keyring",
            KeyringChange::DropExpired => "drop the previous secret from the keyring",
        }
        .to_owned(),
        Step::List(..) => "list the webhooks at CHeKT".to_owned(),
        Step::Create(Draft { url, events, .. }, _) => {
            format!(
                "create a webhook at CHeKT: url {url}, events {}",
                events.join(", ")
            )
        }
        Step::Patch(id, change, _) => format!("change {id} at CHeKT: {}", fields(change)),
        Step::Delete(id, _) => format!("delete {id} at CHeKT"),
        Step::Test(id, _) => format!("ask CHeKT for a test delivery of {id}"),
        Step::LookAtDefinition(_) => "look at the definition of the kind".to_owned(),
        Step::Orphan(Left { id, url, .. }, _) => {
            let id = id.as_deref().unwrap_or("a webhook without a known id");
            format!("let go of {id} ({url}) and put it on record in the account")
        }
        Step::RemoveKeyring(_) => "delete the keyring".to_owned(),
        Step::ReleaseFinalizer(_) => "take the finalizer off the object".to_owned(),
        Step::Rest(_) => "nothing".to_owned(),
    }
}

fn fields(change: &Change) -> String {
    let Change {
        url,
        events,
        key,
        reactivate,
    } = change;
    let parts = [
        url.as_ref().map(|u| format!("url {u}")),
        events.as_ref().map(|e| format!("events {}", e.join(", "))),
        key.as_ref().map(|_| "secret".to_owned()),
        reactivate.then(|| "status active".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn text(name: &str, account: &AccountName, steps: &[Step]) -> String {
    let mut text = format!("ChektWebhook {name}, account {account}\n");
    let mut number = 0;
    for step in steps {
        if let Step::Rest(rest) = step {
            let then = if number == 0 {
                "Nothing to do"
            } else {
                "Then nothing"
            };
            text.push_str(&format!("{then}: {}\n", rest.because.text()));
        } else {
            number += 1;
            text.push_str(&format!(
                "{number:3}. {}\n     because {}\n",
                what(step),
                step.why()
            ));
        }
    }
    text
}

fn object(name: &str, account: &AccountName, steps: &[Step]) -> Value {
    let (rests, steps): (Vec<&Step>, Vec<&Step>) =
        steps.iter().partition(|s| matches!(s, Step::Rest(_)));
    let each = |step: &&Step| {
        json!({
            "step": perform::name(step), "what": what(step), "because": step.why(), "changes": changes(step),
            "atChekt": step.is_remote_write(),
        })
    };
    json!({
        "webhook": name,
        "account": account.to_string(),
        "steps": steps.iter().map(each).collect::<Vec<_>>(),
        "then": rests.first().map(|s| s.why()),
    })
}
