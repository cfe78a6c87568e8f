//! Goals: what was promised, as ratios of two numbers of one run, and what belongs to them.

use std::fmt::Write as _;

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

/// Everything that was promised, and what is to be said of it.
#[derive(Debug, Default)]
pub struct Goals {
    /// One for each promise, with what each run came to.
    promises: Vec<Vec<Goal>>,
    notes: String,
    run: Option<usize>,
}

impl Goals {
    /// Everything from here on belongs to the run with this number.
    #[allow(dead_code)] // Not everything is measured more than once.
    pub fn run_begins(&mut self, number: usize) {
        println!("\nrun {number}");
        self.run = Some(number);
    }

    /// Enters a promise. If it was entered by an earlier run, the median of all will count.
    pub fn goal(&mut self, goal: Goal) {
        println!("{}", line(std::slice::from_ref(&goal)));
        let known = self
            .promises
            .iter_mut()
            .find(|runs| runs[0].what == goal.what);
        match known {
            Some(runs) => runs.push(goal),
            None => self.promises.push(vec![goal]),
        }
    }

    /// Says something that belongs to the numbers.
    pub fn note(&mut self, note: &str) {
        println!("{note}");
        let run = self.run.map(|run| format!("run {run}: "));
        let _ = writeln!(self.notes, "- {}{note}", run.unwrap_or_default());
    }

    /// Says what is missing and why.
    pub fn not_measured(&mut self, what: &str, why: &str) {
        self.note(&format!("NOT MEASURED: {what}: {why}"));
    }

    /// Prints the promises as Markdown.
    pub fn print(&self) {
        if self.promises.is_empty() {
            return;
        }
        println!("\n\n### Ratios\n");
        println!("| what | ratio | goal | kept | for scale |\n| --- | --- | --- | --- | --- |");
        for runs in &self.promises {
            println!("{}", line(runs));
        }
    }

    /// Prints what is to be said, and of what machine.
    pub fn print_notes(&self) {
        if !self.notes.is_empty() {
            println!("\n{}", self.notes);
        }
        println!("\n{}", machine::described());
    }
}

/// One promise as a line of the table: the median of its runs, and where they lie.
fn line(runs: &[Goal]) -> String {
    let mut runs: Vec<&Goal> = runs.iter().collect();
    runs.sort_by(|a, b| a.value.total_cmp(&b.value));
    let (lowest, highest) = (runs[0].value, runs[runs.len() - 1].value);
    let goal = runs[runs.len() / 2];
    let spread = if runs.len() > 1 {
        format!(" ({lowest:.2} to {highest:.2})")
    } else {
        String::new()
    };
    let within = |most: Option<f64>, least: Option<f64>| {
        most.is_none_or(|most| goal.value <= most) && least.is_none_or(|least| goal.value >= least)
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
    format!(
        "| {} | {:.2}{spread} | {wanted} | {kept} | {} |",
        goal.what, goal.value, goal.scale
    )
}
