//! Who may use an account: its own namespace, those that it allows, and nobody else.

use std::time::Duration;

use chekt_operator::resources::conditions::READY;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::harness::adversary::{Adversary, Form, Manner};
use crate::harness::process::{Launch, Process, Role};
use crate::harness::{Cluster, ControlPlane, Identity, Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);

async fn apply_webhook(cluster: &Cluster, name: &str, account: Value) -> anyhow::Result<()> {
    let mut webhook = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": name},
        "spec": {"events": ["alarm.triggered"], "testPolicy": "Never"},
    });
    if !account.is_null() {
        webhook["spec"]["accountRef"] = account;
    }
    cluster.apply(&webhook.to_string()).await?;
    Ok(())
}

async fn allow(cluster: &Cluster, allowed: Value) -> anyhow::Result<()> {
    let patch = json!({"spec": {"allowedNamespaces": allowed}}).to_string();
    let args = ["patch", "cacc", "default", "--type=merge", "-p", &patch];
    cluster.kubectl(&args).await?.ok()?;
    Ok(())
}

/// Waits until Ready gives a reason.
async fn reason(cluster: &Cluster, name: &str, reason: &str) -> anyhow::Result<Condition> {
    eventually(&format!("{name} to say {reason}"), SOON, || async {
        let ready = cluster
            .webhook_condition(name, READY, "False", SOON)
            .await?;
        anyhow::ensure!(
            ready.reason == reason,
            "{}: {}",
            ready.reason,
            ready.message
        );
        Ok(ready)
    })
    .await
}

/// The rights of the table in docs/howto/by-hand.md, in one namespace and for one user, and nothing in the cluster.
fn rights() -> String {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "chekt-controller"},
        "rules": [
            {"apiGroups": ["chekt.com"], "resources": ["chektaccounts"], "verbs": ["get", "list", "watch", "patch"]},
            {"apiGroups": ["chekt.com"], "resources": ["chektwebhooks"], "verbs": ["get", "list", "watch", "patch"]},
            {"apiGroups": ["chekt.com"], "resources": ["chektaccounts/status", "chektwebhooks/status"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch", "create", "update", "delete"]},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "chekt-controller"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "chekt-controller"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": Identity::Controller.user()}],
    });
    format!("{role}\n---\n{binding}")
}

