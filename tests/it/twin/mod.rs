//! The cancellation twin: the same engine, in this process, with its future dropped at every await.
//!
//! ```text
//! driver ── controller::webhook::reconcile, controller::account::reconcile
//!   │ turns the clock, drops the future      │                  │
//!   │                                        ▼                  ▼
//!   └── scenario: edits, hands, faults   apiserver          chekt: the sandbox
//!                                            └──── oracle ──────┘
//! ```
//!
//! It is what the crash matrix does to the real process, thousands of times in seconds: nothing sleeps, since the clock is
//! turned by hand. What is in the engine's place is the engine; what is in CHeKT's place is the sandbox; only the API
//! server is a small one, and `fidelity` holds it against the real one.
//!
//! `TWIN_RUNS` says how many seeded runs, and lets every await be struck at four moments instead of one; `TWIN_SEED` says
//! which run and no other.

mod apiserver;
mod chekt;
mod driver;
mod fidelity;
mod oracle;
mod scenario;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;

use crate::harness::dice::Dice;
use crate::harness::reaper;
use scenario::{Fixed, Script, Story};

/// Set in the process that does the work.
const WITHIN: &str = "TWIN_WITHIN";

/// How many seeded runs are a part of `make test`.
const RUNS: u64 = 300;
/// How many seeds that fail are enough to stop.
const ENOUGH: usize = 5;

/// Where a call was when its caller went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On its way to the API server.
    ClusterBefore,
    /// Carried out by the API server, and the answer is not read.
    ClusterAfter,
    /// On its way to CHeKT.
    PartnerBefore,
    /// Carried out by CHeKT, and the answer is not read.
    PartnerAfter,
    /// Answered.
    Nowhere,
}

/// Counts where calls were when their caller went, and says of those on their way whether they arrive all the same.
#[derive(Clone, Debug, Default)]
pub struct Strokes(Arc<Mutex<(Dice, BTreeMap<Place, u64>)>>);

impl Strokes {
    pub fn new(dice: Dice) -> Self {
        Strokes(Arc::new(Mutex::new((dice, BTreeMap::new()))))
    }

    fn struck(&self, place: Place) -> bool {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *inside.1.entry(place).or_default() += 1;
        inside.0.one_in(2)
    }

    fn counts(&self) -> BTreeMap<Place, u64> {
        let inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.1.clone()
    }
}

/// What became of some runs.
#[derive(Debug, Default)]
pub struct Tally {
    pub runs: u64,
    pub passes: u64,
    pub dropped: BTreeMap<Place, u64>,
    pub cancelled: u64,
    pub crashed: u64,
    /// Polls of passes.
    pub polls: u32,
    pub failed: Vec<String>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally {
            runs,
            passes,
            polls,
            dropped,
            cancelled,
            crashed,
            failed,
        } = self;
        write!(
            f,
            "{runs} runs, {} failed, {passes} passes, {polls} polls, {cancelled} cancelled, {crashed} crashed, calls struck: {dropped:?}",
            failed.len()
        )
    }
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.runs += other.runs;
        self.passes += other.passes;
        self.cancelled += other.cancelled;
        self.crashed += other.crashed;
        self.polls += other.polls;
        for (place, count) in other.dropped {
            *self.dropped.entry(place).or_default() += count;
        }
        self.failed.extend(other.failed);
    }
}

fn setting(name: &str) -> anyhow::Result<Option<u64>> {
    let value = std::env::var(name).ok();
    value
        .map(|text| text.parse().with_context(|| format!("{name}={text}")))
        .transpose()
}

/// Runs scripts on all cores, each on a runtime of one thread, so that a run is the same when it is had again.
fn run_all(scripts: &(dyn Fn(u64) -> Option<Script> + Sync)) -> anyhow::Result<Tally> {
    // reqwest and kube may each want to choose a provider; whoever comes second finds it chosen.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            loop {
                let enough = {
                    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.failed.len() >= ENOUGH
                };
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(script) = scripts(number).filter(|_| !enough) else {
                    return Ok(());
                };
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let done = runtime.block_on(script.run());
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.add(done?);
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The rest of a test is done by a process of its own, whose machine trusts a single certificate: each client that the
/// engine and the sandbox make reads all roots of trust, which would take longer than a whole run, and nobody here speaks
/// TLS. Returns whether this is that process.
fn is_within(test: &str) -> anyhow::Result<bool> {
    if std::env::var_os(WITHIN).is_some() {
        return Ok(true);
    }
    let certificate = reaper::directory("twin")?.join("root.pem");
    let one = rcgen::generate_simple_self_signed(["twin.invalid".to_owned()])?;
    std::fs::write(&certificate, one.cert.pem())?;
    let said = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", &format!("twin::{test}"), "--nocapture"])
        .env(WITHIN, "1")
        .env("SSL_CERT_FILE", &certificate)
        .env_remove("SSL_CERT_DIR")
        .output()?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    println!("{}", stdout.trim());
    anyhow::ensure!(said.status.success(), "{}", stderr.trim());
    Ok(false)
}

fn report(what: &str, tally: &Tally, began: Instant) -> anyhow::Result<()> {
    println!("{what}: {tally} in {:.1?}", began.elapsed());
    anyhow::ensure!(tally.failed.is_empty(), "\n{}", tally.failed.join("\n"));
    Ok(())
}

#[test]
fn whenever_passes_are_dropped_every_webhook_ends_with_one_remote_webhook_as_written()
-> anyhow::Result<()> {
    if !is_within(
        "whenever_passes_are_dropped_every_webhook_ends_with_one_remote_webhook_as_written",
    )? {
        return Ok(());
    }
    let began = Instant::now();
    let only = setting("TWIN_SEED")?;
    let runs = setting("TWIN_RUNS")?.unwrap_or(RUNS);
    let tally = run_all(&|number| match only {
        Some(seed) => (number == 0).then(|| Script::seeded(seed)),
        None => (number < runs).then(|| Script::seeded(number)),
    })?;
    report("seeded", &tally, began)
}

#[test]
fn at_every_await_of_every_story_a_pass_may_be_dropped() -> anyhow::Result<()> {
    if !is_within("at_every_await_of_every_story_a_pass_may_be_dropped")? {
        return Ok(());
    }
    let began = Instant::now();
    let whole_form = setting("TWIN_RUNS")?.is_some();
    let mut all = Vec::new();
    for story in Story::ALL {
        // How many polls it takes when nothing is dropped.
        let whole = Fixed {
            story,
            poll: 0,
            turns: 0,
            crash: false,
            idempotent: true,
        };
        let quiet = run_all(&|number| (number == 0).then(|| Script::fixed(whole)))?;
        anyhow::ensure!(quiet.failed.is_empty(), "{}", quiet.failed.join("\n"));
        println!("{story:?}: {} polls", quiet.polls);
        for poll in 1..=quiet.polls {
            for crash in [false, true] {
                // Right at the await, and later by so many turns as a call takes to arrive and to be answered.
                let later = (poll * 5 + u32::from(crash) * 7) % 16;
                let short = [later];
                let long = [0, 4, 9, 15];
                for &turns in if whole_form { &long[..] } else { &short[..] } {
                    all.push(Fixed {
                        poll,
                        turns,
                        crash,
                        idempotent: false,
                        ..whole
                    });
                }
            }
        }
    }
    let at = |number| usize::try_from(number).ok().and_then(|n| all.get(n));
    let tally = run_all(&|number| at(number).map(|fixed| Script::fixed(*fixed)))?;
    report("every await", &tally, began)
}
