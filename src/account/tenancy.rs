//! Tenancy: which account a webhook uses, and whether it may.
//!
//! An account holds credentials, so its owner says who may use them: by default the webhooks of its own namespace, and
//! of others only where `spec.allowedNamespaces` names them, in the manner of Gateway API. Whoever may not use an
//! account is not told whether it exists.
//!
//! A webhook stays with the account that it was made with. Under another account its id would be somebody else's.

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt};

use crate::resources::DEFAULT_ACCOUNT;
use crate::resources::account::{AccountName, AllowedNamespaces, NamespacesFrom};
use crate::resources::webhook::AccountRef;

/// The labels of a namespace, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// They are.
    Known(BTreeMap<String, String>),
    /// They will be soon.
    NotYet,
    /// They cannot be had, and here is what to do.
    Unreadable(String),
}

/// Whether a webhook may use an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It may.
    Granted,
    /// It will be known soon.
    NotYet,
    /// It may not, and here is what to do.
    Refused(String),
}

/// The account that a webhook of `namespace` is to use.
///
/// The one that it names; else the account `default` of its namespace; else `shared`, the operator's own default. What
/// was once chosen in this way stays chosen: an account `default` that comes or goes moves nobody.
#[must_use]
pub fn choose(
    reference: &AccountRef,
    namespace: &str,
    shared: Option<&AccountName>,
    on_record: Option<&AccountName>,
    exists: impl Fn(&AccountName) -> bool,
) -> AccountName {
    let own = AccountName {
        namespace: reference
            .namespace
            .as_deref()
            .unwrap_or(namespace)
            .to_owned(),
        name: reference.name.clone(),
    };
    let named = reference.namespace.is_some() || reference.name != DEFAULT_ACCOUNT;
    match shared {
        Some(shared) if !named => match on_record {
            Some(record) if record == shared => shared.clone(),
            Some(record) if *record == own => own,
            Some(_) | None if exists(&own) => own,
            Some(_) | None => shared.clone(),
        },
        Some(_) | None => own,
    }
}

/// Whether a webhook of `namespace` may use an account that exists.
#[must_use]
pub fn permits(
    account: &AccountName,
    allowed: &AllowedNamespaces,
    namespace: &str,
    labels: impl FnOnce() -> Labels,
) -> Permission {
    if account.namespace == namespace {
        return Permission::Granted;
    }
    let refused = || Permission::Refused(not_for(account, namespace));
    match (allowed.from, &allowed.selector) {
        (NamespacesFrom::All, _) => Permission::Granted,
        (NamespacesFrom::Same, _) | (NamespacesFrom::Selector, None) => refused(),
        (NamespacesFrom::Selector, Some(selector)) => {
            let selector = match Selector::try_from(selector.clone()) {
                Ok(selector) => selector,
                Err(error) => {
                    let message = format!(
                        "{}. Its selector allows nobody ({error}): the operators are In, NotIn, Exists and DoesNotExist",
                        not_for(account, namespace)
                    );
                    return Permission::Refused(message);
                }
            };
            match labels() {
                Labels::Known(labels) if selector.matches(&labels) => Permission::Granted,
                Labels::Known(_) => refused(),
                Labels::NotYet => Permission::NotYet,
                Labels::Unreadable(why) => {
                    let message = format!(
                        "{}. Labels of namespaces cannot be read: {why}",
                        not_for(account, namespace)
                    );
                    Permission::Refused(message)
                }
            }
        }
    }
}

