//! What the whole of it came to, as a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::cells::Cell;
use super::verdict::Verdict;

/// One cell, as it ends.
pub fn line(cell: &Cell, verdict: &Verdict) -> String {
    let what = match &verdict.stuck {
        None => "",
        Some(_) => "; STUCK, see below",
    };
    format!("{}: {}{what}", cell.name(), verdict.counts())
}

#[derive(Default)]
struct Row {
    cells: usize,
    stalled: usize,
    twins: usize,
    duplicates: usize,
    leaks: usize,
    losses: usize,
    stuck: usize,
    calls: usize,
    slowest: Duration,
}

/// A row for each step, and one for all of them.
pub fn table(played: &[(Cell, Verdict)], took: Duration, seed: u64) -> String {
    let mut rows: BTreeMap<_, Row> = BTreeMap::new();
    let mut all = Row::default();
    for (cell, verdict) in played {
        let step = rows.entry(cell.step).or_default();
        for row in [step, &mut all] {
            row.cells += 1;
            row.stalled += usize::from(cell.end.is_short_of_what_is_written());
            row.twins += verdict.twins;
            row.duplicates += verdict.duplicates;
            row.leaks += verdict.leaks;
            row.losses += verdict.losses;
            row.stuck += usize::from(verdict.stuck.is_some());
            row.calls = row.calls.max(verdict.calls);
            row.slowest = row.slowest.max(verdict.took);
        }
    }
    let mut table = "| remote step | answers | of these never as written, and said so | twins made and removed | duplicates | leaks | losses | stuck or wrongly stalled | most calls a minute | slowest end |\n".to_owned();
    table.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    let named = rows.iter().map(|(step, row)| (step.name(), row));
    for (name, row) in named.chain([("**all**", &all)]) {
        let Row {
            cells,
            stalled,
            twins,
            duplicates,
            leaks,
            losses,
            stuck,
            calls,
            slowest,
        } = row;
        let _ = writeln!(
            table,
            "| {name} | {cells} | {stalled} | {twins} | {duplicates} | {leaks} | {losses} | {stuck} | {calls} | {:.0} s |",
            slowest.as_secs_f64()
        );
    }
    let _ = writeln!(table, "\n{:.0} s, SEED={seed}", took.as_secs_f64());
    table
}
