//! The reaper: whatever this process started is ended when this process ends, however it ends.
//!
//! A destructor does not run on SIGKILL, nor for a `static`, nor for most of what Ctrl-C interrupts. So a small
//! shell, in a process group of its own where a Ctrl-C does not reach it, reads from a pipe what was started. The
//! kernel closes the pipe when we are gone; the shell then kills what is left and removes the directories.
//!
//! It kills at once instead of asking first: nobody is left who could use an orderly end, and what they wrote is
//! removed anyway.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// All directories of the harness start like this, and the reaper removes no other.
pub const DIRECTORY_PREFIX: &str = "chekt-operator-";

/// A cgroup can be removed once every process in it is gone, which takes a moment after they were killed.
const REMOVE_CGROUP: &str = r#"
remove_cgroup() {
  case $1 in chekt-operator-*) ;; *) return ;; esac
  tries=0
  while [ $tries -lt 200 ]; do
    find /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1" -depth -type d -exec rmdir {} \; 2>/dev/null
    [ -n "$(find /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1" -maxdepth 0 2>/dev/null)" ] || return 0
    sleep 0.05; tries=$((tries + 1))
  done
  echo "cgroup $1 is still in use" >&2
  return 1
}
"#;

const WATCH: &str = r#"
trap '' INT TERM HUP
pids= dirs= cgroups=
while read -r word rest; do
  case $word in
    pid) pids="$pids $rest" ;;
    forget)
      left=
      for pid in $pids; do [ "$pid" = "$rest" ] || left="$left $pid"; done
      pids=$left ;;
    dir) dirs="$dirs$rest
" ;;
    cgroup) cgroups="$cgroups $rest" ;;
  esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
tries=0
for pid in $pids; do
  while kill -0 "$pid" 2>/dev/null && [ $tries -lt 40 ]; do sleep 0.05; tries=$((tries + 1)); done
done
for cgroup in $cgroups; do remove_cgroup "$cgroup"; done
printf '%s' "$dirs" | while read -r dir; do
  case ${dir##*/} in chekt-operator-*) rm -rf -- "$dir" ;; esac
done
"#;

static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

/// A child process that is killed when this value is dropped, and by the reaper if it never is.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    ended: Option<ExitStatus>,
}

/// Starts a command in a process group of its own and hands it to the reaper.
///
/// Its standard output and error must not be inherited: whoever waits for the end of our output would wait for
/// its end, too.
///
/// # Errors
/// When it, or the reaper, cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<Guarded> {
    let mut pipe = pipe()?.lock().unwrap_or_else(PoisonError::into_inner);
    let child = command.process_group(0).spawn()?;
    writeln!(pipe, "pid {}", child.id())?;
    Ok(Guarded { child, ended: None })
}

/// A new empty directory below the system's one for temporary files, which the reaper removes.
///
/// # Errors
/// When it cannot be made.
pub fn directory(idea: &str) -> io::Result<PathBuf> {
    let dir = tempfile::Builder::new()
        .prefix(&format!("{DIRECTORY_PREFIX}{idea}-"))
        .tempdir()?
        .keep();
    tell(&format!("dir {}", dir.display()))?;
    Ok(dir)
}

/// Removes a directory that [`directory`] made; what cannot be removed now is left to the reaper.
pub fn remove(dir: &Path) {
    // The reaper still knows of it and tries again at the end.
    let _ = std::fs::remove_dir_all(dir);
}

/// Sends a process a signal by its short name, such as `STOP`.
///
/// # Errors
/// When it cannot be sent.
pub fn signal(pid: u32, name: &str) -> io::Result<()> {
    // Through a shell, since the standard library has no call for it and unsafe code is forbidden here.
    let status = Command::new("sh")
        .args(["-c", r#"kill -"$1" "$0""#, &pid.to_string(), name])
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("SIG{name} could not be sent")))
    }
}

/// Hands the cgroup of this name to the reaper, in every hierarchy. The name begins with [`DIRECTORY_PREFIX`].
///
/// # Errors
/// When the reaper cannot be started.
pub fn cgroup(name: &str) -> io::Result<()> {
    tell(&format!("cgroup {name}"))
}

/// Removes a cgroup that [`cgroup`] was told of, in every hierarchy. Blocks until it is gone, 10 s at most.
///
/// # Errors
/// When something is in it still.
pub fn remove_cgroup(name: &str) -> io::Result<()> {
    let script = format!("{REMOVE_CGROUP}\nremove_cgroup \"$0\"");
    let output = Command::new("sh").args(["-c", &script, name]).output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    }
}

impl Guarded {
    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the child wrote to standard error, if it was piped and not taken before.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait()?
        {
            tell(&format!("forget {}", self.child.id()))?;
            self.ended = Some(status);
        }
        Ok(self.ended)
    }

    /// Sends SIGTERM: the child is asked to end in good order.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn ask_to_end(&mut self) -> io::Result<()> {
        self.signal("TERM")
    }

    /// Sends it a signal by its short name, such as `STOP`; nothing if it has ended.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&mut self, name: &str) -> io::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        match signal(self.child.id(), name) {
            Err(_) if self.ended()?.is_some() => Ok(()),
            sent => sent,
        }
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        tell(&format!("forget {}", self.child.id()))?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Waits for its end, at most for `limit`.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            anyhow::ensure!(
                start.elapsed() < limit,
                "process {} still runs after {limit:?}",
                self.child.id()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // If this fails, the reaper does it at the end.
        let _ = self.kill();
    }
}

fn tell(line: &str) -> io::Result<()> {
    let mut pipe = pipe()?.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{line}")
}

fn pipe() -> io::Result<&'static Mutex<ChildStdin>> {
    // A lock of its own: `get_or_init` could not report that the shell is missing.
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pipe) = PIPE.get() {
        return Ok(pipe);
    }
    let mut shell = Command::new("sh")
        .args(["-c", &format!("{REMOVE_CGROUP}{WATCH}")])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let stdin = shell
        .stdin
        .take()
        .ok_or_else(|| io::Error::other("the reaper has no input"))?;
    // It outlives us on purpose and is nobody's to wait for.
    drop(shell);
    Ok(PIPE.get_or_init(|| Mutex::new(stdin)))
}
