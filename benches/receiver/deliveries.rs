//! Deliveries as CHeKT sends them, ready to be written to a socket.
//!
//! Every one is another alarm, or the journal would know it already. Only its number and its signature are written
//! anew, which costs a fraction of a microsecond: the driver has better things to do.

use chekt_operator::resources::keyring::WebhookIdentity;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secret of every webhook here.
pub const SECRET: &[u8] = b"whsec_bench_4f8a1c6e9b2d7053";

/// The guide's alarm, with the fields that CHeKT's samples have beside it: 300 bytes.
const BODY: &str = r#"{"event":"alarm.triggered","webhook_id":"webhook_abc123","timestamp":"2024-01-15T14:20:00Z","data":{"alarm_id":"alarm_000000000000","site_id":"site_123","site_name":"Main Warehouse","device_id":"device_456","device_name":"Loading Dock Camera 3","severity":"high","zone":"Front Door","channel":2}}"#;
const NUMBER: &str = "000000000000";

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A new alarm, signed.
    Valid,
    /// A new alarm under a well-formed signature that fits no key.
    Forged,
    /// An alarm to a path that nobody has, each time another of a thousand.
    UnknownPath,
}

/// A source of deliveries to one webhook.
#[derive(Clone, Debug)]
pub struct Deliveries {
    kind: Kind,
    mac: Hmac<Sha256>,
    request: Vec<u8>,
    path_at: usize,
    signature_at: usize,
    body_at: usize,
    number_at: usize,
    count: u64,
}

impl Deliveries {
    /// Deliveries to a webhook, numbered from `first`. `close`: the connection is for one delivery only.
    ///
    /// # Errors
    /// Never; HMAC takes keys of any length.
    pub fn new(
        kind: Kind,
        webhook: &WebhookIdentity,
        close: bool,
        first: u64,
    ) -> anyhow::Result<Self> {
        let path = match kind {
            Kind::Valid | Kind::Forged => format!("{}/{}", webhook.namespace, webhook.name),
            Kind::UnknownPath => format!("{}/nobody-{NUMBER}", webhook.namespace),
        };
        let connection = if close { "connection: close\r\n" } else { "" };
        let head = format!(
            "POST /webhooks/{path} HTTP/1.1\r\nhost: receiver.example.com\r\nuser-agent: CHeKT-Webhooks/1.0\r\n\
             content-type: application/json\r\n{connection}content-length: {}\r\nx-webhook-signature: sha256={}\r\n\r\n",
            BODY.len(),
            "0".repeat(64),
        );
        let body_at = head.len();
        let number_in_body = BODY.find(NUMBER).unwrap_or(0);
        Ok(Deliveries {
            kind,
            mac: Hmac::new_from_slice(SECRET)?,
            path_at: head.find(NUMBER).unwrap_or(0),
            signature_at: body_at - 4 - 64,
            number_at: body_at + number_in_body,
            request: [head.as_bytes(), BODY.as_bytes()].concat(),
            body_at,
            count: first,
        })
    }

    /// The bytes of the next one.
    pub fn next(&mut self) -> &[u8] {
        let (count, at) = (self.count, self.number_at);
        self.count += 1;
        digits(&mut self.request[at..at + NUMBER.len()], count);
        match self.kind {
            Kind::Valid => {
                let mut mac = self.mac.clone();
                mac.update(&self.request[self.body_at..]);
                let digest = mac.finalize().into_bytes();
                let hex = &mut self.request[self.signature_at..self.signature_at + 64];
                data_encoding::HEXLOWER.encode_mut(&digest, hex);
            }
            Kind::Forged => {}
            Kind::UnknownPath => {
                let at = self.path_at;
                digits(&mut self.request[at..at + NUMBER.len()], count % 1_000);
            }
        }
        &self.request
    }

    /// The signature of the one before, as it stands in the header.
    pub fn signature(&self) -> Vec<u8> {
        self.request[self.signature_at..self.signature_at + 64].to_vec()
    }

    /// The body of the next one alone.
    pub fn next_body(&mut self) -> Vec<u8> {
        let at = self.body_at;
        self.next()[at..].to_vec()
    }
}

fn digits(into: &mut [u8], mut number: u64) {
    for digit in into.iter_mut().rev() {
        // The remainder is less than ten.
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}
