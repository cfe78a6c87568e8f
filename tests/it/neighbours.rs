//! One namespace in which Events cannot be made, or only slowly, is no other namespace's business; and it is said which one
//! it is and what the API server answers there.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;

use crate::harness::{Admission, Cluster, Identity, Lone, Manner, eventually};

const SOON: Duration = Duration::from_secs(30);
const LATE: Duration = Duration::from_secs(150);
/// Namespaces for each manner of an admission webhook.
const EACH: usize = 3;

/// Namespaces beside that of the receiver's own webhook, each with a webhook `alarms`.
async fn with_neighbours(idea: &str, count: usize) -> anyhow::Result<(Lone, Vec<Cluster>)> {
    let made = futures::stream::iter(0..count).map(|_| async move {
        let idea = format!("{idea}-next");
        Cluster::new(&idea).await
    });
    let made: Vec<_> = made.buffer_unordered(8).collect().await;
    let neighbours = made.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut flags = vec!["--events-burst", "2000"];
    for neighbour in &neighbours {
        flags.extend(["--watch-namespace", &neighbour.namespace]);
    }
    let lone = Lone::start(idea, &["alarms"], Identity::Admin, &flags).await?;
    let joined = neighbours
        .iter()
        .map(|neighbour| lone.join(neighbour, "alarms"));
    let joined: Vec<_> = futures::stream::iter(joined)
        .buffer_unordered(4)
        .collect()
        .await;
    joined.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    Ok((lone, neighbours))
}

/// How long each delivery of a namespace took from its arrival to its Event, in milliseconds, in the order of the log.
fn published(lone: &Lone, namespace: &str) -> Vec<u64> {
    let webhook = format!("{namespace}/alarms");
    let lines = lone.logged("delivery");
    let ours = lines
        .iter()
        .filter(|line| line["webhook"] == webhook.as_str() && line["outcome"] == "published");
    ours.filter_map(|line| line["published_ms"].as_u64())
        .collect()
}

