//! Our own binary, as a process: started on port 0, found by the line that it logs when it listens, ended in order
//! or by SIGKILL, and started again where it was.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::io::AsyncWriteExt;

use super::cluster::Said;
use super::eventually::eventually;
use super::reaper::{self, Guarded};

/// How long a process may take until it listens.
const LISTEN: Duration = Duration::from_secs(30);

/// How long a command that ends by itself may take.
const COMMAND: Duration = Duration::from_secs(90);

/// Which of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Keeps the webhooks at CHeKT as the resources say.
    Controller,
    /// Receives deliveries.
    Receiver,
    /// Plays CHeKT.
    Sandbox,
}

impl Role {
    /// The subcommand, and the word in the `listening` line.
    pub fn name(self) -> &'static str {
        match self {
            Role::Controller => "controller",
            Role::Receiver => "receiver",
            Role::Sandbox => "sandbox",
        }
    }

    /// Its address flags, with the name that each address has in the `listening` line.
    fn addresses(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Role::Controller => &[("--ops-address", "ops")],
            Role::Receiver => &[("--listen", "public"), ("--ops-address", "ops")],
            Role::Sandbox => &[("--listen", "public")],
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which process.
    pub role: Role,
    /// Flags beside the addresses.
    pub args: Vec<String>,
    /// Environment, such as `KUBECONFIG`.
    pub env: Vec<(String, String)>,
    /// Addresses by their name in the `listening` line, in place of free ones.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// A program with its arguments that becomes ours, after it has prepared something such as a mount: our own
    /// command line is appended. It must not fork, for its process id is taken for ours.
    pub through: Vec<String>,
}

impl Launch {
    /// A process without any flag.
    pub fn new(role: Role) -> Self {
        Launch {
            role,
            args: Vec::new(),
            env: Vec::new(),
            addresses: BTreeMap::new(),
            through: Vec::new(),
        }
    }

    /// Gives it addresses that nobody else takes while it is down, for a process that is restarted under load.
    ///
    /// A port that the system chose is one of those that it also gives to outgoing connections. A sender that goes on
    /// connecting to a port at which nobody listens is in the end given that very port, and speaks with itself.
    ///
    /// # Errors
    /// When none is free.
    pub fn at_lasting_addresses(mut self) -> anyhow::Result<Self> {
        for (_, name) in self.role.addresses() {
            let address = lasting_address()?;
            self.addresses.insert((*name).to_owned(), address);
        }
        Ok(self)
    }

    /// Starts it through another program.
    #[must_use]
    pub fn through<S: Display>(mut self, program: impl IntoIterator<Item = S>) -> Self {
        self.through = program.into_iter().map(|a| a.to_string()).collect();
        self
    }

    /// Adds a flag with its value.
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // Reads better where it is called.
    pub fn flag(mut self, name: &str, value: impl Display) -> Self {
        self.args.push(name.to_owned());
        self.args.push(value.to_string());
        self
    }

    /// Gives a flag that is there another value.
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // As above.
    pub fn instead(mut self, name: &str, value: impl Display) -> Self {
        if let Some(at) = self.args.iter().position(|arg| arg == name) {
            self.args.drain(at..(at + 2).min(self.args.len()));
        }
        self.flag(name, value)
    }

