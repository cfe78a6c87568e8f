//! Echoes: what a watch shows of our own writes. The pass that wrote has gone on with what the API server answered, so
//! its echo tells nothing new, and a pass for it would only read again what was just written.
//!
//! An apply that changes nothing answers with a version that somebody else may have made, so an answer that shows more
//! than our own write is never taken for one. An echo that is not recognised, because it was faster than the answer, costs one pass that finds nothing to do. A
//! change by anybody else has a resource version of its own and is never taken for an echo.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// How many are awaited of one object: more than one pass writes to it.
const MOST: usize = 8;

/// The resource versions that our writes have made and that no watch has shown yet, by object.
#[derive(Debug, Default)]
pub struct Echoes(Mutex<HashMap<String, Vec<String>>>);

impl Echoes {
    /// Notes what a write of ours has made of an object.
    pub fn expect(&self, object: &str, version: Option<String>) {
        let Some(version) = version else { return };
        let mut awaited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = awaited.entry(object.to_owned()).or_default();
        if versions.len() >= MOST {
            versions.remove(0);
        }
        versions.push(version);
    }

    /// Whether this is what a write of ours has made. It is asked once for each event of a watch.
    pub fn is_echo(&self, object: &str, version: Option<&str>) -> bool {
        let mut awaited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = awaited.get_mut(object) else {
            return false;
        };
        let Some(at) = versions.iter().position(|v| Some(v.as_str()) == version) else {
            return false;
        };
        // Those before it were shown before it, or never will be.
        versions.drain(..=at);
        if versions.is_empty() {
            awaited.remove(object);
        }
        true
    }

    /// Whether a write of ours is missing from an object of this version, which a store has: it is older than what we
    /// wrote. `true` also where somebody else wrote after us, which only the API server can tell.
    pub fn is_behind(&self, object: &str, version: Option<&str>) -> bool {
        let mut awaited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = awaited.get_mut(object) else {
            return false;
        };
        if let Some(at) = versions.iter().position(|v| Some(v.as_str()) == version) {
            // Its echo was faster than the answer that it was noted after.
            versions.drain(..=at);
        }
        if versions.is_empty() {
            awaited.remove(object);
            return false;
        }
        true
    }

    /// Expects nothing more of an object that is gone, or that a store has as it is.
    pub fn forget(&self, object: &str) {
        let mut awaited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.remove(object);
    }
}

/// Whether what the API server answered to a write of ours shows nothing of others that the object before it did not.
#[must_use]
pub fn is_ours_alone(before: &ObjectMeta, after: &ObjectMeta) -> bool {
    before.generation == after.generation
        && before.deletion_timestamp == after.deletion_timestamp
        && before.annotations.clone().unwrap_or_default()
            == after.annotations.clone().unwrap_or_default()
        && before.labels.clone().unwrap_or_default() == after.labels.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_shows_what_others_did_is_no_echo() {
        let read = |text: &str| serde_json::from_str::<ObjectMeta>(text).unwrap();
        let before = read(r#"{"generation": 2, "resourceVersion": "1"}"#);
        assert!(is_ours_alone(
            &before,
            &read(
                r#"{"generation": 2, "resourceVersion": "5", "annotations": {}, "finalizers": ["x"]}"#
            )
        ));
        for other in [
            r#"{"generation": 3}"#,
            r#"{"generation": 2, "annotations": {"chekt.com/reconcile-requested-at": "now"}}"#,
            r#"{"generation": 2, "labels": {"team": "security"}}"#,
            r#"{"generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"}"#,
        ] {
            assert!(!is_ours_alone(&before, &read(other)), "{other}");
        }
    }

    #[test]
    fn what_we_wrote_is_an_echo_once_and_what_others_wrote_never() {
        let echoes = Echoes::default();
        assert!(!echoes.is_echo("a", Some("1")), "nothing was written");
        echoes.expect("a", Some("2".to_owned()));
        echoes.expect("a", Some("4".to_owned()));
        assert!(!echoes.is_echo("b", Some("2")), "another object");
        assert!(echoes.is_echo("a", Some("2")));
        assert!(!echoes.is_echo("a", Some("3")), "somebody else's");
        assert!(echoes.is_echo("a", Some("4")));
        assert!(!echoes.is_echo("a", Some("4")), "it was shown already");
        assert!(!echoes.is_echo("a", None));
    }

    #[test]
    fn a_version_that_no_watch_shows_is_given_up_with_the_next_one() {
        let echoes = Echoes::default();
        for version in 1..=2 {
            echoes.expect("a", Some(version.to_string()));
        }
        assert!(echoes.is_echo("a", Some("2")));
        assert!(!echoes.is_echo("a", Some("1")));
        for version in 0..100 {
            echoes.expect("a", Some(version.to_string()));
        }
        assert!(
            !echoes.is_echo("a", Some("3")),
            "only the last few are kept"
        );
        echoes.forget("a");
        assert!(!echoes.is_echo("a", Some("99")));
    }

    #[test]
    fn a_store_is_behind_until_it_has_the_last_of_what_we_wrote() {
        let echoes = Echoes::default();
        assert!(!echoes.is_behind("a", Some("1")));
        echoes.expect("a", Some("2".to_owned()));
        echoes.expect("a", Some("3".to_owned()));
        assert!(echoes.is_behind("a", Some("1")));
        assert!(echoes.is_behind("a", Some("2")), "the second is missing");
        assert!(!echoes.is_behind("a", Some("3")), "it was noted late");
        assert!(!echoes.is_echo("a", Some("3")));
    }
}
