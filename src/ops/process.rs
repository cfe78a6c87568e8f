//! The process itself in `/metrics`, under the names that every Prometheus client uses for it, so that dashboards and
//! alerts that are there already find it.
//!
//! It is read from `/proc` when somebody asks. What cannot be read is left out, as on a machine without `/proc`: a zero
//! would be a lie.

use std::fmt;
use std::fs;

use k8s_openapi::jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::metrics::{Row, Table};

const CPU: Figure = Figure {
    name: "process_cpu_seconds",
    help: "Time that the process has spent on processors, its own and the kernel's for it",
    counts: true,
};
const START: Figure = Figure {
    name: "process_start_time_seconds",
    help: "When the process began, in seconds since 1970",
    counts: false,
};
const RESIDENT: Figure = Figure {
    name: "process_resident_memory_bytes",
    help: "Memory of the process that is in RAM",
    counts: false,
};
const VIRTUAL: Figure = Figure {
    name: "process_virtual_memory_bytes",
    help: "Addresses that the process has asked for, most of which cost nothing",
    counts: false,
};
const OPEN_FDS: Figure = Figure {
    name: "process_open_fds",
    help: "Files and sockets that are open",
    counts: false,
};
const MAX_FDS: Figure = Figure {
    name: "process_max_fds",
    help: "The most files and sockets that may be open",
    counts: false,
};
const THREADS: Figure = Figure {
    name: "process_threads",
    help: "Threads of the process",
    counts: false,
};

/// All of them, in the order of the reference.
const FIGURES: [Figure; 7] = [CPU, START, RESIDENT, VIRTUAL, OPEN_FDS, MAX_FDS, THREADS];

struct Figure {
    name: &'static str,
    help: &'static str,
    /// Whether it only ever grows.
    counts: bool,
}

/// Enters the figures of this process, which has just begun, into a table.
pub fn register(table: &mut Table) {
    let rows = FIGURES.iter().map(|figure| Row {
        name: format!(
            "{}{}",
            figure.name,
            if figure.counts { "_total" } else { "" }
        ),
        kind: if figure.counts { "counter" } else { "gauge" }.to_owned(),
        help: figure.help,
        labels: Vec::new(),
        names: &[],
    });
    let began = Timestamp::now();
    table.collect(rows, Process { began });
}

#[derive(Debug)]
struct Process {
    began: Timestamp,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let of_status = |name: &str| field(&status, name);
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let nanoseconds = u32::try_from(cpu.tv_nsec).unwrap_or_default();
        let cpu = seconds(cpu.tv_sec) + f64::from(nanoseconds) / 1e9;
        let fds = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        // The one that reads the directory is open itself.
        let fds = fds.map(|n| number(n.saturating_sub(1) as u64));
        let most = getrlimit(Resource::Nofile).current.map(number);
        let figures = [
            (CPU, Some(cpu)),
            (START, Some(seconds(self.began.as_second()))),
            (RESIDENT, of_status("VmRSS").map(|kib| number(kib * 1024))),
            (VIRTUAL, of_status("VmSize").map(|kib| number(kib * 1024))),
            (OPEN_FDS, fds),
            (MAX_FDS, most),
            (THREADS, of_status("Threads").map(number)),
        ];
        for (figure, value) in figures {
            let Some(value) = value else { continue };
            let kind = if figure.counts {
                MetricType::Counter
            } else {
                MetricType::Gauge
            };
            let help = format!("{}.", figure.help);
            let mut metric = encoder.encode_descriptor(figure.name, &help, None, kind)?;
            if figure.counts {
                metric.encode_counter(&value, None::<&Exemplar<[(&str, &str); 0], f64>>)?;
            } else {
                metric.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

/// The number behind a name in `/proc/self/status`; memory is in KiB there.
fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        let value = value.split_whitespace().next()?;
        (found == name).then(|| value.parse().ok()).flatten()
    })
}

/// Prometheus knows no whole numbers.
#[allow(clippy::cast_precision_loss)]
fn number(n: u64) -> f64 {
    n as f64
}

#[allow(clippy::cast_precision_loss)]
fn seconds(n: i64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_the_first_word_behind_its_own_name() {
        let status = "Name:\treceiver\nVmPeak:\t  9 kB\nVmRSS:\t  4321 kB\nThreads:\t5\n";
        assert_eq!(field(status, "VmRSS"), Some(4321));
        assert_eq!(field(status, "Threads"), Some(5));
        assert_eq!(field(status, "Name"), None);
        assert_eq!(field(status, "Vm"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_told_is_of_this_process() {
        let mut table = Table::new("x");
        register(&mut table);
        let mut text = String::new();
        let registry = table.into_registry();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|l| l.starts_with(&format!("{name} ")));
            line.unwrap().split_once(' ').unwrap().1.parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6, "{text}");
        assert!(value("process_open_fds") >= 3.0, "{text}");
        assert!(value("process_max_fds") > value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        let began = value("process_start_time_seconds");
        assert!((began - seconds(Timestamp::now().as_second())).abs() < 60.0);
        assert!(value("process_cpu_seconds_total") > 0.0);
    }
}
