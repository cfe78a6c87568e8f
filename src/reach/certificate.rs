//! The certificate: what is shown in a handshake, judged by the roots of this machine.
//!
//! The handshake accepts whatever is shown, so that it can be told what is wrong with it; nothing is sent through it. The
//! verifier is asked for several moments: now; in two weeks, for what ends soon; and, of each certificate alone, the
//! beginning and the end of time. There it refuses the certificate first and says when that begins or ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Place, cleaned};
use crate::checkup::certificate::Validity;
use crate::checkup::path::{Certificate, Handshake, Trust};

/// How far ahead it is looked whether something in the chain ends.
const AHEAD: Duration = Duration::from_secs(14 * 24 * 3600);
/// Ten thousand years: no certificate lasts so long.
const END_OF_TIME: Duration = Duration::from_secs(315_360_000_000);

/// Shakes hands with an address as a client of this host, and looks at the certificate.
pub async fn handshake(place: &Place, address: SocketAddr, limit: Duration) -> Handshake {
    match tokio::time::timeout(limit, shown(place, address)).await {
        Ok(Ok(chain)) => judged(place, &chain),
        Ok(Err(why)) => Handshake::Failed(cleaned(&why)),
        Err(_) => Handshake::TimedOut,
    }
}

/// The certificates that are shown, the host's own first.
async fn shown(place: &Place, address: SocketAddr) -> Result<Vec<CertificateDer<'static>>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let seen = Arc::new(Any {
        algorithms: provider.signature_verification_algorithms,
        chain: Mutex::default(),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = server_name(place)?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let connected = connector.connect(name, stream).await;
    drop(connected.map_err(|e| e.to_string())?);
    let chain = seen.chain.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(chain.clone())
}

fn server_name(place: &Place) -> Result<ServerName<'static>, String> {
    ServerName::try_from(place.host.clone()).map_err(|e| e.to_string())
}

fn judged(place: &Place, chain: &[CertificateDer<'static>]) -> Handshake {
    let Some((own, between)) = chain.split_first() else {
        return Handshake::Failed("no certificate was shown".to_owned());
    };
    let (own, name) = match (ParsedCertificate::try_from(own), server_name(place)) {
        (Ok(own), Ok(name)) => (own, name),
        (Err(error), _) => return Handshake::Failed(cleaned(&error.to_string())),
        (_, Err(error)) => return Handshake::Failed(cleaned(&error)),
    };
    let mut roots = RootCertStore::empty();
    // What of this machine's roots cannot be read is missing: the certificate is then said to be of an unknown issuer.
    let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let at = |moment: Duration| {
        verify_server_cert_signed_by_trust_anchor(
            &own,
            &roots,
            between,
            UnixTime::since_unix_epoch(moment),
            algorithms.all,
        )
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let trust = trust(at(now));
    let validity: Vec<Option<Validity>> = chain.iter().map(validity).collect();
    let own_ends_later = validity[0].is_some_and(|own| {
        let ahead = i64::try_from((now + AHEAD).as_secs()).unwrap_or(i64::MAX);
        own.not_after.as_second() > ahead
    });
    let wrong_name = match verify_server_name(&own, &name) {
        Ok(()) => None,
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => Some(presented.iter().map(|name| cleaned(&plain(name))).collect()),
        Err(_) => Some(Vec::new()),
    };
    Handshake::Done(Certificate {
        chain_ends_soon: trust == Trust::Trusted && own_ends_later && is_expired(&at(now + AHEAD)),
        trust,
        wrong_name,
        validity,
    })
}

/// From when to when a certificate is valid; `None`: the verifier cannot read it, such as one of X.509 version 1.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let at = |moment: Duration| {
        let roots = RootCertStore::empty();
        let moment = UnixTime::since_unix_epoch(moment);
        match verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            &[],
            moment,
            algorithms.all,
        ) {
            Err(Error::InvalidCertificate(error)) => Some(error),
            Ok(()) | Err(_) => None,
        }
    };
    let time = |time: UnixTime| Timestamp::from_second(i64::try_from(time.as_secs()).ok()?).ok();
    let not_after = match at(END_OF_TIME)? {
        CertificateError::ExpiredContext { not_after, .. } => time(not_after)?,
        _ => return None,
    };
    let not_before = match at(Duration::ZERO)? {
        CertificateError::NotValidYetContext { not_before, .. } => time(not_before)?,
        // It began before 1970.
        _ => Timestamp::UNIX_EPOCH,
    };
    Some(Validity {
        not_before,
        not_after,
    })
}

/// A name that a certificate presents, without the word for its kind that rustls puts around it.
fn plain(presented: &str) -> String {
    let inner = presented
        .strip_prefix("DnsName(\"")
        .and_then(|rest| rest.strip_suffix("\")"));
    inner.unwrap_or(presented).to_owned()
}

fn trust(verified: Result<(), Error>) -> Trust {
    match verified {
        Ok(()) => Trust::Trusted,
        // A root of the same name with another key: a private CA that was made anew.
        Err(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => Trust::UnknownIssuer,
        Err(Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Trust::NotYetValid,
        other if is_expired(&other) => Trust::Expired,
        Err(error) => Trust::Other(cleaned(&error.to_string())),
    }
}

fn is_expired(verified: &Result<(), Error>) -> bool {
    matches!(
        verified,
        Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. }
        ))
    )
}

/// Accepts every certificate and remembers it. That the other side has the key to it is verified as always.
#[derive(Debug)]
struct Any {
    algorithms: WebPkiSupportedAlgorithms,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut all = vec![end_entity.clone().into_owned()];
        all.extend(intermediates.iter().map(|c| c.clone().into_owned()));
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
