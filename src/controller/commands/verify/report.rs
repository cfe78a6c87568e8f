//! What is found, as it is written: for people line by line while it goes on, for programs as one object at the end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Output;
use crate::checkup::verdict::Concluded;
use crate::checkup::{Finding, Outcome};
use crate::ops::clock::Clock;

/// Findings, each with the time it took.
pub struct Report {
    output: Output,
    clock: Clock,
    /// What is looked at, for the object.
    about: Value,
    found: Vec<(Finding, Option<Duration>)>,
    began: Instant,
}

impl Report {
    /// Begins with a title. `about` is what the object says of what is looked at.
    pub fn begin(output: Output, clock: &Clock, title: &str, about: Value) -> Self {
        if output == Output::Text {
            println!("{title}\n");
        }
        Report {
            output,
            clock: clock.clone(),
            about,
            found: Vec::new(),
            began: clock.now(),
        }
    }

    /// The step that comes next begins now.
    pub fn start(&mut self) {
        self.began = self.clock.now();
    }

    /// It began at this moment.
    pub fn start_at(&mut self, began: Instant) {
        self.began = began;
    }

    /// Takes in what a step has come to.
    pub fn add(&mut self, finding: Finding) {
        let took = (finding.outcome != Outcome::Skipped)
            .then(|| self.clock.now().saturating_duration_since(self.began));
        if self.output == Output::Text {
            println!("{}", line(&finding, took));
        }
        self.found.push((finding, took));
        self.start();
    }

    /// All findings so far.
    pub fn findings(&self) -> Vec<Finding> {
        self.found.iter().map(|(f, _)| f.clone()).collect()
    }

    /// Writes the verdict, and gives back the exit code.
    pub fn conclude(self, concluded: &Concluded) -> anyhow::Result<u8> {
        let Concluded {
            verdict,
            said,
            next,
        } = concluded;
        match self.output {
            Output::Text => {
                println!("\n{}: {said}", verdict.name().to_uppercase());
                if let Some(next) = next {
                    println!("Next: {next}.");
                }
            }
            Output::Json => {
                let each = |(finding, took): &(Finding, Option<Duration>)| {
                    json!({
                        "step": finding.step.name(), "outcome": finding.outcome.name(),
                        "said": finding.said, "next": finding.next,
                        "tookMs": took.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
                    })
                };
                let mut object = self.about;
                object["verdict"] = json!(verdict.name());
                object["said"] = json!(said);
                object["next"] = json!(next);
                object["steps"] = self.found.iter().map(each).collect();
                println!("{}", serde_json::to_string_pretty(&object)?);
            }
        }
        Ok(verdict.code())
    }
}

fn line(finding: &Finding, took: Option<Duration>) -> String {
    let took = took.map_or_else(|| "-".to_owned(), time);
    let mut line = format!(
        "  {:<7}  {:<11} {took:>8}  {}",
        finding.outcome.name(),
        finding.step.name(),
        finding.said
    );
    if let Some(next) = &finding.next {
        line.push_str(&format!("\n{:32}-> {next}", ""));
    }
    line
}

/// A duration as a person reads it.
fn time(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkup::Step;

    #[test]
    fn a_line_says_what_to_do_below_what_was_seen() {
        let found = Finding::failed(Step::Dns, "no such name", "make a record");
        assert_eq!(
            line(&found, Some(Duration::from_millis(7))),
            "  failed   dns             7 ms  no such name\n                                -> make a record"
        );
        assert_eq!(time(Duration::from_millis(1240)), "1.2 s");
    }
}
