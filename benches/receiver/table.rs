//! The tables: first what was promised, as ratios; then what they were made from.

use std::fmt::Write as _;
use std::time::Duration;

use crate::driver::Run;
use crate::machine;

/// One promise and how it was kept.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What is compared with what.
    pub what: String,
    /// The ratio.
    pub value: f64,
    /// It is kept up to this.
    pub at_most: Option<f64>,
    /// It is kept from this on.
    pub at_least: Option<f64>,
    /// The two numbers, for scale.
    pub scale: String,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Table {
    goals: String,
    runs: String,
    notes: String,
}

impl Table {
    /// An empty one.
    pub fn new() -> Self {
        Table {
            goals: String::new(),
            runs: String::new(),
            notes: String::new(),
        }
    }

    /// Enters a promise.
    #[allow(clippy::needless_pass_by_value)] // It is of no other use to anybody.
    pub fn goal(&mut self, goal: Goal) {
        let within = |most: Option<f64>, least: Option<f64>| {
            most.is_none_or(|most| goal.value <= most)
                && least.is_none_or(|least| goal.value >= least)
        };
        let wanted = match (goal.at_most, goal.at_least) {
            (Some(most), _) => format!("at most {most:.2}"),
            (None, Some(least)) => format!("at least {least:.2}"),
            (None, None) => "none".to_owned(),
        };
        let kept = match (goal.at_most, goal.at_least) {
            (None, None) => "-",
            (most, least) if within(most, least) => "yes",
            _ => "**no**",
        };
        let line = format!(
            "| {} | {:.2} | {wanted} | {kept} | {} |",
            goal.what, goal.value, goal.scale
        );
        println!("{line}");
        let _ = writeln!(self.goals, "{line}");
    }

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

    /// Says something that belongs to the numbers.
    pub fn note(&mut self, note: &str) {
        println!("{note}");
        let _ = writeln!(self.notes, "- {note}");
    }

    /// Says what is missing and why.
    pub fn not_measured(&mut self, what: &str, why: &str) {
        self.note(&format!("NOT MEASURED: {what}: {why}"));
    }

    /// Prints all of it as Markdown.
    pub fn print(&self) {
        println!("\n\n### Ratios\n");
        println!("| what | ratio | goal | kept | for scale |\n| --- | --- | --- | --- | --- |");
        print!("{}", self.goals);
        if !self.runs.is_empty() {
            println!("\n### For scale\n");
            println!(
                "| run | answers | CPU a request | p50 | p99 | max | server's core | driver's core |"
            );
            println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
            print!("{}", self.runs);
        }
        if !self.notes.is_empty() {
            println!("\n{}", self.notes);
        }
        println!("\n{}", machine::described());
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
