//! The clocks. One is handed to whoever needs to know the time, so that a test can hand out one that it turns itself.
//! The other one judges a lease: it goes on while the process is stopped and while the machine sleeps, and nobody can
//! set it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Tells the time: the machine's, or what a [`Hand`] has made of it. Clones are one clock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<Moment>>>);

/// What turns a clock that does not go by itself.
#[derive(Debug)]
pub struct Hand(Arc<Mutex<Moment>>);

#[derive(Clone, Copy, Debug)]
struct Moment {
    now: Instant,
    wall: Timestamp,
}

impl Moment {
    /// What the machine says.
    fn present() -> Self {
        Moment {
            now: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn machine() -> Self {
        Clock(None)
    }

    /// A clock that stands still, from this moment on, until its hand turns it.
    #[must_use]
    pub fn manual() -> (Self, Hand) {
        let moment = Arc::new(Mutex::new(Moment::present()));
        (Clock(Some(Arc::clone(&moment))), Hand(moment))
    }

    /// The time that intervals are measured with.
    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(moment) => read(moment).now,
        }
    }

    /// The time that is stored and shown.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            None => Timestamp::now(),
            Some(moment) => read(moment).wall,
        }
    }
}

impl Hand {
    /// Lets time go by.
    pub fn advance(&self, by: Duration) {
        let mut moment = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moment.now += by;
        moment.wall = moment.wall.checked_add(by).unwrap_or(Timestamp::MAX);
    }
}

fn read(moment: &Mutex<Moment>) -> Moment {
    *moment.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `std::time::Instant` stands still while a Linux machine sleeps, and a lease does not.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// How long ago the machine was started.
#[must_use]
pub fn since_boot() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(CLOCK);
    let seconds = u64::try_from(tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward() {
        let before = since_boot();
        assert!(before > Duration::ZERO);
        let (start, wait) = (Instant::now(), Duration::from_millis(2));
        while start.elapsed() < wait {
            std::hint::spin_loop();
        }
        assert!(since_boot() >= before + wait);
    }

    #[test]
    fn a_clock_with_a_hand_goes_only_as_far_as_it_is_turned() {
        let (clock, hand) = Clock::manual();
        let (now, wall, copy) = (clock.now(), clock.wall(), clock.clone());
        assert_eq!((clock.now(), clock.wall()), (now, wall));
        let hour = Duration::from_secs(3600);
        hand.advance(hour);
        assert_eq!(copy.now(), now + hour);
        assert_eq!(copy.wall(), wall.checked_add(hour).unwrap());
    }
}
