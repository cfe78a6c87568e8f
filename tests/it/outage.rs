//! The API server goes away under load: every delivery is answered 200 all the same, and each is one Event once it is
//! back.

use std::time::{Duration, Instant};

use crate::deliveries::{alarm, post};
use crate::harness::load::{Load, Record, Running};
use crate::harness::{ControlPlane, Stage, StageOptions, oracle};

const SOON: Duration = Duration::from_secs(30);
/// How long the backlog may take to be published.
const SETTLE: Duration = Duration::from_secs(180);
const PER_SECOND: u32 = 50;

/// Publishes as fast as the API server takes it, so that a test of minutes is not one of hours.
fn options() -> StageOptions {
    let flags = ["--events-per-second", "2000", "--events-burst", "5000"];
    StageOptions {
        receiver: flags.map(str::to_owned).to_vec(),
        ..StageOptions::default()
    }
}

async fn load(stage: &Stage, most: usize) -> anyhow::Result<Running> {
    let url = stage.derived_url("alarms")?;
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    let load = Load {
        to: stage.receiver.public()?,
        path: format!("/webhooks/{}/alarms", stage.users.namespace),
        per_second: PER_SECOND,
        connections: 8,
        most,
        // One attempt each: nothing may be hidden by a second one.
        retries: Vec::new(),
    };
    Ok(load.start(move |number| alarm(&secret, &format!("outage-{number}"))))
}

/// Every answer was 200, and everything is published once.
async fn whole(stage: &mut Stage, record: &Record, what: &str) -> anyhow::Result<()> {
    let faults = record.faults();
    assert!(
        faults.is_empty(),
        "{} of {}: {faults:#?}",
        faults.len(),
        record.sent.len()
    );
    let began = Instant::now();
    oracle::settled(&stage.users, "alarms", record, SETTLE).await?;
    println!(
        "{what}: {} deliveries, each answered 200, the slowest after {:?}; all published {:?} after the last of them",
        record.sent.len(),
        record.slowest(),
        began.elapsed()
    );
    // After an orderly end nothing can be under way any more.
    let status = stage.receiver.terminate(SOON).await?;
    assert_eq!(status.code(), Some(0), "{}", stage.receiver.log_tail());
    let verdict = oracle::verdict(&stage.users, "alarms", record).await?;
    assert_eq!(verdict.missing, Vec::<String>::new());
    assert_eq!(verdict.twice, Vec::<String>::new());
    assert_eq!(verdict.events, record.sent.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_api_server_away_for_60_s_under_load_every_delivery_is_acknowledged_and_published_afterwards()
-> anyhow::Result<()> {
    const OUTAGE: Duration = Duration::from_secs(60);
    let options = StageOptions {
        gate_cluster: true,
        ..options()
    };
    let mut stage = Stage::verified("outage", &["alarm.triggered"], options).await?;
    let mut load = load(&stage, 3_300).await?;
    load.acknowledge(100, SOON).await?;
    stage
        .cluster_gate
        .as_mut()
        .expect("the stage was asked for one")
        .cut()
        .await;
    // The length of the outage is what is tested.
    tokio::time::sleep(OUTAGE).await;
    stage
        .cluster_gate
        .as_mut()
        .expect("still there")
        .restore()
        .await?;
    let record = load.all().await?;
    assert_eq!(record.sent.len(), 3_300);
    whole(&mut stage, &record, "60 s without an API server").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_hangs_and_one_that_is_killed_and_started_again_cost_no_delivery()
-> anyhow::Result<()> {
    const HANG: Duration = Duration::from_secs(15);
    const AWAY: Duration = Duration::from_secs(10);
    // One of its own, since the shared one serves all other tests. What it answers while it starts, when it knows
    // neither rights nor namespaces yet, is the second half of the test.
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await?));
    let options = StageOptions {
        plane: Some(plane),
        ..options()
    };
    let mut stage = Stage::verified("apiserver", &["alarm.triggered"], options).await?;
    // A minute and a half of it, in case the API server takes for ever; it is stopped long before.
    let mut load = load(&stage, 4_500).await?;
    load.acknowledge(50, SOON).await?;
    plane.freeze_apiserver()?;
    tokio::time::sleep(HANG).await;
    plane.thaw_apiserver()?;
    load.acknowledge(50, SOON).await?;
    plane.kill_apiserver()?;
    tokio::time::sleep(AWAY).await;
    plane.start_apiserver().await?;
    load.acknowledge(100, SOON).await?;
    let record = load.finish().await?;
    let outcome = whole(&mut stage, &record, "an API server frozen, then killed").await;
    drop(stage);
    plane.stop();
    outcome
}

#[tokio::test]
async fn a_receiver_that_starts_without_an_api_server_refuses_with_503_until_it_knows_the_keys()
-> anyhow::Result<()> {
    let options = StageOptions {
        gate_cluster: true,
        lasting_addresses: true,
        ..options()
    };
    let mut stage = Stage::verified("no-keys", &["alarm.triggered"], options).await?;
    let url = stage.derived_url("alarms")?;
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    stage
        .cluster_gate
        .as_mut()
        .expect("the stage was asked for one")
        .cut()
        .await;
    stage.receiver.kill9()?;
    stage.receiver.restart().await?;
    let delivery = alarm(&secret, "no-keys");
    // Not 401: the sender is not wrong, and it will try again.
    let answer = post(&url, &delivery.body, &delivery.signature).await?;
    assert_eq!(answer, 503);
    let readyz = format!("http://{}/readyz", stage.receiver.ops()?);
    assert_eq!(reqwest::get(readyz).await?.status(), 503);
    stage
        .cluster_gate
        .as_mut()
        .expect("still there")
        .restore()
        .await?;
    stage.receiver.ready(SOON).await?;
    let answer = post(&url, &delivery.body, &delivery.signature).await?;
    assert_eq!(answer, 200);
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;
    Ok(())
}
