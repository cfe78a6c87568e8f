//! What an honest 200 costs: the receiver against the least that could be done instead, as one table of ratios.
//!
//! ```text
//! cargo bench --bench receiver              everything, three times (RUNS=n), in about eight minutes
//! cargo bench --bench receiver -- answers   only one part: answers, publishing, memory or flood
//! cargo bench --bench receiver -- once durable 64 [RATE]   a single run, for a profiler
//! ```
//!
//! Absolute numbers say more of a machine than of a program, so everything that is compared is measured in one run:
//! servers are child processes pinned to one core, the driver has another for itself. What does not come from the
//! product is marked as such: the bare handler is the floor, everything else is the code that ships.

#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

#[path = "../../tests/harness/mod.rs"]
mod harness;

#[cfg(target_os = "linux")]
use anyhow::Context;

#[cfg(target_os = "linux")]
mod answers;
#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod deliveries;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod driver;
#[cfg(target_os = "linux")]
mod flood;
#[cfg(target_os = "linux")]
#[path = "../shared/goals.rs"]
mod goals;
#[cfg(target_os = "linux")]
#[path = "../shared/machine.rs"]
mod machine;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod planted;
#[cfg(target_os = "linux")]
mod publishing;
#[cfg(target_os = "linux")]
mod servers;
#[cfg(target_os = "linux")]
mod table;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("This benchmark reads /proc and pins processes to cores: it runs on Linux only.");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let outcome = match words[..] {
        ["serve", kind, dir] => servers::serve(kind, dir.as_ref()),
        // `cargo test --all-targets` runs benchmarks too, without the flag that `cargo bench` gives them.
        _ if !args.iter().any(|arg| arg == "--bench") => {
            println!("a benchmark: run it by `make bench`");
            Ok(())
        }
        ["once", what, connections] => answers::once_for_a_profiler(what, connections, None),
        ["once", what, connections, rate] => {
            answers::once_for_a_profiler(what, connections, Some(rate))
        }
        _ => run(&words),
    };
    // Not by returning: what the harness left running is the reaper's.
    std::process::exit(match outcome {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error:#}");
            1
        }
    })
}

#[cfg(target_os = "linux")]
fn run(words: &[&str]) -> anyhow::Result<()> {
    const PARTS: [&str; 4] = ["answers", "publishing", "memory", "flood"];
    for word in words {
        anyhow::ensure!(
            PARTS.contains(word),
            "there is no part {word}: name one of {}",
            PARTS.join(", ")
        );
    }
    let wanted = |part: &str| words.is_empty() || words.contains(&part);
    let runs = match std::env::var("RUNS") {
        Ok(runs) => runs.parse().context("RUNS is no number")?,
        Err(_) => 3,
    };
    machine::prepare()?;
    let mut table = table::Table::default();
    // All of them before there is an API server, which does something even when nothing is asked of it.
    for run in (1..=runs).filter(|_| wanted("answers")) {
        table.run_begins(run);
        disk::measure(&mut table)?;
        answers::measure(&mut table)?;
    }
    if PARTS[1..].iter().any(|part| wanted(part)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        match runtime.block_on(harness::ControlPlane::shared()) {
            Ok(plane) => {
                for run in 1..=runs {
                    table.run_begins(run);
                    for part in PARTS[1..].iter().filter(|part| wanted(part)) {
                        let others = machine::Others::watch()?;
                        runtime.block_on(async {
                            match *part {
                                "publishing" => publishing::measure(plane, run, &mut table).await,
                                "memory" => memory::measure(plane, run, &mut table).await,
                                _ => flood::measure(plane, run, &mut table).await,
                            }
                        })?;
                        table.others(part, others.share()?);
                    }
                }
                plane.stop();
            }
            Err(error) => table.not_measured(
                "publishing, memory and flood",
                &format!("no API server could be started: {error:#}"),
            ),
        }
    }
    table.print();
    Ok(())
}
