//! What a release changes and what it refuses, tried dry in a repository of its own. What it builds is built by
//! `make release` alone: that takes minutes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The files that hold the version, and the line that says it.
const PLACES: [(&str, &str); 8] = [
    ("Cargo.toml", "version = \"99.0.0\""),
    ("Cargo.lock", "version = \"99.0.0\""),
    ("fuzz/Cargo.lock", "version = \"99.0.0\""),
    ("Dockerfile", "ARG VERSION=99.0.0"),
    ("charts/chekt-operator/Chart.yaml", "version: 99.0.0"),
    (
        "gitops/argocd/application.yaml",
        "    targetRevision: 99.0.0",
    ),
    ("docs/quickstart.md", "localhost/chekt-operator:99.0.0"),
    ("CHANGELOG.md", "## [99.0.0] - "),
];

#[test]
fn a_dry_release_sets_the_version_everywhere_and_leaves_everything_as_it_is() -> anyhow::Result<()>
{
    let repository = Repository::new()?;
    let head = repository.git(&["rev-parse", "HEAD"])?;
    let output = repository.release(&["99.0.0", "--dry-run"])?;
    let (diff, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    for (file, line) in PLACES {
        let part = diff
            .split("diff --git ")
            .find(|part| part.starts_with(&format!("a/{file} ")));
        assert!(
            part.is_some_and(|part| {
                let mut lines = part.lines();
                lines.any(|set| set.starts_with('+') && set.contains(line))
            }),
            "{file} does not get {line}:\n{diff}"
        );
    }
    assert_eq!(diff.matches("diff --git ").count(), PLACES.len(), "{diff}");
    assert_eq!(repository.git(&["rev-parse", "HEAD"])?, head);
    assert_eq!(repository.git(&["status", "--porcelain"])?, "");
    assert_eq!(repository.git(&["worktree", "list"])?.lines().count(), 1);
    Ok(())
}

#[test]
fn a_release_refuses_what_nobody_can_take_back() -> anyhow::Result<()> {
    let repository = Repository::new()?;
    let refused = |arguments: &[&str], because: &str| -> anyhow::Result<()> {
        let output = repository.release(arguments)?;
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} was not refused");
        assert!(said.contains(because), "{arguments:?}: {said}");
        Ok(())
    };
    refused(&["--dry-run"], "make release VERSION=1.2.3")?;
    refused(&["v99.0.0", "--dry-run"], "the version is 'v99.0.0'")?;
    refused(&["99.0", "--dry-run"], "the version is '99.0'")?;
    refused(&["0.0.1", "--dry-run"], "0.0.1 is before it")?;
    let before_it = format!("{}-rc.1", env!("CARGO_PKG_VERSION"));
    refused(&[&before_it, "--dry-run"], "is before it")?;

    std::fs::write(repository.path("more"), "")?;
    refused(&["99.0.0"], "?? more")?;
    std::fs::remove_file(repository.path("more"))?;

    repository.git(&["tag", "v99.0.0"])?;
    repository.git(&["commit", "--quiet", "--allow-empty", "--message", "more"])?;
    refused(&["99.0.0"], "v99.0.0 is there already")?;

    std::fs::write(
        repository.path("CHANGELOG.md"),
        "# Changelog\n\n## [Unreleased]\n\n## [0.0.1]\n\n- something old\n",
    )?;
    repository.git(&["commit", "--quiet", "--all", "--message", "nothing to tell"])?;
    refused(&["99.0.1"], "nothing stands under Unreleased")?;
    Ok(())
}

/// What a release reads, committed in a folder of its own.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> anyhow::Result<Self> {
        let new = Repository(tempfile::tempdir()?);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<PathBuf> = PLACES.iter().map(|(file, _)| file.into()).collect();
        for entry in std::fs::read_dir(root.join("packaging"))? {
            files.push(Path::new("packaging").join(entry?.file_name()));
        }
        for file in files {
            let to = new.0.path().join(&file);
            if let Some(folder) = to.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::copy(root.join(&file), to)?;
        }
        // This test is of what a release does with something to tell; right after a release there is nothing.
        let changelog = std::fs::read_to_string(new.path("CHANGELOG.md"))?;
        std::fs::write(
            new.path("CHANGELOG.md"),
            changelog.replacen(
                "## [Unreleased]\n",
                "## [Unreleased]\n\n- Something new.\n",
                1,
            ),
        )?;
        std::fs::write(new.path(".gitignore"), "/target\n")?;
        new.git(&["init", "--quiet"])?;
        new.git(&["add", "--all"])?;
        new.git(&["commit", "--quiet", "--message", "all of it"])?;
        Ok(new)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn release(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(alone(&mut Command::new(self.path("packaging/release.sh")))
            .args(arguments)
            .output()?)
    }

    fn git(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = alone(&mut Command::new("git"))
            .current_dir(self.0.path())
            .args(["-c", "user.name=test", "-c", "user.email=test@test.invalid"])
            .args(["-c", "commit.gpgsign=false"])
            .args(arguments)
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "git {arguments:?}: {}",
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }
}

/// Without what a hook of git, or whoever builds a package, has in the environment.
fn alone(command: &mut Command) -> &mut Command {
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "CHEKT_BUILD_COMMIT",
        "SOURCE_DATE_EPOCH",
        "ARCH",
    ] {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
