//! A git repository on this disk, as the source of what a cluster is to hold.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// A repository with one branch, `main`, checked out.
#[derive(Debug)]
pub struct Repository {
    dir: PathBuf,
}

impl Repository {
    /// A new and empty one in this folder.
    ///
    /// # Errors
    /// When git is missing or refuses.
    pub fn new(dir: &Path) -> anyhow::Result<Repository> {
        std::fs::create_dir_all(dir)?;
        let repository = Repository {
            dir: dir.to_owned(),
        };
        repository.git(&["init", "--quiet", "--initial-branch=main"])?;
        Ok(repository)
    }

    /// Its address for a program on this machine.
    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    /// Where a file of it is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Writes a file, and the folders that it is in.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(file);
        let parent = path.parent().context("a file without a folder")?;
        std::fs::create_dir_all(parent)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Copies a folder to a folder of its own.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn copy(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(self.path(to))?;
        for entry in std::fs::read_dir(from).with_context(|| format!("{}", from.display()))? {
            let entry = entry?;
            let to = format!("{to}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.copy(&entry.path(), &to)?;
            } else {
                std::fs::copy(entry.path(), self.path(&to))?;
            }
        }
        Ok(())
    }

    /// Commits everything as it lies there and gives back the commit.
    ///
    /// # Errors
    /// When there is nothing to commit.
    pub fn commit(&self, message: &str) -> anyhow::Result<String> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "-m", message])?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    fn git(&self, args: &[&str]) -> anyhow::Result<String> {
        let said = Command::new("git")
            .args(args)
            .current_dir(&self.dir)
            // Nothing of whoever runs the test: no name, no signature, no hook.
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_COUNT", "2")
            .envs([
                ("GIT_CONFIG_KEY_0", "user.name"),
                ("GIT_CONFIG_VALUE_0", "somebody"),
                ("GIT_CONFIG_KEY_1", "user.email"),
                ("GIT_CONFIG_VALUE_1", "somebody@example.com"),
            ])
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .output()
            .context("cannot run git")?;
        let error = String::from_utf8_lossy(&said.stderr);
        anyhow::ensure!(said.status.success(), "git {args:?}: {}", error.trim());
        Ok(String::from_utf8(said.stdout)?)
    }
}
