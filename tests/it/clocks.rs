//! Clocks that differ: no decision compares times that two machines wrote. One process of a stage has its wall clock
//! shifted, the API server and all others keep the machine's.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::conditions::{self, VERIFIED};
use chekt_operator::resources::keyring::Keyring;
use chekt_operator::resources::webhook::ChektWebhookStatus;
use chekt_operator::resources::{RECONCILE_REQUESTED_AT, ROTATE_REQUESTED_AT, TEST_REQUESTED_AT};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::deliveries::{post, sign};
use crate::harness::debian::Unfetched;
use crate::harness::sandbox_client::Fault;
use crate::harness::{FakeTime, Process, Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);
/// How far a clock is off, in seconds.
const OFFSETS: [f64; 8] = [0.4, -0.4, 3.0, -3.0, 180.0, -180.0, 3600.0, -3600.0];
/// Rows that run side by side.
const AT_ONCE: usize = 4;
const NAME: &str = "alarms";

/// Whose clock is off.
#[derive(Clone, Copy, Debug)]
enum Side {
    Controller,
    Receiver,
}

/// What shifts clocks; `None`, with a sentence, where this machine cannot.
fn shifter() -> anyhow::Result<Option<FakeTime>> {
    match FakeTime::find() {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is::<Unfetched>() => {
            println!("left out, since no clock can be shifted here: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_clocks_say_a_test_delivery_proves_its_request_and_a_previous_key_ends_in_time()
-> anyhow::Result<()> {
    let Some(clocks) = shifter()? else {
        return Ok(());
    };
    let both = [Side::Controller, Side::Receiver];
    let rows = OFFSETS
        .into_iter()
        .flat_map(|offset| both.map(|side| (side, offset)));
    futures::stream::iter(rows)
        .map(|(side, offset)| {
            let clocks = &clocks;
            async move {
                let done = row(clocks, side, offset).await;
                done.with_context(|| format!("{side:?} off by {offset} s"))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

/// A stage of which one process has its clock shifted.
async fn stage(clocks: &FakeTime, side: Side, offset: f64) -> anyhow::Result<Stage> {
    let mut options = StageOptions::default();
    match side {
        Side::Controller => options.controller_env = clocks.off_by(offset),
        Side::Receiver => options.receiver_env = clocks.off_by(offset),
    }
    let mut stage = Stage::verified("clock", &["alarm.triggered"], options).await?;
    let shifted = match side {
        Side::Controller => stage.controller()?,
        Side::Receiver => &mut stage.receiver,
    };
    is_off_by(shifted, offset).await?;
    Ok(stage)
}

/// Without this a library that shifts nothing would make every test here green.
async fn is_off_by(process: &Process, offset: f64) -> anyhow::Result<()> {
    let metrics = process.metrics().await?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("process_start_time_seconds "));
    let began: f64 = line.context("no start time")?.parse()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let age = now.as_secs_f64() + offset - began;
    anyhow::ensure!(
        (-0.1..60.0).contains(&age),
        "its clock is not shifted: {age}"
    );
    Ok(())
}

async fn row(clocks: &FakeTime, side: Side, offset: f64) -> anyhow::Result<()> {
    let mut stage = stage(clocks, side, offset).await?;
    let mut numbers = vec![proved(&status(&stage).await?)?];
    for request in ["first", "second", "third"] {
        annotate(&stage, TEST_REQUESTED_AT, request).await?;
        let seen = until_verified(&stage, request).await?;
        numbers.push(proved(&seen)?);
    }
    anyhow::ensure!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    previous_key(&mut stage, clocks, offset).await?;

    // The way is dead: whatever the receiver's clock said, this is not verified.
    stage.receiver.kill9()?;
    annotate(&stage, TEST_REQUESTED_AT, "dead").await?;
    let seen = handled(&stage, "dead").await?;
    let verified = conditions::find(&seen.conditions, VERIFIED).context("no Verified")?;
    anyhow::ensure!(verified.status != "True", "{verified:?}");
    Ok(())
}

/// A new secret: the one before is accepted, and goes once its time has come by the clock of the API server.
async fn previous_key(stage: &mut Stage, clocks: &FakeTime, offset: f64) -> anyhow::Result<()> {
    let url = stage.derived_url(NAME)?;
    let old = stage.chekt.webhook_at(&url, SOON).await?.secret;
    annotate(stage, ROTATE_REQUESTED_AT, "now").await?;
    eventually("the new secret to be verified", SOON, async || {
        let seen = status(stage).await?;
        anyhow::ensure!(seen.last_handled_rotate_at.as_deref() == Some("now"), "old");
        proved(&seen).map(drop)
    })
    .await?;
    let ends = keyring(stage).await?.previous[0].until;
    let left = ends.duration_since(Timestamp::now()).as_secs();
    anyhow::ensure!((840..=901).contains(&left), "it ends in {left} s");
    let delivers = async |body: &str| post(&url, body, &sign(&old, body)).await;
    anyhow::ensure!(delivers("right after").await? == 200, "refused at once");
    if offset.abs() > 1_000.0 {
        // The next controller's clock is off in the other direction.
        let controller = stage.controller()?;
        controller.kill9()?;
        for (name, value) in clocks.off_by(-offset) {
            controller.set_env(&name, value);
        }
        controller.restart().await?;
        controller.ready(SOON).await?;
    }
    let stage = &*stage;
    // A little before its end, and then after it.
    end_previous(stage, SignedDuration::from_secs(120)).await?;
    listed(stage, "before").await?;
    anyhow::ensure!(keyring(stage).await?.previous.len() == 1, "it went early");
    anyhow::ensure!(delivers("a little before").await? == 200, "refused early");
    end_previous(stage, SignedDuration::from_secs(-2)).await?;
    listed(stage, "after").await?;
    let tries = Cell::new(0);
    eventually("the previous key to be refused", SOON, async || {
        tries.set(tries.get() + 1);
        let answer = delivers(&format!("after {}", tries.get())).await?;
        anyhow::ensure!(answer == 401, "{answer}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_receiver_that_is_ahead_hides_nothing_of_what_another_one_sees() -> anyhow::Result<()> {
    let Some(clocks) = shifter()? else {
        return Ok(());
    };
    let options = StageOptions::default();
    let stage = Stage::verified("clock-two", &["alarm.triggered"], options).await?;
    let mut launch = stage.receiver.launch().clone();
    launch.addresses.clear();
    launch.env.extend(clocks.off_by(180.0));
    let journal = stage.dir.join("journal-ahead");
    let ahead = Process::start(launch.instead("--journal", journal.display())).await?;
    ahead.ready(SOON).await?;
    is_off_by(&ahead, 180.0).await?;

    let url = stage.derived_url(NAME)?;
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    let path = format!("/webhooks/{}/{NAME}", stage.users.namespace);
    let url = format!("http://{}{path}", ahead.public()?);
    let body = r#"{"event":"webhook.test","webhook_id":"w","timestamp":"2026-01-01T00:00:00Z","data":{"message":"by hand"}}"#;
    anyhow::ensure!(post(&url, body, &sign(&secret, body)).await? == 200);
    let now = Timestamp::now();
    eventually("what the receiver ahead saw", SOON, async || {
        let at = status(&stage)
            .await?
            .deliveries
            .and_then(|d| d.last_test_at);
        let at = at.context("nothing")?.0;
        anyhow::ensure!(at > now + SignedDuration::from_secs(60), "{at}");
        Ok(())
    })
    .await?;
    // CHeKT delivers to the other one.
    let before = Timestamp::now() - SignedDuration::from_secs(1);
    annotate(&stage, TEST_REQUESTED_AT, "later").await?;
    let seen = until_verified(&stage, "later").await?;
    proved(&seen)?;
    let seen = seen.deliveries.context("no deliveries")?;
    let at = seen.last_test_at.context("no test")?.0;
    let here = before..Timestamp::now() + SignedDuration::from_secs(1);
    anyhow::ensure!(here.contains(&at), "it is hidden: {at}");
    anyhow::ensure!(seen.last_received_at.is_some_and(|at| here.contains(&at.0)));
    Ok(())
}

#[tokio::test]
async fn where_the_way_is_dead_verified_is_false_after_a_minute_although_a_receiver_is_ahead()
-> anyhow::Result<()> {
    let Some(clocks) = shifter()? else {
        return Ok(());
    };
    let mut stage = stage(&clocks, Side::Receiver, 180.0).await?;
    stage.receiver.kill9()?;
    annotate(&stage, TEST_REQUESTED_AT, "dead").await?;
    let limit = Duration::from_secs(90);
    stage
        .users
        .webhook_condition(NAME, VERIFIED, "False", limit)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_request_for_a_test_delivery_without_an_answer_is_repeated_under_its_key_and_delivers_once()
-> anyhow::Result<()> {
    let stage = Stage::new("test-again").await?;
    stage.apply_account("10s").await?;
    // CHeKT carries it out and its answer is lost; the receiver is not where it delivers to, so only this is left.
    stage
        .chekt
        .set_faults(&[Fault::drop("test", "after", 1)])
        .await?;
    stage
        .apply_webhook(NAME, &["alarm.triggered"], json!({}))
        .await?;
    let url = stage.derived_url(NAME)?;
    let remote = stage.chekt.webhook_at(&url, SOON).await?;
    stage
        .users
        .webhook_condition(NAME, VERIFIED, "True", SOON)
        .await?;
    let ledger = stage.chekt.ledger(0).await?;
    anyhow::ensure!(ledger.calls("test").len() == 1, "{:?}", ledger.writes());

    // One that never reaches CHeKT: the second request makes up for it.
    stage
        .chekt
        .set_faults(&[Fault::drop("test", "before", 1)])
        .await?;
    let mark = stage.chekt.mark().await?;
    annotate(&stage, TEST_REQUESTED_AT, "lost").await?;
    let limit = Duration::from_secs(90);
    eventually("the test delivery after all", limit, async || {
        let seen = status(&stage).await?;
        anyhow::ensure!(seen.last_handled_test_at.as_deref() == Some("lost"));
        proved(&seen).map(drop)
    })
    .await?;
    let ledger = stage.chekt.ledger(mark).await?;
    let keys: Vec<_> = ledger
        .calls("test")
        .iter()
        .map(|call| call.idempotency_key.clone())
        .collect();
    let uid = stage.users.webhooks().get(NAME).await?.uid();
    let number = keyring(&stage).await?.test.context("no test")?.number;
    let key = Some(format!("{}-{number}-test", uid.unwrap_or_default()));
    anyhow::ensure!(keys == [key.clone(), key], "{keys:?}");
    let to_it = ledger.deliveries();
    anyhow::ensure!(
        to_it.len() == 1 && remote.url == url,
        "{} deliveries",
        to_it.len()
    );
    Ok(())
}

/// The number under which the last test delivery proved the key and url that are in force.
fn proved(status: &ChektWebhookStatus) -> anyhow::Result<i64> {
    let verified = conditions::find(&status.conditions, VERIFIED).context("no Verified")?;
    anyhow::ensure!(verified.status == "True", "{verified:?}");
    let deliveries = status.deliveries.as_ref().context("no deliveries")?;
    deliveries.last_test_number.context("no number")
}

async fn status(stage: &Stage) -> anyhow::Result<ChektWebhookStatus> {
    let webhook = stage.users.webhooks().get(NAME).await?;
    webhook.status.context("no status")
}

/// The status once the controller has acted on a request for a test delivery.
async fn handled(stage: &Stage, request: &str) -> anyhow::Result<ChektWebhookStatus> {
    eventually("the request to be handled", SOON, async || {
        let seen = status(stage).await?;
        anyhow::ensure!(seen.last_handled_test_at.as_deref() == Some(request));
        Ok(seen)
    })
    .await
}

async fn until_verified(stage: &Stage, request: &str) -> anyhow::Result<ChektWebhookStatus> {
    eventually("the test delivery to prove it", SOON, async || {
        let seen = status(stage).await?;
        anyhow::ensure!(seen.last_handled_test_at.as_deref() == Some(request));
        proved(&seen)?;
        Ok(seen)
    })
    .await
}

/// Has the controller look at the webhook, and waits until it has.
async fn listed(stage: &Stage, request: &str) -> anyhow::Result<()> {
    annotate(stage, RECONCILE_REQUESTED_AT, request).await?;
    eventually("the reconciliation that was asked for", SOON, async || {
        let seen = status(stage).await?;
        anyhow::ensure!(seen.last_handled_reconcile_at.as_deref() == Some(request));
        Ok(())
    })
    .await
}

async fn annotate(stage: &Stage, name: &str, value: &str) -> anyhow::Result<()> {
    let patch = json!({"metadata": {"annotations": {name: value}}});
    let webhooks = stage.users.webhooks();
    let parameters = PatchParams::default();
    webhooks
        .patch(NAME, &parameters, &Patch::Merge(patch))
        .await?;
    Ok(())
}

async fn keyring(stage: &Stage) -> anyhow::Result<Keyring> {
    let uid = stage.users.webhooks().get(NAME).await?.uid();
    let name = Keyring::secret_name(&uid.unwrap_or_default());
    Ok(Keyring::from_secret(
        &stage.operator.secrets().get(&name).await?,
    )?)
}

/// Lets the previous key end so long from now, as if it had been put there earlier.
async fn end_previous(stage: &Stage, from_now: SignedDuration) -> anyhow::Result<()> {
    let uid = stage.users.webhooks().get(NAME).await?.uid();
    let name = Keyring::secret_name(&uid.unwrap_or_default());
    eventually("the keyring to be changed", SOON, async || {
        let mut secret = stage.operator.secrets().get(&name).await?;
        let until = (Timestamp::now() + from_now).to_string();
        let data = secret.data.as_mut().context("no data")?;
        let place = data.get_mut("previous-0-until").context("no previous")?;
        place.0 = until.into_bytes();
        stage
            .operator
            .secrets()
            .replace(&name, &PostParams::default(), &secret)
            .await?;
        anyhow::Ok(())
    })
    .await
}
