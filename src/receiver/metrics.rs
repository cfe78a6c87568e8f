//! What the receiver counts. Labels come from fixed sets, but for the names of namespaces that are held, of which there are
//! no more than a hundred: nothing that a stranger sends makes a series.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::cluster::meter::Meter as KubernetesMeter;
use crate::delivery::Class;
use crate::ops::metrics::{Label, Table, Value};
use crate::resources::refusal::Refusal;

/// What every name begins with.
pub const PREFIX: &str = "chekt_receiver";

/// Bounds in seconds for what a sender waits for.
const FAST: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0,
];
/// Bounds in seconds for what nobody waits for.
const SLOW: [f64; 15] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];

/// The outcome of a probe of `verify` that arrives as it was sent.
pub const PROBE: &str = "probe";

/// What becomes of a request that is not a refused delivery.
const ACKNOWLEDGED: [Value; 3] = [
    ("accepted", "200: it is on disk"),
    ("duplicate", "200: a copy was on disk already"),
    (
        PROBE,
        "401: a request of `kubectl chekt verify` that arrived as it was sent",
    ),
];

/// What becomes of a request.
const OUTCOMES: [Value; ACKNOWLEDGED.len() + Refusal::OUTCOMES.len()] = {
    let mut all = [("", ""); ACKNOWLEDGED.len() + Refusal::OUTCOMES.len()];
    let mut n = 0;
    while n < all.len() {
        all[n] = match n.checked_sub(ACKNOWLEDGED.len()) {
            None => ACKNOWLEDGED[n],
            Some(refusal) => Refusal::OUTCOMES[refusal],
        };
        n += 1;
    }
    all
};

/// What becomes of a request.
pub const DELIVERY: Label = Label {
    name: "outcome",
    values: &OUTCOMES,
};

/// Why a connection was cut, or not let in.
const CUT: Label = Label {
    name: "why",
    values: &[
        (
            "evicted",
            "all places, or those of its peer, were taken, and it had proven nothing for the longest time",
        ),
        (
            "peer_cap",
            "not let in: its peer had as many as it may, all of which deliver",
        ),
        ("handshake", "the handshake of TLS failed or took too long"),
        ("silent", "no complete header in time"),
        ("idle", "no request for too long"),
        ("deaf", "it did not take its answers"),
        (
            "many",
            "it went on asking after what should have been its last answer",
        ),
        ("old", "it did not end by itself when it was old enough"),
    ],
};

const CERTIFICATE: Label = Label {
    name: "outcome",
    values: &[
        ("loaded", "the new one is in force"),
        (
            "kept",
            "the new one cannot be used, or is outside its validity, and the one before stays",
        ),
    ],
};

const PLACE: Label = Label {
    name: "place",
    values: &[
        ("current", "the key in force"),
        ("next", "the key that is about to be in force"),
        ("previous", "the key that was in force before"),
    ],
};

const EVENT: Label = Label {
    name: "outcome",
    values: &[
        ("created", "the Event was made"),
        ("already_there", "it had been made before"),
        ("buried", "it cannot be made: a dead letter"),
        ("held", "it is refused now: a right, a policy, a quota"),
        ("throttled", "the API server asked for a pause"),
        (
            "failed",
            "the API server, or a webhook that it asks, failed or could not be asked, or the journal could not",
        ),
    ],
};

/// What the API server answers where no Event can be made.
const ANSWER: Label = Label {
    name: "answer",
    values: &[
        (
            "forbidden",
            "403: a right, an admission policy or webhook, or a quota",
        ),
        ("terminating", "403: the namespace is being deleted"),
        (
            "denied",
            "400, 413 or 422: an admission policy or webhook, or a proxy",
        ),
        ("throttled", "429"),
        (
            "server",
            "5xx: the API server, or an admission webhook that fails",
        ),
        ("late", "none in time"),
        ("network", "no connection, or a broken one"),
        ("other", "another one"),
    ],
};

/// The most namespaces that are named at once.
const MAX_NAMESPACES: usize = 100;

const CLASS: Label = Label {
    name: "class",
    values: &[
        ("alarm", "everything about alarms"),
        ("device", "everything about devices"),
        ("site", "everything about sites"),
        (
            "other",
            "test deliveries, other events, and what cannot be read",
        ),
    ],
};

const NOTICE: Label = Label {
    name: "outcome",
    values: &[
        ("told", "the Event was made"),
        (
            "taken",
            "another receiver has told in this minute; the next one is tried",
        ),
        (
            "untellable",
            "no Event can ever be made: the namespace is gone",
        ),
        ("failed", "it is tried again"),
    ],
};

