//! Identity: which url is a webhook's, and whose it is when several claim it.

use k8s_openapi::jiff::Timestamp;
use url::Url;

/// The path prefix of the receiver.
pub const RECEIVER_PATH: &str = "webhooks";

/// The url of a webhook that the operator receives itself: `{public URL}/webhooks/{namespace}/{name}`.
///
/// It is made of nothing but names, so that a cluster that is built anew from git finds its webhooks again.
#[must_use]
pub fn derived(public: &Url, namespace: &str, name: &str) -> String {
    let base = public.as_str().trim_end_matches('/');
    format!("{base}/{RECEIVER_PATH}/{namespace}/{name}")
}

/// A claim to a url. Of several, the smallest keeps it: the older resource, and of two made in the same second (which
/// is all that Kubernetes tells) the one whose remote webhook is there already.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// When the resource was created.
    pub created: Option<Timestamp>,
    /// Whether it has no remote webhook on record yet.
    pub unmade: bool,
    /// Its uid: any order will do in the end, as long as all agree on it.
    pub uid: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_url_hangs_below_whatever_path_the_public_url_has() {
        for public in ["https://a.example", "https://a.example/"] {
            let url = derived(&Url::parse(public).unwrap(), "security", "alarms");
            assert_eq!(url, "https://a.example/webhooks/security/alarms");
        }
        let url = derived(&Url::parse("https://a.example/chekt/").unwrap(), "n", "w");
        assert_eq!(url, "https://a.example/chekt/webhooks/n/w");
    }

    #[test]
    fn the_older_keeps_a_url_and_of_two_of_one_second_the_one_that_has_it() {
        let claim = |second, unmade, uid: &str| Claim {
            created: Some(Timestamp::from_second(second).unwrap()),
            unmade,
            uid: Some(uid.to_owned()),
        };
        assert!(claim(1, true, "z") < claim(2, false, "a"));
        assert!(claim(1, false, "z") < claim(1, true, "a"));
        assert!(claim(1, true, "a") < claim(1, true, "z"));
    }
}
