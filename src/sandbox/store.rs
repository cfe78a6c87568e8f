//! What outlives a restart: webhooks, the answers to idempotency keys, tokens, deliveries under way. Pure data;
//! how it gets to disk is the business of `state_file`.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::book::Book;
use super::catalogue;
use super::fields::{ACTIVE, Secret, normalised};
use super::idempotency::KeptAnswers;
use super::quirks::{CreatedAt, EventsEcho, IdKey, Quirks, UrlEcho};
use super::tokens::Tokens;

/// Most deleted webhooks remembered; the oldest are forgotten first.
const MOST_DELETED: usize = 10_000;

/// What distinguishes one call from the next and is handed in, so that decisions need no clock and no chance.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time.
    pub now: Timestamp,
    /// 128 random bits.
    pub random: u128,
}

/// Everything that outlives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Store {
    pub webhooks: Webhooks,
    pub answers: KeptAnswers,
    pub tokens: Tokens,
    pub book: Book,
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub id: String,
    /// As it was sent.
    pub url: String,
    pub events: Vec<String>,
    pub secret: Secret,
    /// `active`, or any other word while it gets nothing.
    pub status: String,
    pub created_at: Timestamp,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// When it was deleted; a deleted one is kept for those who look back.
    pub deleted_at: Option<Timestamp>,
    /// What it was before its last change, for lists that lag behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Earlier>,
}

/// What a webhook was before a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    pub url: String,
    pub events: Vec<String>,
    pub status: String,
    /// When it was changed.
    pub until: Timestamp,
}

/// All webhooks in the order of their creation.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Webhooks {
    all: Vec<Webhook>,
    last_number: u64,
}

impl Webhook {
    /// Whether it gets deliveries.
    pub fn is_active(&self) -> bool {
        self.deleted_at.is_none() && self.status == ACTIVE
    }

    /// Makes it active, with a clean slate.
    pub fn activate(&mut self) {
        ACTIVE.clone_into(&mut self.status);
        self.failures = 0;
    }

    /// As the partner API tells it: never the secret.
    pub fn told(&self, quirks: &Quirks) -> Value {
        let status = if self.deleted_at.is_some() {
            "deleted"
        } else {
            self.status.as_str()
        };
        let key = match quirks.id_key {
            IdKey::WebhookId => "webhook_id",
            IdKey::Id => "id",
        };
        let created_at = match quirks.created_at {
            CreatedAt::Seconds => seconds(self.created_at),
            CreatedAt::Milliseconds => self
                .created_at
                .strftime("%Y-%m-%dT%H:%M:%S.%3fZ")
                .to_string(),
            CreatedAt::Space => self.created_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        };
        json!({
            key: told_id(&self.id),
            "url": self.told_url(quirks),
            "events": self.told_events(quirks),
            "status": status,
            "created_at": created_at,
        })
    }

    /// Keeps what it is, for lists that lag behind the change that is about to be made. What a list still shows stays.
    pub fn changes(&mut self, quirks: &Quirks, now: Timestamp) {
        if quirks.changes_listed_after_ms > 0 && self.still_listed(quirks, now).is_none() {
            self.earlier = Some(Earlier {
                url: self.url.clone(),
                events: self.events.clone(),
                status: self.status.clone(),
                until: now,
            });
        }
    }

    fn still_listed(&self, quirks: &Quirks, now: Timestamp) -> Option<&Earlier> {
        self.earlier.as_ref().filter(|earlier| {
            quirks.changes_listed_after_ms > 0
                && !is_after(earlier.until, quirks.changes_listed_after_ms, now)
        })
    }

    /// As a list tells it, which may lag behind.
    pub fn listed(&self, quirks: &Quirks, now: Timestamp) -> Value {
        match self.still_listed(quirks, now) {
            None => self.told(quirks),
            Some(earlier) => {
                let Earlier {
                    url,
                    events,
                    status,
                    until: _,
                } = earlier.clone();
                let then = Webhook {
                    url,
                    events,
                    status,
                    ..self.clone()
                };
                then.told(quirks)
            }
        }
    }

    /// The url as it is told back.
    pub fn told_url(&self, quirks: &Quirks) -> String {
        match quirks.url_echo {
            UrlEcho::AsSent => self.url.clone(),
            UrlEcho::Normalised => normalised(&self.url),
        }
    }

