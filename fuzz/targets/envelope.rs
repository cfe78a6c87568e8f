//! Bodies with a valid signature around anything: read or called unreadable, the same each time, and always an Event
//! that the API server takes.
#![no_main]

mod shape;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let received = shape::received("alarms", body);
    if let Ok(envelope) = received.envelope() {
        assert!(!envelope.event.trim().is_empty());
        assert_eq!(received.envelope().ok(), Some(envelope));
    }
    shape::fits(&received);
});