/// What is said to a webhook of `namespace` that names an account of another one which is not there or not for it: the
/// same in both cases, or anybody could find out what others have.
#[must_use]
pub fn not_for(account: &AccountName, namespace: &str) -> String {
    let AccountName {
        namespace: home,
        name,
    } = account;
    format!(
        "ChektAccount {name} does not exist in namespace {home} or does not allow namespace {namespace}: check spec.accountRef, or write {namespace} into spec.allowedNamespaces of that account, as {{from: All}} or as {{from: Selector}} with labels that the namespace has"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn account(text: &str) -> AccountName {
        text.parse().unwrap()
    }

    #[test]
    fn the_account_is_the_one_named_else_ones_own_default_else_the_operators() {
        let shared = account("ops/shared");
        let name = |name: &str, namespace: Option<&str>| AccountRef {
            name: name.to_owned(),
            namespace: namespace.map(ToOwned::to_owned),
        };
        let unnamed = name("default", None);
        for (reference, shared, on_record, own_exists, chosen) in [
            (&unnamed, None, None, false, "team/default"),
            (&unnamed, None, None, true, "team/default"),
            (&unnamed, Some(&shared), None, true, "team/default"),
            (&unnamed, Some(&shared), None, false, "ops/shared"),
            // What was chosen stays chosen.
            (
                &unnamed,
                Some(&shared),
                Some("ops/shared"),
                true,
                "ops/shared",
            ),
            (
                &unnamed,
                Some(&shared),
                Some("team/default"),
                false,
                "team/default",
            ),
            // The record is of no candidate: a webhook that named another account before.
            (
                &unnamed,
                Some(&shared),
                Some("team/other"),
                false,
                "ops/shared",
            ),
            (
                &unnamed,
                Some(&shared),
                Some("team/other"),
                true,
                "team/default",
            ),
            // A name is a name.
            (
                &name("main", None),
                Some(&shared),
                Some("ops/shared"),
                false,
                "team/main",
            ),
            (
                &name("default", Some("team")),
                Some(&shared),
                None,
                false,
                "team/default",
            ),
            (
                &name("main", Some("hq")),
                Some(&shared),
                None,
                false,
                "hq/main",
            ),
        ] {
            let on_record = on_record.map(account);
            let got = choose(reference, "team", shared, on_record.as_ref(), |_| {
                own_exists
            });
            assert_eq!(
                got,
                account(chosen),
                "{reference:?} {shared:?} {on_record:?} {own_exists}"
            );
        }
    }

    #[test]
    fn an_account_is_for_its_own_namespace_and_for_those_it_allows() {
        let labels = |value: Value| Labels::Known(serde_json::from_value(value).unwrap());
        let none = || labels(json!({}));
        let unreadable = || Labels::Unreadable("why".to_owned());
        let chosen = json!({"from": "Selector", "selector": {"matchLabels": {"chekt": "shared"}}});
        let expression = json!({"from": "Selector", "selector": {"matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["test"]}]}});
        let all_by_selector = json!({"from": "Selector", "selector": {}});
        let nonsense = json!({"from": "Selector", "selector": {"matchExpressions": [
            {"key": "tier", "operator": "Like", "values": ["test"]}]}});
        let (yes, wait, no) = ("granted", "not yet", "refused");
        for (allowed, namespace, labels, wanted) in [
            (json!({}), "ops", unreadable(), yes),
            (json!({}), "team", none(), no),
            (json!({"from": "Same"}), "team", none(), no),
            (json!({"from": "All"}), "team", unreadable(), yes),
            (chosen.clone(), "ops", unreadable(), yes),
            (chosen.clone(), "team", none(), no),
            (chosen.clone(), "team", labels(json!({"chekt": "own"})), no),
            (
                chosen.clone(),
                "team",
                labels(json!({"chekt": "shared"})),
                yes,
            ),
            (chosen.clone(), "team", Labels::NotYet, wait),
            (chosen, "team", unreadable(), no),
            (expression.clone(), "team", none(), yes),
            (expression, "team", labels(json!({"tier": "test"})), no),
            (all_by_selector, "team", none(), yes),
            // What the API server would not let in, or what nobody can read, allows nobody.
            (json!({"from": "Selector"}), "team", none(), no),
            (nonsense, "team", none(), no),
        ] {
            let parsed: AllowedNamespaces = serde_json::from_value(allowed.clone()).unwrap();
            let got = permits(&account("ops/shared"), &parsed, namespace, || {
                labels.clone()
            });
            let word = match got {
                Permission::Granted => yes,
                Permission::NotYet => wait,
                Permission::Refused(_) => no,
            };
            assert_eq!(word, wanted, "{allowed} {namespace} {labels:?}");
        }
    }
}
