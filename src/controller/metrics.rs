//! Metrics of the controller.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The kind of a step.
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
    /// Steps performed.
    pub steps: Family<StepLabels, Counter>,
    /// Passes over a webhook.
    pub passes: Counter,
    /// Lists of remote webhooks made.
    pub lists: Counter,
    /// Passes that the API server kept from being finished.
    pub errors: Counter,
}

impl Metrics {
    /// Metrics and the registry that shows them.
    #[must_use]
    pub fn new() -> (Self, Registry) {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("chekt_controller");
        registry.register(
            "steps",
            "Steps performed, by kind and outcome",
            metrics.steps.clone(),
        );
        registry.register("passes", "Passes over a webhook", metrics.passes.clone());
        registry.register(
            "lists",
            "Lists of remote webhooks made",
            metrics.lists.clone(),
        );
        registry.register(
            "errors",
            "Passes that Kubernetes kept from being finished",
            metrics.errors.clone(),
        );
        (metrics, registry)
    }
}
