//! Tells the binary which commit it was built from. The date is the commit's and never that of the clock, so that two
//! builds of one commit are the same bytes.
//!
//! ```text
//! CHEKT_BUILD_COMMIT, SOURCE_DATE_EPOCH    what whoever builds without the history says: an image, a package
//! git                                      for release builds, whatever of the two is not said
//! nobody                                   unknown
//! ```
//!
//! A development build is not asked for its commit: with each new one everything would be compiled again.

use std::error::Error;
use std::process::Command;

/// As many digits of a commit as are shown: enough for git to find it, in a project of any size.
const DIGITS: usize = 12;
/// Stands behind a commit from which files differed.
const DIRTY: &str = "-dirty";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=CHEKT_BUILD_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
    let asked = std::env::var("PROFILE")? == "release";
    let (mut commit, mut date) = (said("CHEKT_BUILD_COMMIT")?, said("SOURCE_DATE_EPOCH")?);
    // Of a commit that somebody names, git here may know nothing, and of another one it knows the wrong date.
    if asked && commit.is_none() {
        watch_history();
        commit = git(&["rev-parse", "HEAD"]);
        if let (Some(commit), Some(true)) = (&mut commit, changes()) {
            commit.push_str(DIRTY);
        }
        date = date.or_else(|| git(&["log", "-1", "--format=%ct"]));
    }
    let commit = commit.map(|commit| short(&commit)).transpose()?;
    if let Some(date) = &date {
        date.parse::<i64>().map_err(|_| {
            format!("SOURCE_DATE_EPOCH is {date:?}: write seconds since 1970, such as 1767225600")
        })?;
    }
    // Empty is unknown: an environment variable of a build cannot be told from one that is not there otherwise.
    println!(
        "cargo::rustc-env=CHEKT_COMMIT={}",
        commit.unwrap_or_default()
    );
    println!(
        "cargo::rustc-env=CHEKT_COMMIT_EPOCH={}",
        date.unwrap_or_default()
    );
    println!("cargo::rustc-env=CHEKT_DEVELOPMENT={}", u8::from(!asked));
    Ok(())
}

/// An environment variable; one that is empty says nothing.
fn said(name: &str) -> Result<Option<String>, Box<dyn Error>> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}

/// What git answers, if this folder is the root of a repository and git is there. Sources that were unpacked within
/// somebody else's repository are not that repository's commit.
fn git(args: &[&str]) -> Option<String> {
    let root = run(&["rev-parse", "--show-prefix"])?;
    root.is_empty().then(|| run(args)).flatten()
}

fn run(args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("--no-optional-locks")
        .args(args)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Whether a file that git knows was changed since the commit.
fn changes() -> Option<bool> {
    let status = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(!status.is_empty())
}

/// Asks git again after a commit, and after a change of the source.
fn watch_history() {
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// A commit as it is shown.
fn short(commit: &str) -> Result<String, Box<dyn Error>> {
    let (digits, dirty) = match commit.strip_suffix(DIRTY) {
        Some(digits) => (digits, DIRTY),
        None => (commit, ""),
    };
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if !(7..=64).contains(&digits.len()) || !digits.chars().all(hex) {
        return Err(format!(
            "CHEKT_BUILD_COMMIT is {commit:?}: write what `git rev-parse HEAD` prints, with `{DIRTY}` behind it if files were changed"
        )
        .into());
    }
    Ok(format!("{}{dirty}", &digits[..digits.len().min(DIGITS)]))
}
