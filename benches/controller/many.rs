//! Ten, a thousand, ten thousand webhooks that are in sync: what they cost while nothing happens, at a start, and when
//! one of them is edited.

use std::time::{Duration, Instant};

use anyhow::Context;
use chekt_operator::controller::metrics::PREFIX;

use crate::contender::{Contender, Running};
use crate::counted::Counted;
use crate::goals::{Goal, Goals};
use crate::harness::{ControlPlane, Process, eventually};
use crate::latency;
use crate::machine;
use crate::scene::{PAGE, Scene, Shape};

/// Where nothing is delivered.
pub const NOWHERE: &str = "https://alarms.example.com";

const FEW: usize = 10;
const SOME: usize = 1_000;
const MANY: usize = 10_000;
/// The interval of the account while quiet is measured, the shortest there is.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many of them.
const INTERVALS: u32 = 3;
/// The interval by default.
const MINUTE: Duration = Duration::from_secs(60);
/// How long anything may take.
const LONGEST: Duration = Duration::from_secs(600);
/// How long memory has to come to rest.
const REST: Duration = Duration::from_secs(5);

/// Measures and fills the table.
///
/// # Errors
/// When something does not start or is not done in time.
pub async fn measure(
    plane: &'static ControlPlane,
    goals: &mut Goals,
    quiet: bool,
    memory: bool,
) -> anyhow::Result<()> {
    let empty = Scene::new(plane, "empty", "60s").await?;
    let nothing = ours(&empty).await?;
    let (base, _) = (resident(nothing.id()).await?, nothing);
    let base_naive = resident_of_naive(&empty, 0).await?;

    let scene = Scene::new(plane, "many", "60s").await?;
    scene.plant(0..FEW, Shape::Given).await?;
    let process = ours(&scene).await?;
    scene.until_made(FEW, LONGEST).await?;
    let few = if quiet {
        Some(latency::measure(&scene, FEW).await?)
    } else {
        None
    };
    drop(process);

    let mut planted = FEW;
    for count in [SOME, MANY] {
        let process = ours(&scene).await?;
        scene.plant(planted..count, Shape::Given).await?;
        scene.until_made(count, LONGEST).await?;
        planted = count;
        counts(&scene, count).await?;
        still(&scene, Duration::from_secs(3)).await?;
        drop(process);

        let process = cold(&scene, count, goals).await?;
        let used = if memory {
            resident(process.id()).await?
        } else {
            0
        };
        if quiet {
            idle(&scene, &process, count, goals).await?;
            if let Some(few) = few.as_ref().filter(|_| count == MANY) {
                let many = latency::measure(&scene, count).await?;
                goals.goal(Goal {
                    what: format!(
                        "from edit to PATCH, p99: with {count} quiet webhooks / with {FEW}"
                    ),
                    value: many.quantile(0.99) / few.quantile(0.99),
                    at_most: Some(2.0),
                    at_least: None,
                    scale: format!("{many} / {few}"),
                });
            }
        }
        drop(process);
        if memory {
            let naive = resident_of_naive(&scene, count).await?;
            let ours = Used { now: used, base };
            let theirs = Used {
                now: naive,
                base: base_naive,
            };
            per_webhook(goals, count, ours, theirs);
        }
    }
    Ok(())
}

