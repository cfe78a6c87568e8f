//! One attempt to publish one delivery: read it from the journal, make its Event, create it. What became of it is for
//! the publisher to judge.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::Client;

use crate::cluster::ClusterError;
use crate::cluster::events::{self, Created};
use crate::delivery::{DeadKind, KeyPlace, event};
use crate::journal::{Cause, Entry, Journal, JournalError};
use crate::resources::foreign::bounded;

/// The longest name of an event in a log line.
const LONGEST_EVENT: usize = 128;

/// What is told of a delivery in the log.
#[derive(Debug)]
pub struct About {
    /// `namespace/name` of its webhook.
    pub webhook: String,
    /// The name of its event; empty if it has none.
    pub event: String,
    /// The id of the key that verified it.
    pub key_id: String,
    /// Which key of the keyring that was.
    pub place: KeyPlace,
}

/// What became of one attempt.
#[derive(Debug)]
pub enum Attempt {
    /// The Event is there.
    Published(Box<About>, Created),
    /// It cannot become an Event as it is, and why.
    Dead(Box<About>, Cause),
    /// The journal holds no such pending delivery any more.
    Gone,
    /// The API server could not be asked, or does not take it now.
    Refused(ClusterError),
    /// The journal could not be read.
    Unread(JournalError),
}

/// Attempts it. It borrows nothing, so that others can be under way meanwhile.
pub async fn attempt(
    journal: Journal,
    client: Client,
    instance: Arc<str>,
    entry: Arc<Entry>,
    deadline: Duration,
) -> (Arc<Entry>, Attempt) {
    let seq = entry.waiting.seq;
    let attempt = publish(&journal, &client, &instance, seq, deadline).await;
    (entry, attempt)
}

async fn publish(
    journal: &Journal,
    client: &Client,
    instance: &str,
    seq: i64,
    deadline: Duration,
) -> Attempt {
    let received = match journal.load(seq).await {
        Ok(Some(received)) => received,
        Ok(None) => return Attempt::Gone,
        Err(error) => return Attempt::Unread(error),
    };
    let event = event::build(&received, instance, Timestamp::now());
    let about = Box::new(About {
        webhook: format!("{}/{}", received.webhook.namespace, received.webhook.name),
        event: event.as_ref().map_or_else(|_| String::new(), name),
        key_id: received.key_id,
        place: received.place,
    });
    let event = match event {
        Ok(event) => event,
        Err(why) => return dead(about, DeadKind::Unreadable, why.to_string()),
    };
    match events::create(client, &event, deadline).await {
        Ok(created) => Attempt::Published(about, created),
        // The namespace is gone, and the webhook with it. Waiting would keep room in the journal for a namespace that may
        // never come back; as a dead letter it is kept, and made an Event if a namespace of that name is made anew, say
        // from a backup. In Kubernetes that name is what rights are given by, so those who may read it then are those who
        // were given its name.
        Err(error @ ClusterError::NamespaceGone(_)) => {
            dead(about, DeadKind::Refused, error.to_string())
        }
        Err(error @ ClusterError::Invalid(_)) => {
            let why = format!("the API server does not take the Event: {error}");
            dead(about, DeadKind::Refused, why)
        }
        Err(error) => Attempt::Refused(error),
    }
}

fn dead(about: Box<About>, kind: DeadKind, reason: String) -> Attempt {
    Attempt::Dead(about, Cause { kind, reason })
}

/// The name of CHeKT's event, as the Event has it: the body is not read twice.
fn name(event: &Event) -> String {
    let annotations = event.metadata.annotations.as_ref();
    let name = annotations.and_then(|all| all.get(event::EVENT));
    bounded(name.map_or("", String::as_str), LONGEST_EVENT).to_owned()
}