const DEAD_KIND: Label = Label {
    name: "kind",
    values: &[
        ("unreadable", "their bytes cannot be read as an event"),
        ("refused", "the API server does not accept their Events"),
    ],
};

const SINK_FAILURE: Label = Label {
    name: "class",
    values: &[
        ("throttled", "it asked for a pause"),
        ("answered", "another answer without success"),
        ("late", "no answer within 10 s"),
        ("unreachable", "no connection, or it broke"),
        ("token", "the file of the token cannot be read"),
    ],
};

const STATUS_WRITE: Label = Label {
    name: "outcome",
    values: &[
        ("written", "it was"),
        ("gone", "the webhook is gone"),
        (
            "conflict",
            "another writer was first; it is tried again within seconds",
        ),
        ("failed", "it is tried again"),
    ],
};

/// A single label with one of a few values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The value.
    pub outcome: &'static str,
}

/// A namespace and what the API server answers there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Held {
    namespace: String,
    answer: &'static str,
}

/// Which key of a keyring.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Place {
    /// `current`, `next` or `previous`.
    pub place: &'static str,
}

/// Why a connection was cut.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Why {
    /// The value.
    pub why: &'static str,
}

/// What was wrong with an attempt to send a CloudEvent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfFailure {
    /// One of a few words.
    pub class: &'static str,
}

/// The kind of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfKind {
    /// `unreadable` or `refused`.
    pub kind: &'static str,
}

/// The class of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfClass {
    /// `alarm`, `device`, `site` or `other`.
    pub class: &'static str,
}

impl From<Class> for OfClass {
    fn from(class: Class) -> Self {
        let class = match class {
            Class::Alarm => "alarm",
            Class::Device => "device",
            Class::Site => "site",
            Class::Other => "other",
        };
        OfClass { class }
    }
}

/// The receiver's metrics. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Requests by what became of them.
    pub deliveries: Family<Outcome, Counter>,
    /// Verified deliveries by the key that verified them.
    pub verified: Family<Place, Counter>,
    /// When a delivery with a valid signature was last put on disk, in seconds since 1970.
    pub last_verified: Gauge,
    /// Seconds from the request's headers to the answer of an acknowledged delivery.
    pub durable_seconds: Histogram,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were cut or not let in, by why.
    pub cuts: Family<Why, Counter>,
    /// Changes of the certificate by what became of them.
    pub certificates: Family<Outcome, Counter>,
    /// When the first certificate of the chain in force expires, in seconds since 1970.
    pub certificate_not_after: Gauge,
    /// Deliveries that wait to be published.
    pub journal_pending: Gauge,
    /// Bytes of their bodies.
    pub journal_bytes: Gauge,
    /// Dead letters.
    pub journal_dead: Gauge,
    /// Bytes of their bodies.
    pub journal_dead_bytes: Gauge,
    /// Dead letters that the API server refused.
    pub journal_refused: Gauge,
    /// Dead letters that were evicted, by kind.
    pub journal_evicted: Family<OfKind, Gauge>,
    /// Damaged files that were set aside.
    pub journal_quarantined: Gauge,
    /// The most deliveries that may wait.
    pub journal_max_records: Gauge,
    /// The most bytes that their bodies may have.
    pub journal_max_bytes: Gauge,
    /// Age of the oldest that waits, in seconds; 0 when nothing waits.
    pub journal_oldest_seconds: Gauge,
    /// Deliveries that wait, by class.
    pub waiting: Family<OfClass, Gauge>,
    /// Age of the oldest of each class, in seconds; 0 when none waits.
    pub waiting_oldest_seconds: Family<OfClass, Gauge>,
    /// Webhooks of which a delivery has waited for longer than a minute.
    pub delayed_webhooks: Gauge,
    /// Attempts to publish by what became of them.
    pub events: Family<Outcome, Counter>,
    /// 1 for each namespace in which no Event can be made, by what the API server answers.
    pub held_namespaces: Family<Held, Gauge>,
    /// How many of them are named.
    named: Arc<AtomicUsize>,
    /// Seconds from arrival to the Event.
    pub publish_seconds: Histogram,
    /// Attempts to tell of dead letters by what became of them.
    pub notices: Family<Outcome, Counter>,
    /// Attempts to write `status.deliveries` by what became of them.
    pub status_writes: Family<Outcome, Counter>,
    /// Deliveries that the sink has taken.
    pub sink_sent: Counter,
    /// Attempts that are made again, by what was wrong.
    pub sink_failed: Family<OfFailure, Counter>,
    /// Deliveries that the sink refused for good.
    pub sink_skipped: Counter,
    /// Deliveries that the sink has not taken.
    pub sink_lag_records: Gauge,
    /// Age of the oldest of them, in seconds.
    pub sink_lag_seconds: Gauge,
    /// Deliveries that the journal could not keep for the sink.
    pub sink_missed: Gauge,
    /// Requests to the API server.
    pub kubernetes: KubernetesMeter,
}

