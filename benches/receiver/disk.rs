//! How long this disk takes to have something for good: all that is durable depends on it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::machine;
use crate::table::{Table, millis};

/// Writes of each kind.
const WRITES: u64 = 500;
/// Bytes of one.
const LENGTH: usize = 4096;

/// Measures and says it.
///
/// # Errors
/// When the disk has something against it.
pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let dir = machine::directory()?;
    let file = File::create(dir.path().join("probe"))?;
    // First the file grows, which is a change of the file system as well; then the same bytes are written again.
    let growing = write(&file)?;
    let in_place = write(&file)?;
    table.note(&format!(
        "disk: fdatasync after 4 KiB in place: p50 {}, p99 {}; at the end of a growing file: p50 {}, p99 {}",
        millis(in_place[0]),
        millis(in_place[1]),
        millis(growing[0]),
        millis(growing[1]),
    ));
    Ok(())
}

fn write(file: &File) -> anyhow::Result<[Duration; 2]> {
    let mut times = Vec::new();
    for at in 0..WRITES {
        file.write_all_at(&[b'x'; LENGTH], at * LENGTH as u64)?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok([times[times.len() / 2], times[times.len() * 99 / 100]])
}
