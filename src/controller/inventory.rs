//! The inventory: what `/metrics` tells of webhooks and accounts, read from the stores when somebody asks.
//!
//! Only the process that leads tells it, since nobody else knows how accounts are; so each thing is told once, however
//! many controllers there are.
//!
//! There can be ten thousand webhooks, and a handful of series for each of them is more than most people want to store.
//! So sums by namespace are always told, and single webhooks only while there are no more than `--metrics-webhooks`. It
//! is all of them or none: whichever were picked, an alert on one webhook would be silent about the others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kube::ResourceExt;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::account::interval;
use super::context::{Context, Slot};
use crate::ops::metrics::{Row, Table, Value};
use crate::resources::account::AccountName;
use crate::resources::{ChektAccount, ChektWebhook};
use crate::webhook::health::{State, meaning};

const NAMESPACE: Value = ("namespace", "the namespace of the object");
const NAME: Value = ("name", "the name of the object");
const CONDITION: Value = ("condition", "the type of the condition, such as `Ready`");
const STATUS: Value = ("status", "`True`, `False` or `Unknown`");
const REASON: Value = ("reason", "the reason of the condition");
const ACCOUNT: Value = (
    "account",
    "the account that it is with, as namespace/name; empty before anything was sent to CHeKT",
);
const STATE: Value = (
    "state",
    "of the remote webhook: `active`; `off`: CHeKT has switched it off; `unknown`: another word; `absent`: there is none",
);
const KIND: Value = (
    "kind",
    "`managed`: a ChektWebhook has it; `foreign`: none does",
);

/// One metric, and how the reference tells of it.
struct Metric {
    name: &'static str,
    help: &'static str,
    labels: &'static [Value],
}

const WEBHOOKS: Metric = Metric {
    name: "chekt_webhooks",
    help: "Webhooks by the state of their remote webhooks",
    labels: &[NAMESPACE, STATE],
};
const WEBHOOKS_CONDITION: Metric = Metric {
    name: "chekt_webhooks_condition",
    help: "Webhooks by their conditions: one is counted once for each condition that it has",
    labels: &[NAMESPACE, CONDITION, STATUS, REASON],
};
const WEBHOOKS_LAST: Metric = Metric {
    name: "chekt_webhooks_last_delivery_timestamp_seconds",
    help: "When a delivery with a valid signature last arrived for any webhook of the namespace; missing before the first",
    labels: &[NAMESPACE],
};
const NAMED: Metric = Metric {
    name: "chekt_webhooks_named",
    help: "1 while each webhook is told of by its name, 0 while there are more than --metrics-webhooks",
    labels: &[],
};
const WEBHOOK_INFO: Metric = Metric {
    name: "chekt_webhook_info",
    help: "1 for each webhook",
    labels: &[NAMESPACE, NAME, ACCOUNT, STATE],
};
const WEBHOOK_CONDITION: Metric = Metric {
    name: "chekt_webhook_condition",
    help: "1 for each condition that a webhook has, with the status and the reason that it has now",
    labels: &[NAMESPACE, NAME, CONDITION, STATUS, REASON],
};
const WEBHOOK_CREATED: Metric = Metric {
    name: "chekt_webhook_created_timestamp_seconds",
    help: "When the object was made",
    labels: &[NAMESPACE, NAME],
};
const WEBHOOK_LAST: Metric = Metric {
    name: "chekt_webhook_last_delivery_timestamp_seconds",
    help: "When a delivery with a valid signature last arrived, as status.deliveries tells; missing before the first",
    labels: &[NAMESPACE, NAME],
};
const WEBHOOK_REJECTED: Metric = Metric {
    name: "chekt_webhook_last_rejection_timestamp_seconds",
    help: "When a delivery to the webhook's path was last refused, as status.deliveries tells; missing before the first",
    labels: &[NAMESPACE, NAME],
};
const ACCOUNT_CONDITION: Metric = Metric {
    name: "chekt_account_condition",
    help: "1 for each condition that an account has, with the status and the reason that it has now",
    labels: &[NAMESPACE, NAME, CONDITION, STATUS, REASON],
};
const ACCOUNT_REMOTE: Metric = Metric {
    name: "chekt_account_remote_webhooks",
    help: "Remote webhooks of an account, as its status tells",
    labels: &[NAMESPACE, NAME, KIND],
};
const ACCOUNT_ORPHANS: Metric = Metric {
    name: "chekt_account_orphans",
    help: "Remote webhooks that were let go of without being deleted, and that CHeKT still has",
    labels: &[NAMESPACE, NAME],
};
const ACCOUNT_LIST_AGE: Metric = Metric {
    name: "chekt_account_list_age_seconds",
    help: "Age of the last complete list of remote webhooks; missing before the first",
    labels: &[NAMESPACE, NAME],
};
const ACCOUNT_INTERVAL: Metric = Metric {
    name: "chekt_account_sync_interval_seconds",
    help: "How often the remote webhooks are to be listed: spec.syncInterval",
    labels: &[NAMESPACE, NAME],
};
const ACCOUNT_BUDGET: Metric = Metric {
    name: "chekt_account_budget_requests",
    help: "Requests that may be made at once; below 0 some are owed",
    labels: &[NAMESPACE, NAME],
};
const ACCOUNT_WAITING: Metric = Metric {
    name: "chekt_account_waiting",
    help: "Webhooks that wait for their turn in the budget, and the look at the account if that does, too",
    labels: &[NAMESPACE, NAME],
};
const ACCOUNT_PAUSE: Metric = Metric {
    name: "chekt_account_pause_seconds",
    help: "For how much longer nothing is asked since CHeKT wants a pause; 0 without one",
    labels: &[NAMESPACE, NAME],
};
const ACCOUNT_BREAKER: Metric = Metric {
    name: "chekt_account_breaker_open",
    help: "1 while CHeKT does not answer and only single looks at it are tried, else 0",
    labels: &[NAMESPACE, NAME],
};