    /// The events as they are told back.
    pub fn told_events(&self, quirks: &Quirks) -> Vec<String> {
        let mut events = self.events.clone();
        match quirks.events_echo {
            EventsEcho::All => {}
            EventsEcho::DropUnknown => events.retain(|event| catalogue::is_known(event)),
            // An order that is neither that of the caller nor that of the alphabet.
            EventsEcho::Reorder => events.sort_unstable_by(|a, b| b.cmp(a)),
        }
        events
    }

    /// As the control routes tell it, secret and all: tests have to know what deliveries are signed with.
    pub fn laid_open(&self) -> Value {
        json!({
            "webhook_id": self.id,
            "url": self.url,
            "events": self.events,
            "status": self.status,
            "created_at": seconds(self.created_at),
            "secret": self.secret.0,
            "failures": self.failures,
            "deleted": self.deleted_at.is_some(),
        })
    }

    /// Whether a list shows it at `now`.
    pub fn is_listed(&self, quirks: &Quirks, now: Timestamp) -> bool {
        match self.deleted_at {
            None => is_after(self.created_at, quirks.create_visible_after_ms, now),
            Some(deleted) => {
                quirks.deleted_listed_for_ms > 0
                    && !is_after(deleted, quirks.deleted_listed_for_ms, now)
            }
        }
    }
}

fn is_after(start: Timestamp, milliseconds: u64, now: Timestamp) -> bool {
    start
        .checked_add(Duration::from_millis(milliseconds))
        .is_ok_and(|time| time <= now)
}

impl Webhooks {
    /// An id that no webhook has.
    pub fn new_id(&mut self, numeric: bool, random: u128) -> String {
        self.last_number += 1;
        if numeric {
            (100_000 + self.last_number).to_string()
        } else {
            // The number makes it unique, the rest makes it hard to guess.
            format!(
                "webhook_{:x}{:010x}",
                self.last_number,
                random & 0xff_ffff_ffff
            )
        }
    }

    /// Adds a webhook, the newest.
    pub fn add(&mut self, webhook: Webhook) {
        self.all.push(webhook);
    }

    /// All of them, deleted ones too, oldest first.
    pub fn all(&self) -> &[Webhook] {
        &self.all
    }

    /// Those not deleted, oldest first.
    pub fn live(&self) -> impl Iterator<Item = &Webhook> {
        self.all
            .iter()
            .filter(|webhook| webhook.deleted_at.is_none())
    }

    /// One that is not deleted.
    pub fn get(&self, id: &str) -> Option<&Webhook> {
        self.live().find(|webhook| webhook.id == id)
    }

    /// One that is not deleted, to change it.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Webhook> {
        self.all
            .iter_mut()
            .find(|webhook| webhook.id == id && webhook.deleted_at.is_none())
    }

    /// Whether there once was one of this id.
    pub fn was_deleted(&self, id: &str) -> bool {
        self.all
            .iter()
            .any(|webhook| webhook.id == id && webhook.deleted_at.is_some())
    }

    /// Deletes one; whether it was there.
    pub fn delete(&mut self, id: &str, now: Timestamp) -> bool {
        let Some(webhook) = self.get_mut(id) else {
            return false;
        };
        webhook.deleted_at = Some(now);
        let deleted = self.all.len() - self.live().count();
        if deleted > MOST_DELETED
            && let Some(oldest) = self
                .all
                .iter()
                .position(|webhook| webhook.deleted_at.is_some())
        {
            self.all.remove(oldest);
        }
        true
    }
}

/// An id as JSON: a number when it was given as one.
pub fn told_id(id: &str) -> Value {
    id.parse::<u64>()
        .map_or_else(|_| json!(id), |number| json!(number))
}

/// A time as the guide's samples have it: ISO 8601, seconds, Z.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
pub mod samples {
    use super::*;

    /// A live webhook of this id.
    pub fn webhook(id: &str) -> Webhook {
        Webhook {
            id: id.to_owned(),
            url: "http://localhost:1/x".to_owned(),
            events: vec!["alarm.triggered".to_owned(), "site.armed".to_owned()],
            secret: Secret("hush".to_owned()),
            status: ACTIVE.to_owned(),
            created_at: at(0),
            failures: 0,
            deleted_at: None,
            earlier: None,
        }
    }

