//! The journal under the real receiver: disks that fail and come back, damaged files, and dead letters that a person
//! has tried again.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use chekt_operator::delivery::{Class, DeadKind, DeliveryKey, KeyPlace, Received};
use chekt_operator::journal::{Cause, Journal, Options, State};
use chekt_operator::resources::keyring::WebhookIdentity;
use futures::StreamExt;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::deliveries::{post, sign};
use crate::harness::process::binary;
use crate::harness::{Cluster, Identity, Launch, Process, Role, Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);
const BROKEN: &str = r#"{"event":"alarm.trig"#;

/// A stage with the webhook `alarms`, the secret of it, and its path.
async fn ready(idea: &str) -> anyhow::Result<(Stage, String, String)> {
    let stage = Stage::verified(idea, &["alarm.triggered"], StageOptions::default()).await?;
    let url = stage.derived_url("alarms")?;
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    let path = format!("/webhooks/{}/alarms", stage.users.namespace);
    Ok((stage, secret, path))
}

/// Runs a command of ours to its end.
fn command(args: &[&str], journal: &Path) -> anyhow::Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(args).arg("--journal").arg(journal);
    Ok(command.output()?)
}

fn succeeded(output: Output) -> anyhow::Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn refused(output: &Output) -> anyhow::Result<String> {
    anyhow::ensure!(!output.status.success(), "it was not refused");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn dead_letters(journal: &Path) -> anyhow::Result<Vec<Value>> {
    let listed = succeeded(command(&["deadletters", "-o", "json"], journal)?)?;
    Ok(serde_json::from_str(&listed)?)
}

/// Waits for the only dead letter to be one that was buried after another time.
async fn dead_again(journal: &Path, before: &Value) -> anyhow::Result<Value> {
    eventually("the dead letter to be one again", SOON, || async {
        let letters = dead_letters(journal)?;
        let [letter] = &letters[..] else {
            anyhow::bail!("{letters:?}");
        };
        anyhow::ensure!(letter["replay"] == false, "{letter}");
        anyhow::ensure!(letter["buriedAt"] != *before, "{letter}");
        Ok(letter.clone())
    })
    .await
}

#[tokio::test]
async fn what_cannot_be_read_is_listed_and_tried_again_while_running_and_after_a_restart()
-> anyhow::Result<()> {
    let (mut stage, secret, path) = ready("replay").await?;
    let journal = stage.dir.join("journal");
    assert!(succeeded(command(&["deadletters"], &journal)?)?.contains("no dead letters"));
    assert_eq!(
        succeeded(command(&["deadletters", "-o", "json"], &journal)?)?,
        "[]\n"
    );
    let url = format!("http://{}{path}", stage.receiver.public()?);
    assert_eq!(post(&url, BROKEN, &sign(&secret, BROKEN)).await?, 200);
    let first = dead_again(&journal, &Value::Null).await?;
    assert_eq!(first["webhook"]["name"], "alarms");
    assert_eq!(first["bytes"], BROKEN.len());
    assert_eq!(first["body"], BROKEN);
    let reason = first["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("it is not JSON"), "{reason}");
    let key = first["key"].as_str().unwrap_or_default();
    let table = succeeded(command(&["deadletters", "--body"], &journal)?)?;
    assert!(
        table.contains(&key[..12]) && table.contains(BROKEN),
        "{table}"
    );
    assert!(
        table.contains(&format!("{}/alarms", stage.users.namespace)),
        "{table}"
    );

    let said = refused(&command(&["replay", "--key", "zz"], &journal)?)?;
    assert!(said.contains("write hexadecimal digits"), "{said}");
    let other = if key.starts_with('0') { "1" } else { "0" };
    let said = refused(&command(&["replay", "--key", other], &journal)?)?;
    assert!(said.contains(&key[..12]), "{said}");
    let said = refused(&command(
        &["replay", "--all", "--webhook", "a/b"],
        &journal,
    )?)?;
    assert!(said.contains("/alarms"), "{said}");

    // While it runs.
    let said = succeeded(command(&["replay", "--key", &key[..6]], &journal)?)?;
    assert!(said.starts_with("1 marked"), "{said}");
    let second = dead_again(&journal, &first["buriedAt"]).await?;
    assert_eq!(second["key"], first["key"]);

    // While it does not.
    stage.receiver.terminate(SOON).await?;
    assert_eq!(dead_letters(&journal)?.len(), 1);
    succeeded(command(&["replay", "--all"], &journal)?)?;
    assert_eq!(dead_letters(&journal)?[0]["replay"], true);
    stage.receiver.restart().await?;
    dead_again(&journal, &second["buriedAt"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_replayed_delivery_that_can_be_read_now_is_an_event() -> anyhow::Result<()> {
    let (mut stage, ..) = ready("readable").await?;
    let uid = stage.users.webhooks().get("alarms").await?.metadata.uid;
    let uid = uid.unwrap_or_default();
    stage.receiver.terminate(SOON).await?;
    // As a program left it that could not read it.
    let path = stage.dir.join("journal");
    let (journal, _feed) = Journal::start(&path, Options::default())?;
    journal
        .state()
        .wait_for(|state| *state == State::Open)
        .await?;
    let body = json!({"event": "alarm.triggered", "data": {"alarm_id": "replayed"}}).to_string();
    let key = DeliveryKey::of(&uid, body.as_bytes());
    let now = Timestamp::now();
    let received = Received {
        key,
        occurrence: None,
        webhook: WebhookIdentity {
            namespace: stage.users.namespace.clone(),
            name: "alarms".into(),
            uid,
        },
        class: Class::Other,
        key_id: "key-1".into(),
        place: KeyPlace::Current,
        received_at: now,
        labels: std::collections::BTreeMap::new(),
        webhook_id: None,
        body: body.into_bytes(),
    };
    journal.append(received).await?;
    journal
        .bury(
            key,
            Cause {
                kind: DeadKind::Unreadable,
                reason: "it has no event name".to_owned(),
            },
            now,
        )
        .await?;
    journal.close().await;

    stage.receiver.restart().await?;
    stage.receiver.ready(SOON).await?;
    assert_eq!(dead_letters(&path)?.len(), 1);
    succeeded(command(&["replay", "--key", &key.short()], &path)?)?;
    let events = stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    let shown = serde_json::to_string(&events[0])?;
    assert!(shown.contains("replayed"), "{shown}");
    eventually("no dead letter to be left", SOON, || async {
        let letters = dead_letters(&path)?;
        anyhow::ensure!(letters.is_empty(), "{letters:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_the_api_server_refused_is_an_event_by_itself_once_it_is_accepted()
-> anyhow::Result<()> {
    let (mut stage, ..) = ready("again").await?;
    let uid = stage.users.webhooks().get("alarms").await?.metadata.uid;
    let uid = uid.unwrap_or_default();
    stage.receiver.terminate(SOON).await?;
    // As a receiver left them to which the API server said no an hour ago, and of which one is not due yet.
    let path = stage.dir.join("journal");
    let (journal, _feed) = Journal::start(&path, Options::default())?;
    journal
        .state()
        .wait_for(|state| *state == State::Open)
        .await?;
    let now = Timestamp::now();
    let mut buried = Vec::new();
    for (alarm, buried_at) in [
        ("first", now - SignedDuration::from_hours(1)),
        ("second", now - SignedDuration::from_hours(1)),
        ("third", now),
    ] {
        let body = json!({"event": "alarm.triggered", "data": {"alarm_id": alarm}}).to_string();
        let received = Received {
            key: DeliveryKey::of(&uid, body.as_bytes()),
            occurrence: None,
            webhook: WebhookIdentity {
                namespace: stage.users.namespace.clone(),
                name: "alarms".into(),
                uid: uid.clone(),
            },
            class: Class::Alarm,
            key_id: "key-1".into(),
            place: KeyPlace::Current,
            received_at: buried_at,
            labels: std::collections::BTreeMap::new(),
            webhook_id: None,
            body: body.into_bytes(),
        }
        .read_again();
        buried.push((received.key, buried_at));
        journal.append(received).await?;
    }
    // This journal, too, would take up what is due, half a second from now.
    for (key, buried_at) in buried {
        let cause = Cause {
            kind: DeadKind::Refused,
            reason: "the API server does not take the Event".to_owned(),
        };
        journal.bury(key, cause, buried_at).await?;
    }
    journal.close().await;
    let table = succeeded(command(&["deadletters"], &path)?)?;
    assert!(
        table.contains("KIND") && table.contains("refused"),
        "{table}"
    );

    stage.receiver.restart().await?;
    stage.receiver.ready(SOON).await?;
    // The third one, too: where one is accepted, the others need not wait for their time.
    let events = stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 3, SOON * 2)
        .await?;
    assert_eq!(events.len(), 3);
    eventually("no dead letter to be left", SOON, || async {
        let letters = dead_letters(&path)?;
        anyhow::ensure!(letters.is_empty(), "{letters:?}");
        let metrics = stage.receiver.metrics().await?;
        let none = "chekt_receiver_journal_dead_letters 0";
        anyhow::ensure!(metrics.lines().any(|line| line == none), "{metrics}");
        Ok(())
    })
    .await
}

/// Sends so many alarms, some at the same time, and counts the answers.
async fn flood(
    url: &str,
    secret: &str,
    count: usize,
) -> anyhow::Result<std::collections::BTreeMap<u16, usize>> {
    let client = reqwest::Client::new();
    let sent = futures::stream::iter(0..count).map(|i| {
        let body = json!({"event": "alarm.triggered", "data": {"alarm_id": format!("a-{i}")}});
        let body = body.to_string();
        let request = client
            .post(url)
            .header("Content-Type", "application/json")
            .header("x-webhook-signature", sign(secret, &body))
            .body(body);
        async move { Ok::<_, anyhow::Error>(request.send().await?.status().as_u16()) }
    });
    let mut answers = std::collections::BTreeMap::new();
    let mut sent = sent.buffer_unordered(32);
    while let Some(status) = sent.next().await {
        *answers.entry(status?).or_default() += 1;
    }
    Ok(answers)
}

#[tokio::test]
async fn a_webhook_that_fills_the_journal_is_refused_and_its_neighbours_are_not()
-> anyhow::Result<()> {
    let other = Cluster::new("neighbour").await?;
    let options = StageOptions {
        controller: vec!["--watch-namespace".to_owned(), other.namespace.clone()],
        ..StageOptions::default()
    };
    let stage = Stage::verified("crowd", &["alarm.triggered"], options).await?;
    let spec = json!({"spec": {"allowedNamespaces": {"from": "All"}}}).to_string();
    let args = ["patch", "cacc", "default", "--type=merge", "-p", &spec];
    stage.users.kubectl(&args).await?.ok()?;
    let never = json!({"testPolicy": "Never"});
    stage
        .apply_webhook("doors", &["alarm.triggered"], never)
        .await?;
    let account = json!({"name": "default", "namespace": stage.users.namespace});
    let elsewhere = json!({"testPolicy": "Never", "accountRef": account});
    other
        .apply_webhook("alarms", &["alarm.triggered"], elsewhere)
        .await?;
    let mut secrets = Vec::new();
    for (namespace, name) in [
        (&stage.users.namespace, "alarms"),
        (&stage.users.namespace, "doors"),
        (&other.namespace, "alarms"),
    ] {
        let path = format!("/webhooks/{namespace}/{name}");
        let url = format!("{}{path}", stage.public_url()?);
        let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
        secrets.push((path, secret));
    }
    let kubeconfig = stage.users.plane.kubeconfig(Identity::Admin);
    let launch = Launch::new(Role::Receiver)
        .env("KUBECONFIG", kubeconfig.display())
        .flag("--journal", stage.dir.join("crowded").display())
        .flag("--operator-namespace", &stage.operator.namespace)
        .flag("--watch-namespace", &stage.users.namespace)
        .flag("--watch-namespace", &other.namespace)
        .flag("--journal-max-records", 2_560)
        .flag("--events-per-second", 1)
        .flag("--events-burst", 1);
    let receiver = Process::start(launch).await?;
    receiver.ready(SOON).await?;
    let public = receiver.public()?;
    let [alarms, doors, others] = &secrets[..] else {
        unreachable!("three were pushed")
    };
    let send = async |(path, secret): &(String, String), count| {
        flood(&format!("http://{public}{path}"), secret, count).await
    };
    let flooded = send(alarms, 1_700).await?;
    let [taken, refused] = [200, 503].map(|status| flooded.get(&status).copied().unwrap_or(0));
    assert_eq!(taken + refused, 1_700, "{flooded:?}");
    // Half of the journal, and what was published meanwhile.
    assert!((1_280..1_600).contains(&taken), "{flooded:?}");
    for (who, count) in [(doors, 10), (others, 60)] {
        let answers = send(who, count).await?;
        assert_eq!(answers, [(200, count)].into(), "{who:?}");
    }
    let metrics = receiver.metrics().await?;
    assert!(metrics.contains(r#"outcome="over_share""#), "{metrics}");
    let full = r#"chekt_receiver_deliveries_total{outcome="journal_full"} 0"#;
    assert!(metrics.lines().any(|line| line == full), "{metrics}");
    eventually("the status to say so", SOON * 2, || async {
        let webhook = stage.users.webhooks().get("alarms").await?;
        let deliveries = webhook.status.and_then(|status| status.deliveries);
        let why = deliveries.and_then(|d| d.last_rejected_reason);
        let said = why.as_ref().is_some_and(|why| why == "OverShare");
        anyhow::ensure!(said, "{why:?}");
        Ok(())
    })
    .await
}

/// A second receiver of a stage, whose journal is in `dir` and which is started through another program.
async fn another(stage: &Stage, dir: &Path, through: &[&str]) -> anyhow::Result<Process> {
    let kubeconfig = stage.users.plane.kubeconfig(Identity::Admin);
    let launch = Launch::new(Role::Receiver)
        .through(through)
        .env("KUBECONFIG", kubeconfig.display())
        .flag("--journal", dir.join("journal").display())
        .flag("--operator-namespace", &stage.operator.namespace)
        .flag("--watch-namespace", &stage.users.namespace);
    Process::start(launch).await
}

/// What `/readyz` answers.
async fn readiness(receiver: &Process) -> anyhow::Result<(u16, String)> {
    let answer = reqwest::get(format!("http://{}/readyz", receiver.ops()?)).await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

async fn not_ready_because(receiver: &Process, why: &str) -> anyhow::Result<()> {
    eventually("the reason in /readyz", SOON, || async {
        let (status, text) = readiness(receiver).await?;
        anyhow::ensure!(status == 503 && text.contains(why), "{status}: {text}");
        Ok(())
    })
    .await
}

/// Deliveries with numbers in them, and which of them were acknowledged.
struct Sender {
    url: String,
    secret: String,
    sent: usize,
    acknowledged: BTreeSet<String>,
}

impl Sender {
    async fn post(&mut self, filling: usize) -> anyhow::Result<u16> {
        self.sent += 1;
        let alarm = format!("alarm-{}", self.sent);
        let body = json!({
            "event": "alarm.triggered",
            "data": {"alarm_id": alarm, "filling": "x".repeat(filling)},
        });
        let body = body.to_string();
        let status = post(&self.url, &body, &sign(&self.secret, &body)).await?;
        if status == 200 {
            self.acknowledged.insert(alarm);
        }
        Ok(status)
    }

    /// Sends until it is refused.
    async fn until_refused(&mut self, filling: usize, most: usize) -> anyhow::Result<()> {
        for _ in 0..most {
            match self.post(filling).await? {
                200 => {}
                503 => return Ok(()),
                other => anyhow::bail!("answered {other}"),
            }
        }
        anyhow::bail!("none of {most} deliveries was refused")
    }

    async fn until_taken(&mut self, filling: usize) -> anyhow::Result<()> {
        let this = tokio::sync::Mutex::new(self);
        eventually("a delivery to be taken", SOON, || async {
            let status = this.lock().await.post(filling).await?;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        })
        .await
    }

    async fn all_are_events(&self, stage: &Stage) -> anyhow::Result<()> {
        eventually(
            "an Event for each acknowledged delivery",
            SOON * 2,
            || async {
                let events = stage.users.events_of("alarms").await?;
                let label = |event: &k8s_openapi::api::events::v1::Event| {
                    let labels = event.metadata.labels.clone().unwrap_or_default();
                    labels.get("chekt.com/alarm-id").cloned()
                };
                let alarms: Vec<String> = events.iter().filter_map(label).collect();
                let there: BTreeSet<String> = alarms.iter().cloned().collect();
                anyhow::ensure!(alarms.len() == there.len(), "an alarm appears twice");
                let missing: Vec<&String> = self.acknowledged.difference(&there).collect();
                anyhow::ensure!(missing.is_empty(), "missing: {missing:?}");
                Ok(())
            },
        )
        .await
    }
}

/// Whether this machine lets a test mount a file system of its own. It says so where it does not.
fn can_mount(dir: &Path, test: &str) -> bool {
    let mount = ["--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let tried = Command::new("unshare").args(mount).arg(dir).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("{test}: nothing can be mounted here, so this was not tested (it takes root)");
    }
    can
}

/// The root directory as a process sees it that has mounts of its own.
fn seen_by(process: &Process, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", process.id()));
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[tokio::test]
async fn a_full_disk_is_503_until_there_is_room_and_nothing_acknowledged_is_lost()
-> anyhow::Result<()> {
    let (stage, secret, path) = ready("full").await?;
    let dir = stage.dir.join("disk");
    std::fs::create_dir(&dir)?;
    if !can_mount(&dir, "a full disk") {
        return Ok(());
    }
    let disk = dir.display().to_string();
    let mount = r#"mount -t tmpfs -o size=6m tmpfs "$0" && exec "$@""#;
    let mut receiver = another(
        &stage,
        &dir,
        &["unshare", "--mount", "sh", "-c", mount, &disk],
    )
    .await?;
    receiver.ready(SOON).await?;
    let mut sender = Sender {
        url: format!("http://{}{path}", receiver.public()?),
        secret,
        sent: 0,
        acknowledged: BTreeSet::new(),
    };
    for _ in 0..10 {
        assert_eq!(sender.post(200).await?, 200);
    }
    let filler = seen_by(&receiver, &dir.join("filler"));
    let mut file = std::fs::File::create(&filler)?;
    let chunk = [0; 4096];
    while file.write_all(&chunk).is_ok() {}
    sender.until_refused(20_000, 60).await?;
    not_ready_because(&receiver, "full").await?;
    for _ in 0..5 {
        assert_eq!(sender.post(20_000).await?, 503);
    }
    assert!(receiver.ended()?.is_none(), "{}", receiver.log_tail());
    let metrics = receiver.metrics().await?;
    assert!(metrics.contains(r#"outcome="journal_failed""#), "{metrics}");

    drop(file);
    std::fs::remove_file(&filler)?;
    sender.until_taken(20_000).await?;
    receiver.ready(SOON).await?;
    sender.all_are_events(&stage).await
}

#[tokio::test]
async fn a_disk_that_gives_errors_is_503_until_it_works_again() -> anyhow::Result<()> {
    let (stage, secret, path) = ready("errors").await?;
    let dir = stage.dir.join("disk");
    std::fs::create_dir(&dir)?;
    // No file may grow beyond 256 KiB: writing fails with EFBIG, which SQLite takes for an error of the disk.
    let limit = r#"trap "" XFSZ; ulimit -S -f 512; exec "$@""#;
    let mut receiver = another(&stage, &dir, &["sh", "-c", limit, "sh"]).await?;
    receiver.ready(SOON).await?;
    let mut sender = Sender {
        url: format!("http://{}{path}", receiver.public()?),
        secret,
        sent: 0,
        acknowledged: BTreeSet::new(),
    };
    sender.until_refused(60_000, 60).await?;
    // `/readyz` says it only for a moment: what fails here is the log, and it is worked off before the next attempt.
    eventually("the reason in the log", SOON, || async {
        let said = |line: &String| line.contains("the journal cannot be written: disk I/O error");
        anyhow::ensure!(receiver.log_lines().iter().any(said), "no such line");
        Ok(())
    })
    .await?;
    assert!(receiver.ended()?.is_none(), "{}", receiver.log_tail());
    let lifted = Command::new("prlimit")
        .args([
            "--fsize=unlimited:unlimited",
            "--pid",
            &receiver.id().to_string(),
        ])
        .output()?;
    anyhow::ensure!(lifted.status.success(), "prlimit: {lifted:?}");
    sender.until_taken(60_000).await?;
    receiver.ready(SOON).await?;
    sender.all_are_events(&stage).await
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_waited_for_at_the_start() -> anyhow::Result<()> {
    let (stage, secret, path) = ready("readonly").await?;
    let dir = stage.dir.join("disk");
    std::fs::create_dir(&dir)?;
    if !can_mount(&dir, "a read-only disk") {
        return Ok(());
    }
    let disk = dir.display().to_string();
    let mount = r#"mount -t tmpfs -o size=6m,ro tmpfs "$0" && exec "$@""#;
    let mut receiver = another(
        &stage,
        &dir,
        &["unshare", "--mount", "sh", "-c", mount, &disk],
    )
    .await?;
    not_ready_because(&receiver, "Read-only file system").await?;
    let mut sender = Sender {
        url: format!("http://{}{path}", receiver.public()?),
        secret,
        sent: 0,
        acknowledged: BTreeSet::new(),
    };
    assert_eq!(sender.post(200).await?, 503);
    assert!(receiver.ended()?.is_none(), "{}", receiver.log_tail());
    let pid = receiver.id().to_string();
    let remounted = Command::new("nsenter")
        .args(["-t", &pid, "-m", "mount", "-o", "remount,rw", &disk])
        .output()?;
    anyhow::ensure!(remounted.status.success(), "nsenter: {remounted:?}");
    sender.until_taken(200).await?;
    receiver.ready(SOON).await?;
    sender.all_are_events(&stage).await
}

#[tokio::test]
async fn garbage_in_the_file_is_set_aside_and_deliveries_are_taken() -> anyhow::Result<()> {
    let (mut stage, secret, path) = ready("garbage").await?;
    stage.receiver.terminate(SOON).await?;
    let journal = stage.dir.join("journal");
    let garbage = b"\xde\xad\xbe\xef".repeat(5_000);
    std::fs::write(journal.join("journal.sqlite"), &garbage)?;
    stage.receiver.restart().await?;
    stage.receiver.ready(SOON).await?;
    let mut sender = Sender {
        url: format!("http://{}{path}", stage.receiver.public()?),
        secret,
        sent: 0,
        acknowledged: BTreeSet::new(),
    };
    assert_eq!(sender.post(200).await?, 200);
    sender.all_are_events(&stage).await?;
    let log = stage.receiver.log_lines();
    let said = log
        .iter()
        .filter(|line| line.contains("was damaged"))
        .count();
    assert_eq!(said, 1, "{}", stage.receiver.log_tail());
    let aside = std::fs::read_dir(&journal)?
        .filter_map(Result::ok)
        .find(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("journal-damaged-")
        });
    let aside = aside.expect("it is kept");
    assert_eq!(std::fs::read(aside.path())?, garbage);
    Ok(())
}
