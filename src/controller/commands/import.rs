//! `import`: manifests for the remote webhooks of an account that nobody here manages.
//!
//! What is printed can be applied as it is and changes as little as possible: it names the remote webhook by its id, says
//! what CHeKT shows of it, and leaves it there when the object is deleted. The one thing that CHeKT never shows is the
//! secret, so a webhook that somebody else receives needs one to be put into a Secret first.

use std::collections::BTreeMap;

use clap::Args;
use kube::ResourceExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use super::{Reached, manager, webhooks};
use crate::cluster::access::Access;
use crate::resources::account::AccountName;
use crate::resources::remote::{self, RemoteWebhook};
use crate::resources::{ChektWebhook, DEFAULT_ACCOUNT};
use crate::webhook::identity;

/// The key of the Secret that a manifest names.
const SECRET_KEY: &str = "secret";
/// The most characters of a host in a name.
const LONGEST_HOST: usize = 20;
/// The most characters of an id in a name.
const LONGEST_ID: usize = 32;

/// Flags of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The account whose remote webhooks are looked at.
    #[arg(long, env = "CHEKT_ACCOUNT", value_name = "NAMESPACE/NAME")]
    pub account: AccountName,

    /// The namespace of the manifests. Default: that of the account.
    #[arg(short, long, env = "CHEKT_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// The public URL of the controller. A remote webhook whose url is derived from it gets a manifest without a url, and
    /// the operator receives its deliveries.
    #[arg(long, env = "CHEKT_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<Url>,

    /// Which cluster.
    #[command(flatten)]
    pub access: Access,

    /// Lets the account have a plain http baseURL that is not this machine's.
    #[arg(long, env = "CHEKT_ALLOW_INSECURE_PARTNER")]
    pub allow_insecure_partner: bool,
}

/// Prints manifests on the standard output, and remarks on standard error.
///
/// # Errors
/// When something could not be read.
pub async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let client = args.access.find().await?.client()?;
    let reached = Reached::account(&client, &args.account, args.allow_insecure_partner).await?;
    let managed = webhooks(&client).await?;
    reached.list().await?;
    let remotes: Vec<RemoteWebhook> = reached.connection.roster().iter().cloned().collect();
    let place = Place {
        account: &args.account,
        namespace: args.namespace.as_deref().unwrap_or(&args.account.namespace),
        public: args.public_url.as_ref(),
    };
    let Imported { manifests, remarks } = import(&place, remotes, &managed);
    for remark in &remarks {
        eprintln!("{remark}");
    }
    for (comment, manifest) in &manifests {
        println!("---");
        for line in comment {
            println!("# {line}");
        }
        print!("{}", serde_yaml::to_string(manifest)?);
    }
    if manifests.is_empty() {
        eprintln!(
            "There is nothing to import: account {} has no remote webhook that can be taken over.",
            args.account
        );
    }
    Ok(())
}

/// Where manifests go.
struct Place<'a> {
    account: &'a AccountName,
    namespace: &'a str,
    public: Option<&'a Url>,
}

/// What is printed.
#[derive(Default)]
struct Imported {
    /// Each with its comment, line by line.
    manifests: Vec<(Vec<String>, Value)>,
    remarks: Vec<String>,
}

fn import(place: &Place, mut remotes: Vec<RemoteWebhook>, managed: &[ChektWebhook]) -> Imported {
    let mut all = Imported::default();
    remotes.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for remote in &remotes {
        let url = remote::canonical(&remote.url);
        let first = seen.get(&url).cloned();
        seen.entry(url.clone()).or_insert_with(|| remote.id.clone());
        if manager(managed, place.account, &remote.id).is_some() {
            continue;
        }
        let taker = wanted_by(place, managed, &url);
        let derived = place
            .public
            .and_then(|public| derived_names(public, &remote.url));
        if let Some(first) = first {
            let consequence = if derived.is_some() {
                "it is left out, and whoever manages the first one deletes it as a twin"
            } else {
                "of two objects with one url only the older is acted on, so delete all but one of them at CHeKT"
            };
            all.remarks.push(format!(
                "{} has the same url as {first} ({}): {consequence}",
                remote.id, remote.url
            ));
            if derived.is_some() || taker.is_some() {
                continue;
            }
        } else if let Some(taker) = taker {
            all.remarks.push(format!(
                "{} is left out: ChektWebhook {taker} has its url ({}) and takes it over",
                remote.id, remote.url
            ));
            continue;
        }
        match manifest(place, remote, derived) {
            Ok(manifest) => all.manifests.push(manifest),
            Err(why) => all
                .remarks
                .push(format!("{} ({}) is left out: {why}", remote.id, remote.url)),
        }
    }
    all
}

