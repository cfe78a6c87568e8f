//! The tables: first what was promised, as ratios; then what they were made from.

use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::driver::Run;
pub use crate::goals::{Goal, Goals};

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Table {
    goals: Goals,
    runs: String,
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
        let line = format!(
            "| {what} | {} | {} | {} | {} | {} | {:.0} % | {:.0} % |",
            rate(run.rate()),
            micros(run.cpu_a_request()),
            millis(outcome.quantile(0.5)),
            millis(outcome.quantile(0.99)),
            millis(outcome.quantile(1.0)),
            server * 100.0,
            driver * 100.0,
        );
        println!("{line}");
        let _ = writeln!(self.runs, "{line}");
        if let Some(odd) = outcome.other_than(status) {
            self.note(&format!("{what}: {odd}"));
        }
    }

    /// Prints all of it as Markdown.
    pub fn print(&self) {
        self.goals.print();
        if !self.runs.is_empty() {
            println!("\n### For scale\n");
            println!(
                "| run | answers | CPU a request | p50 | p99 | max | server's core | driver's core |"
            );
            println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
            print!("{}", self.runs);
        }
        self.print_notes();
    }
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
