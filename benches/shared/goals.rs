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
    goals: String,
    notes: String,
}

impl Goals {
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

    /// Says something that belongs to the numbers.
    pub fn note(&mut self, note: &str) {
        println!("{note}");
        let _ = writeln!(self.notes, "- {note}");
    }

    /// Says what is missing and why.
    pub fn not_measured(&mut self, what: &str, why: &str) {
        self.note(&format!("NOT MEASURED: {what}: {why}"));
    }

    /// Prints the promises as Markdown.
    pub fn print(&self) {
        if self.goals.is_empty() {
            return;
        }
        println!("\n\n### Ratios\n");
        println!("| what | ratio | goal | kept | for scale |\n| --- | --- | --- | --- | --- |");
        print!("{}", self.goals);
    }

    /// Prints what is to be said, and of what machine.
    pub fn print_notes(&self) {
        if !self.notes.is_empty() {
            println!("\n{}", self.notes);
        }
        println!("\n{}", machine::described());
    }
}
