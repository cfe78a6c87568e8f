//! A directory with what identifies a process to the API server: `token`, `ca.crt` and `namespace`, as Kubernetes mounts
//! them into Pods. The controller writes one for the receiver, which waits for it.
//!
//! Each file is renamed into its place, so that nobody reads half of one; the token comes last, so that whoever finds it
//! finds the others.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

/// The bearer token.
const TOKEN: &str = "token";
/// The certificates that the API server's is to be trusted by.
const CA: &str = "ca.crt";
/// The namespace of the service account.
const NAMESPACE: &str = "namespace";

/// Readable by owner and group, who are the two containers of a Pod, and writable by nobody: files are replaced.
const MODE: u32 = 0o440;

/// A directory with credentials in it, or without them yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory(PathBuf);

/// Why the credentials in a directory cannot be used. None of it lasts for certain: they may be written at any moment.
#[derive(Debug, thiserror::Error)]
pub enum Lack {
    /// They were not written yet.
    #[error("waiting for {}", .0.display())]
    NotYet(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no certificate: it must be PEM that begins with -----BEGIN CERTIFICATE-----", .0.display())]
    NoCertificate(PathBuf),
}

impl Directory {
    /// A directory that may not exist.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Directory(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file with the token.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.0.join(TOKEN)
    }

    /// The file with the certificates.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.0.join(CA)
    }

    /// Looks whether the credentials are there, and gives back the token.
    ///
    /// # Errors
    /// [`Lack`], as long as they are not.
    pub fn look(&self) -> Result<SecretSlice<u8>, Lack> {
        let path = self.token();
        let token = SecretSlice::from(read(&path)?);
        if token.expose_secret().is_empty() {
            return Err(Lack::NotYet(path));
        }
        let ca = self.ca();
        let text = read(&ca)?;
        let mut certificates = CertificateDer::pem_slice_iter(&text).map(|c| c.is_ok());
        match certificates.next() {
            Some(true) if certificates.all(|good| good) => Ok(token),
            None | Some(_) => Err(Lack::NoCertificate(ca)),
        }
    }

    /// Writes them, each file at once.
    ///
    /// # Errors
    /// What the system says, with the name of the file.
    pub fn write(&self, token: &SecretString, ca: &[u8], namespace: &str) -> io::Result<()> {
        for (name, content) in [
            (CA, ca),
            (NAMESPACE, namespace.as_bytes()),
            (TOKEN, token.expose_secret().as_bytes()),
        ] {
            let path = self.0.join(name);
            replace(&path, content)
                .map_err(|why| io::Error::new(why.kind(), format!("{}: {why}", path.display())))?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Lack> {
    std::fs::read(path).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => Lack::NotYet(path.to_owned()),
        _ => Lack::Read {
            path: path.to_owned(),
            why,
        },
    })
}

/// Puts a new file in the place of the one that is there.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    // One that a process left behind that was killed.
    match std::fs::remove_file(&new) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::create_new(&new)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(content)?;
    drop(file);
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> String {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        made.unwrap().cert.pem()
    }

    #[test]
    fn credentials_are_there_once_they_are_complete_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().join("not-there"));
        assert!(
            directory
                .look()
                .unwrap_err()
                .to_string()
                .contains("waiting for")
        );
        std::fs::create_dir(directory.path()).unwrap();
        std::fs::write(directory.token(), "").unwrap();
        assert!(matches!(directory.look(), Err(Lack::NotYet(path)) if path == directory.token()));
        std::fs::write(directory.token(), "t").unwrap();
        assert!(matches!(directory.look(), Err(Lack::NotYet(path)) if path == directory.ca()));
        for nonsense in ["", "-----BEGIN CERTIFICATE-----\nhalf"] {
            std::fs::write(directory.ca(), nonsense).unwrap();
            assert!(
                matches!(directory.look(), Err(Lack::NoCertificate(_))),
                "{nonsense:?}"
            );
        }
        std::fs::write(directory.ca(), certificate() + &certificate()).unwrap();
        directory.look().unwrap();
        std::fs::remove_file(directory.token()).unwrap();
        std::fs::create_dir(directory.token()).unwrap();
        assert!(matches!(directory.look(), Err(Lack::Read { .. })));
    }

    #[test]
    fn what_is_written_is_found_and_readable_by_the_group_alone() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().to_owned());
        // Left behind by a process that was killed.
        std::fs::write(dir.path().join("token.new"), "half").unwrap();
        for token in ["one", "two"] {
            let ca = certificate();
            directory
                .write(&token.into(), ca.as_bytes(), "ops")
                .unwrap();
            directory.look().unwrap();
            assert_eq!(std::fs::read_to_string(directory.token()).unwrap(), token);
            assert_eq!(std::fs::read_to_string(directory.ca()).unwrap(), ca);
            let mode = std::fs::metadata(directory.token()).unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, MODE);
        }
        let names = std::fs::read_dir(dir.path()).unwrap();
        assert_eq!(names.count(), 3, "nothing is left behind");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let directory = Directory::new("/proc/no/such".into());
        let why = directory.write(&"t".into(), b"", "ops").unwrap_err();
        assert!(
            why.to_string().starts_with("/proc/no/such/ca.crt: "),
            "{why}"
        );
    }
}
