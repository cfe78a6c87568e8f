//! What users see of the deliveries in `status.deliveries`: written at most every 30 seconds a webhook, at once
//! for a test delivery, since the condition Verified waits for it, and when a delay begins or is over.
//!
//! How often strangers knock must not decide how often we write, so refusals only change what the next write says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::keyring::Index;
use super::metrics::{Metrics, Outcome};
use crate::cluster::{ClusterError, deliveries};
use crate::delivery::delay;
use crate::resources::keyring::WebhookIdentity;
use crate::resources::refusal::Refusal;
use crate::resources::webhook::{Delay, Deliveries};

/// The least time between two writes for one webhook.
const EVERY: Duration = Duration::from_secs(30);
/// The pause after a write that failed; it doubles up to [`EVERY`].
const RETRY: Duration = Duration::from_millis(500);
/// Writes at the same time.
const AT_ONCE: usize = 8;
/// How long the last writes may take when the process ends.
const LAST: Duration = Duration::from_secs(3);
/// The least time between two writes for one webhook about a delay: one that comes and goes must not be written each
/// second.
const EVERY_DELAY: Duration = Duration::from_secs(5);
/// How often all webhooks are looked at for the word of a receiver about a delay that is gone for good.
const LOOK: Duration = Duration::from_secs(60);
/// The longest name of an event in the status.
const LONGEST_EVENT: usize = 128;

/// What is to be written, for each webhook that was delivered to.
#[derive(Debug, Default)]
struct Ledger {
    webhooks: HashMap<String, Entry>,
    /// When the oldest delayed delivery of each webhook arrived; `None` while nobody knows, and then nothing is said.
    delays: Option<HashMap<String, Timestamp>>,
    /// When that is to be compared with what is said.
    look_at: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    webhook: WebhookIdentity,
    deliveries: Deliveries,
    changed: bool,
    urgent: bool,
    not_before: Duration,
    failures: u32,
    refused: u64,
    delay_not_before: Duration,
}

/// One write that is due.
#[derive(Clone, Debug, PartialEq)]
struct Due {
    webhook: WebhookIdentity,
    deliveries: Deliveries,
    refused: u64,
}

/// What this receiver knows of delays, and by which name it speaks of them.
#[derive(Clone, Copy, Debug)]
struct Speaker<'s> {
    name: &'s str,
    delays: Option<&'s HashMap<String, Timestamp>>,
}

impl Speaker<'_> {
    /// What is to be said of a delay, given what is. Without knowledge it stays as it is.
    fn said(self, uid: &str, live: Option<&Delay>, now: Timestamp) -> Option<Delay> {
        match self.delays {
            Some(delays) => delay::said(delays.get(uid).copied(), self.name, live, now),
            None => live.cloned(),
        }
    }
}

impl Ledger {
    fn entry(&mut self, webhook: &WebhookIdentity) -> &mut Entry {
        self.webhooks
            .entry(webhook.uid.clone())
            .or_insert_with(|| Entry {
                webhook: webhook.clone(),
                deliveries: Deliveries::default(),
                changed: false,
                urgent: false,
                not_before: Duration::ZERO,
                failures: 0,
                refused: 0,
                delay_not_before: Duration::ZERO,
            })
    }

    fn verified(&mut self, webhook: &WebhookIdentity, event: &str, key_id: &str, at: Timestamp) {
        let entry = self.entry(webhook);
        entry.changed = true;
        entry.deliveries.last_received_at = Some(seconds(at));
        entry.deliveries.last_event = Some(event.chars().take(LONGEST_EVENT).collect());
        entry.deliveries.last_verified_key = Some(key_id.to_owned());
        if event == "webhook.test" {
            entry.deliveries.last_test_at = Some(seconds(at));
            entry.deliveries.last_test_key = Some(key_id.to_owned());
            entry.urgent = true;
        }
    }