/// Posts 60 alarms to the receiver's own webhook, and returns the second slowest of them: its p99, as nearly as sixty have
/// one.
async fn p99(lone: &Lone) -> anyhow::Result<u64> {
    const COUNT: usize = 60;
    let own = lone.users.namespace.clone();
    let before = published(lone, &own).len();
    lone.post_alarms("alarms", COUNT).await?;
    let mut all = eventually(
        "the well namespace's Events",
        Duration::from_secs(60),
        async || {
            let all = published(lone, &own);
            anyhow::ensure!(
                all.len() == before + COUNT,
                "{} of {COUNT}",
                all.len() - before
            );
            Ok(all)
        },
    )
    .await?;
    let mut ours = all.split_off(before);
    ours.sort_unstable();
    Ok(ours[COUNT - 2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_that_hang_fail_or_refuse_hold_up_no_other_and_are_named() -> anyhow::Result<()>
{
    let manners = [
        Manner::Hangs,
        Manner::Fails,
        Manner::Resets,
        Manner::Refuses(429),
        Manner::Refuses(403),
        Manner::Refuses(422),
        Manner::Refuses(400),
    ];
    let (lone, neighbours) = with_neighbours("neighbours", manners.len() * EACH).await?;
    let admission = Admission::start().await?;
    let name = lone.users.namespace.clone();
    // Connections are made and caches filled first.
    for _ in 0..3 {
        p99(&lone).await?;
    }
    let quiet = p99(&lone).await?.max(p99(&lone).await?);
    // Twice, and what a machine under load may add to one of the two. What it was about took 16 s and 95 s.
    let limit = quiet * 2 + 1_000;

    let names = |cluster: &Cluster| cluster.namespace.clone();
    let one = vec![(Manner::Hangs, vec![names(&neighbours[0])])];
    admission.guard(&lone.users, &name, &one).await?;
    // What is published before the API server knows of it is published as ever.
    eventually("the first to hang", SOON, async || {
        lone.post_to(&neighbours[0].namespace, "alarms", lone.alarm())
            .await?;
        anyhow::ensure!(lone.attempts("failed").await? > 0, "not yet");
        Ok(())
    })
    .await?;
    lone.post_alarms_to(&neighbours[0].namespace, "alarms", 60)
        .await?;
    let beside_one = p99(&lone).await?;

    let groups: Vec<_> = manners.iter().zip(neighbours.chunks(EACH)).collect();
    let guarded: Vec<_> = groups
        .iter()
        .map(|(manner, group)| (**manner, group.iter().map(names).collect()))
        .collect();
    admission.guard(&lone.users, &name, &guarded).await?;
    let mut beside_many = Vec::new();
    for _ in 0..4 {
        for neighbour in &neighbours {
            lone.post_alarms_to(&neighbour.namespace, "alarms", 8)
                .await?;
        }
        beside_many.push(p99(&lone).await?);
    }
    println!(
        "p99 from 200 to Event: quiet {quiet} ms, beside one that hangs {beside_one} ms, beside 21 {beside_many:?} ms"
    );
    assert!(
        beside_one <= limit,
        "{beside_one} ms, and {quiet} ms when all is quiet"
    );
    // A machine under load has its pauses: all but the worst two rounds keep the limit, and those are far from minutes.
    let rounds = beside_many.clone();
    beside_many.sort_unstable();
    assert!(
        beside_many[1] <= limit && beside_many[3] <= 8_000,
        "{rounds:?} ms, and {quiet} ms when all is quiet"
    );

    // Each is named in the log and by the metric, with what the API server answers there.
    let answers: BTreeMap<Manner, (&str, &str)> = BTreeMap::from([
        // At first there is no answer in time, and then the API server's own patience ends sooner.
        (Manner::Hangs, ("server", "failed calling webhook")),
        (Manner::Fails, ("server", "failed calling webhook")),
        (Manner::Resets, ("server", "failed calling webhook")),
        (
            Manner::Refuses(429),
            ("throttled", "denied the request: not now"),
        ),
        (
            Manner::Refuses(403),
            ("forbidden", "denied the request: not now"),
        ),
        (
            Manner::Refuses(422),
            ("denied", "denied the request: not now"),
        ),
        (
            Manner::Refuses(400),
            ("denied", "denied the request: not now"),
        ),
    ]);
    let held = "no Event can be made in this namespace; its deliveries wait in the journal";
    for (manner, group) in &groups {
        let (answer, words) = answers[manner];
        for neighbour in *group {
            let namespace = neighbour.namespace.as_str();
            eventually(&format!("{namespace} to be named: {manner:?}"), LATE, async || {
                let said = lone.logged(held).into_iter().find(|l| l["namespace"] == namespace);
                let said = said.ok_or_else(|| anyhow::anyhow!("not in the log"))?;
                let error = said["error"].as_str().unwrap_or_default();
                let is_late = error.contains("no answer from the API server within");
                anyhow::ensure!(error.contains(words) || is_late && *manner == &Manner::Hangs, "{said}");
                anyhow::ensure!(!error.chars().any(char::is_control), "{said}");
                let series = format!(
                    "chekt_receiver_held_namespaces{{namespace=\"{namespace}\",answer=\"{answer}\"}}"
                );
                anyhow::ensure!(lone.metric(&series).await? == 1, "{series}");
                Ok(())
            })
            .await?;
            eventually(
                &format!("{namespace} to be said to be delayed"),
                LATE,
                async || {
                    let status = neighbour
                        .webhooks()
                        .get("alarms")
                        .await?
                        .status
                        .unwrap_or_default();
                    let delay = status.deliveries.and_then(|d| d.delayed);
                    let cause = delay.and_then(|d| d.cause).unwrap_or_default();
                    anyhow::ensure!(
                        cause.contains(namespace) && cause.contains(words),
                        "{cause:?}"
                    );
                    Ok(())
                },
            )
            .await?;
        }
    }
    for outcome in ["buried", "already_there"] {
        assert_eq!(lone.attempts(outcome).await?, 0, "{outcome}");
    }

    // Nothing is lost: once the webhook is gone, all of it is published, and nothing is held.
    Admission::leave(&lone.users, &name).await?;
    eventually("all to be published", LATE, async || {
        let pending = lone.metric("chekt_receiver_journal_pending").await?;
        anyhow::ensure!(pending == 0, "{pending} wait");
        Ok(())
    })
    .await?;
    for neighbour in &neighbours {
        let count = published(&lone, &neighbour.namespace).len();
        assert!(count >= 33, "{count} in {}", neighbour.namespace);
    }
    let metrics = lone.receiver.metrics().await?;
    let series = metrics
        .lines()
        .filter(|l| l.starts_with("chekt_receiver_held_namespaces{"));
    assert_eq!(series.count(), 0);
    Ok(())
}

#[tokio::test]
async fn what_a_policy_or_webhook_refuses_waits_and_is_published_once_that_is_gone()
-> anyhow::Result<()> {
    let (lone, neighbours) = with_neighbours("refusals", 3).await?;
    let admission = Admission::start().await?;
    let name = lone.users.namespace.clone();
    // A policy without a reason answers 422.
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                "resourceRules": [{"apiGroups": ["events.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["events"]}],
            },
            "validations": [{"expression": "false"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    let both = json!({"apiVersion": "v1", "kind": "List", "items": [policy, binding]});
    lone.users.apply(&both.to_string()).await?;
    let manners = [
        Manner::Refuses(400),
        Manner::Refuses(413),
        Manner::Refuses(422),
    ];
    let guarded: Vec<_> = manners
        .into_iter()
        .zip(&neighbours)
        .map(|(manner, neighbour)| (manner, vec![neighbour.namespace.clone()]))
        .collect();
    admission.guard(&lone.users, &name, &guarded).await?;
    let own = [lone.users.clone()];
    let all: Vec<&Cluster> = own.iter().chain(&neighbours).collect();
    let held = "no Event can be made in this namespace; its deliveries wait in the journal";
    for cluster in &all {
        let namespace = cluster.namespace.as_str();
        eventually(&format!("a refusal in {namespace}"), SOON, async || {
            lone.post_to(namespace, "alarms", lone.alarm()).await?;
            let is_held = lone
                .logged(held)
                .iter()
                .any(|l| l["namespace"] == namespace);
            anyhow::ensure!(is_held, "not yet");
            Ok(())
        })
        .await?;
        lone.post_alarms_to(namespace, "alarms", 5).await?;
    }
    assert_eq!(lone.attempts("buried").await?, 0);
    let kinds = "validatingadmissionpolicy,validatingadmissionpolicybinding";
    lone.users.kubectl(&["delete", kinds, &name]).await?.ok()?;
    Admission::leave(&lone.users, &name).await?;
    eventually("all to be published", LATE, async || {
        let pending = lone.metric("chekt_receiver_journal_pending").await?;
        anyhow::ensure!(pending == 0, "{pending} wait");
        Ok(())
    })
    .await?;
    assert_eq!(lone.attempts("buried").await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_event_that_the_api_server_itself_finds_invalid_is_a_dead_letter() -> anyhow::Result<()>
{
    let lone = Lone::start("invalid", &["alarms"], Identity::Admin, &[]).await?;
    let admission = Admission::start().await?;
    let name = lone.users.namespace.clone();
    let broken = [(Manner::Breaks, vec![name.clone()])];
    admission.guard(&lone.users, &name, &broken).await?;
    eventually("a dead letter", SOON, async || {
        lone.post("alarms", lone.alarm()).await?;
        anyhow::ensure!(lone.attempts("buried").await? > 0, "not yet");
        Ok(())
    })
    .await?;
    let lines = lone.logged("delivery");
    let dead = lines.iter().find(|line| line["outcome"] == "dead_letter");
    let why = dead
        .and_then(|line| line["why"].as_str())
        .unwrap_or_default();
    assert!(
        why.contains("the API server does not take the Event: invalid"),
        "{lines:#?}"
    );
    assert_eq!(lone.attempts("held").await?, 0);
    Admission::leave(&lone.users, &name).await
}
