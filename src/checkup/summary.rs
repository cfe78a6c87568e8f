//! All objects at a glance: of each what a person wants to know first, what is wrong with it, and what to do.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::{Finding, Outcome, object};
use crate::resources::conditions::{self, READY, VERIFIED};
use crate::resources::{ChektAccount, ChektWebhook};

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The status of its condition Ready; `None`: there is none yet.
    pub ready: Option<String>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// What to do about that.
    pub next: Option<String>,
    /// Whether it does not do what it is for.
    pub broken: bool,
}

/// What an account comes to.
#[must_use]
pub fn account(account: &ChektAccount) -> Line {
    let (namespace, name) = (account.namespace().unwrap_or_default(), account.name_any());
    let found = object::account(&name, Some(account));
    let all = account.status.as_ref().map(|s| s.conditions.as_slice());
    let ready = all.and_then(|all| conditions::find(all, READY));
    line(namespace, name, ready.map(|c| c.status.clone()), found)
}

/// What a webhook comes to. One that is suspended is as its owner wants it.
#[must_use]
pub fn webhook(webhook: &ChektWebhook) -> Line {
    let found = object::webhook(webhook);
    let ready = object::condition(webhook, READY).map(|c| c.status.clone());
    let namespace = webhook.namespace().unwrap_or_default();
    line(namespace, webhook.name_any(), ready, found)
}

fn line(namespace: String, name: String, ready: Option<String>, found: Finding) -> Line {
    let is_ok = found.outcome == Outcome::Ok;
    Line {
        namespace,
        name,
        ready,
        broken: found.outcome == Outcome::Failed,
        problem: (!is_ok).then_some(found.said),
        next: found.next,
    }
}

/// The status of the condition Verified, or a dash.
#[must_use]
pub fn verified(webhook: &ChektWebhook) -> String {
    object::condition(webhook, VERIFIED).map_or_else(|| "-".to_owned(), |c| c.status.clone())
}

/// How long ago something was, in one unit as kubectl has it.
#[must_use]
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    // What a faster clock has written was now.
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Who besides us has written `spec.suspend` and will write it again: whoever owns a field puts it back at the next sync.
#[must_use]
pub fn suspend_is_kept_by(webhook: &ChektWebhook, ours: &str) -> Option<String> {
    let fields = webhook.metadata.managed_fields.iter().flatten();
    let owner = fields
        .filter(|f| f.manager.as_deref() != Some(ours))
        .find(|f| {
            f.fields_v1
                .as_ref()
                .is_some_and(|v1| v1.0.pointer("/f:spec/f:suspend").is_some())
        })?;
    owner.manager.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(status: &serde_json::Value, managed: &serde_json::Value) -> ChektWebhook {
        serde_json::from_value(json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
            "metadata": {"name": "alarms", "namespace": "security", "generation": 1, "managedFields": managed},
            "spec": {"events": ["alarm.triggered"]}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_line_says_what_is_wrong_and_what_to_do_or_nothing() {
        let ready = |status: &str, reason: &str| {
            json!({"observedGeneration": 1, "conditions": [{"type": "Ready", "status": status, "reason": reason,
                "message": "says so", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
        };
        let fine = webhook(&with(&ready("True", "InSync"), &json!([])));
        assert_eq!((fine.problem, fine.next, fine.broken), (None, None, false));
        let off = webhook(&with(&ready("False", "SwitchedOff"), &json!([])));
        assert!(off.broken && off.next.is_some(), "{off:?}");
        assert_eq!(off.ready.as_deref(), Some("False"));
        assert!(off.problem.unwrap().contains("SwitchedOff"));
    }

    #[test]
    fn times_have_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |seconds: i64| Timestamp::from_second(1_000_000 - seconds).unwrap();
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_200, "2h"),
            (172_800, "2d"),
        ] {
            assert_eq!(ago(at(seconds), now), text);
        }
    }

    #[test]
    fn whoever_else_owns_suspend_is_named() {
        let field = |manager: &str, spec: &serde_json::Value| {
            json!({"manager": manager, "operation": "Apply", "apiVersion": "chekt.com/v1alpha1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": spec}})
        };
        let (suspend, events) = (json!({"f:suspend": {}}), json!({"f:events": {}}));
        let owned = |all: &[serde_json::Value]| {
            suspend_is_kept_by(&with(&json!({}), &json!(all)), "kubectl-chekt")
        };
        let by_git = [
            field("argocd-controller", &suspend),
            field("kubectl-chekt", &suspend),
        ];
        assert_eq!(owned(&by_git).as_deref(), Some("argocd-controller"));
        let ours = [
            field("argocd-controller", &events),
            field("kubectl-chekt", &suspend),
        ];
        assert_eq!(owned(&ours), None);
    }
}
