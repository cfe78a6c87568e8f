//! What happens in the demo, in order, and what must be so after each step.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::eventually::throughout;
use crate::harness::sandbox_client::RemoteWebhook;
use crate::harness::{ControlPlane, Stage, StageOptions, process};
use crate::manifests;
use crate::voice::Voice;

const OPERATOR: &str = "chekt-system";
const USERS: &str = "security";
const WEBHOOK: &str = "alarms";

/// How long one step may take; each takes a second or two.
const STEP: Duration = Duration::from_secs(60);
/// How long a second Event for the same alarm is watched for.
const WATCH: Duration = Duration::from_secs(2);

/// Tells the whole story and gives back the stage, on which everything still runs.
pub async fn tell(voice: &Voice) -> anyhow::Result<Stage> {
    voice.say("chekt-operator: from an empty cluster to an alarm that is a Kubernetes Event.");
    let stage = set_up(voice).await?;
    let told = act(voice, &stage).await;
    told.with_context(|| stage.log_tails()).map(|()| stage)
}

async fn set_up(voice: &Voice) -> anyhow::Result<Stage> {
    voice.chapter(
        "A cluster",
        "A real API server with its store and controllers, on free ports of this machine. No container engine, \
         nothing of yours is touched.",
    );
    // Named here for a message of its own: without it nothing else can work.
    process::binary()?;
    let plane = ControlPlane::shared().await?;
    voice.seen(&format!(
        "the API server is ready at https://{}",
        plane.address()
    ));
    voice.seen("it knows two new kinds: ChektAccount and ChektWebhook");

    voice.chapter(
        "CHeKT and the operator",
        "A sandbox plays CHeKT's partner API. The receiver is what CHeKT delivers to; the controller keeps CHeKT as \
         the resources say. All three are the binary that runs in production.",
    );
    let options = StageOptions {
        namespaces: Some((OPERATOR.into(), USERS.into())),
        ..StageOptions::default()
    };
    let stage = Stage::with("demo", options).await?;
    voice.seen(&format!("sandbox     {}", stage.base_url()?));
    voice.seen(&format!("receiver    {}", stage.public_url()?));
    voice.seen("controller  ready");
    Ok(stage)
}

async fn act(voice: &Voice, stage: &Stage) -> anyhow::Result<()> {
    let remote = register(voice, stage).await?;
    let alarm = alarm(voice, stage, &remote).await?;
    forge(voice, stage, &alarm).await?;
    repeat(voice, stage, &remote, &alarm).await?;
    show(voice, stage).await
}

/// Applies the examples and waits until the webhook is registered and proved.
async fn register(voice: &Voice, stage: &Stage) -> anyhow::Result<RemoteWebhook> {
    voice.chapter(
        "A webhook, as a manifest",
        "Six lines say which events are wanted. Registering at CHeKT, making the signing secret, proving that \
         deliveries arrive: that is the operator's work.",
    );
    let users = &stage.users;
    users.apply(&manifests::secret(&stage.token)?).await?;
    users
        .apply(&manifests::account(&stage.base_url()?)?)
        .await?;
    voice.seen("applied examples/secret.yaml and examples/account.yaml, turned to the sandbox");
    let webhook = manifests::text("webhook.yaml")?;
    users.apply(&webhook).await?;
    let shown: Vec<_> = webhook.lines().filter(|l| !l.starts_with('#')).collect();
    voice.printed("kubectl apply -f examples/webhook.yaml", &shown.join("\n"));
    let wait = [
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "chektwebhook/alarms",
    ];
    let waited = users.kubectl(&wait).await?.ok()?;
    voice.printed(&format!("kubectl {}", wait.join(" ")), &waited);

    let here = stage.derived_url(WEBHOOK)?;
    let remote = stage.chekt.webhook_at(&here, STEP).await?;
    let all = stage.chekt.webhooks().await?.len();
    ensure!(all == 1, "CHeKT holds {all} webhooks, not one");
    voice.say("");
    voice.seen(&format!(
        "CHeKT holds exactly one webhook, {}, delivering to",
        remote.webhook_id
    ));
    voice.say(&format!("     {here}"));
    ensure!(
        remote.secret.len() >= 32,
        "the secret has only {} bytes",
        remote.secret.len()
    );
    voice.seen("its secret is 32 random bytes that nobody had to invent, send or see");
    users
        .webhook_condition(WEBHOOK, "Verified", "True", STEP)
        .await?;
    voice.seen("a test delivery went out and came back under that secret: the way is proved");
    Ok(remote)
}

