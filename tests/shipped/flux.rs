//! The examples for Flux are what Flux's own types say, and the values in the examples are the chart's.
//!
//! Its controllers are not run: no Go module that can be had holds them. Their health check is kstatus, which
//! `tests/it/kstatus.rs` and `waiting.rs` run on our kinds.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::harness::tools;
use crate::helm::{self, root};

fn files() -> anyhow::Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(root().join("gitops/flux"))?;
    Ok(files
        .map(|file| file.map(|f| f.path()))
        .collect::<Result<_, _>>()?)
}

/// What Flux's types have against manifests.
fn refusal(manifests: &str) -> anyhow::Result<Option<String>> {
    let said = helm::run(&mut Command::new(tools::FLUX_TYPES.path()?), manifests)?;
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
            let made = helm::render_with("chekt-system", values)
                .with_context(|| file.display().to_string())?;
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
