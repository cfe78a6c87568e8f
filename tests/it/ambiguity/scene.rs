//! A scene: one cell, played on a stage of its own from an empty account to its end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use chekt_operator::resources::ChektWebhook;
use chekt_operator::resources::conditions::{self, READY, VERIFIED};
use chekt_operator::resources::keyring::Keyring;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use super::cells::{Cell, End, Step};
use super::verdict::{Verdict, most_calls_a_minute};
use crate::harness::eventually::throughout;
use crate::harness::sandbox_client::RemoteWebhook;
use crate::harness::{Stage, eventually};

/// How long the beginning may take.
const SOON: Duration = Duration::from_secs(60);
/// How long a cell may take to its end: a request that times out, the settle time, lists, and pauses that double.
const END: Duration = Duration::from_secs(100);

const NAME: &str = "alarms";
const STRANGERS: &str = "https://stranger.example/";
const FIRST_SECRET: &str = "the-first-secret-of-the-user";
const SECOND_SECRET: &str = "the-second-secret-of-the-user";

/// Plays a cell. What goes wrong with the stage itself is a stuck cell too.
pub async fn play(cell: &Cell, hold: Duration) -> Verdict {
    let began = Instant::now();
    let played = async {
        let stage = Stage::new("ambiguity").await?;
        let verdict = on(&stage, cell, hold).await;
        anyhow::Ok(verdict)
    };
    played.await.unwrap_or_else(|error| Verdict {
        stuck: Some(format!("no stage: {error:#}")),
        took: began.elapsed(),
        ..Verdict::default()
    })
}

async fn on(stage: &Stage, cell: &Cell, hold: Duration) -> Verdict {
    let began = Instant::now();
    let mut stuck = None;
    let mut took = Duration::ZERO;
    let mut losses = 0;
    if let Err(error) = act(stage, cell).await {
        stuck = Some(format!("its beginning: {error:#}"));
    } else {
        let acted = Instant::now();
        match ended(stage, cell).await {
            Ok(()) => {
                took = acted.elapsed();
                match stays(stage, cell, hold).await {
                    Ok(()) => {}
                    Err(error) => stuck = Some(format!("it did not last: {error:#}")),
                }
                if let Err(error) = delivers(stage, cell).await {
                    losses += 1;
                    stuck.get_or_insert(format!("its deliveries: {error:#}"));
                }
            }
            Err(error) => stuck = Some(format!("its end: {error:#}")),
        }
    }
    let counted = async {
        let ledger = stage.chekt.ledger(0).await?;
        let all = stage.chekt.all_webhooks().await?;
        let made = all.iter().filter(|w| is_ours(w)).count();
        let live = all.iter().filter(|w| is_ours(w) && !w.deleted).count();
        let there = stage.users.webhooks().get_opt(NAME).await?.is_some();
        anyhow::Ok((ledger, made, live, there))
    };
    let (ledger, made, live, there) = match counted.await {
        Ok(counted) => counted,
        Err(error) => {
            return Verdict {
                stuck: Some(format!("nothing can be counted: {error:#}")),
                ..Verdict::default()
            };
        }
    };
    if there && live == 0 && cell.step != Step::Delete && !is_refused(cell) {
        losses += 1;
    }
    let record = if stuck.is_some() {
        format!(
            "calls: {}\n{}",
            ledger.calls_with_times().join("\n    "),
            tail(&stage.log_tails())
        )
    } else {
        String::new()
    };
    Verdict {
        duplicates: if there { live.saturating_sub(1) } else { 0 },
        leaks: if there { 0 } else { live },
        losses,
        stuck,
        twins: made
            .saturating_sub(live.max(1))
            .saturating_sub(remade(cell)),
        calls: most_calls_a_minute(&ledger),
        took: if took.is_zero() {
            began.elapsed()
        } else {
            took
        },
        record,
    }
}

/// How many remote webhooks take the place of another one by right.
fn remade(cell: &Cell) -> usize {
    let anew = cell.step == Step::Reactivate
        && (cell.quirks["reenable"] == "only_recreate"
            || cell.quirks["patch_ignores"] == json!(["status"])
            || cell.quirks["patch_refuses"] == json!(["status"]));
    usize::from(anew)
}

