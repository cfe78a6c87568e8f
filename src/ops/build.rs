//! Which build this is, in `/metrics`: so that a graph can show when another one took over.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::metrics::{Row, Table};
use super::version;

const NAME: &str = "chekt_build_info";
const HELP: &str = "1, with the build that runs";

/// Enters the build into a table.
pub fn register(table: &mut Table) {
    let row = Row {
        name: NAME.to_owned(),
        kind: "gauge".to_owned(),
        help: HELP,
        labels: Vec::new(),
        names: &[
            ("version", "such as `0.1.0`"),
            (
                "commit",
                "the first digits of the commit; `unknown` for a development build",
            ),
        ],
    };
    table.collect([row], Build);
}

#[derive(Debug)]
struct Build;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = format!("{HELP}.");
        let mut metric = encoder.encode_descriptor(NAME, &help, None, MetricType::Gauge)?;
        let build = version::this();
        let labels = [
            ("version", build.version),
            ("commit", build.commit_or_unknown()),
        ];
        metric.encode_family(&labels)?.encode_gauge(&1_i64)
    }
}
