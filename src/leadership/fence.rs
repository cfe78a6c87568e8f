//! The fence: until when this process may write. Everything that writes asks it right before it sends.
//!
//! A process can be paused at any point (SIGSTOP, a frozen cgroup, a sleeping laptop) and go on much later as if
//! nothing had happened, in the middle of what it had planned. It then leads no more and does not know it yet. What
//! keeps it from writing is not that somebody tells it, but that it looks at the clock each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Says until when this process may write. Clones are one fence.
#[derive(Clone, Debug)]
pub struct Fence(Option<Lapsing>);

#[derive(Clone, Debug)]
struct Lapsing {
    /// Nanoseconds since the machine was started; 0: not at all.
    until: Arc<AtomicU64>,
    /// Tells the time since the machine was started. It must go on while the process or the machine is paused.
    clock: fn() -> Duration,
}

/// The process may not write: its lease is not certain to be valid any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not lead, or not any more: nothing was sent")]
pub struct NotLeading;

impl Fence {
    /// A fence that lets nothing through until it is moved.
    #[must_use]
    pub fn closed(clock: fn() -> Duration) -> Fence {
        Fence(Some(Lapsing {
            until: Arc::default(),
            clock,
        }))
    }

    /// A fence that lets everything through, for a process that is the only one because somebody said so.
    #[must_use]
    pub fn open() -> Fence {
        Fence(None)
    }

    /// Moves it to a moment since the machine was started.
    pub fn move_to(&self, until: Duration) {
        if let Some(lapsing) = &self.0 {
            let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
            lapsing.until.store(until, Ordering::SeqCst);
        }
    }

    /// Lets nothing through any more.
    pub fn close(&self) {
        self.move_to(Duration::ZERO);
    }

    /// Lets a write through, or not.
    ///
    /// # Errors
    /// [`NotLeading`].
    pub fn check(&self) -> Result<(), NotLeading> {
        let Some(lapsing) = &self.0 else {
            return Ok(());
        };
        let until = Duration::from_nanos(lapsing.until.load(Ordering::SeqCst));
        if (lapsing.clock)() < until {
            Ok(())
        } else {
            Err(NotLeading)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    #[test]
    fn nothing_passes_before_the_first_move_after_the_last_and_after_the_close() {
        let at = |seconds| NOW.set(Duration::from_secs(seconds));
        let fence = Fence::closed(|| NOW.get());
        at(0);
        assert_eq!(fence.check(), Err(NotLeading));
        fence.move_to(Duration::from_secs(10));
        at(9);
        assert_eq!(fence.clone().check(), Ok(()));
        // It went on running, or was paused: the same.
        at(10);
        assert_eq!(fence.check(), Err(NotLeading));
        fence.move_to(Duration::from_secs(20));
        assert_eq!(fence.check(), Ok(()));
        fence.clone().close();
        assert_eq!(fence.check(), Err(NotLeading));
        assert_eq!(Fence::open().check(), Ok(()));
    }
}
