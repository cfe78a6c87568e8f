//! What users see of the deliveries in `status.deliveries`: written at most every 30 seconds a webhook, at once
//! for a test delivery, since the condition Verified waits for it, and when a delay begins or is over.
//!
//! How often strangers knock must not decide how often we write, so refusals only change what the next write says.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::keyring::Index;
use super::metrics::{Metrics, Outcome};
use crate::cluster::{ClusterError, deliveries, secrets};
use crate::delivery::delay::{self, Delayed};
use crate::resources::keyring::{TestRequest, WebhookIdentity};
use crate::resources::refusal::Refusal;
use crate::resources::webhook::{Delay, Deliveries, SeenProbe};

/// The least time between two writes for one webhook.
const EVERY: Duration = Duration::from_secs(30);
/// The pause after a write that failed; it doubles up to [`EVERY`].
const RETRY: Duration = Duration::from_millis(500);
/// The same after a conflict: the watch shows within milliseconds what was written in between.
const RETRY_CONFLICT: Duration = Duration::from_millis(50);
/// How long after the arrival of a test delivery the keyring may be read for its number, and how long that may take. What
/// is read later may be of a test that was noted long after this delivery arrived.
const READ_KEYRING: Duration = Duration::from_secs(2);
/// Writes at the same time.
const AT_ONCE: usize = 64;
/// Writes at the same time in one namespace: one in which they take long holds up no other.
const AT_ONCE_IN_NAMESPACE: usize = 4;
/// How long the last writes may take when the process ends.
const LAST: Duration = Duration::from_secs(3);
/// The least time between two writes for one webhook about a delay: one that comes and goes must not be written each
/// second.
const EVERY_DELAY: Duration = Duration::from_secs(5);
/// The least time between two probes, of all webhooks, that are written at once. The others wait as refusals do: anybody can
/// send probes.
const EVERY_PROBE: Duration = Duration::from_secs(2);
/// For how long a probe is kept here: other receivers write theirs into the same list.
const PROBE_KEPT: Duration = Duration::from_secs(60);
/// The most probes in a status.
const MAX_PROBES: usize = 4;
/// How often all webhooks are looked at for the word of a receiver about a delay that is gone for good.
const LOOK: Duration = Duration::from_secs(60);
/// The longest name of an event in the status.
const LONGEST_EVENT: usize = 128;

/// What is to be written, for each webhook that was delivered to.
#[derive(Debug, Default)]
struct Ledger {
    webhooks: HashMap<String, Entry>,
    /// The delayed deliveries of each webhook; `None` while that is not known, and then nothing is said.
    delays: Option<HashMap<String, Delayed>>,
    /// When that is to be compared with what is said.
    look_at: Option<Duration>,
    /// The report of a delay that each webhook shows, and since when it has not changed. How old it is tells no time
    /// that another machine wrote.
    heard: HashMap<String, (Delay, Duration)>,
    /// Before this, a probe is not written at once.
    probe_not_before: Duration,
    /// The uids of the webhooks whose write is under way, by namespace.
    writing: HashMap<String, HashSet<String>>,
}

#[derive(Debug)]
struct Entry {
    webhook: WebhookIdentity,
    deliveries: Deliveries,
    test: Option<Tested>,
    news: News,
    changed: bool,
    urgent: bool,
    not_before: Duration,
    failures: u32,
    refused: u64,
    delay_not_before: Duration,
    /// A probe came in since the last write.
    probed: bool,
    /// When a probe was last written.
    probed_at: Duration,
}

/// One write that is due.
#[derive(Clone, Debug, PartialEq)]
struct Due {
    webhook: WebhookIdentity,
    deliveries: Deliveries,
    test: Option<Tested>,
    news: News,
    refused: u64,
}

/// What this receiver has seen and not written yet. Of these parts its own word is the later one, and of all others what
/// the status says: the times in it are of other machines, or of an earlier clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    received: bool,
    test: bool,
    rejected: bool,
}

impl News {
    fn and(self, other: News) -> News {
        News {
            received: self.received || other.received,
            test: self.test || other.test,
            rejected: self.rejected || other.rejected,
        }
    }
}

