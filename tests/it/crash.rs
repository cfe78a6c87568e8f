//! The crash matrix: a controller that is killed at any step leaves one remote webhook for each resource.
//!
//! Each scenario is run once without a kill, which shows its steps: every call that writes, and every one whose answer is
//! acted upon, to Kubernetes and to CHeKT. A cell is one of them at one of three points: before it leaves, after the
//! server acted, after the answer was read. There the process gets SIGKILL, from outside and by a proxy of the harness;
//! it is started again, and when all has settled the sandbox's books and the API server are asked.
//!
//! `CELLS` says how many cells are tried (24), spread over all scenarios; with 0 it is every one. `SCENARIO` restricts it
//! to those with this in their name, `SEED` repeats the choice of an earlier run, `AT_ONCE` says how many run side by
//! side.

mod cell;
mod scenario;
mod verdict;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::try_join_all;

use self::cell::{Outcome, Slot};
use self::scenario::Scenario;
use self::verdict::Flaw;
use crate::harness::dice::{Dice, seed, setting};
use crate::harness::{Point, Strike};

/// Cells of the short form.
const SHORT: usize = 24;
/// Cells that run side by side: at least as many as there are scenarios. Most of a cell is waiting for the settle time of
/// 5 s.
const AT_ONCE: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_at_any_step_leaves_one_webhook_for_each_resource() -> anyhow::Result<()>
{
    let seed = seed()?;
    let most = setting("CELLS")?.unwrap_or(SHORT);
    let scenarios = scenarios()?;
    println!("SEED={seed}");
    let began = Instant::now();
    let at_once = setting("AT_ONCE")?.unwrap_or(AT_ONCE);
    let slots = try_join_all((0..at_once).map(|_| Slot::open())).await?;

    let whole = scenarios.iter().map(|scenario| (*scenario, None)).collect();
    let whole = run(&slots, whole).await?;
    let cells = choose(&whole, most, &mut Dice(seed));
    let killed = run(&slots, cells).await?;

    println!("{}", steps(&whole));
    println!("{}", table(&whole, &killed, seed, began.elapsed()));
    let flawed: Vec<_> = whole
        .iter()
        .chain(&killed)
        .filter(|outcome| !outcome.flaws.is_empty())
        .map(|o| format!("{}, {:?} {:?}", o.scenario.name(), o.strike, o.flaws))
        .collect();
    assert!(flawed.is_empty(), "SEED={seed}: {flawed:#?}");
    // A matrix that never kills would always be green. Some calls do not come in each run, most of them reads at the end.
    let struck = killed.iter().filter(|o| o.struck.is_some()).count();
    assert!(struck * 2 > killed.len(), "{struck} of {}", killed.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_around_the_request_for_a_test_delivery_is_verified_within_90_s()
-> anyhow::Result<()> {
    let scenarios = [Scenario::Create, Scenario::Recovery];
    let slots = try_join_all((0..6).map(|_| Slot::open())).await?;
    let whole = scenarios.iter().map(|scenario| (*scenario, None)).collect();
    let whole = run(&slots, whole).await?;
    let mut cells = VecDeque::new();
    for outcome in &whole {
        let of = Some("CHeKT test");
        let strikes = Point::ALL.map(|point| Strike { call: 1, of, point });
        cells.extend(strikes.map(|strike| (outcome.scenario, Some(strike))));
    }
    let killed = run(&slots, cells).await?;
    for outcome in whole.iter().chain(&killed) {
        let Outcome {
            scenario,
            strike,
            struck,
            took,
            flaws,
            ..
        } = outcome;
        println!("{} {strike:?} {struck:?}: {took:.1?}", scenario.name());
        assert!(
            flaws.is_empty(),
            "{}, {strike:?}: {flaws:#?}",
            scenario.name()
        );
    }
    let struck = killed.iter().filter(|outcome| outcome.struck.is_some());
    assert_eq!(struck.count(), killed.len());
    Ok(())
}

fn scenarios() -> anyhow::Result<Vec<Scenario>> {
    let part = std::env::var("SCENARIO").unwrap_or_default();
    let fits = |scenario: &Scenario| scenario.name().contains(&part);
    // "create" means the first of them and not each with that word.
    let exact = Scenario::ALL.into_iter().find(|s| s.name() == part);
    let chosen = exact.map_or_else(
        || Scenario::ALL.into_iter().filter(fits).collect(),
        |exact| vec![exact],
    );
    let names = Scenario::ALL.map(Scenario::name).join(", ");
    anyhow::ensure!(!chosen.is_empty(), "SCENARIO={part}: write one of {names}");
    Ok(chosen)
}

/// The cells to try: by turns one of each scenario, in an order by chance; 0 is all of them.
fn choose(whole: &[Outcome], most: usize, dice: &mut Dice) -> VecDeque<(Scenario, Option<Strike>)> {
    let mut rows: Vec<Vec<_>> = Vec::new();
    for outcome in whole {
        let calls = 1..=outcome.calls.len();
        let all = calls.flat_map(|call| {
            Point::ALL.map(|point| Strike {
                call,
                of: None,
                point,
            })
        });
        let mut row: Vec<_> = all.map(|strike| (outcome.scenario, Some(strike))).collect();
        dice.shuffle(&mut row);
        rows.push(row);
    }
    let mut cells = VecDeque::new();
    let most = if most == 0 { usize::MAX } else { most };
    while cells.len() < most && rows.iter().any(|row| !row.is_empty()) {
        cells.extend(rows.iter_mut().filter_map(Vec::pop));
    }
    cells.truncate(most);
    cells
}

/// Runs cells in all slots at once.
async fn run(
    slots: &[Slot],
    cells: VecDeque<(Scenario, Option<Strike>)>,
) -> anyhow::Result<Vec<Outcome>> {
    let (cells, outcomes) = (RefCell::new(cells), RefCell::new(Vec::new()));
    let next = || cells.borrow_mut().pop_front();
    try_join_all(slots.iter().map(async |slot| {
        while let Some((scenario, strike)) = next() {
            let outcome = slot.run(scenario, strike).await;
            let outcome = outcome.with_context(|| format!("{}, {strike:?}", scenario.name()))?;
            let mut outcomes = outcomes.borrow_mut();
            outcomes.push(outcome);
            if outcomes.len() % 50 == 0 {
                println!("{} cells", outcomes.len());
            }
        }
        anyhow::Ok(())
    }))
    .await?;
    let mut outcomes = outcomes.into_inner();
    outcomes.sort_by_key(|outcome| (outcome.scenario, outcome.strike));
    Ok(outcomes)
}

/// The steps of each scenario as they came without a kill.
fn steps(whole: &[Outcome]) -> String {
    let each = whole.iter().map(|o| {
        let calls = o.calls.join(", ");
        format!(
            "{} ({:.1} s): {calls}\n",
            o.scenario.name(),
            o.took.as_secs_f64()
        )
    });
    each.collect()
}

fn table(whole: &[Outcome], killed: &[Outcome], seed: u64, took: Duration) -> String {
    let mut table = "| scenario | steps | points tried | of these not reached | duplicates | leaks | losses | stuck | untested | longest with two alive | slowest to settle |\n\
        | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    let mut row = |name: &str, steps: usize, of: &[&Outcome]| {
        let count = |flaw| {
            let with = of
                .iter()
                .filter(|o| o.flaws.iter().any(|(f, _)| *f == flaw));
            with.count()
        };
        let longest = |time: fn(&Outcome) -> Duration| {
            let all = of.iter().map(|outcome| time(outcome));
            all.max().unwrap_or_default().as_secs_f64()
        };
        let _ = writeln!(
            table,
            "| {name} | {steps} | {} | {} | {} | {} | {} | {} | {} | {:.1} s | {:.1} s |",
            of.len(),
            of.iter().filter(|o| o.struck.is_none()).count(),
            count(Flaw::Duplicate),
            count(Flaw::Leak),
            count(Flaw::Loss),
            count(Flaw::Stuck),
            count(Flaw::Untested),
            longest(|outcome| outcome.with_two),
            longest(|outcome| outcome.took),
        );
    };
    for outcome in whole {
        let of: Vec<_> = killed
            .iter()
            .filter(|o| o.scenario == outcome.scenario)
            .collect();
        row(outcome.scenario.name(), outcome.calls.len(), &of);
    }
    let steps = whole.iter().map(|outcome| outcome.calls.len()).sum();
    row("**all**", steps, &killed.iter().collect::<Vec<_>>());
    let _ = writeln!(table, "\nseed {seed}, {:.0} s", took.as_secs_f64());
    table
}
