//! The wire profile: how a sender marks a delivery as its own.
//!
//! CHeKT has three generations of webhooks whose headers differ (partner-api.md, 0.1). What differs is kept in
//! this one value, so that another generation is another constant.

/// Where the signature is found and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Header with the signature, in lower case.
    pub signature_header: &'static str,
    /// What stands before the hex digits. It may be left out by the sender.
    pub prefix: &'static str,
}

/// Generation A, partner self-service: `X-Webhook-Signature: sha256=<hex of HMAC-SHA256(secret, raw body)>`
/// (webhook-setup-guide, "Signature Verification").
pub const PARTNER: Profile = Profile {
    signature_header: "x-webhook-signature",
    prefix: "sha256=",
};