    fn refused(&mut self, webhook: &WebhookIdentity, refusal: Refusal, at: Timestamp) {
        let entry = self.entry(webhook);
        entry.changed = true;
        entry.refused += 1;
        entry.deliveries.last_rejected_at = Some(seconds(at));
        entry.deliveries.last_rejected_reason = Some(refusal.as_str().to_owned());
        entry.deliveries.last_rejected_message = Some(refusal.message().to_owned());
    }

    /// Notes which webhooks are to be told of a delay, or that it is over.
    fn look(&mut self, index: &Index, name: &str, at: Timestamp, now: Duration) {
        self.look_at = None;
        let Some(delays) = self.delays.take() else {
            return;
        };
        let speaker = Speaker {
            name,
            delays: Some(&delays),
        };
        for webhook in index.webhooks() {
            let uid = &webhook.identity.uid;
            let live = webhook.deliveries.as_ref().and_then(|d| d.delayed.as_ref());
            if live.is_none() && !delays.contains_key(uid) {
                continue;
            }
            let wanted = speaker.said(uid, live, at);
            if !delay::is_worth_a_write(live, wanted.as_ref()) {
                continue;
            }
            let entry = self.entry(&webhook.identity);
            if now >= entry.delay_not_before {
                entry.delay_not_before = now + EVERY_DELAY;
                entry.changed = true;
                entry.urgent = true;
            } else {
                let again = entry.delay_not_before;
                self.look_at = self.look_at.into_iter().chain([again]).min();
            }
        }
        self.delays = Some(delays);
    }

    /// Takes what is due; with `all`, everything that is not written yet.
    fn due(&mut self, now: Duration, all: bool) -> Vec<Due> {
        let mut due = Vec::new();
        for entry in self.webhooks.values_mut() {
            if !entry.changed || !(all || now >= entry.due_at()) {
                continue;
            }
            entry.changed = false;
            entry.urgent = false;
            entry.not_before = now + EVERY;
            due.push(Due {
                webhook: entry.webhook.clone(),
                deliveries: entry.deliveries.clone(),
                refused: std::mem::take(&mut entry.refused),
            });
        }
        due
    }

    fn next_at(&self) -> Option<Duration> {
        let waiting = self.webhooks.values().filter(|entry| entry.changed);
        waiting.map(Entry::due_at).chain(self.look_at).min()
    }

    fn written(&mut self, uid: &str) {
        if let Some(entry) = self.webhooks.get_mut(uid) {
            entry.failures = 0;
        }
    }

    /// Returns whether it is the first failure in a row.
    fn failed(&mut self, uid: &str, now: Duration) -> bool {
        let Some(entry) = self.webhooks.get_mut(uid) else {
            return false;
        };
        entry.failures = entry.failures.saturating_add(1);
        entry.changed = true;
        // An urgent one must wait like the others, or it would be tried without a pause.
        entry.urgent = false;
        let pause = RETRY.saturating_mul(1 << entry.failures.min(6));
        entry.not_before = now + pause.min(EVERY);
        entry.failures == 1
    }

    fn gone(&mut self, uid: &str) {
        self.webhooks.remove(uid);
    }
}

impl Entry {
    fn due_at(&self) -> Duration {
        if self.urgent && self.failures == 0 {
            Duration::ZERO
        } else {
            self.not_before
        }
    }
}

fn seconds(at: Timestamp) -> Time {
    // Whole seconds of a valid time are a valid time.
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Ours, with whatever another replica, or this one before its restart, has seen later. An apply replaces the
/// whole of what its manager owns, so what is left out would be lost. A delay is not seen later but for longer, which
/// [`delay::said`] decides.
fn merged(ours: Deliveries, live: Option<&Deliveries>) -> Deliveries {
    let Some(live) = live.cloned() else {
        return ours;
    };
    let time = |at: &Option<Time>| at.as_ref().map(|t| t.0);
    let mut all = ours;
    all.delayed = live.delayed;
    if time(&live.last_received_at) > time(&all.last_received_at) {
        all.last_received_at = live.last_received_at;
        all.last_event = live.last_event;
        all.last_verified_key = live.last_verified_key;
    }
    if time(&live.last_test_at) > time(&all.last_test_at) {
        all.last_test_at = live.last_test_at;
        all.last_test_key = live.last_test_key;
    }
    if time(&live.last_rejected_at) > time(&all.last_rejected_at) {
        all.last_rejected_at = live.last_rejected_at;
        all.last_rejected_reason = live.last_rejected_reason;
        all.last_rejected_message = live.last_rejected_message;
    }
    all
}

/// Where deliveries are reported. Clones share it; reporting never waits.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    ledger: Arc<Mutex<Ledger>>,
    changed: Arc<Notify>,
}