/// All of them, in the order of the reference.
const METRICS: [&Metric; 18] = [
    &WEBHOOKS,
    &WEBHOOKS_CONDITION,
    &WEBHOOKS_LAST,
    &NAMED,
    &WEBHOOK_INFO,
    &WEBHOOK_CONDITION,
    &WEBHOOK_CREATED,
    &WEBHOOK_LAST,
    &WEBHOOK_REJECTED,
    &ACCOUNT_CONDITION,
    &ACCOUNT_REMOTE,
    &ACCOUNT_ORPHANS,
    &ACCOUNT_LIST_AGE,
    &ACCOUNT_INTERVAL,
    &ACCOUNT_BUDGET,
    &ACCOUNT_WAITING,
    &ACCOUNT_PAUSE,
    &ACCOUNT_BREAKER,
];

/// Where the inventory is taken: nowhere, until this process leads. Clones are one.
#[derive(Clone, Default)]
pub struct Inventory(Arc<Mutex<Weak<Context>>>);

impl fmt::Debug for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inventory")
    }
}

impl Inventory {
    /// Makes it and enters what it will tell into a table. `most`: of more webhooks, none is named.
    pub fn register(table: &mut Table, most: u32) -> Self {
        let inventory = Inventory::default();
        let rows = METRICS.iter().map(|metric| Row {
            name: metric.name.to_owned(),
            kind: "gauge".to_owned(),
            help: metric.help,
            labels: Vec::new(),
            names: metric.labels,
        });
        let taken = inventory.clone();
        table.collect(rows, Take { taken, most });
        inventory
    }

    /// From now on this is where it is taken, for as long as somebody else holds it.
    pub fn of(&self, context: &Arc<Context>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(context);
    }

    fn context(&self) -> Option<Arc<Context>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade()
    }
}

