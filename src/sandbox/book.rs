//! The book of deliveries: what is to be delivered, how often it was tried, what became of it. Pure data; the
//! engine that sends is in `deliveries`.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

/// Most deliveries under way.
pub const MOST_PENDING: usize = 20_000;
/// Most deliveries kept in all; of those that have ended the oldest go first.
const MOST: usize = 40_000;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    Pending,
    Delivered,
    Failed,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// The status answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
}

/// One delivery.
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub delivery_id: String,
    pub webhook_id: String,
    /// As in the body; null when the body does not say.
    pub event: Option<String>,
    pub state: Progress,
    /// Why it was given up before its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub attempts: Vec<Attempt>,
    /// The bytes that are sent.
    pub body: String,
    /// When the next attempt is due.
    pub due: Timestamp,
    /// Made by the test route.
    pub is_test: bool,
    /// A further delivery of what was delivered already.
    pub is_duplicate: bool,
}

/// What a new delivery is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub webhook_id: String,
    pub event: Option<String>,
    pub body: String,
    pub is_test: bool,
    pub is_duplicate: bool,
}

/// All deliveries, by number.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Book {
    last: u64,
    // What has ended is of no use to a process that starts anew.
    #[serde(serialize_with = "only_pending")]
    all: BTreeMap<u64, Delivery>,
    // For webhooks that are disabled, where the quirks say that these are kept.
    #[serde(default)]
    held: Vec<Order>,
    #[serde(skip)]
    unstarted: Vec<u64>,
    #[serde(skip)]
    pending: usize,
}

/// There are too many deliveries under way.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{MOST_PENDING} deliveries are under way, no more are taken")]
pub struct Full;

impl Book {
    /// Takes a delivery in; it is due at once. Gives its id.
    ///
    /// # Errors
    /// [`Full`]
    pub fn add(&mut self, order: Order, now: Timestamp) -> Result<String, Full> {
        if self.pending >= MOST_PENDING {
            return Err(Full);
        }
        self.last += 1;
        self.pending += 1;
        let delivery_id = format!("delivery_{}", self.last);
        let Order {
            webhook_id,
            event,
            body,
            is_test,
            is_duplicate,
        } = order;
        let delivery = Delivery {
            delivery_id: delivery_id.clone(),
            webhook_id,
            event,
            state: Progress::Pending,
            reason: None,
            attempts: Vec::new(),
            body,
            due: now,
            is_test,
            is_duplicate,
        };
        self.all.insert(self.last, delivery);
        self.unstarted.push(self.last);
        self.forget_oldest();
        Ok(delivery_id)
    }

    /// Keeps a delivery back until its webhook is active again.
    ///
    /// # Errors
    /// [`Full`]
    pub fn hold(&mut self, order: Order) -> Result<(), Full> {
        if self.held.len() >= MOST_PENDING {
            return Err(Full);
        }
        self.held.push(order);
        Ok(())
    }

    /// Takes out what is kept back for a webhook, oldest first.
    pub fn unhold(&mut self, webhook_id: &str) -> Vec<Order> {
        let held = std::mem::take(&mut self.held);
        let (taken, kept) = held
            .into_iter()
            .partition(|order| order.webhook_id == webhook_id);
        self.held = kept;
        taken
    }

    /// The numbers of the deliveries that nobody works at yet. Asked once, they count as started.
    pub fn start(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.unstarted)
    }

    /// After a restart: every delivery under way is to be started.
    pub fn resume(&mut self) {
        self.all
            .retain(|_, delivery| delivery.state == Progress::Pending);
        self.pending = self.all.len();
        self.unstarted = self.all.keys().copied().collect();
    }

    /// The delivery of a number.
    pub fn get(&self, number: u64) -> Option<&Delivery> {
        self.all.get(&number)
    }

    /// Writes an attempt down.
    pub fn attempted(&mut self, number: u64, attempt: Attempt) {
        if let Some(delivery) = self.all.get_mut(&number) {
            delivery.attempts.push(attempt);
        }
    }

    /// Sets the time of the next attempt.
    pub fn postpone(&mut self, number: u64, due: Timestamp) {
        if let Some(delivery) = self.all.get_mut(&number) {
            delivery.due = due;
        }
    }

    /// Replaces the bytes that are sent.
    pub fn rewrite(&mut self, number: u64, body: String) {
        if let Some(delivery) = self.all.get_mut(&number) {
            delivery.body = body;
        }
    }

    /// Ends a delivery.
    pub fn end(&mut self, number: u64, state: Progress, reason: Option<&str>) {
        if let Some(delivery) = self.all.get_mut(&number) {
            if delivery.state == Progress::Pending && state != Progress::Pending {
                self.pending -= 1;
            }
            delivery.state = state;
            delivery.reason = reason.map(str::to_owned);
        }
    }

    /// The numbers of the deliveries under way to a webhook.
    pub fn pending_for(&self, webhook_id: &str) -> Vec<u64> {
        self.all
            .iter()
            .filter(|(_, delivery)| {
                delivery.state == Progress::Pending && delivery.webhook_id == webhook_id
            })
            .map(|(number, _)| *number)
            .collect()
    }

    /// All deliveries kept, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Delivery> {
        self.all.values()
    }

    fn forget_oldest(&mut self) {
        if self.all.len() > MOST
            && let Some(oldest) = self
                .all
                .iter()
                .find(|(_, delivery)| delivery.state != Progress::Pending)
                .map(|(number, _)| *number)
        {
            self.all.remove(&oldest);
        }
    }
}

fn only_pending<S: Serializer>(
    all: &BTreeMap<u64, Delivery>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        all.iter()
            .filter(|(_, delivery)| delivery.state == Progress::Pending),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::store::samples::at;

    fn order() -> Order {
        Order {
            webhook_id: "w".to_owned(),
            event: None,
            body: "{}".to_owned(),
            is_test: false,
            is_duplicate: false,
        }
    }

    #[test]
    fn what_is_under_way_survives_a_restart_and_what_has_ended_does_not() {
        let mut book = Book::default();
        book.add(order(), at(0)).unwrap();
        let second = book.add(order(), at(0)).unwrap();
        assert_eq!(book.start(), [1, 2]);
        assert!(book.start().is_empty());
        book.end(1, Progress::Delivered, None);

        let text = serde_json::to_string(&book).unwrap();
        let mut again: Book = serde_json::from_str(&text).unwrap();
        again.resume();
        assert_eq!(again.start(), [2]);
        let ids: Vec<_> = again.all().map(|d| d.delivery_id.clone()).collect();
        assert_eq!(ids, [second]);
        assert_eq!(again.add(order(), at(0)).unwrap(), "delivery_3");
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = Book::default();
        for _ in 0..MOST_PENDING {
            book.add(order(), at(0)).unwrap();
        }
        assert_eq!(book.add(order(), at(0)), Err(Full));
        book.end(1, Progress::Failed, None);
        book.end(1, Progress::Failed, None);
        assert!(book.add(order(), at(0)).is_ok());
        assert_eq!(book.add(order(), at(0)), Err(Full));
    }
}
