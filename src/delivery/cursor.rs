//! How far a second reader of the journal has come: it may work on several deliveries at once, and the cursor moves
//! only over those that are all done with.
//!
//! What is beyond the cursor is read again after a crash, so a delivery arrives at least once.

use std::collections::BTreeMap;

/// A place in the journal, and what was begun beyond it.
#[derive(Debug)]
pub struct Cursor {
    position: i64,
    read: i64,
    /// Whether each is done with.
    begun: BTreeMap<i64, bool>,
}

impl Cursor {
    /// A cursor up to and including whose place everything is done with.
    #[must_use]
    pub fn new(position: i64) -> Self {
        Cursor {
            position,
            read: position,
            begun: BTreeMap::new(),
        }
    }

    /// A delivery is begun; they are begun in the order of their numbers.
    pub fn begin(&mut self, seq: i64) {
        self.read = self.read.max(seq);
        if seq > self.position {
            self.begun.insert(seq, false);
        }
    }

    /// A delivery is done with.
    pub fn finish(&mut self, seq: i64) {
        if let Some(done) = self.begun.get_mut(&seq) {
            *done = true;
        }
        while let Some(first) = self.begun.first_entry() {
            if !*first.get() {
                return;
            }
            self.position = *first.key();
            first.remove();
        }
    }

    /// Up to and including this number, everything is done with.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The greatest number that was begun: the next one is to be read after it.
    #[must_use]
    pub fn read(&self) -> i64 {
        self.read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_over_what_is_done_with_and_stops_before_what_is_not() {
        let mut cursor = Cursor::new(10);
        for seq in [12, 13, 17] {
            cursor.begin(seq);
        }
        assert_eq!((cursor.position(), cursor.read()), (10, 17));
        for (finished, position) in [(17, 10), (12, 12), (12, 12), (99, 12), (13, 17)] {
            cursor.finish(finished);
            assert_eq!(cursor.position(), position, "after {finished}");
        }
        cursor.begin(5);
        cursor.finish(5);
        assert_eq!((cursor.position(), cursor.read()), (17, 17));
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_not_done_with_is_ever_passed(order in proptest::collection::vec(0_usize..40, 0..80)) {
            let mut cursor = Cursor::new(0);
            (1..=40).for_each(|seq| cursor.begin(seq));
            let mut done = std::collections::BTreeSet::new();
            for index in order {
                let seq = i64::try_from(index).unwrap() + 1;
                cursor.finish(seq);
                done.insert(seq);
                let prefix = (1..=40).take_while(|seq| done.contains(seq)).count();
                proptest::prop_assert_eq!(cursor.position(), i64::try_from(prefix).unwrap());
            }
        }
    }
}
