//! Several controllers, of which one acts: who takes over, when, and that nobody acts beside the leader.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chekt_operator::resources::RECONCILE_REQUESTED_AT;
use chekt_operator::resources::conditions::{READY, VERIFIED};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;

use crate::harness::sandbox_client::{Entry, Fault};
use crate::harness::{Cluster, Identity, Process, Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(40);
/// The lease where a test waits until it runs out.
const LEASE: Duration = Duration::from_secs(6);
/// How much later than it should something may be on a machine that has much to do.
const SLACK: Duration = Duration::from_secs(3);

/// Options with the short lease, and with a line in the log for every call to CHeKT.
fn short_lease() -> StageOptions {
    let seconds = LEASE.as_secs().to_string();
    let log = "info,kube_client=off,chekt_operator::partner=debug";
    StageOptions {
        controller: ["--lease-duration", &seconds, "--log", log]
            .map(ToOwned::to_owned)
            .to_vec(),
        ..StageOptions::default()
    }
}

/// The value of a metric without labels.
async fn metric(process: &Process, name: &str) -> anyhow::Result<i64> {
    let text = process.metrics().await?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.ok_or_else(|| anyhow::anyhow!("no {name} in {text}"))?;
    Ok(value.parse()?)
}

/// Waits until a controller leads. Returns how long that took.
async fn leads(process: &Process, limit: Duration) -> anyhow::Result<Duration> {
    let start = Instant::now();
    eventually("the controller to lead", limit, || async {
        match metric(process, "chekt_controller_leader").await? {
            1 => Ok(()),
            other => Err(anyhow::anyhow!("leader is {other}")),
        }
    })
    .await?;
    Ok(start.elapsed())
}

/// The ids of the calls that a controller has logged.
fn traces(process: &Process) -> HashSet<String> {
    let lines = process.log_lines();
    let calls = lines.iter().filter_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        (entry["message"] == "partner call").then(|| entry["trace"].as_str().map(Into::into))?
    });
    calls.collect()
}

/// Which calls after `mark` were not made by this controller.
async fn calls_of_others(
    stage: &Stage,
    mark: u64,
    controller: &Process,
) -> anyhow::Result<Vec<String>> {
    let ledger = stage.chekt.ledger(mark).await?;
    let own = traces(controller);
    let calls = ledger.entries.iter().filter_map(|entry| match entry {
        Entry::Call(call) => Some(call),
        Entry::Delivery(_) | Entry::Other => None,
    });
    let others = calls.filter(|call| !call.trace_id.as_ref().is_some_and(|id| own.contains(id)));
    Ok(others.map(ToString::to_string).collect())
}

/// Waits until one line of a log has these words.
async fn says_once(process: &Process, words: &str) -> anyhow::Result<()> {
    eventually("one line that says why", SOON, || async {
        let log = process.log_lines();
        let lines = log.iter().filter(|line| line.contains(words)).count();
        anyhow::ensure!(lines == 1, "{lines} lines say {words:?}: {log:?}");
        Ok(())
    })
    .await
}

fn stalled(route: &str, milliseconds: u64) -> Fault {
    Fault {
        route: route.to_owned(),
        when: "after".to_owned(),
        effect: json!({"stall_ms": milliseconds}),
        times: 1,
    }
}

async fn set_events(stage: &Stage, events: &[&str]) -> anyhow::Result<()> {
    stage.apply_webhook("alarms", events, json!({})).await
}

