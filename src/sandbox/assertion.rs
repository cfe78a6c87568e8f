//! Assertions, as an authorization server checks them (RFC 7523, section 3): who signed, for whom, and until when.
//!
//! Written apart from the code that signs them, so that neither can hide a mistake of the other.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use data_encoding::BASE64URL_NOPAD;
use k8s_openapi::jiff::Timestamp;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use url::Url;

/// What `client_assertion_type` must be.
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The longest life that an assertion may have, in seconds.
const LONGEST: i64 = 10 * 60;
/// How far two clocks may be apart, in seconds.
const SKEW: i64 = 60;

/// A key that verifies assertions.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: &'static str,
    key: ParsedPublicKey,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.algorithm)
    }
}

/// An assertion that was good.
#[derive(Debug)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// When it ends.
    pub end: Timestamp,
}

/// A text that is no public key.
#[derive(Debug, thiserror::Error)]
#[error(
    "this is not a public key that can be used: write one in PEM (-----BEGIN PUBLIC KEY-----), RSA of at least 2048 bits or EC on P-256"
)]
pub struct NoPublicKey;

impl PublicKey {
    /// Reads a public key in PEM.
    ///
    /// # Errors
    /// [`NoPublicKey`].
    pub fn read(pem: &str) -> Result<Self, NoPublicKey> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| NoPublicKey)?;
        let rsa = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &*der);
        let rsa = rsa.map(|key| ("RS256", key));
        let ec = |_| ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &*der).map(|k| ("ES256", k));
        let (algorithm, key) = rsa.or_else(ec).map_err(|_| NoPublicKey)?;
        Ok(PublicKey { algorithm, key })
    }

    /// Checks an assertion of the client `id`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, assertion: &str, id: &str, now: Timestamp) -> Result<Seen, &'static str> {
        let parts: Vec<&str> = assertion.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err("client_assertion is not a JSON Web Token");
        };
        let bytes = |part: &str| {
            BASE64URL_NOPAD
                .decode(part.as_bytes())
                .map_err(|_| "a part of client_assertion is not base64url")
        };
        let json = |part: &str| -> Result<Value, &'static str> {
            serde_json::from_slice(&bytes(part)?)
                .map_err(|_| "a part of client_assertion is not JSON")
        };
        if json(header)?["alg"] != self.algorithm {
            return Err("alg is not that of the client's key");
        }
        let message = &assertion[..header.len() + 1 + claims.len()];
        self.key
            .verify_sig(message.as_bytes(), &bytes(signature)?)
            .map_err(|_| "the signature is not by the client's key")?;
        let claims = json(claims)?;
        if claims["iss"] != id || claims["sub"] != id {
            return Err("iss and sub are not the client id");
        }
        let server = claims["aud"].as_str().and_then(|aud| Url::parse(aud).ok());
        if !server.is_some_and(|url| matches!(url.path(), "/" | "/oauth/token")) {
            return Err("aud is not this server");
        }
        let (Some(iat), Some(exp)) = (claims["iat"].as_i64(), claims["exp"].as_i64()) else {
            return Err("iat or exp is missing");
        };
        let now = now.as_second();
        if exp <= now - SKEW || iat > now + SKEW {
            return Err("the assertion has expired or is not good yet");
        }
        if exp - iat > LONGEST {
            return Err("the assertion is good for too long");
        }
        let id = claims["jti"].as_str().filter(|jti| !jti.is_empty());
        let id = id.ok_or("jti is missing")?.to_owned();
        let end = Timestamp::from_second(exp).map_err(|_| "exp is no time")?;
        Ok(Seen { id, end })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    fn pair() -> (EcdsaKeyPair, PublicKey) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let text = data_encoding::BASE64.encode(der.as_ref());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
        let public = PublicKey::read(&pem).unwrap();
        (pair, public)
    }

    fn signed(pair: &EcdsaKeyPair, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }

    #[test]
    fn an_assertion_is_good_only_if_all_of_it_is() {
        let (pair, public) = pair();
        let header = json!({"alg": "ES256"});
        let good = json!({
            "iss": "me", "sub": "me", "aud": "http://127.0.0.1:1/", "iat": 1_000, "exp": 1_300, "jti": "x",
        });
        let now = Timestamp::from_second(1_010).unwrap();
        let check = |text: &str| public.check(text, "me", now).map(|seen| seen.id);
        assert_eq!(check(&signed(&pair, &header, &good)), Ok("x".to_owned()));
        for (name, value) in [
            ("iss", json!("you")),
            ("sub", json!("you")),
            ("aud", json!("http://127.0.0.1:1/elsewhere")),
            ("aud", json!(null)),
            ("exp", json!(900)),
            ("exp", json!(10_000)),
            ("iat", json!(2_000)),
            ("iat", json!(null)),
            ("jti", json!("")),
        ] {
            let mut claims = good.clone();
            claims[name] = value;
            assert!(check(&signed(&pair, &header, &claims)).is_err(), "{claims}");
        }
        for alg in ["none", "RS256", "HS256"] {
            assert!(check(&signed(&pair, &json!({"alg": alg}), &good)).is_err());
        }
        let (other, _) = self::pair();
        assert!(check(&signed(&other, &header, &good)).is_err());
        for bad in ["", "a.b", "a.b.c", "a.b.c.d"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for bad in [
            "",
            "hush",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ] {
            assert!(PublicKey::read(bad).is_err(), "{bad}");
        }
    }
}
