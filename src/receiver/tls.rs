//! TLS by the receiver itself, from two files that may change under it.
//!
//! A mounted Secret is changed by renaming a symbolic link one directory up, so no event ever says that the files
//! themselves have changed: they are read again every ten seconds and compared by content. A pair that cannot be used
//! leaves the one before in place, for an expired certificate is worth more than none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::metrics::{Metrics, Outcome};

/// How often the files are read again.
pub const EVERY: Duration = Duration::from_secs(10);

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate and those that lead to its root, in PEM.
    pub cert: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// The file holds no certificate.
    #[error("{} holds no certificate: it must be PEM that begins with -----BEGIN CERTIFICATE-----", .0.display())]
    NoCertificate(PathBuf),
    /// The file holds no key.
    #[error("{} holds no private key: it must be PEM that begins with -----BEGIN PRIVATE KEY----- (or RSA or EC PRIVATE KEY) and is not encrypted", .0.display())]
    NoKey(PathBuf),
    /// They do not fit each other, or are of a kind that is not supported.
    #[error("certificate {} and key {} cannot be used together: {why}", cert.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls says.
        why: rustls::Error,
    },
}

/// The certificate that is in force. Clones see the same one.
#[derive(Clone, Debug)]
pub struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl Tls {
    /// What the next connection is shaken hands with.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.borrow()))
    }
}

/// What both files held.
struct Pair {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

/// The files and what became of them when they were last read.
pub struct Watched {
    files: Files,
    sender: watch::Sender<Arc<ServerConfig>>,
    /// Of the pair that was looked at last, good or bad; none when it could not even be read.
    seen: Option<[u8; 32]>,
    /// What was said about it, so that it is said once.
    trouble: Option<String>,
}

impl Files {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// [`TlsError`] where there is no certificate to begin with.
    pub fn load(self) -> Result<(Tls, Watched), TlsError> {
        let pair = self.read()?;
        let (sender, receiver) = watch::channel(Arc::new(self.config(&pair)?));
        let watched = Watched {
            seen: Some(pair.digest()),
            files: self,
            sender,
            trouble: None,
        };
        Ok((Tls(receiver), watched))
    }

    fn read(&self) -> Result<Pair, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|why| TlsError::Read {
                path: path.to_owned(),
                why,
            })
        };
        Ok(Pair {
            cert: read(&self.cert)?,
            key: Zeroizing::new(read(&self.key)?),
        })
    }

    fn config(&self, pair: &Pair) -> Result<ServerConfig, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pair.cert)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::NoCertificate(self.cert.clone()))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(self.cert.clone()));
        }
        // What stands in the file is not repeated in the error.
        let key = PrivateKeyDer::from_pem_slice(&pair.key)
            .map_err(|_| TlsError::NoKey(self.key.clone()))?;
        let unusable = |why| TlsError::Unusable {
            cert: self.cert.clone(),
            key: self.key.clone(),
            why,
        };
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(unusable)?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl Pair {
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.cert.len().to_le_bytes());
        digest.update(&self.cert);
        digest.update(&*self.key);
        digest.finalize().into()
    }
}

impl Watched {
    /// Reads the files again for ever.
    pub async fn follow(mut self, every: Duration, metrics: Metrics) {
        loop {
            tokio::time::sleep(every).await;
            // Two small files, most likely in memory.
            let outcome = match self.look() {
                Ok(false) => continue,
                Ok(true) => "loaded",
                Err(()) => "kept",
            };
            metrics
                .certificates
                .get_or_create(&Outcome { outcome })
                .inc();
        }
    }

    /// Whether a new pair is in force; an error when there is one that cannot be, told once.
    fn look(&mut self) -> Result<bool, ()> {
        let error = match self.files.read() {
            Ok(pair) => {
                let digest = pair.digest();
                if self.seen == Some(digest) {
                    return Ok(false);
                }
                match self.files.config(&pair) {
                    Ok(config) => {
                        self.sender.send_replace(Arc::new(config));
                        self.seen = Some(digest);
                        self.trouble = None;
                        tracing::info!(cert = %self.files.cert.display(), "the certificate has changed");
                        return Ok(true);
                    }
                    // A change that happened between reading the one and the other: the next look sees both.
                    Err(_) if !self.still(digest) => return Ok(false),
                    Err(error) => {
                        self.seen = Some(digest);
                        error
                    }
                }
            }
            Err(error) => {
                self.seen = None;
                error
            }
        };
        let said = error.to_string();
        if self.trouble.as_ref() == Some(&said) && self.seen.is_none() {
            return Ok(false);
        }
        tracing::error!(%error, "the certificate cannot be changed; going on with the one before");
        self.trouble = Some(said);
        Err(())
    }

    fn still(&self, digest: [u8; 32]) -> bool {
        self.files.read().is_ok_and(|pair| pair.digest() == digest)
    }
}
