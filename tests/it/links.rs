//! Links: every relative link of a document leads to a file, and its anchor to a heading.
//!
//! A document that points nowhere is found out by the reader who needs it most.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_relative_link_of_a_document_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = documents(root);
    assert!(documents.iter().any(|d| d.ends_with("README.md")));
    let mut broken = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        for link in links(&text) {
            if let Some(why) = fault(document, &link) {
                let name = name_of(root, document);
                broken.push(format!("{name}: {link}: {why}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_link_to_nothing_and_an_anchor_without_a_heading_are_found() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    assert!(fault(&readme, "docs/nowhere.md").is_some());
    assert!(fault(&readme, "#no-such-heading").is_some());
    assert!(fault(&readme, "https://example.com/nowhere").is_none());
    assert_eq!(
        links("a [b](c.md#d) `[e](f)`\n```\n[g](h)\n```\n![i](j.png)"),
        ["c.md#d", "j.png"]
    );
    assert_eq!(
        slug("What `kubectl get` shows, in short"),
        "what-kubectl-get-shows-in-short"
    );
}

#[test]
fn every_page_is_on_the_map_or_on_a_page_that_is() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut reached = HashSet::from([docs.join("README.md")]);
    for _ in 0..2 {
        let further: Vec<PathBuf> = reached.iter().flat_map(|page| linked(page)).collect();
        reached.extend(further);
    }
    let pages = documents(&docs);
    assert!(pages.len() > 20, "{pages:?}");
    let lost: Vec<_> = pages
        .iter()
        .filter(|page| !reached.contains(*page))
        .collect();
    assert!(
        lost.is_empty(),
        "no way leads there from docs/README.md: {lost:#?}"
    );
}

/// The documents that one links to.
fn linked(page: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(page).unwrap();
    let targets = links(&text).into_iter().filter_map(|link| {
        let file = link.split('#').next().unwrap_or_default();
        page.parent()?.join(file).canonicalize().ok()
    });
    targets
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect()
}

/// A file's name from the root on.
pub fn name_of(root: &Path, file: &Path) -> String {
    file.strip_prefix(root)
        .unwrap_or(file)
        .display()
        .to_string()
}

/// Every Markdown file of the repository: those of the root, and those below `docs` and the like.
pub fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The targets of all inline links and images outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        let shown: String = line.split('`').step_by(2).collect();
        for part in shown.split("](").skip(1) {
            found.extend(part.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    found
}

/// The lines outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

/// What is wrong with a link of a document, if something is. Addresses elsewhere are not asked.
fn fault(document: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        document.to_owned()
    } else {
        document.parent()?.join(file)
    };
    if !target.exists() {
        return Some("there is no such file".to_owned());
    }
    if anchor.is_empty() {
        return None;
    }
    let text = fs::read_to_string(&target).unwrap_or_default();
    let known: HashSet<String> = prose(&text)
        .filter(|line| line.starts_with('#'))
        .map(|line| slug(line.trim_start_matches('#').trim()))
        .collect();
    (!known.contains(anchor)).then(|| "there is no such heading".to_owned())
}

/// The anchor that a heading gets where Markdown is shown: small letters, dashes for spaces, no punctuation.
fn slug(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
