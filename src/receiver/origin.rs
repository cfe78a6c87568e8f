//! Where a request comes from, and whether it may.
//!
//! The address of the peer is a fact. What `X-Forwarded-For` and `Forwarded` say is a claim, and anybody can write it;
//! it is believed only from a peer that is a trusted proxy, and only as far as trusted proxies have written it: each of
//! them adds the address that it saw at the right end, so the rightmost address that is not a trusted proxy's is the
//! sender. Further left stands whatever the sender has made up.
//!
//! Where it matters, a claim that cannot be read is no claim: the request is refused rather than guessed about.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use ipnet::{IpNet, Ipv4Net};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// More than this many proxies one after the other are somebody's joke.
const MOST: usize = 32;

/// Which addresses are what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Who may deliver. Nothing here: everybody.
    pub allowed: Vec<IpNet>,
    /// Whose word is taken for where a request comes from.
    pub trusted: Vec<IpNet>,
}

/// A trusted proxy said something that cannot be read, or two things that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the forwarded address cannot be read")]
pub struct Unclear;

impl Origins {
    /// Whether this peer is a trusted proxy.
    #[must_use]
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        holds(&self.trusted, peer.to_canonical())
    }

    /// Whether a request may come from where it comes from.
    #[must_use]
    pub fn admits(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        self.allowed.is_empty()
            || self
                .sender(peer, headers)
                .is_ok_and(|sender| holds(&self.allowed, sender))
    }

    /// Where a request comes from, as far as that can be believed.
    ///
    /// # Errors
    /// [`Unclear`] where a trusted proxy's word cannot be read.
    pub fn sender(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, Unclear> {
        let peer = peer.to_canonical();
        if !self.is_proxy(peer) {
            return Ok(peer);
        }
        // Most proxies write one of the two and let through whatever the sender has put into the other, so where
        // both are there they must say the same.
        let old = self.rightmost(&x_forwarded_for(headers))?;
        let new = self.rightmost(&forwarded(headers)?)?;
        match (old, new) {
            (None, None) => Ok(peer),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (Some(old), Some(new)) if old == new => Ok(old),
            (Some(_), Some(_)) => Err(Unclear),
        }
    }

    /// The rightmost of the stated addresses that is not a trusted proxy's, else the leftmost.
    fn rightmost(&self, stated: &[String]) -> Result<Option<IpAddr>, Unclear> {
        let mut sender = None;
        for node in stated.iter().rev().take(MOST) {
            let address = address(node).ok_or(Unclear)?;
            sender = Some(address);
            if !holds(&self.trusted, address) {
                return Ok(sender);
            }
        }
        if stated.len() > MOST {
            return Err(Unclear);
        }
        Ok(sender)
    }
}

/// Reads a range of addresses for the command line.
///
/// # Errors
/// What to write instead.
pub fn range(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let net = text
        .parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        .ok_or("write a range of addresses as 192.0.2.0/24 or 2001:db8::/32, or one address as 192.0.2.7")?;
    // Peers are compared as IPv4 where they are, so such a range would hold nobody.
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Ok(v4) = Ipv4Net::new(v4, v6.prefix_len() - 96)
    {
        return Ok(IpNet::V4(v4));
    }
    Ok(net)
}

fn holds(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// The nodes of every `X-Forwarded-For`, in order.
fn x_forwarded_for(headers: &HeaderMap) -> Vec<String> {
    let mut nodes = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        // Bytes that are no text stand for themselves: they are no address, should it come to that.
        let text = String::from_utf8_lossy(value.as_bytes());
        nodes.extend(text.split(',').map(|node| node.trim().to_owned()));
    }
    nodes
}

/// The value of `for` in each element of every `Forwarded` (RFC 7239, section 4), in order. A node that does not say
/// whom it forwards for hides the sender, so it is no address.
fn forwarded(headers: &HeaderMap) -> Result<Vec<String>, Unclear> {
    let mut nodes = Vec::new();
    for value in headers.get_all(FORWARDED) {
        let text = value.to_str().map_err(|_| Unclear)?;
        for element in split(text, ',')? {
            let mut node = None;
            for pair in split(element, ';')? {
                let (name, value) = pair.split_once('=').ok_or(Unclear)?;
                if name.trim().eq_ignore_ascii_case("for")
                    && node.replace(unquoted(value.trim())?).is_some()
                {
                    return Err(Unclear);
                }
            }
            nodes.push(node.unwrap_or_default());
        }
    }
    Ok(nodes)
}

/// Splits at a character outside of quotes.
fn split(text: &str, at: char) -> Result<Vec<&str>, Unclear> {
    let (mut parts, mut begin, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == at && !quoted => {
                parts.push(&text[begin..index]);
                begin = index + c.len_utf8();
            }
            _ => {}
        }
    }
    if quoted {
        return Err(Unclear);
    }
    parts.push(&text[begin..]);
    Ok(parts)
}

