//! Dice: seeded chance, so that what a run tried can be tried again, and the settings that a test takes from the
//! environment.

use std::time::Duration;

use anyhow::Context;

/// A small random generator (SplitMix64), seeded.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
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
