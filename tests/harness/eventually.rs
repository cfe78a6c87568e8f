//! Waiting: look again and again until a deadline, and say what was seen last when it never came.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Calls `look` until it gives `Ok`, at most for `limit`. What `look` gives as `Err` is what it saw instead, and
/// the last of it is in the error.
///
/// A look that does not come back counts as nothing seen, so a stalled server cannot hold a test beyond `limit`.
///
/// # Errors
/// When the deadline passed, with `what` was waited for and what was seen last.
pub async fn eventually<T, E: Display>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut seen = "nothing, the first look did not come back".to_owned();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(other)) => seen = format!("{other:#}"),
            Err(_) => {}
        }
        if start.elapsed() >= limit {
            anyhow::bail!("waited {limit:?} for {what}; seen last: {seen}");
        }
        tokio::time::sleep(PAUSE.min(limit.saturating_sub(start.elapsed()))).await;
    }
}

/// Looks at `look` for the whole of `span` and fails as soon as it gives an error: for what must not happen.
///
/// # Errors
/// What `look` gave.
pub async fn throughout<E: Display>(
    what: &str,
    span: Duration,
    mut look: impl AsyncFnMut() -> Result<(), E>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(error) = look().await {
            anyhow::bail!(
                "{what} did not hold for {span:?}; after {:?}: {error:#}",
                start.elapsed()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
