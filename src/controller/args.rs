//! The flags of the controller, and the one validated value that is made of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args};
use url::Url;

use crate::cluster::token::Pod;
use crate::resources::account::AccountName;
use crate::resources::remote::is_loopback;

/// How many webhooks are worked on at once by default. While CHeKT takes 50 ms for a POST, 16 used 43 % of what an API
/// server on the same two cores takes, 64 used 70 %, and 128 little more.
const CONCURRENCY: u16 = 64;

/// Flags of the controller.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Where CHeKT reaches the receiver, as https://host or https://host/path. The url of a webhook is derived
    /// from it. The receiver answers on /webhooks/..., so whatever stands before it must take a path off.
    #[arg(long, env = "CHEKT_PUBLIC_URL", value_name = "URL")]
    pub public_url: String,

    /// The operator's own namespace, where the keyrings are.
    #[arg(long, env = "CHEKT_OPERATOR_NAMESPACE", value_name = "NAMESPACE")]
    pub operator_namespace: String,

    /// A namespace to look after; may be given more than once. Without it, all are looked after.
    #[arg(
        long = "watch-namespace",
        env = "CHEKT_WATCH_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,

    /// A Secret that accounts and webhooks may name; may be given more than once. Without it, any. It goes with roles that
    /// let the controller get, list and watch Secrets of these names only.
    #[arg(
        long = "secret-name",
        env = "CHEKT_SECRET_NAME",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub secret_names: Vec<String>,

    /// The account of webhooks that name none and whose namespace has no account `default`. It must allow their
    /// namespaces (spec.allowedNamespaces).
    #[arg(long, env = "CHEKT_DEFAULT_ACCOUNT", value_name = "NAMESPACE/NAME")]
    pub default_account: Option<AccountName>,

    /// Where /healthz, /readyz and /metrics are served; port 0 takes a free one.
    #[arg(
        long,
        env = "CHEKT_OPS_ADDRESS",
        value_name = "ADDRESS",
        default_value = "[::]:8082"
    )]
    pub ops_address: SocketAddr,

    /// Whether to act only while holding the Lease, so that several controllers can run and one of them acts. With
    /// false, whoever starts the process sees to it that there is never a second one.
    #[arg(
        long,
        env = "CHEKT_LEADER_ELECT",
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub leader_elect: bool,

    /// The Lease in the operator's namespace. Controllers with one name stand in for each other; those that look
    /// after different namespaces need a name each.
    #[arg(
        long,
        env = "CHEKT_LEASE_NAME",
        value_name = "NAME",
        default_value = "chekt-controller"
    )]
    pub lease_name: String,

    /// How many seconds without a sign of the leader until another controller takes over. The leader renews the
    /// Lease after every 2/15 of it and stops after 2/3 of it without success.
    #[arg(
        long,
        env = "CHEKT_LEASE_DURATION",
        value_name = "SECONDS",
        default_value_t = 15,
        value_parser = clap::value_parser!(u32).range(3..=3600)
    )]
    pub lease_duration: u32,

    /// How long after its deletion was asked for a webhook is let go of whose credentials are gone for good: its remote
    /// webhook stays at CHeKT and is listed in the account's status. An outage of CHeKT never counts. A duration of at
    /// least 1s, such as 90s, 1h or 24h.
    #[arg(
        long,
        env = "CHEKT_ORPHAN_AFTER",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = duration
    )]
    pub orphan_after: Duration,

    /// How many webhooks of one watched namespace, or of all, are worked on at once. More keep more requests on their way
    /// while CHeKT takes its time; what an account allows is in its spec.rateLimit.
    #[arg(
        long,
        env = "CHEKT_CONCURRENCY",
        value_name = "N",
        default_value_t = CONCURRENCY,
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    pub concurrency: u16,

    /// The most webhooks that /metrics tells of by name, with about seven series each. Of more webhooks it tells only
    /// sums by namespace, and none by name; 0: never by name.
    #[arg(
        long,
        env = "CHEKT_METRICS_WEBHOOKS",
        value_name = "N",
        default_value_t = 1000
    )]
    pub metrics_webhooks: u32,

    /// The service account, in the operator's namespace, whose tokens the receiver of this Pod is given. They live for an
    /// hour at most and are renewed after a half to seven tenths of it. Without it the receiver uses credentials of its own.
    #[arg(
        long,
        env = "CHEKT_RECEIVER_SERVICE_ACCOUNT",
        value_name = "NAME",
        requires = "receiver_credentials"
    )]
    pub receiver_service_account: Option<String>,

    /// The directory where the receiver finds its token, ca.crt and namespace: a volume in memory that both containers
    /// have, mounted in the receiver at /var/run/secrets/kubernetes.io/serviceaccount.
    #[arg(
        long,
        env = "CHEKT_RECEIVER_CREDENTIALS",
        value_name = "DIR",
        requires = "receiver_service_account"
    )]
    pub receiver_credentials: Option<PathBuf>,

    /// The name of the Pod that this process runs in. With it the receiver's tokens end with the Pod.
    #[arg(
        long,
        env = "CHEKT_POD_NAME",
        value_name = "NAME",
        requires = "pod_uid"
    )]
    pub pod_name: Option<String>,

    /// The uid of that Pod.
    #[arg(long, env = "CHEKT_POD_UID", value_name = "UID", requires = "pod_name")]
    pub pod_uid: Option<String>,

    /// Lets accounts have a plain http baseURL that is not this machine's. Tokens and secrets can then be read by
    /// everyone on the way.
    #[arg(long, env = "CHEKT_ALLOW_INSECURE_PARTNER")]
    pub allow_insecure_partner: bool,

    /// Lets the public URL be plain http although it is not this machine's. CHeKT itself refuses such urls.
    #[arg(long, env = "CHEKT_ALLOW_INSECURE_PUBLIC_URL")]
    pub allow_insecure_public_url: bool,
}

