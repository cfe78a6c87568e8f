//! The test delivery: CHeKT signs something and sends it the whole way, which is the only proof there is.
//!
//! It is judged by what the two processes write into the status. The controller echoes the request once it has acted on it,
//! the receiver says under which number a test delivery arrived and what it refused last. Times come from other clocks,
//! so none is compared with another one: what differs from what stood there before is new.

use k8s_openapi::jiff::Timestamp;

use super::object::{condition, holds, received_elsewhere};
use super::{Finding, Step};
use crate::resources::ChektWebhook;
use crate::resources::conditions::{SUSPENDED, VERIFIED};
use crate::resources::reasons::Reason;
use crate::resources::refusal::Refusal;

/// What was seen of test deliveries and refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// When a test delivery last arrived.
    pub arrived: Option<Timestamp>,
    /// The number under which it did. Numbers only grow.
    pub number: Option<i64>,
    /// When something was last refused, and why.
    pub refused: Option<(Timestamp, String)>,
}

impl Mark {
    /// What a webhook says.
    #[must_use]
    pub fn of(webhook: &ChektWebhook) -> Self {
        let seen = webhook.status.as_ref().and_then(|s| s.deliveries.as_ref());
        let refused = seen.and_then(|d| {
            let at = d.last_rejected_at.as_ref()?.0;
            Some((at, d.last_rejected_reason.clone().unwrap_or_default()))
        });
        Mark {
            arrived: seen.and_then(|d| d.last_test_at.as_ref()).map(|t| t.0),
            number: seen.and_then(|d| d.last_test_number),
            refused,
        }
    }
}

/// How far a test delivery has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nobody has acted on the request yet.
    Requested,
    /// CHeKT was asked for it, and it has not arrived.
    Asked,
    /// It has arrived, and does not count: it was signed with another key than the one in force.
    OtherKey,
    /// The receiver has refused something since; why.
    Refused(String),
    /// CHeKT refuses to send one; why.
    NotSent(String),
    /// It has arrived and counts.
    Arrived,
}

/// How far the test delivery that was asked for by `request` has come, given what stood there `before`.
#[must_use]
pub fn progress(webhook: &ChektWebhook, request: &str, before: &Mark) -> Progress {
    let now = Mark::of(webhook);
    let status = webhook.status.as_ref();
    let handled = status.and_then(|s| s.last_handled_test_at.as_deref()) == Some(request);
    let verified = condition(webhook, VERIFIED);
    // The controller that echoes a request has weighed Verified by the number of the test that it led to.
    if handled && holds(webhook, VERIFIED) {
        return Progress::Arrived;
    }
    if handled && now.number > before.number {
        return Progress::OtherKey;
    }
    if let Some((_, why)) = &now.refused
        && now.refused != before.refused
    {
        return Progress::Refused(why.clone());
    }
    if !handled {
        return Progress::Requested;
    }
    if let Some(verified) = verified.filter(|c| c.reason == Reason::TestRefused.as_str()) {
        return Progress::NotSent(verified.message.clone());
    }
    Progress::Asked
}

/// What is found once there is nothing more to wait for. `waited` is how long that was, for people.
#[must_use]
pub fn judge(progress: &Progress, waited: &str) -> Finding {
    let step = Step::Delivery;
    match progress {
        Progress::Arrived => Finding::ok(
            step,
            "CHeKT sent a test delivery, and its signature fits the current secret",
        ),
        Progress::OtherKey => Finding::failed(
            step,
            "a test delivery arrived, signed with another secret than the current one",
            "wait a minute and look at the condition Verified; if it stays so, ask for a new secret (kubectl chekt rotate)",
        ),
        Progress::Refused(why) => refused(why),
        Progress::NotSent(why) => Finding::failed(
            step,
            format!("CHeKT does not send a test delivery: {why}"),
            "do what the message says, and try again",
        ),
        Progress::Requested => Finding::failed(
            step,
            format!(
                "the controller has not acted on the request for a test delivery within {waited}"
            ),
            "see that the controller runs, leads (kubectl get lease) and looks after this namespace; if the account's budget is used up, its conditions say Queued",
        ),
        Progress::Asked => Finding::failed(
            step,
            format!("CHeKT was asked for a test delivery, and none has arrived within {waited}"),
            "see that CHeKT reaches the url from the internet (firewalls, lists of allowed addresses), and look at what it says of the webhook",
        ),
    }
}

/// What is found of a refusal by our own receiver, whose word `why` is.
fn refused(why: &str) -> Finding {
    let refusal = Refusal::ALL.iter().find(|refusal| refusal.as_str() == why);
    Finding::failed(
        Step::Delivery,
        format!(
            "the receiver refused a delivery: {}",
            refusal.map_or(why, |refusal| refusal.meaning())
        ),
        refusal.map_or(
            "look at the receiver's log, and at what stands between CHeKT and it",
            |refusal| refusal.remedy(),
        ),
    )
}

/// Why no test delivery can be asked for now, as far as the object tells.
#[must_use]
pub fn hindrance(webhook: &ChektWebhook) -> Option<Finding> {
    let step = Step::Delivery;
    if received_elsewhere(webhook) {
        let mut finding = Finding::skipped(
            step,
            "deliveries go to a url that is not this operator's, so it does not see them arrive",
        );
        finding.next = Some(
            "have the receiver at this url show what it receives (POST .../test at CHeKT sends it something)"
                .to_owned(),
        );
        return Some(finding);
    }
    if holds(webhook, SUSPENDED) || webhook.spec.suspend {
        let mut finding =
            Finding::skipped(step, "spec.suspend is true, so CHeKT is asked for nothing");
        finding.next = Some("set spec.suspend to false (kubectl chekt resume)".to_owned());
        return Some(finding);
    }
    None
}

