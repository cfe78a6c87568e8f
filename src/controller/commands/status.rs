//! `status`: all accounts and webhooks with what is wrong and what to do, or one webhook in full.
//!
//! It tells what the objects say and looks at nothing else; `verify` does.

use std::fmt::Debug;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::DEADLINE;
use super::columns::columns;
use super::target::Scope;
use crate::checkup::summary::{self, Line, ago};
use crate::cluster::{ClusterError, within, write};
use crate::ops::clock::Clock;
use crate::resources::account::AccountName;
use crate::resources::{ChektAccount, ChektWebhook};

/// Everything is as it should be.
const WELL: u8 = 0;
/// Something is not.
const NOT_WELL: u8 = 2;

/// How it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people.
    #[default]
    Text,
    /// The same with account, id and url.
    Wide,
    /// One array.
    Json,
    /// The same as YAML.
    Yaml,
    /// Kind and name of each.
    Name,
}

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The webhook to tell all about, as NAMESPACE/NAME, or as NAME with --namespace. Default: all of the namespace, with
    /// its accounts.
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub webhook: Option<String>,

    /// Namespace and cluster.
    #[command(flatten)]
    pub scope: Scope,

    /// Those of all namespaces.
    #[arg(
        short = 'A',
        long,
        env = "CHEKT_ALL_NAMESPACES",
        conflicts_with_all = ["webhook", "namespace"]
    )]
    pub all_namespaces: bool,

    /// How it is written.
    #[arg(
        short,
        long,
        env = "CHEKT_STATUS_OUTPUT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub output: Output,
}

/// Writes on the standard output. Gives back the exit code.
///
/// # Errors
/// When the objects cannot be read.
pub async fn run(args: StatusArgs) -> anyhow::Result<u8> {
    let (client, namespace) = args.scope.connect().await?;
    let now = Clock::machine().wall();
    if let Some(written) = &args.webhook {
        let (namespace, name) = args.scope.names(written, &namespace)?;
        return one(&client, &namespace, &name, args.output, now).await;
    }
    let within = (!args.all_namespaces).then_some(namespace.as_str());
    let accounts: Vec<ChektAccount> = all(&client, within).await?;
    let webhooks: Vec<ChektWebhook> = all(&client, within).await?;
    write(&accounts, &webhooks, args.output, now)?;
    if accounts.is_empty() && webhooks.is_empty() {
        let place = within.map_or_else(
            || "any namespace".to_owned(),
            |namespace| format!("namespace {namespace} (-A: in all)"),
        );
        eprintln!("There is no ChektAccount and no ChektWebhook in {place}.");
    }
    let broken = accounts.iter().any(|a| summary::account(a).broken)
        || webhooks.iter().any(|w| summary::webhook(w).broken);
    Ok(if broken { NOT_WELL } else { WELL })
}

/// All objects of a kind, in one namespace or in all.
async fn all<K>(client: &Client, namespace: Option<&str>) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    match within(DEADLINE, api.list(&ListParams::default())).await {
        Ok(list) => Ok(list.items),
        Err(error @ ClusterError::NotFound(_)) => Err(error)
            .context("the definitions are not installed: chekt-operator crds | kubectl apply -f -"),
        Err(error) => Err(error.into()),
    }
}

fn write(
    accounts: &[ChektAccount],
    webhooks: &[ChektWebhook],
    output: Output,
    now: Timestamp,
) -> anyhow::Result<()> {
    match output {
        Output::Text | Output::Wide => {
            print!(
                "{}",
                tables(accounts, webhooks, output == Output::Wide, now)
            );
        }
        Output::Name => {
            for line in accounts.iter().map(summary::account) {
                println!("chektaccount.chekt.com/{}", line.name);
            }
            for line in webhooks.iter().map(summary::webhook) {
                println!("chektwebhook.chekt.com/{}", line.name);
            }
        }
        Output::Json | Output::Yaml => {
            let all: Vec<Value> = accounts
                .iter()
                .map(account_object)
                .chain(webhooks.iter().map(webhook_object))
                .collect();
            structured(&json!(all), output)?;
        }
    }
    Ok(())
}

