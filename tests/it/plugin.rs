//! `kubectl chekt`: the same binary under another name, run by kubectl itself, for those who look after webhooks.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use chekt_operator::resources::PERSON_MANAGER;
use chekt_operator::resources::conditions::{READY, SUSPENDED, VERIFIED};
use serde_json::{Value, json};

use crate::harness::cluster::Said;
use crate::harness::process::{binary, command_in};
use crate::harness::{Cluster, Stage, StageOptions};

const SOON: Duration = Duration::from_secs(30);

/// A folder with the plugin and its completer, as an installation makes it: two links to the one binary.
struct Installed(tempfile::TempDir);

impl Installed {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        for name in ["kubectl-chekt", "kubectl_complete-chekt"] {
            std::os::unix::fs::symlink(binary()?, dir.path().join(name))?;
        }
        Ok(Installed(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `kubectl chekt ...`, the namespace being that of the kubeconfig's context.
    async fn kubectl(&self, cluster: &Cluster, args: &[&str]) -> anyhow::Result<Said> {
        let kubectl = cluster.plane.assets().kubectl.clone();
        let mut all = vec!["chekt"];
        all.extend(args);
        self.run(cluster, &kubectl, &all).await
    }

    async fn run(&self, cluster: &Cluster, program: &Path, args: &[&str]) -> anyhow::Result<Said> {
        let kubeconfig = self.kubeconfig(cluster)?.display().to_string();
        let path = format!(
            "{}:{}",
            self.0.path().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let env = [
            ("KUBECONFIG", kubeconfig.as_str()),
            ("PATH", &path),
            ("KUBECTL_KUBERC", "false"),
        ];
        command_in(program, &env, args, "").await
    }

    /// A kubeconfig whose context has the namespace.
    fn kubeconfig(&self, cluster: &Cluster) -> anyhow::Result<PathBuf> {
        let text = std::fs::read_to_string(cluster.kubeconfig())?;
        let mut config: Value = serde_yaml::from_str(&text)?;
        for context in config["contexts"].as_array_mut().unwrap() {
            context["context"]["namespace"] = json!(cluster.namespace);
        }
        let path = self.path("kubeconfig");
        std::fs::write(&path, serde_yaml::to_string(&config)?)?;
        Ok(path)
    }
}

fn ok(said: &Said) -> &str {
    assert!(
        said.status.success(),
        "{}: {}{}",
        said.status,
        said.stdout,
        said.stderr
    );
    &said.stdout
}

#[tokio::test]
async fn kubectl_shows_what_is_wrong_and_asks_the_operator_for_things() -> anyhow::Result<()> {
    let stage = Stage::verified("plugin", &["alarm.triggered"], StageOptions::default()).await?;
    let (users, installed) = (&stage.users, Installed::new()?);

    let said = installed.kubectl(users, &["status"]).await?;
    let table = ok(&said);
    for words in [
        "ACCOUNT",
        "default",
        "WEBHOOK",
        "alarms",
        "active",
        "webhook.test",
        "LAST DELIVERY",
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
    assert!(!table.contains("Next:"), "{table}");
    let said = installed.kubectl(users, &["status", "-o", "json"]).await?;
    let all: Value = serde_json::from_str(ok(&said))?;
    assert_eq!(all[1]["verified"], "True", "{all:#}");
    assert_eq!(all[1]["problem"], Value::Null, "{all:#}");
    let said = installed.kubectl(users, &["status", "-o", "name"]).await?;
    assert_eq!(
        ok(&said),
        "chektaccount.chekt.com/default\nchektwebhook.chekt.com/alarms\n"
    );
    let said = installed.kubectl(users, &["status", "alarms"]).await?;
    for words in [
        "At CHeKT:",
        "Last test:",
        "CONDITION",
        "Verified",
        "Ready True",
    ] {
        assert!(ok(&said).contains(words), "{words}: {}", said.stdout);
    }
    let said = installed
        .kubectl(users, &["status", "-A", "-o", "wide"])
        .await?;
    assert!(said.stdout.contains(&users.namespace), "{}", said.stdout);

    // A test delivery is waited for, and a secret is changed and proved.
    let before = stage
        .chekt
        .webhook_at(&stage.derived_url("alarms")?, SOON)
        .await?;
    let said = installed
        .kubectl(users, &["test", "alarms", "--wait"])
        .await?;
    assert!(ok(&said).contains("its signature fits"), "{}", said.stdout);
    let said = installed
        .kubectl(users, &["rotate", "alarms", "--wait"])
        .await?;
    assert!(
        ok(&said).contains("has a new secret, and a test"),
        "{}",
        said.stdout
    );
    let after = stage
        .chekt
        .webhook_at(&stage.derived_url("alarms")?, SOON)
        .await?;
    assert_ne!(before.secret, after.secret);
    assert!(!said.stdout.contains(&after.secret));

    // What is asked for is written under a name of its own.
    let said = installed.kubectl(users, &["suspend", "alarms"]).await?;
    assert!(ok(&said).contains("suspended"), "{}", said.stdout);
    users
        .webhook_condition("alarms", SUSPENDED, "True", SOON)
        .await?;
    let webhook = users.webhooks().get("alarms").await?;
    let managers = webhook.metadata.managed_fields.unwrap_or_default();
    let names: Vec<_> = managers
        .iter()
        .filter_map(|m| m.manager.as_deref())
        .collect();
    assert!(names.contains(&PERSON_MANAGER), "{names:?}");
    for args in [["test", "alarms"], ["rotate", "alarms"]] {
        let said = installed.kubectl(users, &args).await?;
        assert_eq!(said.status.code(), Some(1), "{}", said.stdout);
        assert!(said.stderr.contains("resume"), "{}", said.stderr);
    }
    let said = installed.kubectl(users, &["status", "alarms"]).await?;
    assert!(said.stdout.contains("Suspended:"), "{}", said.stdout);
    let said = installed.kubectl(users, &["resume", "alarms"]).await?;
    assert!(ok(&said).contains("resumed"), "{}", said.stdout);
    let said = installed.kubectl(users, &["resume", "alarms"]).await?;
    assert!(ok(&said).contains("is not suspended"), "{}", said.stdout);
    users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;

    // Whoever keeps the field in git is told that git wins.
    let owned = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": "alarms"},
        "spec": {"events": ["alarm.triggered"], "suspend": false},
    });
    let args = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=argocd-controller",
        "-f",
        "-",
    ];
    users
        .kubectl_reading(&args, &owned.to_string())
        .await?
        .ok()?;
    let said = installed.kubectl(users, &["suspend", "alarms"]).await?;
    assert!(
        ok(&said).contains("argocd-controller has written spec.suspend"),
        "{}",
        said.stdout
    );
    installed.kubectl(users, &["resume", "alarms"]).await?;

    // What is expected there is there.
    users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    let said = installed
        .kubectl(users, &["verify", "alarms", "-o", "json"])
        .await?;
    let found: Value = serde_json::from_str(ok(&said))?;
    assert_eq!(found["verdict"], "works", "{found:#}");
    let said = installed.kubectl(users, &["orphans"]).await?;
    ok(&said);
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_stands_in_the_table_with_what_to_do() -> anyhow::Result<()> {
    let stage = Stage::new("plugin-wrong").await?;
    let installed = Installed::new()?;
    let said = installed.kubectl(&stage.users, &["status"]).await?;
    assert_eq!(ok(&said), "");
    assert!(
        said.stderr.contains("There is no ChektAccount"),
        "{}",
        said.stderr
    );

    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "False", SOON)
        .await?;
    let said = installed.kubectl(&stage.users, &["status"]).await?;
    assert_eq!(said.status.code(), Some(2), "{}", said.stdout);
    for words in [
        "not Ready (AccountNotFound)",
        "Next:",
        "put the account right first",
    ] {
        assert!(said.stdout.contains(words), "{}", said.stdout);
    }
    let said = installed
        .kubectl(&stage.users, &["status", "nobody"])
        .await?;
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains("does not exist"), "{}", said.stderr);

