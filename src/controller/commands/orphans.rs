//! `orphans`: which remote webhooks were let go of without being deleted, whether they still exist, and their removal.
//!
//! A removal is a DELETE at CHeKT that nobody takes back. So it is asked for by id, confirmed by the person, refused for
//! what a `ChektWebhook` manages, and taken off the record only once CHeKT has confirmed it.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use uuid::Uuid;

use super::columns::columns;
use super::{DEADLINE, Reached, manager, webhooks};
use crate::cluster::access::Access;
use crate::cluster::{ClusterError, within};
use crate::controller::orphans;
use crate::partner::fault::Kind;
use crate::resources::ChektAccount;
use crate::resources::account::{AccountName, Orphan};

/// How the list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// One array.
    Json,
}

/// Flags of `orphans`.
#[derive(Debug, Args)]
pub struct OrphansArgs {
    /// Only those of this account, and CHeKT is asked whether they still exist. Default: those of all accounts, and nobody
    /// is asked.
    #[arg(long, env = "CHEKT_ACCOUNT", value_name = "NAMESPACE/NAME")]
    pub account: Option<AccountName>,

    /// Deletes this one at CHeKT; may be given more than once.
    #[arg(
        long,
        env = "CHEKT_ORPHANS_REMOVE",
        value_name = "ID",
        value_delimiter = ',',
        requires = "account"
    )]
    pub remove: Vec<String>,

    /// Deletes all orphans of the account at CHeKT.
    #[arg(
        long,
        env = "CHEKT_ORPHANS_REMOVE_ALL",
        requires = "account",
        conflicts_with = "remove"
    )]
    pub remove_all: bool,

    /// Removes without asking.
    #[arg(long, env = "CHEKT_YES")]
    pub yes: bool,

    /// How the list is written.
    #[arg(
        short,
        long,
        env = "CHEKT_OUTPUT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub output: Output,

    /// Which cluster.
    #[command(flatten)]
    pub access: Access,

    /// Lets the account have a plain http baseURL that is not this machine's.
    #[arg(long, env = "CHEKT_ALLOW_INSECURE_PARTNER")]
    pub allow_insecure_partner: bool,
}

/// An orphan with its account, and whether CHeKT still has it.
struct Line<'a> {
    account: AccountName,
    orphan: &'a Orphan,
    exists: Option<bool>,
}

/// Lists orphans on the standard output, or removes some.
///
/// # Errors
/// When something could not be read, or not all that was to be removed was.
pub async fn run(args: OrphansArgs) -> anyhow::Result<()> {
    let client = args.access.find().await?.client()?;
    let Some(key) = &args.account else {
        let accounts = all_accounts(&client).await?;
        let lines: Vec<Line> = accounts
            .iter()
            .flat_map(|a| orphans::of(a).iter().map(|o| line(a, o, None)))
            .collect();
        return write_list(&lines, args.output);
    };
    let reached = Reached::account(&client, key, args.allow_insecure_partner).await?;
    if args.remove_all || !args.remove.is_empty() {
        return remove(&client, &reached, &args).await;
    }
    reached.list().await?;
    let roster = reached.connection.roster();
    let lines: Vec<Line> = orphans::of(&reached.account)
        .iter()
        .map(|o| line(&reached.account, o, Some(roster.get(&o.id).is_some())))
        .collect();
    write_list(&lines, args.output)
}

async fn all_accounts(client: &Client) -> anyhow::Result<Vec<ChektAccount>> {
    let all: Api<ChektAccount> = Api::all(client.clone());
    match within(DEADLINE, all.list(&ListParams::default())).await {
        Ok(list) => Ok(list.items),
        Err(error @ ClusterError::Forbidden(_)) => Err(error).context(
            "you may not list chektaccounts in all namespaces: write --account NAMESPACE/NAME",
        ),
        Err(error) => Err(error.into()),
    }
}

fn line<'a>(account: &ChektAccount, orphan: &'a Orphan, exists: Option<bool>) -> Line<'a> {
    Line {
        account: AccountName {
            namespace: account.namespace().unwrap_or_default(),
            name: account.name_any(),
        },
        orphan,
        exists,
    }
}

