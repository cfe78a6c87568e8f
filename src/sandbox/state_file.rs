//! The state file: the store as JSON, replaced as a whole after each change.
//!
//! A call that changes something is answered once the change is on disk, so a sandbox that is killed forgets
//! nothing that it admitted to. Many changes share one write. The file holds signing secrets, so only its owner
//! may read it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::store::Store;

/// The layout of the file; another number is not ours to read.
const VERSION: u32 = 1;

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It cannot be read or written.
    #[error("state file {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// It is not a state file.
    #[error("state file {path} is not one of a sandbox: {source}")]
    Content {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// It is one of another version.
    #[error("state file {path} has version {found}, this sandbox reads {VERSION}")]
    Version { path: PathBuf, found: u32 },
}

#[derive(Deserialize)]
struct Read {
    version: u32,
    store: Store,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    store: &'a Store,
}

/// Reads the store; an empty one when there is no file yet.
///
/// # Errors
/// [`StateFileError`]
pub fn read(path: &Path) -> Result<Store, StateFileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Store::default()),
        Err(source) => {
            return Err(StateFileError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    let read: Read = serde_json::from_slice(&bytes).map_err(|source| StateFileError::Content {
        path: path.to_owned(),
        source,
    })?;
    if read.version == VERSION {
        Ok(read.store)
    } else {
        Err(StateFileError::Version {
            path: path.to_owned(),
            found: read.version,
        })
    }
}

/// The bytes of the file that holds `store`.
///
/// # Errors
/// Never in practice: the store is made of strings and numbers.
pub fn bytes(store: &Store) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Written {
        version: VERSION,
        store,
    })
}

/// Replaces the file: whoever reads it finds the old state or the new one.
///
/// # Errors
/// [`StateFileError`]
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), StateFileError> {
    let replace = || -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        // The mode above is for a new file only; one left behind by a crash keeps its own.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    };
    replace().map_err(|source| StateFileError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Asks for writes and waits for them.
#[derive(Debug)]
pub struct Saver {
    wanted: watch::Sender<u64>,
    done: watch::Receiver<u64>,
}

/// The other end, which writes.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    wanted: watch::Receiver<u64>,
    done: watch::Sender<u64>,
}

/// Both ends.
pub fn pair(path: PathBuf) -> (Saver, Writer) {
    let (wanted, wanted_here) = watch::channel(0);
    let (done_here, done) = watch::channel(0);
    let writer = Writer {
        path,
        wanted: wanted_here,
        done: done_here,
    };
    (Saver { wanted, done }, writer)
}

impl Saver {
    /// Asks for a write of what is so now.
    pub fn ask(&self) -> u64 {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            *wanted += 1;
            number = *wanted;
        });
        number
    }

    /// Waits for the write that was asked for; in vain when the writer has ended, and then at once.
    pub async fn wait(&self, number: u64) {
        let mut done = self.done.clone();
        if done.wait_for(|done| *done >= number).await.is_err() {
            tracing::debug!("the writer of the state file has ended");
        }
    }
}

impl Writer {
    /// Writes whenever it is asked to, until `end` is cancelled, and then once more.
    pub async fn run(
        mut self,
        snapshot: impl Fn() -> serde_json::Result<Vec<u8>>,
        end: CancellationToken,
    ) {
        loop {
            let last = tokio::select! {
                () = end.cancelled() => true,
                changed = self.wanted.changed() => changed.is_err(),
            };
            // What was asked for before the snapshot is in it.
            let number = *self.wanted.borrow_and_update();
            match snapshot() {
                Ok(bytes) => self.write(bytes).await,
                Err(error) => tracing::error!(%error, "the state cannot be written"),
            }
            // Those who wait are let go even after a failure: a sandbox that stands still helps nobody, and the
            // failure is in the log.
            self.done.send_replace(number);
            if last {
                return;
            }
        }
    }

    async fn write(&self, bytes: Vec<u8>) {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || write(&path, &bytes)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the state was not saved"),
            Err(error) => tracing::error!(%error, "the state was not saved"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::samples::webhook;
    use super::*;

    #[test]
    fn what_is_written_is_read_and_only_the_owner_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read(&path).unwrap().webhooks.all().len(), 0);
        let mut store = Store::default();
        store.webhooks.add(webhook("w"));
        write(&path, &bytes(&store).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap().webhooks.all(), [webhook("w")]);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_of_another_kind_is_not_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for content in ["", "{}", r#"{"version": 2, "store": {}}"#] {
            std::fs::write(&path, content).unwrap();
            assert!(read(&path).is_err(), "{content}");
        }
    }
}
