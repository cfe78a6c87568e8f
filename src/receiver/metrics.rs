//! What the receiver counts. Labels come from fixed sets only: nothing that a stranger sends makes a series.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A single label with one of a few values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The value.
    pub outcome: &'static str,
}

/// Which key of a keyring.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Place {
    /// `current`, `next` or `previous`.
    pub place: &'static str,
}

/// The receiver's metrics. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Requests by what became of them.
    pub deliveries: Family<Outcome, Counter>,
    /// Verified deliveries by the key that verified them.
    pub verified: Family<Place, Counter>,
    /// Seconds from the request's headers to the answer of an acknowledged delivery.
    pub durable_seconds: Histogram,
    /// Connections that are open.
    pub connections: Gauge,
    /// Deliveries that wait to be published.
    pub journal_pending: Gauge,
    /// Bytes of their bodies.
    pub journal_bytes: Gauge,
    /// Dead letters.
    pub journal_dead: Gauge,
    /// Age of the oldest that waits, in seconds; 0 when nothing waits.
    pub journal_oldest_seconds: Gauge,
    /// Attempts to publish by what became of them.
    pub events: Family<Outcome, Counter>,
    /// Seconds from arrival to the Event.
    pub publish_seconds: Histogram,
    /// Attempts to write `status.deliveries` by what became of them.
    pub status_writes: Family<Outcome, Counter>,
}

impl Metrics {
    /// Makes them and enters them into a registry, under `chekt_receiver_`.
    pub fn register(registry: &mut Registry) -> Self {
        let fast = [
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0,
        ];
        let slow = [
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
            1800.0,
        ];
        let metrics = Metrics {
            deliveries: Family::default(),
            verified: Family::default(),
            durable_seconds: Histogram::new(fast),
            connections: Gauge::default(),
            journal_pending: Gauge::default(),
            journal_bytes: Gauge::default(),
            journal_dead: Gauge::default(),
            journal_oldest_seconds: Gauge::default(),
            events: Family::default(),
            publish_seconds: Histogram::new(slow),
            status_writes: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("chekt_receiver");
        registry.register(
            "deliveries",
            "Requests by what became of them",
            metrics.deliveries.clone(),
        );
        registry.register(
            "verified",
            "Verified deliveries by the key of the keyring that verified them",
            metrics.verified.clone(),
        );
        registry.register(
            "durable_seconds",
            "From the headers of a request to the answer of an acknowledged delivery",
            metrics.durable_seconds.clone(),
        );
        registry.register(
            "connections",
            "Connections that are open",
            metrics.connections.clone(),
        );
        registry.register(
            "journal_pending",
            "Deliveries that wait to be published",
            metrics.journal_pending.clone(),
        );
        registry.register(
            "journal_bytes",
            "Bytes of the deliveries that wait to be published",
            metrics.journal_bytes.clone(),
        );
        registry.register(
            "journal_dead_letters",
            "Deliveries that cannot be published as they are",
            metrics.journal_dead.clone(),
        );
        registry.register(
            "journal_oldest_seconds",
            "Age of the oldest delivery that waits to be published",
            metrics.journal_oldest_seconds.clone(),
        );
        registry.register(
            "events",
            "Attempts to publish by what became of them",
            metrics.events.clone(),
        );
        registry.register(
            "publish_seconds",
            "From the arrival of a delivery to its Event",
            metrics.publish_seconds.clone(),
        );
        registry.register(
            "status_writes",
            "Attempts to write status.deliveries by what became of them",
            metrics.status_writes.clone(),
        );
        metrics
    }

    /// Counts one more request.
    pub fn delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts one more attempt to publish.
    pub fn event(&self, outcome: &'static str) {
        self.events.get_or_create(&Outcome { outcome }).inc();
    }
}
