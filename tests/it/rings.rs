//! The rings: a module imports only modules of lower rings, and the decisions touch no clock and no client.
//!
//! The compiler would let any module use any other. This test reads the source as text instead: every path that begins
//! at the crate, and the words that a pure module has no use for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms of each ring, the lowest first. What is not here is nobody's: a new room must be given a ring.
const RINGS: [&[&str]; 6] = [
    &["resources"],
    &[
        "account",
        "webhook",
        "delivery",
        "leadership",
        "token",
        "checkup",
    ],
    &["ops"],
    &["cluster", "partner", "journal", "sink", "reach"],
    &["controller", "receiver", "sandbox"],
    &["cli"],
];

/// What rings 0 and 1 do without: waiting, asking, and knowing what time it is.
const IMPURE: [&str; 21] = [
    "tokio::",
    "tokio_util::",
    "futures::",
    "async fn",
    ".await",
    "kube::Api",
    "kube::Client",
    "kube::client",
    "kube::runtime",
    "reqwest::",
    "axum::",
    "hyper::",
    "rusqlite::",
    "std::env",
    "std::fs",
    "std::net",
    "std::thread",
    CLOCKS[0],
    CLOCKS[1],
    CLOCKS[2],
    CLOCKS[3],
];

/// How the machine is asked for the time.
const CLOCKS: [&str; 4] = [
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
];

/// The rooms that are handed a clock, so that a test can turn it.
const TIMED: [&str; 2] = ["controller", "partner"];

#[test]
fn a_module_imports_only_lower_rings() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for source in sources()? {
        let Some(room) = source.room() else { continue };
        let Some(own) = ring(&room) else {
            wrong.push(format!("{} is in no ring: add it to RINGS", source.name));
            continue;
        };
        for other in source.rooms_used(&room) {
            match ring(&other) {
                Some(ring) if ring >= own => wrong.push(format!(
                    "{} (ring {own}) uses crate::{other} (ring {ring})",
                    source.name
                )),
                Some(_) => {}
                None => wrong.push(format!("{} uses crate::{other}, in no ring", source.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn decisions_touch_no_clock_and_no_client() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for source in sources()? {
        if source
            .room()
            .and_then(|room| ring(&room))
            .is_none_or(|ring| ring > 1)
        {
            continue;
        }
        let found = IMPURE
            .iter()
            .filter(|word| source.product().contains(*word));
        wrong.extend(found.map(|word| format!("{}: `{word}`", source.name)));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_controller_knows_the_time_only_from_the_clock_it_is_handed() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for source in sources()? {
        if source.room().is_some_and(|room| TIMED.contains(&&*room)) {
            let found = CLOCKS
                .iter()
                .filter(|word| source.product().contains(*word));
            wrong.extend(found.map(|word| format!("{}: `{word}`", source.name)));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_way_to_name_a_room_is_seen() {
    let source = |name: &str, text: &str| Source {
        name: name.into(),
        code: code(text),
    };
    let used = |name, text| -> Vec<String> {
        let source = source(name, text);
        let room = source.room().unwrap_or_default();
        source.rooms_used(&room).into_iter().collect()
    };
    let text =
        "use crate::{ops::logs, partner::{http, wire}, journal};\nfn f() { crate::cluster::g() }";
    assert_eq!(
        used("webhook/plan.rs", text),
        ["cluster", "journal", "ops", "partner"]
    );
    assert_eq!(used("webhook/plan.rs", "// see crate::ops"), [""; 0]);
    assert_eq!(
        used("webhook/plan.rs", "use crate::webhook::step;"),
        [""; 0]
    );
    assert_eq!(used("webhook/plan.rs", "use super::super::ops;"), ["ops"]);
    assert_eq!(used("webhook/mod.rs", "use super::ops::x;"), ["ops"]);
    assert_eq!(used("controller/gather.rs", "use super::webhook;"), [""; 0]);
    assert_eq!(used("cli.rs", "use super::ops;"), ["ops"]);
}

/// A file of `src/`, without its comments.
struct Source {
    /// Path below `src/`, with `/` between its parts.
    name: String,
    code: String,
}

impl Source {
    /// Without its tests, which must take their moments from somewhere.
    fn product(&self) -> &str {
        self.code
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default()
    }

    /// The room it is in; none for the two roots, which may see everything.
    fn room(&self) -> Option<String> {
        match self.name.split_once('/') {
            Some((room, _)) => Some(room.to_owned()),
            None if self.name == "lib.rs" || self.name == "main.rs" => None,
            None => Some(self.name.trim_end_matches(".rs").to_owned()),
        }
    }

    /// The other rooms it names, by a path from the crate's root.
    fn rooms_used(&self, own: &str) -> BTreeSet<String> {
        // How a path that does not say `crate` gets to the root from here.
        let by_super = match (
            self.name.matches('/').count(),
            self.name.ends_with("/mod.rs"),
        ) {
            (0, _) | (1, true) => "super::",
            (1, false) | (2, true) => "super::super::",
            _ => "super::super::super::",
        };
        let mut used = first_names(&self.code, "crate::");
        used.extend(
            first_names(&self.code, by_super)
                .into_iter()
                // A room of one's own may hold a file of the same name as another room.
                .filter(|name| ring(name).is_some()),
        );
        used.remove(own);
        used
    }
}

fn ring(room: &str) -> Option<usize> {
    RINGS.iter().position(|rooms| rooms.contains(&room))
}

/// The names that follow a prefix: one, or those at the top of a group in braces.
fn first_names(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let part_of_a_longer_word = code[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
        if part_of_a_longer_word {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if !rest.starts_with('{') {
            names.insert(name_at(rest));
            continue;
        }
        let mut depth = 0;
        for (at, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && (c == '{' || c == ',') {
                names.insert(name_at(rest[at + 1..].trim_start()));
            }
        }
    }
    // Items that the crate's root itself holds, such as macros, begin with no room.
    names.remove("");
    names
}

fn name_at(text: &str) -> String {
    let ends = |c: char| !(c.is_alphanumeric() || c == '_');
    text.chars().take_while(|c| !ends(*c)).collect()
}

/// The text without line comments; a `//` within a string goes, too, which hides nothing of interest here.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn sources() -> anyhow::Result<Vec<Source>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    anyhow::ensure!(files.len() > 10, "this is not the source: {files:?}");
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root)?.to_string_lossy().into_owned();
            let code = code(&std::fs::read_to_string(&path)?);
            Ok(Source { name, code })
        })
        .collect()
}
