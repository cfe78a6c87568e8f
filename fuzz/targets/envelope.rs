//! Bodies with a valid signature around anything: read or called unreadable, the same each time, and always an Event
//! that the API server takes.
#![no_main]

mod shape;

use chekt_operator::delivery::json::Mend;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let received = shape::received("alarms", body);
    let strict = serde_json::from_slice::<serde_json::Value>(body).is_ok();
    if let Ok(envelope) = received.envelope() {
        // What a strict reader takes has at most an odd shape, and what it does not take was mended.
        let shape = [Mend::Twice, Mend::Wrapped, Mend::More, Mend::Case];
        let damage = envelope.mended.iter().any(|mend| !shape.contains(mend));
        assert!(!damage || !strict || envelope.mended.contains(&Mend::Wrapped));
        assert!(strict || !envelope.mended.is_empty());
        assert!(!envelope.event.trim().is_empty());
        assert_eq!(received.envelope().ok(), Some(envelope));
    }
    shape::fits(&received);
});
