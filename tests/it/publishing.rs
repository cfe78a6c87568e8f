//! From the journal to the Event when the API server does not want, may not, or cannot: nothing is lost, nothing spins,
//! nobody starves, and it is said.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::conditions::{self, DELIVERIES_DELAYED, READY};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use k8s_openapi::api::events::v1::Event;
use kube::config::Kubeconfig;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::eventually::throughout;
use crate::harness::lone::permit_events;
use crate::harness::{Identity, Launch, Lone, Process, Role, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Waits until all deliveries are published, and gives back the Events about alarms on a webhook.
async fn all_published(lone: &Lone, webhook: &str, count: usize) -> anyhow::Result<Vec<Event>> {
    lone.users
        .events_with_reason(webhook, "AlarmTriggered", count, Duration::from_secs(90))
        .await
}

#[tokio::test]
async fn a_storm_is_as_many_attempts_as_events_and_leaves_its_turn_to_another_webhook()
-> anyhow::Result<()> {
    // Slow enough that on any machine the storm takes longer to be published than to be posted.
    const RATE: u32 = 50;
    const BURST: u32 = 200;
    let (rate, burst) = (RATE.to_string(), BURST.to_string());
    let flags = ["--events-per-second", &rate, "--events-burst", &burst];
    let lone = Lone::start("storm", &["storm", "calm"], Identity::Admin, &flags).await?;
    lone.post_alarms("storm", 1_000).await?;
    lone.post_alarms("calm", 10).await?;
    // By counters: a gauge may be a second old, and that is longer than all of this.
    let waits = async || {
        let accepted = r#"chekt_receiver_deliveries_total{outcome="accepted"}"#;
        let accepted = lone.metric(accepted).await?;
        anyhow::Ok(accepted - lone.attempts("created").await?)
    };
    let waiting = waits().await?;
    let calm = lone
        .users
        .events_with_reason("calm", "AlarmTriggered", 10, Duration::from_secs(8))
        .await?;
    let behind = waits().await?;
    assert!(
        waiting > 200 && behind > 50,
        "the storm was over before it could hold up anybody: {waiting}, {behind}"
    );
    let mut all = all_published(&lone, "storm", 1_000).await?;
    all.extend(calm);
    assert_eq!(
        lone.attempts("created").await?,
        1_010,
        "no attempt too many"
    );
    for outcome in ["already_there", "buried", "held", "throttled", "failed"] {
        assert_eq!(lone.attempts(outcome).await?, 0, "{outcome}");
    }
    let mut alarms: Vec<_> = all
        .iter()
        .filter_map(|event| {
            event
                .metadata
                .annotations
                .as_ref()?
                .get("chekt.com/alarm-id")
        })
        .collect();
    alarms.sort();
    alarms.dedup();
    assert_eq!(alarms.len(), 1_010);
    // In no time does the API server see more than the burst and what the pace adds to it. The time of an Event is a
    // moment after its token was taken, so those that were on their way may fall into a later window.
    let mut times: Vec<_> = all
        .iter()
        .filter_map(|event| Some(event.event_time.as_ref()?.0))
        .collect();
    times.sort();
    let most = f64::from(BURST) + 8.0;
    for (first, from) in times.iter().enumerate() {
        for (last, to) in times.iter().enumerate().skip(first) {
            let span = to.duration_since(*from).as_secs_f64();
            #[allow(clippy::cast_precision_loss)]
            let seen = (last - first + 1) as f64;
            assert!(
                seen <= most + span * f64::from(RATE),
                "{seen} Events within {span} s"
            );
        }
    }
    Ok(())
}

/// Occupies a seat of the API server by a request whose body never comes: a level that has no seats still serves one
/// request at a time.
fn occupy(lone: &Lone, who: Identity) -> anyhow::Result<JoinHandle<()>> {
    let plane = lone.users.plane;
    let certificate = std::fs::read(plane.dir().join("certs/apiserver.crt"))?;
    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig(who))?;
    let user = kubeconfig.auth_infos.into_iter().next();
    let token = user.and_then(|u| u.auth_info?.token);
    let token = token.context("a user without a token")?;
    let client = reqwest::Client::builder()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&certificate)?)
        .no_proxy()
        .build()?;
    let (address, namespace) = (plane.address(), &lone.users.namespace);
    let url = format!("https://{address}/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let never = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let request = client
        .post(url)
        .bearer_auth(token.expose_secret())
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap(StreamBody::new(never)));
    Ok(tokio::spawn(async move {
        // What comes of it does not matter; the test looks whether it is still there.
        let _ = request.send().await;
    }))
}

