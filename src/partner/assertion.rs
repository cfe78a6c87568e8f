//! Assertions: how a client proves who it is with a private key (RFC 7523, section 2.2).
//!
//! A JSON Web Token that says *I am this client*, signed with RS256 or ES256, whichever fits the key. CHeKT holds only
//! the public half. Signing is aws-lc-rs, which is in the binary for TLS anyway; the format around it is three parts
//! with dots in between, which is less than a library for all of JOSE would bring along.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKey;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256};
use data_encoding::BASE64URL_NOPAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

/// What the form field `client_assertion_type` holds.
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How long an assertion is good, in seconds: CHeKT's own sample says five minutes.
const LIFE: u64 = 5 * 60;
/// How many seconds an assertion is dated back. A server whose clock is behind refuses one from its future.
const DATED_BACK: u64 = 60;

/// Why a text is not a key that can sign.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// No private key in PEM.
    #[error(
        "it holds no private key in PEM: write the whole file, from -----BEGIN PRIVATE KEY----- to -----END PRIVATE KEY-----, and not encrypted"
    )]
    NotPem,
    /// A key of another kind, or one too small.
    #[error(
        "it holds a private key that cannot be used: write an RSA key of 2048 to 8192 bits or an EC key on the curve P-256"
    )]
    Kind,
}

/// A key that signs assertions. It is never printed.
pub enum SigningKey {
    /// Signs with RS256.
    Rsa(RsaKey),
    /// Signs with ES256.
    Ec(EcdsaKeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm())
    }
}

impl SigningKey {
    /// Reads a private key in PEM: PKCS#8, PKCS#1 for RSA, SEC 1 for EC.
    ///
    /// # Errors
    /// [`KeyError`], with what to write instead.
    pub fn read(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPem)?;
        let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = match &der {
            PrivateKeyDer::Pkcs1(key) => RsaKey::from_der(key.secret_pkcs1_der())
                .ok()
                .map(SigningKey::Rsa),
            PrivateKeyDer::Sec1(key) => {
                EcdsaKeyPair::from_private_key_der(curve, key.secret_sec1_der())
                    .ok()
                    .map(SigningKey::Ec)
            }
            PrivateKeyDer::Pkcs8(key) => {
                let key = key.secret_pkcs8_der();
                let rsa = RsaKey::from_pkcs8(key).map(SigningKey::Rsa);
                rsa.or_else(|_| EcdsaKeyPair::from_pkcs8(curve, key).map(SigningKey::Ec))
                    .ok()
            }
            // The type may grow; a kind of key that is new to it is new to us.
            _ => None,
        };
        key.ok_or(KeyError::Kind)
    }

    fn algorithm(&self) -> &'static str {
        match self {
            SigningKey::Rsa(_) => "RS256",
            SigningKey::Ec(_) => "ES256",
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .ok()?;
                Some(signature)
            }
            SigningKey::Ec(key) => Some(key.sign(&random, message).ok()?.as_ref().to_vec()),
        }
    }

    /// Returns an assertion that is good from a minute before `now` to four minutes after it, in seconds since 1970. `None`:
    /// the key refuses to sign.
    #[must_use]
    pub fn assertion(&self, client: &Client, now: u64, id: Uuid) -> Option<String> {
        let mut header = json!({"alg": self.algorithm(), "typ": "JWT"});
        if let Some(key_id) = &client.key_id {
            header["kid"] = json!(key_id);
        }
        let from = now.saturating_sub(DATED_BACK);
        let claims = json!({
            "iss": client.id,
            "sub": client.id,
            "aud": client.server,
            "iat": from,
            "nbf": from,
            "exp": from + LIFE,
            "jti": id.to_string(),
        });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = BASE64URL_NOPAD.encode(&self.sign(message.as_bytes())?);
        Some(format!("{message}.{signature}"))
    }
}

/// Who an assertion speaks of, and to whom.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// Which of the client's public keys verifies, where it has several.
    pub key_id: Option<String>,
    /// The authorization server, as [`server`] names it.
    pub server: String,
}