/// The webhook that has this url and would take it over by that.
fn wanted_by(place: &Place, managed: &[ChektWebhook], url: &str) -> Option<String> {
    let wanted = |w: &ChektWebhook| match (&w.spec.url, place.public) {
        (Some(url), _) => Some(url.clone()),
        (None, Some(public)) => {
            let namespace = w.namespace().unwrap_or_default();
            Some(identity::derived(public, &namespace, &w.name_any()))
        }
        (None, None) => w.status.as_ref().and_then(|s| s.url.clone()),
    };
    let with = |w: &ChektWebhook| {
        let on_record = w.status.as_ref().and_then(|s| s.account.clone());
        on_record.is_none_or(|a| a == place.account.to_string())
    };
    let taker = managed
        .iter()
        .find(|w| with(w) && wanted(w).is_some_and(|wanted| remote::same(&wanted, url)))?;
    Some(format!(
        "{}/{}",
        taker.namespace().unwrap_or_default(),
        taker.name_any()
    ))
}

/// Namespace and name that a url was derived from.
fn derived_names(public: &Url, url: &str) -> Option<(String, String)> {
    let url = remote::canonical(url);
    let mut parts = url.rsplit('/');
    let (name, namespace) = (parts.next()?, parts.next()?);
    let derived = identity::derived(public, namespace, name);
    (remote::same(&derived, &url) && is_name(name) && is_name(namespace))
        .then(|| (namespace.to_owned(), name.to_owned()))
}

/// Whether a word can name an object and a namespace.
fn is_name(word: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !word.is_empty()
        && word.len() <= 63
        && word.chars().all(inside)
        && !word.starts_with('-')
        && !word.ends_with('-')
}

/// The manifest of one remote webhook, with its comment.
fn manifest(
    place: &Place,
    remote: &RemoteWebhook,
    derived: Option<(String, String)>,
) -> Result<(Vec<String>, Value), String> {
    let mut events: Vec<&String> = remote
        .events
        .iter()
        .filter(|e| *e != "webhook.test")
        .collect();
    events.sort();
    events.dedup();
    if events.is_empty() {
        return Err(
            "it is subscribed to no event, and a ChektWebhook names at least one".to_owned(),
        );
    }
    if derived.is_none() && !is_accepted(&remote.url) {
        return Err("a ChektWebhook takes only https urls: change it at CHeKT first".to_owned());
    }
    let is_derived = derived.is_some();
    let (namespace, name) =
        derived.unwrap_or_else(|| (place.namespace.to_owned(), name_of(remote)));
    let mut spec = json!({
        "events": events,
        "webhookID": remote.id,
        "deletionPolicy": "Orphan",
    });
    let own = place.account.namespace == namespace;
    if !own {
        spec["accountRef"] =
            json!({"name": place.account.name, "namespace": place.account.namespace});
    } else if place.account.name != DEFAULT_ACCOUNT {
        spec["accountRef"] = json!({"name": place.account.name});
    }
    let state = remote.state.as_deref().unwrap_or("not said");
    let mut comment = vec![format!("{} at CHeKT, state {state}.", remote.id)];
    if is_derived {
        comment.push("Its url is derived from the operator's public URL, so the operator receives its deliveries, and gives CHeKT a".to_owned());
        comment.push("secret of its own.".to_owned());
    } else {
        let secret = format!("{name}-{SECRET_KEY}");
        spec["url"] = json!(remote.url);
        spec["secretRef"] = json!({"name": secret, "key": SECRET_KEY});
        comment.push("CHeKT never shows a secret. Put the one that the receiver of the deliveries verifies with into a Secret first; it is".to_owned());
        comment.push("given to CHeKT when this is applied:".to_owned());
        comment.push(format!("  kubectl -n {namespace} create secret generic {secret} --from-literal={SECRET_KEY}=..."));
    }
    comment.push("Deleting this object leaves the webhook at CHeKT; write deletionPolicy: Delete to have it deleted there as well.".to_owned());
    let manifest = json!({
        "apiVersion": "chekt.com/v1alpha1",
        "kind": "ChektWebhook",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    });
    Ok((comment, manifest))
}

