//! The whole state of a sandbox, and what deliveries do to it: who gets an event, what is sent, what an outcome
//! changes. No clock and no socket here; the engine in `deliveries` has those.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::book::{Attempt, Full, Order, Progress};
use super::catalogue;
use super::envelope::{Envelope, Shot, shot, spelled};
use super::faults::Faults;
use super::fields::Urls;
use super::ledger::{Ledger, What};
use super::quirks::{Quirks, RetryBody, WhileDisabled};
use super::rate::{Bucket, Limit};
use super::schedule;
use super::store::{Moment, Store, Webhook, seconds, told_id};

/// Everything a sandbox knows.
#[derive(Debug)]
pub struct State {
    pub store: Store,
    pub quirks: Quirks,
    pub faults: Faults,
    pub ledger: Ledger,
    pub bucket: Bucket,
    /// How many lists were begun.
    pub lists: u64,
    /// Idempotency keys, with their endpoints, of calls that have no answer yet.
    pub in_flight: HashSet<String>,
    /// Which urls webhooks may have.
    pub urls: Urls,
    time_scale: f64,
    limit: Limit,
}

/// An event to be told to those who subscribed to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emission {
    pub event: String,
    /// Without it a sample.
    pub data: Option<Value>,
    /// Only to this webhook, subscribed or not.
    pub webhook_id: Option<String>,
    /// Without it now.
    pub timestamp: Option<String>,
}

/// A delivery that was taken in.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Ordered {
    pub delivery_id: String,
    pub webhook_id: String,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When it began.
    pub began: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// The status answered, or why there was none.
    pub result: Result<u16, String>,
}

const DELETED: &str = "webhook is deleted";
const DISABLED: &str = "webhook is disabled";

impl State {
    /// The state to start with. Deliveries under way in `store` are to be started again.
    pub fn new(mut store: Store, time_scale: f64, limit: Limit, urls: Urls) -> Self {
        store.book.resume();
        State {
            store,
            quirks: Quirks::default(),
            faults: Faults::default(),
            ledger: Ledger::default(),
            bucket: Bucket::default(),
            lists: 0,
            in_flight: HashSet::new(),
            urls,
            time_scale,
            limit,
        }
    }

    /// The rate limit in force.
    pub fn limit(&self) -> Limit {
        Limit {
            per_minute: self
                .quirks
                .requests_per_minute
                .unwrap_or(self.limit.per_minute),
            burst: self.quirks.burst.unwrap_or(self.limit.burst),
        }
    }

    /// Takes in a delivery of an event to every active webhook that subscribed to it, or to the one named.
    ///
    /// # Errors
    /// [`Full`] when too many are under way; those taken in before stay.
    pub fn emit(&mut self, emission: &Emission, moment: Moment) -> Result<Vec<Ordered>, Full> {
        let concerned: Vec<(String, bool)> = self
            .store
            .webhooks
            .live()
            .filter(|webhook| match &emission.webhook_id {
                Some(id) => webhook.id == *id,
                None => webhook.events.contains(&emission.event),
            })
            .map(|webhook| (webhook.id.clone(), webhook.is_active()))
            .collect();
        let data = emission
            .data
            .clone()
            .unwrap_or_else(|| catalogue::sample(&emission.event, moment.random));
        let timestamp = emission
            .timestamp
            .clone()
            .unwrap_or_else(|| seconds(moment.now));
        let mut ordered = Vec::new();
        for (webhook_id, active) in concerned {
            let envelope = Envelope {
                event: emission.event.clone(),
                webhook_id: told_id(&webhook_id),
                timestamp: timestamp.clone(),
                data: data.clone(),
            };
            let order = Order {
                webhook_id: webhook_id.clone(),
                event: Some(emission.event.clone()),
                body: spelled(&envelope, self.quirks.body_style),
                is_test: emission.event == catalogue::TEST,
                is_duplicate: false,
            };
            if !active {
                self.not_now(order, moment.now)?;
                continue;
            }
            let delivery_id = self.store.book.add(order, moment.now)?;
            ordered.push(Ordered {
                delivery_id,
                webhook_id,
            });
        }
        Ok(ordered)
    }

    /// Takes in `copies` deliveries of raw bytes to one webhook.
    ///
    /// # Errors
    /// [`Full`] when too many are under way; those taken in before stay.
    pub fn deliver(
        &mut self,
        webhook_id: &str,
        body: &str,
        copies: u32,
        now: Timestamp,
    ) -> Result<Vec<Ordered>, Full> {
        let event = serde_json::from_str::<Value>(body)
            .ok()
            .and_then(|body| body.get("event")?.as_str().map(str::to_owned));
        let mut ordered = Vec::new();
        for _ in 0..copies {
            let order = Order {
                webhook_id: webhook_id.to_owned(),
                event: event.clone(),
                body: body.to_owned(),
                is_test: false,
                is_duplicate: false,
            };
            if !self.is_active(webhook_id) {
                self.not_now(order, now)?;
                continue;
            }
            let delivery_id = self.store.book.add(order, now)?;
            ordered.push(Ordered {
                delivery_id,
                webhook_id: webhook_id.to_owned(),
            });
        }
        Ok(ordered)
    }

