//! Which deliveries are in the file, by key, and what was last said of each alarm: the answer to "is this a copy?", in
//! memory.
//!
//! Keys are hashes, so each falls on another page of an index. Two unique indexes in the file made an append write
//! four times the bytes that its row has, and took more time than all the rest of it. Here it is two look-ups, and
//! the file has only what grows at its end. The file remains the truth: this is filled from it whenever it is
//! opened, and changed with each commit. No other process adds or removes rows.
//!
//! Of a SHA-256 the first 128 bits are kept. That two of a million keys share them by accident has a chance below
//! one in 10^26. Whoever wanted another's delivery to be taken for a copy of his own would need 2^108 attempts or more,
//! and the webhook's secret; 2^64 attempts find two bodies for his own webhook, of which the second is then not
//! published.
//!
//! A commit that fails must leave nothing behind, and a copy must be recognised within the commit that brings the
//! first of them. So changes are made at once, and noted until it is known whether they stay.

use std::collections::HashMap;
use std::hash::Hash;

use rusqlite::{Connection, Row};

use crate::delivery::{DeliveryKey, Occurrence};

/// The first half of a key.
type Half = [u8; 16];

/// The keys of all rows, with their numbers, and the last row about each alarm.
///
/// Only the last has its occurrence in the file: what came in between must be known after a restart as well, also when
/// it has been forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    keys: Changing<Half, i64>,
    last: Changing<Half, Said>,
}

/// What identifies the delivery of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The row's number.
    pub seq: i64,
    /// Its key.
    pub key: DeliveryKey,
    /// What it says of which alarm, if nothing has come since that says something else.
    pub occurrence: Option<Occurrence>,
}

/// What a row says of the alarm under which it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    seq: i64,
    content: [u8; 8],
    sent_at: i64,
}

/// A map whose changes since the last commit can be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Changing<K: Hash + Eq, V> {
    rows: HashMap<K, V>,
    /// What was there before each change, the oldest first.
    replaced: Vec<(K, Option<V>)>,
}

impl<K: Hash + Eq, V> Default for Changing<K, V> {
    fn default() -> Self {
        Changing {
            rows: HashMap::new(),
            replaced: Vec::new(),
        }
    }
}

impl Named {
    /// Reads it from the columns `seq, key, occurrence`, the first of a row.
    ///
    /// # Errors
    /// What SQLite says, and when a key has not the length of one.
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Named {
            seq: row.get(0)?,
            key: DeliveryKey::from_bytes(row.get(1)?),
            occurrence: row
                .get::<_, Option<[u8; 32]>>(2)?
                .map(Occurrence::from_bytes),
        })
    }
}

impl Keys {
    /// The keys of all rows in a file.
    ///
    /// # Errors
    /// What SQLite says, and when a key has not the length of one.
    pub fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut keys = Keys::default();
        let mut statement =
            connection.prepare("SELECT seq, key, occurrence FROM records ORDER BY seq")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // Only the last has one, so there is nothing to be taken out.
            let _ = keys.add(&Named::read(row)?);
            keys.keep();
        }
        Ok(keys)
    }

    /// The number of the row with this key.
    #[must_use]
    pub fn find(&self, key: &DeliveryKey) -> Option<i64> {
        self.keys.rows.get(&half(key)).copied()
    }

    /// The number of the row that this says again: the last one about its alarm, if it is that.
    #[must_use]
    pub fn repeated(&self, occurrence: &Occurrence) -> Option<i64> {
        let last = self.last.rows.get(&occurrence.subject)?;
        let said = Occurrence {
            subject: occurrence.subject,
            content: last.content,
            sent_at: last.sent_at,
        };
        said.repeats(occurrence).then_some(last.seq)
    }

    /// Whether a row has this key, or says the same.
    #[must_use]
    pub fn knows(&self, key: &DeliveryKey, occurrence: Option<&Occurrence>) -> bool {
        self.find(key).is_some() || occurrence.is_some_and(|o| self.repeated(o).is_some())
    }

    /// Adds a row. A key that another row has already stays that row's. Returns the number of the row that is not the
    /// last about its alarm any more: the file must not have its occurrence ([`super::record::overtaken`]).
    #[must_use]
    pub fn add(&mut self, named: &Named) -> Option<i64> {
        let Named {
            seq,
            key,
            occurrence,
        } = named;
        let key = half(key);
        if !self.keys.rows.contains_key(&key) {
            self.keys.set(key, Some(*seq));
        }
        let occurrence = (*occurrence)?;
        let before = self.last.rows.get(&occurrence.subject).map(|said| said.seq);
        if before.is_some_and(|before| before > *seq) {
            return Some(*seq);
        }
        let said = Said {
            seq: *seq,
            content: occurrence.content,
            sent_at: occurrence.sent_at,
        };
        self.last.set(occurrence.subject, Some(said));
        before.filter(|before| before != seq)
    }

    /// Removes a row.
    pub fn remove(&mut self, named: &Named) {
        let key = half(&named.key);
        if self.keys.rows.get(&key) == Some(&named.seq) {
            self.keys.set(key, None);
        }
        if let Some(Occurrence { subject, .. }) = named.occurrence
            && self
                .last
                .rows
                .get(&subject)
                .is_some_and(|said| said.seq == named.seq)
        {
            self.last.set(subject, None);
        }
    }

    /// The changes are on disk.
    pub fn keep(&mut self) {
        self.keys.replaced.clear();
        self.last.replaced.clear();
    }

    /// They are not: all is as it was at the last commit.
    pub fn put_back(&mut self) {
        self.keys.put_back();
        self.last.put_back();
    }
}