/// Waits until CHeKT has one webhook in all, live or deleted, with so many events.
async fn one_webhook_with(stage: &Stage, events: usize) -> anyhow::Result<()> {
    eventually("one webhook as written", SOON, || async {
        let all = stage.chekt.all_webhooks().await?;
        anyhow::ensure!(all.len() == 1 && all[0].events.len() == events, "{all:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn of_two_controllers_one_acts_and_the_other_goes_on_at_once_when_it_ends()
-> anyhow::Result<()> {
    // With the lease of fifteen seconds that they have by themselves.
    let mut stage = Stage::new("two").await?;
    leads(stage.controller()?, SOON).await?;
    let second = stage.another_controller().await?;
    stage.apply_account("10s").await?;
    set_events(&stage, &["alarm.triggered"]).await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;

    let mark = stage.chekt.mark().await?;
    let start = Instant::now();
    let lists = |ledger: &crate::harness::sandbox_client::Ledger| ledger.calls("list").len();
    eventually("two more lists", SOON, || async {
        let n = lists(&stage.chekt.ledger(mark).await?);
        anyhow::ensure!(n >= 2, "{n}");
        Ok(())
    })
    .await?;
    // Two of one controller are at least one interval apart, which is a tenth shorter at times.
    assert!(
        start.elapsed() > Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        stage.chekt.ledger(mark).await?.writes(),
        Vec::<String>::new()
    );
    assert_eq!(metric(&second, "chekt_controller_leader").await?, 0);
    assert_eq!(metric(&second, "chekt_controller_passes_total").await?, 0);
    assert_eq!(metric(&second, "chekt_controller_lists_total").await?, 0);

    let start = Instant::now();
    let ended = stage.controller()?.terminate(SOON).await?;
    assert_eq!(ended.code(), Some(0));
    leads(&second, SOON).await?;
    let took = start.elapsed();
    eprintln!("SIGTERM: the other led after {took:?}");
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
    assert_eq!(
        metric(&second, "chekt_controller_lease_transitions").await?,
        1
    );
    set_events(&stage, &["alarm.triggered", "alarm.cleared"]).await?;
    one_webhook_with(&stage, 2).await
}

#[tokio::test]
async fn a_leader_that_is_asked_to_end_resigns_after_its_last_pass_and_not_before()
-> anyhow::Result<()> {
    let mut stage = Stage::new("last-pass").await?;
    stage.apply_account("60s").await?;
    stage
        .users
        .account_condition("default", READY, "True", SOON)
        .await?;
    let second = stage.another_controller().await?;
    let held_back = 3_000;
    stage
        .chekt
        .set_faults(&[stalled("create", held_back)])
        .await?;
    set_events(&stage, &["alarm.triggered"]).await?;
    let start = Instant::now();
    let id = stage
        .chekt
        .webhook_at(&stage.derived_url("alarms")?, SOON)
        .await?
        .webhook_id;
    let waited = start.elapsed();
    let start = Instant::now();
    let end = stage.controller()?.terminate(SOON);
    let (ended, led) = tokio::join!(end, leads(&second, SOON));
    let (ended, led) = (ended?, led?);
    eprintln!(
        "SIGTERM within a pass of 3 s: the other led after {led:?}, {:?} in all",
        start.elapsed()
    );
    assert_eq!(ended.code(), Some(0));
    let rest = Duration::from_millis(held_back).saturating_sub(waited);
    assert!(led > rest / 2, "{led:?} of {rest:?}");
    // The pass ended in good order: its id is on record, and nobody had to look for the webhook.
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    let status = stage.users.webhooks().get("alarms").await?.status;
    assert_eq!(status.and_then(|s| s.webhook_id), Some(id));
    let adopted = stage.users.events_with_reason("alarms", "Adopted", 0, SOON);
    adopted.await?;
    one_webhook_with(&stage, 1).await
}

#[tokio::test]
async fn the_other_takes_over_from_a_killed_leader_and_makes_no_second_webhook()
-> anyhow::Result<()> {
    let mut stage = Stage::with("killed-leader", short_lease()).await?;
    leads(stage.controller()?, SOON).await?;
    let second = stage.another_controller().await?;
    // The POST has its effect, and whoever sent it dies before the answer.
    stage.chekt.set_faults(&[stalled("create", 20_000)]).await?;
    stage.apply_account("10s").await?;
    set_events(&stage, &["alarm.triggered"]).await?;
    let url = stage.derived_url("alarms")?;
    stage.chekt.webhook_at(&url, SOON).await?;
    stage.controller()?.kill9()?;
    let killed = Instant::now();
    // Nobody leads, and only a store hears of this one: it has no account, no Secret and no keyring to be woken by.
    let nowhere = json!({"accountRef": {"name": "nowhere"}});
    stage
        .apply_webhook("unheard", &["alarm.triggered"], nowhere)
        .await?;
    assert_eq!(metric(&second, "chekt_controller_leader").await?, 0);
    leads(&second, SOON).await?;
    let took = killed.elapsed();
    eprintln!("SIGKILL: the other led after {took:?} of a lease of {LEASE:?}");
    assert!(took < LEASE + SLACK, "{took:?}");
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    assert_eq!(stage.chekt.ledger(0).await?.calls("create").len(), 1);
    stage
        .users
        .webhook_condition("unheard", READY, "False", SOON)
        .await?;
    // Started again, the first one stands by.
    stage.controller()?.restart().await?;
    stage.controller()?.ready(SOON).await?;
    assert_eq!(
        metric(stage.controller()?, "chekt_controller_leader").await?,
        0
    );
    one_webhook_with(&stage, 1).await
}

#[tokio::test]
async fn a_leader_that_was_paused_past_its_lease_sends_nothing_and_ends() -> anyhow::Result<()> {
    let mut stage = Stage::with("paused", short_lease()).await?;
    stage.apply_account("60s").await?;
    stage
        .users
        .account_condition("default", READY, "True", SOON)
        .await?;
    let second = stage.another_controller().await?;
    // It is paused between the list that shows no webhook and the POST that follows from it.
    let before = stage.chekt.mark().await?;
    stage.chekt.set_faults(&[stalled("list", 1_000)]).await?;
    let webhook = json!({
        "apiVersion": "chekt.com/v1alpha1",
        "kind": "ChektWebhook",
        // Asks for a list of its own, however fresh the account's is.
        "metadata": {"name": "alarms", "annotations": {RECONCILE_REQUESTED_AT: "now"}},
        "spec": {"events": ["alarm.triggered"]},
    });
    stage.users.apply(&webhook.to_string()).await?;
    eventually("the list", SOON, || async {
        let lists = stage.chekt.ledger(before).await?.calls("list").len();
        anyhow::ensure!(lists > 0, "none yet");
        Ok(())
    })
    .await?;
    stage.controller()?.pause()?;
    let mark = stage.chekt.mark().await?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 0);

    let took = leads(&second, SOON).await?;
    eprintln!("SIGSTOP: the other led after {took:?} of a lease of {LEASE:?}");
    one_webhook_with(&stage, 1).await?;
    // And the spec changes while it sleeps, which it will hear of when it wakes.
    set_events(&stage, &["alarm.triggered", "alarm.cleared"]).await?;
    one_webhook_with(&stage, 2).await?;

    stage.controller()?.go_on()?;
    let ended = stage.controller()?.wait(SOON).await?;
    assert_eq!(ended.code(), Some(1));
    says_once(stage.controller()?, "error: the lease chekt-controller ").await?;
    eventually("every call to be the leader's", SOON, || async {
        let others = calls_of_others(&stage, mark, &second).await?;
        anyhow::ensure!(others.is_empty(), "{others:?}");
        Ok(())
    })
    .await?;
    one_webhook_with(&stage, 2).await
}

#[tokio::test]
async fn a_leader_without_an_api_server_ends_before_the_other_begins() -> anyhow::Result<()> {
    let options = StageOptions {
        gate_cluster: true,
        ..short_lease()
    };
    let mut stage = Stage::with("cut-off", options).await?;
    leads(stage.controller()?, SOON).await?;
    let second = stage.another_controller().await?;
    let gate = stage.cluster_gate.as_mut().expect("it was asked for");
    gate.cut().await;
    let start = Instant::now();
    let ended = stage.controller()?.wait(SOON).await?;
    let stopped = start.elapsed();
    assert_eq!(metric(&second, "chekt_controller_leader").await?, 0);
    leads(&second, SOON).await?;
    let took = start.elapsed();
    eprintln!(
        "no API server: ended after {stopped:?}, the other led after {took:?} of a lease of {LEASE:?}"
    );
    assert_eq!(ended.code(), Some(1));
    says_once(stage.controller()?, "could not be renewed within 4s").await?;
    assert!(stopped < LEASE, "{stopped:?}");
    assert!(took < LEASE + SLACK, "{took:?}");
    Ok(())
}

#[tokio::test]
async fn whoever_finds_another_name_in_its_lease_ends() -> anyhow::Result<()> {
    let mut stage = Stage::new("taken").await?;
    leads(stage.controller()?, SOON).await?;
    let patch = json!({"spec": {"holderIdentity": "somebody"}}).to_string();
    let patch = [
        "patch",
        "lease",
        "chekt-controller",
        "--type=merge",
        "-p",
        &patch,
    ];
    stage.operator.kubectl(&patch).await?.ok()?;
    let ended = stage.controller()?.wait(SOON).await?;
    assert_eq!(ended.code(), Some(1));
    says_once(stage.controller()?, "somebody holds it").await
}

/// Gives the user of the controller some rights in a namespace, beside those it has.
async fn allow(namespace: &Cluster, name: &str, rules: serde_json::Value) -> anyhow::Result<()> {
    let group = "rbac.authorization.k8s.io";
    let items = json!([
        {"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": Identity::Controller.user()}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        },
    ]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    namespace.apply(&list.to_string()).await?;
    Ok(())
}

#[tokio::test]
async fn a_controller_that_may_not_use_leases_says_so_and_the_stated_rights_are_enough()
-> anyhow::Result<()> {
    let options = StageOptions {
        controller_identity: Identity::Controller,
        with_controller: false,
        ..StageOptions::default()
    };
    let mut stage = Stage::with("rights", options).await?;
    let ours = json!([
        {"apiGroups": ["chekt.com"], "resources": ["chektaccounts"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["chekt.com"], "resources": ["chektwebhooks"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["chekt.com"], "resources": ["chektaccounts/status", "chektwebhooks/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ]);
    allow(&stage.users, "looked-after", ours).await?;
    let all = json!(["get", "list", "watch", "create", "update", "delete"]);
    let keyrings = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": all}]);
    allow(&stage.operator, "keyrings", keyrings).await?;

    let controller = stage.start_controller_not_ready().await?;
    let url = format!("http://{}/readyz", controller.ops()?);
    eventually("the missing right to be said", SOON, || async {
        let answer = reqwest::get(&url).await?;
        let (status, text) = (answer.status(), answer.text().await?);
        let said = text.starts_with("lease: forbidden: ") && text.contains("cannot get resource");
        anyhow::ensure!(status == 503 && said, "{status}: {text}");
        Ok(())
    })
    .await?;

    let verbs = json!(["get", "create", "update"]);
    let leases =
        json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]);
    allow(&stage.operator, "leases", leases).await?;
    controller.ready(SOON).await?;
    leads(&controller, SOON).await?;
    // Without the right to look at definitions a deletion goes on as usual, and that is said once.
    let of_definitions = |line: &&String| line.contains("customresourcedefinitions");
    let refused = |process: &Process| {
        let log = process.log_lines();
        let refused = log.iter().filter(|line| line.contains("forbidden"));
        refused.filter(|line| !of_definitions(line)).count()
    };
    let before = refused(&controller);
    stage.controller = Some(controller);
    stage.apply_account("10s").await?;
    set_events(&stage, &["alarm.triggered"]).await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    stage
        .users
        .kubectl(&["delete", "chektwebhook", "alarms", "--timeout=30s"])
        .await?
        .ok()?;
    assert_eq!(
        refused(stage.controller()?),
        before,
        "{}",
        stage.log_tails()
    );
    set_events(&stage, &["alarm.triggered"]).await?;
    let users = stage.users.clone();
    users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    users
        .kubectl(&["delete", "chektwebhook", "alarms", "--timeout=30s"])
        .await?
        .ok()?;
    assert_eq!(stage.chekt.webhooks().await?.len(), 0);
    let log = stage.controller()?.log_lines();
    let said = log.iter().filter(of_definitions).count();
    assert_eq!(said, 1, "{}", stage.log_tails());
    Ok(())
}

#[tokio::test]
async fn without_an_election_there_is_no_lease() -> anyhow::Result<()> {
    let options = StageOptions {
        controller: vec!["--leader-elect".to_owned(), "false".to_owned()],
        ..StageOptions::default()
    };
    let stage = Stage::verified("alone", &["alarm.triggered"], options).await?;
    let leases: Api<Lease> =
        Api::namespaced(stage.operator.client.clone(), &stage.operator.namespace);
    assert_eq!(
        leases
            .list(&kube::api::ListParams::default())
            .await?
            .items
            .len(),
        0
    );
    Ok(())
}