/// What is on record, where no new test delivery is made; `why` not.
#[must_use]
pub fn on_record(webhook: &ChektWebhook, why: &str) -> Finding {
    let step = Step::Delivery;
    if let (true, Some(at)) = (holds(webhook, VERIFIED), Mark::of(webhook).arrived) {
        return Finding::warning(
            step,
            format!("{why}; on record, one arrived under the current secret at {at}"),
            "leave --no-test out, with the right to patch the webhook, to have a new one made",
        );
    }
    let mut finding = Finding::skipped(
        step,
        format!("{why}; none is on record under the current secret"),
    );
    finding.next = Some("ask for a test delivery: kubectl chekt test --wait".to_owned());
    finding
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Outcome;
    use super::*;

    const BEFORE: &str = "2026-01-01T00:00:00Z";
    const AFTER: &str = "2026-01-01T00:01:00Z";

    fn webhook(status: &Value, suspend: bool) -> ChektWebhook {
        serde_json::from_value(json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": "alarms"},
            "spec": {"events": ["alarm.triggered"], "suspend": suspend}, "status": status,
        }))
        .unwrap()
    }

    fn status(handled: &str, verified: (&str, &str), deliveries: &Value) -> Value {
        json!({
            "lastHandledTestAt": handled, "deliveries": deliveries,
            "conditions": [{"type": "Verified", "status": verified.0, "reason": verified.1, "message": "says so",
                "lastTransitionTime": BEFORE}],
        })
    }

    #[test]
    fn a_test_delivery_is_followed_from_the_request_to_its_arrival() {
        // The receivers' clocks say nothing: the new one arrives at a time before the last one.
        let arrived = json!({"lastTestAt": BEFORE, "lastTestNumber": 3});
        let known = json!({"lastTestAt": AFTER, "lastTestNumber": 2});
        let late_copy = json!({"lastTestAt": BEFORE, "lastTestNumber": 2});
        let refused = |why: &str| json!({"lastTestAt": AFTER, "lastTestNumber": 2, "lastRejectedAt": BEFORE, "lastRejectedReason": why});
        let (yes, no, pending) = (
            ("True", "Verified"),
            ("False", "TestPending"),
            ("Unknown", "TestPending"),
        );
        let cases = [
            (status("old", yes, &known), Progress::Requested),
            (status("mine", pending, &known), Progress::Asked),
            (status("old", yes, &arrived), Progress::Requested),
            (status("mine", yes, &arrived), Progress::Arrived),
            (status("mine", no, &arrived), Progress::OtherKey),
            (status("mine", no, &late_copy), Progress::Asked),
            (
                status("mine", ("False", "TestRefused"), &known),
                Progress::NotSent("says so".to_owned()),
            ),
            (
                status("mine", pending, &refused("SignatureMismatch")),
                Progress::Refused("SignatureMismatch".to_owned()),
            ),
            (
                status("mine", pending, &refused("SignatureMissing")),
                Progress::Refused("SignatureMissing".to_owned()),
            ),
        ];
        let before = Mark::of(&webhook(&status("old", yes, &known), false));
        for (status, expected) in cases {
            let seen = webhook(&status, false);
            assert_eq!(progress(&seen, "mine", &before), expected, "{status}");
        }
    }

    #[test]
    fn a_refusal_that_was_there_before_is_not_this_deliverys() {
        let same = json!({"lastRejectedAt": BEFORE, "lastRejectedReason": "SignatureMismatch"});
        let seen = webhook(&status("mine", ("Unknown", "TestPending"), &same), false);
        assert_eq!(progress(&seen, "mine", &Mark::of(&seen)), Progress::Asked);
    }

    #[test]
    fn each_refusal_says_what_to_look_at() {
        for (why, next) in [
            ("SignatureMismatch", "rotate"),
            ("KeyringEmpty", "--operator-namespace"),
            ("OriginNotAllowed", "--allow-from"),
            ("JournalFull", "--journal-max-records"),
            ("OverShare", "DeliveriesDelayed"),
            ("ContentEncoded", "compression"),
            ("OfANewerReceiver", "log"),
        ] {
            let found = judge(&Progress::Refused(why.to_owned()), "60 s");
            assert_eq!(found.outcome, Outcome::Failed);
            assert!(found.next.clone().unwrap().contains(next), "{found:?}");
        }
    }

    #[test]
    fn what_is_on_record_counts_where_no_new_test_is_made() {
        let yes = webhook(
            &status("", ("True", "Verified"), &json!({"lastTestAt": BEFORE})),
            false,
        );
        assert_eq!(on_record(&yes, "by wish").outcome, Outcome::Warning);
        let no = webhook(
            &status("", ("False", "TestPending"), &json!({"lastTestAt": BEFORE})),
            false,
        );
        assert_eq!(on_record(&no, "by wish").outcome, Outcome::Skipped);
    }

    #[test]
    fn a_suspended_webhook_is_not_tested() {
        let quiet = status("", ("True", "Verified"), &json!({}));
        assert!(hindrance(&webhook(&quiet, false)).is_none());
        let found = hindrance(&webhook(&quiet, true)).unwrap();
        assert_eq!(found.outcome, Outcome::Skipped);
    }
}
