//! Who holds how much of the file, in memory: what decides which delivery is admitted, which dead letter is evicted and
//! what the sink misses. It is counted when the file is opened, and changed with each commit as [`super::keys`] is.

use rusqlite::Connection;

use super::record::{PENDING, PUBLISHED};
use super::{Limits, Options};
use crate::delivery::DeadKind;
use crate::delivery::again::Retries;
use crate::delivery::holdings::{Amount, Holdings};
use crate::delivery::share::Shares;

/// Everything that is limited, by namespace and webhook.
#[derive(Debug)]
pub struct Rooms {
    /// Deliveries that wait to be published.
    pub pending: Shares,
    /// Published rows that are kept for the sink.
    pub kept: Holdings,
    /// Which refused deliveries are tried again.
    pub retries: Retries,
    unreadable: Holdings,
    refused: Holdings,
}

/// A row as far as it takes room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The namespace of its webhook.
    pub namespace: String,
    /// The uid of its webhook.
    pub uid: String,
    /// Bytes of its body.
    pub size: i64,
}

impl Held {
    /// Adds it to what is held.
    pub fn add_to(&self, holdings: &mut Holdings) {
        holdings.add(&self.namespace, &self.uid, Amount::one(self.size));
    }

    /// Takes it from what is held.
    pub fn take_from(&self, holdings: &mut Holdings) {
        holdings.take(&self.namespace, &self.uid, Amount::one(self.size));
    }
}

impl Rooms {
    /// Counts what is in a file. `cursor` is the sink's.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn count(connection: &Connection, options: Options, cursor: i64) -> rusqlite::Result<Self> {
        let mut rooms = Rooms {
            pending: Shares::new(options.limits.pending()),
            kept: Holdings::default(),
            retries: Retries::default(),
            unreadable: Holdings::default(),
            refused: Holdings::default(),
        };
        let mut statement = connection.prepare(
            "SELECT state, retry_at IS NOT NULL, namespace, uid, count(*), sum(size) FROM records \
             WHERE state <> 1 OR (size >= 0 AND seq > ?1) GROUP BY 1, 2, 3, 4",
        )?;
        let mut rows = statement.query([cursor])?;
        while let Some(row) = rows.next()? {
            let (namespace, uid): (String, String) = (row.get(2)?, row.get(3)?);
            let amount = Amount {
                records: row.get(4)?,
                bytes: row.get(5)?,
            };
            let holdings = match row.get(0)? {
                PENDING => rooms.pending.held_mut(),
                PUBLISHED if options.sink => &mut rooms.kept,
                PUBLISHED => continue,
                _ => rooms.dead_mut(kind(row.get(1)?)),
            };
            holdings.add(&namespace, &uid, amount);
        }
        rooms.keep();
        rooms.pending.counted();
        Ok(rooms)
    }

    /// Dead letters of a kind.
    #[must_use]
    pub fn dead(&self, kind: DeadKind) -> &Holdings {
        match kind {
            DeadKind::Unreadable => &self.unreadable,
            DeadKind::Refused => &self.refused,
        }
    }

    /// The same, to be changed.
    pub fn dead_mut(&mut self, kind: DeadKind) -> &mut Holdings {
        match kind {
            DeadKind::Unreadable => &mut self.unreadable,
            DeadKind::Refused => &mut self.refused,
        }
    }

    /// The changes are on disk.
    pub fn keep(&mut self) {
        self.pending.keep();
        for holdings in [&mut self.kept, &mut self.unreadable, &mut self.refused] {
            holdings.keep(true);
        }
    }

    /// They are not: all is as it was at the last commit. What is being tried again is not known any more; that only
    /// makes the next tries fewer.
    pub fn put_back(&mut self) {
        self.pending.put_back();
        for holdings in [&mut self.kept, &mut self.unreadable, &mut self.refused] {
            holdings.put_back();
        }
        self.retries = Retries::default();
    }
}

impl Limits {
    fn pending(self) -> Amount {
        Amount {
            records: self.max_records,
            bytes: self.max_bytes,
        }
    }

    /// How many dead letters of a kind may be kept.
    #[must_use]
    pub fn dead(self, kind: DeadKind) -> Amount {
        match kind {
            DeadKind::Unreadable => Amount {
                records: self.max_dead,
                bytes: self.max_dead_bytes,
            },
            DeadKind::Refused => Amount {
                records: self.max_refused,
                bytes: self.max_refused_bytes,
            },
        }
    }
}

/// The kind of a dead letter, by whether it has a time of its next try.
#[must_use]
pub fn kind(has_next_try: bool) -> DeadKind {
    if has_next_try {
        DeadKind::Refused
    } else {
        DeadKind::Unreadable
    }
}
