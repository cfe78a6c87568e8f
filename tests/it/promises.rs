//! Promises: every test that a document names as a proof exists, and what the README says of failures is what the page of
//! all failures says.
//!
//! A proof that was renamed or removed takes the promise with it, and somebody has to notice.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The documents that name tests as proofs, and how many each names at least.
const DOCUMENTS: [(&str, usize); 2] = [("docs/reliability.md", 30), ("docs/threat-model.md", 30)];
/// Where tests are: a file of their module's name.
const BINARIES: [&str; 3] = ["tests/it", "tests/shipped", "tests/e2e"];

#[test]
fn every_test_that_a_promise_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut gone = Vec::new();
    for (document, least) in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let named = tests_named(&text);
        assert!(named.len() >= least, "{document} names only {named:?}");
        for (module, test) in named {
            let exists = BINARIES.iter().any(|binary| {
                let file = root.join(format!("{binary}/{module}.rs"));
                let code = fs::read_to_string(file).unwrap_or_default();
                code.contains(&format!("fn {test}("))
            });
            if !exists {
                gone.push(format!("{document}: {module}::{test}"));
            }
        }
    }
    assert!(
        gone.is_empty(),
        "named as a proof, and not there: {gone:#?}"
    );
}

#[test]
fn every_failure_that_the_readme_tells_of_is_told_in_the_same_words_on_the_page_of_failures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = |document: &str| -> HashSet<String> {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let section = text.split("\n## Not there yet").next().unwrap_or_default();
        let after = section
            .split_once("hen things fail\n")
            .map_or("", |(_, after)| after);
        let rows = after.lines().filter(|line| line.starts_with("| "));
        rows.map(ToOwned::to_owned).collect()
    };
    let (short, all) = (rows("README.md"), rows("docs/failures.md"));
    assert!(
        short.len() > 10 && all.len() > 40,
        "{} of {}",
        short.len(),
        all.len()
    );
    let other: Vec<_> = short.difference(&all).collect();
    assert!(other.is_empty(), "not in docs/failures.md: {other:#?}");
}

#[test]
fn a_test_is_named_as_module_and_function() {
    let text =
        "| said | `kill::nothing_is_lost` |\nand `make kill-test`, `a::B`, `std::fs`\n`storm::ten`";
    assert_eq!(
        tests_named(text),
        [("kill", "nothing_is_lost"), ("std", "fs"), ("storm", "ten")]
    );
}

/// Everything in backticks that looks like `module::test`.
fn tests_named(text: &str) -> Vec<(&str, &str)> {
    let is_name = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let coded = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    coded
        .filter_map(|code| code.split_once("::"))
        .filter(|(module, test)| is_name(module) && is_name(test))
        .collect()
}