#[tokio::test]
async fn a_guest_is_refused_until_it_is_allowed_keeps_its_webhook_when_it_no_longer_is_and_can_delete_it()
-> anyhow::Result<()> {
    let guest = Cluster::new("guest").await?;
    let watch = ["--watch-namespace".to_owned(), guest.namespace.clone()];
    let options = StageOptions {
        controller: watch.to_vec(),
        controller_identity: Identity::Controller,
        with_controller: false,
        ..StageOptions::default()
    };
    let mut stage = Stage::with("host", options).await?;
    for cluster in [&guest, &stage.users, &stage.operator] {
        cluster.apply(&rights()).await?;
    }
    stage.start_controller().await?;
    stage.apply_account("10s").await?;
    stage
        .users
        .account_condition("default", READY, "True", SOON)
        .await?;

    // Not allowed: no call, and a message that says what to write where.
    let host = stage.users.namespace.clone();
    let reference = json!({"name": "default", "namespace": host});
    apply_webhook(&guest, "alarms", reference.clone()).await?;
    let ready = reason(&guest, "alarms", "AccountNotAllowed").await?;
    assert!(
        ready.message.contains("spec.allowedNamespaces"),
        "{}",
        ready.message
    );
    assert!(
        ready.message.contains(&guest.namespace),
        "{}",
        ready.message
    );
    // An account that is not there is spoken of in the same words.
    apply_webhook(
        &guest,
        "curious",
        json!({"name": "none", "namespace": host}),
    )
    .await?;
    let curious = reason(&guest, "curious", "AccountNotAllowed").await?;
    assert_eq!(
        curious
            .message
            .replace("ChektAccount none", "ChektAccount default"),
        ready.message
    );
    // Whoever was never allowed can go at once.
    guest.kubectl(&["delete", "cwh", "curious"]).await?.ok()?;
    assert_eq!(stage.chekt.ledger(0).await?.writes(), [""; 0]);

    // With --watch-namespace no labels are read, and that is said.
    allow(
        &stage.users,
        json!({"from": "Selector", "selector": {"matchLabels": {"a": "b"}}}),
    )
    .await?;
    eventually("the selector to be spoken of", SOON, || async {
        let ready = reason(&guest, "alarms", "AccountNotAllowed").await?;
        anyhow::ensure!(ready.message.contains("from: All"), "{}", ready.message);
        anyhow::ensure!(
            ready.message.contains("--watch-namespace"),
            "{}",
            ready.message
        );
        Ok(())
    })
    .await?;

    allow(&stage.users, json!({"from": "All", "selector": null})).await?;
    guest
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let status = guest
        .webhooks()
        .get("alarms")
        .await?
        .status
        .unwrap_or_default();
    assert_eq!(status.account, Some(format!("{host}/default")));
    let made = stage.chekt.webhooks().await?;
    assert_eq!(made.len(), 1, "{made:?}");

    // Withdrawn: an edit is not sent, and nothing is taken away.
    allow(&stage.users, json!({"from": "Same"})).await?;
    reason(&guest, "alarms", "AccountNotAllowed").await?;
    let mark = stage.chekt.mark().await?;
    let edit = json!({"spec": {"events": ["site.armed"]}}).to_string();
    let patch = ["patch", "cwh", "alarms", "--type=merge", "-p", &edit];
    guest.kubectl(&patch).await?.ok()?;
    reason(&guest, "alarms", "AccountNotAllowed").await?;
    let status = guest
        .webhooks()
        .get("alarms")
        .await?
        .status
        .unwrap_or_default();
    assert_eq!(
        status.webhook_id.as_deref(),
        Some(made[0].webhook_id.as_str())
    );
    assert_eq!(stage.chekt.ledger(mark).await?.writes(), [""; 0]);

    // It can still be deleted, also by a process that has just started.
    stage.controller()?.kill9()?;
    stage.controller()?.restart().await?;
    stage.controller()?.ready(SOON).await?;
    guest
        .kubectl(&["delete", "cwh", "alarms", "--timeout=30s"])
        .await?
        .ok()?;
    assert!(stage.chekt.webhooks().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_webhook_does_not_move_to_another_account_and_says_so() -> anyhow::Result<()> {
    let stage = Stage::new("no-move").await?;
    stage.apply_account("10s").await?;
    apply_webhook(&stage.users, "alarms", Value::Null).await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    apply_webhook(&stage.users, "alarms", json!({"name": "other"})).await?;
    let ready = reason(&stage.users, "alarms", "AccountChanged").await?;
    assert!(
        ready.message.contains("ChektAccount default"),
        "{}",
        ready.message
    );
    assert_eq!(stage.chekt.webhooks().await?.len(), 1);
    stage
        .users
        .kubectl(&["delete", "cwh", "alarms", "--timeout=30s"])
        .await?
        .ok()?;
    assert!(stage.chekt.webhooks().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn the_labels_of_a_namespace_open_an_account_to_it_and_the_operators_default_serves_those_without_one()
-> anyhow::Result<()> {
    // A controller that looks after all namespaces would take the other tests' webhooks for its own.
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await?));
    let host = Cluster::named(plane, "chekt-system").await?;
    let guest = Cluster::named(plane, "team").await?;
    let sandbox = Launch::new(Role::Sandbox)
        .flag("--token", "chekt_test_token")
        .flag("--requests-per-minute", 0);
    let sandbox = Process::start(sandbox).await?;
    let controller = Launch::new(Role::Controller)
        .env("KUBECONFIG", plane.kubeconfig(Identity::Admin).display())
        .flag("--public-url", "https://alarms.example.com")
        .flag("--operator-namespace", "chekt-system")
        .flag("--default-account", "chekt-system/default");
    let controller = Process::start(controller).await?;
    controller.ready(SOON).await?;

    host.put_secret("chekt-token", &[("token", "chekt_test_token")])
        .await?;
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
        "spec": {
            "baseURL": format!("http://{}", sandbox.public()?),
            "auth": {"accessToken": {"secretRef": {"name": "chekt-token", "key": "token"}}},
            "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
            "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"chekt": "shared"}}},
        },
    });
    host.apply(&account.to_string()).await?;
    apply_webhook(&guest, "alarms", Value::Null).await?;
    reason(&guest, "alarms", "AccountNotAllowed").await?;

    guest
        .kubectl(&["label", "namespace", "team", "chekt=shared"])
        .await?
        .ok()?;
    guest
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let status = guest
        .webhooks()
        .get("alarms")
        .await?
        .status
        .unwrap_or_default();
    assert_eq!(status.account.as_deref(), Some("chekt-system/default"));

    guest
        .kubectl(&["label", "namespace", "team", "chekt-"])
        .await?
        .ok()?;
    reason(&guest, "alarms", "AccountNotAllowed").await?;

    // An account of its own serves the next webhook; the first one stays where it is.
    guest
        .put_secret("chekt-token", &[("token", "chekt_test_token")])
        .await?;
    guest.apply(&account.to_string()).await?;
    apply_webhook(&guest, "second", Value::Null).await?;
    guest
        .webhook_condition("second", READY, "True", SOON)
        .await?;
    let status = guest
        .webhooks()
        .get("second")
        .await?
        .status
        .unwrap_or_default();
    assert_eq!(status.account.as_deref(), Some("team/default"));
    reason(&guest, "alarms", "AccountNotAllowed").await?;
    plane.stop();
    Ok(())
}

#[tokio::test]
async fn a_guest_sees_why_an_account_is_not_ready_and_not_what_chekt_said() -> anyhow::Result<()> {
    let guest = Cluster::new("curious").await?;
    let options = StageOptions {
        controller: vec!["--watch-namespace".to_owned(), guest.namespace.clone()],
        ..StageOptions::default()
    };
    let stage = Stage::with("discreet", options).await?;
    let adversary = Adversary::start().await?;
    let words = "a-word-that-chekt-repeats";
    stage
        .users
        .put_secret("chekt-token", &[("token", words)])
        .await?;
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
        "spec": {
            "baseURL": adversary.base_url(Manner::ListEcho(Form::Plain), 0),
            "auth": {"accessToken": {"secretRef": {"name": "chekt-token", "key": "token"}}},
            "allowedNamespaces": {"from": "All"},
        },
    });
    stage.users.apply(&account.to_string()).await?;
    let host = &stage.users.namespace;
    apply_webhook(&stage.users, "own", Value::Null).await?;
    apply_webhook(
        &guest,
        "alarms",
        json!({"name": "default", "namespace": host}),
    )
    .await?;
    let own = reason(&stage.users, "own", "AccountNotReady").await?;
    assert!(own.message.contains("answered 422 odd"), "{}", own.message);
    let ready = reason(&guest, "alarms", "AccountNotReady").await?;
    assert_eq!(
        ready.message,
        format!(
            "ChektAccount default in namespace {host} is not ready: Rejected. CHeKT refuses the webhook as it is written. Ask those who manage it"
        )
    );
    Ok(())
}
