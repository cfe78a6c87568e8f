//! How the receiver ends, as Kubernetes and whoever sends to it see it; and what it says about strangers before.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::deliveries::{post, sign};
use crate::harness::{Admission, Cluster, Identity, Lone, Manner, Stage, eventually};
use crate::keyrings::by_hand;

const SOON: Duration = Duration::from_secs(30);
const SECRET: &str = "secret-of-the-end";

fn alarm(number: usize) -> String {
    format!(r#"{{"event":"alarm.triggered","data":{{"alarm_id":"a{number}"}}}}"#)
}

async fn readiness(stage: &Stage) -> anyhow::Result<(u16, String)> {
    let url = format!("http://{}/readyz", stage.receiver.ops()?);
    let response = reqwest::get(url).await?;
    Ok((response.status().as_u16(), response.text().await?))
}

#[tokio::test]
async fn it_says_that_it_goes_serves_on_and_leaves_nothing_undone() -> anyhow::Result<()> {
    let (mut stage, _, url) = by_hand("ending", &["--drain-delay", "3"], SECRET).await?;
    let path = url.splitn(4, '/').nth(3).unwrap_or_default().to_owned();
    let mut kept = TcpStream::connect(stage.receiver.public()?).await?;
    let mut on_kept = async |number: usize| {
        let body = alarm(number);
        let (signature, length) = (sign(SECRET, &body), body.len());
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: x\r\nX-Webhook-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        kept.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            answer.push(kept.read_u8().await?);
        }
        anyhow::Ok(String::from_utf8_lossy(&answer).to_lowercase())
    };
    let answer = on_kept(0).await?;
    assert!(!answer.contains("connection: close"), "{answer}");

    let began = Instant::now();
    stage.receiver.ask_to_end()?;
    eventually("not to be ready", SOON, async || {
        let (status, why) = readiness(&stage).await?;
        anyhow::ensure!(
            status == 503 && why == "receiver: ending\n",
            "{status} {why}"
        );
        Ok(())
    })
    .await?;
    let not_ready = began.elapsed();
    assert!(not_ready < Duration::from_secs(1), "{not_ready:?}");
    // Whoever has not heard of it is answered as ever.
    let answer = on_kept(1).await?;
    assert!(
        answer.contains(" 200 ") && answer.contains("connection: close"),
        "{answer}"
    );
    let mut sent = 2;
    // More than the pace would let through before the end.
    while began.elapsed() < Duration::from_millis(2_500) && sent < 1_000 {
        let body = alarm(sent);
        assert_eq!(post(&url, &body, &sign(SECRET, &body)).await?, 200);
        sent += 1;
    }
    let status = stage.receiver.wait(SOON).await?;
    let took = began.elapsed();
    eprintln!("not ready after {not_ready:?}, {sent} answered, ended after {took:?}");
    assert!(status.success(), "{status}");
    assert!(
        took >= Duration::from_secs(3) && took < Duration::from_secs(45),
        "{took:?}"
    );
    // Everything that was acknowledged was published before the end.
    let published = stage.users.events_of("alarms").await?;
    let alarms = published
        .iter()
        .filter(|event| event.reason.as_deref() == Some("AlarmTriggered"));
    assert_eq!(alarms.count(), sent, "{}", stage.receiver.log_tail());
    Ok(())
}

