//! The report on an account: what its status says of what was last found.

use k8s_openapi::jiff::Timestamp;

use crate::resources::account::{ChektAccountStatus, WebhookCounts};
use crate::resources::conditions::{self, READY, RECONCILING, STALLED, Truth, Verdict};
use crate::resources::reasons::Reason;

/// What keeps an account from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The word.
    pub reason: Reason,
    /// The sentence, which says what to do.
    pub message: String,
}

impl Problem {
    /// Whether only a person can end it. A missing Secret is not of this kind: it may be on its way.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self.reason,
            Reason::BaseUrlNotUsable
                | Reason::CredentialsRejected
                | Reason::NotPermitted
                | Reason::WebhooksNotAvailable
                | Reason::SecretNotUsable
        )
    }
}

/// What an account says that is being deleted and still used. `names`: some of the webhooks, of so many in all; `problem`:
/// what else is wrong with it.
#[must_use]
pub fn still_used(names: &[String], in_all: usize, problem: Option<&Problem>) -> Problem {
    let some = names.join(", ");
    let more = if in_all > names.len() { ", ..." } else { "" };
    let mut message = format!(
        "The account is being deleted and goes once no webhook is with it: delete {some}{more} ({in_all} in all)"
    );
    if let Some(problem) = problem {
        message.push_str(&format!(". Beside that: {}", problem.message));
    }
    Problem {
        reason: Reason::StillUsed,
        message,
    }
}

/// The status of an account. `orphans` is left out: who lets go of a webhook writes it ([`super::orphans`]).
#[must_use]
pub fn report(
    old: &ChektAccountStatus,
    generation: i64,
    problem: Option<&Problem>,
    webhooks: Option<WebhookCounts>,
    now: Timestamp,
) -> ChektAccountStatus {
    let verdict = |kind, truth, reason, message: &str| Verdict {
        kind,
        truth,
        reason,
        message: message.to_owned(),
    };
    let verdicts = match problem {
        None => vec![verdict(
            READY,
            Truth::True,
            Reason::Connected,
            "The account's webhooks can be listed.",
        )],
        Some(problem) => {
            let kind = if problem.needs_a_person() {
                STALLED
            } else {
                RECONCILING
            };
            vec![
                verdict(READY, Truth::False, problem.reason, &problem.message),
                verdict(kind, Truth::True, problem.reason, &problem.message),
            ]
        }
    };
    ChektAccountStatus {
        observed_generation: Some(generation),
        webhooks: webhooks.or_else(|| old.webhooks.clone()),
        orphans: Vec::new(),
        conditions: conditions::merge(&old.conditions, &verdicts, generation, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(reason: Reason) -> Vec<String> {
        let problem = Problem {
            reason,
            message: "m".to_owned(),
        };
        let now = Timestamp::from_second(1).unwrap();
        let status = report(&ChektAccountStatus::default(), 1, Some(&problem), None, now);
        status.conditions.into_iter().map(|c| c.type_).collect()
    }

    #[test]
    fn an_account_that_is_still_used_names_some_webhooks_and_what_else_is_wrong() {
        let names = ["a/b".to_owned(), "a/c".to_owned()];
        let used = still_used(&names, 2, None);
        assert_eq!(used.reason, Reason::StillUsed);
        assert!(used.message.ends_with("delete a/b, a/c (2 in all)"));
        let no_secret = Problem {
            reason: Reason::SecretNotFound,
            message: "no Secret".to_owned(),
        };
        let used = still_used(&names, 7, Some(&no_secret));
        assert!(
            used.message
                .ends_with("a/c, ... (7 in all). Beside that: no Secret")
        );
    }

    #[test]
    fn what_may_pass_by_itself_is_reconciling_and_what_may_not_is_stalled() {
        assert_eq!(kinds(Reason::Unreachable), [READY, RECONCILING]);
        assert_eq!(kinds(Reason::SecretNotFound), [READY, RECONCILING]);
        assert_eq!(kinds(Reason::CredentialsRejected), [READY, STALLED]);
    }
}