/// What the flags mean.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where CHeKT reaches the receiver.
    pub public_url: Url,
    /// Where the keyrings are.
    pub operator_namespace: String,
    /// What is looked after; empty: everything.
    pub watch_namespaces: Vec<String>,
    /// The Secrets in these namespaces that may be read; empty: all.
    pub secret_names: Vec<String>,
    /// The account of webhooks that name none and have none.
    pub default_account: Option<AccountName>,
    /// How many objects of one kind and namespace are worked on at once.
    pub concurrency: u16,
    /// Whether a plain http partner is allowed.
    pub allow_insecure_partner: bool,
    /// How long after its deletion was asked for a webhook is let go of whose credentials are gone for good.
    pub orphan_after: Duration,
    /// How the leader is elected; `None`: this process leads, since it is the only one.
    pub election: Option<ElectionSettings>,
    /// Which credentials the receiver is given, if any.
    pub receiver: Option<ReceiverCredentials>,
}

/// Which credentials the receiver is given.
#[derive(Clone, Debug)]
pub struct ReceiverCredentials {
    /// Whose tokens.
    pub service_account: String,
    /// Where they are left.
    pub directory: PathBuf,
    /// The Pod that they end with.
    pub pod: Option<Pod>,
}

impl Settings {
    /// Whether the webhooks and accounts of a namespace are looked after.
    #[must_use]
    pub fn looks_after(&self, namespace: &str) -> bool {
        self.watch_namespaces.is_empty() || self.watch_namespaces.iter().any(|n| n == namespace)
    }
}

/// How the leader is elected.
#[derive(Clone, Debug)]
pub struct ElectionSettings {
    /// The name of the Lease.
    pub lease_name: String,
    /// How long it lasts without a renewal.
    pub lasts: Duration,
}

/// Each name once. An empty one is what an empty variable gives.
fn once_each(names: &[String]) -> Vec<String> {
    let mut names: Vec<_> = names.iter().filter(|n| !n.is_empty()).cloned().collect();
    names.sort();
    names.dedup();
    names
}

/// A duration of at least a second, as Kubernetes writes them.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<kube::core::Duration>().ok();
    parsed
        .filter(|d| !d.is_negative())
        .map(Duration::from)
        .filter(|d| *d >= Duration::from_secs(1))
        .ok_or_else(|| "write a duration of at least 1s, such as 90s, 1h or 24h".to_owned())
}

