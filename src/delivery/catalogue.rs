//! The events that CHeKT sends, and what each is in Kubernetes: a reason, a type, a place in the queue.
//!
//! The names are those of the guide, "Available Events", and `webhook.test`. The set is open: another name is
//! [`Kind::Unknown`] and is published all the same.

use super::envelope::Envelope;

/// What a delivery tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `alarm.triggered`
    AlarmTriggered,
    /// `alarm.cleared`
    AlarmCleared,
    /// `alarm.acknowledged`
    AlarmAcknowledged,
    /// `device.status_changed`
    DeviceStatusChanged,
    /// `device.registered`
    DeviceRegistered,
    /// `device.removed`
    DeviceRemoved,
    /// `site.armed`
    SiteArmed,
    /// `site.disarmed`
    SiteDisarmed,
    /// `site.created`
    SiteCreated,
    /// `webhook.test`, which arrives although nobody can subscribe to it.
    WebhookTest,
    /// Any other name.
    Unknown,
}

/// The known names.
const NAMES: [(&str, Kind); 10] = [
    ("alarm.triggered", Kind::AlarmTriggered),
    ("alarm.cleared", Kind::AlarmCleared),
    ("alarm.acknowledged", Kind::AlarmAcknowledged),
    ("device.status_changed", Kind::DeviceStatusChanged),
    ("device.registered", Kind::DeviceRegistered),
    ("device.removed", Kind::DeviceRemoved),
    ("site.armed", Kind::SiteArmed),
    ("site.disarmed", Kind::SiteDisarmed),
    ("site.created", Kind::SiteCreated),
    ("webhook.test", Kind::WebhookTest),
];

/// The order in which deliveries are published when not all can be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Everything about alarms: it comes first.
    Alarm,
    /// Everything about devices.
    Device,
    /// Everything about sites.
    Site,
    /// Test deliveries, other events, and what cannot be read.
    Other,
}

impl Class {
    /// Every class, the first to be published first.
    pub const ALL: [Class; 4] = [Class::Alarm, Class::Device, Class::Site, Class::Other];

    /// The class of an event by its family, so that an event nobody knows yet is in the right queue.
    #[must_use]
    pub fn of(event: &str) -> Self {
        match event.split('.').next() {
            Some("alarm") => Class::Alarm,
            Some("device") => Class::Device,
            Some("site") => Class::Site,
            _ => Class::Other,
        }
    }

    /// The number under which the journal keeps it.
    #[must_use]
    pub fn rank(self) -> i64 {
        match self {
            Class::Alarm => 0,
            Class::Device => 1,
            Class::Site => 2,
            Class::Other => 3,
        }
    }

    /// The class of a number in the journal; one that is not known is the last.
    #[must_use]
    pub fn from_rank(rank: i64) -> Self {
        Class::ALL
            .into_iter()
            .find(|class| class.rank() == rank)
            .unwrap_or(Class::Other)
    }
}

impl Kind {
    /// The kind of an event's name.
    #[must_use]
    pub fn of(event: &str) -> Self {
        let known = NAMES.into_iter().find(|(name, _)| *name == event);
        known.map_or(Kind::Unknown, |(_, kind)| kind)
    }

    /// A known name as CHeKT's documents spell it, whatever case it is written in.
    #[must_use]
    pub fn spelled(event: &str) -> Option<&'static str> {
        let mut names = NAMES.into_iter().map(|(name, _)| name);
        names.find(|name| name.eq_ignore_ascii_case(event))
    }

    /// The reason of the Kubernetes Event.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Kind::AlarmTriggered => "AlarmTriggered",
            Kind::AlarmCleared => "AlarmCleared",
            Kind::AlarmAcknowledged => "AlarmAcknowledged",
            Kind::DeviceStatusChanged => "DeviceStatusChanged",
            Kind::DeviceRegistered => "DeviceRegistered",
            Kind::DeviceRemoved => "DeviceRemoved",
            Kind::SiteArmed => "SiteArmed",
            Kind::SiteDisarmed => "SiteDisarmed",
            Kind::SiteCreated => "SiteCreated",
            Kind::WebhookTest => "WebhookTest",
            Kind::Unknown => "UnknownEvent",
        }
    }

    /// Whether somebody should look: an alarm was raised, or a device went offline.
    #[must_use]
    pub fn warns(self, envelope: &Envelope) -> bool {
        match self {
            Kind::AlarmTriggered => true,
            Kind::DeviceStatusChanged => envelope
                .text("status")
                .is_some_and(|status| status.eq_ignore_ascii_case("offline")),
            Kind::AlarmCleared
            | Kind::AlarmAcknowledged
            | Kind::DeviceRegistered
            | Kind::DeviceRemoved
            | Kind::SiteArmed
            | Kind::SiteDisarmed
            | Kind::SiteCreated
            | Kind::WebhookTest
            | Kind::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_survives_its_number_and_an_unknown_number_is_the_last_class() {
        for class in Class::ALL {
            assert_eq!(Class::from_rank(class.rank()), class);
        }
        assert_eq!(Class::from_rank(99), Class::Other);
    }

    #[test]
    fn an_event_that_nobody_knows_is_in_the_queue_of_its_family() {
        assert_eq!(Class::of("alarm.dispatched"), Class::Alarm);
        assert_eq!(Class::of("alarms"), Class::Other);
        assert_eq!(Class::of(""), Class::Other);
    }
}
