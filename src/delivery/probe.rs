//! The probe of `verify`: a request that the receiver refuses like every unsigned one, and notes in the status of the webhook
//! that the probe names.
//!
//! The probe has an id and carries it in a header of its own. It is signed with that id, which anybody can read: no webhook
//! has such a key, and the receiver still sees whether the signature header and the body arrive as they were sent.

use super::profile::Profile;
use super::signature::{Signatures, sign};

/// The header with the id and the webhook: `<32 hexadecimal digits>/<namespace>/<name>`.
pub const HEADER: &str = "x-chekt-probe";
/// The digits of an id.
const ID_DIGITS: usize = 32;
/// The bytes of the body: more than a delivery of CHeKT has, less than any proxy refuses that is not set up wrongly.
const BODY_BYTES: usize = 4096;

/// An end of the path is all that arrives.
pub const SHORTENED: &str = "Shortened";
/// There is something before the path.
pub const EXTENDED: &str = "Extended";
/// It is another path.
pub const OTHER: &str = "Other";

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    id: String,
    webhook: String,
}

impl Probe {
    /// A probe of the webhook `namespace/name`. `None`: the id is not 32 hexadecimal digits in lower case.
    #[must_use]
    pub fn new(id: &str, webhook: &str) -> Option<Self> {
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let fits = id.len() == ID_DIGITS && id.chars().all(is_digit);
        fits.then(|| Probe {
            id: id.to_owned(),
            webhook: webhook.to_owned(),
        })
    }

    /// Reads the header.
    #[must_use]
    pub fn read(header: &[u8]) -> Option<Self> {
        let (id, webhook) = std::str::from_utf8(header).ok()?.split_once('/')?;
        Probe::new(id, webhook)
    }

    /// The value of the header.
    #[must_use]
    pub fn header(&self) -> String {
        format!("{}/{}", self.id, self.webhook)
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The webhook, as `namespace/name`.
    #[must_use]
    pub fn webhook(&self) -> &str {
        &self.webhook
    }

    /// The body: JSON, since a proxy that rewrites bodies rewrites that.
    #[must_use]
    pub fn body(&self) -> String {
        let (head, tail) = (format!(r#"{{ "probe": "{}", "filler": ""#, self.id), "\" }");
        let filler = BODY_BYTES - head.len() - tail.len();
        format!("{head}{}{tail}", "x".repeat(filler))
    }

    /// The value of the signature header over this body.
    #[must_use]
    pub fn signature(&self, profile: &Profile, body: &str) -> String {
        sign(profile, self.id.as_bytes(), body.as_bytes())
    }

    /// Whether signature and body arrived as they were sent.
    #[must_use]
    pub fn is_intact(&self, signatures: &Signatures, body: &[u8]) -> bool {
        signatures.fit(self.id.as_bytes(), body)
    }
}

/// How the path under which a probe arrives differs from that of the webhook `namespace/name`, as the status says it: a stranger
/// can write the path, and nothing that strangers write is in a status.
#[must_use]
pub fn strayed(webhook: &str, arrived: &str) -> &'static str {
    let own = format!("/webhooks/{webhook}");
    if own.ends_with(arrived) {
        SHORTENED
    } else if arrived.ends_with(&own) {
        EXTENDED
    } else {
        OTHER
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::PARTNER;
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn signatures(value: &str) -> Signatures {
        Signatures::read(&PARTNER, [value.as_bytes()]).unwrap()
    }

    #[test]
    fn a_header_is_read_as_it_is_written_and_nothing_else_is() {
        let probe = Probe::new(ID, "security/alarms").unwrap();
        assert_eq!(Probe::read(probe.header().as_bytes()), Some(probe));
        for header in [
            "",
            ID,
            "0123/security/alarms",
            "0123456789ABCDEF0123456789ABCDEF/security/alarms",
            "0123456789abcdef0123456789abcdex/security/alarms",
            "\u{e9}123456789abcdef0123456789abcdef/security/alarms",
        ] {
            assert_eq!(Probe::read(header.as_bytes()), None, "{header}");
        }
        assert_eq!(Probe::read(b"\xff"), None);
    }

    #[test]
    fn a_path_that_differs_is_called_by_what_happened_to_it() {
        for (arrived, expected) in [
            ("/security/alarms", SHORTENED),
            ("/alarms", SHORTENED),
            ("", SHORTENED),
            ("/hooks/webhooks/security/alarms", EXTENDED),
            ("/", OTHER),
            ("/webhooks/security/doors", OTHER),
        ] {
            assert_eq!(strayed("security/alarms", arrived), expected, "{arrived}");
        }
    }

    #[test]
    fn a_changed_body_or_signature_is_seen() {
        let probe = Probe::new(ID, "security/alarms").unwrap();
        let body = probe.body();
        assert_eq!(body.len(), BODY_BYTES);
        serde_json::from_str::<serde_json::Value>(&body).unwrap();
        let signed = signatures(&probe.signature(&PARTNER, &body));
        assert!(probe.is_intact(&signed, body.as_bytes()));
        let compact = body.replace(' ', "");
        assert!(!probe.is_intact(&signed, compact.as_bytes()));
        let other = Probe::new(&ID.replace('0', "1"), "security/alarms").unwrap();
        assert!(!other.is_intact(&signed, body.as_bytes()));
    }
}