/// A test delivery that arrived.
#[derive(Clone, Debug, PartialEq)]
struct Tested {
    at: Timestamp,
    arrived: Instant,
    /// The key that verified it.
    key_id: String,
    /// The request that the keyring showed when it arrived, or right after that.
    request: Option<TestRequest>,
}

impl Tested {
    fn number(&self) -> Option<i64> {
        self.request.as_ref().map(|request| request.number)
    }

    /// Whether this takes the place of a test delivery that is reported already. Numbers only grow, so the greater one is
    /// the later one, whichever receiver saw it. Under one number the delivery counts that is signed with the key to be
    /// proved; a late one with the key before does not undo that.
    fn replaces(&self, number: Option<i64>, key_id: Option<&str>) -> bool {
        let asked = self.request.as_ref().map(|request| request.key_id.as_str());
        match self.number().cmp(&number) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => Some(self.key_id.as_str()) == asked || key_id != asked,
        }
    }

    /// Reads the keyring once more. The watch may not have shown the request yet when its delivery arrived.
    async fn read(&mut self, keyrings: &Api<Secret>, uid: &str) {
        if self.arrived.elapsed() >= READ_KEYRING {
            return;
        }
        match secrets::listed_keyring(keyrings, uid, READ_KEYRING).await {
            Ok(Some(keyring)) => {
                let newer = keyring.test.filter(|t| Some(t.number) > self.number());
                self.request = newer.or_else(|| self.request.take());
            }
            Ok(None) => {}
            // What the watch had shown holds all the same; a test delivery that is not tied to its request is asked for
            // again.
            Err(error) => {
                tracing::debug!(uid, %error, "the keyring cannot be read for a test delivery");
            }
        }
    }
}

/// What this receiver knows of delays, and by which name it speaks of them.
#[derive(Clone, Copy, Debug)]
struct Speaker<'s> {
    name: &'s str,
    delays: Option<&'s HashMap<String, Delayed>>,
}

