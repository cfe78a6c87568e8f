//! What the objects themselves say: conditions are the operator's own words, so they are repeated and not second-guessed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Finding, Step};
use crate::resources::conditions::{
    self, ACTIVE, DELIVERIES_DELAYED, READY, STALLED, SUSPENDED, VERIFIED,
};
use crate::resources::reasons::Reason;
use crate::resources::{ChektAccount, ChektWebhook};

/// Whether a condition of a webhook is `True`.
#[must_use]
pub fn holds(webhook: &ChektWebhook, kind: &str) -> bool {
    condition(webhook, kind).is_some_and(|c| c.status == "True")
}

/// A condition of a webhook.
#[must_use]
pub fn condition<'w>(webhook: &'w ChektWebhook, kind: &str) -> Option<&'w Condition> {
    let status = webhook.status.as_ref()?;
    conditions::find(&status.conditions, kind)
}

/// Whether deliveries of a webhook go to a url that is not the operator's own.
#[must_use]
pub fn received_elsewhere(webhook: &ChektWebhook) -> bool {
    let reason = condition(webhook, VERIFIED).map(|c| c.reason.as_str());
    // Where no test is ever asked for, nothing is said of it: a given url is then taken for somebody else's.
    reason == Some(Reason::ReceivedElsewhere.as_str())
        || (reason == Some(Reason::TestNever.as_str()) && webhook.spec.url.is_some())
}

/// What a webhook says of itself.
#[must_use]
pub fn webhook(webhook: &ChektWebhook) -> Finding {
    let step = Step::Webhook;
    let Some(status) = webhook
        .status
        .as_ref()
        .filter(|s| s.observed_generation.is_some_and(|seen| seen >= 0))
    else {
        return unseen(step);
    };
    let ready = conditions::find(&status.conditions, READY);
    if webhook.metadata.deletion_timestamp.is_some() {
        let why = ready.map_or("", |c| c.message.as_str());
        return Finding::failed(
            step,
            format!("it is being deleted. {why}").trim_end().to_owned(),
            "apply it again once it is gone",
        );
    }
    let current = status.observed_generation == webhook.metadata.generation;
    match ready {
        Some(ready) if ready.status != "True" => {
            return not_ready(step, ready, holds(webhook, SUSPENDED));
        }
        None => return unseen(step),
        Some(_) => {}
    }
    if !current {
        return Finding::warning(
            step,
            "Ready, but the controller has not looked at its last change yet",
            "try again in a moment; if it stays so, look whether the controller runs",
        );
    }
    if holds(webhook, SUSPENDED) {
        return Finding::warning(
            step,
            "Ready, and spec.suspend is true: nothing is changed at CHeKT, and no test delivery is asked for",
            "set spec.suspend to false (kubectl chekt resume)",
        );
    }
    if let Some(stalled) = conditions::find(&status.conditions, STALLED) {
        return Finding::warning(step, stalled.message.clone(), next(stalled));
    }
    match conditions::find(&status.conditions, VERIFIED) {
        Some(verified) if verified.status == "False" => Finding::warning(
            step,
            format!(
                "Ready, but not Verified ({}): {}",
                verified.reason, verified.message
            ),
            "read on: the steps below show where a delivery is lost",
        ),
        _ => Finding::ok(step, "Ready: the remote webhook is active and as written"),
    }
}

/// What an account says of itself. `named` is how it is called, for where it does not exist.
#[must_use]
pub fn account(named: &str, account: Option<&ChektAccount>) -> Finding {
    let step = Step::Account;
    let Some(account) = account else {
        return Finding::failed(
            step,
            format!("ChektAccount {named} does not exist"),
            "make it, or name another one in spec.accountRef",
        );
    };
    let Some(status) = account
        .status
        .as_ref()
        .filter(|s| s.observed_generation.is_some_and(|seen| seen >= 0))
    else {
        return unseen(step);
    };
    let Some(ready) = conditions::find(&status.conditions, READY) else {
        return unseen(step);
    };
    if ready.status != "True" {
        let mut finding = not_ready(step, ready, false);
        finding.said = format!("{named}: {}", finding.said);
        return finding;
    }
    let orphans = match status.orphans.len() {
        0 => String::new(),
        1 => ", and has one orphan (kubectl chekt orphans)".to_owned(),
        n => format!(", and has {n} orphans (kubectl chekt orphans)"),
    };
    Finding::ok(step, format!("{named} is ready{orphans}"))
}

