//! A storm on one webhook costs its neighbour nothing, loses nothing, and reaches the API server at the pace that was
//! set.

use std::time::{Duration, Instant};

use chekt_operator::resources::conditions::VERIFIED;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::deliveries::{alarm, post};
use crate::harness::load::Load;
use crate::harness::{Stage, StageOptions, oracle};

const SOON: Duration = Duration::from_secs(30);
/// Alarms on one webhook.
const STORM: usize = 5_000;
/// Alarms on the other.
const FEW: usize = 10;
/// Events a second and namespace. The default is 10; with it the test would take eight minutes.
const PACE: u32 = 150;
/// Events at once, as by default.
const BURST: u32 = 200;
/// Events may be made a moment after their token was taken, eight of them at the same time.
const SLACK: f64 = 10.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_5000_alarms_loses_nothing_keeps_the_pace_and_does_not_hold_up_ten_of_another_webhook()
-> anyhow::Result<()> {
    let flags = [
        "--events-per-second",
        &PACE.to_string(),
        "--events-burst",
        &BURST.to_string(),
        "--drain-timeout",
        "1",
    ];
    let options = StageOptions {
        receiver: flags.map(str::to_owned).to_vec(),
        ..StageOptions::default()
    };
    let mut stage = Stage::verified("storm", &["alarm.triggered"], options).await?;
    stage
        .apply_webhook("others", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("others", VERIFIED, "True", SOON)
        .await?;
    let (url, other) = (stage.derived_url("alarms")?, stage.derived_url("others")?);
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    let others_secret = stage.chekt.webhook_at(&other, SOON).await?.secret;

    let load = Load {
        to: stage.receiver.public()?,
        path: format!("/webhooks/{}/alarms", stage.users.namespace),
        per_second: 500,
        connections: 16,
        most: STORM,
        // One attempt each: nothing may be hidden by a second one.
        retries: Vec::new(),
    };
    let storm = load.start(move |number| alarm(&secret, &format!("storm-{number}")));
    let record = storm.all().await?;
    let (sent, faults) = (Instant::now(), record.faults());
    assert!(
        faults.is_empty(),
        "{} of {STORM}: {faults:#?}",
        faults.len()
    );

    let before = oracle::verdict(&stage.users, "alarms", &record).await?;
    let backlog = STORM - before.events;
    assert!(
        backlog > STORM / 4,
        "no storm any more: only {backlog} wait"
    );
    let posted = Timestamp::now();
    for number in 0..FEW {
        let delivery = alarm(&others_secret, &format!("few-{number}"));
        let answer = post(&other, &delivery.body, &delivery.signature).await?;
        assert_eq!(answer, 200);
    }
    let few = stage
        .users
        .events_with_reason("others", "AlarmTriggered", FEW, SOON)
        .await?;
    // By the Events' own times: to list thousands of others takes longer than they did.
    let published = few.iter().filter_map(|event| event.event_time.as_ref());
    let last = published.map(|time| time.0).max().expect("there are ten");
    let few = last.duration_since(posted).as_secs_f64();
    assert!(few < 3.0, "the ten took {few:.1} s");

    oracle::settled(&stage.users, "alarms", &record, Duration::from_secs(120)).await?;
    println!(
        "{STORM} alarms, each answered 200, the slowest after {:?}; all published {:?} after the last of them; \
         ten of another webhook, behind {backlog}, within {few:.2} s",
        record.slowest(),
        sent.elapsed()
    );
    stage.receiver.terminate(SOON).await?;
    let verdict = oracle::verdict(&stage.users, "alarms", &record).await?;
    assert_eq!(verdict.missing, Vec::<String>::new());
    assert_eq!(verdict.twice, Vec::<String>::new());

    // A bucket that the Events of both webhooks pour into, and that empties at the pace: it never overflows.
    let mut times = Vec::new();
    for webhook in ["alarms", "others"] {
        let events = stage.users.events_of(webhook).await?;
        let ours = events
            .into_iter()
            .filter(|e| e.reporting_controller.as_deref() == Some("chekt.com/receiver"));
        times.extend(ours.filter_map(|event| event.event_time.map(|time| time.0)));
    }
    times.sort_unstable();
    assert!(times.len() >= STORM + FEW);
    let (mut level, mut highest, mut last) = (0.0_f64, 0.0_f64, times[0]);
    for time in times {
        let passed = time.duration_since(last).as_secs_f64();
        level = (level - passed * f64::from(PACE)).max(0.0) + 1.0;
        highest = highest.max(level);
        last = time;
    }
    println!(
        "at most {highest:.1} Events beyond the pace of {PACE}/s, of {BURST} that are allowed"
    );
    assert!(
        highest <= f64::from(BURST) + SLACK,
        "{highest} Events beyond the pace"
    );
    Ok(())
}
