//! This machine: its cores, and what a process used of them and of memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// `f_type` of tmpfs (statfs(2)), where an `fsync` costs nothing.
const TMPFS: i64 = 0x0102_1994;
/// Files that the flood needs at once, in us and in the server.
const FILES: u64 = 8192;
/// Ticks of a second, in which the kernel counts (`USER_HZ`).
const TICKS: f64 = 100.0;
/// The parent of the kernel's own threads.
const KERNEL: u64 = 2;

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

/// What the kernel counted for a process since it started. Unlike times, these come out the same on a busy machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Times that a thread gave up its core to wait for something. Threads that have ended are missing.
    pub waits: u64,
    /// Bytes that went to the disk, or are about to.
    pub written: u64,
}

impl Counts {
    /// What was added since.
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            waits: self.waits.saturating_sub(before.waits),
            written: self.written.saturating_sub(before.written),
        }
    }
}

/// Asks the kernel what it counted for a process.
///
/// # Errors
/// When the process is gone.
pub fn counts_of(pid: u32) -> anyhow::Result<Counts> {
    let number = |text: &str, name: &str| -> anyhow::Result<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(rest.with_context(|| format!("no {name}"))?.trim().parse()?)
    };
    let mut waits = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        waits += number(&status, "voluntary_ctxt_switches:")?;
    }
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    Ok(Counts {
        waits,
        written: number(&io, "write_bytes:")?,
    })
}

/// Who else used this machine's cores while something was measured.
#[derive(Debug)]
pub struct Others {
    began: Instant,
    ticks: u64,
}

impl Others {
    /// From this share of one core on, a measurement is worth nothing. The kernel counts in ticks, so that a few
    /// hundredths are seen where there was nothing.
    pub const BUSY: f64 = 0.10;

    /// Begins to look.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn watch() -> anyhow::Result<Self> {
        Ok(Others {
            began: Instant::now(),
            ticks: ticks_of_others()?,
        })
    }

    /// The share of one core that others had since.
    ///
    /// # Errors
    /// When the kernel does not say.
    #[allow(clippy::cast_precision_loss)]
    pub fn share(&self) -> anyhow::Result<f64> {
        let ticks = ticks_of_others()?.saturating_sub(self.ticks);
        Ok(ticks as f64 / TICKS / self.began.elapsed().as_secs_f64())
    }
}

/// Ticks in which the machine did anything that neither this process, nor what it started, nor the kernel's own threads
/// did, which write down what is written; and those that the machine below this one took for itself.
fn ticks_of_others() -> anyhow::Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all: Vec<u64> = stat
        .lines()
        .next()
        .context("/proc/stat is empty")?
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
    let used: u64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|at| all.get(*at))
        .sum();
    let mut processes = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let stat = entry?.path().join("stat");
        // What ended meanwhile, and what is no process.
        let Ok(stat) = fs::read_to_string(stat) else {
            continue;
        };
        let Some((id, rest)) = stat.split_once(' ') else {
            continue;
        };
        // The name may hold anything, so what follows its last parenthesis counts (proc_pid_stat(5)).
        let fields = rest.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|n| n.parse::<u64>().ok());
        if let (Ok(id), Some(parent)) = (id.parse::<u64>(), number(1)) {
            // utime, stime, and those of children that have ended.
            let used: u64 = (11..15).filter_map(number).sum();
            processes.insert(id, (parent, used));
        }
    }
    let known = [u64::from(std::process::id()), KERNEL];
    let known = |mut id: u64| {
        while let Some((parent, _)) = processes.get(&id) {
            if known.contains(&id) {
                return true;
            }
            id = *parent;
        }
        false
    };
    let ours: u64 = processes
        .iter()
        .filter(|(id, _)| known(**id))
        .map(|(_, (_, used))| used)
        .sum();
    Ok(used.saturating_sub(ours))
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
