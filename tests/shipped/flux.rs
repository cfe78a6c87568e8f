//! The examples for Flux are what Flux's own types say, and the values in the examples are the chart's.
//!
//! Its controllers are not run: no Go module that can be had holds them. Their health check is kstatus, which
//! `tests/it/kstatus.rs` and `waiting.rs` run on our kinds.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::harness::tools;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files() -> anyhow::Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(root().join("gitops/flux"))?;
    Ok(files
        .map(|file| file.map(|f| f.path()))
        .collect::<Result<_, _>>()?)
}

/// What Flux's types have against manifests.
fn refusal(manifests: &str) -> anyhow::Result<Option<String>> {
    let mut child = Command::new(tools::FLUX_TYPES.path()?)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    input.write_all(manifests.as_bytes())?;
    drop(input);
    let said = child.wait_with_output()?;
    let error = String::from_utf8(said.stderr)?;
    Ok((!said.status.success()).then_some(error))
}

#[test]
fn the_examples_for_flux_are_what_fluxs_types_say() -> anyhow::Result<()> {
    let files = files()?;
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let manifests = std::fs::read_to_string(&file)?;
        assert_eq!(refusal(&manifests)?, None, "{}", file.display());
    }
    // A field that nobody has is found.
    let manifests = std::fs::read_to_string(root().join("gitops/flux/security.yaml"))?;
    let misspelt = manifests.replace("  prune: true", "  pruned: true");
    let refusal = refusal(&misspelt)?.context("nobody minds")?;
    assert!(refusal.contains("pruned"), "{refusal}");
    Ok(())
}

#[test]
fn the_chart_takes_the_values_of_the_examples() -> anyhow::Result<()> {
    let mut files = files()?;
    files.push(root().join("gitops/argocd/application.yaml"));
    let mut seen = 0;
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document)?;
            let values = match object["kind"].as_str() {
                Some("HelmRelease") => &object["spec"]["values"],
                Some("Application") => &object["spec"]["source"]["helm"]["valuesObject"],
                _ => continue,
            };
            if values.is_null() {
                continue;
            }
            let mut given = tempfile::NamedTempFile::new()?;
            given.write_all(values.to_string().as_bytes())?;
            let said = Command::new(tools::HELM.path()?)
                .args(["template", "chekt-operator"])
                .arg(root().join("charts/chekt-operator"))
                .arg("--values")
                .arg(given.path())
                .output()?;
            let error = String::from_utf8_lossy(&said.stderr);
            assert!(said.status.success(), "{}: {error}", file.display());
            let made = String::from_utf8(said.stdout)?;
            for value in [&values["publicUrl"], &values["image"]["repository"]] {
                let value = value.as_str().context("no publicUrl or no image")?;
                assert!(made.contains(value), "{}: {value}", file.display());
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
    Ok(())
}