impl Speaker<'_> {
    /// What is to be said of a delay, given what is. Without knowledge it stays as it is.
    fn said(
        self,
        uid: &str,
        live: Option<&Delay>,
        unchanged: Duration,
        now: Timestamp,
    ) -> Option<Delay> {
        match self.delays {
            Some(delays) => delay::said(delays.get(uid), self.name, live, unchanged, now),
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
                test: None,
                news: News::default(),
                changed: false,
                urgent: false,
                not_before: Duration::ZERO,
                failures: 0,
                refused: 0,
                delay_not_before: Duration::ZERO,
                probed: false,
                probed_at: Duration::ZERO,
            })
    }

    fn verified(
        &mut self,
        webhook: &WebhookIdentity,
        event: &str,
        key_id: &str,
        request: Option<&TestRequest>,
        at: Timestamp,
    ) {
        let entry = self.entry(webhook);
        entry.changed = true;
        entry.news.received = true;
        entry.deliveries.last_received_at = Some(seconds(at));
        entry.deliveries.last_event = Some(event.chars().take(LONGEST_EVENT).collect());
        entry.deliveries.last_verified_key = Some(key_id.to_owned());
        if event == "webhook.test" {
            let tested = Tested {
                at,
                arrived: Instant::now(),
                key_id: key_id.to_owned(),
                request: request.cloned(),
            };
            let before = entry.test.as_ref().filter(|_| entry.news.test);
            if before.is_none_or(|b| tested.replaces(b.number(), Some(&b.key_id))) {
                entry.test = Some(tested);
            }
            entry.news.test = true;
            entry.urgent = true;
        }
    }

    fn refused(&mut self, webhook: &WebhookIdentity, refusal: Refusal, at: Timestamp) {
        let entry = self.entry(webhook);
        entry.changed = true;
        entry.news.rejected = true;
        entry.refused += 1;
        entry.deliveries.last_rejected_at = Some(seconds(at));
        entry.deliveries.last_rejected_reason = Some(refusal.as_str().to_owned());
        entry.deliveries.last_rejected_message = Some(refusal.message().to_owned());
    }

    /// For how long the report of a delay has not changed that a webhook shows, by the clock of this process.
    fn unchanged(&mut self, uid: &str, live: Option<&Delay>, now: Duration) -> Duration {
        let Some(live) = live else {
            self.heard.remove(uid);
            return Duration::ZERO;
        };
        match self.heard.get(uid) {
            Some((heard, since)) if heard == live => now.saturating_sub(*since),
            Some(_) | None => {
                self.heard.insert(uid.to_owned(), (live.clone(), now));
                Duration::ZERO
            }
        }
    }

    fn probed(&mut self, webhook: &WebhookIdentity, probe: SeenProbe) {
        let entry = self.entry(webhook);
        entry.changed = true;
        entry.probed = true;
        push_probe(&mut entry.deliveries.probes, probe);
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
            let unchanged = self.unchanged(uid, live, now);
            if live.is_none() && !delays.contains_key(uid) {
                continue;
            }
            let wanted = speaker.said(uid, live, unchanged, at);
            if !delay::is_worth_a_write(live, wanted.as_ref(), unchanged) {
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
            if !entry.changed || !(all || now >= entry.due_at(self.probe_not_before)) {
                continue;
            }
            if !may_write(&self.writing, &entry.webhook) {
                continue;
            }
            let WebhookIdentity { namespace, uid, .. } = entry.webhook.clone();
            self.writing.entry(namespace).or_default().insert(uid);
            if entry.probed {
                self.probe_not_before = now + EVERY_PROBE;
                entry.probed_at = now;
            } else if now.saturating_sub(entry.probed_at) > PROBE_KEPT {
                entry.deliveries.probes.clear();
            }
            entry.changed = false;
            entry.urgent = false;
            entry.probed = false;
            entry.not_before = now + EVERY;
            due.push(Due {
                webhook: entry.webhook.clone(),
                deliveries: entry.deliveries.clone(),
                test: entry.test.clone(),
                news: std::mem::take(&mut entry.news),
                refused: std::mem::take(&mut entry.refused),
            });
        }
        due
    }

    /// A write is over.
    fn landed(&mut self, webhook: &WebhookIdentity) {
        if let Some(uids) = self.writing.get_mut(&webhook.namespace) {
            uids.remove(&webhook.uid);
            if uids.is_empty() {
                self.writing.remove(&webhook.namespace);
            }
        }
    }

    fn next_at(&self) -> Option<Duration> {
        // What waits for a write that is under way is looked at when that is over.
        let waiting = self.webhooks.values();
        let waiting =
            waiting.filter(|entry| entry.changed && may_write(&self.writing, &entry.webhook));
        let due = waiting.map(|entry| entry.due_at(self.probe_not_before));
        due.chain(self.look_at).min()
    }

    fn written(&mut self, uid: &str) {
        if let Some(entry) = self.webhooks.get_mut(uid) {
            entry.failures = 0;
        }
    }

    /// Takes back what could not be written. Returns whether it is the first failure in a row.
    fn failed(&mut self, due: &Due, retry: Duration, now: Duration) -> bool {
        let Some(entry) = self.webhooks.get_mut(&due.webhook.uid) else {
            return false;
        };
        entry.failures = entry.failures.saturating_add(1);
        entry.changed = true;
        if due.news.test && !entry.news.test {
            // With the number that was read for it meanwhile.
            entry.test.clone_from(&due.test);
        }
        entry.news = entry.news.and(due.news);
        // An urgent one must wait like the others, or it would be tried without a pause.
        entry.urgent = false;
        let pause = retry.saturating_mul(1 << entry.failures.min(6));
        entry.not_before = now + pause.min(EVERY);
        entry.failures == 1
    }

    fn gone(&mut self, uid: &str) {
        self.heard.remove(uid);
        self.webhooks.remove(uid);
    }
}

/// Whether a write may begin for a webhook: none of it is under way, and not too many of others.
fn may_write(writing: &HashMap<String, HashSet<String>>, webhook: &WebhookIdentity) -> bool {
    let all: usize = writing.values().map(HashSet::len).sum();
    let here = writing.get(&webhook.namespace);
    all < AT_ONCE
        && here.is_none_or(|uids| uids.len() < AT_ONCE_IN_NAMESPACE && !uids.contains(&webhook.uid))
}

