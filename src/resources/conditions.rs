//! Conditions: their types and the one way to change a list of them.
//!
//! Messages are for people and hold no time and no counter: a status that differs only in such a thing would be written for
//! ever, and every write wakes every watcher.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::reasons::Reason;

/// `True` when all is as written: Synced and Active.
pub const READY: &str = "Ready";
/// `True` when the remote webhook equals the spec.
pub const SYNCED: &str = "Synced";
/// `True` when CHeKT says that the remote webhook is active.
pub const ACTIVE: &str = "Active";
/// `True` when a test delivery came back through the receiver under the current secret.
pub const VERIFIED: &str = "Verified";
/// Present, and `True`, only while work is under way.
pub const RECONCILING: &str = "Reconciling";
/// Present, and `True`, only while nothing will change before a person acts.
pub const STALLED: &str = "Stalled";
/// Present, and `True`, only while `spec.suspend` is set.
pub const SUSPENDED: &str = "Suspended";
/// Present, and `True`, only while a delivery has waited for longer than a minute to become an Event.
pub const DELIVERIES_DELAYED: &str = "DeliveriesDelayed";

/// The three words Kubernetes has for the status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// It cannot be said.
    Unknown,
}

impl Truth {
    /// The word as the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        }
    }
}

/// One condition before it is merged into a status: everything but the times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One of the constants of this module.
    pub kind: &'static str,
    /// Whether it holds.
    pub truth: Truth,
    /// A CamelCase word for machines.
    pub reason: Reason,
    /// A sentence for people.
    pub message: String,
}

/// Merges verdicts into the conditions of a status: `lastTransitionTime` moves only when the status of a
/// condition does, and a condition without a verdict is dropped.
///
/// The times are whole seconds because that is all that Kubernetes' `Time` keeps.
#[must_use]
pub fn merge(
    existing: &[Condition],
    verdicts: &[Verdict],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    verdicts
        .iter()
        .map(|verdict| {
            let status = verdict.truth.as_str();
            let since = existing
                .iter()
                .find(|c| c.type_ == verdict.kind && c.status == status)
                .map_or_else(
                    || Time(whole_seconds(now)),
                    |c| c.last_transition_time.clone(),
                );
            Condition {
                type_: verdict.kind.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.as_str().to_owned(),
                message: verdict.message.clone(),
                observed_generation: Some(generation),
                last_transition_time: since,
            }
        })
        .collect()
}

/// The condition of one type, if there is one.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// A time cut to whole seconds, as Kubernetes stores it.
#[must_use]
pub fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(truth: Truth, message: &str) -> Verdict {
        Verdict {
            kind: READY,
            truth,
            reason: Reason::Working,
            message: message.to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_new_message_does_not_move_the_transition_time() {
        let first = merge(&[], &[verdict(Truth::False, "a")], 1, at(10));
        let second = merge(&first, &[verdict(Truth::False, "b")], 2, at(20));
        assert_eq!(second[0].last_transition_time.0, at(10));
        assert_eq!(second[0].message, "b");
        assert_eq!(second[0].observed_generation, Some(2));
    }

    #[test]
    fn a_new_status_moves_the_transition_time() {
        let first = merge(&[], &[verdict(Truth::False, "a")], 1, at(10));
        let second = merge(&first, &[verdict(Truth::True, "a")], 1, at(20));
        assert_eq!(second[0].last_transition_time.0, at(20));
    }

    #[test]
    fn a_condition_without_a_verdict_is_dropped() {
        let first = merge(&[], &[verdict(Truth::False, "a")], 1, at(10));
        assert!(merge(&first, &[], 1, at(20)).is_empty());
    }
}
