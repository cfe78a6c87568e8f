//! Rows of the journal: what was written is what is read, and what a broken disk or another program has put into a row is
//! an error or a delivery, and never a panic.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use chekt_operator::delivery::{Class, DeliveryKey, KeyPlace, Occurrence, Received};
use chekt_operator::journal::{record, schema};
use chekt_operator::resources::keyring::WebhookIdentity;
use k8s_openapi::jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use rusqlite::{Connection, params};

#[derive(Arbitrary, Debug)]
enum Row {
    /// As we write it.
    Ours(Delivery),
    /// As nobody writes it.
    Foreign(Foreign),
}

#[derive(Arbitrary, Debug)]
struct Delivery {
    key: [u8; 32],
    occurrence: Option<[u8; 32]>,
    texts: [String; 4],
    class: u8,
    place: u8,
    received_at: i64,
    webhook_id: Option<String>,
    labels: BTreeMap<String, String>,
    body: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Foreign {
    key: Vec<u8>,
    occurrence: Option<Vec<u8>>,
    state: i64,
    class: i64,
    texts: [String; 4],
    received_at: i64,
    labels: String,
    size: i64,
    body: Vec<u8>,
    place: i64,
}

fn journal() -> Connection {
    let mut connection = Connection::open_in_memory().expect("memory");
    schema::bring_up(&mut connection).expect("a schema");
    connection
}

fn there_and_back(delivery: Delivery) {
    let Ok(received_at) = Timestamp::from_microsecond(delivery.received_at) else {
        return;
    };
    let [namespace, name, uid, key_id] = delivery.texts;
    let places = [KeyPlace::Current, KeyPlace::Next, KeyPlace::Previous];
    let received = Received {
        key: DeliveryKey::from_bytes(delivery.key),
        occurrence: delivery.occurrence.map(Occurrence::from_bytes),
        webhook: WebhookIdentity {
            namespace,
            name,
            uid,
        },
        class: Class::from_rank(i64::from(delivery.class % 4)),
        key_id,
        place: places[usize::from(delivery.place) % 3],
        received_at,
        labels: delivery.labels,
        webhook_id: delivery.webhook_id,
        body: delivery.body,
    };
    let connection = journal();
    let mut statement = connection.prepare(record::INSERT).expect("a statement");
    record::insert(&mut statement, 7, &received).expect("a row");
    let read = record::load(&connection, 7, record::PENDING).expect("a row that can be read");
    assert_eq!(read, Some(received));
}

fn whatever_it_is(row: &Foreign) {
    let connection = journal();
    let [namespace, name, uid, key_id] = &row.texts;
    let inserted = connection.execute(
        "INSERT INTO records (seq, key, occurrence, state, class, namespace, name, uid, key_id, received_at, labels, \
         size, body, place) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            row.key,
            row.occurrence,
            row.state % 5,
            row.class,
            namespace,
            name,
            uid,
            key_id,
            row.received_at,
            row.labels,
            row.size,
            row.body,
            row.place,
        ],
    );
    if inserted.is_err() {
        return;
    }
    for state in [
        record::PENDING,
        record::PUBLISHED,
        record::DEAD,
        record::REPLAY,
    ] {
        let _ = record::load(&connection, 1, state);
    }
    let _ = record::pending(&connection, drop);
    let _ = record::whole_after(&connection, 0, 10);
    let _ = record::highest(&connection);
}

fuzz_target!(|row: Row| match row {
    Row::Ours(delivery) => there_and_back(delivery),
    Row::Foreign(row) => whatever_it_is(&row),
});
