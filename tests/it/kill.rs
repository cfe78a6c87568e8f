//! The kill test: a receiver that is killed again and again under load loses nothing that it acknowledged and shows
//! nothing twice.
//!
//! SIGKILL comes at random moments: while the receiver starts, soon after it listens, after some more answers of 200.
//! In between it publishes as fast as it can or so slowly that a backlog grows, so that kills find it receiving,
//! committing, publishing and settling. Some deliveries are sent twice, byte for byte or with a fresh timestamp as a
//! retry may have it; some are no JSON. The sender tries again as CHeKT does, its pauses divided by a hundred.
//!
//! The same once more beside a neighbour: a namespace for whose Events an admission webhook never answers, and whose one
//! webhook is sent more than the journal has room for.
//!
//! `KILLS` says how many (10), `SEED` which moments (random, and printed).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use chekt_operator::resources::conditions::READY;
use serde_json::{Value, json};

use crate::deliveries::sign;
use crate::harness::admission::{Admission, Manner};
use crate::harness::dice::{Dice, seed, setting};
use crate::harness::load::{self, Answer, Delivery, Load, Record, Running};
use crate::harness::oracle::{self, Verdict};
use crate::harness::{Cluster, Process, Stage, StageOptions, eventually};

const SOON: Duration = Duration::from_secs(30);
/// Deliveries a second: enough that there is always one on its way when the kill comes.
const PER_SECOND: u32 = 100;
/// What the neighbour is sent in a second, and how many deliveries may wait when there is one. Half of them are the
/// neighbour's, and a sixth is more than the victim ever has waiting.
const NOISE: u32 = 300;
const ROOM: usize = 6_000;
/// How long the rest may take to be published.
const SETTLE: Duration = Duration::from_secs(120);

/// When the kill comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the process was started, whether or not it listens by then.
    Starting(Duration),
    /// So long after it said that it listens.
    Listening(Duration),
    /// After so many more answers of 200, and a moment.
    Answering(usize, Duration),
}

impl Moment {
    fn of(dice: &mut Dice) -> Self {
        match dice.below(4) {
            0 => Moment::Starting(dice.millis(300)),
            1 => Moment::Listening(dice.millis(2_000)),
            _ => {
                let answers = 1 + usize::try_from(dice.below(200)).unwrap_or_default();
                Moment::Answering(answers, dice.millis(10))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Moment::Starting(_) => "starting",
            Moment::Listening(_) => "listening",
            Moment::Answering(..) => "answering",
        }
    }
}

/// Starts the receiver, which is down, and kills it at that moment.
async fn strike(receiver: &mut Process, load: &mut Running, moment: Moment) -> anyhow::Result<()> {
    // The pauses are the test: a moment that was waited for would not be a random one.
    match moment {
        Moment::Starting(pause) => {
            // Whether it got to listen in this time does not matter.
            let _ = tokio::time::timeout(pause, receiver.restart()).await;
        }
        Moment::Listening(pause) => {
            receiver.restart().await?;
            tokio::time::sleep(pause).await;
        }
        Moment::Answering(answers, pause) => {
            receiver.restart().await?;
            load.acknowledge(answers, SOON).await?;
            tokio::time::sleep(pause).await;
        }
    }
    anyhow::ensure!(
        receiver.ended()?.is_none(),
        "it ended by itself\n{}",
        receiver.log_tail()
    );
    receiver.kill9()
}

/// As fast as it can, or so slowly that a backlog grows.
fn set_pace(receiver: &mut Process, slow: bool) {
    let (per_second, burst) = if slow { (10, 5) } else { (5_000, 5_000) };
    receiver.set_env("CHEKT_EVENTS_PER_SECOND", per_second);
    receiver.set_env("CHEKT_EVENTS_BURST", burst);
}

/// The deliveries of the load: of each hundred, ten are copies to the byte, five are copies with a fresh timestamp,
/// and two are no JSON.
fn deliveries(secret: String, seed: u64) -> impl FnMut(usize) -> Delivery + Send + 'static {
    move |number| {
        let original = match number % 20 {
            // The one before, or two before: often still under way, sometimes before a kill and sometimes after.
            7 => number - 1,
            15 => number - 2,
            19 => number - 3,
            _ => number,
        };
        if original % 50 == 26 {
            let body = format!("{{no JSON, and number {original} of {seed}");
            let id = format!("{}{original}", oracle::UNREADABLE);
            let signature = sign(&secret, &body);
            return Delivery {
                id,
                body,
                signature,
            };
        }
        let timestamp = if number % 20 == 19 { number } else { original };
        let id = format!("kill-{seed}-{original}");
        let body = format!(
            r#"{{"event":"alarm.triggered","webhook_id":"w","timestamp":"{timestamp}","data":{{"alarm_id":"{id}","site_id":"site_123","zone":"Front Door"}}}}"#
        );
        let signature = sign(&secret, &body);
        Delivery {
            id,
            body,
            signature,
        }
    }
}