impl Metrics {
    /// Makes them and enters them into a table.
    pub fn register(table: &mut Table) -> Self {
        let mut metrics = Metrics {
            deliveries: Family::default(),
            verified: Family::default(),
            last_verified: Gauge::default(),
            durable_seconds: Histogram::new(FAST),
            connections: Gauge::default(),
            cuts: Family::default(),
            certificates: Family::default(),
            certificate_not_after: Gauge::default(),
            journal_pending: Gauge::default(),
            journal_bytes: Gauge::default(),
            journal_dead: Gauge::default(),
            journal_dead_bytes: Gauge::default(),
            journal_refused: Gauge::default(),
            journal_evicted: Family::default(),
            journal_quarantined: Gauge::default(),
            journal_max_records: Gauge::default(),
            journal_max_bytes: Gauge::default(),
            journal_oldest_seconds: Gauge::default(),
            waiting: Family::default(),
            waiting_oldest_seconds: Family::default(),
            delayed_webhooks: Gauge::default(),
            events: Family::default(),
            held_namespaces: Family::default(),
            named: Arc::default(),
            publish_seconds: Histogram::new(SLOW),
            notices: Family::default(),
            status_writes: Family::default(),
            sink_sent: Counter::default(),
            sink_failed: Family::default(),
            sink_skipped: Counter::default(),
            sink_lag_records: Gauge::default(),
            sink_lag_seconds: Gauge::default(),
            sink_missed: Gauge::default(),
            kubernetes: KubernetesMeter::default(),
        };
        let outcomes = |label: Label| label.values.iter().map(|(outcome, _)| Outcome { outcome });
        table.add_family(
            "deliveries",
            "Requests by what became of them",
            &[DELIVERY],
            outcomes(DELIVERY),
            &metrics.deliveries,
        );
        table.add_family(
            "verified",
            "Verified deliveries by the key of the keyring that verified them",
            &[PLACE],
            PLACE.values.iter().map(|(place, _)| Place { place }),
            &metrics.verified,
        );
        table.add(
            "last_verified_timestamp_seconds",
            "When a delivery with a valid signature was last put on disk, in seconds since 1970; 0 before the first since the process started",
            &metrics.last_verified,
        );
        table.add(
            "durable_seconds",
            "From the headers of a request to the answer of an acknowledged delivery",
            &metrics.durable_seconds,
        );
        table.add(
            "connections",
            "Connections that are open",
            &metrics.connections,
        );
        table.add_family(
            "connections_cut",
            "Connections that were cut or not let in",
            &[CUT],
            CUT.values.iter().map(|(why, _)| Why { why }),
            &metrics.cuts,
        );
        table.add_family(
            "certificate_changes",
            "Changes of the certificate of --tls-cert-file",
            &[CERTIFICATE],
            outcomes(CERTIFICATE),
            &metrics.certificates,
        );
        table.add(
            "certificate_not_after_seconds",
            "When the first certificate of --tls-cert-file expires, in seconds since 1970; 0 without one",
            &metrics.certificate_not_after,
        );
        table.add(
            "journal_pending",
            "Deliveries that wait to be published",
            &metrics.journal_pending,
        );
        table.add(
            "journal_bytes",
            "Bytes of the deliveries that wait to be published",
            &metrics.journal_bytes,
        );
        table.add(
            "journal_dead_letters",
            "Deliveries that cannot be published as they are",
            &metrics.journal_dead,
        );
        table.add(
            "journal_dead_letter_bytes",
            "Bytes of the bodies of these deliveries",
            &metrics.journal_dead_bytes,
        );
        table.add(
            "journal_dead_letters_refused",
            "Dead letters that the API server refused; they are tried again by themselves",
            &metrics.journal_refused,
        );
        table.add_family(
            "journal_dead_letters_evicted",
            "Dead letters that were evicted since the process started, since there were too many",
            &[DEAD_KIND],
            DEAD_KIND.values.iter().map(|(kind, _)| OfKind { kind }),
            &metrics.journal_evicted,
        );
        table.add(
            "journal_quarantined",
            "Damaged journals that were set aside since the process started",
            &metrics.journal_quarantined,
        );
        table.add(
            "journal_max_records",
            "The most deliveries that may wait to be published; beyond that the answer is 503",
            &metrics.journal_max_records,
        );
        table.add(
            "journal_max_bytes",
            "The most bytes that they may have; beyond that the answer is 503",
            &metrics.journal_max_bytes,
        );
        table.add(
            "journal_oldest_seconds",
            "Age of the oldest delivery that waits to be published; 0 when none does",
            &metrics.journal_oldest_seconds,
        );
        let classes = || Class::ALL.into_iter().map(OfClass::from);
        table.add_family(
            "waiting",
            "Deliveries that wait to be published, by class",
            &[CLASS],
            classes(),
            &metrics.waiting,
        );
        table.add_family(
            "waiting_oldest_seconds",
            "Age of the oldest delivery of a class that waits to be published; 0 when none does",
            &[CLASS],
            classes(),
            &metrics.waiting_oldest_seconds,
        );
        table.add(
            "delayed_webhooks",
            "Webhooks of which a delivery has waited for longer than a minute to be published",
            &metrics.delayed_webhooks,
        );
        table.add_family(
            "events",
            "Attempts to publish by what became of them",
            &[EVENT],
            outcomes(EVENT),
            &metrics.events,
        );
        table.add_named(
            "held_namespaces",
            "1 for each namespace in which no Event can be made, of at most 100, by what the API server answers",
            &[("namespace", "the namespace")],
            &[ANSWER],
            &metrics.held_namespaces,
        );
        table.add(
            "publish_seconds",
            "From the arrival of a delivery to its Event",
            &metrics.publish_seconds,
        );
        table.add_family(
            "notices",
            "Attempts to tell of dead letters by an Event, by what became of them",
            &[NOTICE],
            outcomes(NOTICE),
            &metrics.notices,
        );
        table.add(
            "sink_sent",
            "Deliveries that the sink has taken as CloudEvents",
            &metrics.sink_sent,
        );
        table.add_family(
            "sink_failed",
            "Attempts to send a CloudEvent that are made again, by what was wrong",
            &[SINK_FAILURE],
            SINK_FAILURE
                .values
                .iter()
                .map(|(class, _)| OfFailure { class }),
            &metrics.sink_failed,
        );
        table.add(
            "sink_skipped",
            "Deliveries that the sink refused for good (400, 413, 415, 422)",
            &metrics.sink_skipped,
        );
        table.add(
            "sink_lag_records",
            "Deliveries that the sink has not taken",
            &metrics.sink_lag_records,
        );
        table.add(
            "sink_lag_seconds",
            "Age of the oldest delivery that was read for the sink and not taken; 0 when it has them all",
            &metrics.sink_lag_seconds,
        );
        table.add(
            "sink_missed",
            "Deliveries that went by the sink since this process started, since the journal had no more room for it",
            &metrics.sink_missed,
        );
        table.add_family(
            "status_writes",
            "Attempts to write status.deliveries by what became of them",
            &[STATUS_WRITE],
            outcomes(STATUS_WRITE),
            &metrics.status_writes,
        );
        metrics.kubernetes = KubernetesMeter::register(table);
        metrics
    }

