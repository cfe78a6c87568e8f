//! TLS by the receiver itself, from two files that may change under it.
//!
//! A mounted Secret is changed by renaming a symbolic link one directory up, so no event ever says that the files
//! themselves have changed: they are read again every ten seconds and compared by content. A pair that cannot be used
//! leaves the one before in place, for an expired certificate is worth more than none. So does a pair outside its validity
//! while the one before is within it. An expired certificate is served, and the log and a metric say that it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::metrics::{Metrics, Outcome};
use crate::checkup::certificate::{self, Standing, Validity};
use crate::reach;

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
    /// The certificate in force is valid, and this one is not.
    #[error("{standing} in {}", cert.display())]
    OutsideValidity {
        /// The file of the certificate.
        cert: PathBuf,
        /// What is wrong.
        standing: Standing,
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

/// What is made of a pair.
struct Loaded {
    config: Arc<ServerConfig>,
    validity: Vec<Option<Validity>>,
}

/// The files and what became of them when they were last read.
pub struct Watched {
    files: Files,
    sender: watch::Sender<Arc<ServerConfig>>,
    /// Of the pair that was looked at last, good or bad; none when it could not even be read.
    seen: Option<[u8; 32]>,
    /// What was said about it, so that it is said once.
    trouble: Option<String>,
    /// The validity of each certificate in force, the host's own first.
    validity: Vec<Option<Validity>>,
    /// What the log says of it.
    standing: Standing,
}

impl Files {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// [`TlsError`] where there is no certificate to begin with.
    pub fn load(self) -> Result<(Tls, Watched), TlsError> {
        let pair = self.read()?;
        let loaded = self.loaded(&pair)?;
        let (sender, receiver) = watch::channel(loaded.config);
        let watched = Watched {
            seen: Some(pair.digest()),
            files: self,
            sender,
            trouble: None,
            validity: loaded.validity,
            standing: Standing::Valid,
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

    fn loaded(&self, pair: &Pair) -> Result<Loaded, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pair.cert)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::NoCertificate(self.cert.clone()))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(self.cert.clone()));
        }
        // What stands in the file is not repeated in the error.
        let key = PrivateKeyDer::from_pem_slice(&pair.key)
            .map_err(|_| TlsError::NoKey(self.key.clone()))?;
        let validity = chain.iter().map(reach::validity).collect();
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
        Ok(Loaded {
            config: Arc::new(config),
            validity,
        })
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
            let now = Timestamp::now();
            self.judge(now);
            let not_after = certificate::not_after(&self.validity).map_or(0, Timestamp::as_second);
            metrics.certificate_not_after.set(not_after);
            tokio::time::sleep(every).await;
            // Two small files, most likely in memory.
            let outcome = match self.look(Timestamp::now()) {
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
    fn look(&mut self, now: Timestamp) -> Result<bool, ()> {
        let error = match self.files.read() {
            Ok(pair) => {
                let digest = pair.digest();
                if self.seen == Some(digest) {
                    return Ok(false);
                }
                match self.files.loaded(&pair) {
                    Ok(new) if self.is_better_than(&new, now) => {
                        // Looked at again and again: time decides which of both is valid.
                        self.seen = None;
                        TlsError::OutsideValidity {
                            cert: self.files.cert.clone(),
                            standing: certificate::standing(&new.validity, now),
                        }
                    }
                    Ok(new) => {
                        self.sender.send_replace(new.config);
                        self.validity = new.validity;
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

    /// Whether the certificate in force is valid, and a new one is not.
    fn is_better_than(&self, new: &Loaded, now: Timestamp) -> bool {
        certificate::standing(&self.validity, now) == Standing::Valid
            && certificate::standing(&new.validity, now) != Standing::Valid
    }

    /// Logs what the certificate in force is, once for each change.
    fn judge(&mut self, now: Timestamp) {
        let standing = certificate::standing(&self.validity, now);
        if standing == self.standing {
            return;
        }
        let cert = self.files.cert.display();
        if standing == Standing::Valid {
            tracing::info!(%cert, "{standing}");
        } else {
            tracing::error!(%cert, "{standing}; CHeKT delivers nothing while it is served");
        }
        self.standing = standing;
    }

    fn still(&self, digest: [u8; 32]) -> bool {
        self.files.read().is_ok_and(|pair| pair.digest() == digest)
    }
}