impl<K: Hash + Eq + Copy, V> Changing<K, V> {
    fn set(&mut self, key: K, value: Option<V>) {
        let before = match value {
            Some(value) => self.rows.insert(key, value),
            None => self.rows.remove(&key),
        };
        self.replaced.push((key, before));
    }

    fn put_back(&mut self) {
        while let Some((key, before)) = self.replaced.pop() {
            match before {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }
}

fn half(key: &DeliveryKey) -> Half {
    let mut half = Half::default();
    half.copy_from_slice(&key.as_bytes()[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(seq: i64, key: u8, occurrence: Option<Occurrence>) -> Named {
        Named {
            seq,
            key: DeliveryKey::from_bytes([key; 32]),
            occurrence,
        }
    }

    fn said(subject: u8, content: u8) -> Occurrence {
        Occurrence {
            subject: [subject; 16],
            content: [content; 8],
            sent_at: 0,
        }
    }

    #[test]
    fn what_was_not_committed_is_put_back_whatever_happened_to_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.add(&named(1, 1, Some(said(1, 1)))), None);
        assert_eq!(keys.add(&named(2, 2, None)), None);
        keys.keep();
        let before = keys.clone();
        assert_eq!(keys.add(&named(3, 3, Some(said(1, 2)))), Some(1));
        keys.remove(&named(1, 1, None));
        assert_eq!(keys.add(&named(4, 1, Some(said(1, 1)))), Some(3));
        keys.remove(&named(4, 1, Some(said(1, 1))));
        assert_eq!(keys.add(&named(5, 4, Some(said(4, 4)))), None);
        keys.remove(&named(2, 2, None));
        assert!(!keys.knows(&named(2, 2, None).key, None));
        keys.put_back();
        assert_eq!(keys, before);
        assert_eq!(keys.find(&named(1, 1, None).key), Some(1));
        assert_eq!(keys.repeated(&said(1, 1)), Some(1));
    }

    #[test]
    fn a_key_is_the_first_rows_and_goes_with_that_row_only() {
        let mut keys = Keys::default();
        assert_eq!(keys.add(&named(1, 1, None)), None);
        assert_eq!(keys.add(&named(2, 1, None)), None);
        keys.remove(&named(2, 1, None));
        assert_eq!(keys.find(&named(1, 1, None).key), Some(1));
        keys.remove(&named(1, 1, None));
        assert_eq!(keys.find(&named(1, 1, None).key), None);
    }

    #[test]
    fn only_the_last_row_about_an_alarm_can_be_said_again() {
        let mut keys = Keys::default();
        let (triggered, cleared) = (said(1, 1), said(1, 2));
        assert_eq!(keys.add(&named(1, 1, Some(triggered))), None);
        assert_eq!(keys.repeated(&triggered), Some(1));
        assert_eq!(keys.add(&named(2, 2, Some(cleared))), Some(1));
        assert_eq!(keys.repeated(&triggered), None);
        assert_eq!(keys.repeated(&cleared), Some(2));
        assert_eq!(
            keys.add(&named(3, 3, Some(said(2, 2)))),
            None,
            "another alarm"
        );
        // A row that is read again later was there before.
        assert_eq!(keys.add(&named(1, 1, Some(triggered))), Some(1));
        assert_eq!(keys.repeated(&triggered), None);
        // What was overtaken stays so when what overtook it is forgotten.
        keys.remove(&named(2, 2, Some(cleared)));
        assert_eq!(keys.repeated(&triggered), None);
    }
}
