//! The clock by which a lease is judged: it goes on while the process is stopped and while the machine sleeps, and
//! nobody can set it.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

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
        let (start, wait) = (std::time::Instant::now(), Duration::from_millis(2));
        while start.elapsed() < wait {
            std::hint::spin_loop();
        }
        assert!(since_boot() >= before + wait);
    }
}
