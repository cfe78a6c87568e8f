//! Identity: which url is a webhook's.

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
}