impl ControllerArgs {
    /// Checks the flags and says what they mean.
    ///
    /// # Errors
    /// With what to write instead.
    pub fn settle(&self) -> anyhow::Result<Settings> {
        let url = Url::parse(&self.public_url).with_context(|| {
            format!(
                "--public-url {:?} is not a URL: write https://alarms.example.com",
                self.public_url
            )
        })?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_insecure_public_url || is_loopback(&url) => {}
            "http" => bail!(
                "--public-url {url} is plain http, which CHeKT refuses: write https, or add --allow-insecure-public-url for a sandbox"
            ),
            other => bail!("--public-url has the scheme {other}: write https://alarms.example.com"),
        }
        if url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.password().is_some()
        {
            bail!(
                "--public-url must have no user, query or fragment: write https://host or https://host/path"
            );
        }
        // The same namespace twice would be two controllers over the same webhooks, which must never be.
        let watch_namespaces = once_each(&self.watch_namespaces);
        if let Some(account) = &self.default_account
            && !watch_namespaces.is_empty()
            && !watch_namespaces.contains(&account.namespace)
        {
            bail!(
                "--default-account {account} is in a namespace that is not looked after: add --watch-namespace {}",
                account.namespace
            );
        }
        Ok(Settings {
            public_url: url,
            operator_namespace: self.operator_namespace.clone(),
            watch_namespaces,
            secret_names: once_each(&self.secret_names),
            default_account: self.default_account.clone(),
            concurrency: self.concurrency,
            allow_insecure_partner: self.allow_insecure_partner,
            orphan_after: self.orphan_after,
            election: self.leader_elect.then(|| ElectionSettings {
                lease_name: self.lease_name.clone(),
                lasts: Duration::from_secs(u64::from(self.lease_duration)),
            }),
            receiver: self.receiver(),
        })
    }

    /// One flag without the other is refused by the command line.
    fn receiver(&self) -> Option<ReceiverCredentials> {
        let pod = self.pod_name.as_ref().zip(self.pod_uid.as_ref());
        Some(ReceiverCredentials {
            service_account: self.receiver_service_account.clone()?,
            directory: self.receiver_credentials.clone()?,
            pod: pod.map(|(name, uid)| Pod {
                name: name.clone(),
                uid: uid.clone(),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str, allow: bool) -> ControllerArgs {
        ControllerArgs {
            public_url: url.to_owned(),
            operator_namespace: "ops".to_owned(),
            watch_namespaces: vec![],
            secret_names: vec![],
            default_account: None,
            ops_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            leader_elect: true,
            lease_name: "chekt-controller".to_owned(),
            lease_duration: 15,
            orphan_after: Duration::from_secs(3600),
            concurrency: CONCURRENCY,
            metrics_webhooks: 1000,
            receiver_service_account: None,
            receiver_credentials: None,
            pod_name: None,
            pod_uid: None,
            allow_insecure_partner: false,
            allow_insecure_public_url: allow,
        }
    }

    fn settle(url: &str, allow: bool) -> Result<Settings, String> {
        args(url, allow).settle().map_err(|e| e.to_string())
    }

    #[test]
    fn a_namespace_is_watched_once_and_an_empty_variable_means_all() {
        let watched = |names: &[&str]| {
            let watch_namespaces = names.iter().map(ToString::to_string).collect();
            let args = ControllerArgs {
                watch_namespaces,
                ..args("https://a.example", false)
            };
            args.settle().unwrap().watch_namespaces
        };
        assert_eq!(watched(&["b", "a", "b"]), ["a", "b"]);
        assert!(watched(&[""]).is_empty());
    }

    #[test]
    fn a_duration_is_written_as_kubernetes_writes_them_and_is_at_least_a_second() {
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["0s", "-1h", "soon", ""] {
            assert!(duration(bad).unwrap_err().contains("90s"), "{bad}");
        }
    }

    #[test]
    fn the_default_account_is_in_a_namespace_that_is_looked_after() {
        let with = |watched: &[&str]| {
            let args = ControllerArgs {
                watch_namespaces: watched.iter().map(ToString::to_string).collect(),
                default_account: Some("shared/main".parse().unwrap()),
                ..args("https://a.example", false)
            };
            args.settle().map_err(|e| e.to_string())
        };
        assert!(with(&[]).is_ok() && with(&["team", "shared"]).is_ok());
        assert!(
            with(&["team"])
                .unwrap_err()
                .contains("add --watch-namespace shared")
        );
    }

    #[test]
    fn a_plain_http_public_url_is_for_this_machine_or_for_those_who_allow_it() {
        assert!(settle("https://alarms.example.com/x", false).is_ok());
        assert!(settle("http://127.0.0.1:1234", false).is_ok());
        assert!(
            settle("http://alarms.example.com", false)
                .unwrap_err()
                .contains("write https")
        );
        assert!(settle("http://alarms.example.com", true).is_ok());
        assert!(settle("alarms.example.com", false).is_err());
        assert!(settle("https://a/?x=1", false).is_err());
    }
}