/// Alarms that wait when the process is asked to end. At the pace of 10 a second they would take minutes.
const BACKLOG: usize = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_published_before_the_end_beside_a_namespace_that_hangs() -> anyhow::Result<()>
{
    let sick = Cluster::new("backlog-next").await?;
    let flags = [
        "--watch-namespace",
        &sick.namespace,
        "--drain-timeout",
        "90",
        "--drain-delay",
        "0",
    ];
    let mut lone = Lone::start("backlog", &["alarms"], Identity::Admin, &flags).await?;
    lone.join(&sick, "alarms").await?;
    let admission = Admission::start().await?;
    let name = lone.users.namespace.clone();
    let hangs = [(Manner::Hangs, vec![sick.namespace.clone()])];
    admission.guard(&lone.users, &name, &hangs).await?;
    eventually("it to hang", SOON, async || {
        lone.post_to(&sick.namespace, "alarms", lone.alarm())
            .await?;
        anyhow::ensure!(lone.attempts("failed").await? > 0, "not yet");
        Ok(())
    })
    .await?;
    lone.post_alarms_to(&sick.namespace, "alarms", 20).await?;
    lone.post_alarms("alarms", BACKLOG).await?;
    let own = format!("{name}/alarms");
    let published = |lone: &Lone| {
        let lines = lone.logged("delivery");
        let ours = lines.iter().filter(|l| l["webhook"] == own.as_str());
        ours.filter(|l| l["outcome"] == "published").count()
    };
    let before = published(&lone);
    assert!(
        before < BACKLOG / 2,
        "no backlog any more: {before} are published"
    );
    let began = Instant::now();
    lone.receiver.ask_to_end()?;
    eventually(
        "the backlog to be published",
        Duration::from_secs(90),
        async || {
            let count = published(&lone);
            anyhow::ensure!(count == BACKLOG, "{count} of {BACKLOG}");
            Ok(())
        },
    )
    .await?;
    println!(
        "{} alarms were published within {:?} of the signal",
        BACKLOG - before,
        began.elapsed()
    );
    // What hangs is left, and said to be.
    lone.receiver.wait(Duration::from_secs(120)).await?;
    let left = lone.logged("ending with acknowledged deliveries that are not published; a receiver that starts with this journal goes on with them");
    assert_eq!(left.len(), 1);
    assert!(left[0]["left"].as_u64() >= Some(20), "{left:?}");
    assert_eq!(left[0]["webhooks"], 1);
    Admission::leave(&lone.users, &name).await
}

