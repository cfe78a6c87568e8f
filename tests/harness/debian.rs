//! Programs of Debian for tests: fetched once with the machine's apt and unpacked into the user's cache folder. Nothing is
//! installed, and apt's own lists stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;

use super::{assets, go_build};

/// Why packages cannot be had. No failure: a test that needs them may be left out, and says so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unfetched(String);

impl Unfetched {
    /// What keeps this machine from having them.
    pub fn new(why: &str) -> Self {
        Unfetched(why.to_owned())
    }
}

/// The folder with these packages unpacked, below that of its kind.
///
/// # Errors
/// [`Unfetched`] when apt cannot fetch them; else what failed.
pub fn unpacked(kind: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut parts = vec!["1", release.as_str()];
    parts.extend(packages);
    let dir = assets::cached_by(kind, &parts)?;
    let what = packages[0];
    assets::make(&format!("Debian's {what}"), &dir, |dir| {
        let start = Instant::now();
        go_build::say(&format!("fetching Debian's {what} for tests (once)"));
        let apt = |lists: &Path| {
            let mut apt = Command::new("apt-get");
            apt.current_dir(dir)
                .arg("-qq")
                .arg(format!("-oDir::State::Lists={}", lists.display()))
                .arg(format!("-oDir::Cache={}", dir.join("apt").display()))
                // Else it wants to become a user that cannot write here.
                .args(["-oAPT::Sandbox::User=root", "-oAcquire::Retries=3"]);
            apt
        };
        let lists = dir.join("apt/lists");
        fs::create_dir_all(lists.join("partial"))?;
        fs::create_dir_all(dir.join("apt/archives/partial"))?;
        // Else it is content with lists that it could not fetch.
        let reached = run(apt(&lists).args(["update", "-oAPT::Update::Error-Mode=any"]))
            .and_then(|()| run(apt(&lists).arg("download").args(packages)));
        reached.map_err(|error| {
            let error = format!("{error:#}");
            let first = error.lines().next().unwrap_or_default();
            Unfetched(format!("apt cannot fetch {what} and its like: {first}"))
        })?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb")
                    .arg("--extract")
                    .args([&path, &dir.to_path_buf()]))?;
                fs::remove_file(&path)?;
            }
        }
        fs::remove_dir_all(dir.join("apt"))?;
        go_build::say(&format!(
            "  Debian's {what}: done, {}s",
            start.elapsed().as_secs()
        ));
        Ok(())
    })?;
    Ok(dir)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let program = Path::new(command.get_program()).display();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
