//! Identity: which url is a webhook's, and when two spellings are one url.

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

/// One spelling for all spellings of a url: scheme and host in lower case, no default port, a slash for an empty
/// path. What cannot be parsed is left as it is.
#[must_use]
pub fn canonical(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), String::from)
}

/// Whether two urls are one, whatever their spelling.
#[must_use]
pub fn same(a: &str, b: &str) -> bool {
    a == b || canonical(a) == canonical(b)
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
    fn spelling_makes_no_other_url_and_a_path_does() {
        assert!(same("https://A.Example:443/x", "https://a.example/x"));
        assert!(same("https://a.example", "https://a.example/"));
        assert!(!same("https://a.example/x", "https://a.example/X"));
        assert!(!same("https://a.example/x", "https://a.example/x/"));
        assert!(!same("https://a.example/x", "http://a.example/x"));
    }
}
