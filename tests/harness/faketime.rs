//! Another wall clock for one process: Debian's libfaketime, preloaded. Nothing is installed.

use std::path::PathBuf;

use super::debian::{self, Unfetched};

/// The library, unpacked from its package.
#[derive(Clone, Debug)]
pub struct FakeTime(PathBuf);

impl FakeTime {
    /// Finds it, and fetches it the first time.
    ///
    /// # Errors
    /// [`Unfetched`] when this machine cannot have it, with the reason.
    pub fn find() -> anyhow::Result<FakeTime> {
        if !cfg!(all(target_os = "linux", target_env = "gnu")) {
            return Err(
                Unfetched::new("libfaketime is preloaded into the C library of GNU").into(),
            );
        }
        let dir = debian::unpacked("faketime", &["libfaketime"])?;
        let libraries = std::fs::read_dir(dir.join("usr/lib"))?;
        let known = libraries.filter_map(|entry| {
            let path = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
            path.is_file().then_some(path)
        });
        let library = known.last();
        let missing = || Unfetched::new("there is no libfaketimeMT.so.1 in Debian's package");
        Ok(library.map(FakeTime).ok_or_else(missing)?)
    }

    /// What makes the wall clock of a process differ by so many seconds. The clocks that intervals are measured with stay
    /// as they are, and so do the times of files.
    pub fn off_by(&self, seconds: f64) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.0.display().to_string()),
            ("FAKETIME", format!("{seconds:+}")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}
