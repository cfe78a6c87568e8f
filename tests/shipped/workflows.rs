//! The workflow files, as far as they can be judged without the site that runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::tools;

#[test]
fn actionlint_finds_nothing_in_the_workflows() -> anyhow::Result<()> {
    let actionlint = tools::ACTIONLINT.path()?;
    // Without the programs that it would look for on the machine: with them, the verdict would be another one elsewhere.
    let linted = Command::new(actionlint)
        .args(["-no-color", "-shellcheck=", "-pyflakes="])
        .args(workflows()?)
        .output()?;
    assert!(
        linted.status.success(),
        "{}{}",
        String::from_utf8_lossy(&linted.stdout),
        String::from_utf8_lossy(&linted.stderr)
    );
    Ok(())
}

#[test]
fn a_workflow_says_what_it_may_do_and_keeps_no_token_in_the_checkout() -> anyhow::Result<()> {
    for path in workflows()? {
        let text = std::fs::read_to_string(&path)?;
        let name = path.display();
        assert!(
            text.lines().any(|line| line.starts_with("permissions:")),
            "{name} leaves its permissions to the repository's settings"
        );
        for forbidden in ["write-all", "pull_request_target"] {
            assert!(!text.contains(forbidden), "{name} has {forbidden}");
        }
        assert_eq!(
            text.matches("actions/checkout@").count(),
            text.matches("persist-credentials: false").count(),
            "{name}: a checkout keeps its token, and everything that runs after it can read that"
        );
        for line in text.lines() {
            if let Some((_, action)) = line.split_once("uses: ") {
                let version = action.split_once('@').map_or("", |(_, version)| version);
                assert!(
                    version
                        .strip_prefix('v')
                        .is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit())),
                    "{name}: {action} is whatever is there on the day; name a version"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_workflow_calls_only_what_anybody_can_call() -> anyhow::Result<()> {
    let makefile = std::fs::read_to_string(root().join("Makefile"))?;
    let mut called = 0;
    for path in workflows()? {
        let text = std::fs::read_to_string(&path)?;
        // Comments speak of what is called elsewhere.
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let mut words = lines.flat_map(str::split_whitespace).peekable();
        while let Some(word) = words.next() {
            let word = word.trim_matches(['\'', '"', ',', '(', ')', '[', ']']);
            if word == "make" {
                let target = words.peek().copied().unwrap_or_default();
                assert!(
                    makefile.contains(&format!("\n{target}: ")),
                    "{} calls `make {target}`, and there is no such target",
                    path.display()
                );
                called += 1;
            }
            if word.starts_with("packaging/") || word.starts_with(".ci/") {
                assert!(root().join(word).is_file(), "{word} is not there");
                called += 1;
            }
        }
    }
    assert!(called >= 6, "the workflows call {called} things of ours");
    Ok(())
}

fn workflows() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(".github/workflows"))? {
        found.push(entry?.path());
    }
    found.sort();
    anyhow::ensure!(!found.is_empty(), "there are no workflows");
    Ok(found)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