#[tokio::test]
async fn what_is_left_at_the_end_is_told_on_its_webhook() -> anyhow::Result<()> {
    let flags = ["--drain-timeout", "1", "--drain-delay", "0"];
    let mut lone = Lone::start("left", &["alarms", "others"], Identity::Admin, &flags).await?;
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
            "validations": [{"expression": "object.reason != 'AlarmTriggered'"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    let both = json!({"apiVersion": "v1", "kind": "List", "items": [policy, binding]});
    lone.users.apply(&both.to_string()).await?;
    eventually("the policy to refuse one", SOON, async || {
        lone.post("others", lone.alarm()).await?;
        anyhow::ensure!(lone.attempts("held").await? > 0, "not yet");
        Ok(())
    })
    .await?;
    lone.post_alarms("alarms", 7).await?;
    lone.receiver.terminate(SOON).await?;
    let told = lone
        .users
        .events_with_reason("alarms", "DeliveriesLeft", 1, SOON)
        .await?;
    let note = told[0].note.clone().unwrap_or_default();
    assert!(
        note.starts_with("7 acknowledged deliveries were not published"),
        "{note}"
    );
    let instance = told[0].reporting_instance.clone().unwrap_or_default();
    assert!(
        note.contains(&instance) && note.contains("journal"),
        "{note}"
    );
    assert_eq!(told[0].type_.as_deref(), Some("Warning"));

    // They are in the journal, and come once they may.
    let kinds = "validatingadmissionpolicy,validatingadmissionpolicybinding";
    lone.users.kubectl(&["delete", kinds, &name]).await?.ok()?;
    lone.receiver.restart().await?;
    let alarms =
        lone.users
            .events_with_reason("alarms", "AlarmTriggered", 7, Duration::from_secs(60));
    assert_eq!(alarms.await?.len(), 7);
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() -> anyhow::Result<()> {
    let (mut stage, ..) = by_hand("at-once", &["--drain-delay", "60"], SECRET).await?;
    stage.receiver.ask_to_end()?;
    eventually("not to be ready", SOON, async || {
        anyhow::ensure!(readiness(&stage).await?.0 == 503);
        Ok(())
    })
    .await?;
    let began = Instant::now();
    stage.receiver.ask_to_end()?;
    let status = stage.receiver.wait(SOON).await?;
    assert_eq!(status.code(), Some(130), "{status}");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn nothing_that_a_stranger_sends_is_in_a_log_a_metric_or_a_status() -> anyhow::Result<()> {
    const CANARY: &str = "canary4711";
    let trace = [
        "--log",
        "trace",
        "--allow-from",
        "127.0.0.0/8",
        "--trusted-proxy",
        "127.0.0.1",
    ];
    let (stage, _, url) = by_hand("strangers", &trace, SECRET).await?;
    let path = url.splitn(4, '/').nth(3).unwrap_or_default().to_owned();
    let signed = sign("another", CANARY);
    let length = CANARY.len();
    let valid =
        format!("POST /{path} HTTP/1.1\r\nX-Forwarded-For: 127.0.0.2\r\nConnection: close\r\n");
    let requests = [
        format!("{CANARY}\r\n\r\n"),
        format!("GET /{CANARY} HTTP/1.1\r\nHost: {CANARY}\r\nConnection: close\r\n\r\n"),
        format!("{CANARY} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        format!(
            "POST /webhooks/{CANARY}/{CANARY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ),
        format!(
            "POST /{path}?{CANARY} HTTP/1.1\r\nX-Forwarded-For: {CANARY}\r\nConnection: close\r\n\r\n"
        ),
        format!("POST /{path} HTTP/1.1\r\nForwarded: for={CANARY}\r\nConnection: close\r\n\r\n"),
        format!("POST /{path} HTTP/1.1\r\n{CANARY} : x\r\n\r\n"),
        format!("POST /{path} HTTP/{CANARY}\r\n\r\n"),
        format!("{valid}Content-Encoding: {CANARY}\r\n\r\n"),
        format!("{valid}Content-Length: {CANARY}\r\n\r\n"),
        format!("{valid}Transfer-Encoding: {CANARY}\r\n\r\n"),
        format!("{valid}Expect: {CANARY}\r\nX-Webhook-Signature: {CANARY}\r\n\r\n"),
        format!("{valid}X-Webhook-Signature: {signed}\r\nContent-Length: {length}\r\n\r\n{CANARY}"),
        format!(
            "{valid}X-Webhook-Signature: {signed}\r\nTransfer-Encoding: chunked\r\n\r\n{CANARY}\r\n"
        ),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{CANARY}{CANARY}"),
    ];
    for request in &requests {
        let mut stream = TcpStream::connect(stage.receiver.public()?).await?;
        stream.write_all(request.as_bytes()).await?;
        let read = async {
            let mut answer = Vec::new();
            // A reset is an answer too.
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let answer = tokio::time::timeout(SOON, read).await?;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            !text.contains(" 200 ") && !text.contains(CANARY),
            "{request}: {text}"
        );
    }
    let text = stage.receiver.metrics().await?;
    let status = stage
        .users
        .kubectl(&["get", "cwh", "-o", "json"])
        .await?
        .ok()?;
    let lines = stage.receiver.log_lines();
    assert!(
        lines.iter().any(|line| line.contains("refused")),
        "trace is on"
    );
    // h2 is not ours and shows what it reads at trace, which nobody switches on by accident.
    let ours = lines
        .iter()
        .filter(|line| !line.contains(r#""target":"h2::"#));
    for (place, text) in [("metrics", &text), ("status", &status)]
        .into_iter()
        .chain(ours.map(|line| ("log", line)))
    {
        assert!(
            !text.contains(CANARY),
            "the canary is in the {place}: {text}"
        );
    }
    Ok(())
}