    // The secret of a webhook that has its own is the user's to change.
    let own = json!({"secretRef": {"name": "own", "key": "signing"}});
    stage
        .apply_webhook("own", &["alarm.triggered"], own)
        .await?;
    let said = installed.kubectl(&stage.users, &["rotate", "own"]).await?;
    assert_eq!(said.status.code(), Some(1));
    assert!(
        said.stderr.contains("under the key signing of Secret own"),
        "{}",
        said.stderr
    );
    Ok(())
}

#[tokio::test]
async fn commands_and_names_are_completed() -> anyhow::Result<()> {
    let cluster = Cluster::new("plugin-complete").await?;
    let installed = Installed::new()?;
    let webhook = |name: &str| {
        json!({"apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": name},
            "spec": {"events": ["alarm.triggered"]}})
    };
    for name in ["alarms", "armed", "devices"] {
        cluster.apply(&webhook(name).to_string()).await?;
    }
    let kubectl = cluster.plane.assets().kubectl.clone();
    let complete = |words: &'static [&'static str]| {
        let (installed, cluster, kubectl) = (&installed, &cluster, &kubectl);
        let all: Vec<&str> = ["__complete", "chekt"]
            .iter()
            .chain(words)
            .copied()
            .collect();
        async move { installed.run(cluster, kubectl, &all).await }
    };
    // Asked by kubectl itself, as a shell has it do.
    let said = complete(&["ver"]).await?;
    assert!(
        ok(&said).starts_with("verify\tFollows"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    let said = complete(&["verify", "a"]).await?;
    assert!(
        ok(&said).starts_with("alarms\narmed\n:4"),
        "{}",
        said.stdout
    );
    let said = complete(&["status", "-o", "w"]).await?;
    assert!(ok(&said).starts_with("wide\n:4"), "{}", said.stdout);
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let said = command_in(&binary()?, &[], &["completion", shell], "").await?;
        assert!(ok(&said).contains("chekt-operator"), "{shell}");
        let plugin = installed.path("kubectl-chekt");
        let said = command_in(&plugin, &[], &["completion", shell], "").await?;
        assert!(ok(&said).contains("kubectl-chekt"), "{shell}");
    }
    Ok(())
}

