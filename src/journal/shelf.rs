//! A look at the journal from another process, while a receiver runs on it or not: dead letters are read, and marked
//! to be tried again.
//!
//! It takes no lock of ours, and SQLite's only for the milliseconds of a write. Nothing is published from here: the
//! receiver's writer sees that somebody wrote, and takes up what is marked.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::dead::{self, DeadLetter};
use super::{JournalError, OpenError, files};

/// The dead letters of a journal.
#[derive(Debug)]
pub struct Shelf {
    connection: Connection,
}

impl Shelf {
    /// Opens the journal in a directory for reading.
    ///
    /// # Errors
    /// [`OpenError`] in words that say what to do.
    pub fn look(dir: &Path) -> Result<Self, OpenError> {
        let connection = files::visit(dir, false)?;
        Ok(Shelf { connection })
    }

    /// Opens the journal in a directory so that dead letters can be marked.
    ///
    /// # Errors
    /// [`OpenError`] in words that say what to do.
    pub fn change(dir: &Path) -> Result<Self, OpenError> {
        let connection = files::visit(dir, true)?;
        Ok(Shelf { connection })
    }

    /// Dead letters with numbers beyond `after`, the lowest first and at most so many, with their bodies or without.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn letters(
        &self,
        after: i64,
        most: usize,
        bodies: bool,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        // All rows of it are in memory before anybody prints them: while a read goes on, the log cannot begin anew.
        dead::list(&self.connection, after, most, bodies).map_err(io)
    }

    /// Marks the dead letters with these numbers to be tried again, all of them or none. Returns how many were not
    /// marked before and are still there.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn replay(&mut self, numbers: &[i64]) -> Result<usize, JournalError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(io)?;
        let mut marked = 0;
        for seq in numbers {
            marked += usize::from(dead::mark(&transaction, *seq).map_err(io)?);
        }
        transaction.commit().map_err(io)?;
        Ok(marked)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn io(error: rusqlite::Error) -> JournalError {
    JournalError::Io(error.to_string())
}