/// Raises an alarm and clears it. Gives back the body of the first delivery.
async fn alarm(voice: &Voice, stage: &Stage, remote: &RemoteWebhook) -> anyhow::Result<String> {
    voice.chapter(
        "An alarm",
        "CHeKT signs the alarm and posts it. The receiver checks the signature over the raw bytes, writes the delivery \
         to disk, and only then answers 200. Then it becomes an Event on the webhook.",
    );
    let data = json!({
        "alarm_id": "alarm_xyz789", "site_id": "site_123", "device_id": "device_456",
        "severity": "high", "zone": "Front Door",
    });
    let sent = stage.chekt.emit("alarm.triggered", data).await?;
    ensure!(sent.len() == 1, "{} deliveries for one alarm", sent.len());
    stage.chekt.delivered(&sent, STEP).await?;
    voice.seen("alarm.triggered at the front door: delivered, answered 200");
    let event = one_event(stage, "AlarmTriggered").await?;
    voice.seen(&format!("Event {}", event.0));
    voice.say(&format!("     {}", event.1));

    let data = json!({"alarm_id": "alarm_xyz789", "site_id": "site_123"});
    let cleared = stage.chekt.emit("alarm.cleared", data).await?;
    stage.chekt.delivered(&cleared, STEP).await?;
    voice.seen("alarm.cleared: delivered, answered 200");
    let event = one_event(stage, "AlarmCleared").await?;
    voice.seen(&format!("Event {}", event.0));
    voice.say(&format!("     {}", event.1));

    let ledger = stage.chekt.ledger(0).await?;
    let delivery = ledger
        .deliveries()
        .into_iter()
        .find(|d| d.delivery_id == sent[0].delivery_id && d.webhook_id == remote.webhook_id)
        .context("the ledger does not hold the alarm")?;
    Ok(match &delivery.body {
        Value::String(body) => body.clone(),
        other => other.to_string(),
    })
}

/// Sends what somebody without the secret could send.
async fn forge(voice: &Voice, stage: &Stage, alarm: &str) -> anyhow::Result<()> {
    voice.chapter(
        "A forged delivery",
        "Anyone can find the receiver on the internet. Without the secret they cannot sign, and what is not rightly \
         signed is refused before anything reads it.",
    );
    let before = stage.users.events_of(WEBHOOK).await?.len();
    let forged = alarm.replace("Front Door", "Vault");
    ensure!(forged != alarm, "the forgery is the original");
    let answer = reqwest::Client::new()
        .post(stage.derived_url(WEBHOOK)?)
        .header("content-type", "application/json")
        .header(
            "x-webhook-signature",
            format!("sha256={}", "0123456789abcdef".repeat(4)),
        )
        .body(forged)
        .send()
        .await?;
    let status = answer.status().as_u16();
    ensure!(
        status == 401,
        "a forged delivery was answered {status}, not 401"
    );
    voice.seen("an alarm with a made-up signature: answered 401");
    throughout("no Event for a forged alarm", WATCH, async || {
        let now = stage.users.events_of(WEBHOOK).await?.len();
        ensure!(now == before, "{now} Events where there were {before}");
        Ok(())
    })
    .await?;
    voice.seen("no Event came of it");
    Ok(())
}