#[tokio::test]
async fn another_cluster_is_named_as_kubectl_names_it() -> anyhow::Result<()> {
    let cluster = Cluster::new("plugin-context").await?;
    let installed = Installed::new()?;
    let file = installed.kubeconfig(&cluster)?.display().to_string();
    let config: Value = serde_yaml::from_str(&std::fs::read_to_string(&file)?)?;
    let context = config["current-context"].as_str().unwrap().to_owned();
    let nowhere = [("KUBECONFIG", "/nonexistent")];
    let plugin = installed.path("kubectl-chekt");
    let args = ["status", "--kubeconfig", &file, "--context", &context];
    let said = command_in(&plugin, &nowhere, &args, "").await?;
    assert!(said.stderr.contains(&cluster.namespace), "{}", said.stderr);
    let args = ["status", "--kubeconfig", &file, "--context", "another"];
    let said = command_in(&plugin, &nowhere, &args, "").await?;
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains("another"), "{}", said.stderr);
    // The plugin has the verbs and nothing else.
    let said = command_in(&plugin, &nowhere, &["controller"], "").await?;
    assert_eq!(said.status.code(), Some(2), "{}", said.stderr);
    let said = command_in(&plugin, &nowhere, &["--help"], "").await?;
    assert!(
        ok(&said).contains("Usage: kubectl chekt"),
        "{}",
        said.stdout
    );
    Ok(())
}
