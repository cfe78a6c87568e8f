//! The remote webhook: what CHeKT shows when it is asked, or what it showed when the operator asked last.

use std::collections::BTreeSet;

use super::{Finding, Step};
use crate::resources::ChektWebhook;
use crate::resources::remote::{self, RemoteWebhook};

/// What is known of the remote webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// CHeKT was asked just now: its webhook of our id, if it has one, and whether its state is a word for "off".
    Shown(Option<RemoteWebhook>, bool),
    /// It was not, by wish or because the credentials may not be read; why.
    NotAsked(String),
    /// It was asked and gave no list; what it said.
    Refused(String),
}

/// What is found of the remote webhook. `off` is what the operator last knew.
#[must_use]
pub fn judge(webhook: &ChektWebhook, asked: &Asked, off: bool) -> Finding {
    let step = Step::Remote;
    let status = webhook.status.clone().unwrap_or_default();
    let Some(id) = &status.webhook_id else {
        return Finding::failed(
            step,
            "there is no webhook at CHeKT on record",
            "see the condition Ready: it says what keeps it from being created",
        );
    };
    let state = status.state.as_deref().unwrap_or("not said");
    match asked {
        Asked::NotAsked(why) if off => switched_off(format!(
            "{id} was {state} when the operator listed last (CHeKT was not asked now: {why})"
        )),
        Asked::NotAsked(why) => Finding::ok(
            step,
            format!(
                "{id} was {state} when the operator listed last (CHeKT was not asked now: {why})"
            ),
        ),
        Asked::Refused(why) => Finding::failed(
            step,
            format!("CHeKT was asked for {id}: {why}"),
            "see that this machine reaches CHeKT and that the account's credentials are accepted",
        ),
        Asked::Shown(None, _) => Finding::failed(
            step,
            format!("CHeKT has no webhook {id}"),
            "nothing, if the controller runs: it makes a new one after its next two lists; chekt.com/reconcile-requested-at asks for one now",
        ),
        Asked::Shown(Some(shown), off) => shown_as(status.url.as_ref(), webhook, shown, *off),
    }
}

fn shown_as(
    recorded: Option<&String>,
    webhook: &ChektWebhook,
    shown: &RemoteWebhook,
    off: bool,
) -> Finding {
    let step = Step::Remote;
    let state = shown.state.as_deref().unwrap_or("not said");
    let id = &shown.id;
    if off {
        return switched_off(format!("{id} is {state} at CHeKT"));
    }
    if recorded.is_some_and(|url| !remote::same(url, &shown.url)) {
        return Finding::failed(
            step,
            format!("{id} delivers to another url at CHeKT: {}", shown.url),
            "nothing, if the controller runs: it changes that back at its next list",
        );
    }
    let set = |events: &[String]| -> BTreeSet<String> { events.iter().cloned().collect() };
    let lacking: Vec<String> = set(&webhook.spec.events)
        .difference(&set(&shown.events))
        .cloned()
        .collect();
    if !lacking.is_empty() {
        return Finding::failed(
            step,
            format!(
                "{id} is {state} at CHeKT, and not subscribed to {}",
                lacking.join(", ")
            ),
            "see the conditions Synced and Stalled; unless CHeKT refuses the events, the controller changes that at its next list",
        );
    }
    if shown
        .state
        .as_deref()
        .is_none_or(|word| !word.eq_ignore_ascii_case("active"))
    {
        return Finding::warning(
            step,
            format!("the state of {id} at CHeKT is {state}, a word that is not known"),
            "see the test delivery: it shows whether CHeKT delivers",
        );
    }
    Finding::ok(
        step,
        format!("{id} is active at CHeKT, with this url and these events (asked just now)"),
    )
}

fn switched_off(said: String) -> Finding {
    Finding::failed(
        Step::Remote,
        said,
        "put right where its deliveries are lost (the steps below show it): CHeKT switches a webhook off after three failures in a row; the operator switches it on again unless spec.recovery.policy is Never",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Outcome;
    use super::*;

    fn webhook(status: &serde_json::Value) -> ChektWebhook {
        serde_json::from_value(json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": "alarms"},
            "spec": {"events": ["alarm.triggered", "alarm.cleared"]}, "status": status,
        }))
        .unwrap()
    }

    fn shown(url: &str, events: &[&str], state: Option<&str>) -> RemoteWebhook {
        RemoteWebhook {
            id: "w1".to_owned(),
            url: url.to_owned(),
            events: events.iter().map(|e| (*e).to_owned()).collect(),
            state: state.map(str::to_owned),
            created_at: None,
        }
    }

    #[test]
    fn what_chekt_shows_is_compared_with_what_is_written() {
        let on_record =
            webhook(&json!({"webhookID": "w1", "url": "https://a.example/x", "state": "active"}));
        let both = ["alarm.cleared", "alarm.triggered", "webhook.test"];
        let url = "https://A.example:443/x";
        let cases = [
            (
                Asked::Shown(Some(shown(url, &both, Some("Active"))), false),
                Outcome::Ok,
                "asked just now",
            ),
            (
                Asked::Shown(Some(shown(url, &both, Some("disabled"))), true),
                Outcome::Failed,
                "is disabled",
            ),
            (
                Asked::Shown(Some(shown(url, &both, Some("odd"))), false),
                Outcome::Warning,
                "is odd",
            ),
            (
                Asked::Shown(Some(shown(url, &both, None)), false),
                Outcome::Warning,
                "not said",
            ),
            (
                Asked::Shown(
                    Some(shown("https://b.example", &both, Some("active"))),
                    false,
                ),
                Outcome::Failed,
                "another url",
            ),
            (
                Asked::Shown(Some(shown(url, &["alarm.cleared"], Some("active"))), false),
                Outcome::Failed,
                "not subscribed to alarm.triggered",
            ),
            (
                Asked::Shown(None, false),
                Outcome::Failed,
                "has no webhook w1",
            ),
            (Asked::Refused("401".to_owned()), Outcome::Failed, "401"),
            (
                Asked::NotAsked("not allowed".to_owned()),
                Outcome::Ok,
                "not allowed",
            ),
        ];
        for (asked, outcome, said) in cases {
            let found = judge(&on_record, &asked, false);
            assert_eq!(found.outcome, outcome, "{asked:?}: {found:?}");
            assert!(found.said.contains(said), "{found:?}");
        }
        let off = judge(&on_record, &Asked::NotAsked("by wish".to_owned()), true);
        assert_eq!(off.outcome, Outcome::Failed);
        let nothing = judge(&webhook(&json!({})), &Asked::NotAsked(String::new()), false);
        assert_eq!(nothing.outcome, Outcome::Failed);
    }
}
