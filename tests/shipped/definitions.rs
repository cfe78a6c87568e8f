//! Definitions of kinds that are not ours and that the chart may use: the Gateway API's and the Prometheus operator's.
//!
//! The real ones, which Go's module proxy serves: a module holds all files of its repository's folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

use crate::helm::{self, root};

/// The files of the kinds that the chart may make, by the module that they are in.
const FILES: [(&str, &str); 4] = [
    (
        "sigs.k8s.io/gateway-api",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
];

/// Where their files are. Fetched once, as a program's source would be.
///
/// # Errors
/// When Go is missing or the module proxy cannot be reached.
pub fn of_others() -> anyhow::Result<Vec<PathBuf>> {
    let output = helm::run(
        Command::new("go")
            .args(["mod", "download", "-json"])
            .current_dir(root().join("tests/tools/definitions"))
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off"),
        "",
    )?;
    let told = String::from_utf8(output.stdout.clone())?;
    anyhow::ensure!(
        output.status.success(),
        "go mod download: {}",
        helm::said(&output)
    );
    let modules: Vec<Value> = serde_json::Deserializer::from_str(&told)
        .into_iter()
        .collect::<Result<_, _>>()?;
    let mut files = Vec::new();
    for (module, file) in FILES {
        let found = modules.iter().find(|m| m["Path"] == module);
        let dir = found.and_then(|m| m["Dir"].as_str());
        let dir =
            dir.with_context(|| format!("go mod download says nothing of {module}: {told}"))?;
        files.push(Path::new(dir).join(file));
    }
    Ok(files)
}