    /// What becomes of a delivery to a webhook that is disabled.
    fn not_now(&mut self, order: Order, now: Timestamp) -> Result<(), Full> {
        match self.quirks.while_disabled {
            WhileDisabled::Queue => self.store.book.hold(order),
            WhileDisabled::Drop => {
                self.dropped(
                    None,
                    &order.webhook_id,
                    order.event.as_deref(),
                    DISABLED,
                    now,
                );
                Ok(())
            }
        }
    }

    /// Sends what was kept for a webhook that is active now, all at once.
    pub fn release(&mut self, webhook_id: &str, now: Timestamp) {
        for order in self.store.book.unhold(webhook_id) {
            let event = order.event.clone();
            if let Err(Full) = self.store.book.add(order, now) {
                self.dropped(None, webhook_id, event.as_deref(), "too many", now);
            }
        }
    }

    /// Ends the deliveries under way to a webhook that was deleted or is active no more.
    pub fn drop_pending(&mut self, webhook_id: &str, now: Timestamp) {
        let reason = if self.store.webhooks.get(webhook_id).is_some() {
            DISABLED
        } else {
            DELETED
        };
        for number in self.store.book.pending_for(webhook_id) {
            self.give_up(number, reason, now);
        }
        if reason == DELETED {
            for order in self.store.book.unhold(webhook_id) {
                self.dropped(None, webhook_id, order.event.as_deref(), reason, now);
            }
        }
    }

    /// The next attempt of a delivery; none when there is nothing more to send. A delivery to a webhook that is
    /// deleted or disabled ends here.
    pub fn prepare(&mut self, number: u64, now: Timestamp) -> Option<Shot> {
        let delivery = self.store.book.get(number)?;
        if delivery.state != Progress::Pending {
            return None;
        }
        let (webhook_id, is_retry) = (delivery.webhook_id.clone(), !delivery.attempts.is_empty());
        let mut body = delivery.body.clone();
        let Some(webhook) = self.store.webhooks.get(&webhook_id) else {
            self.give_up(number, DELETED, now);
            return None;
        };
        if !webhook.is_active() {
            self.give_up(number, DISABLED, now);
            return None;
        }
        if is_retry
            && self.quirks.retry_body == RetryBody::FreshTimestamp
            && let Ok(envelope) = serde_json::from_str::<Envelope>(&body)
        {
            let fresh = Envelope {
                timestamp: seconds(now),
                ..envelope
            };
            body = spelled(&fresh, self.quirks.body_style);
        }
        let shot = match shot(webhook, &body, self.quirks.signature_style, self.urls) {
            Ok(shot) => shot,
            Err(why) => {
                tracing::error!(webhook_id, why, "a delivery cannot be sent");
                self.give_up(number, "cannot be sent", now);
                return None;
            }
        };
        self.store.book.rewrite(number, body);
        Some(shot)
    }

