//! Metrics and what is said of them: whoever registers a metric describes it in the same breath.
//!
//! `/metrics` and `docs/metrics.md` are made from one table, so that neither can name what the other lacks. Labels
//! have a stated set of values, and every series of it is there from the start at zero: an alert on a rate works
//! before the first fault, and nothing that a stranger sends can make a series. What is told of objects is the exception:
//! it has their names, and is read from the stores when somebody asks ([`Table::collect`]).

use std::fmt::Debug;
use std::hash::Hash;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// One value that a label can have, and what it says.
pub type Value = (&'static str, &'static str);

/// A label and all its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: &'static [Value],
}

/// What the table says of one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name as `/metrics` shows it; a histogram's has `_bucket`, `_sum` and `_count` after it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// A sentence without its full stop.
    pub help: &'static str,
    /// Its labels.
    pub labels: Vec<Label>,
    /// Its labels that hold names of objects, or what an object says, and what they tell.
    pub names: &'static [Value],
}

/// The metrics of one process.
#[derive(Debug)]
pub struct Table {
    registry: Registry,
    prefix: &'static str,
    rows: Vec<Row>,
}

impl Table {
    /// An empty table, all of whose names will begin with `prefix` and an underscore.
    #[must_use]
    pub fn new(prefix: &'static str) -> Self {
        Table {
            registry: Registry::default(),
            prefix,
            rows: Vec::new(),
        }
    }

    /// Enters a metric without labels. `name` is without the prefix and, for a counter, without `_total`.
    pub fn add<M>(&mut self, name: &'static str, help: &'static str, metric: &M)
    where
        M: EncodeMetric + TypedMetric + Clone + Send + Sync + Debug + 'static,
    {
        self.row::<M>(name, help, Vec::new());
        let name = format!("{}_{name}", self.prefix);
        self.registry.register(name, help, metric.clone());
    }

    /// Enters a family, one metric for each of the sets of labels, which are all made now.
    pub fn add_family<S, M>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[Label],
        sets: impl IntoIterator<Item = S>,
        family: &Family<S, M>,
    ) where
        S: EncodeLabelSet + Clone + Hash + Eq + Send + Sync + Debug + 'static,
        M: EncodeMetric + TypedMetric + Clone + Send + Sync + Debug + 'static,
    {
        for set in sets {
            drop(family.get_or_create(&set));
        }
        self.row::<M>(name, help, labels.to_vec());
        let name = format!("{}_{name}", self.prefix);
        self.registry.register(name, help, family.clone());
    }

    /// Enters a family whose sets of labels come and go with the objects that they name.
    pub fn add_named<S, M>(
        &mut self,
        name: &'static str,
        help: &'static str,
        names: &'static [Value],
        labels: &[Label],
        family: &Family<S, M>,
    ) where
        S: EncodeLabelSet + Clone + Hash + Eq + Send + Sync + Debug + 'static,
        M: EncodeMetric + TypedMetric + Default + Clone + Send + Sync + Debug + 'static,
    {
        self.add_family(name, help, labels, [], family);
        if let Some(row) = self.rows.last_mut() {
            row.names = names;
        }
    }

    /// Enters what is read only when somebody asks. Its names are whole: no prefix is put before them.
    pub fn collect(&mut self, rows: impl IntoIterator<Item = Row>, collector: impl Collector) {
        self.rows.extend(rows);
        self.registry.register_collector(Box::new(collector));
    }

    fn row<M: TypedMetric>(&mut self, name: &str, help: &'static str, labels: Vec<Label>) {
        let kind = M::TYPE.as_str().to_owned();
        let end = if kind == "counter" { "_total" } else { "" };
        self.rows.push(Row {
            name: format!("{}_{name}{end}", self.prefix),
            kind,
            help,
            labels,
            names: &[],
        });
    }

    /// What was entered, in that order.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The registry that `/metrics` shows.
    #[must_use]
    pub fn into_registry(self) -> Registry {
        self.registry
    }
}