/// Whether the definition lets a url in.
fn is_accepted(url: &str) -> bool {
    Url::parse(url).is_ok_and(|u| match u.scheme() {
        "https" => u.has_host(),
        "http" => matches!(u.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")),
        _ => false,
    })
}

/// A name that is made of host and id, so that it is the same each time and no other webhook's.
fn name_of(remote: &RemoteWebhook) -> String {
    let host = Url::parse(&remote.url)
        .ok()
        .and_then(|u| u.host_str().map(str::to_owned))
        .unwrap_or_default();
    // Digits and small letters stay, and an underscore becomes a dash, which no id that stays as it is contains.
    let stays = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_exact = remote.id.len() <= LONGEST_ID && remote.id.chars().all(stays);
    let (host, id) = (slug(&host, LONGEST_HOST), slug(&remote.id, LONGEST_ID));
    let mut parts = vec![host, id];
    if !is_exact {
        let digest = Sha256::digest(remote.id.as_bytes());
        parts.push(data_encoding::HEXLOWER.encode(&digest[..4]));
    }
    parts.retain(|p| !p.is_empty());
    parts.join("-")
}

/// A text as part of a name.
fn slug(text: &str, longest: usize) -> String {
    let mapped: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(longest)
        .collect();
    mapped.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(id: &str, url: &str) -> RemoteWebhook {
        RemoteWebhook {
            id: id.to_owned(),
            url: url.to_owned(),
            events: vec!["site.armed".to_owned(), "alarm.triggered".to_owned()],
            state: Some("active".to_owned()),
            created_at: None,
        }
    }

    fn imported(remotes: &[RemoteWebhook]) -> Imported {
        let account = "security/default".parse().unwrap();
        let public = Url::parse("https://alarms.example/chekt").unwrap();
        let place = Place {
            account: &account,
            namespace: "security",
            public: Some(&public),
        };
        import(&place, remotes.to_vec(), &[])
    }

    #[test]
    fn names_are_valid_and_two_ids_never_share_one() {
        let ids = [
            "a_b",
            "a-b",
            "A_B",
            "ä",
            "",
            "7",
            &"x".repeat(80),
            &"x".repeat(81),
        ];
        let mut names: Vec<String> = ids
            .iter()
            .map(|id| name_of(&remote(id, "https://Hooks.Example.com:8443/x")))
            .collect();
        assert!(names.iter().all(|n| is_name(n)), "{names:?}");
        assert_eq!(names[0], "hooks-example-com-a-b");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ids.len(), "{names:?}");
    }

    #[test]
    fn a_derived_url_becomes_a_manifest_without_one_under_its_own_names() {
        let all = imported(&[remote(
            "w1",
            "https://alarms.example/chekt/webhooks/site-a/front",
        )]);
        let (_, manifest) = &all.manifests[0];
        assert_eq!(
            manifest["metadata"],
            json!({"namespace": "site-a", "name": "front"})
        );
        assert_eq!(
            manifest["spec"],
            json!({"events": ["alarm.triggered", "site.armed"], "webhookID": "w1", "deletionPolicy": "Orphan",
                "accountRef": {"name": "default", "namespace": "security"}})
        );
    }

    #[test]
    fn what_cannot_be_a_webhook_is_left_out_with_a_reason_and_twins_are_warned_of() {
        let mut silent = remote("silent", "https://a.example/x");
        silent.events = vec!["webhook.test".to_owned()];
        let all = imported(&[
            silent,
            remote("plain", "http://a.example/x"),
            remote("one", "https://b.example/x"),
            remote("two", "https://B.example:443/x"),
        ]);
        let ids: Vec<_> = all
            .manifests
            .iter()
            .map(|(_, m)| m["spec"]["webhookID"].clone())
            .collect();
        assert_eq!(ids, ["one", "two"]);
        assert_eq!(all.remarks.len(), 3, "{:?}", all.remarks);
        assert!(
            all.remarks
                .iter()
                .any(|r| r.contains("two has the same url as one"))
        );
    }
}
