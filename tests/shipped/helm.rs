//! Our chart, as Helm renders it: of the values that a test hands over, into a release's namespace.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Context as _;
use serde_json::Value;

use crate::harness::tools;

/// The release's name in everything that is rendered here.
pub const RELEASE: &str = "chekt";

/// The folder of the chart.
pub fn chart() -> PathBuf {
    root().join("charts/chekt-operator")
}

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The value files that span the chart's options, in order.
///
/// # Errors
/// When the folder cannot be read.
pub fn value_files() -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(chart().join("ci"))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    Ok(files)
}

/// The name of a value file without its ending.
pub fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches("-values.yaml").to_owned()
}

/// Runs helm, apart from whatever the person who runs the tests has set up for theirs.
///
/// # Errors
/// When it cannot be built or started; a refusal is in what it gives back.
pub fn helm(args: &[&str], input: &str) -> anyhow::Result<Output> {
    let mut command = Command::new(tools::HELM.path()?);
    command.args(args);
    for (name, folder) in [
        ("HELM_CONFIG_HOME", "config"),
        ("HELM_CACHE_HOME", "cache"),
        ("HELM_DATA_HOME", "data"),
    ] {
        let folder = root().join("target/helm").join(folder);
        std::fs::create_dir_all(&folder)?;
        command.env(name, folder);
    }
    run(&mut command, input)
}

/// Runs a program with something on its standard input.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command, input: &str) -> anyhow::Result<Output> {
    let what = format!("{command:?}");
    let mut child = command
        .env_remove("KUBECONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let input = input.to_owned();
    // Beside it: a program may write more than a pipe holds before it has read everything.
    let feed = std::thread::spawn(move || {
        // One that does not want its input closes it early.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output()?;
    let _ = feed.join();
    Ok(output)
}

/// What a program wrote, both streams.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The manifests that Helm makes of the chart with a value file.
///
/// # Errors
/// What it says when it refuses.
pub fn render(namespace: &str, values: &Path) -> anyhow::Result<String> {
    let values = values.to_str().context("a path that is no text")?;
    template(namespace, &["--values", values], "")
}

/// The manifests that Helm makes of the chart with these values.
///
/// # Errors
/// What it says when it refuses.
pub fn render_with(namespace: &str, values: &Value) -> anyhow::Result<String> {
    template(namespace, &["--values", "-"], &values.to_string())
}

fn template(namespace: &str, args: &[&str], input: &str) -> anyhow::Result<String> {
    let chart = chart();
    let chart = chart.to_str().context("a path that is no text")?;
    let mut all = vec!["template", RELEASE, chart, "--namespace", namespace];
    // Of the API server that tests run on, and kinds that a cluster may lack.
    all.extend(["--kube-version", "1.37.2"]);
    all.extend(args);
    let output = helm(&all, input)?;
    anyhow::ensure!(output.status.success(), "helm template: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// The objects of a stream of manifests.
///
/// # Errors
/// When it is not YAML.
pub fn objects(manifests: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(manifests) {
        let object: Value = serde::Deserialize::deserialize(document)?;
        if !object.is_null() {
            found.push(object);
        }
    }
    Ok(found)
}

/// The one object of a kind and, where there are several, of the name's ending.
///
/// # Errors
/// When there is none.
pub fn object<'a>(objects: &'a [Value], kind: &str) -> anyhow::Result<&'a Value> {
    let found = objects.iter().find(|o| o["kind"] == kind);
    found.with_context(|| format!("no {kind} among what was rendered"))
}

/// A container of the Pod template, among the ordinary and the init containers.
///
/// # Errors
/// When there is none of that name.
pub fn container<'a>(workload: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let pod = &workload["spec"]["template"]["spec"];
    ["containers", "initContainers"]
        .iter()
        .filter_map(|list| pod[list].as_array())
        .flatten()
        .find(|c| c["name"] == name)
        .with_context(|| format!("no container {name}"))
}
