//! Signature headers, one a line, as a stranger may write them: never a panic, and never a stranger who passes.
#![no_main]

use chekt_operator::delivery::profile::PARTNER;
use chekt_operator::delivery::{Delivery, Signatures};
use chekt_operator::resources::keyring::{Key, Keyring, SigningSecret, WebhookIdentity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(signatures) = Signatures::read(&PARTNER, data.split(|byte| *byte == b'\n')) else {
        return;
    };
    let webhook = WebhookIdentity {
        namespace: "security".into(),
        name: "alarms".into(),
        uid: "u-1".into(),
    };
    let secret = SigningSecret::new(b"nobody outside knows this".to_vec());
    let keyring = Keyring {
        current: secret.ok().map(|secret| Key {
            id: "k".into(),
            secret,
        }),
        ..Keyring::empty(webhook.clone())
    };
    let delivery = Delivery::new(webhook, b"{}".to_vec());
    assert!(delivery.verify(&signatures, &keyring).is_err());
});
