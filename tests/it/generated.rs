//! Files that are made from the code are what the code makes now.
//!
//! With `UPDATE=1` in the environment, which `make generate` sets, they are written anew before they are compared.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::harness::process;

#[test]
fn the_crds_folder_holds_what_the_types_say() -> anyhow::Result<()> {
    update()?;
    for (name, yaml) in chekt_operator::resources::crd_files()? {
        let stored = std::fs::read_to_string(root().join("crds").join(&name))?;
        assert!(
            stored == yaml,
            "crds/{name} is out of date: run `make generate`"
        );
    }
    Ok(())
}

#[test]
fn the_command_prints_what_the_crds_folder_holds() -> anyhow::Result<()> {
    update()?;
    let output = std::process::Command::new(process::binary()?)
        .arg("crds")
        .output()?;
    assert!(output.status.success());
    let mut files: Vec<_> = std::fs::read_dir(root().join("crds"))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut all = String::new();
    for file in files {
        all.push_str("---\n");
        all.push_str(&std::fs::read_to_string(file)?);
    }
    assert_eq!(String::from_utf8(output.stdout)?, all);
    Ok(())
}

/// Writes the folder anew where that is asked for, one test at a time.
fn update() -> anyhow::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _mine = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(root().join("crds"))?;
        for (name, yaml) in chekt_operator::resources::crd_files()? {
            let path = root().join("crds").join(name);
            // What is the same is left alone: another test may be reading it.
            if std::fs::read_to_string(&path).ok().as_ref() != Some(&yaml) {
                std::fs::write(path, yaml)?;
            }
        }
    }
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
