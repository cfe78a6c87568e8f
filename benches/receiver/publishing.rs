//! How much of the API server's rate the publisher keeps: journal to Event, against a bare loop that creates the same
//! Events with the same client and as many in flight.
//!
//! Both take turns, for the API server gets slower as it fills.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chekt_operator::cluster::events;
use chekt_operator::delivery::pacing::Pace;
use chekt_operator::delivery::received::Known;
use chekt_operator::delivery::{Delivery, Received, Signatures, event, profile};
use chekt_operator::journal::{Journal, Options, State};
use chekt_operator::ops::metrics;
use chekt_operator::receiver::metrics::{Metrics, PREFIX};
use chekt_operator::receiver::publisher::Publisher;
use chekt_operator::receiver::status::Reports;
use chekt_operator::resources::keyring::WebhookIdentity;
use futures::TryStreamExt;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::deliveries::{Deliveries, Kind};
use crate::harness::{Cluster, ControlPlane};
use crate::table::{Goal, Table, rate};
use crate::{machine, servers};

/// Events on their way at once: as many as the publisher has.
const IN_FLIGHT: usize = 8;
/// Events of one turn.
const EVENTS: usize = 1_500;
/// Turns of each.
const TURNS: usize = 3;
/// How long one turn may take.
const LONGEST: Duration = Duration::from_secs(60);

/// Measures and fills the table.
///
/// # Errors
/// When the API server refuses what it should take.
pub async fn measure(
    plane: &'static ControlPlane,
    run: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let cluster = Cluster::named(plane, &format!("bench-publishing-{run}")).await?;
    let webhook = WebhookIdentity {
        namespace: cluster.namespace.clone(),
        ..servers::identity()
    };
    let mut source = Deliveries::new(Kind::Valid, &webhook, false, 0)?;
    // Not measured: the first requests open the connection and warm the API server.
    bare(
        &cluster.client,
        events_of(&mut source, &webhook, 200)?,
        IN_FLIGHT,
    )
    .await?;
    let (mut ours, mut floor) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..TURNS * 2 {
        if turn % 2 == 0 {
            let events = events_of(&mut source, &webhook, EVENTS)?;
            floor += bare(&cluster.client, events, IN_FLIGHT).await?;
        } else {
            let received = received_of(&mut source, &webhook, EVENTS)?;
            ours += published(&cluster.client, received).await?;
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let per_second = |time: Duration| (EVENTS * TURNS) as f64 / time.as_secs_f64();
    table.goal(Goal {
        what: format!("Events a second: publisher / bare loop of creates, {IN_FLIGHT} in flight"),
        value: per_second(ours) / per_second(floor),
        at_most: None,
        at_least: Some(0.9),
        scale: format!("{} / {}", rate(per_second(ours)), rate(per_second(floor))),
    });
    Ok(())
}

async fn bare(client: &Client, events: Vec<Event>, in_flight: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    futures::stream::iter(events.iter().map(anyhow::Ok))
        .try_for_each_concurrent(in_flight, async |event| {
            events::create(client, event, LONGEST).await?;
            Ok(())
        })
        .await?;
    Ok(began.elapsed())
}

async fn published(client: &Client, deliveries: Vec<Received>) -> anyhow::Result<Duration> {
    let dir = machine::directory()?;
    let (journal, feed) = Journal::start(dir.path(), Options::default())?;
    let mut state = journal.state();
    tokio::time::timeout(LONGEST, state.wait_for(|state| *state == State::Open)).await??;
    let wanted = i64::try_from(deliveries.len())?;
    futures::stream::iter(deliveries.into_iter().map(anyhow::Ok))
        .try_for_each_concurrent(256, |received| {
            let journal = &journal;
            async move {
                journal.append(received).await?;
                Ok(())
            }
        })
        .await?;
    let end = CancellationToken::new();
    let mut counted = metrics::Table::new(PREFIX);
    let publisher = Publisher {
        journal: journal.clone(),
        feed,
        client: client.clone(),
        // Its pace is a promise to the cluster and not what is measured.
        pace: Pace {
            per_second: 1e9,
            burst: u32::MAX,
        },
        at_once: IN_FLIGHT,
        place: String::new(),
        leaving: CancellationToken::new(),
        instance: "bench".to_owned(),
        metrics: Metrics::register(&mut counted),
        reports: Reports::default(),
        dead_letters: Arc::default(),
        last: Duration::ZERO,
    };
    anyhow::ensure!(journal.depth().pending == wanted, "they do not all wait");
    let began = Instant::now();
    let publishing = tokio::spawn(publisher.run(end.clone()));
    while journal.depth().pending > 0 {
        anyhow::ensure!(began.elapsed() < LONGEST, "{:?} are left", journal.depth());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = began.elapsed();
    end.cancel();
    publishing.await?;
    journal.close().await;
    Ok(took)
}

fn received_of(
    source: &mut Deliveries,
    webhook: &WebhookIdentity,
    count: usize,
) -> anyhow::Result<Vec<Received>> {
    let keyring = servers::keyring(webhook)?;
    let known = Known {
        labels: [("team".to_owned(), "security".to_owned())].into(),
        webhook_id: Some("webhook_abc123".to_owned()),
    };
    (0..count)
        .map(|_| {
            let body = source.next_body();
            let signature = source.signature();
            let signatures = Signatures::read(&profile::PARTNER, [signature.as_slice()])?;
            let now = Timestamp::now();
            let delivery = Delivery::new(webhook.clone(), body).verify(&signatures, &keyring)?;
            Ok(Received::new(delivery, &known, now).0)
        })
        .collect()
}

fn events_of(
    source: &mut Deliveries,
    webhook: &WebhookIdentity,
    count: usize,
) -> anyhow::Result<Vec<Event>> {
    let received = received_of(source, webhook, count)?;
    let now = Timestamp::now();
    let events = received.iter().map(|r| event::build(r, "bench", now));
    Ok(events.collect::<Result<_, _>>()?)
}
