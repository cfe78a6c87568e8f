//! `chekt-operator plan`: what would be done and why, said by somebody who may only read, and nothing done.

use std::time::Duration;

use chekt_operator::resources::conditions::{READY, VERIFIED};
use serde_json::{Value, json};

use crate::harness::process::command;
use crate::harness::{Identity, Stage};

const SOON: Duration = Duration::from_secs(30);

/// Rights to read, for somebody who has no others.
async fn let_read(stage: &Stage) -> anyhow::Result<()> {
    let group = "rbac.authorization.k8s.io";
    let name = format!("reads-{}", stage.users.namespace);
    let subject = json!([{"apiGroup": group, "kind": "User", "name": Identity::Somebody.user()}]);
    let binding = |kind: &str| json!({"apiGroup": group, "kind": kind, "name": name});
    let ours = json!([
        {"apiGroups": ["chekt.com"], "resources": ["chektwebhooks", "chektaccounts"], "verbs": ["get", "list"]},
    ]);
    let all = json!([
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": ours},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "subjects": subject, "roleRef": binding("ClusterRole")},
    ]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
    stage.users.apply(&list.to_string()).await?;
    for namespace in [&stage.users, &stage.operator] {
        let secrets = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
        let items = json!([
            {"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": name}, "rules": secrets},
            {"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
                "subjects": subject, "roleRef": binding("Role")},
        ]);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        namespace.apply(&list.to_string()).await?;
    }
    Ok(())
}

/// Plans, and gives back the exit code and what was said. That nothing has changed anywhere is part of it.
async fn plan(stage: &Stage, args: &[&str], manifest: &str) -> anyhow::Result<(i32, Value)> {
    let (before, mark) = (versions(stage).await?, stage.chekt.mark().await?);
    let public = stage.public_url()?;
    let operator = stage.operator.namespace.clone();
    let mut all = vec![
        "plan",
        "--public-url",
        &public,
        "--operator-namespace",
        &operator,
    ];
    all.extend(["-o", "json"]);
    all.extend(args);
    let kubeconfig = stage.users.plane.kubeconfig(Identity::Somebody);
    let said = command(&kubeconfig, &all, manifest).await?;
    let parsed = serde_json::from_str(&said.stdout);
    let parsed = parsed.map_err(|e| anyhow::anyhow!("{e}: {} {}", said.stdout, said.stderr))?;
    assert_eq!(stage.chekt.ledger(mark).await?.writes(), [""; 0]);
    assert_eq!(versions(stage).await?, before);
    Ok((said.status.code().unwrap_or(-1), parsed))
}

/// The versions of all that the operator writes.
async fn versions(stage: &Stage) -> anyhow::Result<String> {
    let mut all = String::new();
    for namespace in [&stage.users, &stage.operator] {
        let columns = "custom-columns=K:.kind,N:.metadata.name,V:.metadata.resourceVersion";
        let args = ["get", "cwh,cacc,secrets", "-o", columns];
        all.push_str(&namespace.kubectl(&args).await?.ok()?);
    }
    Ok(all)
}

fn steps(plan: &Value) -> Vec<String> {
    let all = plan["steps"].as_array().cloned().unwrap_or_default();
    let name = |step: &Value| step["step"].as_str().unwrap_or_default().to_owned();
    all.iter().map(name).collect()
}

fn manifest(stage: &Stage, spec: &Value) -> String {
    json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
        "metadata": {"name": "alarms", "namespace": stage.users.namespace}, "spec": spec,
    })
    .to_string()
}

#[tokio::test]
async fn a_plan_says_every_step_with_its_reason_and_does_none_of_them() -> anyhow::Result<()> {
    let stage = Stage::new("plan").await?;
    let_read(&stage).await?;
    let spec = json!({"events": ["alarm.triggered"]});
    let (code, said) = plan(&stage, &["-f", "-"], &manifest(&stage, &spec)).await?;
    assert_eq!(code, 3, "{said}");
    let then = said["then"].as_str().unwrap_or_default();
    assert!(then.contains("does not exist"), "{said}");

    stage.apply_account("24h").await?;
    stage
        .users
        .account_condition("default", READY, "True", SOON)
        .await?;
    let (code, said) = plan(&stage, &["-f", "-"], &manifest(&stage, &spec)).await?;
    assert_eq!(code, 2, "{said}");
    assert_eq!(
        steps(&said),
        ["add_finalizer", "hold_account", "keyring", "create", "test"],
        "{said}"
    );
    let create = &said["steps"][3];
    let what = create["what"].as_str().unwrap_or_default();
    assert!(what.contains(&stage.derived_url("alarms")?), "{create}");
    assert_eq!(
        create["because"],
        "a complete list shows no webhook of ours"
    );
    assert_eq!(said["then"], "the remote webhook is as written");

    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    let live = format!("{}/alarms", stage.users.namespace);
    let (code, said) = plan(&stage, &[&live], "").await?;
    assert_eq!((code, steps(&said).len()), (0, 0), "{said}");

    let spec = json!({"events": ["site.armed"]});
    let (code, said) = plan(&stage, &["-f", "-"], &manifest(&stage, &spec)).await?;
    assert_eq!(code, 2, "{said}");
    assert_eq!(steps(&said), ["keyring", "patch"], "{said}");
    let what = said["steps"][1]["what"].as_str().unwrap_or_default();
    assert!(what.ends_with("events site.armed"), "{said}");
    Ok(())
}