    /// Counts one more request.
    pub fn delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts one more connection that was cut or not let in.
    pub fn cut(&self, why: &'static str) {
        self.cuts.get_or_create(&Why { why }).inc();
    }

    /// Says how many of a class wait, and how old the oldest is.
    pub fn waiting(&self, class: Class, count: i64, oldest_seconds: i64) {
        let class = OfClass::from(class);
        self.waiting.get_or_create(&class).set(count);
        self.waiting_oldest_seconds
            .get_or_create(&class)
            .set(oldest_seconds);
    }

    /// Says how many dead letters of a kind were evicted.
    pub fn evicted(&self, kind: &'static str, count: i64) {
        self.journal_evicted
            .get_or_create(&OfKind { kind })
            .set(count);
    }

    /// Counts one more attempt to tell of dead letters.
    pub fn notice(&self, outcome: &'static str) {
        self.notices.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts one more CloudEvent that is to be sent again.
    pub fn sink_failed(&self, class: &'static str) {
        self.sink_failed.get_or_create(&OfFailure { class }).inc();
    }

    /// Shows that no Event can be made in a namespace, or that this is over.
    pub fn held(&self, namespace: &str, answer: &'static str, is_held: bool) {
        let held = Held {
            namespace: namespace.to_owned(),
            answer,
        };
        if !is_held {
            if self.held_namespaces.remove(&held) {
                self.named.fetch_sub(1, Ordering::Relaxed);
            }
        } else if self.named.load(Ordering::Relaxed) < MAX_NAMESPACES {
            self.named.fetch_add(1, Ordering::Relaxed);
            self.held_namespaces.get_or_create(&held).set(1);
        }
    }

    /// Counts one more attempt to publish.
    pub fn event(&self, outcome: &'static str) {
        self.events.get_or_create(&Outcome { outcome }).inc();
    }
}
