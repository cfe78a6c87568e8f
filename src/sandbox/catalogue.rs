//! The event catalogue of the partner API (guide, "Available Events"), and a realistic sample of each event.
//!
//! Only the data of `alarm.triggered` and `webhook.test` is documented; the rest carries the ids that the
//! family must have. Ids that name an occurrence differ from sample to sample: two alarms are two alarms.

use serde_json::{Value, json};

/// The event of a test delivery. It is in no subscription and arrives all the same.
pub const TEST: &str = "webhook.test";

/// The events that can be subscribed to.
pub const EVENTS: [&str; 9] = [
    "alarm.triggered",
    "alarm.cleared",
    "alarm.acknowledged",
    "device.status_changed",
    "device.registered",
    "device.removed",
    "site.armed",
    "site.disarmed",
    "site.created",
];

/// Whether `event` can be subscribed to.
pub fn is_known(event: &str) -> bool {
    EVENTS.contains(&event)
}

/// Sample data of `event`; an empty object for one that is not in the catalogue.
pub fn sample(event: &str, random: u128) -> Value {
    let alarm = format!("alarm_{:08x}", random & 0xffff_ffff);
    match event {
        "alarm.triggered" => json!({
            "alarm_id": alarm, "site_id": "site_123", "device_id": "device_456",
            "severity": "high", "zone": "Front Door",
        }),
        "alarm.cleared" => json!({
            "alarm_id": alarm, "site_id": "site_123", "device_id": "device_456",
        }),
        "alarm.acknowledged" => json!({
            "alarm_id": alarm, "site_id": "site_123", "device_id": "device_456",
            "acknowledged_by": "operator_7",
        }),
        "device.status_changed" => json!({
            "device_id": "device_456", "site_id": "site_123",
            "status": "offline", "previous_status": "online",
        }),
        "device.registered" => json!({
            "device_id": "device_456", "site_id": "site_123", "name": "Front Door Camera",
        }),
        "device.removed" => json!({"device_id": "device_456", "site_id": "site_123"}),
        "site.armed" => json!({"site_id": "site_123", "mode": "away"}),
        "site.disarmed" => json!({"site_id": "site_123"}),
        "site.created" => json!({"site_id": "site_123", "name": "Main Street 1"}),
        // The guide's words.
        TEST => json!({"message": "This is a test webhook"}),
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_sample_with_an_id() {
        for event in EVENTS {
            let data = sample(event, 1);
            let family = event.split('.').next().unwrap();
            assert!(
                data.get(format!("{family}_id")).is_some(),
                "{event}: {data}"
            );
        }
    }

    #[test]
    fn two_alarms_are_two_alarms() {
        assert_ne!(sample("alarm.cleared", 1), sample("alarm.cleared", 2));
    }

    #[test]
    fn a_test_cannot_be_subscribed_to() {
        assert!(!is_known(TEST));
    }
}