/// Delivers the alarm again, as CHeKT does when an answer was lost.
async fn repeat(
    voice: &Voice,
    stage: &Stage,
    remote: &RemoteWebhook,
    alarm: &str,
) -> anyhow::Result<()> {
    voice.chapter(
        "A duplicate",
        "When an answer is lost on the way, CHeKT delivers again. The copy is answered 200, or the webhook would be \
         switched off after three of them, but one alarm stays one Event.",
    );
    let mark = stage.chekt.mark().await?;
    stage.chekt.deliver(&remote.webhook_id, alarm, 2).await?;
    crate::harness::eventually("both copies to be answered 200", STEP, async || {
        let ledger = stage.chekt.ledger(mark).await?;
        let answers: Vec<_> = ledger.deliveries().iter().map(|d| d.status).collect();
        ensure!(answers == [Some(200), Some(200)], "answers: {answers:?}");
        Ok(())
    })
    .await?;
    voice.seen("the same alarm twice more, rightly signed: answered 200 both times");
    throughout("one Event for one alarm", WATCH, async || {
        let events = stage.users.events_of(WEBHOOK).await?;
        let reasons = events.iter().filter_map(|e| e.reason.as_deref());
        let count = reasons.filter(|r| *r == "AlarmTriggered").count();
        ensure!(count == 1, "{count} Events AlarmTriggered");
        Ok(())
    })
    .await?;
    voice.seen("still one Event for that alarm");
    Ok(())
}

async fn show(voice: &Voice, stage: &Stage) -> anyhow::Result<()> {
    voice.chapter(
        "What is left to see",
        "Everything above is in the cluster, for every tool that reads it.",
    );
    let accounts = stage.users.accounts();
    crate::harness::eventually("the account to count one webhook", STEP, async || {
        let status = accounts.get("default").await?.status;
        let counts = status.and_then(|s| s.webhooks).unwrap_or_default();
        ensure!((counts.managed, counts.foreign) == (1, 0), "{counts:?}");
        Ok(())
    })
    .await?;
    voice.seen("the account's next list of webhooks holds ours and no other");
    for args in [
        &["get", "chektaccounts"][..],
        &["get", "chektwebhooks", "-o", "wide"][..],
        &["events"][..],
    ] {
        let said = stage.users.kubectl(args).await?.ok()?;
        voice.printed(&format!("kubectl -n {USERS} {}", args.join(" ")), &said);
    }
    Ok(())
}

/// Waits for the one Event of a reason; gives back its name and its note.
async fn one_event(stage: &Stage, reason: &str) -> anyhow::Result<(String, String)> {
    let events = stage
        .users
        .events_with_reason(WEBHOOK, reason, 1, STEP)
        .await?;
    let event = events.into_iter().next().context("no Event")?;
    let kind = event.type_.unwrap_or_default();
    let name = event.metadata.name.unwrap_or_default();
    Ok((
        format!("{kind} {reason}, {name}"),
        event.note.unwrap_or_default(),
    ))
}

/// Tells how to look around, when everything is to run on.
pub fn leave_running(voice: &Voice, stage: &Stage) {
    let kubectl = stage.users.plane.assets().kubectl.display();
    let event = r#"{"event":"alarm.triggered","data":{"alarm_id":"alarm_2","zone":"Back Door"}}"#;
    voice.say(&format!(
        "\nEverything was as expected, in {} s, and runs on until you press Ctrl-C. In another terminal:\n",
        voice.seconds()
    ));
    voice.say(&format!(
        "  export KUBECONFIG={}\n",
        stage.users.kubeconfig().display()
    ));
    voice.say(&format!("  {kubectl} -n {USERS} get chekt -o yaml"));
    voice.say(&format!(
        "  {kubectl} -n {USERS} events --for chektwebhook/{WEBHOOK} --watch"
    ));
    voice.say(&format!(
        "  curl -X POST {}/sandbox/emit -H 'content-type: application/json' -d '{event}'",
        stage.chekt.base_url()
    ));
}

/// The last words.
pub fn close(voice: &Voice) {
    voice.say(&format!(
        "\nEverything was as expected, in {} s, and everything is stopped. `make demo KEEP=1` leaves it running.",
        voice.seconds()
    ));
}
