//! Signs the bytes of a delivery.
//!
//! The receiver has a verifier of its own, and this is deliberately not built on it: two readings of the guide
//! that were written apart check each other, one that is shared would agree with itself however wrong it is.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The header that carries the signature.
pub const HEADER: &str = "x-webhook-signature";

/// The value of the header: `sha256=` and the lower-case hex of HMAC-SHA256 over `body` (guide, "Signature
/// Verification").
///
/// # Errors
/// Never in practice: HMAC takes a key of any length. The type says it could, and a delivery that cannot be
/// signed must not be sent.
pub fn sign(secret: &str, body: &[u8]) -> Result<String, hmac::digest::InvalidLength> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    mac.update(body);
    Ok(format!(
        "sha256={}",
        HEXLOWER.encode(&mac.finalize().into_bytes())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_made_with_openssl_is_met() {
        let body = br#"{"event":"webhook.test","webhook_id":"webhook_abc123","timestamp":"2024-01-15T14:20:00Z","data":{"message":"hi"}}"#;
        assert_eq!(body.len(), 113);
        assert_eq!(
            sign("test-secret-1", body).unwrap(),
            "sha256=95899d5b9a9316906d9b4e90cbc59ac195c7dea4c776869169e59938de41dc40"
        );
    }

    #[test]
    fn a_secret_longer_than_a_block_signs() {
        let key: String = "\u{7f}".repeat(131);
        assert_eq!(sign(&key, b"x").unwrap().len(), "sha256=".len() + 64);
    }
}
