//! Dice: seeded chance, so that what a run tried can be tried again, and the settings that a test takes from the
//! environment.

use std::time::Duration;

use anyhow::Context;

/// A small random generator (SplitMix64), seeded.
#[derive(Clone, Debug, Default)]
pub struct Dice(pub u64);

impl Dice {
    /// One that has been thrown once: small seeds begin far apart.
    pub fn thrown(seed: u64) -> Self {
        let mut dice = Dice(seed);
        dice.roll();
        dice
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// Once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several things.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let count = u64::try_from(all.len()).unwrap_or(1);
        &all[usize::try_from(self.below(count)).unwrap_or_default()]
    }

    /// A time below `end` milliseconds.
    pub fn millis(&mut self, end: u64) -> Duration {
        Duration::from_micros(self.below(end * 1_000))
    }

    /// Puts things into an order by chance.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            let other = self.below(last as u64 + 1);
            things.swap(last, usize::try_from(other).unwrap_or(last));
        }
    }
}

/// `SEED`, or a seed of this run.
///
/// # Errors
/// When `SEED` is no number.
pub fn seed() -> anyhow::Result<u64> {
    let given = setting("SEED")?;
    Ok(given.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0)))
}

/// A variable of the environment that holds a number, where it is set.
///
/// # Errors
/// When it is no number.
pub fn setting<T: std::str::FromStr>(name: &str) -> anyhow::Result<Option<T>> {
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    let value = text.parse().ok();
    let value = value.with_context(|| format!("{name}={text}: write a whole number"))?;
    Ok(Some(value))
}