/// Waits until nothing of ours was written for `pause`, and gives what was counted then.
///
/// # Errors
/// When it never gets still.
pub async fn still(scene: &Scene, pause: Duration) -> anyhow::Result<Counted> {
    let mut last = (Counted::default(), Instant::now());
    loop {
        let now = Counted::now(&scene.users.client).await?;
        if now.writes() + now.events() != last.0.writes() + last.0.events() {
            last = (now, Instant::now());
        } else if last.1.elapsed() > pause {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the account's status has counted all of them, which it does with its next list.
async fn counts(scene: &Scene, count: usize) -> anyhow::Result<()> {
    scene.set_interval("10s").await?;
    let accounts = scene.users.accounts();
    eventually(
        "the account to have counted its webhooks",
        LONGEST,
        || async {
            let account = accounts.get("default").await?;
            let counted = account.status.and_then(|s| s.webhooks).map(|w| w.managed);
            anyhow::ensure!(counted == Some(i64::try_from(count)?), "{counted:?}");
            Ok(())
        },
    )
    .await?;
    scene.set_interval("60s").await
}

/// Resident memory of a process once it is at rest, in bytes.
///
/// # Errors
/// When the process is gone.
pub async fn resident(pid: u32) -> anyhow::Result<u64> {
    tokio::time::sleep(REST).await;
    Ok(machine::resident(pid)?.now)
}

/// Our controller on a scene.
///
/// # Errors
/// When it does not start.
pub async fn ours(scene: &Scene) -> anyhow::Result<Process> {
    scene.ours(NOWHERE, &[]).await
}

/// Passes over webhooks so far.
///
/// # Errors
/// When it does not say.
pub async fn passes(process: &Process) -> anyhow::Result<u64> {
    let name = format!("{PREFIX}_passes_total ");
    let text = process.metrics().await?;
    let number = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(number.context("no count of passes")?.trim().parse()?)
}

/// Waits until every webhook was looked at and no pass began for a second. Returns when the last one did.
///
/// # Errors
/// When that is not in time.
pub async fn looked_at(process: &Process, count: usize) -> anyhow::Result<Instant> {
    let began = Instant::now();
    let mut last = (0, began);
    while began.elapsed() < LONGEST {
        let now = passes(process).await?;
        if now != last.0 {
            last = (now, Instant::now());
        } else if now >= count as u64 && last.1.elapsed() > Duration::from_secs(1) {
            return Ok(last.1);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{} passes after {LONGEST:?}", last.0)
}

#[allow(clippy::cast_precision_loss)]
async fn cold(scene: &Scene, count: usize, goals: &mut Goals) -> anyhow::Result<Process> {
    let (mark, before) = (
        scene.mark().await?,
        Counted::now(&scene.users.client).await?,
    );
    let began = Instant::now();
    let process = ours(scene).await?;
    let took = looked_at(&process, count).await?.duration_since(began);
    let counted = still(scene, Duration::from_secs(1)).await?.since(&before);
    let calls = scene.calls(mark).await?;
    let pages = count.div_ceil(PAGE);
    let passes = passes(&process).await?;
    goals.goal(Goal {
        what: format!("cold start with {count} in sync: calls to CHeKT / pages of one list"),
        value: calls.len() as f64 / pages as f64,
        at_most: Some(1.0),
        at_least: None,
        scale: format!(
            "{} calls; all were looked at {:.2} s after the start, in {passes} passes",
            calls.len(),
            took.as_secs_f64()
        ),
    });
    goals.goal(Goal {
        what: format!("cold start with {count} in sync: Kubernetes writes"),
        value: (counted.writes() + counted.events()) as f64,
        at_most: Some(0.0),
        at_least: None,
        scale: format!("{counted}"),
    });
    Ok(process)
}

#[allow(clippy::cast_precision_loss)]
async fn idle(
    scene: &Scene,
    process: &Process,
    count: usize,
    goals: &mut Goals,
) -> anyhow::Result<()> {
    scene
        .set_interval(&format!("{}s", INTERVAL.as_secs()))
        .await?;
    // The account counts its webhooks at its next list, and the quiet begins after that.
    tokio::time::sleep(INTERVAL).await;
    let before = still(scene, INTERVAL).await?;
    let pages = count.div_ceil(PAGE);
    // From the end of one list to the end of another: a stretch of time has now one list more in it and now one less.
    let mark = scene.mark().await?;
    lists(scene, mark, pages, 1).await?;
    let passes_before = passes(process).await?;
    let cpu = machine::cpu_of(process.id())?;
    let began = Instant::now();
    lists(scene, mark, pages, 1 + INTERVALS).await?;
    let (took, cpu) = (
        began.elapsed(),
        machine::cpu_of(process.id())?.saturating_sub(cpu),
    );
    let counted = Counted::now(&scene.users.client).await?.since(&before);
    let calls = scene.calls(mark).await?.len() - pages;
    let again = passes(process).await? - passes_before;
    scene
        .set_interval(&format!("{}s", MINUTE.as_secs()))
        .await?;
    let pages = pages as f64;
    let per_interval = calls as f64 / pages / took.div_duration_f64(INTERVAL);
    goals.goal(Goal {
        what: format!(
            "calls to CHeKT an hour, {count} quiet webhooks / pages of the list times 60"
        ),
        value: per_interval,
        // A list is made up to a tenth earlier than its interval says, so that accounts spread.
        at_most: Some(1.12),
        at_least: None,
        scale: format!(
            "{:.0} / {:.0}, from {} calls in {:.0} s with an interval of {} s, as for one of 60 s",
            per_interval * pages * 60.0,
            pages * 60.0,
            calls,
            took.as_secs_f64(),
            INTERVAL.as_secs()
        ),
    });
    let writes = (counted.writes() + counted.events()) as f64;
    goals.goal(Goal {
        what: format!("Kubernetes writes an hour, {count} quiet webhooks"),
        value: writes * 60.0 / took.div_duration_f64(INTERVAL),
        at_most: Some(0.0),
        at_least: None,
        scale: format!(
            "{again} passes, {:.2} % of a core with an interval of {} s",
            cpu.div_duration_f64(took) * 100.0,
            INTERVAL.as_secs()
        ),
    });
    Ok(())
}

/// Waits for the end of a list, the `nth` since `mark`, each of so many pages.
async fn lists(scene: &Scene, mark: u64, pages: usize, nth: u32) -> anyhow::Result<()> {
    let wanted = pages * nth as usize;
    eventually("a list to end", INTERVAL * (nth + 1), || async {
        let calls = scene.calls(mark).await?.len();
        anyhow::ensure!(calls >= wanted, "{calls} calls of {wanted}");
        Ok(())
    })
    .await
}

async fn resident_of_naive(scene: &Scene, count: usize) -> anyhow::Result<u64> {
    let mark = scene.mark().await?;
    let running: Running = Contender::Naive.start(scene).await?;
    eventually(
        "the naive reconciler to have looked at all",
        LONGEST,
        || async {
            let calls = scene.calls(mark).await?.len();
            anyhow::ensure!(calls >= count, "{calls}");
            Ok(())
        },
    )
    .await?;
    let now = resident(running.id()).await?;
    running.kill()?;
    Ok(now)
}

/// Resident memory of a process with webhooks and with none, in bytes.
#[derive(Clone, Copy)]
struct Used {
    now: u64,
    base: u64,
}

impl Used {
    /// KiB for each of so many webhooks.
    #[allow(clippy::cast_precision_loss)]
    fn each(self, count: usize) -> f64 {
        (self.now as f64 - self.base as f64) / 1024.0 / count as f64
    }

    #[allow(clippy::cast_precision_loss)]
    fn spoken(self, count: usize) -> String {
        let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
        format!(
            "{:.1} KiB ({:.1} MiB, {:.1} with none)",
            self.each(count),
            mib(self.now),
            mib(self.base)
        )
    }
}

/// Both look at the same webhooks, one after the other. What either costs on another machine says nothing here: pages of
/// the allocator and of the binary are in it.
fn per_webhook(goals: &mut Goals, count: usize, ours: Used, naive: Used) {
    goals.goal(Goal {
        what: format!(
            "resident memory for each of {count} webhooks: chekt-operator / {}",
            Contender::Naive.name()
        ),
        value: ours.each(count) / naive.each(count),
        at_most: Some(1.0),
        at_least: None,
        scale: format!("{} / {}", ours.spoken(count), naive.spoken(count)),
    });
}