fn structured(value: &Value, output: Output) -> anyhow::Result<()> {
    if output == Output::Yaml {
        print!("{}", serde_yaml::to_string(value)?);
    } else {
        println!("{}", serde_json::to_string_pretty(value)?);
    }
    Ok(())
}

fn account_object(account: &ChektAccount) -> Value {
    let line = summary::account(account);
    let status = account.status.clone().unwrap_or_default();
    json!({
        "kind": "ChektAccount", "namespace": line.namespace, "name": line.name, "ready": line.ready,
        "webhooks": status.webhooks, "orphans": status.orphans, "problem": line.problem, "next": line.next,
    })
}

fn webhook_object(webhook: &ChektWebhook) -> Value {
    let line = summary::webhook(webhook);
    let status = webhook.status.clone().unwrap_or_default();
    json!({
        "kind": "ChektWebhook", "namespace": line.namespace, "name": line.name, "ready": line.ready,
        "verified": summary::verified(webhook), "suspended": webhook.spec.suspend, "state": status.state,
        "account": status.account, "webhookID": status.webhook_id, "url": status.url,
        "deliveries": status.deliveries, "lastOutage": status.last_outage,
        "conditions": status.conditions, "problem": line.problem, "next": line.next,
    })
}

fn tables(
    accounts: &[ChektAccount],
    webhooks: &[ChektWebhook],
    wide: bool,
    now: Timestamp,
) -> String {
    let mut text = String::new();
    let mut next = Vec::new();
    let dash = || "-".to_owned();
    if !accounts.is_empty() {
        let head = [
            "NAMESPACE",
            "ACCOUNT",
            "READY",
            "WEBHOOKS",
            "ORPHANS",
            "PROBLEM",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for account in accounts {
            let line = summary::account(account);
            let status = account.status.clone().unwrap_or_default();
            let managed = status.webhooks.map(|w| w.managed.to_string());
            next.extend(to_do(&line));
            rows.push(vec![
                line.namespace,
                line.name,
                line.ready.unwrap_or_else(dash),
                managed.unwrap_or_else(dash),
                status.orphans.len().to_string(),
                line.problem.unwrap_or_else(dash),
            ]);
        }
        text.push_str(&columns(&rows));
    }
    if !webhooks.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        let mut head = vec![
            "NAMESPACE",
            "WEBHOOK",
            "READY",
            "VERIFIED",
            "STATE",
            "LAST DELIVERY",
        ];
        if wide {
            head.extend(["ACCOUNT", "ID", "URL"]);
        }
        head.push("PROBLEM");
        let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        for webhook in webhooks {
            let line = summary::webhook(webhook);
            let status = webhook.status.clone().unwrap_or_default();
            next.extend(to_do(&line));
            let mut row = vec![
                line.namespace,
                line.name,
                line.ready.unwrap_or_else(dash),
                summary::verified(webhook),
                status.state.clone().unwrap_or_else(dash),
                last_delivery(webhook, now).unwrap_or_else(dash),
            ];
            if wide {
                row.extend(
                    [status.account, status.webhook_id, status.url].map(|t| t.unwrap_or_else(dash)),
                );
            }
            row.push(line.problem.unwrap_or_else(dash));
            rows.push(row);
        }
        text.push_str(&columns(&rows));
    }
    if !next.is_empty() {
        text.push_str(&format!("\nNext:\n{}", next.concat()));
    }
    text
}

fn to_do(line: &Line) -> Option<String> {
    let next = line.next.as_ref()?;
    Some(format!("  {}/{}: {next}\n", line.namespace, line.name))
}

fn last_delivery(webhook: &ChektWebhook, now: Timestamp) -> Option<String> {
    let deliveries = webhook.status.as_ref()?.deliveries.as_ref()?;
    let at = deliveries.last_received_at.as_ref()?;
    let event = deliveries.last_event.as_deref().unwrap_or("unknown");
    Some(format!("{event} {} ago", ago(at.0, now)))
}

