//! Builds the programs that tests stand on with Go and shows how far it is: a cold build takes minutes, and a silent
//! minute looks like a hang.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::reaper;

/// The toolchain that is fetched when the one at hand is not Go 1.26. An API server built with Go 1.27 answers 503 on
/// OpenAPI v2, which breaks `kubectl apply` and `kubectl explain` (measured).
const TOOLCHAIN: &str = "go1.26.8";

/// A module of Go and the programs that are built from it.
pub struct Recipe {
    /// What it is, for the person who waits.
    pub what: &'static str,
    /// The folder of the module, below that of the repository.
    pub module: &'static str,
    /// The name of each program and its package.
    pub programs: &'static [(&'static str, &'static str)],
    /// For the linker.
    pub ldflags: &'static str,
    /// Everything beside the module's files that decides what comes out; part of the cache folder's name.
    pub text: &'static str,
}

/// etcd, the API server, the controllers for namespaces and garbage, and kubectl.
pub const CONTROL_PLANE: Recipe = Recipe {
    what: "the control plane",
    module: "tests/harness/control-plane",
    programs: &[
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        (
            "kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
        ),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ],
    // Without a version the server calls itself v0.0.0-master and refuses feature gates.
    ldflags: "-s -w \
        -X k8s.io/component-base/version.gitVersion=v1.37.2 \
        -X k8s.io/component-base/version.gitMajor=1 \
        -X k8s.io/component-base/version.gitMinor=37 \
        -X k8s.io/component-base/version.gitTreeState=clean",
    text: "1: go1.26, CGO_ENABLED=0, -trimpath, v1.37.2",
};

/// What a node runs beside the control plane. Of the same version and with the same flags, so that most of it is
/// compiled by then.
pub const NODE: Recipe = Recipe {
    what: "the programs of a node",
    module: "tests/node/kubernetes",
    programs: &[
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ],
    ldflags: CONTROL_PLANE.ldflags,
    text: CONTROL_PLANE.text,
};

/// The cluster's DNS.
pub const NODE_DNS: Recipe = Recipe {
    what: "the DNS server of a node",
    module: "tests/node/dns",
    programs: &[("coredns", "dns")],
    ldflags: "-s -w",
    text: "1: go1.26, CGO_ENABLED=0, -trimpath",
};

/// The process that holds a pod, the maker of its image, and the way into the node's network.
pub const NODE_TOOLS: Recipe = Recipe {
    what: "the tools of a node",
    module: "tests/node/tools",
    programs: &[
        ("image", "nodetools/image"),
        ("pause", "nodetools/pause"),
        ("relay", "nodetools/relay"),
    ],
    ldflags: "-s -w",
    text: "1: go1.26, CGO_ENABLED=0, -trimpath",
};

/// What Helm and Flux make of an object's status.
pub const KSTATUS: Recipe = Recipe {
    what: "kstatus",
    module: "tests/kstatus",
    programs: &[("kstatus", "kstatus")],
    ldflags: "-s -w",
    text: "1: go1.26, CGO_ENABLED=0, -trimpath",
};

/// Builds all programs of a recipe into `out`.
///
/// # Errors
/// When Go is missing or fails, with the end of what it said.
pub fn build_all(recipe: &Recipe, out: &Path) -> anyhow::Result<()> {
    let toolchain = toolchain()?;
    let start = Instant::now();
    let Recipe {
        what,
        module,
        programs,
        ldflags,
        text: _,
    } = recipe;
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join(module);
    say(&format!(
        "building {what} for tests with Go (once; minutes on a new machine) into {}",
        out.with_extension("").display()
    ));
    let go = |args: &[&str]| {
        let mut command = Command::new("go");
        command
            .args(args)
            .current_dir(&module)
            .env("GOTOOLCHAIN", toolchain)
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .env("GOFLAGS", "");
        command
    };
    // Listing what is needed fetches what is missing, and tells of each module.
    let mut list = go(&["list", "-deps"]);
    list.args(programs.iter().map(|(_, package)| package));
    run(list, &mut Meter::new("sources", "modules", None))?;
    for (name, package) in *programs {
        let listed = go(&["list", "-deps", package])
            .output()
            .context("cannot run `go list`")?;
        anyhow::ensure!(
            listed.status.success(),
            "`go list -deps {package}` failed:\n{}",
            String::from_utf8_lossy(&listed.stderr)
        );
        let packages = listed.stdout.split(|byte| *byte == b'\n').count() - 1;
        let target = out.join(name);
        let mut build = go(&[
            "build",
            "-v",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            ldflags,
        ]);
        build.arg("-o").arg(&target).arg(package);
        run(build, &mut Meter::new(name, "packages", Some(packages)))?;
    }
    say(&format!("built {what}, {}", spoken(start.elapsed())));
    Ok(())
}