#[tokio::test]
async fn an_api_server_that_asks_for_a_pause_gets_it_and_then_every_event() -> anyhow::Result<()> {
    let lone = Lone::start("busy", &["alarms"], Identity::Receiver, &[]).await?;
    lone.post_alarms("alarms", 3).await?;
    all_published(&lone, "alarms", 3).await?;
    // Priority and fairness turns away whatever this receiver wants to create here.
    let name = lone.users.namespace.clone();
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name},
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Reject"},
        }},
    });
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": name},
        "spec": {
            "priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 2,
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": Identity::Receiver.user()}}],
                "resourceRules": [{"verbs": ["create"], "apiGroups": ["events.k8s.io"], "resources": ["events"],
                    "namespaces": [lone.users.namespace]}],
            }],
        },
    });
    let both = json!({"apiVersion": "v1", "kind": "List", "items": [level, schema]});
    lone.users.apply(&both.to_string()).await?;
    // Before the API server knows of the level, a request occupies a seat of another one.
    let mut seat = occupy(&lone, Identity::Receiver)?;
    let executing = format!(
        "apiserver_flowcontrol_current_executing_requests{{flow_schema=\"{name}\",priority_level=\"{name}\"}} 1"
    );
    eventually("the level to be occupied", SOON, async || {
        let metrics = http::Request::get("/metrics").body(Vec::new())?;
        let metrics = lone.users.client.request_text(metrics).await?;
        if metrics.lines().any(|line| line == executing) {
            return Ok(());
        }
        seat.abort();
        seat = occupy(&lone, Identity::Receiver)?;
        anyhow::bail!("it is not")
    })
    .await?;
    eventually("the API server to ask for a pause", SOON, || async {
        lone.post("alarms", lone.alarm()).await?;
        anyhow::ensure!(lone.attempts("throttled").await? > 0, "not yet");
        Ok(())
    })
    .await?;
    lone.post_alarms("alarms", 40).await?;
    let before = lone.attempts("throttled").await?;
    let created = lone.attempts("created").await?;
    let span = Duration::from_secs(6);
    throughout("nothing to be published", span, || async {
        anyhow::ensure!(
            lone.attempts("created").await? == created,
            "an Event was made"
        );
        Ok(())
    })
    .await?;
    let tried = lone.attempts("throttled").await? - before;
    // One at a time, and one second apart: what the API server asks for in a header, and by itself it would be longer.
    assert!((4..=8).contains(&tried), "{tried} attempts in {span:?}");
    let said = "no Event can be made in this namespace; its deliveries wait in the journal";
    let held = lone.logged(said);
    assert_eq!(held.len(), 1, "{held:#?}");
    assert_eq!(held[0]["answer"], "throttled");
    assert!(!seat.is_finished(), "the seat was given up meanwhile");
    seat.abort();
    let delete = ["delete", "flowschema,prioritylevelconfiguration", &name];
    lone.users.kubectl(&delete).await?.ok()?;
    let posted = usize::try_from(created)?
        + usize::try_from(lone.metric("chekt_receiver_journal_pending").await?)?;
    all_published(&lone, "alarms", posted).await?;
    let again = "publishing again in this namespace";
    assert_eq!(lone.logged(again).len(), 1);
    Ok(())
}

