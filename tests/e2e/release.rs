//! The release: helm, with the chart and the image of this commit on a node. And the chart as it may have been one version
//! ago: under another number, with another image, and without a field that the definition has by now.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use crate::harness::tools::HELM;
use crate::harness::{Identity, Node, reaper};

/// Name of the release, and so of all that it makes.
pub(crate) const RELEASE: &str = "chekt-operator";
/// Its namespace.
pub(crate) const NAMESPACE: &str = "chekt-system";
/// The version before this one.
pub(crate) const PREVIOUS: &str = "0.0.1";
/// The field that the previous version does not know.
pub(crate) const NEW_FIELD: &str = "adoptionPolicy";
/// For how long helm waits for Pods to be ready.
const WAIT: &str = "120s";
/// How long a command of helm may take in all.
const COMMAND: Duration = Duration::from_secs(150);

/// helm on one node.
pub(crate) struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    /// Finds helm.
    pub(crate) async fn on(node: &Node) -> anyhow::Result<Helm> {
        Ok(Helm {
            program: tokio::task::spawn_blocking(|| HELM.path()).await??,
            kubeconfig: node.plane().kubeconfig(Identity::Admin),
            home: reaper::directory("helm")?,
        })
    }

    /// Runs helm in the namespace of the release.
    pub(crate) async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(&self.program)
            .args(args)
            .args(["--namespace", NAMESPACE])
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_CACHE_HOME", self.home.join("cache"))
            .env("HELM_CONFIG_HOME", self.home.join("config"))
            .env("HELM_DATA_HOME", self.home.join("data"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(COMMAND, output)
            .await
            .with_context(|| format!("helm {args:?} did not end"))??;
        let (said, complained) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        anyhow::ensure!(
            output.status.success(),
            "helm {args:?}: {}\n{complained}{said}",
            output.status
        );
        // A Deployment is taken, and its Pods are not: the namespace says so in a warning.
        anyhow::ensure!(
            !complained.contains("would violate PodSecurity"),
            "helm {args:?}: {complained}"
        );
        Ok(said)
    }

    /// Installs or upgrades the release from a chart and waits until its Pods are ready.
    pub(crate) async fn install(&self, chart: &Path, more: &[&str]) -> anyhow::Result<String> {
        let chart = chart.to_str().context("a path that is no text")?;
        let values = root().join("tests/e2e/values.yaml");
        let values = values.to_str().context("a path that is no text")?;
        let mut args = vec![
            "upgrade",
            "--install",
            RELEASE,
            chart,
            "--values",
            values,
            "--wait",
            "--timeout",
            WAIT,
        ];
        args.extend(more);
        self.run(&args).await
    }

    /// Installs the release with a sandbox beside it, as the quick start says.
    pub(crate) async fn install_to_try(&self, chart: &Path) -> anyhow::Result<String> {
        let chart = chart.to_str().context("a path that is no text")?;
        let values = "image.repository=localhost/chekt-operator,sandbox.enabled=true";
        self.run(&[
            "install",
            RELEASE,
            chart,
            "--set",
            values,
            "--wait",
            "--timeout",
            WAIT,
        ])
        .await
    }

    /// Goes back to an earlier revision.
    pub(crate) async fn rollback(&self, revision: &str) -> anyhow::Result<String> {
        self.run(&["rollback", RELEASE, revision, "--wait", "--timeout", WAIT])
            .await
    }

    /// Runs the chart's own tests.
    pub(crate) async fn test(&self) -> anyhow::Result<String> {
        self.run(&["test", RELEASE, "--logs", "--timeout", WAIT])
            .await
    }

    /// Removes the release.
    pub(crate) async fn uninstall(&self) -> anyhow::Result<String> {
        self.run(&["uninstall", RELEASE, "--wait", "--timeout", WAIT])
            .await
    }
}

impl Drop for Helm {
    fn drop(&mut self) {
        reaper::remove(&self.home);
    }
}

/// The chart of this commit.
pub(crate) fn chart() -> PathBuf {
    root().join("charts/chekt-operator")
}

/// The chart as it may have been one version ago, in a folder below `dir`.
pub(crate) fn previous_chart(dir: &Path) -> anyhow::Result<PathBuf> {
    let previous = dir.join(RELEASE);
    copy(&chart(), &previous)?;
    let about = previous.join("Chart.yaml");
    let mut changed = String::new();
    for line in fs::read_to_string(&about)?.lines() {
        let key = line.split(':').next().unwrap_or_default();
        if matches!(key, "version" | "appVersion") {
            changed += &format!("{key}: {PREVIOUS}\n");
        } else {
            changed += &format!("{line}\n");
        }
    }
    fs::write(about, changed)?;
    let definition = previous.join("templates/crds/chektwebhooks.yaml");
    let without = without_field(&fs::read_to_string(&definition)?, NEW_FIELD)?;
    fs::write(definition, without)?;
    Ok(previous)
}

/// A definition without one property: its line, and those below it that are indented more.
fn without_field(text: &str, field: &str) -> anyhow::Result<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<_> = text.lines().collect();
    let wanted = format!("{field}:");
    let from = lines.iter().position(|line| line.trim() == wanted);
    let from = from.with_context(|| format!("the definition has no {field}"))?;
    let deep = indent(lines[from]);
    let more = lines[from + 1..]
        .iter()
        .take_while(|line| indent(line) > deep);
    let to = from + 1 + more.count();
    Ok([&lines[..from], &lines[to..]].concat().join("\n") + "\n")
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("no {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The archive that `make image` writes.
pub(crate) fn image() -> anyhow::Result<PathBuf> {
    let archive = root().join("target/image/chekt-operator.oci.tar");
    anyhow::ensure!(
        archive.is_file(),
        "{} is missing: run make e2e, which makes it",
        archive.display()
    );
    Ok(archive)
}

/// The name of the image at a version.
pub(crate) fn image_name(version: &str) -> String {
    format!("localhost/chekt-operator:{version}")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_field_goes_with_all_that_is_below_it() -> anyhow::Result<()> {
    let text = "a:\n  b:\n    c: 1\n    d:\n      - e\n  f: 2\n";
    assert_eq!(without_field(text, "b")?, "a:\n  f: 2\n");
    assert!(without_field(text, "z").is_err());
    Ok(())
}
