//! Where etcd, kube-apiserver, kube-controller-manager, kubectl and kstatus come from.
//!
//! From `KUBEBUILDER_ASSETS` where that is set, as everybody who uses setup-envtest has it; but for kstatus, which is in
//! none. Otherwise they are built once from a pinned `go.mod` into the user's cache folder. The folder's name is a hash of what they
//! are built from, so a new pin gets a new folder and an old one is never taken for it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::go_build::{self, CONTROL_PLANE, KSTATUS, Recipe};

const GO_MOD: &str = include_str!("control-plane/go.mod");
const GO_SUM: &str = include_str!("control-plane/go.sum");

/// Everything in the repository that kstatus is made of.
const KSTATUS_SOURCES: [&str; 3] = [
    include_str!("../kstatus/go.mod"),
    include_str!("../kstatus/go.sum"),
    include_str!("../kstatus/main.go"),
];

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub struct Assets {
    /// The store.
    pub etcd: PathBuf,
    /// The API server.
    pub apiserver: PathBuf,
    /// Deletes namespaces and collects garbage. setup-envtest does not bring it.
    pub controller_manager: Option<PathBuf>,
    /// The command line.
    pub kubectl: PathBuf,
}

/// Finds the programs, and builds them if nobody has yet. Blocks: a first build takes minutes.
///
/// # Errors
/// When something is missing, with what to do about it.
pub fn find() -> anyhow::Result<Assets> {
    if let Some(dir) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()) {
        return given(Path::new(&dir));
    }
    let dir = cache_dir()?;
    if !dir.is_dir() {
        build(&CONTROL_PLANE, &dir)?;
    }
    Ok(Assets {
        etcd: dir.join("etcd"),
        apiserver: dir.join("kube-apiserver"),
        controller_manager: Some(dir.join("kube-controller-manager")),
        kubectl: dir.join("kubectl"),
    })
}

/// Finds kstatus, and builds it if nobody has yet. Blocks: a first build takes some ten seconds.
///
/// # Errors
/// When Go is missing or fails.
pub fn kstatus() -> anyhow::Result<PathBuf> {
    found_or_built("kstatus", &KSTATUS_SOURCES, &KSTATUS).map(|dir| dir.join("kstatus"))
}

/// The folder of what is made from a recipe and its sources, below that of its kind; made if nobody has yet.
///
/// # Errors
/// When Go is missing or fails.
pub fn found_or_built(kind: &str, sources: &[&str], recipe: &Recipe) -> anyhow::Result<PathBuf> {
    let dir = cached(kind, sources, recipe)?;
    if !dir.is_dir() {
        build(recipe, &dir)?;
    }
    Ok(dir)
}

/// Where the built programs of the control plane are, or will be.
///
/// # Errors
/// When the user has no cache folder.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    cached("control-plane", &[GO_MOD, GO_SUM], &CONTROL_PLANE)
}

/// The folder for what is made from these sources and by this recipe's text.
fn cached(kind: &str, sources: &[&str], recipe: &Recipe) -> anyhow::Result<PathBuf> {
    let parts: Vec<_> = sources.iter().copied().chain([recipe.text]).collect();
    cached_by(kind, &parts)
}

/// The folder for what all these decide.
///
/// # Errors
/// When the user has no cache folder.
pub(super) fn cached_by(kind: &str, parts: &[&str]) -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = match (set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => Path::new(&home).join(".cache"),
        (None, None) => anyhow::bail!("neither XDG_CACHE_HOME nor HOME is set: set one of them"),
    };
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let name = data_encoding::HEXLOWER.encode(&hash.finalize()[..8]);
    Ok(cache.join("chekt-operator").join(kind).join(name))
}

fn given(dir: &Path) -> anyhow::Result<Assets> {
    let program = |name: &str| {
        let path = dir.join(name);
        path.is_file().then_some(path)
    };
    let needed = |name: &str| {
        program(name).with_context(|| {
            format!(
                "KUBEBUILDER_ASSETS is {} and there is no {name} in it: point it at a folder of setup-envtest, \
                 or unset it to have the control plane built",
                dir.display()
            )
        })
    };
    let controller_manager = program("kube-controller-manager");
    if controller_manager.is_none() {
        go_build::say(&format!(
            "note: no kube-controller-manager in {} (setup-envtest brings none). Deleted namespaces stay \
             Terminating, and tests that need it say so. Unset KUBEBUILDER_ASSETS to have one built.",
            dir.display()
        ));
    }
    Ok(Assets {
        etcd: needed("etcd")?,
        apiserver: needed("kube-apiserver")?,
        controller_manager,
        kubectl: needed("kubectl")?,
    })
}

/// Builds what is not there yet.
fn build(recipe: &Recipe, dir: &Path) -> anyhow::Result<()> {
    make(recipe.what, dir, |partial| {
        go_build::build_all(recipe, partial)
    })
}

/// Makes a folder beside the wanted one and renames it at the end: the wanted name never stands for half of it.
pub(super) fn make(
    what: &str,
    dir: &Path,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().context("the cache folder has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let lock = File::create(dir.with_extension("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            go_build::say(&format!("another run is building {what}; waiting for it"));
            lock.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    if dir.is_dir() {
        return Ok(());
    }
    let partial = dir.with_extension("partial");
    if partial.exists() {
        // Left by a run that was interrupted: we hold the lock, so nobody is at work there.
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial)?;
    make(&partial)?;
    fs::rename(&partial, dir)?;
    Ok(())
}