/// One webhook in full, with its account.
async fn one(
    client: &Client,
    namespace: &str,
    name: &str,
    output: Output,
    now: Timestamp,
) -> anyhow::Result<u8> {
    let webhooks: Api<ChektWebhook> = Api::namespaced(client.clone(), namespace);
    let Some(webhook) = write::latest(&webhooks, name).await? else {
        anyhow::bail!("ChektWebhook {name} does not exist in namespace {namespace}");
    };
    let line = summary::webhook(&webhook);
    match output {
        Output::Json | Output::Yaml => structured(&webhook_object(&webhook), output)?,
        Output::Name => println!("chektwebhook.chekt.com/{name}"),
        Output::Text | Output::Wide => {
            let account = account_of(client, &webhook).await?;
            print!("{}", detail(&webhook, &line, account.as_ref(), now));
        }
    }
    Ok(if line.broken { NOT_WELL } else { WELL })
}

/// The account on record, if there is one that may be read.
async fn account_of(
    client: &Client,
    webhook: &ChektWebhook,
) -> anyhow::Result<Option<ChektAccount>> {
    let on_record = webhook.status.as_ref().and_then(|s| s.account.as_deref());
    let Some(on_record) = on_record else {
        return Ok(None);
    };
    let name: AccountName = on_record.parse()?;
    let accounts: Api<ChektAccount> = Api::namespaced(client.clone(), &name.namespace);
    match write::latest(&accounts, &name.name).await {
        Ok(account) => Ok(account),
        Err(ClusterError::Forbidden(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn detail(
    webhook: &ChektWebhook,
    line: &Line,
    account: Option<&ChektAccount>,
    now: Timestamp,
) -> String {
    let status = webhook.status.clone().unwrap_or_default();
    let deliveries = status.deliveries.clone().unwrap_or_default();
    let time = |at: &Option<Time>| at.as_ref().map(|t| when(t, now));
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            rows.push(vec![format!("{name}:"), value]);
        }
    };
    row("Webhook", Some(format!("{}/{}", line.namespace, line.name)));
    row("Url", status.url);
    row("Events", Some(webhook.spec.events.join(", ")));
    row(
        "At CHeKT",
        status.webhook_id.map(|id| {
            format!(
                "{id}, {}",
                status.state.as_deref().unwrap_or("state not said")
            )
        }),
    );
    row(
        "Account",
        status.account.map(|name| match account {
            Some(account) => {
                let line = summary::account(account);
                format!("{name}, Ready {}", line.ready.as_deref().unwrap_or("-"))
            }
            None => name,
        }),
    );
    row(
        "Orphans",
        account.and_then(|a| {
            let orphans = &a.status.as_ref()?.orphans;
            let ids: Vec<&str> = orphans.iter().map(|o| o.id.as_str()).collect();
            (!ids.is_empty()).then(|| format!("{} (of the account)", ids.join(", ")))
        }),
    );
    row("Suspended", webhook.spec.suspend.then(|| "yes".to_owned()));
    row(
        "Last delivery",
        time(&deliveries.last_received_at).map(|at| {
            format!(
                "{}, {at}",
                deliveries.last_event.as_deref().unwrap_or("unknown")
            )
        }),
    );
    row("Last test", time(&deliveries.last_test_at));
    row(
        "Last refusal",
        time(&deliveries.last_rejected_at).map(|at| {
            let why = deliveries.last_rejected_reason.as_deref();
            let message = deliveries.last_rejected_message.as_deref();
            format!(
                "{}, {at}: {}",
                why.unwrap_or("unknown"),
                message.unwrap_or("no message")
            )
        }),
    );
    row(
        "Last outage",
        status.last_outage.map(|outage| {
            let until = outage
                .to
                .as_ref()
                .map_or("now".to_owned(), |t| t.0.to_string());
            format!(
                "from {} until {until}; what happened then was not delivered",
                outage.from.0
            )
        }),
    );
    let mut text = columns(&rows);
    if !status.conditions.is_empty() {
        let head = ["CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(status.conditions.iter().map(|c| condition(c, now)));
        text.push_str(&format!("\n{}", columns(&rows)));
    }
    if let Some(next) = &line.next {
        text.push_str(&format!("\nNext: {next}.\n"));
    }
    text
}

fn condition(c: &Condition, now: Timestamp) -> Vec<String> {
    vec![
        c.type_.clone(),
        c.status.clone(),
        c.reason.clone(),
        ago(c.last_transition_time.0, now),
        c.message.clone(),
    ]
}

fn when(at: &Time, now: Timestamp) -> String {
    format!("{} ago ({})", ago(at.0, now), at.0)
}