    /// Adds arguments as they are.
    #[must_use]
    pub fn args<S: Display>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.to_string()));
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // As above.
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A running process of ours. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    running: Guarded,
    log: Arc<Mutex<Vec<String>>>,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Process {
    /// Starts a process and waits until it says where it listens.
    ///
    /// # Errors
    /// When it ends or says nothing in time, with the end of its log.
    pub async fn start(launch: Launch) -> anyhow::Result<Process> {
        let log = Arc::default();
        let running = run(&launch, &launch.addresses, &log)?;
        let mut process = Process {
            launch,
            running,
            log,
            addresses: BTreeMap::new(),
        };
        process.wait_until_listening(0).await?;
        Ok(process)
    }

    /// What it was started with.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Which process it is.
    pub fn role(&self) -> Role {
        self.launch.role
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// The address that faces its clients: deliveries for the receiver, the partner API for the sandbox.
    ///
    /// # Errors
    /// When it has none.
    pub fn public(&self) -> anyhow::Result<SocketAddr> {
        self.address("public")
    }

    /// The address of `/healthz`, `/readyz` and `/metrics`.
    ///
    /// # Errors
    /// When it has none.
    pub fn ops(&self) -> anyhow::Result<SocketAddr> {
        self.address("ops")
    }

    /// Every line it logged so far, over all its starts.
    pub fn log_lines(&self) -> Vec<String> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The end of its log, for a failure message.
    pub fn log_tail(&self) -> String {
        let lines = self.log_lines();
        let mut tail = format!("--- the end of the {}'s log\n", self.role().name());
        for line in &lines[lines.len().saturating_sub(25)..] {
            let _ = writeln!(tail, "{line}");
        }
        tail
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// When it did not within `limit`, with what it waits for.
    pub async fn ready(&self, limit: Duration) -> anyhow::Result<()> {
        let url = format!("http://{}/readyz", self.ops()?);
        let what = format!("the {} to be ready", self.role().name());
        let look = || async {
            let answer = reqwest::get(&url).await?;
            let status = answer.status();
            let body = answer.text().await?;
            anyhow::ensure!(status.is_success(), "{status}: {body}");
            Ok(())
        };
        let seen = eventually(&what, limit, look).await;
        seen.with_context(|| self.log_tail())
    }

    /// What `/metrics` says.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let url = format!("http://{}/metrics", self.ops()?);
        Ok(reqwest::get(&url).await?.error_for_status()?.text().await?)
    }

    /// Kills it with SIGKILL, as the kernel does when memory runs out.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.running.kill()?;
        Ok(())
    }

    /// Asks it to end by SIGTERM and does not wait for it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn ask_to_end(&mut self) -> anyhow::Result<()> {
        Ok(self.running.ask_to_end()?)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it still runs after `limit`, with the end of its log.
    pub async fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let ended = self.running.wait(limit).await;
        ended.with_context(|| self.log_tail())
    }

    /// Asks it to end by SIGTERM and waits for that.
    ///
    /// # Errors
    /// When it still runs after `limit`, with the end of its log.
    pub async fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.ask_to_end()?;
        self.wait(limit).await
    }

    /// Stops it where it is, as a frozen node does: it keeps its memory and its connections.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        Ok(self.running.signal("STOP")?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn go_on(&mut self) -> anyhow::Result<()> {
        Ok(self.running.signal("CONT")?)
    }

    /// Starts it again at the same addresses, after [`Process::kill9`] or [`Process::terminate`].
    ///
    /// # Errors
    /// When it still runs, or as [`Process::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.running.ended()?.is_some(),
            "the {} still runs",
            self.role().name()
        );
        let before = self.log_lines().len();
        self.running = run(&self.launch, &self.addresses, &self.log)?;
        self.wait_until_listening(before).await
    }

    /// Sets a variable of the environment for its next start.
    #[allow(clippy::needless_pass_by_value)] // As in `Launch`.
    pub fn set_env(&mut self, name: &str, value: impl Display) {
        self.launch.env.retain(|(known, _)| known != name);
        self.launch.env.push((name.to_owned(), value.to_string()));
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.running.ended()?)
    }

    fn address(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let only = || match self.addresses.values().collect::<Vec<_>>()[..] {
            [only] => Some(only),
            _ => None,
        };
        let found = self.addresses.get(name).or_else(only).copied();
        found.with_context(|| format!("the {} has no {name} address", self.role().name()))
    }

    async fn wait_until_listening(&mut self, from: usize) -> anyhow::Result<()> {
        let (log, running) = (&self.log, Mutex::new(&mut self.running));
        let what = format!("the {} to listen", self.launch.role.name());
        let seen = eventually(&what, LISTEN, || async {
            let ended = running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .ended();
            let lines = log.lock().unwrap_or_else(PoisonError::into_inner);
            match (lines.iter().skip(from).find_map(|l| listening(l)), ended) {
                (Some(addresses), Ok(None)) => Ok(Ok(addresses)),
                // No use in looking again; the inner result says so.
                (_, Ok(Some(status))) => Ok(Err(format!("it ended with {status}"))),
                (_, Err(error)) => Ok(Err(error.to_string())),
                (None, Ok(None)) => Err("no line that says `listening`"),
            }
        })
        .await;
        let addresses = match seen {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(why)) => Err(anyhow::anyhow!("{what} was waited for: {why}")),
            Err(late) => Err(late),
        };
        self.addresses = addresses.with_context(|| self.log_tail())?;
        Ok(())
    }
}