    /// What the outcome of an attempt changes: the delivery is done, tried again or given up, and the webhook
    /// may be disabled.
    pub fn conclude(&mut self, number: u64, outcome: Outcome, now: Timestamp) {
        let Some(delivery) = self.store.book.get(number).cloned() else {
            return;
        };
        let attempts = delivery.attempts.len() + 1;
        let (status, error) = match outcome.result {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error)),
        };
        let duration_ms = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
        self.ledger.write(
            now,
            What::Delivery {
                delivery_id: delivery.delivery_id.clone(),
                webhook_id: delivery.webhook_id.clone(),
                event: delivery.event.clone(),
                attempt: attempts,
                status,
                error: error.clone(),
                duration_ms,
                body: delivery.body.clone(),
            },
        );
        let attempt = Attempt {
            at: outcome.began,
            status,
            error,
            duration_ms,
        };
        self.store.book.attempted(number, attempt);

        let counts = !delivery.is_test || self.quirks.tests_count;
        if status.is_some_and(|status| schedule::is_success(status, self.quirks.success)) {
            self.store.book.end(number, Progress::Delivered, None);
            if counts
                && self.quirks.success_resets
                && let Some(webhook) = self.store.webhooks.get_mut(&delivery.webhook_id)
            {
                webhook.failures = 0;
            }
            if !delivery.is_duplicate {
                self.duplicate(&delivery.webhook_id, &delivery, now);
            }
            return;
        }
        match schedule::pause_after(attempts, self.time_scale) {
            // One that was given up while it was on its way stays given up.
            Some(pause) => {
                let due = now.checked_add(pause).unwrap_or(Timestamp::MAX);
                self.store.book.postpone(number, due);
            }
            None => self.store.book.end(number, Progress::Failed, None),
        }
        if counts {
            self.count_failure(&delivery.webhook_id, now);
        }
    }

    fn count_failure(&mut self, webhook_id: &str, now: Timestamp) {
        let Some(webhook) = self.store.webhooks.get_mut(webhook_id) else {
            return;
        };
        webhook.failures = webhook.failures.saturating_add(1);
        if !webhook.is_active() || !schedule::disables(webhook.failures, self.quirks.disables_after)
        {
            return;
        }
        webhook.status.clone_from(&self.quirks.disabled_word);
        let webhook_id = webhook_id.to_owned();
        self.ledger.write(
            now,
            What::Disabled {
                webhook_id: webhook_id.clone(),
            },
        );
        self.drop_pending(&webhook_id, now);
    }

    fn duplicate(&mut self, webhook_id: &str, delivery: &super::book::Delivery, now: Timestamp) {
        for _ in 0..self.quirks.duplicate_deliveries {
            let order = Order {
                webhook_id: webhook_id.to_owned(),
                event: delivery.event.clone(),
                body: delivery.body.clone(),
                is_test: delivery.is_test,
                is_duplicate: true,
            };
            if let Err(Full) = self.store.book.add(order, now) {
                self.dropped(None, webhook_id, delivery.event.as_deref(), "too many", now);
            }
        }
    }

    fn is_active(&self, webhook_id: &str) -> bool {
        self.store
            .webhooks
            .get(webhook_id)
            .is_some_and(Webhook::is_active)
    }

    fn give_up(&mut self, number: u64, reason: &'static str, now: Timestamp) {
        let Some(delivery) = self.store.book.get(number) else {
            return;
        };
        let (delivery_id, webhook_id, event) = (
            delivery.delivery_id.clone(),
            delivery.webhook_id.clone(),
            delivery.event.clone(),
        );
        self.store.book.end(number, Progress::Failed, Some(reason));
        self.dropped(
            Some(delivery_id),
            &webhook_id,
            event.as_deref(),
            reason,
            now,
        );
    }

    fn dropped(
        &mut self,
        delivery_id: Option<String>,
        webhook_id: &str,
        event: Option<&str>,
        reason: &'static str,
        now: Timestamp,
    ) {
        self.ledger.write(
            now,
            What::Dropped {
                delivery_id,
                webhook_id: webhook_id.to_owned(),
                event: event.map(str::to_owned),
                reason,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::signature;
    use super::super::store::samples::{at, webhook};
    use super::*;

    fn state() -> State {
        let mut state = State::new(
            Store::default(),
            1.0,
            Limit {
                per_minute: 60,
                burst: 5,
            },
            Urls::Secure,
        );
        state.store.webhooks.add(webhook("w"));
        state
    }

    fn emit(state: &mut State, event: &str) -> usize {
        let emission = Emission {
            event: event.to_owned(),
            data: Some(json!({"b": 1, "a": "ü"})),
            webhook_id: None,
            timestamp: Some("2024-01-15T14:20:00Z".to_owned()),
        };
        let moment = Moment {
            now: at(0),
            random: 1,
        };
        state.emit(&emission, moment).unwrap().len()
    }

    fn outcome(status: u16) -> Outcome {
        Outcome {
            began: at(0),
            took: Duration::from_millis(3),
            result: Ok(status),
        }
    }

    fn status(state: &State) -> &str {
        &state.store.webhooks.get("w").unwrap().status
    }

    #[test]
    fn an_event_goes_to_those_who_subscribed() {
        let mut state = state();
        assert_eq!(emit(&mut state, "alarm.triggered"), 1);
        assert_eq!(emit(&mut state, "alarm.cleared"), 0);
    }

    #[test]
    fn the_envelope_has_the_guides_keys_in_the_guides_order() {
        let mut state = state();
        emit(&mut state, "site.armed");
        let shot = state.prepare(1, at(0)).unwrap();
        assert_eq!(
            shot.body,
            r#"{"event":"site.armed","webhook_id":"w","timestamp":"2024-01-15T14:20:00Z","data":{"a":"ü","b":1}}"#
        );
        let signature = signature::sign("hush", shot.body.as_bytes()).unwrap();
        assert_eq!(shot.signatures, [signature]);
    }

    #[test]
    fn a_failure_is_tried_again_and_the_third_disables_and_drops_the_rest() {
        let mut state = state();
        emit(&mut state, "site.armed");
        emit(&mut state, "site.armed");
        state.conclude(1, outcome(500), at(0));
        assert_eq!(state.store.book.get(1).unwrap().due, at(5_000));
        state.conclude(1, outcome(201), at(5_000));
        assert_eq!(state.store.book.get(1).unwrap().due, at(35_000));
        assert_eq!(status(&state), "active");
        state.conclude(1, outcome(500), at(35_000));
        assert_eq!(status(&state), "disabled");
        for number in [1, 2] {
            assert_eq!(state.prepare(number, at(335_000)), None);
            let delivery = state.store.book.get(number).unwrap();
            assert_eq!(delivery.state, Progress::Failed);
            assert_eq!(delivery.reason.as_deref(), Some(DISABLED));
        }
        assert_eq!(emit(&mut state, "site.armed"), 0);
    }

    #[test]
    fn a_success_between_failures_starts_the_count_anew() {
        let mut state = state();
        assert!(state.quirks.success_resets);
        for _ in 0..3 {
            emit(&mut state, "site.armed");
        }
        state.conclude(1, outcome(500), at(0));
        state.conclude(2, outcome(500), at(0));
        state.conclude(3, outcome(200), at(0));
        state.conclude(1, outcome(500), at(5_000));
        state.conclude(2, outcome(500), at(5_000));
        assert_eq!(status(&state), "active");
        state.conclude(1, outcome(500), at(35_000));
        assert_eq!(status(&state), "disabled");
    }

    #[test]
    fn a_success_may_leave_the_count_as_it_is() {
        let mut state = state();
        state.quirks.success_resets = false;
        for _ in 0..4 {
            emit(&mut state, "site.armed");
        }
        for (number, answer) in [(1, 500), (2, 500), (3, 200), (4, 500)] {
            state.conclude(number, outcome(answer), at(0));
        }
        assert_eq!(status(&state), "disabled");
    }

    #[test]
    fn without_disabling_there_are_four_attempts() {
        let mut state = state();
        state.quirks.disables_after = 0;
        emit(&mut state, "site.armed");
        for (now, due) in [(0, 5_000), (5_000, 35_000), (35_000, 335_000)] {
            state.conclude(1, outcome(500), at(now));
            assert_eq!(state.store.book.get(1).unwrap().due, at(due));
            assert!(state.prepare(1, at(due)).is_some());
        }
        state.conclude(1, outcome(500), at(335_000));
        assert_eq!(state.store.book.get(1).unwrap().state, Progress::Failed);
        assert_eq!(status(&state), "active");
    }

    #[test]
    fn failed_tests_disable_only_by_quirk() {
        for (tests_count, word) in [(false, "active"), (true, "disabled")] {
            let mut state = state();
            state.quirks.tests_count = tests_count;
            let emission = Emission {
                event: catalogue::TEST.to_owned(),
                data: None,
                webhook_id: Some("w".to_owned()),
                timestamp: None,
            };
            let moment = Moment {
                now: at(0),
                random: 1,
            };
            state.emit(&emission, moment).unwrap();
            for _ in 0..3 {
                state.conclude(1, outcome(500), at(0));
            }
            assert_eq!(status(&state), word);
        }
    }

    #[test]
    fn a_retry_repeats_the_bytes_or_stamps_them_anew() {
        for (retry_body, same) in [
            (RetryBody::Identical, true),
            (RetryBody::FreshTimestamp, false),
        ] {
            let mut state = state();
            state.quirks.retry_body = retry_body;
            emit(&mut state, "site.armed");
            let first = state.prepare(1, at(0)).unwrap();
            state.conclude(1, outcome(500), at(0));
            let second = state.prepare(1, at(5_000)).unwrap();
            assert_eq!(first == second, same);
            assert_eq!(first.signatures == second.signatures, same);
        }
    }

    #[test]
    fn duplicates_follow_a_success_and_breed_no_more() {
        let mut state = state();
        state.quirks.duplicate_deliveries = 2;
        emit(&mut state, "site.armed");
        for number in 1..=3 {
            state.conclude(number, outcome(200), at(0));
        }
        assert_eq!(state.store.book.all().count(), 3);
    }

    #[test]
    fn a_deleted_webhook_gets_no_more_attempts() {
        let mut state = state();
        emit(&mut state, "site.armed");
        state.store.webhooks.delete("w", at(1));
        assert_eq!(state.prepare(1, at(2)), None);
        assert_eq!(
            state.store.book.get(1).unwrap().reason.as_deref(),
            Some(DELETED)
        );
    }
}