/// What the receiver says of what waits, and whether dead letters were told of lately.
#[must_use]
pub fn journal(webhook: &ChektWebhook, unreadable: Option<usize>) -> Finding {
    let step = Step::Journal;
    if let Some(delayed) = condition(webhook, DELIVERIES_DELAYED).filter(|c| c.status == "True") {
        return Finding::failed(
            step,
            delayed.message.clone(),
            "look at the receiver's log and at its right to create events.events.k8s.io in this namespace",
        );
    }
    match unreadable {
        Some(0) => Finding::ok(
            step,
            "nothing waits for longer than a minute, and no dead letter was told of lately",
        ),
        Some(n) => Finding::warning(
            step,
            format!(
                "{n} Events DeliveryUnreadable: deliveries with a valid signature are kept as dead letters"
            ),
            "chekt-operator deadletters in the receiver's container shows them",
        ),
        None => Finding::ok(step, "nothing waits for longer than a minute"),
    }
}

fn unseen(step: Step) -> Finding {
    Finding::failed(
        step,
        "no controller has looked at it yet",
        "see that the controller runs, leads (kubectl get lease) and looks after this namespace (--watch-namespace)",
    )
}

/// What a condition Ready that does not hold says. A suspended webhook is as its owner wants it.
fn not_ready(step: Step, ready: &Condition, suspended: bool) -> Finding {
    let said = format!("not Ready ({}): {}", ready.reason, ready.message);
    if suspended {
        let next = "set spec.suspend to false (kubectl chekt resume)";
        return Finding::failed(step, said, next);
    }
    Finding::failed(step, said, next(ready))
}

/// What to do about a condition: what its reason calls for, beyond what its message says.
fn next(condition: &Condition) -> String {
    let reason = |r: Reason| condition.reason == r.as_str();
    if reason(Reason::SwitchedOff) {
        "put right where its deliveries are lost (the steps below show it); it is switched on again by spec.recovery, or write chekt.com/reconcile-requested-at for a look now"
    } else if reason(Reason::AccountNotFound)
        || reason(Reason::AccountNotReady)
        || reason(Reason::AccountNotAllowed)
    {
        "put the account right first: kubectl describe cacc says what is wrong with it"
    } else if reason(Reason::CredentialsRejected) || reason(Reason::NotPermitted) {
        "put credentials that CHeKT accepts into the account's Secret"
    } else if reason(Reason::SecretNotFound) || reason(Reason::SecretNotUsable) {
        "make the Secret as the message says"
    } else if reason(Reason::Unreachable) || reason(Reason::Unreadable) {
        "see that the controller reaches the account's baseURL (egress, proxies, the status page of CHeKT)"
    } else if reason(Reason::Working)
        || reason(Reason::Settling)
        || reason(Reason::Queued)
        || reason(Reason::Retrying)
    {
        "wait a moment and look again: work is under way"
    } else {
        "do what the message says; kubectl describe shows the Events that led to it"
    }
    .to_owned()
}