/// What the receiver's log says that only it can know, over all its lives.
#[derive(Debug, Default)]
struct Told {
    /// Copies that were recognised by the journal.
    copies: usize,
    /// Events that were there already: the kill came after the create and before the journal knew.
    already_there: usize,
}

fn told(receiver: &Process) -> Told {
    let mut told = Told::default();
    for line in receiver.log_lines() {
        // A line that was cut by the kill is no JSON.
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if line["outcome"] == "duplicate" {
            told.copies += 1;
        }
        if line["outcome"] == "already_there" {
            told.already_there += 1;
        }
    }
    told
}

fn table(
    moments: &BTreeMap<&str, usize>,
    record: &Record,
    verdict: &Verdict,
    told: &Told,
    seed: u64,
    took: Duration,
) -> String {
    let kills: usize = moments.values().sum();
    let each: Vec<_> = moments
        .iter()
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    let answers = record.answers();
    let count = |wanted: fn(&Answer) -> bool| -> usize {
        let some = answers.iter().filter(|(answer, _)| wanted(answer));
        some.map(|(_, count)| count).sum()
    };
    let retried = record.sent.iter().filter(|s| s.attempts.len() > 1).count();
    let acknowledged = record.sent.iter().filter(|s| s.acknowledged()).count();
    let given_up = record.sent.len() - acknowledged;
    let rows = [
        ("kills", format!("{kills} ({})", each.join(", "))),
        ("deliveries sent", record.sent.len().to_string()),
        ("of these distinct", record.ids().len().to_string()),
        ("acknowledged with 200", acknowledged.to_string()),
        ("of these distinct", record.acknowledged().len().to_string()),
        (
            "attempts refused with 503",
            count(|a| *a == Answer::Status(503)).to_string(),
        ),
        (
            "attempts without an answer",
            count(|a| matches!(a, Answer::Broken(_))).to_string(),
        ),
        ("deliveries tried again", retried.to_string()),
        ("given up after four attempts", given_up.to_string()),
        ("copies found in the journal", told.copies.to_string()),
        (
            "Events found to be there already",
            told.already_there.to_string(),
        ),
        ("Events", verdict.events.to_string()),
        (
            "**acknowledged but missing**",
            format!("**{}**", verdict.missing.len()),
        ),
        ("**Events twice**", format!("**{}**", verdict.twice.len())),
        ("seconds", format!("{:.0}", took.as_secs_f64())),
        ("seed", seed.to_string()),
    ];
    let mut table = "| | |\n| --- | --- |\n".to_owned();
    for (name, value) in rows {
        let _ = writeln!(table, "| {name} | {value} |");
    }
    table
}

/// A namespace that does its worst: its Events hang, and its webhook is sent more than there is room for.
struct Neighbour {
    cluster: Cluster,
    _admission: Admission,
    load: Running,
}

impl Neighbour {
    const CONFIGURATION: &str = "hostile-neighbour";

