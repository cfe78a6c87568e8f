//! A node that nobody ends: whoever started it is interrupted or killed, and nothing of it is left on the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Node, eventually, reaper};

/// Not a test: started by the one below, which ends it.
#[tokio::test]
#[ignore = "started by a_node_leaves_nothing_behind_whatever_ends_who_started_it"]
async fn holds_a_node() -> anyhow::Result<()> {
    let Some(file) = std::env::var_os("CHEKT_TEST_NOTE") else {
        return Ok(());
    };
    let node = Node::start().await?;
    let started = json!({"init": node.init(), "cgroup": node.cgroup(), "dir": node.dir()});
    let written = Path::new(&file).with_extension("part");
    std::fs::write(&written, started.to_string())?;
    std::fs::rename(&written, &file)?;
    std::future::pending().await
}

#[tokio::test]
async fn a_node_leaves_nothing_behind_whatever_ends_who_started_it() -> anyhow::Result<()> {
    // Ctrl-C, and what no program can prepare for.
    for signal in ["INT", "KILL"] {
        let dir = tempfile::tempdir()?;
        let note = dir.path().join("note.json");
        let mut holder = Command::new(std::env::current_exe()?)
            .args(["--exact", "interruption::holds_a_node", "--ignored"])
            .env("CHEKT_TEST_NOTE", &note)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let limit = Duration::from_secs(120);
        let seen = eventually("the note of what was started", limit, || async {
            let text = std::fs::read_to_string(&note)?;
            anyhow::Ok(serde_json::from_str::<serde_json::Value>(&text)?)
        })
        .await;
        reaper::signal(holder.id(), signal)?;
        holder.wait()?;
        let started = seen?;
        let init: u32 = serde_json::from_value(started["init"].clone())?;
        let cgroup: String = serde_json::from_value(started["cgroup"].clone())?;
        let files: PathBuf = serde_json::from_value(started["dir"].clone())?;
        let limit = Duration::from_secs(20);
        eventually("all of it to be gone", limit, || async {
            nothing_left(init, &cgroup, &files)
        })
        .await?;
    }
    Ok(())
}

/// Fails if anything of a node is left: a process, a cgroup, a mount, a file.
pub(crate) fn nothing_left(init: u32, cgroup: &str, files: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        !Path::new("/proc").join(init.to_string()).exists(),
        "process {init} is there"
    );
    let mut left = Vec::new();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")? {
        let path = hierarchy?.path().join(cgroup);
        if path.exists() {
            left.push(path);
        }
    }
    anyhow::ensure!(left.is_empty(), "cgroups are there: {left:?}");
    let name = files.display().to_string();
    for process in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let read = |file: &str| std::fs::read(process.path().join(file)).unwrap_or_default();
        // A process of the node names its folder in its command line, or has it mounted.
        for file in ["cmdline", "mountinfo"] {
            let text = String::from_utf8_lossy(&read(file)).replace('\0', " ");
            anyhow::ensure!(
                !text.contains(&name),
                "{} of process {} still has {name}: {text}",
                file,
                process.file_name().display()
            );
        }
    }
    anyhow::ensure!(!files.exists(), "{name} is there");
    Ok(())
}
