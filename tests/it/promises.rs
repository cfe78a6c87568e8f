//! Promises: every test that `docs/reliability.md` names as a proof exists.
//!
//! A proof that was renamed or removed takes the promise with it, and somebody has to notice.

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_a_promise_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let named = tests_named(&text);
    assert!(named.len() > 5, "{named:?}");
    let gone: Vec<_> = named
        .iter()
        .filter(|(module, test)| {
            let file = root.join(format!("tests/it/{module}.rs"));
            let code = fs::read_to_string(file).unwrap_or_default();
            !code.contains(&format!("fn {test}("))
        })
        .collect();
    assert!(gone.is_empty(), "named as a proof, and not there: {gone:?}");
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