#[derive(Debug)]
struct Take {
    taken: Inventory,
    most: u32,
}

impl Collector for Take {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut sheet = Sheet::default();
        if let Some(context) = self.taken.context() {
            let webhooks: Vec<_> = context.webhooks.iter().flat_map(|w| w.state()).collect();
            let accounts: Vec<_> = context
                .accounts
                .iter()
                .flat_map(|a| a.store.state())
                .collect();
            sheet.webhooks(&webhooks, self.most);
            for account in &accounts {
                sheet.account(account);
                sheet.connection(&context, account);
            }
        }
        for metric in METRICS {
            let Some(samples) = sheet.0.get(metric.name) else {
                continue;
            };
            let (kind, help) = (MetricType::Gauge, format!("{}.", metric.help));
            let mut told = encoder.encode_descriptor(metric.name, &help, None, kind)?;
            for (values, sample) in samples {
                let labels: Vec<(&str, &str)> = metric
                    .labels
                    .iter()
                    .zip(values)
                    .map(|((name, _), value)| (*name, value.as_str()))
                    .collect();
                if labels.is_empty() {
                    told.encode_gauge(sample)?;
                } else {
                    told.encode_family(&labels)?.encode_gauge(sample)?;
                }
            }
        }
        Ok(())
    }
}

