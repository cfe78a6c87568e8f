//! A server as a child process on the servers' core.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::harness::reaper::{self, Guarded};
use crate::machine;

/// How long a server may take to listen.
const LISTEN: Duration = Duration::from_secs(10);

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process id.
    pub pid: u32,
    _running: Guarded,
    /// Its journal and its log.
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts one of the servers of this program, with an empty journal.
    ///
    /// # Errors
    /// When it does not listen in time, with what it said.
    pub fn start(kind: &str) -> anyhow::Result<Server> {
        let dir = machine::directory()?;
        let log = dir.path().join("log");
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", kind])
            .arg(dir.path().join("journal"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let mut running = on_servers_core(|| Ok(reaper::spawn(&mut command)?))?;
        let began = Instant::now();
        let address = loop {
            let said = fs::read_to_string(&log)?;
            let address = said.lines().find_map(|l| l.strip_prefix("listening on "));
            if let Some(address) = address {
                break address.parse()?;
            }
            let ended = running.ended()?;
            anyhow::ensure!(
                ended.is_none() && began.elapsed() < LISTEN,
                "the server {kind} does not listen ({ended:?}): {said}"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        Ok(Server {
            address,
            pid: running.id(),
            _running: running,
            _dir: dir,
        })
    }
}

/// Runs something that starts a process, so that the process stays on the servers' core from its first moment: it
/// then also believes that it has only one.
///
/// # Errors
/// What it says, or when no thread can be had.
pub fn on_servers_core<T: Send>(
    start: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let core = machine::cores()?.server;
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            machine::pin(core)?;
            start()
        });
        started
            .join()
            .ok()
            .context("the start of a process panicked")?
    })
}
