//! The verdict: one sentence over all findings, the next thing to do, and the exit code.
//!
//! The codes are those of `plan`: 0 is well, 2 and 3 are two ways of not being well, 1 is left for what cannot be said at all.

use super::{Finding, Outcome, Step};

/// What the findings come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Deliveries arrive and become Events.
    Works,
    /// They do not, or something that they need is broken.
    Fails,
    /// Nothing is known to be broken, and nothing shows that deliveries arrive.
    Unproven,
}

impl Verdict {
    /// The word for it in the output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Works => "works",
            Verdict::Fails => "fails",
            Verdict::Unproven => "unproven",
        }
    }

    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Verdict::Works => 0,
            Verdict::Fails => 2,
            Verdict::Unproven => 3,
        }
    }
}

/// A verdict with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concluded {
    /// The verdict.
    pub verdict: Verdict,
    /// One sentence.
    pub said: String,
    /// The next thing to do; `None`: nothing.
    pub next: Option<String>,
}

/// What all findings about one webhook come to.
#[must_use]
pub fn of_webhook(findings: &[Finding]) -> Concluded {
    if let Some(failed) = first(findings, Outcome::Failed) {
        return fails(failed);
    }
    let delivery = findings.iter().find(|f| f.step == Step::Delivery);
    match delivery.map(|f| f.outcome) {
        Some(Outcome::Ok) => works(
            findings,
            "Alarms arrive: a test delivery went the whole way, and its signature fits",
        ),
        Some(Outcome::Warning) => works(
            findings,
            "Alarms arrived when that was last tested; no new test delivery was made",
        ),
        Some(Outcome::Failed | Outcome::Skipped) | None => {
            let why = delivery.map_or("no test delivery was made", |f| f.said.as_str());
            Concluded {
                verdict: Verdict::Unproven,
                said: format!(
                    "Nothing is known to be broken, and nothing shows that alarms arrive: {why}"
                ),
                next: delivery
                    .and_then(|f| f.next.clone())
                    .or_else(|| next_of(findings)),
            }
        }
    }
}

/// What all findings about the installation come to.
#[must_use]
pub fn of_installation(findings: &[Finding]) -> Concluded {
    if let Some(failed) = first(findings, Outcome::Failed) {
        return fails(failed);
    }
    if let Some(skipped) = first(findings, Outcome::Skipped) {
        return Concluded {
            verdict: Verdict::Unproven,
            said: format!(
                "Nothing is known to be broken, and not all could be looked at: {}: {}",
                skipped.step.name(),
                skipped.said
            ),
            next: next_of(findings),
        };
    }
    works(findings, "The installation works")
}

fn first(findings: &[Finding], outcome: Outcome) -> Option<&Finding> {
    findings.iter().find(|f| f.outcome == outcome)
}

fn next_of(findings: &[Finding]) -> Option<String> {
    findings.iter().find_map(|f| f.next.clone())
}

fn fails(failed: &Finding) -> Concluded {
    Concluded {
        verdict: Verdict::Fails,
        said: format!("{}: {}", failed.step.name(), failed.said),
        next: failed.next.clone(),
    }
}

fn works(findings: &[Finding], said: &str) -> Concluded {
    let warnings = findings
        .iter()
        .filter(|f| f.outcome == Outcome::Warning)
        .count();
    Concluded {
        verdict: Verdict::Works,
        said: match warnings {
            0 => format!("{said}."),
            1 => format!("{said}. There is one warning."),
            n => format!("{said}. There are {n} warnings."),
        },
        next: next_of(findings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(step: Step) -> Finding {
        Finding::ok(step, "fine")
    }

    #[test]
    fn the_first_failure_is_the_verdict_and_says_what_to_do() {
        let all = [
            Finding::warning(Step::Account, "odd", "look"),
            Finding::failed(Step::Dns, "no such name", "make a record"),
            Finding::failed(Step::Delivery, "nothing came", "wait"),
        ];
        let concluded = of_webhook(&all);
        assert_eq!(concluded.verdict, Verdict::Fails);
        assert_eq!(concluded.said, "dns: no such name");
        assert_eq!(concluded.next.as_deref(), Some("make a record"));
        assert_eq!(concluded.verdict.code(), 2);
    }

    #[test]
    fn only_a_delivery_proves_that_alarms_arrive() {
        let cases: [(&[Finding], Verdict, u8); 5] = [
            (&[ok(Step::Delivery)], Verdict::Works, 0),
            (
                &[Finding::warning(Step::Delivery, "on record", "x")],
                Verdict::Works,
                0,
            ),
            (
                &[ok(Step::Answer), Finding::skipped(Step::Delivery, "no")],
                Verdict::Unproven,
                3,
            ),
            (&[ok(Step::Webhook), ok(Step::Answer)], Verdict::Unproven, 3),
            (&[], Verdict::Unproven, 3),
        ];
        for (findings, verdict, code) in cases {
            let concluded = of_webhook(findings);
            assert_eq!(concluded.verdict, verdict, "{findings:?}");
            assert_eq!(concluded.verdict.code(), code);
        }
    }

    #[test]
    fn an_installation_of_which_not_all_was_seen_is_not_said_to_work() {
        assert_eq!(of_installation(&[ok(Step::Api)]).verdict, Verdict::Works);
        let all = [ok(Step::Api), Finding::skipped(Step::Lease, "may not look")];
        assert_eq!(of_installation(&all).verdict, Verdict::Unproven);
    }

    #[test]
    fn warnings_are_counted_and_the_first_says_what_to_do() {
        let all = [
            Finding::warning(Step::Tls, "ends soon", "renew it"),
            ok(Step::Delivery),
        ];
        let concluded = of_webhook(&all);
        assert!(concluded.said.ends_with("There is one warning."));
        assert_eq!(concluded.next.as_deref(), Some("renew it"));
    }
}