/// What is told: of each metric, the values of its labels and the number.
#[derive(Default)]
struct Sheet(BTreeMap<&'static str, BTreeMap<Vec<String>, f64>>);

impl Sheet {
    fn set(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let labels = labels.iter().map(|&l| l.to_owned()).collect();
        self.0.entry(metric.name).or_default().insert(labels, value);
    }

    fn change(&mut self, metric: &Metric, labels: &[&str], change: impl FnOnce(f64) -> f64) {
        let labels = labels.iter().map(|&l| l.to_owned()).collect();
        let samples = self.0.entry(metric.name).or_default();
        let value = samples.entry(labels).or_default();
        *value = change(*value);
    }

    fn webhooks(&mut self, webhooks: &[Arc<ChektWebhook>], most: u32) {
        let named = u32::try_from(webhooks.len()).is_ok_and(|n| n <= most);
        self.set(&NAMED, &[], if named { 1.0 } else { 0.0 });
        for webhook in webhooks {
            self.in_sum(webhook);
            if named {
                self.by_name(webhook);
            }
        }
    }

    fn in_sum(&mut self, webhook: &ChektWebhook) {
        let namespace = webhook.metadata.namespace.as_deref().unwrap_or_default();
        self.change(&WEBHOOKS, &[namespace, state(webhook)], |n| n + 1.0);
        let Some(status) = &webhook.status else {
            return;
        };
        for c in &status.conditions {
            let labels = [namespace, &c.type_, &c.status, &c.reason];
            self.change(&WEBHOOKS_CONDITION, &labels, |n| n + 1.0);
        }
        let deliveries = status.deliveries.as_ref();
        if let Some(at) = deliveries.and_then(|d| d.last_received_at.as_ref()) {
            let at = number(at.0.as_second());
            self.change(&WEBHOOKS_LAST, &[namespace], |last| last.max(at));
        }
    }

    fn by_name(&mut self, webhook: &ChektWebhook) {
        let namespace = webhook.metadata.namespace.as_deref().unwrap_or_default();
        let name = webhook.metadata.name.as_deref().unwrap_or_default();
        let status = webhook.status.as_ref();
        let account = status.and_then(|s| s.account.as_deref());
        let info = [namespace, name, account.unwrap_or_default(), state(webhook)];
        self.set(&WEBHOOK_INFO, &info, 1.0);
        if let Some(created) = webhook.creation_timestamp() {
            let at = number(created.0.as_second());
            self.set(&WEBHOOK_CREATED, &[namespace, name], at);
        }
        for c in status.iter().flat_map(|s| &s.conditions) {
            let labels = [namespace, name, &c.type_, &c.status, &c.reason];
            self.set(&WEBHOOK_CONDITION, &labels, 1.0);
        }
        let deliveries = status.and_then(|s| s.deliveries.as_ref());
        let received = deliveries.and_then(|d| d.last_received_at.as_ref());
        let rejected = deliveries.and_then(|d| d.last_rejected_at.as_ref());
        for (metric, at) in [(&WEBHOOK_LAST, received), (&WEBHOOK_REJECTED, rejected)] {
            if let Some(at) = at {
                self.set(metric, &[namespace, name], number(at.0.as_second()));
            }
        }
    }

    fn account(&mut self, account: &ChektAccount) {
        let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
        let name = account.metadata.name.as_deref().unwrap_or_default();
        let interval = interval(&account.spec.sync_interval).as_secs_f64();
        self.set(&ACCOUNT_INTERVAL, &[namespace, name], interval);
        let Some(status) = &account.status else {
            return;
        };
        for c in &status.conditions {
            let labels = [namespace, name, &c.type_, &c.status, &c.reason];
            self.set(&ACCOUNT_CONDITION, &labels, 1.0);
        }
        if let Some(counts) = &status.webhooks {
            for (kind, n) in [("managed", counts.managed), ("foreign", counts.foreign)] {
                self.set(&ACCOUNT_REMOTE, &[namespace, name, kind], number(n));
            }
        }
        let orphans = u32::try_from(status.orphans.len()).unwrap_or(u32::MAX);
        self.set(&ACCOUNT_ORPHANS, &[namespace, name], f64::from(orphans));
    }

    /// What only this process knows of an account.
    fn connection(&mut self, context: &Context, account: &ChektAccount) {
        let key = AccountName {
            namespace: account.namespace().unwrap_or_default(),
            name: account.name_any(),
        };
        let Some(Slot::Connected(connection)) = context.slot(&key) else {
            return;
        };
        let now = context.clock.now();
        let labels = [key.namespace.as_str(), key.name.as_str()];
        let listed = connection.roster().complete_since();
        if let Some(began) = listed {
            let age = now.saturating_duration_since(began).as_secs_f64();
            self.set(&ACCOUNT_LIST_AGE, &labels, age);
        }
        let spending = connection.client.spending(now);
        let waiting = u32::try_from(spending.waiting).unwrap_or(u32::MAX);
        let open = connection.is_left_alone();
        self.set(&ACCOUNT_BUDGET, &labels, spending.left);
        self.set(&ACCOUNT_WAITING, &labels, f64::from(waiting));
        self.set(&ACCOUNT_PAUSE, &labels, spending.silent.as_secs_f64());
        self.set(&ACCOUNT_BREAKER, &labels, if open { 1.0 } else { 0.0 });
    }
}

/// The state of a remote webhook in one of four words: CHeKT's own could be any.
fn state(webhook: &ChektWebhook) -> &'static str {
    let Some(status) = webhook.status.as_ref().filter(|s| s.webhook_id.is_some()) else {
        return "absent";
    };
    match meaning(status.state.as_deref()) {
        State::Active => "active",
        State::Off => "off",
        State::Unknown => "unknown",
    }
}

