//! Which deliveries are in the file, by key and by occurrence: the answer to "is this a copy?", in memory.
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
use std::collections::hash_map::Entry;

use rusqlite::{Connection, Row};

use crate::delivery::DeliveryKey;

/// The first half of a key.
type Half = [u8; 16];

/// The keys of all rows, with their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    keys: Numbers,
    occurrences: Numbers,
}

/// What identifies the delivery of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The row's number.
    pub seq: i64,
    /// Its key.
    pub key: DeliveryKey,
    /// Its occurrence, if it has one.
    pub occurrence: Option<DeliveryKey>,
}

/// Which row has a key. It is no more than one: the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Numbers {
    rows: HashMap<Half, i64>,
    /// What was there before each change since the last commit, the oldest first.
    replaced: Vec<(Half, Option<i64>)>,
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
                .map(DeliveryKey::from_bytes),
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
            keys.add(&Named::read(row)?);
            keys.keep();
        }
        Ok(keys)
    }

    /// The number of the row with this key.
    #[must_use]
    pub fn find(&self, key: &DeliveryKey) -> Option<i64> {
        self.keys.find(key)
    }

    /// The number of the row with this occurrence.
    #[must_use]
    pub fn find_occurrence(&self, occurrence: &DeliveryKey) -> Option<i64> {
        self.occurrences.find(occurrence)
    }

    /// Whether a row has this key or this occurrence.
    #[must_use]
    pub fn knows(&self, key: &DeliveryKey, occurrence: Option<&DeliveryKey>) -> bool {
        self.find(key).is_some() || occurrence.is_some_and(|o| self.find_occurrence(o).is_some())
    }

    /// Adds a row. What another row has already stays that row's.
    pub fn add(&mut self, named: &Named) {
        self.keys.add(&named.key, named.seq);
        if let Some(occurrence) = &named.occurrence {
            self.occurrences.add(occurrence, named.seq);
        }
    }

    /// Removes a row.
    pub fn remove(&mut self, named: &Named) {
        self.keys.remove(&named.key, named.seq);
        if let Some(occurrence) = &named.occurrence {
            self.occurrences.remove(occurrence, named.seq);
        }
    }

    /// The changes are on disk.
    pub fn keep(&mut self) {
        self.keys.replaced.clear();
        self.occurrences.replaced.clear();
    }

    /// They are not: all is as it was at the last commit.
    pub fn put_back(&mut self) {
        self.keys.put_back();
        self.occurrences.put_back();
    }
}

impl Numbers {
    fn find(&self, key: &DeliveryKey) -> Option<i64> {
        self.rows.get(&half(key)).copied()
    }

    fn add(&mut self, key: &DeliveryKey, seq: i64) {
        let key = half(key);
        if let Entry::Vacant(place) = self.rows.entry(key) {
            place.insert(seq);
            self.replaced.push((key, None));
        }
    }

    fn remove(&mut self, key: &DeliveryKey, seq: i64) {
        let key = half(key);
        if let Entry::Occupied(place) = self.rows.entry(key)
            && *place.get() == seq
        {
            place.remove();
            self.replaced.push((key, Some(seq)));
        }
    }

    fn put_back(&mut self) {
        while let Some((key, before)) = self.replaced.pop() {
            match before {
                Some(seq) => self.rows.insert(key, seq),
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

    fn named(seq: i64, key: u8, occurrence: Option<u8>) -> Named {
        Named {
            seq,
            key: DeliveryKey::from_bytes([key; 32]),
            occurrence: occurrence.map(|o| DeliveryKey::from_bytes([o; 32])),
        }
    }

    #[test]
    fn what_was_not_committed_is_put_back_whatever_happened_to_it() {
        let mut keys = Keys::default();
        keys.add(&named(1, 1, Some(1)));
        keys.add(&named(2, 2, None));
        keys.keep();
        let before = keys.clone();
        keys.remove(&named(1, 1, Some(1)));
        keys.add(&named(3, 1, Some(1)));
        keys.remove(&named(3, 1, Some(1)));
        keys.add(&named(4, 4, Some(4)));
        keys.remove(&named(2, 2, None));
        assert!(!keys.knows(&named(2, 2, None).key, None));
        keys.put_back();
        assert_eq!(keys, before);
        assert_eq!(keys.find(&named(1, 1, None).key), Some(1));
    }

    #[test]
    fn a_key_is_the_first_rows_and_goes_with_that_row_only() {
        let mut keys = Keys::default();
        keys.add(&named(1, 1, Some(7)));
        keys.add(&named(2, 2, Some(7)));
        keys.remove(&named(2, 2, Some(7)));
        let occurrence = named(0, 0, Some(7)).occurrence;
        assert!(keys.knows(&named(2, 2, None).key, occurrence.as_ref()));
        assert!(!keys.knows(&named(2, 2, None).key, None));
        keys.remove(&named(1, 1, Some(7)));
        assert_eq!(keys.find_occurrence(&occurrence.unwrap()), None);
    }
}
