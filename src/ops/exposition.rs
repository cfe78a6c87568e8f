//! The two formats of `/metrics`: OpenMetrics, which Prometheus asks for, and the older text format, which everybody
//! else reads.
//!
//! The second one is made of the first, since they differ in little where there are no exemplars: the older one names a
//! counter with its `_total` also where it is described, and has no last line.

/// The content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the older text format.
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether whoever asks with this `Accept` header can read OpenMetrics. Weights are not compared: whoever names it reads
/// it.
#[must_use]
pub fn reads_open_metrics(accept: Option<&str>) -> bool {
    let ranges = accept.unwrap_or_default().split(',');
    let mut kinds = ranges.map(|range| range.split(';').next().unwrap_or_default().trim());
    kinds.any(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"))
}

/// The older text format of what is written in OpenMetrics.
#[must_use]
pub fn plain(open_metrics: &str) -> String {
    let mut counters = std::collections::HashSet::new();
    for line in open_metrics.lines() {
        let kind = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '));
        if let Some((name, "counter")) = kind {
            counters.insert(name);
        }
    }
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let described = ["# HELP ", "# TYPE "].iter().find_map(|word| {
            let (name, rest) = line.strip_prefix(word)?.split_once(' ')?;
            counters.contains(name).then_some((word, name, rest))
        });
        match described {
            Some((word, name, rest)) => text.push_str(&format!("{word}{name}_total {rest}\n")),
            None if line == "# EOF" || line.starts_with("# UNIT ") => {}
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_described_under_its_whole_name_and_nothing_else_changes() {
        let open = "# HELP a Some.\n# TYPE a counter\na_total{x=\"1\"} 2\n# HELP b More.\n# TYPE b gauge\n\
                    # UNIT b seconds\nb 1\n# EOF\n";
        let old = "# HELP a_total Some.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n# HELP b More.\n\
                   # TYPE b gauge\nb 1\n";
        assert_eq!(plain(open), old);
    }

    #[test]
    fn who_names_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert!(reads_open_metrics(Some(prometheus)));
        for other in [None, Some("*/*"), Some("text/plain;version=0.0.4")] {
            assert!(!reads_open_metrics(other), "{other:?}");
        }
    }
}
