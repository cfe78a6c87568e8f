//! The edge to whatever stands at a url: what CHeKT would meet there, looked at without being CHeKT.
//!
//! A resolver, a connection, a handshake and one request without a signature. No secret goes along, so whoever answers may be
//! anybody. What they say is cut and cleaned before it is shown.

mod answer;
mod certificate;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use url::{Host, Url};

pub use answer::ask;
pub use certificate::{handshake, validity};

use crate::checkup::path::{Address, Connected, Fault, Resolution, Scope};

/// The most addresses of a name that are looked at.
const ADDRESSES: usize = 8;
/// The longest piece of a stranger's words that is shown, in characters.
const LONGEST: usize = 80;

/// Where a url leads.
#[derive(Clone, Debug)]
pub struct Place {
    /// The url.
    pub url: Url,
    /// Its host as it is written, without brackets.
    pub host: String,
    /// Its port, said or usual.
    pub port: u16,
}

impl Place {
    /// Reads a url. `None`: it names no host that could be reached.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let host = match url.host()? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let port = url.port_or_known_default()?;
        Some(Place { url, host, port })
    }

    /// Whether it is https.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }
}

/// Looks a host up.
pub async fn resolve(place: &Place, limit: Duration) -> (Resolution, Vec<SocketAddr>) {
    if let Ok(ip) = place.host.parse::<IpAddr>() {
        let address = SocketAddr::new(ip, place.port);
        return (Resolution::Literal(shown(ip)), vec![address]);
    }
    let found = tokio::time::timeout(limit, lookup_host((place.host.as_str(), place.port))).await;
    match found {
        Err(_) => (Resolution::TimedOut, Vec::new()),
        Ok(Err(error)) => (
            Resolution::NotFound(cleaned(&error.to_string())),
            Vec::new(),
        ),
        Ok(Ok(addresses)) => {
            let mut all: Vec<SocketAddr> = addresses.collect();
            all.sort();
            all.dedup();
            all.truncate(ADDRESSES);
            let shown = all.iter().map(|a| shown(a.ip())).collect();
            (Resolution::Found(shown), all)
        }
    }
}

/// Connects to each address, all at once. Beside what became of it: the first that took the connection.
pub async fn connect(
    addresses: &[SocketAddr],
    limit: Duration,
) -> (Vec<Connected>, Option<SocketAddr>) {
    let each = addresses.iter().map(|address| async move {
        let fault = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(fault(&error)),
            Err(_) => Some(Fault::TimedOut),
        };
        Connected {
            address: address.to_string(),
            fault,
        }
    });
    let all = futures::future::join_all(each).await;
    let first = addresses
        .iter()
        .zip(&all)
        .find(|(_, connected)| connected.fault.is_none())
        .map(|(address, _)| *address);
    (all, first)
}

fn fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Refused,
        io::ErrorKind::TimedOut => Fault::TimedOut,
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::AddrNotAvailable => Fault::NoRoute,
        _ => Fault::Other(cleaned(&error.to_string())),
    }
}

/// Whom an address can be reached by, as it is written; `None`: it is none.
#[must_use]
pub fn scope_of(address: &str) -> Option<Scope> {
    Some(shown(address.parse().ok()?).scope)
}

fn shown(ip: IpAddr) -> Address {
    Address {
        text: ip.to_string(),
        scope: scope(ip.to_canonical()),
    }
}

/// Whom an address can be reached by. The ranges are those of the IANA special-purpose registries that a name is likely to
/// lead to: this machine, private use, shared by a carrier (100.64.0.0/10), link-local, unique local.
fn scope(ip: IpAddr) -> Scope {
    match ip {
        _ if ip.is_loopback() => Scope::Loopback,
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let carrier = a == 100 && (64..128).contains(&b);
            if v4.is_private() || v4.is_link_local() || v4.is_unspecified() || carrier {
                Scope::Private
            } else {
                Scope::Public
            }
        }
        IpAddr::V6(v6) => {
            if v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_unspecified() {
                Scope::Private
            } else {
                Scope::Public
            }
        }
    }
}

/// A stranger's words on one line: nothing that moves a cursor, and not too much of it.
fn cleaned(text: &str) -> String {
    let plain = text
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { ' ' });
    let plain: String = plain.take(LONGEST).collect();
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_the_internet_does_not_reach_are_told_from_others() {
        for (ip, expected) in [
            ("127.8.9.1", Scope::Loopback),
            ("::1", Scope::Loopback),
            ("::ffff:127.0.0.1", Scope::Loopback),
            ("10.1.2.3", Scope::Private),
            ("100.64.0.1", Scope::Private),
            ("100.128.0.1", Scope::Public),
            ("169.254.0.1", Scope::Private),
            ("192.168.0.1", Scope::Private),
            ("fd00::1", Scope::Private),
            ("fe80::1", Scope::Private),
            ("2001:4860::1", Scope::Public),
            ("8.8.8.8", Scope::Public),
        ] {
            assert_eq!(shown(ip.parse().unwrap()).scope, expected, "{ip}");
        }
    }

    #[test]
    fn a_strangers_words_move_no_cursor() {
        assert_eq!(cleaned("a\x1b[31mb\r\nc"), "a [31mb  c");
        assert_eq!(cleaned(&"x".repeat(500)).len(), LONGEST);
    }

    #[test]
    fn a_place_has_the_usual_port() {
        let place = |url| Place::of(url).map(|p| (p.host.clone(), p.port, p.is_tls()));
        assert_eq!(
            place("https://a.example/x"),
            Some(("a.example".to_owned(), 443, true))
        );
        assert_eq!(
            place("http://[::1]:8080/x"),
            Some(("::1".to_owned(), 8080, false))
        );
        assert_eq!(place("mailto:a@b"), None);
    }
}
