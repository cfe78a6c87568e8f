//! One release goes through all files of values, one after the other, on a real API server: no choice of values leads to
//! a field that cannot be changed any more, none is a change after it was made, and what is to be kept is.

use std::path::Path;

use serde_json::json;

use crate::harness::{Cluster, ControlPlane, Identity};
use crate::{chart, helm};

const DEFINITIONS: [&str; 2] = ["chektaccounts.chekt.com", "chektwebhooks.chekt.com"];

#[tokio::test]
async fn a_release_goes_from_any_values_to_any_other_and_leaves_the_definitions_behind()
-> anyhow::Result<()> {
    // The others need definitions that belong to nobody.
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await?));
    let cluster = chart::stage_in(plane).await?;
    for file in helm::value_files()? {
        upgrade(&cluster, &file)?;
        let before = generations(&cluster).await?;
        upgrade(&cluster, &file)?;
        assert_eq!(
            before,
            generations(&cluster).await?,
            "{} is no end of changes",
            file.display()
        );
    }

    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
        "spec": {"auth": {"accessToken": {"secretRef": {"name": "chekt-token", "key": "token"}}}},
    });
    cluster.apply(&account.to_string()).await?;
    let said = at(&cluster, &["uninstall", helm::RELEASE])?;
    assert!(
        said.contains("[CustomResourceDefinition] chektaccounts.chekt.com"),
        "{said}"
    );
    let left = cluster
        .kubectl(&[
            "get",
            "-o",
            "name",
            "deploy,sts,svc,pdb,netpol,sa,role,rolebinding",
        ])
        .await?
        .ok()?;
    assert!(!left.contains("chekt"), "{left}");
    cluster
        .kubectl(&["get", "chektaccount", "default"])
        .await?
        .ok()?;

    // Installed again under its name, it takes up what is there.
    let first = helm::value_files()?.remove(0);
    upgrade(&cluster, &first)?;
    let owner = "jsonpath={.items[*].metadata.annotations.meta\\.helm\\.sh/release-name}";
    let mut get = vec!["get", "crd", "-o", owner];
    get.extend(DEFINITIONS);
    let owners = cluster.kubectl(&get).await?.ok()?;
    assert_eq!(owners, format!("{0} {0}", helm::RELEASE));
    Ok(())
}

fn upgrade(cluster: &Cluster, values: &Path) -> anyhow::Result<()> {
    let chart = helm::chart();
    // The harness has installed the definitions, as somebody may have by hand.
    let args = [
        "upgrade",
        "--install",
        "--take-ownership",
        helm::RELEASE,
        chart::text(&chart)?,
        "--values",
        chart::text(values)?,
    ];
    at(cluster, &args)
        .map(drop)
        .map_err(|e| e.context(values.display().to_string()))
}

/// Runs helm in the cluster's namespace.
fn at(cluster: &Cluster, args: &[&str]) -> anyhow::Result<String> {
    let kubeconfig = cluster.plane.kubeconfig(Identity::Admin);
    let mut all = args.to_vec();
    all.extend([
        "--namespace",
        &cluster.namespace,
        "--kubeconfig",
        chart::text(&kubeconfig)?,
    ]);
    let output = helm::helm(&all, "")?;
    anyhow::ensure!(
        output.status.success(),
        "helm {}: {}",
        args[0],
        helm::said(&output)
    );
    Ok(helm::said(&output))
}

/// Every object of the release with its generation, which a change of its spec raises.
async fn generations(cluster: &Cluster) -> anyhow::Result<String> {
    let columns = "custom-columns=K:.kind,N:.metadata.name,G:.metadata.generation";
    let of = format!("app.kubernetes.io/instance={}", helm::RELEASE);
    let kinds = "deploy,sts,svc,pdb,netpol,ing,httproute,sa,crd";
    let rows = cluster
        .kubectl(&["get", kinds, "-l", &of, "-o", columns, "--no-headers"])
        .await?
        .ok()?;
    anyhow::ensure!(
        rows.contains("Service"),
        "nothing of the release is there: {rows}"
    );
    Ok(rows)
}