impl Reports {
    /// A delivery with a valid signature is on disk.
    pub fn verified(&self, webhook: &WebhookIdentity, event: &str, key_id: &str, at: Timestamp) {
        self.lock().verified(webhook, event, key_id, at);
        self.changed.notify_one();
    }

    /// A request to the path of a webhook that exists was refused.
    pub fn refused(&self, webhook: &WebhookIdentity, refusal: Refusal, at: Timestamp) {
        self.lock().refused(webhook, refusal, at);
        self.changed.notify_one();
    }

    /// The webhooks, by uid, of which a delivery has waited for too long, and when the oldest arrived: all of them, each
    /// second, once the journal has said what waits.
    pub fn delayed(&self, delays: HashMap<String, Timestamp>) {
        let mut ledger = self.lock();
        let none = |d: &Option<HashMap<_, _>>| d.as_ref().is_none_or(HashMap::is_empty);
        let delays = Some(delays);
        if !none(&delays) || !none(&ledger.delays) {
            ledger.look_at = Some(Duration::ZERO);
            self.changed.notify_one();
        }
        ledger.delays = delays;
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is reported until `end` is cancelled, and then what is left. `name` is that of this receiver.
    pub async fn run(
        self,
        client: Client,
        name: String,
        index: watch::Receiver<Index>,
        metrics: Metrics,
        end: CancellationToken,
    ) {
        let start = Instant::now();
        let mut look = tokio::time::interval_at(start + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let writer = Writer {
            client,
            name,
            index,
            metrics,
            start,
        };
        while !end.is_cancelled() {
            let due = {
                let mut ledger = self.lock();
                if ledger.look_at.is_some_and(|at| at <= start.elapsed()) {
                    let index = writer.index.borrow();
                    ledger.look(&index, &writer.name, Timestamp::now(), start.elapsed());
                }
                ledger.due(start.elapsed(), false)
            };
            if !due.is_empty() {
                self.write(due, &writer).await;
                continue;
            }
            let next = self.lock().next_at();
            tokio::select! {
                _ = look.tick() => self.lock().look_at = Some(Duration::ZERO),
                () = async {
                    match next {
                        Some(at) => tokio::time::sleep_until(start + at).await,
                        None => std::future::pending().await,
                    }
                } => {}
                () = self.changed.notified() => {}
                () = end.cancelled() => {}
            }
        }
        let due = self.lock().due(start.elapsed(), true);
        let last = self.write(due, &writer);
        if tokio::time::timeout(LAST, last).await.is_err() {
            tracing::warn!("the last deliveries are not in the status of their webhooks");
        }
    }

    async fn write(&self, due: Vec<Due>, writer: &Writer) {
        let Writer {
            client,
            name,
            index,
            metrics,
            start,
        } = writer;
        futures::stream::iter(due)
            .for_each_concurrent(AT_ONCE, |due| async move {
                let uid = due.webhook.uid.clone();
                let live = index.borrow().webhook(&due.webhook).cloned();
                let Some(live) = live else {
                    self.lock().gone(&uid);
                    return;
                };
                if due.refused > 0 {
                    tracing::warn!(
                        webhook = %format!("{}/{}", due.webhook.namespace, due.webhook.name),
                        count = due.refused,
                        reason = due.deliveries.last_rejected_reason.as_deref().unwrap_or_default(),
                        "deliveries were refused"
                    );
                }
                let mut deliveries = merged(due.deliveries, live.deliveries.as_ref());
                let said = {
                    let ledger = self.lock();
                    let delays = ledger.delays.as_ref();
                    let speaker = Speaker { name, delays };
                    speaker.said(&uid, deliveries.delayed.as_ref(), Timestamp::now())
                };
                deliveries.delayed = said;
                let outcome = match deliveries::apply(client, &due.webhook, &deliveries).await {
                    Ok(()) => {
                        self.lock().written(&uid);
                        "written"
                    }
                    Err(
                        ClusterError::NotFound(_)
                        | ClusterError::NamespaceGone(_)
                        | ClusterError::Conflict(_),
                    ) => {
                        self.lock().gone(&uid);
                        "gone"
                    }
                    Err(error) => {
                        if self.lock().failed(&uid, start.elapsed()) {
                            let webhook = format!("{}/{}", due.webhook.namespace, due.webhook.name);
                            tracing::warn!(%webhook, %error, "status.deliveries cannot be written; trying again");
                        }
                        "failed"
                    }
                };
                metrics.status_writes.get_or_create(&Outcome { outcome }).inc();
            })
            .await;
    }
}

/// What every write needs.
struct Writer {
    client: Client,
    name: String,
    index: watch::Receiver<Index>,
    metrics: Metrics,
    start: Instant,
}

#[cfg(test)]
mod tests {
    use super::super::keyring::Webhook;
    use super::*;
    use crate::delivery::received::Known;

    fn webhook() -> WebhookIdentity {
        WebhookIdentity {
            namespace: "security".into(),
            name: "alarms".into(),
            uid: "u-1".into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const fn sec(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_delivery_is_written_at_once_and_the_next_after_thirty_seconds() {
        let mut ledger = Ledger::default();
        ledger.verified(&webhook(), "site.armed", "k", at(1));
        assert_eq!(ledger.due(sec(100), false).len(), 1);
        ledger.verified(&webhook(), "site.disarmed", "k", at(2));
        assert!(ledger.due(sec(129), false).is_empty());
        assert_eq!(ledger.next_at(), Some(sec(130)));
        let due = ledger.due(sec(130), false);
        assert_eq!(
            due[0].deliveries.last_event.as_deref(),
            Some("site.disarmed")
        );
        assert_eq!(ledger.next_at(), None);
    }

    #[test]
    fn a_test_delivery_is_written_at_once() {
        let mut ledger = Ledger::default();
        ledger.verified(&webhook(), "site.armed", "k", at(1));
        ledger.due(sec(100), false);
        ledger.verified(&webhook(), "webhook.test", "k2", at(2));
        let due = ledger.due(sec(101), false);
        assert_eq!(due[0].deliveries.last_test_key.as_deref(), Some("k2"));
        ledger.verified(&webhook(), "site.armed", "k3", at(3));
        let later = ledger.due(sec(200), false);
        assert_eq!(later[0].deliveries.last_test_key.as_deref(), Some("k2"));
        assert_eq!(later[0].deliveries.last_verified_key.as_deref(), Some("k3"));
    }

    #[test]
    fn ten_thousand_refusals_are_one_write_and_their_number() {
        let mut ledger = Ledger::default();
        ledger.refused(&webhook(), Refusal::SignatureMismatch, at(1));
        ledger.due(sec(100), false);
        for _ in 0..10_000 {
            ledger.refused(&webhook(), Refusal::SignatureMismatch, at(2));
            assert!(ledger.due(sec(101), false).is_empty());
        }
        let due = ledger.due(sec(130), false);
        assert_eq!((due.len(), due[0].refused), (1, 10_000));
    }

    #[test]
    fn a_failed_write_is_tried_again_after_a_growing_pause() {
        let mut ledger = Ledger::default();
        ledger.verified(&webhook(), "webhook.test", "k", at(1));
        let mut now = sec(100);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(ledger.due(now, false).len(), 1);
            ledger.failed("u-1", now);
            let next = ledger.next_at().unwrap();
            pauses.push(next.saturating_sub(now));
            now = next;
        }
        assert!(pauses.is_sorted() && pauses[0] >= sec(1) && pauses[7] <= EVERY);
        assert_eq!(ledger.due(now, false).len(), 1);
        ledger.written("u-1");
        assert_eq!(ledger.next_at(), None);
    }

    fn known(delayed: Option<Delay>) -> Index {
        let mut index = Index::new(1);
        index.put_webhook(
            0,
            Webhook {
                identity: webhook(),
                known: Known::default(),
                deliveries: Some(Deliveries {
                    delayed,
                    ..Deliveries::default()
                }),
            },
        );
        index
    }

    fn delay(receiver: &str, seen_at: i64) -> Delay {
        Delay {
            since: Time(at(1)),
            receiver: receiver.to_owned(),
            seen_at: Time(at(seen_at)),
        }
    }

    #[test]
    fn a_delay_is_written_when_it_begins_every_minute_and_when_it_is_over() {
        let mut ledger = Ledger::default();
        // When it is looked at, whether ours is delayed, what is said by then, and whether that is written.
        for (second, is_delayed, live, written) in [
            (100, true, None, true),
            // The write has not come back by the watch yet.
            (101, true, None, false),
            (102, true, Some(delay("pod-1", 100)), false),
            (159, true, Some(delay("pod-1", 100)), false),
            (160, true, Some(delay("pod-1", 100)), true),
            (170, false, Some(delay("pod-1", 160)), true),
            (180, false, None, false),
            (181, false, Some(delay("pod-2", 180)), false),
            (400, false, Some(delay("pod-2", 180)), true),
        ] {
            let delayed = is_delayed.then(|| (webhook().uid, at(30)));
            ledger.delays = Some(delayed.into_iter().collect());
            let now = sec(u64::try_from(second).unwrap());
            ledger.look(&known(live), "pod-1", at(second), now);
            assert_eq!(
                ledger.due(now, false).len(),
                usize::from(written),
                "{second}"
            );
        }
    }

    #[test]
    fn a_delay_that_is_over_at_once_is_taken_back_as_soon_as_that_may_be_written() {
        let mut ledger = Ledger {
            delays: Some(HashMap::from([(webhook().uid, at(30))])),
            ..Ledger::default()
        };
        ledger.look(&known(None), "pod-1", at(100), sec(100));
        assert_eq!(ledger.due(sec(100), false).len(), 1);
        let said = known(Some(delay("pod-1", 100)));
        ledger.delays = Some(HashMap::new());
        ledger.look(&said, "pod-1", at(102), sec(102));
        assert!(ledger.due(sec(102), false).is_empty());
        assert_eq!(ledger.next_at(), Some(sec(105)));
        ledger.look(&said, "pod-1", at(105), sec(105));
        assert_eq!(ledger.due(sec(105), false).len(), 1);
        assert_eq!(ledger.next_at(), None);
    }

    #[test]
    fn before_the_journal_has_said_what_waits_nothing_is_taken_back() {
        let mut ledger = Ledger::default();
        ledger.look(&known(Some(delay("pod-1", 1))), "pod-1", at(400), sec(400));
        assert!(ledger.due(sec(400), true).is_empty());
        let speaker = Speaker {
            name: "pod-1",
            delays: None,
        };
        let live = delay("pod-1", 1);
        assert_eq!(speaker.said("u-1", Some(&live), at(400)), Some(live));
    }

    #[test]
    fn what_another_replica_saw_later_is_kept() {
        let deliveries = |received: Option<i64>, test: Option<i64>, key: &str| Deliveries {
            last_received_at: received.map(|s| Time(at(s))),
            last_verified_key: received.map(|_| key.to_owned()),
            last_test_at: test.map(|s| Time(at(s))),
            last_test_key: test.map(|_| key.to_owned()),
            ..Deliveries::default()
        };
        let ours = deliveries(Some(10), None, "ours");
        let live = deliveries(Some(5), Some(3), "live");
        let all = merged(ours.clone(), Some(&live));
        assert_eq!(all.last_verified_key.as_deref(), Some("ours"));
        assert_eq!(all.last_test_key.as_deref(), Some("live"));
        assert_eq!(merged(ours.clone(), None), ours);
        assert_eq!(merged(Deliveries::default(), Some(&live)), live);
    }
}
