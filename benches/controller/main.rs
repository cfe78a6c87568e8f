//! What the controller costs: as ratios of numbers of one run, beside the API server's own ceiling and beside two
//! reconcilers as a small team would write them.
//!
//! ```text
//! cargo bench --bench controller              everything, in about ten minutes
//! cargo bench --bench controller -- bulk      only one part: bulk, quiet, memory or secrets
//! cargo bench --bench controller -- peers     creates, kills and counts, for ours and both peers
//! ```
//!
//! Everything is real: etcd and API server of the harness, the release binary, the sandbox in CHeKT's place. Requests to
//! the API server are counted by the API server itself, calls to CHeKT by the sandbox's ledger; nobody is asked what
//! they did themselves.

#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

#[path = "../../tests/harness/mod.rs"]
mod harness;

#[cfg(target_os = "linux")]
mod bulk;
#[cfg(target_os = "linux")]
mod ceiling;
#[cfg(target_os = "linux")]
mod contender;
#[cfg(target_os = "linux")]
mod counted;
#[cfg(target_os = "linux")]
#[path = "../shared/goals.rs"]
mod goals;
#[cfg(target_os = "linux")]
mod kills;
#[cfg(target_os = "linux")]
mod kopf;
#[cfg(target_os = "linux")]
mod latency;
#[cfg(target_os = "linux")]
#[path = "../shared/machine.rs"]
#[allow(dead_code)] // Half of it is for servers that are pinned to cores, which these are not.
mod machine;
#[cfg(target_os = "linux")]
mod many;
#[cfg(target_os = "linux")]
mod naive;
#[cfg(target_os = "linux")]
mod scene;
#[cfg(target_os = "linux")]
mod secrets;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("This benchmark reads /proc: it runs on Linux only.");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| match words[..] {
            ["serve", "naive"] => runtime.block_on(naive::serve()),
            // `cargo test --all-targets` runs benchmarks too, without the flag that `cargo bench` gives them.
            _ if !args.iter().any(|arg| arg == "--bench") => {
                println!("a benchmark: run it by `make bench-controller`");
                Ok(())
            }
            _ => runtime.block_on(run(&words)),
        });
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
async fn run(words: &[&str]) -> anyhow::Result<()> {
    const PARTS: [&str; 4] = ["bulk", "quiet", "memory", "secrets"];
    for word in words {
        anyhow::ensure!(
            *word == "peers" || PARTS.contains(word),
            "there is no part {word}: name one of {}, or peers",
            PARTS.join(", ")
        );
    }
    let plane = harness::ControlPlane::shared().await?;
    if words.contains(&"peers") {
        kills::measure(plane).await?;
        plane.stop();
        return Ok(());
    }
    let wanted = |part: &str| words.is_empty() || words.contains(&part);
    let mut goals = goals::Goals::default();
    if wanted("bulk") {
        bulk::measure(plane, &mut goals).await?;
    }
    if wanted("quiet") || wanted("memory") {
        many::measure(plane, &mut goals, wanted("quiet"), wanted("memory")).await?;
    }
    if wanted("secrets") {
        secrets::measure(plane, &mut goals).await?;
    }
    plane.stop();
    goals.print();
    goals.print_notes();
    Ok(())
}