    async fn start(cluster: Cluster, stage: &Stage, most: usize) -> anyhow::Result<Self> {
        cluster
            .put_secret("chekt-token", &[("token", &stage.token)])
            .await?;
        let account = json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
            "spec": {
                "baseURL": stage.base_url()?,
                "auth": {"accessToken": {"secretRef": {"name": "chekt-token", "key": "token"}}},
                "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
            },
        });
        cluster.apply(&account.to_string()).await?;
        let spec = json!({"testPolicy": "Never"});
        cluster
            .apply_webhook("noisy", &["alarm.triggered"], spec)
            .await?;
        cluster
            .webhook_condition("noisy", READY, "True", SOON)
            .await?;
        let path = format!("/webhooks/{}/noisy", cluster.namespace);
        let url = format!("{}{path}", stage.public_url()?);
        let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
        let admission = Admission::start().await?;
        let hangs = [(Manner::Hangs, vec![cluster.namespace.clone()])];
        admission
            .guard(&cluster, Self::CONFIGURATION, &hangs)
            .await?;
        let load = Load {
            to: stage.receiver.public()?,
            path,
            per_second: NOISE,
            connections: 4,
            most,
            retries: Vec::new(),
        };
        let load = load.start(move |number| load::alarm(&secret, &format!("noise-{number}")));
        eventually("the neighbour to be over its share", SETTLE, async || {
            let metrics = stage.receiver.metrics().await?;
            let none = r#"chekt_receiver_deliveries_total{outcome="over_share"} 0"#;
            anyhow::ensure!(!metrics.lines().any(|line| line == none), "not yet");
            Ok(())
        })
        .await?;
        Ok(Neighbour {
            cluster,
            _admission: admission,
            load,
        })
    }

    /// Ends the noise and lets the Events be made. Returns what the neighbour was sent.
    async fn quiet(self) -> anyhow::Result<(Cluster, Record)> {
        let record = self.load.finish().await?;
        Admission::leave(&self.cluster, Self::CONFIGURATION).await?;
        Ok((self.cluster, record))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_killed_at_random_moments_under_load_loses_nothing_and_shows_nothing_twice()
-> anyhow::Result<()> {
    play(None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_neighbour_whose_events_hang_and_who_fills_the_journal_the_same_holds_and_nothing_is_refused()
-> anyhow::Result<()> {
    play(Some(Cluster::new("neighbour").await?)).await
}

async fn play(neighbour: Option<Cluster>) -> anyhow::Result<()> {
    let kills: usize = setting("KILLS")?.unwrap_or(10);
    let seed = seed()?;
    println!("{kills} kills, SEED={seed}");
    let mut options = StageOptions {
        lasting_addresses: true,
        ..StageOptions::default()
    };
    if let Some(cluster) = &neighbour {
        let watch = ["--watch-namespace".to_owned(), cluster.namespace.clone()];
        options.controller = watch.to_vec();
        let room = ["--journal-max-records".to_owned(), ROOM.to_string()];
        options.receiver = [watch, room].concat();
    }
    let mut stage = Stage::verified("kill", &["alarm.triggered"], options).await?;
    let neighbour = match neighbour {
        Some(cluster) => Some(Neighbour::start(cluster, &stage, (kills + 30) * 600).await?),
        None => None,
    };
    let url = stage.derived_url("alarms")?;
    let secret = stage.chekt.webhook_at(&url, SOON).await?.secret;
    let mut dice = Dice(seed);
    let began = Instant::now();
    let mut load = Load {
        to: stage.receiver.public()?,
        path: format!("/webhooks/{}/alarms", stage.users.namespace),
        per_second: PER_SECOND,
        connections: 6,
        // Bounded even if the kills never come to an end.
        most: (kills + 10) * 500,
        retries: load::retries(0.01),
    }
    .start(deliveries(secret, seed));

    let mut moments = BTreeMap::new();
    stage.receiver.kill9()?;
    for kill in 0..kills {
        set_pace(&mut stage.receiver, dice.below(3) == 0);
        let moment = Moment::of(&mut dice);
        let struck = strike(&mut stage.receiver, &mut load, moment).await;
        struck.with_context(|| format!("kill {kill}, {moment:?}, SEED={seed}"))?;
        *moments.entry(moment.name()).or_default() += 1;
    }
    set_pace(&mut stage.receiver, false);
    stage.receiver.restart().await?;
    load.acknowledge(20, SOON).await?;
    let record = load.finish().await?;
    let is_alone = neighbour.is_none();
    if let Some(neighbour) = neighbour {
        let (cluster, noise) = neighbour.quiet().await?;
        println!("the neighbour's answers: {:?}", noise.answers());
        oracle::settled(&cluster, "noisy", &noise, SETTLE).await?;
        let verdict = oracle::verdict(&cluster, "noisy", &noise).await?;
        assert!(verdict.missing.is_empty(), "{:?}", verdict.missing);
        assert!(verdict.twice.is_empty(), "{:?}", verdict.twice);
    }

    oracle::settled(&stage.users, "alarms", &record, SETTLE).await?;
    // After an orderly end nothing can be under way any more, so what is seen now is the last word.
    // What cannot be read is told as a number, and the journal has each: those whose answer was lost in a kill as well.
    let unreadable = |ids: BTreeSet<&str>| {
        let some = ids
            .into_iter()
            .filter(|id| id.starts_with(oracle::UNREADABLE));
        some.count()
    };
    let expected = unreadable(record.acknowledged())..=unreadable(record.ids());
    eventually("every dead letter", SOON, async || {
        let metrics = stage.receiver.metrics().await?;
        let series = "chekt_receiver_journal_dead_letters ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        let dead: usize = line.unwrap_or_default().parse()?;
        anyhow::ensure!(expected.contains(&dead), "{dead} of {expected:?}");
        Ok(())
    })
    .await?;
    let status = stage.receiver.terminate(SOON).await?;
    assert_eq!(status.code(), Some(0), "{}", stage.receiver.log_tail());
    let verdict = oracle::verdict(&stage.users, "alarms", &record).await?;
    let told = told(&stage.receiver);
    let table = table(&moments, &record, &verdict, &told, seed, began.elapsed());
    println!("{table}");
    assert!(
        verdict.missing.is_empty(),
        "missing, SEED={seed}: {:?}",
        verdict.missing
    );
    assert!(
        verdict.twice.is_empty(),
        "twice, SEED={seed}: {:?}",
        verdict.twice
    );
    let other: Vec<_> = record
        .answers()
        .into_keys()
        .filter(|answer| {
            let Answer::Status(status) = answer else {
                return false;
            };
            // Alone, a receiver that has just started may ask for another try.
            *status != 200 && !(is_alone && *status == 503)
        })
        .collect();
    assert!(other.is_empty(), "refused, SEED={seed}: {other:?}");
    Ok(())
}