fn unquoted(value: &str) -> Result<String, Unclear> {
    let Some(inner) = value.strip_prefix('"') else {
        return Ok(value.to_owned());
    };
    let inner = inner.strip_suffix('"').ok_or(Unclear)?;
    // No address needs an escape.
    if inner.contains(['"', '\\']) {
        return Err(Unclear);
    }
    Ok(inner.to_owned())
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(node: &str) -> Option<IpAddr> {
    let bare = node
        .strip_prefix('[')
        .and_then(|node| node.strip_suffix(']'))
        .filter(|node| node.contains(':'))
        .unwrap_or(node);
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| node.parse::<SocketAddr>().map(|with_port| with_port.ip()))
        .ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn origins() -> Origins {
        let ranges = |texts: &[&str]| texts.iter().map(|text| range(text).unwrap()).collect();
        Origins {
            allowed: ranges(&["192.0.2.0/24", "2001:db8:1::/48"]),
            trusted: ranges(&["10.0.0.0/8", "fd00::/8"]),
        }
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn the_sender_is_the_rightmost_address_that_is_no_proxy_of_ours() {
        const X: &str = "x-forwarded-for";
        const F: &str = "forwarded";
        type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], Option<&'c str>);
        let cases: &[Case] = &[
            ("a peer as it is", "192.0.2.1", &[], Some("192.0.2.1")),
            (
                "IPv4 in the clothes of IPv6",
                "::ffff:192.0.2.1",
                &[],
                Some("192.0.2.1"),
            ),
            (
                "a stranger's claim",
                "203.0.113.9",
                &[(X, "192.0.2.1")],
                Some("203.0.113.9"),
            ),
            (
                "a stranger's newer claim",
                "203.0.113.9",
                &[(F, "for=192.0.2.1")],
                Some("203.0.113.9"),
            ),
            (
                "a stranger's nonsense",
                "203.0.113.9",
                &[(X, "%%%")],
                Some("203.0.113.9"),
            ),
            (
                "a proxy's word",
                "10.1.1.1",
                &[(X, "192.0.2.1")],
                Some("192.0.2.1"),
            ),
            (
                "a proxy in the clothes of IPv6",
                "::ffff:10.1.1.1",
                &[(X, "192.0.2.1")],
                Some("192.0.2.1"),
            ),
            (
                "a proxy that says nothing",
                "10.1.1.1",
                &[],
                Some("10.1.1.1"),
            ),
            (
                "what the sender made up stands left",
                "10.1.1.1",
                &[(X, "192.0.2.1, 203.0.113.9")],
                Some("203.0.113.9"),
            ),
            (
                "nonsense on the left",
                "10.1.1.1",
                &[(X, "%%%, \"unknown, 192.0.2.1")],
                Some("192.0.2.1"),
            ),
            (
                "two proxies",
                "10.1.1.1",
                &[(X, "192.0.2.1,10.2.2.2 , 10.3.3.3")],
                Some("192.0.2.1"),
            ),
            (
                "two lines",
                "10.1.1.1",
                &[(X, "203.0.113.9"), (X, "192.0.2.1, 10.2.2.2")],
                Some("192.0.2.1"),
            ),
            (
                "only proxies",
                "10.1.1.1",
                &[(X, "10.4.4.4, 10.5.5.5")],
                Some("10.4.4.4"),
            ),
            (
                "with a port",
                "10.1.1.1",
                &[(X, "192.0.2.1:4711")],
                Some("192.0.2.1"),
            ),
            (
                "IPv6",
                "fd00::1",
                &[(X, "2001:db8:1::7")],
                Some("2001:db8:1::7"),
            ),
            (
                "IPv6 in brackets",
                "fd00::1",
                &[(X, "[2001:db8:1::7]")],
                Some("2001:db8:1::7"),
            ),
            (
                "IPv6 with a port",
                "fd00::1",
                &[(X, "[2001:db8:1::7]:443")],
                Some("2001:db8:1::7"),
            ),
            ("IPv4 in brackets", "10.1.1.1", &[(X, "[192.0.2.1]")], None),
            ("an empty value", "10.1.1.1", &[(X, "")], None),
            (
                "an empty place at the right",
                "10.1.1.1",
                &[(X, "192.0.2.1,")],
                None,
            ),
            ("a name", "10.1.1.1", &[(X, "192.0.2.1, unknown")], None),
            ("bytes", "10.1.1.1", &[(X, "192.0.2.1, \u{fc}")], None),
            (
                "nonsense between proxies",
                "10.1.1.1",
                &[(X, "192.0.2.1, x, 10.2.2.2")],
                None,
            ),
            (
                "RFC 7239",
                "10.1.1.1",
                &[(F, "for=192.0.2.1;proto=https;by=10.1.1.1")],
                Some("192.0.2.1"),
            ),
            (
                "in any case",
                "10.1.1.1",
                &[(F, "Proto=https; FOR=\"192.0.2.1:80\"")],
                Some("192.0.2.1"),
            ),
            (
                "its IPv6",
                "10.1.1.1",
                &[(F, "for=\"[2001:db8:1::7]:4711\"")],
                Some("2001:db8:1::7"),
            ),
            (
                "its lists",
                "10.1.1.1",
                &[(F, "for=203.0.113.9, for=192.0.2.1"), (F, "for=10.2.2.2")],
                Some("192.0.2.1"),
            ),
            (
                "a comma in quotes",
                "10.1.1.1",
                &[(F, "for=1.1.1.1;host=\"a,b;c\", for=192.0.2.1")],
                Some("192.0.2.1"),
            ),
            ("unknown", "10.1.1.1", &[(F, "for=unknown")], None),
            (
                "hidden",
                "10.1.1.1",
                &[(F, "for=192.0.2.1, for=_hidden")],
                None,
            ),
            (
                "without for",
                "10.1.1.1",
                &[(F, "for=192.0.2.1, by=10.2.2.2")],
                None,
            ),
            (
                "twice for",
                "10.1.1.1",
                &[(F, "for=192.0.2.1;for=192.0.2.1")],
                None,
            ),
            (
                "a quote left open by the sender",
                "10.1.1.1",
                &[(F, "for=\", for=192.0.2.1")],
                None,
            ),
            ("an escape", "10.1.1.1", &[(F, "for=\"192.0.2\\.1\"")], None),
            ("no pair", "10.1.1.1", &[(F, "192.0.2.1")], None),
            (
                "both, and the same",
                "10.1.1.1",
                &[(F, "for=192.0.2.1"), (X, "192.0.2.1")],
                Some("192.0.2.1"),
            ),
            (
                "both, and not the same",
                "10.1.1.1",
                &[(F, "for=192.0.2.1"), (X, "203.0.113.9")],
                None,
            ),
        ];
        for (what, peer, lines, expected) in cases {
            let sender = origins().sender(peer.parse().unwrap(), &headers(lines));
            let expected = expected.map(|text| text.parse().unwrap()).ok_or(Unclear);
            assert_eq!(sender, expected, "{what}");
            let admitted = origins().admits(peer.parse().unwrap(), &headers(lines));
            let wanted = expected.is_ok_and(|sender| holds(&origins().allowed, sender));
            assert_eq!(admitted, wanted, "{what}");
        }
    }

    #[test]
    fn a_chain_without_end_is_not_followed() {
        let chain = vec!["10.2.2.2"; MOST + 1].join(",");
        let peer = "10.1.1.1".parse().unwrap();
        let sender = origins().sender(peer, &headers(&[("x-forwarded-for", &chain)]));
        assert_eq!(sender, Err(Unclear));
    }

    #[test]
    fn without_a_list_everybody_is_admitted_whatever_a_proxy_says() {
        let origins = Origins {
            allowed: Vec::new(),
            ..origins()
        };
        let headers = headers(&[("x-forwarded-for", "%%%")]);
        assert!(origins.admits("10.1.1.1".parse().unwrap(), &headers));
        assert!(origins.admits("203.0.113.9".parse().unwrap(), &headers));
    }

    #[test]
    fn a_range_is_read_or_it_is_said_what_to_write() {
        let read = |text| range(text).map(|net| net.to_string());
        assert_eq!(read("192.0.2.0/24").unwrap(), "192.0.2.0/24");
        assert_eq!(read(" 192.0.2.7 ").unwrap(), "192.0.2.7/32");
        assert_eq!(read("2001:db8::/32").unwrap(), "2001:db8::/32");
        assert_eq!(read("::ffff:192.0.2.0/120").unwrap(), "192.0.2.0/24");
        for wrong in [
            "",
            "192.0.2.0/33",
            "192.0.2",
            "example.com",
            "192.0.2.0/24/8",
            "all",
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains("192.0.2.0/24"), "{wrong}: {error}");
        }
    }

    proptest! {
        /// Whatever somebody puts before what a proxy has added: it is that proxy's word, or nothing.
        #[test]
        fn nobody_talks_himself_in_from_outside(made_up in "[ -~]{0,40}", newer in "[ -~]{0,40}", last in any::<[u8; 4]>()) {
            let outside = IpAddr::from(last);
            prop_assume!(!holds(&origins().trusted, outside));
            prop_assume!(!holds(&origins().allowed, outside));
            let peer = "10.1.1.1".parse().unwrap();
            let old = headers(&[("x-forwarded-for", &format!("{made_up}, {outside}"))]);
            prop_assert_eq!(origins().sender(peer, &old), Ok(outside));
            let new = headers(&[("forwarded", &format!("{newer}, for={outside}"))]);
            prop_assert!(!origins().admits(peer, &new));
            // The header that the proxy does not write is the sender's own.
            let both = headers(&[("forwarded", &newer), ("x-forwarded-for", &format!("{outside}"))]);
            prop_assert!(!origins().admits(peer, &both));
        }
    }
}
