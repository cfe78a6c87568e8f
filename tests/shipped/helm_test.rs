//! `helm test`: what its Pod runs, run here with the rights that the chart gives it and no others.

use std::time::Duration;

use chekt_operator::resources::conditions::VERIFIED;
use serde_json::{Value, json};

use crate::harness::process::{binary, command_in};
use crate::harness::{Identity, Process};
use crate::helm;
use crate::scene::{SOON, Scene};

/// What belongs to the test, of all that is rendered.
fn of_the_test(objects: Vec<Value>) -> Vec<Value> {
    let is_hook = |o: &Value| o["metadata"]["annotations"]["helm.sh/hook"] == "test";
    objects.into_iter().filter(is_hook).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_helm_test_runs_has_the_rights_that_it_needs_and_finds_what_is_broken()
-> anyhow::Result<()> {
    let scene = Scene::new("helm-test").await?;
    let admin = scene.users.plane.kubeconfig(Identity::Admin);
    let receiver = scene.receiver().env("KUBECONFIG", admin.display());
    let mut receiver = Process::start(receiver).await?;
    receiver.ready(SOON).await?;
    let controller = Process::start(scene.controller(&admin, &receiver)?).await?;
    controller.ready(SOON).await?;
    scene.apply_account().await?;
    scene.apply_webhook("alarms", json!({})).await?;
    scene
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;

    let operator = &scene.operator.namespace;
    let webhook = format!("{}/alarms", scene.users.namespace);
    let values = json!({
        "publicUrl": "https://alarms.example.com",
        "watchNamespaces": [scene.users.namespace], "tests": {"webhook": webhook},
    });
    let hooks = of_the_test(helm::objects(&helm::render_with(operator, &values)?)?);
    let (pods, rights): (Vec<Value>, Vec<Value>) =
        hooks.into_iter().partition(|o| o["kind"] == "Pod");
    for right in &rights {
        let args = ["apply", "-f", "-"];
        // Each says its own namespace.
        let namespace = text(&right["metadata"]["namespace"]);
        let cluster = if namespace == scene.users.namespace {
            &scene.users
        } else {
            &scene.operator
        };
        cluster
            .kubectl_reading(&args, &right.to_string())
            .await?
            .ok()?;
    }
    let pod = &pods[0];
    let who = scene
        .identity(&text(&pod["spec"]["serviceAccountName"]))
        .await?;
    let who = who.display().to_string();
    let address = receiver.public()?;
    let run = async |container: usize| {
        let args = pod["spec"]["containers"][container]["args"].as_array();
        let mut args: Vec<String> = args.unwrap().iter().map(text).collect();
        for arg in &mut args {
            // There is no Service here.
            if arg.starts_with("--receiver-url=") {
                *arg = format!("--receiver-url=http://{address}");
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command_in(&binary()?, &[("KUBECONFIG", &who)], &args, "").await
    };
    for container in [0, 1] {
        let said = run(container).await?;
        assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
        assert!(!said.stdout.contains("may not patch"), "{}", said.stdout);
        assert!(said.stdout.contains("WORKS"), "{}", said.stdout);
    }

    // Nothing beyond that: no Secret, and no other webhook.
    let kubectl = scene.users.plane.assets().kubectl.clone();
    for (allowed, verb, what) in [
        ("yes", "patch", "chektwebhooks.chekt.com/alarms"),
        ("no", "patch", "chektwebhooks.chekt.com/other"),
        ("no", "delete", "chektwebhooks.chekt.com/alarms"),
        ("no", "get", "secrets"),
        ("no", "list", "secrets"),
        ("no", "create", "events.events.k8s.io"),
    ] {
        for namespace in [&scene.users.namespace, operator] {
            let args = [
                "auth",
                "can-i",
                verb,
                what,
                "--kubeconfig",
                &who,
                "-n",
                namespace,
            ];
            let said = command_in(&kubectl, &[("KUBECTL_KUBERC", "false")], &args, "").await?;
            let expected = if *namespace == *operator {
                "no"
            } else {
                allowed
            };
            assert_eq!(said.stdout.trim(), expected, "{verb} {what} in {namespace}");
        }
    }

    receiver.terminate(Duration::from_secs(30)).await?;
    let said = run(0).await?;
    assert_eq!(said.status.code(), Some(2), "{}", said.stdout);
    assert!(said.stdout.contains("FAILS: receiver"), "{}", said.stdout);
    Ok(())
}
