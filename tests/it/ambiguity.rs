//! The ambiguity matrix: each thing that the operator asks of CHeKT, against each answer that does not tell what became
//! of it, or tells it wrongly.
//!
//! ```text
//! cells    which step meets which answer, and how that must end
//! scene    plays one cell: real API server, real controller, real receiver, sandbox
//! verdict  what the sandbox's ledger and the API server say of the end, never the operator's own word alone
//! table    what the whole of it came to
//! ```
//!
//! `ANSWERS=all` plays every cell, and without it those marked short and a few more that `SEED` picks. `ONLY` plays the
//! cells whose name holds one of these texts, `AT_ONCE` says how many play at the same time.

mod cells;
mod scene;
mod table;
mod verdict;

use std::time::{Duration, Instant};

use futures::StreamExt;

use cells::Cell;
use verdict::Verdict;

use crate::harness::dice::{Dice, seed, setting};

/// The most calls of one webhook's account in any minute, lists and the tries that an ambiguity costs included. CHeKT's
/// lowest tier takes sixty.
const MOST_CALLS: usize = 30;

/// How many cells the short form picks by chance.
const PICKED: usize = 4;

/// The cells to be played.
fn chosen(seed: u64) -> anyhow::Result<Vec<Cell>> {
    let mut all = cells::all();
    if let Some(only) = setting::<String>("ONLY")? {
        all.retain(|cell| only.split(',').any(|part| cell.name().contains(part)));
        return Ok(all);
    }
    if setting::<String>("ANSWERS")?.as_deref() == Some("all") {
        return Ok(all);
    }
    let (mut short, mut rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|cell| cell.short);
    rest.retain(|cell| !cell.slow);
    Dice(seed).shuffle(&mut rest);
    short.extend(rest.into_iter().take(PICKED));
    Ok(short)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_chekt_answers_each_webhook_is_there_once_as_written_or_says_which_field_is_not()
-> anyhow::Result<()> {
    let seed = seed()?;
    let full = setting::<String>("ANSWERS")?.is_some();
    let cells = chosen(seed)?;
    let at_once = setting("AT_ONCE")?.unwrap_or(8);
    println!("{} cells, SEED={seed}", cells.len());
    let began = Instant::now();
    // In the full form long enough that a slow loop shows as well.
    let hold = Duration::from_secs(if full { 20 } else { 3 });
    let playing = cells.into_iter().map(async |cell| {
        let verdict = scene::play(&cell, hold).await;
        (cell, verdict)
    });
    let mut playing = std::pin::pin!(futures::stream::iter(playing).buffer_unordered(at_once));
    let mut played: Vec<(Cell, Verdict)> = Vec::new();
    while let Some((cell, verdict)) = playing.next().await {
        println!("{}", table::line(&cell, &verdict));
        played.push((cell, verdict));
    }
    println!("\n{}", table::table(&played, began.elapsed(), seed));
    let wrong: Vec<_> = played
        .iter()
        .filter(|(cell, verdict)| !verdict.is_good(cell.twins, MOST_CALLS))
        .map(|(cell, verdict)| format!("{}: {verdict}", cell.name()))
        .collect();
    assert!(wrong.is_empty(), "SEED={seed}\n{}", wrong.join("\n"));
    Ok(())
}