/// What is refused from the beginning is never made.
fn is_refused(cell: &Cell) -> bool {
    cell.answer == "unknown events refused"
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn is_ours(remote: &RemoteWebhook) -> bool {
    !remote.url.starts_with(STRANGERS)
}

/// Brings the stage to where the step is about to be made, and lets it be made.
async fn act(stage: &Stage, cell: &Cell) -> anyhow::Result<()> {
    strangers(stage, cell.strangers).await?;
    stage.chekt.set_quirks(cell.quirks.clone()).await?;
    stage
        .users
        .put_secret("own", &[("signing", FIRST_SECRET)])
        .await?;
    let faults = serde_json::from_value::<Vec<_>>(cell.faults.clone())?;
    if cell.step == Step::List {
        stage.chekt.set_faults(&faults).await?;
        stage.apply_account("10s").await?;
    } else {
        stage.apply_account("10s").await?;
        stage
            .users
            .account_condition("default", READY, "True", SOON)
            .await?;
    }
    match cell.step {
        Step::Create | Step::Test => {
            stage.chekt.set_faults(&faults).await?;
            wanted(stage, cell).await
        }
        Step::List => {
            // A create, which rests on lists more than anything else does, and then an edit.
            stage
                .apply_webhook(NAME, &["alarm.triggered", "site.created"], json!({}))
                .await?;
            ready(stage, VERIFIED).await?;
            wanted(stage, cell).await
        }
        Step::PatchUrl => {
            let elsewhere = stage.derived_url("elsewhere")?;
            let more = json!({"url": elsewhere, "secretRef": {"name": "own", "key": "signing"}});
            stage.apply_webhook(NAME, &events(cell), more).await?;
            ready(stage, READY).await?;
            stage.chekt.set_faults(&faults).await?;
            wanted(stage, cell).await
        }
        Step::PatchEvents => {
            stage
                .apply_webhook(NAME, &["alarm.triggered", "site.created"], json!({}))
                .await?;
            ready(stage, VERIFIED).await?;
            stage.chekt.set_faults(&faults).await?;
            wanted(stage, cell).await
        }
        Step::PatchSecret => {
            wanted(stage, cell).await?;
            ready(stage, VERIFIED).await?;
            stage.chekt.set_faults(&faults).await?;
            stage
                .users
                .put_secret("own", &[("signing", SECOND_SECRET)])
                .await
        }
        Step::Reactivate => {
            wanted(stage, cell).await?;
            ready(stage, VERIFIED).await?;
            stage.chekt.set_faults(&faults).await?;
            let mut live = ours(stage).await?;
            let remote = live.pop().context("nothing to be switched off")?;
            stage
                .chekt
                .patch_webhook(&remote.webhook_id, json!({"status": "disabled"}))
                .await?;
            seen_off(stage).await
        }
        Step::Delete => {
            wanted(stage, cell).await?;
            ready(stage, VERIFIED).await?;
            stage.chekt.set_faults(&faults).await?;
            stage
                .users
                .webhooks()
                .delete(NAME, &DeleteParams::default())
                .await?;
            Ok(())
        }
    }
}

/// Applies the webhook as it is wanted at the end.
async fn wanted(stage: &Stage, cell: &Cell) -> anyhow::Result<()> {
    let given = json!({"name": "own", "key": "signing"});
    let more = match cell.step {
        Step::PatchUrl | Step::PatchSecret => json!({"secretRef": given}),
        Step::Reactivate => json!({"recovery": {"cooldown": "10s"}}),
        _ if cell.odd_url => json!({"url": odd_url(stage)?, "secretRef": given}),
        _ => json!({}),
    };
    stage.apply_webhook(NAME, &events(cell), more).await
}

fn odd_url(stage: &Stage) -> anyhow::Result<String> {
    let url = stage.derived_url(NAME)?;
    Ok(url
        .replace("http://", "HTTP://")
        .replace("/webhooks/", "/./webhooks/"))
}

fn events(cell: &Cell) -> Vec<&'static str> {
    let more = cell.events.iter().copied();
    [&"alarm.triggered"]
        .into_iter()
        .copied()
        .chain(more)
        .collect()
}

async fn strangers(stage: &Stage, count: usize) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    for number in 0..count {
        let url = format!("{STRANGERS}{number}");
        let body = json!({"url": url, "events": ["site.armed"], "secret": "somebody-elses"});
        http.post(format!("{}/partner/v1/webhooks", stage.base_url()?))
            .bearer_auth(&stage.token)
            .json(&body)
            .send()
            .await?
            .error_for_status()?;
    }
    Ok(())
}

