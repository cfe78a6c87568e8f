//! This machine: its cores, and what a process used of them and of memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// `f_type` of tmpfs (statfs(2)), where an `fsync` costs nothing.
const TMPFS: i64 = 0x0102_1994;
/// Files that the flood needs at once, in us and in the server.
const FILES: u64 = 8192;

/// The two cores: one for servers, one for the driver.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Where servers run.
    pub server: usize,
    /// Where the driver runs.
    pub driver: usize,
}

/// The first and the last core that we may use.
///
/// # Errors
/// When there is only one.
pub fn cores() -> anyhow::Result<Cores> {
    static ALL: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
    // Asked once, before any thread of ours is pinned.
    let all = ALL.get_or_init(|| {
        let set = sched_getaffinity(None).unwrap_or_default();
        (0..CpuSet::MAX_CPU)
            .filter(|core| set.is_set(*core))
            .collect()
    });
    match all[..] {
        [server, .., driver] => Ok(Cores { server, driver }),
        _ => anyhow::bail!("the driver needs a core of its own: run this on two cores or more"),
    }
}

/// Keeps the calling thread, and what it starts from now on, on one core.
///
/// # Errors
/// When the system refuses.
pub fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot stay on core {core}"))
}

/// Looks whether this machine can carry the benchmark, and makes room for open files.
///
/// # Errors
/// When it cannot.
pub fn prepare() -> anyhow::Result<()> {
    cores()?;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|files| files < FILES) {
        let current = Some(limit.maximum.map_or(FILES, |most| most.min(FILES)));
        let maximum = limit.maximum;
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    }
    let disk = rustix::fs::statfs(disk())?;
    if disk.f_type == TMPFS {
        println!(
            "NOTE: {} is a tmpfs, so an fsync costs nothing here",
            disk_name()
        );
    }
    Ok(())
}

/// Where journals are kept: below Cargo's target folder, since a folder for temporary files is often no disk.
pub fn disk() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn disk_name() -> String {
    disk().display().to_string()
}

/// A new empty directory on disk that goes when it is dropped.
///
/// # Errors
/// When it cannot be made.
pub fn directory() -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(disk())?)
}

/// CPU time that all threads of a process have used so far, in user and kernel mode.
///
/// # Errors
/// When the process is gone, or the kernel does not count (`CONFIG_SCHED_INFO`).
pub fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        sum += nanoseconds(&task?.path().join("schedstat"))?;
    }
    Ok(Duration::from_nanos(sum))
}

/// CPU time that the calling thread has used so far.
///
/// # Errors
/// As [`cpu_of`].
pub fn cpu_of_this_thread() -> anyhow::Result<Duration> {
    nanoseconds(Path::new("/proc/thread-self/schedstat")).map(Duration::from_nanos)
}

fn nanoseconds(schedstat: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(schedstat)?;
    let first = text.split_whitespace().next();
    let first = first.with_context(|| format!("{} is empty", schedstat.display()))?;
    Ok(first.parse()?)
}

/// Resident memory of a process in bytes: now, and the most it ever was.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// Now.
    pub now: u64,
    /// The most.
    pub peak: u64,
}

/// Asks the kernel for the resident memory of a process.
///
/// # Errors
/// When the process is gone.
pub fn resident(pid: u32) -> anyhow::Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        let kib: u64 = number.with_context(|| format!("no {name}"))?.parse()?;
        Ok(kib * 1024)
    };
    Ok(Resident {
        now: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

/// A few words about the machine.
pub fn described() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{cores} cores of {model}, load {load} at the end")
}
