//! What the controller counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::ops::metrics::{Label, Table};

/// What every name begins with.
pub const PREFIX: &str = "chekt_controller";

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

/// A request to CHeKT that changes something.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StepLabels {
    /// Such as `create` or `patch`.
    pub step: &'static str,
    /// `ok` or `error`.
    pub outcome: &'static str,
}

/// Metrics of the controller. Clones count together.
#[derive(Clone, Debug, Default)]
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
}

impl Metrics {
    /// Makes them and enters them into a table.
    pub fn register(table: &mut Table) -> Self {
        let metrics = Metrics::default();
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
        metrics
    }

    /// Takes in how often the lease has changed hands.
    pub fn lease_seen(&self, transitions: i32) {
        self.lease_transitions.set(i64::from(transitions));
    }
}
