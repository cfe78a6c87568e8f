//! The body of a delivery, and the attempt that carries it: url, bytes and signature belong together from here on.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{self, Urls};
use super::quirks::{BodyStyle, SignatureStyle};
use super::signature;
use super::store::Webhook;

/// What is sent to a receiver (guide, "Webhook Payload"), in this order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    pub event: String,
    pub webhook_id: Value,
    pub timestamp: String,
    pub data: Value,
}

/// One attempt, ready to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Shot {
    pub url: String,
    pub body: String,
    /// The values of the signature header, one header each.
    pub signatures: Vec<String>,
}

/// Signs `body` with the secret that the webhook has at this moment.
///
/// # Errors
/// Why it cannot be sent.
pub fn shot(
    webhook: &Webhook,
    body: &str,
    style: SignatureStyle,
    urls: Urls,
) -> Result<Shot, String> {
    fields::target(&webhook.url, urls)?;
    let sign =
        |secret: &str| signature::sign(secret, body.as_bytes()).map_err(|error| error.to_string());
    let right = sign(&webhook.secret.0)?;
    let signatures = match style {
        SignatureStyle::LowerHex => vec![right],
        SignatureStyle::UpperHex => vec![right.to_uppercase().replace("SHA256=", "sha256=")],
        SignatureStyle::BareHex => vec![right.replace("sha256=", "")],
        SignatureStyle::Doubled => vec![sign("another secret")?, right],
        SignatureStyle::Absent => Vec::new(),
    };
    Ok(Shot {
        url: webhook.url.clone(),
        body: body.to_owned(),
        signatures,
    })
}

/// The JSON of an envelope.
pub fn spelled(envelope: &Envelope, style: BodyStyle) -> String {
    let spelled = match style {
        BodyStyle::Compact => serde_json::to_string(envelope),
        BodyStyle::Pretty => serde_json::to_string_pretty(envelope),
    };
    // Strings and JSON values can always be written.
    spelled.unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::store::samples::webhook;
    use super::*;

    #[test]
    fn a_signature_is_written_as_the_style_says() {
        let right = signature::sign("hush", b"{}").unwrap();
        let hex = right.strip_prefix("sha256=").unwrap();
        let written = |style| {
            shot(&webhook("w"), "{}", style, Urls::Secure)
                .unwrap()
                .signatures
        };
        assert_eq!(written(SignatureStyle::LowerHex), [right.as_str()]);
        assert_eq!(written(SignatureStyle::BareHex), [hex]);
        let upper = format!("sha256={}", hex.to_uppercase());
        assert_eq!(written(SignatureStyle::UpperHex), [upper]);
        let doubled = written(SignatureStyle::Doubled);
        assert_eq!((doubled.len(), &doubled[1]), (2, &right));
        assert_ne!(doubled[0], right);
        assert!(written(SignatureStyle::Absent).is_empty());
    }

    #[test]
    fn nothing_is_sent_to_a_place_that_is_not_allowed() {
        let mut webhook = webhook("w");
        webhook.url = "http://hooks.example/".to_owned();
        assert!(shot(&webhook, "{}", SignatureStyle::LowerHex, Urls::Secure).is_err());
    }
}
