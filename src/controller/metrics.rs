//! What the controller counts.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::inventory::Inventory;
use crate::cluster::meter::Meter as KubernetesMeter;
use crate::ops::metrics::{Label, Table};
use crate::partner::meter::Meter as PartnerMeter;

/// What every name begins with.
pub const PREFIX: &str = "chekt_controller";

/// Bounds in seconds for a pass: one that writes nothing takes a millisecond, one that waits for CHeKT up to 15 s a step.
const PASS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0,
];

const KIND: Label = Label {
    name: "kind",
    values: &[
        ("webhook", "over a ChektWebhook"),
        ("account", "over a ChektAccount"),
    ],
};

/// What a pass was over.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabel {
    /// `webhook` or `account`.
    pub kind: &'static str,
}

const STEP: Label = Label {
    name: "step",
    values: &[
        ("create", "POST of a remote webhook"),
        ("patch", "PATCH of a remote webhook"),
        ("delete", "DELETE of a remote webhook"),
        ("test", "POST that asks for a test delivery"),
    ],
};

const OUTCOME: Label = Label {
    name: "outcome",
    values: &[
        ("ok", "CHeKT said yes"),
        (
            "error",
            "CHeKT said no, or nothing that could be understood",
        ),
    ],
};

const TOKEN_OUTCOME: Label = Label {
    name: "outcome",
    values: &[
        ("ok", "The receiver has it"),
        (
            "error",
            "The API server gave none, or it could not be written where the receiver reads it",
        ),
    ],
};

/// A request for a token of the receiver's.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TokenLabels {
    /// `ok` or `error`.
    pub outcome: &'static str,
}

/// A request to CHeKT that changes something.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StepLabels {
    /// Such as `create` or `patch`.
    pub step: &'static str,
    /// `ok` or `error`.
    pub outcome: &'static str,
}

/// Metrics of the controller. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Requests to CHeKT that change something.
    pub steps: Family<StepLabels, Counter>,
    /// Passes over a webhook.
    pub passes: Counter,
    /// Lists of remote webhooks made.
    pub lists: Counter,
    /// Passes that the API server kept from being finished.
    pub errors: Counter,
    /// 1 while this process leads.
    pub leader: Gauge,
    /// How often the lease has changed hands.
    lease_transitions: Gauge,
    /// Events about transitions that were not published.
    pub transitions_lost: Counter,
    /// How long passes took, in seconds.
    pass_seconds: Family<KindLabel, Histogram>,
    /// Calls to CHeKT.
    pub partner: PartnerMeter,
    /// Requests to the API server.
    pub kubernetes: KubernetesMeter,
    /// What is told of webhooks and accounts.
    pub inventory: Inventory,
    /// Requests for a token of the receiver's.
    receiver_tokens: Family<TokenLabels, Counter>,
    /// When the receiver's token ends.
    receiver_token_ends: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            steps: Family::default(),
            passes: Counter::default(),
            lists: Counter::default(),
            errors: Counter::default(),
            leader: Gauge::default(),
            lease_transitions: Gauge::default(),
            transitions_lost: Counter::default(),
            pass_seconds: Family::new_with_constructor(|| Histogram::new(PASS)),
            partner: PartnerMeter::default(),
            kubernetes: KubernetesMeter::default(),
            inventory: Inventory::default(),
            receiver_tokens: Family::default(),
            receiver_token_ends: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Makes them and enters them into a table. `most_named`: of more webhooks, none is told of by its name.
    pub fn register(table: &mut Table, most_named: u32) -> Self {
        let mut metrics = Metrics::default();
        let steps = STEP.values.iter().flat_map(|(step, _)| {
            let outcomes = OUTCOME.values.iter();
            outcomes.map(move |(outcome, _)| StepLabels { step, outcome })
        });
        table.add_family(
            "steps",
            "Requests to CHeKT that change something, by what became of them",
            &[STEP, OUTCOME],
            steps,
            &metrics.steps,
        );
        table.add("passes", "Passes over a webhook", &metrics.passes);
        table.add("lists", "Lists of remote webhooks made", &metrics.lists);
        table.add(
            "errors",
            "Passes that Kubernetes kept from being finished",
            &metrics.errors,
        );
        table.add(
            "leader",
            "1 while this process leads and writes, 0 while it stands by",
            &metrics.leader,
        );
        table.add(
            "lease_transitions",
            "How often the lease has changed hands, as it says itself",
            &metrics.lease_transitions,
        );
        table.add(
            "transitions_lost",
            "Events about transitions that were not published: the API server took none, or too many waited",
            &metrics.transitions_lost,
        );
        table.add_family(
            "pass_seconds",
            "How long a pass took, the wait for CHeKT included",
            &[KIND],
            KIND.values.iter().map(|(kind, _)| KindLabel { kind }),
            &metrics.pass_seconds,
        );
        metrics.partner = PartnerMeter::register(table);
        metrics.kubernetes = KubernetesMeter::register(table);
        metrics.inventory = Inventory::register(table, most_named);
        let outcomes = TOKEN_OUTCOME.values.iter();
        table.add_family(
            "receiver_token_requests",
            "Requests for a token of the receiver's service account (--receiver-service-account), by what became of them",
            &[TOKEN_OUTCOME],
            outcomes.map(|(outcome, _)| TokenLabels { outcome }),
            &metrics.receiver_tokens,
        );
        table.add(
            "receiver_token_expiration_timestamp_seconds",
            "When the token ends that the receiver was given last, as a Unix time; 0 where it was given none",
            &metrics.receiver_token_ends,
        );
        metrics
    }

    /// Counts how long a pass took. `kind`: `webhook` or `account`.
    pub fn passed(&self, kind: &'static str, took: Duration) {
        let passes = self.pass_seconds.get_or_create(&KindLabel { kind });
        passes.observe(took.as_secs_f64());
    }

    /// Takes in how often the lease has changed hands.
    pub fn lease_seen(&self, transitions: i32) {
        self.lease_transitions.set(i64::from(transitions));
    }

    /// Takes in a request for a token of the receiver's, and when that token ends.
    pub fn receiver_token(&self, ends: Option<Timestamp>) {
        let outcome = match ends {
            Some(ends) => {
                self.receiver_token_ends.set(ends.as_second());
                "ok"
            }
            None => "error",
        };
        let labels = TokenLabels { outcome };
        self.receiver_tokens.get_or_create(&labels).inc();
    }
}
