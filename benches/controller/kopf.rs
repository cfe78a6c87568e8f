//! kopf: a folder with Python packages of exactly these hashes, made once, beside the programs of the control plane.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::harness::assets;

const HANDLER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/benches/controller/peers/kopf/handler.py"
);
const REQUIREMENTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/benches/controller/peers/kopf/requirements.txt"
);

/// An installed kopf.
#[derive(Clone, Debug)]
pub struct Kopf(PathBuf);

impl Kopf {
    /// Finds it, and installs it if nobody has yet.
    ///
    /// # Errors
    /// When there is no Python that can, with what it said.
    pub fn find() -> anyhow::Result<Kopf> {
        let python = said(Command::new("python3").arg("--version"))
            .context("python3 is needed, 3.10 or later")?;
        let mut hash = Sha256::new();
        hash.update(std::fs::read(REQUIREMENTS)?);
        hash.update(&python);
        let name = data_encoding::HEXLOWER.encode(&hash.finalize()[..8]);
        let cache = assets::cache_dir()?;
        let cache = cache.parent().and_then(Path::parent);
        let dir = cache.context("no cache folder")?.join("kopf").join(name);
        if dir.is_dir() {
            return Ok(Kopf(dir));
        }
        // Beside the wanted folder and renamed at the end: its name never stands for half of it.
        let partial = dir.with_extension("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial)?;
        }
        println!("installing kopf into {}", dir.display());
        said(Command::new("python3").args(["-m", "venv"]).arg(&partial))?;
        said(
            Command::new(partial.join("bin/python"))
                .args([
                    "-m",
                    "pip",
                    "--disable-pip-version-check",
                    "install",
                    "--quiet",
                ])
                .args([
                    "--require-hashes",
                    "--only-binary",
                    ":all:",
                    "-r",
                    REQUIREMENTS,
                ]),
        )?;
        std::fs::rename(&partial, &dir)?;
        Ok(Kopf(dir))
    }

    /// The handler, for one namespace.
    pub fn command(&self, namespace: &str) -> Command {
        // By module: the scripts in `bin` name the folder in which they were installed first.
        let mut command = Command::new(self.0.join("bin/python"));
        command.args([
            "-m",
            "kopf",
            "run",
            "--standalone",
            "--namespace",
            namespace,
            HANDLER,
        ]);
        command
    }
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