async fn ready(stage: &Stage, kind: &str) -> anyhow::Result<()> {
    stage
        .users
        .webhook_condition(NAME, kind, "True", SOON)
        .await?;
    // Nothing is left to be done, so that what is counted below comes of the step alone.
    stage
        .users
        .webhook_condition(NAME, READY, "True", SOON)
        .await?;
    Ok(())
}

async fn ours(stage: &Stage) -> anyhow::Result<Vec<RemoteWebhook>> {
    let mut all = stage.chekt.webhooks().await?;
    all.retain(is_ours);
    Ok(all)
}

async fn object(stage: &Stage) -> anyhow::Result<ChektWebhook> {
    Ok(stage.users.webhooks().get(NAME).await?)
}

/// The operator has seen that the webhook is off: from then on it is at work.
async fn seen_off(stage: &Stage) -> anyhow::Result<()> {
    eventually("the outage to be seen", SOON, async || {
        let status = object(stage).await?.status.unwrap_or_default();
        anyhow::ensure!(status.last_outage.is_some(), "{:?}", status.state);
        Ok(())
    })
    .await
}

/// Waits for the end that the cell must have.
async fn ended(stage: &Stage, cell: &Cell) -> anyhow::Result<()> {
    eventually("the end", END, async || {
        let mark = stage.chekt.mark().await?;
        is_at_its_end(stage, cell).await?;
        // What is still on its way, such as a test delivery that is to prove it again, is a part of getting there.
        throughout("silence", quiet(cell), async || {
            is_silent(stage, mark).await
        })
        .await?;
        is_at_its_end(stage, cell).await
    })
    .await
}

/// How long nothing must be written for a cell to be at its end. A list that shows a change only after the settle time
/// is a reason to make the change once more, and the next list may be an interval away.
fn quiet(cell: &Cell) -> Duration {
    Duration::from_secs(if cell.lag() > 5_000 { 20 } else { 2 })
}

async fn is_silent(stage: &Stage, mark: u64) -> anyhow::Result<()> {
    let writes = stage.chekt.ledger(mark).await?.writes();
    anyhow::ensure!(writes.is_empty(), "still written: {writes:?}");
    Ok(())
}

/// Nothing changes any more, and nothing more is written.
async fn stays(stage: &Stage, cell: &Cell, hold: Duration) -> anyhow::Result<()> {
    let mark = stage.chekt.mark().await?;
    throughout("what was reached", hold, async || {
        is_at_its_end(stage, cell).await?;
        is_silent(stage, mark).await
    })
    .await
}

async fn is_at_its_end(stage: &Stage, cell: &Cell) -> anyhow::Result<()> {
    let live = ours(stage).await?;
    if cell.step == Step::Delete {
        let there = stage.users.webhooks().get_opt(NAME).await?;
        // A leak is final: nobody is left to take it away.
        anyhow::ensure!(
            there.is_none(),
            "the object is still there: {}",
            said(there.as_ref())
        );
        return Ok(());
    }
    let object = object(stage).await?;
    let status = object.status.clone().unwrap_or_default();
    let said = said(Some(&object));
    let find = |kind| conditions::find(&status.conditions, kind);
    let has = |kind, truth: &str| find(kind).is_some_and(|c| c.status == truth);
    anyhow::ensure!(
        status.observed_generation == object.metadata.generation,
        "an older generation is observed: {said}"
    );
    let count = live.len();
    match &cell.end {
        End::DoneWithoutAccount(words) => {
            let account = stage.users.accounts().get("default").await?;
            let account = account.status.unwrap_or_default().conditions;
            let ready = conditions::find(&account, READY).filter(|c| c.status == "False");
            let message = ready.map(|c| c.message.clone()).unwrap_or_default();
            let missing = words.iter().find(|word| !message.contains(**word));
            anyhow::ensure!(missing.is_none(), "{missing:?} is not in: {message}");
        }
        End::Stalled(words) => {
            anyhow::ensure!(!has("Reconciling", "True"), "still reconciling: {said}");
            let stalled = find("Stalled").filter(|c| c.status == "True");
            let stalled = stalled.with_context(|| format!("not stalled: {said}"))?;
            let missing = words.iter().find(|word| !stalled.message.contains(**word));
            anyhow::ensure!(missing.is_none(), "{missing:?} is not in: {said}");
            let fewest = usize::from(!is_refused(cell));
            anyhow::ensure!((fewest..=1).contains(&count), "{count} live: {said}");
            return Ok(());
        }
        End::Done | End::Unverified => {}
    }
    anyhow::ensure!(count == 1, "{count} live remote webhooks: {said}");
    anyhow::ensure!(has(READY, "True"), "not ready: {said}");
    let verified = match cell.end {
        End::Unverified => "False",
        End::Done | End::DoneWithoutAccount(_) | End::Stalled(_) => "True",
    };
    anyhow::ensure!(has(VERIFIED, verified), "not Verified={verified}: {said}");
    for kind in ["Stalled", "Reconciling"] {
        anyhow::ensure!(find(kind).is_none(), "{kind}: {said}");
    }
    if cell.step == Step::Reactivate {
        let tests = stage.chekt.ledger(0).await?.calls("test").len();
        anyhow::ensure!(tests >= 2, "it was not proved again since it was off");
    }
    as_written(stage, cell, &object, &live[0]).await
}