/// The name of the authorization server behind a token endpoint: its origin with a slash, as in CHeKT's own sample.
#[must_use]
pub fn server(token_url: &Url) -> String {
    format!("{}/", token_url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, KeyPair, ParsedPublicKey,
        RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
    };

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = data_encoding::BASE64.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    fn client(key_id: Option<&str>) -> Client {
        Client {
            id: "me".to_owned(),
            key_id: key_id.map(ToOwned::to_owned),
            server: server(&Url::parse("https://auth.example:8443/oauth/token").unwrap()),
        }
    }

    fn parts(assertion: &str) -> (Value, Value, String, Vec<u8>) {
        let all: Vec<&str> = assertion.split('.').collect();
        let [header, claims, signature] = all[..] else {
            panic!("three parts were expected")
        };
        let json = |part: &str| {
            serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
        };
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        (
            json(header),
            json(claims),
            format!("{header}.{claims}"),
            signature,
        )
    }

    fn verifies(
        algorithm: &'static (impl VerificationAlgorithm + 'static),
        public: &[u8],
        assertion: &str,
    ) {
        let (.., message, signature) = parts(assertion);
        let key = ParsedPublicKey::new(algorithm, public).unwrap();
        assert!(key.verify_sig(message.as_bytes(), &signature).is_ok());
        assert!(key.verify_sig(b"another", &signature).is_err());
    }

    #[test]
    fn an_rsa_key_signs_with_rs256_and_the_claims_are_those_of_the_sample() {
        let pair = RsaKey::generate(KeySize::Rsa2048).unwrap();
        let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let key = SigningKey::read(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap();
        let id = Uuid::nil();
        let assertion = key.assertion(&client(Some("k1")), 1_000, id).unwrap();
        let (header, claims, ..) = parts(&assertion);
        assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        assert_eq!(
            claims,
            json!({
                "iss": "me", "sub": "me", "aud": "https://auth.example:8443/",
                "iat": 940, "nbf": 940, "exp": 1_240, "jti": id.to_string(),
            })
        );
        verifies(
            &RSA_PKCS1_2048_8192_SHA256,
            pair.public_key().as_ref(),
            &assertion,
        );
    }

    #[test]
    fn the_older_forms_of_a_private_key_are_read_too() {
        let pair = RsaKey::generate(KeySize::Rsa2048).unwrap();
        let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // PKCS#8 is a head of 26 bytes before the form that PKCS#1 is.
        let inner = &private.as_ref()[26..];
        let key = SigningKey::read(pem("RSA PRIVATE KEY", inner).as_bytes());
        assert!(matches!(key, Ok(SigningKey::Rsa(_))), "{key:?}");
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let private: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_> =
            pair.private_key().as_der().unwrap();
        let key = SigningKey::read(pem("EC PRIVATE KEY", private.as_ref()).as_bytes());
        assert!(matches!(key, Ok(SigningKey::Ec(_))), "{key:?}");
    }

    #[test]
    fn an_ec_key_signs_with_es256_and_its_signature_is_not_der() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let private = pair.to_pkcs8v1().unwrap();
        let key = SigningKey::read(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap();
        let assertion = key.assertion(&client(None), 1_000, Uuid::nil()).unwrap();
        let (header, _, _, signature) = parts(&assertion);
        assert_eq!(header, json!({"alg": "ES256", "typ": "JWT"}));
        assert_eq!(signature.len(), 64);
        verifies(
            &ECDSA_P256_SHA256_FIXED,
            pair.public_key().as_ref(),
            &assertion,
        );
    }

    #[test]
    fn what_is_no_key_or_another_kind_is_told_apart() {
        let read = |text: &str| SigningKey::read(text.as_bytes()).unwrap_err();
        for bad in ["", "hush", "-----BEGIN PRIVATE KEY-----\nAAAA"] {
            assert_eq!(read(bad), KeyError::NotPem, "{bad:?}");
        }
        let encrypted = pem("ENCRYPTED PRIVATE KEY", b"x");
        let public = pem("PUBLIC KEY", b"x");
        for bad in [&encrypted, &public] {
            assert_eq!(read(bad), KeyError::NotPem, "{bad}");
        }
        assert_eq!(read(&pem("PRIVATE KEY", b"x")), KeyError::Kind);
        assert_eq!(read(&pem("RSA PRIVATE KEY", b"x")), KeyError::Kind);
        let other = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let other = other.to_pkcs8v1().unwrap();
        assert_eq!(read(&pem("PRIVATE KEY", other.as_ref())), KeyError::Kind);
    }

    #[test]
    fn a_key_is_never_printed() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        assert_eq!(format!("{:?}", SigningKey::Ec(pair)), "SigningKey(ES256)");
    }
}
