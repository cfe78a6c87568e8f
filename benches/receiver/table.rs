//! The tables: first what was promised, as ratios; then what they were made from.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::driver::Run;
pub use crate::goals::{Goal, Goals};
use crate::machine::Others;

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Table {
    goals: Goals,
    /// What was run, and what each time came to.
    rows: Vec<(String, Vec<Row>)>,
    /// The most that others had of a core while something ran, and how often that was too much.
    others: f64,
    busy: usize,
}

/// The numbers of one run of a single stream.
#[derive(Clone, Copy, Debug)]
struct Row {
    rate: f64,
    cpu: Duration,
    latencies: [Duration; 3],
    written: f64,
    waits: f64,
    cores: [f64; 3],
}

impl Deref for Table {
    type Target = Goals;

    fn deref(&self) -> &Goals {
        &self.goals
    }
}

impl DerefMut for Table {
    fn deref_mut(&mut self) -> &mut Goals {
        &mut self.goals
    }
}

impl Table {
    /// Enters a run of a single stream, in which every answer should have this status.
    pub fn run(&mut self, what: &str, run: &Run, status: u16) {
        let outcome = &run.outcomes[0];
        let (server, driver) = run.busy();
        let answers = (run.rate() * run.time.as_secs_f64()).max(1.0);
        #[allow(clippy::cast_precision_loss)]
        let each = |count: u64| count as f64 / answers;
        let row = Row {
            rate: run.rate(),
            cpu: run.cpu_a_request(),
            latencies: [0.5, 0.99, 1.0].map(|share| outcome.quantile(share)),
            written: each(run.counts.written),
            waits: each(run.counts.waits),
            cores: [server, driver, run.others],
        };
        println!("{}", line(what, &[row]));
        match self.rows.iter_mut().find(|(known, _)| known == what) {
            Some((_, rows)) => rows.push(row),
            None => self.rows.push((what.to_owned(), vec![row])),
        }
        if let Some(odd) = outcome.other_than(status) {
            self.note(&format!("{what}: {odd}"));
        }
        self.see(run.others);
    }

    /// Notes which share of a core others had in a part that has no line of its own.
    pub fn others(&mut self, what: &str, share: f64) {
        if self.see(share) {
            self.note(&format!(
                "BUSY: other processes had {} of a core during: {what}",
                percent(share)
            ));
        }
    }

    /// Returns whether that is too much.
    fn see(&mut self, others: f64) -> bool {
        self.others = self.others.max(others);
        let busy = others >= Others::BUSY;
        self.busy += usize::from(busy);
        busy
    }

    /// Prints all of it as Markdown.
    pub fn print(&self) {
        self.goals.print();
        if !self.rows.is_empty() {
            println!("\n### For scale\n");
            println!(
                "| run | answers | CPU a request | p50 | p99 | max | written a request | waits a request | server's core \
                 | driver's core | others |"
            );
            println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
            for (what, rows) in &self.rows {
                println!("{}", line(what, rows));
            }
        }
        self.print_notes();
        let most = percent(self.others);
        if self.busy > 0 {
            println!(
                "The machine was BUSY in {} measurements, in which others had up to {most} of a core: take all of this again.",
                self.busy
            );
        } else {
            println!("Others had at most {most} of a core while something was measured.");
        }
    }
}

/// One run as a line of the table, or several: then each number is the median of its own.
fn line(what: &str, rows: &[Row]) -> String {
    let median = |number: &dyn Fn(&Row) -> f64| {
        let mut all: Vec<f64> = rows.iter().map(number).collect();
        all.sort_by(f64::total_cmp);
        (all[all.len() / 2], all[0], all[all.len() - 1])
    };
    let (answers, least, most) = median(&|row| row.rate);
    let spread = if rows.len() > 1 {
        format!(" ({least:.0} to {most:.0})")
    } else {
        String::new()
    };
    let time = |number: &dyn Fn(&Row) -> Duration| {
        Duration::from_secs_f64(median(&|row| number(row).as_secs_f64()).0)
    };
    let (_, _, others) = median(&|row| row.cores[2]);
    let busy = if others >= Others::BUSY {
        ", **busy**"
    } else {
        ""
    };
    format!(
        "| {what} | {}{spread} | {} | {} | {} | {} | {:.2} KiB | {:.2} | {} | {} | {}{busy} |",
        rate(answers),
        micros(time(&|row| row.cpu)),
        millis(time(&|row| row.latencies[0])),
        millis(time(&|row| row.latencies[1])),
        millis(time(&|row| row.latencies[2])),
        median(&|row| row.written).0 / 1024.0,
        median(&|row| row.waits).0,
        percent(median(&|row| row.cores[0]).0),
        percent(median(&|row| row.cores[1]).0),
        percent(others),
    )
}

/// A share in percent.
fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Microseconds.
pub fn micros(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}

/// Milliseconds.
pub fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// So many a second.
pub fn rate(per_second: f64) -> String {
    format!("{per_second:.0}/s")
}

/// MiB.
#[allow(clippy::cast_precision_loss)]
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