/// The remote webhook is as written, up to what the server makes of spelling and order, and the one on record.
async fn as_written(
    stage: &Stage,
    cell: &Cell,
    object: &ChektWebhook,
    remote: &RemoteWebhook,
) -> anyhow::Result<()> {
    let url = if cell.odd_url {
        odd_url(stage)?
    } else {
        stage.derived_url(NAME)?
    };
    anyhow::ensure!(remote.url == url, "it delivers to {}", remote.url);
    let wanted: BTreeSet<&str> = events(cell).into_iter().collect();
    let there: BTreeSet<&str> = remote.events.iter().map(String::as_str).collect();
    anyhow::ensure!(there == wanted, "its events are {there:?}");
    anyhow::ensure!(remote.status == "active", "it is {}", remote.status);
    let recorded = object.status.as_ref().and_then(|s| s.webhook_id.clone());
    anyhow::ensure!(
        recorded.as_ref() == Some(&remote.webhook_id),
        "{recorded:?} is on record"
    );
    let name = Keyring::secret_name(&object.uid().unwrap_or_default());
    let keyring = Keyring::from_secret(&stage.operator.secrets().get(&name).await?)?;
    let current = keyring.current.context("no current key")?;
    anyhow::ensure!(
        current.secret.expose() == remote.secret.as_bytes(),
        "another secret is there"
    );
    let seen = object.status.as_ref().and_then(|s| s.deliveries.clone());
    let proved = seen.and_then(|seen| seen.last_test_key) == Some(current.id);
    anyhow::ensure!(
        proved || cell.end == End::Unverified,
        "no test delivery has come back under the current key"
    );
    if cell.step == Step::PatchSecret {
        anyhow::ensure!(remote.secret == SECOND_SECRET, "it is not the second one");
    }
    Ok(())
}

/// An alarm now becomes one Event, whether or not the webhook is all that was written.
async fn delivers(stage: &Stage, cell: &Cell) -> anyhow::Result<()> {
    if cell.step == Step::Delete || ours(stage).await?.is_empty() {
        return Ok(());
    }
    // A url that could not be changed leads nowhere.
    if cell.step == Step::PatchUrl && cell.end != End::Done {
        return Ok(());
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut sent = stage
        .chekt
        .emit("alarm.triggered", json!({"alarm_id": id}))
        .await?;
    let live = ours(stage).await?;
    sent.retain(|s| live.iter().any(|w| w.webhook_id == s.webhook_id));
    anyhow::ensure!(sent.len() == 1, "{} deliveries of one alarm", sent.len());
    stage
        .chekt
        .delivered(&sent, Duration::from_secs(20))
        .await?;
    eventually(
        "one Event of the alarm",
        Duration::from_secs(20),
        async || {
            let all = stage.users.events_of(NAME).await?;
            let mine = all
                .iter()
                .filter(|e| e.annotations().values().any(|value| *value == id));
            let count = mine.count();
            anyhow::ensure!(count == 1, "{count} Events");
            Ok(())
        },
    )
    .await
}

fn said(object: Option<&ChektWebhook>) -> String {
    let Some(object) = object else {
        return "it is gone".to_owned();
    };
    let status = object.status.clone().unwrap_or_default();
    let each = status.conditions.iter();
    let each = each.map(|c| format!("{}={} {} ({})", c.type_, c.status, c.reason, c.message));
    format!(
        "id {:?}, {}",
        status.webhook_id,
        each.collect::<Vec<_>>().join("; ")
    )
}