async fn remove(client: &Client, reached: &Reached, args: &OrphansArgs) -> anyhow::Result<()> {
    let record = orphans::of(&reached.account);
    let chosen: Vec<&Orphan> = if args.remove_all {
        record.iter().collect()
    } else {
        let find = |id: &String| {
            record.iter().find(|o| o.id == *id).with_context(|| {
                format!(
                    "{id} is no orphan of account {}: `chekt-operator orphans` lists them",
                    reached.key
                )
            })
        };
        args.remove.iter().map(find).collect::<Result<_, _>>()?
    };
    if chosen.is_empty() {
        println!("Account {} has no orphans.", reached.key);
        return Ok(());
    }
    let all = webhooks(client).await?;
    for orphan in &chosen {
        if let Some(manager) = manager(&all, &reached.key, &orphan.id) {
            bail!(
                "{} is managed by ChektWebhook {manager}: delete that, and it is deleted at CHeKT",
                orphan.id
            );
        }
    }
    if !args.yes {
        confirm(&chosen)?;
    }
    let mut failed = 0;
    for orphan in &chosen {
        match delete(reached, &orphan.id).await {
            Ok(()) => {
                let without = |all: &[Orphan]| -> Vec<Orphan> {
                    all.iter().filter(|o| o.id != orphan.id).cloned().collect()
                };
                orphans::change(client, &reached.key, without)
                    .await
                    .with_context(|| {
                        format!("{} is deleted at CHeKT, and still on record", orphan.id)
                    })?;
                println!("Deleted {} ({}) at CHeKT.", orphan.id, orphan.url);
            }
            Err(error) => {
                failed += 1;
                eprintln!("{}: {error:#}", orphan.id);
            }
        }
    }
    if failed > 0 {
        bail!(
            "{failed} of {} could not be deleted; they are still on record",
            chosen.len()
        );
    }
    Ok(())
}

/// Deletes one at CHeKT. That it is not there counts only if a complete list says so, too.
async fn delete(reached: &Reached, id: &str) -> anyhow::Result<()> {
    let key = format!("orphan-{}", Uuid::new_v4());
    match reached.connection.client.delete(id, &key).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind == Kind::Missing => {
            reached.list().await?;
            if reached.connection.roster().get(id).is_some() {
                bail!("CHeKT says that it does not exist, and lists it");
            }
            Ok(())
        }
        Err(error) if error.unclear => {
            bail!("{}. It may be deleted: run this again", error.detail)
        }
        Err(error) => bail!("{}", error.detail),
    }
}

fn confirm(chosen: &[&Orphan]) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!(
            "nobody is there to be asked: add --yes to delete {} at CHeKT",
            chosen.len()
        );
    }
    for orphan in chosen {
        eprintln!("{} {}", orphan.id, orphan.url);
    }
    eprint!("Delete {} at CHeKT? Write yes: ", chosen.len());
    std::io::stderr().flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if answer.trim() != "yes" {
        bail!("nothing was deleted");
    }
    Ok(())
}

fn write_list(lines: &[Line], output: Output) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => {
            let all: Vec<Value> = lines.iter().map(object).collect();
            serde_json::to_writer_pretty(&mut out, &all)?;
            writeln!(out)?;
        }
        Output::Table if lines.is_empty() => writeln!(out, "There are no orphans.")?,
        Output::Table => {
            let mut rows =
                vec![["ACCOUNT", "ID", "SINCE", "REASON", "EXISTS", "URL"].map(str::to_owned)];
            for line in lines {
                let value = object(line);
                let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
                let exists = match line.exists {
                    None => "?",
                    Some(true) => "yes",
                    Some(false) => "no",
                };
                rows.push([
                    text("account"),
                    text("id"),
                    text("since"),
                    text("reason"),
                    exists.to_owned(),
                    text("url"),
                ]);
            }
            out.write_all(columns(&rows).as_bytes())?;
        }
    }
    out.flush()?;
    Ok(())
}

fn object(line: &Line) -> Value {
    let Orphan {
        id,
        url,
        since,
        reason,
    } = line.orphan;
    json!({
        "account": line.account.to_string(), "id": id, "url": url, "since": since, "reason": reason,
        "exists": line.exists,
    })
}
