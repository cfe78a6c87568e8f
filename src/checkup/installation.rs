//! The installation: what must be there before any webhook can work, for whoever has just installed or upgraded.

use kube::ResourceExt;

use super::object;
use super::{Finding, Outcome, Step};
use crate::resources::{ChektAccount, ChektWebhook};

/// The most names in one sentence.
const NAMED: usize = 5;

/// What is known of one definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// It is not there.
    Absent,
    /// It is there, and is not the one of this version.
    Differs,
    /// It is the one of this version, and the API server does not serve it yet.
    NotServed,
    /// It is the one of this version, and served.
    Same,
}

/// What is known of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It is not there.
    Absent,
    /// Nobody holds it.
    Free,
    /// Somebody holds it, and it was not renewed while we looked; who.
    Silent(String),
    /// Somebody holds it and renews it; who.
    Held(String),
}

/// What is found of the definitions, each by its name.
#[must_use]
pub fn definitions(all: &[(String, Definition)]) -> Finding {
    let step = Step::Definitions;
    let named = |which: Definition| -> Vec<&str> {
        let of = all.iter().filter(|(_, d)| *d == which);
        of.map(|(name, _)| name.as_str()).collect()
    };
    let (absent, differ) = (named(Definition::Absent), named(Definition::Differs));
    let waiting = named(Definition::NotServed);
    if !absent.is_empty() {
        return Finding::failed(
            step,
            format!("not installed: {}", absent.join(", ")),
            "chekt-operator crds | kubectl apply --server-side -f - (with the chart: crds.install=true)",
        );
    }
    if !waiting.is_empty() {
        return Finding::failed(
            step,
            format!(
                "installed, and not served by the API server: {}",
                waiting.join(", ")
            ),
            "kubectl describe crd says why, such as names that another definition has",
        );
    }
    if !differ.is_empty() {
        return Finding::warning(
            step,
            format!(
                "of another version than this program: {}",
                differ.join(", ")
            ),
            "upgrade them together: chekt-operator crds | kubectl apply --server-side -f - (with the chart: crds.install=true)",
        );
    }
    let each: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    Finding::ok(
        step,
        format!("installed, of this version: {}", each.join(", ")),
    )
}

/// What is found of the Lease.
#[must_use]
pub fn lease(name: &str, lease: &Lease) -> Finding {
    let step = Step::Lease;
    match lease {
        Lease::Held(holder) => Finding::ok(step, format!("{name} is held and renewed by {holder}")),
        Lease::Silent(holder) => Finding::failed(
            step,
            format!("{name} names {holder}, who does not renew it"),
            "see that a controller runs and reaches the API server: kubectl get pods, and its log",
        ),
        Lease::Free => Finding::failed(
            step,
            format!("nobody holds {name}"),
            "see that a controller runs: kubectl get pods, and its log",
        ),
        Lease::Absent => Finding::failed(
            step,
            format!("there is no Lease {name}"),
            "see that a controller runs and may write Leases in this namespace; with --leader-elect=false there is none",
        ),
    }
}

/// What is found of all accounts.
#[must_use]
pub fn accounts(all: &[ChektAccount]) -> Finding {
    let step = Step::Accounts;
    let findings = all.iter().map(|account| {
        let name = full_name(account);
        let found = object::account(&name, Some(account));
        (name, found)
    });
    let broken: Vec<(String, Finding)> = findings.filter(|(_, f)| !f.lets_go_on()).collect();
    if all.is_empty() {
        return Finding::ok(step, "there is no ChektAccount yet");
    }
    let Some((_, first)) = broken.first() else {
        return Finding::ok(step, format!("{} of {0} are ready", all.len()));
    };
    Finding {
        step,
        outcome: Outcome::Failed,
        said: format!(
            "{} of {} are not ready: {}. The first: {}",
            broken.len(),
            all.len(),
            names(broken.iter().map(|(name, _)| name.as_str())),
            first.said
        ),
        next: first.next.clone(),
    }
}

/// What is found of all webhooks. One that is not ready is its owner's concern more than the installation's.
#[must_use]
pub fn webhooks(all: &[ChektWebhook]) -> Finding {
    let step = Step::Webhooks;
    let broken: Vec<String> = all
        .iter()
        .filter(|w| !object::webhook(w).lets_go_on())
        .map(full_name)
        .collect();
    if all.is_empty() {
        return Finding::ok(step, "there is no ChektWebhook yet");
    }
    if broken.is_empty() {
        return Finding::ok(step, format!("{} of {0} are ready", all.len()));
    }
    Finding::warning(
        step,
        format!(
            "{} of {} are not ready: {}",
            broken.len(),
            all.len(),
            names(broken.iter().map(String::as_str))
        ),
        "chekt-operator verify NAMESPACE/NAME says what is wrong with one",
    )
}

fn full_name<K: ResourceExt>(object: &K) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{namespace}/{}", object.name_any())
}

/// Some of many names.
fn names<'n>(all: impl Iterator<Item = &'n str>) -> String {
    let all: Vec<&str> = all.collect();
    let mut text = all[..all.len().min(NAMED)].join(", ");
    if all.len() > NAMED {
        text.push_str(&format!(" and {} more", all.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_must_be_there_served_and_should_be_of_this_version() {
        use Definition::{Absent, Differs, NotServed, Same};
        for (second, outcome, said) in [
            (Same, Outcome::Ok, "of this version: a, b"),
            (
                Differs,
                Outcome::Warning,
                "another version than this program: b",
            ),
            (
                NotServed,
                Outcome::Failed,
                "not served by the API server: b",
            ),
            (Absent, Outcome::Failed, "not installed: b"),
        ] {
            let found = definitions(&[("a".to_owned(), Same), ("b".to_owned(), second)]);
            assert_eq!(found.outcome, outcome);
            assert!(found.said.contains(said), "{found:?}");
        }
    }

    #[test]
    fn a_lease_must_be_held_by_somebody_who_renews_it() {
        let who = || "pod-1".to_owned();
        for (state, outcome) in [
            (Lease::Held(who()), Outcome::Ok),
            (Lease::Silent(who()), Outcome::Failed),
            (Lease::Free, Outcome::Failed),
            (Lease::Absent, Outcome::Failed),
        ] {
            assert_eq!(lease("chekt-controller", &state).outcome, outcome);
        }
    }

    #[test]
    fn many_names_are_cut() {
        let webhook = |n: usize| -> ChektWebhook {
            serde_json::from_value(json!({
                "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
                "metadata": {"name": format!("w{n}"), "namespace": "a"}, "spec": {"events": ["a.b"]},
            }))
            .unwrap()
        };
        let all: Vec<_> = (0..7).map(webhook).collect();
        let found = webhooks(&all);
        assert_eq!(found.outcome, Outcome::Warning);
        assert!(found.said.ends_with("a/w4 and 2 more"), "{found:?}");
        assert_eq!(webhooks(&[]).outcome, Outcome::Ok);
        assert_eq!(accounts(&[]).outcome, Outcome::Ok);
    }
}