/// Whether CHeKT is known to have switched a webhook off.
#[must_use]
pub fn is_off(webhook: &ChektWebhook) -> bool {
    condition(webhook, ACTIVE).is_some_and(|c| c.reason == Reason::SwitchedOff.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Outcome;
    use super::*;

    fn webhook_with(conditions: &Value, spec: &Value) -> ChektWebhook {
        let mut all = json!({"events": ["alarm.triggered"]});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
            "metadata": {"name": "alarms", "namespace": "security", "generation": 1},
            "spec": all,
            "status": {"observedGeneration": 1, "conditions": conditions},
        }))
        .unwrap()
    }

    fn conditions(all: &[(&str, &str, &str)]) -> Value {
        let each = all.iter().map(|(kind, status, reason)| {
            json!({"type": kind, "status": status, "reason": reason, "message": format!("says {reason}"),
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        });
        Value::Array(each.collect())
    }

    #[test]
    fn conditions_are_repeated_and_say_what_is_next() {
        type Row<'r> = (&'r [(&'r str, &'r str, &'r str)], Outcome, &'r str, &'r str);
        let cases: [Row; 8] = [
            (&[("Ready", "True", "InSync")], Outcome::Ok, "Ready:", ""),
            (
                &[
                    ("Ready", "True", "InSync"),
                    ("Verified", "False", "TestPending"),
                ],
                Outcome::Warning,
                "not Verified (TestPending): says TestPending",
                "steps below",
            ),
            (
                &[
                    ("Ready", "True", "InSync"),
                    ("Stalled", "True", "NotConverging"),
                ],
                Outcome::Warning,
                "says NotConverging",
                "describe",
            ),
            (
                &[("Ready", "False", "SwitchedOff")],
                Outcome::Failed,
                "not Ready (SwitchedOff)",
                "deliveries are lost",
            ),
            (
                &[("Ready", "False", "AccountNotReady")],
                Outcome::Failed,
                "AccountNotReady",
                "account right",
            ),
            (
                &[
                    ("Ready", "False", "Suspended"),
                    ("Suspended", "True", "Suspended"),
                ],
                Outcome::Failed,
                "Suspended",
                "resume",
            ),
            (
                &[("Ready", "Unknown", "UnknownState")],
                Outcome::Failed,
                "UnknownState",
                "describe",
            ),
            (&[], Outcome::Failed, "no controller", "controller runs"),
        ];
        for (given, outcome, said, next) in cases {
            let found = webhook(&webhook_with(&conditions(given), &json!({})));
            assert_eq!(found.outcome, outcome, "{given:?}: {found:?}");
            assert!(found.said.contains(said), "{given:?}: {found:?}");
            let told = found.next.clone().unwrap_or_default();
            assert!(told.contains(next), "{given:?}: {found:?}");
        }
    }

    #[test]
    fn a_webhook_that_nobody_has_looked_at_is_a_failure_of_the_controller() {
        let mut fresh = webhook_with(&json!([]), &json!({}));
        fresh.status.as_mut().unwrap().observed_generation = Some(-1);
        assert!(webhook(&fresh).said.contains("no controller"));
        let mut changed = webhook_with(&conditions(&[("Ready", "True", "InSync")]), &json!({}));
        changed.metadata.generation = Some(2);
        assert_eq!(webhook(&changed).outcome, Outcome::Warning);
    }

    #[test]
    fn whose_deliveries_go_elsewhere_is_known_from_verified() {
        let at = |reason| conditions(&[("Verified", "Unknown", reason)]);
        let none = json!({});
        let given = json!({"url": "https://a.example/x", "secretRef": {"name": "s", "key": "k"}});
        assert!(received_elsewhere(&webhook_with(
            &at("ReceivedElsewhere"),
            &given
        )));
        assert!(received_elsewhere(&webhook_with(&at("TestNever"), &given)));
        assert!(!received_elsewhere(&webhook_with(&at("TestNever"), &none)));
        assert!(!received_elsewhere(&webhook_with(&at("Verified"), &given)));
    }

    #[test]
    fn an_account_that_is_not_there_or_not_ready_is_named() {
        assert!(
            account("security/default", None)
                .said
                .contains("security/default does not exist")
        );
        let of = |given: &[(&str, &str, &str)], orphans: &Value| -> ChektAccount {
            serde_json::from_value(json!({
                "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount",
                "metadata": {"name": "default", "namespace": "security", "generation": 1},
                "spec": {"auth": {}},
                "status": {"observedGeneration": 1, "conditions": conditions(given), "orphans": orphans},
            }))
            .unwrap()
        };
        let refused = account(
            "security/default",
            Some(&of(
                &[("Ready", "False", "CredentialsRejected")],
                &json!([]),
            )),
        );
        assert_eq!(refused.outcome, Outcome::Failed);
        assert!(refused.said.starts_with("security/default: not Ready"));
        assert!(refused.next.unwrap().contains("credentials"));
        let orphan = json!([{"id": "w", "url": "https://a.example", "since": "2026-01-01T00:00:00Z", "reason": "DeletionPolicy"}]);
        let fine = account(
            "security/default",
            Some(&of(&[("Ready", "True", "Connected")], &orphan)),
        );
        assert_eq!(fine.outcome, Outcome::Ok);
        assert!(fine.said.contains("one orphan"));
    }

    #[test]
    fn what_waits_is_a_failure_and_dead_letters_are_a_warning() {
        let quiet = webhook_with(&json!([]), &json!({}));
        assert_eq!(journal(&quiet, Some(0)).outcome, Outcome::Ok);
        assert_eq!(journal(&quiet, None).outcome, Outcome::Ok);
        assert_eq!(journal(&quiet, Some(2)).outcome, Outcome::Warning);
        let late = conditions(&[("DeliveriesDelayed", "True", "EventsWaiting")]);
        let late = webhook_with(&late, &json!({}));
        assert_eq!(journal(&late, Some(0)).outcome, Outcome::Failed);
    }
}
