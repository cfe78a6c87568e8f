//! The demo: the whole thing on this machine, from an empty cluster to an alarm that is an Event, told as it happens.
//!
//! It is a test as well: each step checks what it tells, and the exit code is 0 only if all of it was so. With `KEEP=1`
//! everything runs on afterwards, until Ctrl-C.

#[path = "../harness/mod.rs"]
mod harness;

mod manifests;
mod story;
mod voice;

use std::cell::Cell;
use std::process::ExitCode;

use harness::ControlPlane;
use tokio::signal::unix::{SignalKind, signal};
use voice::Voice;

#[tokio::main]
async fn main() -> ExitCode {
    let voice = Voice::new();
    let code = match play(&voice).await {
        Ok(End::AsExpected) => 0,
        Ok(End::Dismissed) => {
            voice.say("\nEverything is stopped.");
            0
        }
        Ok(End::Interrupted) => {
            voice.say("\nInterrupted. Everything is stopped.");
            130
        }
        Err(error) => {
            voice.failed(&error);
            1
        }
    };
    // Not by returning: a build that runs in a thread of its own would be waited for. What is left is the reaper's.
    std::process::exit(code)
}

enum End {
    /// All of it was so.
    AsExpected,
    /// All of it was so, it ran on, and somebody ended it.
    Dismissed,
    /// Somebody ended it before it was told.
    Interrupted,
}

async fn play(voice: &Voice) -> anyhow::Result<End> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let keep = std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty() && keep != "0");
    let running_on = Cell::new(false);
    let told = async {
        let stage = story::tell(voice).await?;
        if keep {
            story::leave_running(voice, &stage);
            running_on.set(true);
            std::future::pending::<()>().await;
        }
        drop(stage);
        ControlPlane::shared().await?.stop();
        story::close(voice);
        anyhow::Ok(End::AsExpected)
    };
    tokio::select! {
        end = told => return end,
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    // The stage went as the story was dropped; the control plane is shared and goes here, if it was started.
    if let Some(plane) = ControlPlane::started() {
        plane.stop();
    }
    Ok(if running_on.get() {
        End::Dismissed
    } else {
        End::Interrupted
    })
}