impl Entry {
    fn due_at(&self, probe_not_before: Duration) -> Duration {
        match (self.failures, self.urgent, self.probed) {
            (0, true, _) => Duration::ZERO,
            (0, false, true) => self.not_before.min(probe_not_before),
            _ => self.not_before,
        }
    }
}

/// Puts a probe at the end of a list, or the younger sight of it in its place.
fn push_probe(probes: &mut Vec<SeenProbe>, probe: SeenProbe) {
    probes.retain(|known| known.id != probe.id);
    probes.push(probe);
    if probes.len() > MAX_PROBES {
        probes.remove(0);
    }
}

fn seconds(at: Timestamp) -> Time {
    // Whole seconds of a valid time are a valid time.
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// What the status says, with what this receiver has seen since its last write. An apply replaces the whole of what its
/// manager owns, so what is left out would be lost. Who of two receivers saw something later is not asked of their
/// clocks: a receiver whose clock is ahead would hide what the other sees. What is said of a delay [`delay::said`]
/// decides.
fn merged(due: &Due, live: Option<&Deliveries>) -> Deliveries {
    let mut all = live.cloned().unwrap_or_default();
    let ours = &due.deliveries;
    for probe in &ours.probes {
        push_probe(&mut all.probes, probe.clone());
    }
    if due.news.received {
        all.last_received_at.clone_from(&ours.last_received_at);
        all.last_event.clone_from(&ours.last_event);
        all.last_verified_key.clone_from(&ours.last_verified_key);
    }
    if due.news.rejected {
        all.last_rejected_at.clone_from(&ours.last_rejected_at);
        all.last_rejected_reason
            .clone_from(&ours.last_rejected_reason);
        all.last_rejected_message
            .clone_from(&ours.last_rejected_message);
    }
    if let Some(test) = due.test.as_ref().filter(|_| due.news.test)
        && test.replaces(all.last_test_number, all.last_test_key.as_deref())
    {
        all.last_test_at = Some(seconds(test.at));
        all.last_test_key = Some(test.key_id.clone());
        all.last_test_number = test.number();
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
    /// A delivery with a valid signature is on disk. `request` is what the keyring that verified it says of tests.
    pub fn verified(
        &self,
        webhook: &WebhookIdentity,
        event: &str,
        key_id: &str,
        request: Option<&TestRequest>,
        at: Timestamp,
    ) {
        self.lock().verified(webhook, event, key_id, request, at);
        self.changed.notify_one();
    }

    /// A request to the path of a webhook that exists was refused.
    pub fn refused(&self, webhook: &WebhookIdentity, refusal: Refusal, at: Timestamp) {
        self.lock().refused(webhook, refusal, at);
        self.changed.notify_one();
    }

    /// A probe that names a webhook was refused, as all are.
    pub fn probed(&self, webhook: &WebhookIdentity, probe: SeenProbe) {
        self.lock().probed(webhook, probe);
        self.changed.notify_one();
    }

    /// The webhooks, by uid, of which a delivery has waited for too long: all of them, each second, once the journal has
    /// said what waits.
    pub fn delayed(&self, delays: HashMap<String, Delayed>) {
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

    /// Writes what is reported until `end` is cancelled, and then what is left. `name` is that of this receiver,
    /// `keyrings` are the Secrets of the operator's namespace.
    pub async fn run(
        self,
        client: Client,
        keyrings: Api<Secret>,
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
            keyrings,
            name,
            index,
            metrics,
            start,
        };
        let mut under_way = FuturesUnordered::new();
        while !end.is_cancelled() {
            let due = {
                let mut ledger = self.lock();
                if ledger.look_at.is_some_and(|at| at <= start.elapsed()) {
                    let index = writer.index.borrow();
                    ledger.look(&index, &writer.name, Timestamp::now(), start.elapsed());
                }
                ledger.due(start.elapsed(), false)
            };
            under_way.extend(due.into_iter().map(|due| self.write(due, &writer)));
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
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                () = end.cancelled() => {}
            }
        }
        let last = async {
            loop {
                let due = self.lock().due(start.elapsed(), true);
                under_way.extend(due.into_iter().map(|due| self.write(due, &writer)));
                if under_way.next().await.is_none() {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST, last).await.is_err() {
            tracing::warn!("the last deliveries are not in the status of their webhooks");
        }
    }

    async fn write(&self, due: Due, writer: &Writer) {
        let webhook = due.webhook.clone();
        self.try_write(due, writer).await;
        self.lock().landed(&webhook);
    }

    async fn try_write(&self, due: Due, writer: &Writer) {
        let Writer {
            client,
            keyrings,
            name,
            index,
            metrics,
            start,
        } = writer;
        let mut due = due;
        let uid = due.webhook.uid.clone();
        if let Some(test) = due.test.as_mut().filter(|_| due.news.test) {
            test.read(keyrings, &uid).await;
        }
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
        let mut deliveries = merged(&due, live.deliveries.as_ref());
        let said = {
            let mut ledger = self.lock();
            let delayed = deliveries.delayed.as_ref();
            let unchanged = ledger.unchanged(&uid, delayed, start.elapsed());
            let delays = ledger.delays.as_ref();
            let speaker = Speaker { name, delays };
            speaker.said(&uid, delayed, unchanged, Timestamp::now())
        };
        deliveries.delayed = said;
        let version = live.version.as_deref();
        let applied = deliveries::apply(client, &due.webhook, version, &deliveries).await;
        let outcome = match applied {
            Ok(()) => {
                self.lock().written(&uid);
                "written"
            }
            Err(ClusterError::NotFound(_) | ClusterError::NamespaceGone(_)) => {
                self.lock().gone(&uid);
                "gone"
            }
            // Another receiver may have written since, whose word must not be lost. If it is another webhook of that name,
            // the index will show that this one is gone.
            Err(ClusterError::Conflict(_)) => {
                self.lock().failed(&due, RETRY_CONFLICT, start.elapsed());
                // At the end of the process nothing else keeps it from being tried again at once.
                tokio::time::sleep(RETRY_CONFLICT).await;
                "conflict"
            }
            Err(error) => {
                if self.lock().failed(&due, RETRY, start.elapsed()) {
                    let webhook = format!("{}/{}", due.webhook.namespace, due.webhook.name);
                    tracing::warn!(%webhook, %error, "status.deliveries cannot be written; trying again");
                }
                "failed"
            }
        };
        metrics
            .status_writes
            .get_or_create(&Outcome { outcome })
            .inc();
    }
}

/// What every write needs.
struct Writer {
    client: Client,
    keyrings: Api<Secret>,
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

    /// What is due, as if each write were over at once.
    fn due(ledger: &mut Ledger, now: Duration, all: bool) -> Vec<Due> {
        let mut taken = Vec::new();
        loop {
            let due = ledger.due(now, all);
            if due.is_empty() {
                return taken;
            }
            for due in &due {
                ledger.landed(&due.webhook);
            }
            taken.extend(due);
        }
    }

    const fn sec(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_delivery_is_written_at_once_and_the_next_after_thirty_seconds() {
        let mut ledger = Ledger::default();
        ledger.verified(&webhook(), "site.armed", "k", None, at(1));
        assert_eq!(due(&mut ledger, sec(100), false).len(), 1);
        ledger.verified(&webhook(), "site.disarmed", "k", None, at(2));
        assert!(due(&mut ledger, sec(129), false).is_empty());
        assert_eq!(ledger.next_at(), Some(sec(130)));
        let some = due(&mut ledger, sec(130), false);
        assert_eq!(
            some[0].deliveries.last_event.as_deref(),
            Some("site.disarmed")
        );
        assert_eq!(ledger.next_at(), None);
    }

    #[test]
    fn a_test_delivery_is_written_at_once() {
        let mut ledger = Ledger::default();
        ledger.verified(&webhook(), "site.armed", "k", None, at(1));
        due(&mut ledger, sec(100), false);
        ledger.verified(&webhook(), "webhook.test", "k2", Some(&request(4)), at(2));
        let some = due(&mut ledger, sec(101), false);
        let all = merged(&some[0], None);
        assert_eq!(all.last_test_key.as_deref(), Some("k2"));
        assert_eq!(all.last_test_number, Some(4));
        ledger.verified(&webhook(), "site.armed", "k3", None, at(3));
        let later = due(&mut ledger, sec(200), false);
        let all = merged(&later[0], Some(&all));
        assert_eq!(all.last_test_key.as_deref(), Some("k2"));
        assert_eq!(all.last_verified_key.as_deref(), Some("k3"));
    }

    fn probe(id: &str) -> SeenProbe {
        SeenProbe {
            id: id.to_owned(),
            refused: "SignatureMismatch".to_owned(),
            from: None,
            path: None,
            intact: Some(true),
        }
    }

    fn ids(deliveries: &Deliveries) -> Vec<&str> {
        deliveries.probes.iter().map(|p| p.id.as_str()).collect()
    }

    #[test]
    fn a_probe_is_written_at_once_and_a_flood_of_them_every_two_seconds_whatever_they_name() {
        let mut ledger = Ledger::default();
        let named = |n: usize| WebhookIdentity {
            name: format!("w{n}"),
            uid: format!("u{n}"),
            ..webhook()
        };
        for n in 0..100 {
            ledger.verified(&named(n), "site.armed", "k", None, at(1));
        }
        assert_eq!(due(&mut ledger, sec(100), false).len(), 100);
        let mut writes = 0;
        for second in 101..130 {
            for n in 0..100 {
                ledger.probed(&named(n), probe(&format!("{second}-{n}")));
            }
            let some = due(&mut ledger, sec(second), false);
            writes += some.len();
            assert!(
                some.iter()
                    .all(|d| d.refused == 0 && d.deliveries.probes.len() <= 4)
            );
        }
        assert_eq!(writes, 15);
        assert!(ledger.next_at().unwrap() <= sec(131));
        // The others at the pace of refusals; the last of these writes said all about its webhook.
        assert_eq!(due(&mut ledger, sec(161), false).len(), 99);
    }

    #[test]
    fn the_last_four_probes_stay_whichever_receiver_saw_them() {
        let mut ledger = Ledger::default();
        for id in ["1", "2", "3", "4", "5", "3"] {
            ledger.probed(&webhook(), probe(id));
        }
        let ours = due(&mut ledger, sec(100), false).remove(0);
        assert_eq!(ids(&ours.deliveries), ["2", "4", "5", "3"]);
        let theirs = Deliveries {
            probes: ["3", "a", "b"].map(probe).to_vec(),
            ..Deliveries::default()
        };
        assert_eq!(ids(&merged(&ours, Some(&theirs))), ["2", "4", "5", "3"]);
        let newer = Due {
            deliveries: Deliveries {
                probes: vec![probe("c")],
                ..Deliveries::default()
            },
            ..ours
        };
        assert_eq!(ids(&merged(&newer, Some(&theirs))), ["3", "a", "b", "c"]);
        // A probe of long ago does not take the place of another receiver's.
        ledger.verified(&webhook(), "site.armed", "k", None, at(1));
        let later = due(&mut ledger, sec(200), false).remove(0);
        assert_eq!(ids(&merged(&later, Some(&theirs))), ["3", "a", "b"]);
    }

    #[test]
    fn ten_thousand_refusals_are_one_write_and_their_number() {
        let mut ledger = Ledger::default();
        ledger.refused(&webhook(), Refusal::SignatureMismatch, at(1));
        due(&mut ledger, sec(100), false);
        for _ in 0..10_000 {
            ledger.refused(&webhook(), Refusal::SignatureMismatch, at(2));
            assert!(due(&mut ledger, sec(101), false).is_empty());
        }
        let some = due(&mut ledger, sec(130), false);
        assert_eq!((some.len(), some[0].refused), (1, 10_000));
    }

    #[test]
    fn a_failed_write_is_tried_again_after_a_growing_pause() {
        let mut ledger = Ledger::default();
        ledger.verified(&webhook(), "webhook.test", "k", Some(&request(1)), at(1));
        let mut now = sec(100);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let some = due(&mut ledger, now, false);
            assert!(some.len() == 1 && some[0].news.test && some[0].news.received);
            ledger.failed(&some[0], RETRY, now);
            let next = ledger.next_at().unwrap();
            pauses.push(next.saturating_sub(now));
            now = next;
        }
        assert!(pauses.is_sorted() && pauses[0] >= sec(1) && pauses[7] <= EVERY);
        assert_eq!(due(&mut ledger, now, false).len(), 1);
        ledger.written("u-1");
        assert_eq!(ledger.next_at(), None);
    }

    #[test]
    fn writes_that_take_long_in_one_namespace_hold_up_no_other_and_none_is_written_twice_at_once() {
        let of = |namespace: &str, number: usize| WebhookIdentity {
            namespace: namespace.to_owned(),
            name: format!("w-{number}"),
            uid: format!("{namespace}-{number}"),
        };
        let mut ledger = Ledger::default();
        for number in 0..100 {
            ledger.verified(&of("slow", number), "site.armed", "k", None, at(1));
        }
        let slow = ledger.due(sec(100), false);
        assert_eq!(slow.len(), AT_ONCE_IN_NAMESPACE);
        assert!(ledger.due(sec(100), false).is_empty());
        assert_eq!(
            ledger.next_at(),
            None,
            "there is nothing to do before one of them is over"
        );
        ledger.verified(&of("fast", 0), "site.armed", "k", None, at(1));
        assert_eq!(ledger.due(sec(100), false).len(), 1);
        ledger.verified(&slow[0].webhook, "webhook.test", "k", None, at(1));
        assert!(ledger.due(sec(100), true).is_empty());
        ledger.landed(&slow[0].webhook);
        assert_eq!(ledger.due(sec(100), false).len(), 1);
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
                version: None,
            },
        );
        index
    }

    fn delay(receiver: &str, seen_at: i64) -> Delay {
        Delay {
            since: Time(at(1)),
            receiver: receiver.to_owned(),
            seen_at: Time(at(seen_at)),
            cause: None,
        }
    }

    fn delayed(second: i64) -> Delayed {
        Delayed {
            since: at(second),
            cause: None,
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
            (161, true, Some(delay("pod-1", 100)), false),
            (162, true, Some(delay("pod-1", 100)), true),
            (170, false, Some(delay("pod-1", 162)), true),
            (180, false, None, false),
            (181, false, Some(delay("pod-2", 180)), false),
            (400, false, Some(delay("pod-2", 180)), true),
        ] {
            let delayed = is_delayed.then(|| (webhook().uid, delayed(30)));
            ledger.delays = Some(delayed.into_iter().collect());
            let now = sec(u64::try_from(second).unwrap());
            ledger.look(&known(live), "pod-1", at(second), now);
            assert_eq!(
                due(&mut ledger, now, false).len(),
                usize::from(written),
                "{second}"
            );
        }
    }

    #[test]
    fn a_delay_that_is_over_at_once_is_taken_back_as_soon_as_that_may_be_written() {
        let mut ledger = Ledger {
            delays: Some(HashMap::from([(webhook().uid, delayed(30))])),
            ..Ledger::default()
        };
        ledger.look(&known(None), "pod-1", at(100), sec(100));
        assert_eq!(due(&mut ledger, sec(100), false).len(), 1);
        let said = known(Some(delay("pod-1", 100)));
        ledger.delays = Some(HashMap::new());
        ledger.look(&said, "pod-1", at(102), sec(102));
        assert!(due(&mut ledger, sec(102), false).is_empty());
        assert_eq!(ledger.next_at(), Some(sec(105)));
        ledger.look(&said, "pod-1", at(105), sec(105));
        assert_eq!(due(&mut ledger, sec(105), false).len(), 1);
        assert_eq!(ledger.next_at(), None);
    }

    #[test]
    fn before_the_journal_has_said_what_waits_nothing_is_taken_back() {
        let mut ledger = Ledger::default();
        ledger.look(&known(Some(delay("pod-1", 1))), "pod-1", at(400), sec(400));
        assert!(due(&mut ledger, sec(400), true).is_empty());
        let speaker = Speaker {
            name: "pod-1",
            delays: None,
        };
        let live = delay("pod-1", 1);
        let said = speaker.said("u-1", Some(&live), sec(400), at(400));
        assert_eq!(said, Some(live));
    }

    fn request(number: i64) -> TestRequest {
        TestRequest {
            number,
            key_id: "current".into(),
            url: "https://a.example/webhooks/security/alarms".into(),
        }
    }

    #[test]
    fn of_two_receivers_the_one_that_writes_has_seen_what_it_saw_later_whatever_the_clocks_say() {
        // What the other receiver has written: by a clock an hour behind, with this one, an hour ahead.
        for skew in [-3_600, 0, 3_600] {
            let time = Some(Time(at(10_000 + skew)));
            let live = Deliveries {
                last_received_at: time.clone(),
                last_verified_key: Some("live".into()),
                last_test_at: time.clone(),
                last_test_key: Some("current".into()),
                last_test_number: Some(3),
                last_rejected_at: time,
                last_rejected_reason: Some("live".into()),
                ..Deliveries::default()
            };
            let mut ledger = Ledger::default();
            ledger.verified(&webhook(), "site.armed", "ours", None, at(10_000));
            let some = due(&mut ledger, sec(100), false);
            let all = merged(&some[0], Some(&live));
            assert_eq!(all.last_verified_key.as_deref(), Some("ours"), "{skew}");
            assert_eq!(all.last_test_number, Some(3));
            assert_eq!(all.last_rejected_reason.as_deref(), Some("live"));
            // Written once, it is no news, and the other one's word stays.
            ledger.written("u-1");
            ledger.refused(&webhook(), Refusal::BodyTooLarge, at(10_001));
            let some = due(&mut ledger, sec(200), false);
            let all = merged(&some[0], Some(&live));
            assert_eq!(all.last_verified_key.as_deref(), Some("live"), "{skew}");
            assert_eq!(all.last_rejected_reason.as_deref(), Some("BodyTooLarge"));
        }
    }

    #[test]
    fn a_test_delivery_is_reported_under_the_greatest_number_and_the_key_that_was_asked_for() {
        let live = |number, key: &str| Deliveries {
            last_test_at: Some(Time(at(10_000))),
            last_test_key: Some(key.into()),
            last_test_number: number,
            ..Deliveries::default()
        };
        for (what, ours, key, live, taken) in [
            (
                "the next",
                Some(4),
                "current",
                live(Some(3), "current"),
                true,
            ),
            ("again", Some(3), "current", live(Some(3), "current"), true),
            ("the first", Some(3), "current", Deliveries::default(), true),
            // The watch of this receiver is behind that of the other one.
            (
                "behind",
                Some(3),
                "current",
                live(Some(4), "current"),
                false,
            ),
            (
                "a late one with the key before",
                Some(3),
                "old",
                live(Some(3), "current"),
                false,
            ),
            (
                "first with the old key",
                Some(3),
                "old",
                live(Some(3), "older"),
                true,
            ),
            (
                "then with the new one",
                Some(3),
                "current",
                live(Some(3), "old"),
                true,
            ),
            (
                "the next with the old key",
                Some(4),
                "old",
                live(Some(3), "current"),
                true,
            ),
            (
                "none was noted",
                None,
                "current",
                live(Some(3), "current"),
                false,
            ),
            (
                "none was ever noted",
                None,
                "current",
                live(None, "current"),
                true,
            ),
        ] {
            let mut ledger = Ledger::default();
            let request = ours.map(request);
            ledger.verified(&webhook(), "webhook.test", key, request.as_ref(), at(1));
            let some = due(&mut ledger, sec(100), false);
            let all = merged(&some[0], Some(&live));
            let wanted = if taken {
                (ours, Some(key.to_owned()), Some(Time(at(1))))
            } else {
                (live.last_test_number, live.last_test_key, live.last_test_at)
            };
            let said = (all.last_test_number, all.last_test_key, all.last_test_at);
            assert_eq!(said, wanted, "{what}");
        }
    }

    #[test]
    fn the_number_that_was_read_for_a_test_delivery_outlives_a_write_that_failed() {
        let mut ledger = Ledger::default();
        ledger.verified(
            &webhook(),
            "webhook.test",
            "current",
            Some(&request(3)),
            at(1),
        );
        let mut some = due(&mut ledger, sec(100), false);
        some[0].test.as_mut().unwrap().request = Some(request(4));
        ledger.failed(&some[0], RETRY_CONFLICT, sec(100));
        let again = due(&mut ledger, sec(101), false);
        assert_eq!(merged(&again[0], None).last_test_number, Some(4));
    }
}