#[tokio::test]
async fn events_that_may_not_be_made_wait_are_said_to_be_delayed_and_come_once_they_may()
-> anyhow::Result<()> {
    let lone = Lone::start("forbidden", &["alarms"], Identity::Receiver, &[]).await?;
    let launch = Launch::new(Role::Controller)
        .env("KUBECONFIG", lone.users.kubeconfig().display())
        .flag("--public-url", "http://127.0.0.1:1")
        .flag("--operator-namespace", &lone.operator.namespace)
        .flag("--watch-namespace", &lone.users.namespace);
    let controller = Process::start(launch).await?;
    controller.ready(SOON).await?;
    let before = lone
        .users
        .webhook_condition("alarms", READY, "False", SOON)
        .await?;
    lone.users
        .kubectl(&["delete", "rolebinding", "events"])
        .await?
        .ok()?;
    eventually("the API server to refuse Events", SOON, || async {
        lone.post("alarms", lone.alarm()).await?;
        anyhow::ensure!(lone.attempts("held").await? > 0, "not yet");
        Ok(())
    })
    .await?;
    lone.post_alarms("alarms", 20).await?;
    let condition = lone
        .users
        .webhook_condition(
            "alarms",
            DELIVERIES_DELAYED,
            "True",
            Duration::from_secs(90),
        )
        .await?;
    assert_eq!(condition.reason, "EventsWaiting");
    let named = format!("in namespace {}: forbidden: events", lone.users.namespace);
    let message = &condition.message;
    assert!(
        message.contains("RBAC") && message.contains(&named),
        "{message}"
    );
    let webhook = lone.users.webhooks().get("alarms").await?;
    let status = webhook.status.unwrap_or_default();
    let delay = status.deliveries.and_then(|d| d.delayed);
    let waited = delay.map(|d| d.seen_at.0.duration_since(d.since.0).as_secs());
    assert!(waited.is_some_and(|s| (60..75).contains(&s)), "{waited:?}");
    let ready = conditions::find(&status.conditions, READY);
    assert_eq!(ready, Some(&before), "Ready is not touched");
    assert_eq!(lone.metric("chekt_receiver_delayed_webhooks").await?, 1);
    let oldest = "chekt_receiver_waiting_oldest_seconds{class=\"alarm\"}";
    assert!(lone.metric(oldest).await? >= 60);
    // After 1, 2, 4, 8, 16 and 30 s, one at a time, beside the few that were on their way at first.
    let held = lone.attempts("held").await?;
    assert!(held <= 20, "{held} attempts in a minute");
    let said = "no Event can be made in this namespace; its deliveries wait in the journal";
    assert_eq!(lone.logged(said).len(), 1);

    permit_events(&lone.users, Identity::Receiver).await?;
    let pending = lone.metric("chekt_receiver_journal_pending").await?;
    let made = lone.attempts("created").await?;
    let all = usize::try_from(pending + made)?;
    all_published(&lone, "alarms", all).await?;
    eventually("the condition to be gone", SOON, || async {
        let webhook = lone.users.webhooks().get("alarms").await?;
        let all = webhook.status.map(|s| s.conditions).unwrap_or_default();
        let found = conditions::find(&all, DELIVERIES_DELAYED);
        anyhow::ensure!(found.is_none(), "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_event_that_a_policy_refuses_does_not_stand_before_the_others() -> anyhow::Result<()> {
    let lone = Lone::start("policy", &["alarms"], Identity::Receiver, &[]).await?;
    let name = lone.users.namespace.clone();
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                "resourceRules": [{"apiGroups": ["events.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["events"]}],
            },
            // Forbidden, as RBAC's refusal is: the answer alone does not tell that it is about this Event.
            "validations": [{"expression": "!object.note.contains('unwanted')", "reason": "Forbidden"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    let both = json!({"apiVersion": "v1", "kind": "List", "items": [policy, binding]});
    lone.users.apply(&both.to_string()).await?;
    let unwanted = |number: usize| {
        json!({"event": "alarm.triggered", "data": {"alarm_id": format!("unwanted-{number}")}})
            .to_string()
    };
    // Until the policy is known, what it does not want is published.
    let mut wanted = 0;
    eventually("the policy to refuse one", SOON, async || {
        lone.post("alarms", unwanted(wanted)).await?;
        wanted += 1;
        anyhow::ensure!(lone.attempts("held").await? > 0, "not yet");
        Ok(())
    })
    .await?;
    let before = usize::try_from(lone.attempts("created").await?)?;
    lone.post_alarms("alarms", 20).await?;
    all_published(&lone, "alarms", before + 20).await?;
    let delete = [
        "delete",
        "validatingadmissionpolicy,validatingadmissionpolicybinding",
        &name,
    ];
    lone.users.kubectl(&delete).await?.ok()?;
    all_published(&lone, "alarms", wanted + 20).await?;
    Ok(())
}

#[tokio::test]
async fn what_waits_in_a_namespace_that_is_deleted_is_held_and_then_a_dead_letter()
-> anyhow::Result<()> {
    // One Event at once and then one a second, so that something waits while the namespace goes.
    let flags = ["--events-per-second", "1", "--events-burst", "1"];
    let lone = Lone::start("leaving", &["alarms"], Identity::Admin, &flags).await?;
    let anchor = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "anchor", "finalizers": ["example.com/anchor"]}});
    lone.users.apply(&anchor.to_string()).await?;
    lone.post_alarms("alarms", 12).await?;
    lone.users
        .kubectl(&["delete", "namespace", &lone.users.namespace, "--wait=false"])
        .await?
        .ok()?;
    eventually("a hold", SOON, || async {
        anyhow::ensure!(
            lone.attempts("held").await? > 0,
            "{}",
            lone.receiver.log_tail()
        );
        Ok(())
    })
    .await?;
    assert_eq!(
        lone.attempts("buried").await?,
        0,
        "the namespace is still there"
    );
    let waiting = 12 - lone.attempts("created").await?;
    assert!(waiting > 0);
    let release = r#"{"metadata":{"finalizers":null}}"#;
    lone.users
        .kubectl(&[
            "patch",
            "configmap",
            "anchor",
            "--type=merge",
            "-p",
            release,
        ])
        .await?
        .ok()?;
    eventually(
        "all to be dead letters",
        Duration::from_secs(90),
        || async {
            let dead = lone.metric("chekt_receiver_journal_dead_letters").await?;
            anyhow::ensure!(dead == waiting, "{dead} of {waiting}");
            Ok(())
        },
    )
    .await?;
    assert_eq!(lone.metric("chekt_receiver_journal_pending").await?, 0);
    let told = lone.logged("delivery");
    let dead: Vec<_> = told
        .iter()
        .filter(|l| l["outcome"] == "dead_letter")
        .collect();
    assert_eq!(i64::try_from(dead.len())?, waiting);
    let why = dead[0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("the namespace is gone"), "{why}");
    eventually("nobody to be there who could be told", SOON, || async {
        let series = "chekt_receiver_notices_total{outcome=\"untellable\"}";
        anyhow::ensure!(lone.metric(series).await? == 1, "not yet");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn dead_letters_are_told_at_once_and_then_once_a_minute_with_their_number()
-> anyhow::Result<()> {
    let mut lone = Lone::start("unreadable", &["alarms", "others"], Identity::Admin, &[]).await?;
    lone.post("alarms", "no json").await?;
    let first = lone
        .users
        .events_with_reason("alarms", "DeliveryUnreadable", 1, Duration::from_secs(10))
        .await?;
    let first = &first[0];
    assert_eq!(first.type_.as_deref(), Some("Warning"));
    let note = first.note.clone().unwrap_or_default();
    assert!(
        note.starts_with("A delivery with a valid signature"),
        "{note}"
    );
    assert!(
        note.contains("it is not JSON") && note.contains("chekt-operator deadletters"),
        "{note}"
    );
    let labels = first.metadata.labels.clone().unwrap_or_default();
    assert_eq!(labels.get("team").map(String::as_str), Some("night-watch"));
    assert!(!labels.contains_key("chekt.com/event"), "{labels:?}");
    // Twelve more within the same minute or the next, and a restart in between: their number is not lost.
    for n in 0..6 {
        lone.post("alarms", format!("still no json {n}")).await?;
    }
    lone.receiver.kill9()?;
    lone.receiver.restart().await?;
    lone.receiver.ready(SOON).await?;
    for n in 6..12 {
        lone.post("alarms", format!("[{n}]")).await?;
    }
    // Another webhook does not wait for this one's minute.
    lone.post("others", "{}").await?;
    lone.users
        .events_with_reason("others", "DeliveryUnreadable", 1, Duration::from_secs(10))
        .await?;
    let told = eventually("thirteen to be told", Duration::from_secs(150), || async {
        let all = lone.users.events_of("alarms").await?;
        let notes: Vec<_> = all.iter().filter_map(|e| e.note.clone()).collect();
        let told: i64 = notes.iter().map(|note| number(note)).sum();
        anyhow::ensure!(told == 13, "{notes:#?}");
        Ok::<_, anyhow::Error>(all)
    })
    .await?;
    let minutes: std::collections::BTreeSet<_> = told
        .iter()
        .filter_map(|event| Some(event.event_time.as_ref()?.0.as_second() / 60))
        .collect();
    assert_eq!(minutes.len(), told.len(), "one a minute at most");
    assert!(told.len() <= 3, "{}", told.len());
    Ok(())
}

/// How many dead letters a note tells of.
fn number(note: &str) -> i64 {
    let first = note.split(' ').next().unwrap_or_default();
    if first == "A" {
        1
    } else {
        first.parse().unwrap_or_default()
    }
}

#[tokio::test]
async fn one_line_of_the_log_tells_what_became_of_a_delivery() -> anyhow::Result<()> {
    let lone = Lone::start("told", &["alarms"], Identity::Admin, &[]).await?;
    let alarm = lone.alarm();
    lone.post("alarms", alarm.clone()).await?;
    lone.post("alarms", "no json").await?;
    let lines = eventually("both lines", SOON, || async {
        let lines = lone.logged("delivery");
        anyhow::ensure!(lines.len() == 2, "{lines:#?}");
        Ok::<_, anyhow::Error>(lines)
    })
    .await?;
    let published = lines.iter().find(|l| l["outcome"] == "published");
    let published = published.ok_or_else(|| anyhow::anyhow!("{lines:#?}"))?;
    assert_eq!(
        published["webhook"],
        format!("{}/alarms", lone.users.namespace)
    );
    assert_eq!(published["event"], "alarm.triggered");
    assert_eq!(published["key_id"], "key-of-alarms");
    assert_eq!(published["place"], "current");
    assert_eq!(published["level"], "INFO");
    assert_eq!(published["delivery"].as_str().map(str::len), Some(12));
    let ms = |name: &str| published[name].as_i64();
    assert!(ms("durable_ms") <= ms("published_ms"), "{published}");
    assert!(ms("durable_ms").is_some(), "{published}");
    let dead = lines.iter().find(|l| l["outcome"] == "dead_letter");
    assert!(
        dead.is_some_and(|l| l["level"] == "WARN" && l["event"] == ""),
        "{lines:#?}"
    );
    Ok(())
}
