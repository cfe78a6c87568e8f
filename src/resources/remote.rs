//! The remote webhook: the object at CHeKT, as far as CHeKT tells, and when two spellings of its url are one.

use std::time::Duration;

use url::{Host, Url};

/// How long CHeKT may take to show a write in its list, and how long a request whose sender died may take to land.
/// Nothing is documented; the guess errs on the side of waiting.
pub const SETTLE: Duration = Duration::from_secs(5);

/// One webhook as CHeKT shows it. The secret is never among what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteWebhook {
    /// CHeKT's id: a string, or a number written as one.
    pub id: String,
    /// Where it delivers, in CHeKT's spelling.
    pub url: String,
    /// What it is subscribed to, in CHeKT's order.
    pub events: Vec<String>,
    /// CHeKT's word for its state; absent where CHeKT says none.
    pub state: Option<String>,
    /// When it was created, in CHeKT's spelling, which differs from page to page of its documentation.
    pub created_at: Option<String>,
}

impl RemoteWebhook {
    /// Whether it is shown as deleted: it is no webhook any more, and CHeKT knows that. Nothing is documented; a list that
    /// shows what is gone, for a while or for good, is not unusual.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        let state = self.state.as_deref();
        state.is_some_and(|word| word.eq_ignore_ascii_case("deleted"))
    }
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

/// Whether a URL names this machine: `localhost`, 127.0.0.0/8 or `[::1]`.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_makes_no_other_url_and_a_path_does() {
        assert!(same("https://A.Example:443/x", "https://a.example/x"));
        assert!(same("https://a.example", "https://a.example/"));
        assert!(!same("https://a.example/x", "https://a.example/X"));
        assert!(!same("https://a.example/x", "https://a.example/x/"));
        assert!(!same("https://a.example/x", "http://a.example/x"));
    }
}
