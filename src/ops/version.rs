//! Which build this is: what `--version` says, and what a person who reports a fault is asked for first.
//!
//! `build.rs` finds it out. What it could not find out is said to be unknown.

use std::fmt;
use std::sync::LazyLock;

use k8s_openapi::jiff::{Timestamp, tz::TimeZone};

/// One build of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The version of the package, such as `1.2.3`.
    pub version: &'static str,
    /// The first digits of the commit, with `-dirty` behind them if files had been changed since.
    pub commit: Option<&'static str>,
    /// When that commit was made.
    pub date: Option<Timestamp>,
    /// Built to be worked on, and not asked for its commit.
    pub development: bool,
}

/// This build.
#[must_use]
pub fn this() -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: Some(env!("CHEKT_COMMIT")).filter(|commit| !commit.is_empty()),
        date: env!("CHEKT_COMMIT_EPOCH")
            .parse()
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok()),
        development: env!("CHEKT_DEVELOPMENT") == "1",
    }
}

/// This build as `--version` says it.
#[must_use]
pub fn line() -> &'static str {
    static LINE: LazyLock<String> = LazyLock::new(|| this().to_string());
    &LINE
}

impl Build {
    /// The commit in one word, also where it is not known: the value of a label.
    #[must_use]
    pub fn commit_or_unknown(&self) -> &'static str {
        self.commit.unwrap_or("unknown")
    }

    /// The commit's day in UTC, such as `2026-11-24`, or `unknown`.
    #[must_use]
    pub fn day(&self) -> String {
        self.date.map_or_else(
            || "unknown".to_owned(),
            |date| date.to_zoned(TimeZone::UTC).date().to_string(),
        )
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.development && self.commit.is_none() {
            return write!(f, "{} (development build)", self.version);
        }
        write!(
            f,
            "{} (commit {}, {})",
            self.version,
            self.commit_or_unknown(),
            match self.date {
                Some(_) => self.day(),
                None => "date unknown".to_owned(),
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASED: Build = Build {
        version: "1.2.3",
        commit: Some("0123456789ab"),
        date: Some(Timestamp::UNIX_EPOCH),
        development: false,
    };

    #[test]
    fn a_release_says_its_commit_and_the_commits_day() {
        assert_eq!(
            RELEASED.to_string(),
            "1.2.3 (commit 0123456789ab, 1970-01-01)"
        );
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let build = Build {
            commit: None,
            date: None,
            ..RELEASED
        };
        assert_eq!(build.to_string(), "1.2.3 (commit unknown, date unknown)");
        assert_eq!(
            (build.commit_or_unknown(), &*build.day()),
            ("unknown", "unknown")
        );
    }

    #[test]
    fn a_development_build_says_that_it_is_one() {
        let build = Build {
            commit: None,
            date: None,
            development: true,
            ..RELEASED
        };
        assert_eq!(build.to_string(), "1.2.3 (development build)");
        assert_eq!(line(), this().to_string());
        assert!(line().starts_with(env!("CARGO_PKG_VERSION")));
    }
}