    /// Milliseconds after a fixed time.
    pub fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + milliseconds).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{at, webhook};
    use super::*;

    #[test]
    fn the_partner_api_never_tells_the_secret() {
        let told = webhook("w").told(&Quirks::default());
        assert_eq!(
            told,
            json!({
                "webhook_id": "w", "url": "http://localhost:1/x",
                "events": ["alarm.triggered", "site.armed"], "status": "active",
                "created_at": "2023-11-14T22:13:20Z",
            })
        );
    }

    #[test]
    fn echoes_are_switched() {
        let mut webhook = webhook("7");
        webhook.url = "HTTP://LocalHost:80".to_owned();
        webhook.events.push("alarm.created".to_owned());
        let quirks = Quirks {
            url_echo: UrlEcho::Normalised,
            events_echo: EventsEcho::DropUnknown,
            ..Quirks::default()
        };
        let told = webhook.told(&quirks);
        assert_eq!(told["url"], "http://localhost/");
        assert_eq!(told["events"], json!(["alarm.triggered", "site.armed"]));
        assert_eq!(told["webhook_id"], 7);
        let quirks = Quirks {
            events_echo: EventsEcho::Reorder,
            ..Quirks::default()
        };
        assert_eq!(
            webhook.told(&quirks)["events"],
            json!(["site.armed", "alarm.triggered", "alarm.created"])
        );
    }

    #[test]
    fn the_spelling_of_a_time_is_switched() {
        let mut webhook = webhook("w");
        webhook.created_at = at(7);
        let quirks = Quirks {
            created_at: CreatedAt::Milliseconds,
            ..Quirks::default()
        };
        assert_eq!(
            webhook.told(&quirks)["created_at"],
            "2023-11-14T22:13:20.007Z"
        );
    }

    #[test]
    fn a_list_may_lag_behind_a_create_and_a_delete() {
        let mut webhook = webhook("w");
        let quirks = Quirks {
            create_visible_after_ms: 100,
            deleted_listed_for_ms: 100,
            ..Quirks::default()
        };
        assert!(!webhook.is_listed(&quirks, at(99)));
        assert!(webhook.is_listed(&quirks, at(100)));
        webhook.deleted_at = Some(at(200));
        assert!(webhook.is_listed(&quirks, at(299)));
        assert_eq!(webhook.told(&quirks)["status"], "deleted");
        assert!(!webhook.is_listed(&quirks, at(300)));
        assert!(!webhook.is_listed(&Quirks::default(), at(200)));
    }

    #[test]
    fn a_list_may_lag_behind_a_change() {
        let mut webhook = webhook("w");
        let quirks = Quirks {
            changes_listed_after_ms: 100,
            ..Quirks::default()
        };
        for (when, event) in [(0, "site.created"), (50, "site.disarmed")] {
            webhook.changes(&quirks, at(when));
            webhook.events = vec![event.to_owned()];
        }
        let listed = |now| webhook.listed(&quirks, at(now))["events"].clone();
        assert_eq!(listed(99), json!(["alarm.triggered", "site.armed"]));
        assert_eq!(listed(100), json!(["site.disarmed"]));
        assert_eq!(webhook.told(&quirks)["events"], json!(["site.disarmed"]));
    }

    #[test]
    fn a_deleted_webhook_is_gone_but_remembered() {
        let mut webhooks = Webhooks::default();
        webhooks.add(webhook("a"));
        assert!(webhooks.delete("a", at(1)));
        assert!(!webhooks.delete("a", at(2)));
        assert!(webhooks.get("a").is_none());
        assert!(webhooks.was_deleted("a"));
        assert_eq!(webhooks.all().len(), 1);
    }

    #[test]
    fn ids_differ_even_when_chance_does_not() {
        let mut webhooks = Webhooks::default();
        assert_ne!(webhooks.new_id(false, 5), webhooks.new_id(false, 5));
        let number = webhooks.new_id(true, 5);
        assert!(told_id(&number).is_number());
        assert_ne!(number, webhooks.new_id(true, 5));
    }
}