/// The folder of a module that a recipe is built from, fetched if it is not there any more.
///
/// # Errors
/// When Go is missing or fails.
pub fn sources(recipe: &Recipe, module: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", module])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(recipe.module))
        .env("GOTOOLCHAIN", toolchain()?)
        .env("GOWORK", "off")
        .env("GOFLAGS", "")
        .output()
        .context("cannot run `go mod download`")?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let folder = said["Dir"].as_str();
    let folder = folder.with_context(|| format!("`go mod download {module}` said {said}"))?;
    Ok(PathBuf::from(folder))
}

/// Writes a line for the person who waits. Not by `eprintln!`, which `cargo test` would hold back.
pub fn say(line: &str) {
    // Progress that nobody can read is not worth failing for.
    let _ = writeln!(io::stderr(), "{line}");
}

fn toolchain() -> anyhow::Result<&'static str> {
    let output = Command::new("go")
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .output()
        .context(
            "cannot run `go`: install Go 1.26 or later (https://go.dev/dl), or point KUBEBUILDER_ASSETS at a folder \
             of setup-envtest",
        )?;
    let version = String::from_utf8_lossy(&output.stdout);
    if version.starts_with("go1.26") {
        Ok("local")
    } else {
        Ok(TOOLCHAIN)
    }
}

/// Runs a command of Go's and counts the lines of its standard error, one for each thing done.
fn run(mut command: Command, meter: &mut Meter) -> anyhow::Result<()> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut go = reaper::spawn(&mut command).context("cannot run `go`")?;
    let stderr = go.take_stderr().context("go has no standard error")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut said: Vec<String> = Vec::new();
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                meter.done += 1;
                said.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        meter.show();
    }
    // Its standard error is closed, so it is at its end.
    let status = loop {
        if let Some(status) = go.ended()? {
            break status;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let tail = said[said.len().saturating_sub(30)..].join("\n");
    anyhow::ensure!(status.success(), "{command:?} failed:\n{tail}");
    meter.finish();
    Ok(())
}

/// How far one command is, on one line that is written over on a terminal, else on a new line now and then.
struct Meter {
    name: String,
    unit: &'static str,
    total: Option<usize>,
    done: usize,
    start: Instant,
    shown: Instant,
}

impl Meter {
    fn new(name: &str, unit: &'static str, total: Option<usize>) -> Self {
        let now = Instant::now();
        Meter {
            name: name.to_owned(),
            unit,
            total,
            done: 0,
            start: now,
            shown: now,
        }
    }

    fn show(&mut self) {
        let (terminal, pause) = if io::stderr().is_terminal() {
            (true, Duration::from_millis(200))
        } else {
            (false, Duration::from_secs(10))
        };
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let line = self.line();
        if terminal {
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        } else {
            say(&line);
        }
    }

    fn line(&self) -> String {
        let done = match self.total {
            // Packages that Go had built before are not printed, so the last number may stay below the total.
            Some(total) => format!("{}/{total}", self.done.min(total)),
            None => self.done.to_string(),
        };
        format!(
            "  {}: {done} {}, {}",
            self.name,
            self.unit,
            spoken(self.start.elapsed())
        )
    }

    fn finish(&self) {
        let clear = if io::stderr().is_terminal() {
            "\r\x1b[K"
        } else {
            ""
        };
        let took = spoken(self.start.elapsed());
        let _ = writeln!(io::stderr(), "{clear}  {}: done, {took}", self.name);
    }
}

fn spoken(span: Duration) -> String {
    match (span.as_secs() / 60, span.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds:02}s"),
    }
}