/// An address on loopback with a port below those that systems give to connections and to port 0.
///
/// # Errors
/// When none is free.
pub fn lasting_address() -> anyhow::Result<SocketAddr> {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    for _ in 0..100 {
        let random = uuid::Uuid::new_v4().into_bytes();
        let port = FIRST + u16::from_be_bytes([random[0], random[1]]) % COUNT;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no free port from {FIRST} on")
}

/// The addresses in a `listening` line: every field whose value is one.
fn listening(line: &str) -> Option<BTreeMap<String, SocketAddr>> {
    let entry: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
    if entry.get("message")?.as_str()? != "listening" {
        return None;
    }
    let addresses = entry
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?)));
    Some(addresses.collect())
}

fn run(
    launch: &Launch,
    addresses: &BTreeMap<String, SocketAddr>,
    log: &Arc<Mutex<Vec<String>>>,
) -> anyhow::Result<Guarded> {
    let mut command = match launch.through.split_first() {
        None => Command::new(binary()?),
        Some((program, args)) => {
            let mut command = Command::new(program);
            command.args(args).arg(binary()?);
            command
        }
    };
    command
        .args(["--log-format", "json"])
        .arg(launch.role.name())
        .args(&launch.args)
        .envs(launch.env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for (flag, name) in launch.role.addresses() {
        let address = match addresses.get(*name) {
            Some(address) => address.to_string(),
            None => "127.0.0.1:0".to_owned(),
        };
        command.args([*flag, &address]);
    }
    let mut running = reaper::spawn(&mut command)
        .with_context(|| format!("cannot start the {}", launch.role.name()))?;
    let stderr = running.take_stderr().context("no standard error")?;
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    });
    Ok(running)
}

/// The binary under test: Cargo names it to tests; an example finds it one folder up.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = option_env!("CARGO_BIN_EXE_chekt-operator") {
        return Ok(path.into());
    }
    let example = std::env::current_exe()?;
    let folder = example.parent().and_then(|examples| examples.parent());
    let path = folder
        .context("this program is in no folder")?
        .join("chekt-operator");
    anyhow::ensure!(
        path.is_file(),
        "{} is missing: run `cargo build` first, or use make",
        path.display()
    );
    Ok(path)
}

/// Runs a command of the binary to its end, with nobody at the terminal.
///
/// # Errors
/// When it cannot be run or does not end.
pub async fn command(kubeconfig: &Path, args: &[&str], input: &str) -> anyhow::Result<Said> {
    let kubeconfig = kubeconfig.display().to_string();
    command_in(&binary()?, &[("KUBECONFIG", &kubeconfig)], args, input).await
}

/// The same in another environment, or under another name.
///
/// # Errors
/// As [`command`].
pub async fn command_in(
    program: &Path,
    env: &[(&str, &str)],
    args: &[&str],
    input: &str,
) -> anyhow::Result<Said> {
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the command")?;
    let mut stdin = child.stdin.take().context("the command has no input")?;
    let feed = async move {
        // Whoever does not want the input closes it early.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(COMMAND, both)
        .await
        .with_context(|| format!("{args:?} did not end within {COMMAND:?}"))??;
    Ok(Said {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
