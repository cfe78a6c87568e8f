//! Two receivers for the same webhooks, each with a journal of its own: they know nothing of each other, and still
//! nothing appears twice; and while one of them is restarted, the other answers.

use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::events::v1::Event;

use crate::deliveries::{alarm, post, sign};
use crate::harness::load::{Load, Sent};
use crate::harness::{Balancer, Process, Stage, StageOptions, oracle};

const SOON: Duration = Duration::from_secs(30);
/// How long a receiver may take to end: its drain delay, its connections, and what waits to be published.
const END: Duration = Duration::from_secs(30);
/// How far away the sender is, one way. It makes the difference: a request is on its way when the connection is
/// closed at the other end, which on loopback hardly ever happens.
const AWAY: Duration = Duration::from_millis(20);

async fn two(idea: &str, drain_delay: u32) -> anyhow::Result<(Stage, Process, String)> {
    let flags = [
        "--drain-delay",
        &drain_delay.to_string(),
        "--events-per-second",
        "1000",
        "--events-burst",
        "1000",
    ];
    let options = StageOptions {
        lasting_addresses: true,
        receiver: flags.map(str::to_owned).to_vec(),
        ..StageOptions::default()
    };
    let stage = Stage::verified(idea, &["alarm.triggered"], options).await?;
    let url = stage.derived_url("alarms")?;
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    let second = stage.another_receiver().await?;
    Ok((stage, second, secret))
}

fn path(stage: &Stage) -> String {
    format!("/webhooks/{}/alarms", stage.users.namespace)
}

#[tokio::test]
async fn the_same_delivery_four_times_to_two_receivers_at_once_is_one_event() -> anyhow::Result<()>
{
    const DIFFERENT: usize = 25;
    let (mut stage, mut second, secret) = two("two-journals", 0).await?;
    let path = path(&stage);
    let receivers = [stage.receiver.public()?, second.public()?];
    let urls = receivers.map(|receiver| format!("http://{receiver}{path}"));
    let mut posts = Vec::new();
    for number in 0..DIFFERENT {
        let delivery = alarm(&secret, &format!("four-times-{number}"));
        for url in [&urls[0], &urls[1], &urls[0], &urls[1]] {
            let (url, delivery) = (url.clone(), delivery.clone());
            posts.push(async move { post(&url, &delivery.body, &delivery.signature).await });
        }
    }
    let answers = try_join_all(posts).await?;
    assert!(answers.iter().all(|answer| *answer == 200), "{answers:?}");
    stage
        .users
        .events_with_reason("alarms", "AlarmTriggered", DIFFERENT, SOON)
        .await?;
    assert_eq!(alarms_at_the_end(&mut stage, &mut second).await?, DIFFERENT);
    Ok(())
}

/// Only the receiver that has seen both knows what came in between, so the other does not guess.
#[tokio::test]
async fn what_is_no_copy_to_the_byte_is_a_second_event_at_the_other_receiver() -> anyhow::Result<()>
{
    let (mut stage, mut second, secret) = two("restamped", 0).await?;
    let path = path(&stage);
    for (receiver, event, timestamp) in [
        (&stage.receiver, "triggered", "14:20:00"),
        (&stage.receiver, "triggered", "14:20:05"),
        (&stage.receiver, "cleared", "14:20:30"),
        (&second, "triggered", "14:21:00"),
        (&second, "triggered", "14:20:00"),
        (&stage.receiver, "triggered", "14:21:00"),
    ] {
        let body = format!(
            r#"{{"event":"alarm.{event}","webhook_id":"w","timestamp":"2024-01-15T{timestamp}Z","data":{{"alarm_id":"restamped"}}}}"#
        );
        let url = format!("http://{}{path}", receiver.public()?);
        assert_eq!(post(&url, &body, &sign(&secret, &body)).await?, 200);
    }
    // That of 14:20:00 and that of 14:21:00, each of which came to both; the retry of 14:20:05 was known.
    assert_eq!(alarms_at_the_end(&mut stage, &mut second).await?, 2);
    Ok(())
}

/// The number of Events about alarms once both have ended in order, with nothing left in either journal: what is there
/// then is all there will ever be.
async fn alarms_at_the_end(stage: &mut Stage, second: &mut Process) -> anyhow::Result<usize> {
    for receiver in [&mut stage.receiver, second] {
        let status = receiver.terminate(END).await?;
        let tail = receiver.log_tail();
        anyhow::ensure!(status.code() == Some(0), "{status}: {tail}");
        anyhow::ensure!(
            !tail.contains("ending with deliveries in the journal"),
            "{tail}"
        );
    }
    let events = stage.users.events_of("alarms").await?;
    let is_alarm = |event: &&Event| event.reason.as_deref() == Some("AlarmTriggered");
    Ok(events.iter().filter(is_alarm).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_two_receivers_are_restarted_one_after_the_other_every_answer_is_200()
-> anyhow::Result<()> {
    let (mut stage, mut second, secret) = two("rolling", 2).await?;
    let balancer = Balancer::open(&[&stage.receiver, &second], AWAY).await?;
    balancer.sees_ready(2, SOON).await?;
    let mut load = Load {
        to: balancer.address(),
        path: path(&stage),
        per_second: 50,
        connections: 8,
        // A minute of it, in case a restart takes for ever; it is stopped long before.
        most: 3_000,
        // One attempt each: nothing may be hidden by a second one.
        retries: Vec::new(),
    }
    .start(move |number| alarm(&secret, &format!("rolling-{number}")));
    load.acknowledge(100, SOON).await?;
    for receiver in [&mut stage.receiver, &mut second] {
        let status = receiver.terminate(END).await?;
        assert_eq!(status.code(), Some(0), "{}", receiver.log_tail());
        // The other one has it all now.
        load.acknowledge(50, SOON).await?;
        receiver.restart().await?;
        receiver.ready(SOON).await?;
        balancer.sees_ready(2, SOON).await?;
        load.acknowledge(50, SOON).await?;
    }
    let record = load.finish().await?;
    let faults = record.faults();
    assert!(
        faults.is_empty(),
        "{} of {}: {faults:#?}",
        faults.len(),
        record.sent.len()
    );
    println!(
        "{} deliveries, each answered 200, the slowest after {:?}; connections {:?}",
        record.sent.len(),
        record.slowest(),
        balancer.connections()
    );
    // Each was restarted while it had connections, and got new ones afterwards.
    assert!(balancer.connections().iter().all(|count| *count > 0));
    assert!(record.sent.iter().all(Sent::acknowledged));
    oracle::settled(&stage.users, "alarms", &record, SOON).await?;
    for receiver in [&mut stage.receiver, &mut second] {
        receiver.terminate(END).await?;
    }
    let verdict = oracle::verdict(&stage.users, "alarms", &record).await?;
    assert_eq!(verdict.missing, Vec::<String>::new());
    assert_eq!(verdict.twice, Vec::<String>::new());
    assert_eq!(verdict.events, record.sent.len());
    Ok(())
}