/// Prometheus knows no whole numbers.
#[allow(clippy::cast_precision_loss)]
fn number(n: i64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(namespace: &str, name: &str, status: &serde_json::Value) -> Arc<ChektWebhook> {
        let object = serde_json::json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "1970-01-01T00:00:07Z"},
            "spec": {"events": ["alarm.triggered"]}, "status": status,
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn ready(truth: &str, reason: &str, state: &str, received: Option<&str>) -> serde_json::Value {
        serde_json::json!({
            "webhookID": "w", "state": state, "account": "a/default",
            "deliveries": {"lastReceivedAt": received},
            "conditions": [{"type": "Ready", "status": truth, "reason": reason, "message": "m",
                            "lastTransitionTime": "1970-01-01T00:00:01Z"}],
        })
    }

    fn some() -> Vec<Arc<ChektWebhook>> {
        let (early, late) = ("1970-01-01T00:01:00Z", "1970-01-01T00:02:00Z");
        vec![
            webhook("a", "one", &ready("True", "InSync", "Active", Some(late))),
            webhook("a", "two", &ready("True", "InSync", "active", Some(early))),
            webhook("a", "off", &ready("False", "SwitchedOff", "disabled", None)),
            webhook("b", "odd", &ready("True", "InSync", "Sleeping", None)),
            webhook("b", "new", &serde_json::Value::Null),
        ]
    }

    fn told(sheet: &Sheet, metric: &Metric, labels: &[&str]) -> Option<i64> {
        let labels: Vec<String> = labels.iter().map(|&l| l.to_owned()).collect();
        let value = sheet.0.get(metric.name)?.get(&labels)?;
        #[allow(clippy::cast_possible_truncation)]
        Some(*value as i64)
    }

    #[test]
    fn sums_are_told_by_namespace_and_states_in_four_words() {
        let mut sheet = Sheet::default();
        sheet.webhooks(&some(), 0);
        let of = |metric: &Metric, labels: &[&str]| told(&sheet, metric, labels);
        assert_eq!(of(&WEBHOOKS, &["a", "active"]), Some(2));
        assert_eq!(of(&WEBHOOKS, &["a", "off"]), Some(1));
        assert_eq!(of(&WEBHOOKS, &["b", "unknown"]), Some(1));
        assert_eq!(of(&WEBHOOKS, &["b", "absent"]), Some(1));
        let in_sync = ["a", "Ready", "True", "InSync"];
        assert_eq!(of(&WEBHOOKS_CONDITION, &in_sync), Some(2));
        assert_eq!(of(&WEBHOOKS_LAST, &["a"]), Some(120));
        assert_eq!(of(&WEBHOOKS_LAST, &["b"]), None);
    }

    #[test]
    fn webhooks_are_named_while_there_are_no_more_than_may_be_and_then_none_is() {
        for (most, named) in [(5, true), (4, false), (0, false)] {
            let mut sheet = Sheet::default();
            sheet.webhooks(&some(), most);
            assert_eq!(told(&sheet, &NAMED, &[]), Some(i64::from(named)));
            let condition = ["a", "off", "Ready", "False", "SwitchedOff"];
            for (metric, labels) in [
                (
                    &WEBHOOK_INFO,
                    ["a", "one", "a/default", "active"].as_slice(),
                ),
                (&WEBHOOK_CONDITION, condition.as_slice()),
                (&WEBHOOK_CREATED, ["b", "new"].as_slice()),
                (&WEBHOOK_LAST, ["a", "two"].as_slice()),
            ] {
                let is_told = told(&sheet, metric, labels).is_some();
                assert_eq!(is_told, named, "{} with {most}", metric.name);
            }
        }
    }

    #[test]
    fn a_webhook_that_never_had_a_delivery_is_not_told_to_have_had_one_in_1970() {
        let mut sheet = Sheet::default();
        sheet.webhooks(&some(), 100);
        assert_eq!(told(&sheet, &WEBHOOK_LAST, &["a", "off"]), None);
        assert_eq!(told(&sheet, &WEBHOOK_REJECTED, &["a", "one"]), None);
        assert_eq!(told(&sheet, &WEBHOOK_CREATED, &["b", "new"]), Some(7));
    }

    #[test]
    fn who_does_not_lead_tells_of_no_object() {
        let mut table = Table::new("x");
        drop(Inventory::register(&mut table, 10));
        assert_eq!(table.rows().len(), METRICS.len());
        let mut text = String::new();
        let registry = table.into_registry();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert_eq!(text, "# EOF\n");
    }
}
