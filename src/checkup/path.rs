//! The way from CHeKT to the receiver: name, connection, certificate, and who it is that answers.
//!
//! Our receiver refuses an unsigned request in words of its own. Any other answer is somebody else's, who stands before it or
//! in its place; the number says which mistake that usually is.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::certificate::{self, Standing, Validity};
use super::probe::Arrival;
use super::{Finding, Step};
use crate::resources::refusal::Refusal;

/// With less than this left, a certificate is renewed late: what renews by itself does so a month before.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// An answer that takes longer leaves little of the five seconds that CHeKT waits (webhook-setup-guide, "Prerequisites").
const SLOW: Duration = Duration::from_secs(2);

/// Whom an address can be reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody.
    Public,
    /// Whoever is in the same network.
    Private,
    /// This machine alone.
    Loopback,
}

/// An address of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As it is written.
    pub text: String,
    /// Whom it can be reached by.
    pub scope: Scope,
}

/// What became of looking the host up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The url names an address.
    Literal(Address),
    /// The name has these addresses.
    Found(Vec<Address>),
    /// It has none, in the words of the resolver.
    NotFound(String),
    /// The resolver did not answer in time.
    TimedOut,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens.
    Refused,
    /// No answer.
    TimedOut,
    /// This machine has no way to that address.
    NoRoute,
    /// Anything else, in the words of the system.
    Other(String),
}

/// A connection to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The address and port.
    pub address: String,
    /// Why not; `None`: it was made.
    pub fault: Option<Fault>,
}

/// Whether the certificate leads to a root that is trusted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Trusted,
    /// Nobody known has issued it, or the certificates in between are not sent.
    UnknownIssuer,
    /// It has ended.
    Expired,
    /// It begins later.
    NotYetValid,
    /// Anything else, in the words of the verifier.
    Other(String),
}

/// What is known of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whether it is trusted.
    pub trust: Trust,
    /// The names that it is for, where the host is none of them.
    pub wrong_name: Option<Vec<String>>,
    /// The validity of each certificate of the chain, the host's own first, as far as it can be read.
    pub validity: Vec<Option<Validity>>,
    /// Whether a certificate that it depends on ends soon, though it does not itself.
    pub chain_ends_soon: bool,
}

/// What became of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The url is plain http.
    Plain {
        /// Whether it is this machine's own.
        loopback: bool,
    },
    /// It was made.
    Done(Certificate),
    /// It was not, in the words of the TLS library or of the system.
    Failed(String),
    /// No answer.
    TimedOut,
}

/// An answer to a POST without a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The number.
    pub status: u16,
    /// Whether it is word for word what our receiver says with this number.
    pub ours: bool,
    /// Where a redirect leads, cut and cleaned.
    pub location: Option<String>,
    /// Who says to have answered (`Server`), cut and cleaned.
    pub server: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// What became of a POST without a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// There was an answer.
    With(Answer),
    /// There was none within the time that CHeKT waits.
    TimedOut,
    /// The connection broke.
    Broken(String),
}

/// What is found of a name.
#[must_use]
pub fn dns(host: &str, resolution: &Resolution) -> Finding {
    let step = Step::Dns;
    match resolution {
        Resolution::Literal(address) => scoped(
            std::slice::from_ref(address),
            format!("{host} is an address and needs no name"),
        ),
        Resolution::Found(addresses) if addresses.is_empty() => not_found(host, "no address"),
        Resolution::Found(addresses) => {
            let texts: Vec<&str> = addresses.iter().map(|a| a.text.as_str()).collect();
            scoped(addresses, format!("{host} is {}", texts.join(", ")))
        }
        Resolution::NotFound(why) => not_found(host, why),
        Resolution::TimedOut => Finding::failed(
            step,
            format!("the resolver did not answer for {host}"),
            "see that this machine has a working resolver, and that the name servers of the domain answer",
        ),
    }
}

fn not_found(host: &str, why: &str) -> Finding {
    Finding::failed(
        Step::Dns,
        format!("{host} does not resolve: {why}"),
        "make a DNS record that leads to your Ingress or load balancer, or put --public-url right",
    )
}

fn scoped(addresses: &[Address], said: String) -> Finding {
    let all = |scope: Scope| addresses.iter().all(|a| a.scope == scope);
    if all(Scope::Loopback) {
        Finding::ok(
            Step::Dns,
            format!("{said}: this machine, which only a sandbox reaches"),
        )
    } else if addresses.iter().any(|a| a.scope == Scope::Public) {
        Finding::ok(Step::Dns, said)
    } else {
        Finding::warning(
            Step::Dns,
            format!("{said}: private, as seen from here"),
            "see that the name leads to a public address for CHeKT, which delivers from the internet",
        )
    }
}

/// What is found of the connections: CHeKT may take any of the addresses, so each must work.
#[must_use]
pub fn tcp(connections: &[Connected]) -> Finding {
    let step = Step::Tcp;
    let faults: Vec<(&str, &Fault)> = connections
        .iter()
        .filter_map(|c| Some((c.address.as_str(), c.fault.as_ref()?)))
        .collect();
    let made: Vec<&str> = connections
        .iter()
        .filter(|c| c.fault.is_none())
        .map(|c| c.address.as_str())
        .collect();
    let told: Vec<String> = faults
        .iter()
        .map(|(address, fault)| format!("{address} {}", words(fault)))
        .collect();
    let Some((_, first)) = faults.first() else {
        return Finding::ok(step, format!("connected to {}", made.join(", ")));
    };
    if made.is_empty() {
        return Finding::failed(step, told.join("; "), advice(first));
    }
    let said = format!("connected to {}; {}", made.join(", "), told.join("; "));
    // A machine without IPv6 knows nothing of an address that others reach.
    if faults.iter().all(|(_, fault)| **fault == Fault::NoRoute) {
        return Finding::ok(step, said);
    }
    Finding::warning(
        step,
        said,
        "take the address that does not answer out of the DNS, or have it answered: CHeKT may choose it",
    )
}

fn words(fault: &Fault) -> String {
    match fault {
        Fault::Refused => "refuses the connection".to_owned(),
        Fault::TimedOut => "does not answer".to_owned(),
        Fault::NoRoute => "cannot be reached from this machine".to_owned(),
        Fault::Other(why) => format!("cannot be connected to: {why}"),
    }
}

fn advice(fault: &Fault) -> &'static str {
    match fault {
        Fault::Refused => {
            "nobody listens there: see that the Ingress controller or load balancer runs and listens on this port"
        }
        Fault::TimedOut => {
            "a firewall or security group drops it, or the address is wrong: let port 443 in from the internet"
        }
        Fault::NoRoute | Fault::Other(_) => {
            "see that this machine reaches the internet; if it does, see where the address leads"
        }
    }
}

/// What is found of the certificate.
#[must_use]
pub fn tls(host: &str, handshake: &Handshake, now: Timestamp) -> Finding {
    let step = Step::Tls;
    let certificate = match handshake {
        Handshake::Plain { loopback: true } => {
            return Finding::ok(step, "plain http, on this machine alone");
        }
        Handshake::Plain { loopback: false } => {
            return Finding::warning(
                step,
                "plain http: everybody on the way reads the alarms, and CHeKT itself refuses such urls",
                "give the controller a --public-url that begins with https://",
            );
        }
        Handshake::TimedOut => {
            return Finding::failed(
                step,
                "the TLS handshake was not finished in time",
                "see that this port speaks TLS, and not plain http",
            );
        }
        Handshake::Failed(why) => {
            return Finding::failed(
                step,
                format!("no TLS handshake with {host}: {why}"),
                "see that this port speaks TLS, and that whatever answers there has a certificate for this host",
            );
        }
        Handshake::Done(certificate) => certificate,
    };
    let standing = certificate::standing(&certificate.validity, now);
    let own = certificate.validity.first().copied().flatten();
    if let Some(names) = &certificate.wrong_name {
        let names = if names.is_empty() {
            "no name at all".to_owned()
        } else {
            names.join(", ")
        };
        return Finding::failed(
            step,
            format!("the certificate is for {names}, and not for {host}"),
            "have a certificate issued for this host, and see that the Ingress names it (tls.hosts and secretName)",
        );
    }
    match &certificate.trust {
        Trust::Expired | Trust::NotYetValid => return outside_validity(standing),
        Trust::UnknownIssuer => {
            return Finding::failed(
                step,
                "the certificate leads to no root that is trusted here: it is self-signed, of a private CA, or sent without the certificates in between",
                "have it issued by a public CA and serve the whole chain: CHeKT knows no others",
            );
        }
        Trust::Other(why) => {
            return Finding::failed(
                step,
                format!("the certificate is not accepted: {why}"),
                "have a certificate issued for this host by a public CA",
            );
        }
        Trust::Trusted => {}
    }
    if standing != Standing::Valid {
        return Finding::warning(
            step,
            format!("{standing}; this machine trusts the certificate by another chain"),
            "serve the chain that the issuer gives out now: other clients refuse this one",
        );
    }
    let left =
        own.map(|own| Duration::try_from(own.not_after.duration_since(now)).unwrap_or_default());
    let days = left.map(|left| left.as_secs() / (24 * 3600));
    if let (Some(left), Some(days)) = (left, days)
        && left < SOON
    {
        return Finding::warning(
            step,
            format!("the certificate is valid for {host}, and ends in {days} days"),
            "renew it, and see why that has not happened by itself (cert-manager: kubectl describe certificate)",
        );
    }
    if certificate.chain_ends_soon {
        return Finding::warning(
            step,
            format!(
                "the certificate is valid for {host}, and one that it depends on ends within 14 days"
            ),
            "serve the chain that its issuer gives out now",
        );
    }
    let until = days.map_or_else(String::new, |days| format!(" for {days} more days"));
    Finding::ok(step, format!("the certificate is valid for {host}{until}"))
}

/// What is found of a chain that a client refuses for its validity.
fn outside_validity(standing: Standing) -> Finding {
    let next = match standing {
        Standing::Expired { link: 1.., .. } => {
            "serve the chain that the issuer of the certificate gives out now"
        }
        Standing::NotYetValid { .. } => {
            "see that the clocks of this machine and of the certificate's issuer are right"
        }
        Standing::Expired { .. } | Standing::Valid => {
            "renew it, and see why that did not happen by itself (cert-manager: kubectl describe certificate)"
        }
    };
    let said = match standing {
        Standing::Valid => "a certificate of the chain is expired or not valid yet".to_owned(),
        Standing::Expired { .. } | Standing::NotYetValid { .. } => standing.to_string(),
    };
    Finding::failed(Step::Tls, said, next)
}

/// What is found of the answer to a request without a valid signature. `elsewhere`: the url belongs to another receiver, whose
/// words are not known. `arrival`: what this webhook's status says of the request.
#[must_use]
pub fn answer(answered: &Answered, elsewhere: bool, arrival: &Arrival) -> Finding {
    let seen = matches!(arrival, Arrival::Seen { .. });
    let step = Step::Answer;
    let answer = match answered {
        Answered::With(answer) => answer,
        Answered::TimedOut => {
            return Finding::failed(
                step,
                "no answer within the 5 seconds that CHeKT waits",
                "see what stands between: a proxy that waits for a receiver that is not there, or a receiver without a working disk",
            );
        }
        Answered::Broken(why) => {
            return Finding::failed(
                step,
                format!("the connection broke before the answer: {why}"),
                "see the log of what listens there: it took the connection and not the request",
            );
        }
    };
    let status = answer.status;
    let by = answer
        .server
        .as_ref()
        .map_or_else(String::new, |server| format!(" by {server:?}"));
    let foreign = |what: &str| format!("{status}{by}: {what}");
    if answer.ours && (seen || status == 401) {
        if answer.took > SLOW && !arrival.is_without_key() {
            return Finding::warning(
                step,
                format!(
                    "our receiver answers, after {} s: CHeKT waits for 5",
                    answer.took.as_secs()
                ),
                "see what takes so long on the way: an overloaded proxy, or a receiver without CPU",
            );
        }
        let said = match status {
            401 => "our receiver refuses a request without a valid signature, as it must (401)"
                .to_owned(),
            status => format!("our receiver answers ({status})"),
        };
        return Finding::ok(step, said);
    }
    if let Some(refusal) = arrival.unreadable().filter(|_| !answer.ours) {
        let said = format!("{status}{by}: {}", refusal.meaning());
        return Finding::failed(step, said, refusal.remedy());
    }
    if seen && (300..500).contains(&status) {
        return Finding::warning(
            step,
            foreign("another server answers in the place of the receiver, which got the request"),
            "have the proxy pass on what the receiver answers on this path (no error pages of its own): CHeKT counts anything but 200 as a failure",
        );
    }
    if answer.ours && status == 503 {
        return Finding::failed(
            step,
            "our receiver answers, and takes nothing now (503)",
            "see /readyz of the receiver (port 8081): it says what it waits for, such as its disk or the API server",
        );
    }
    let (said, next) = match status {
        300..=399 => {
            let to = answer
                .location
                .as_deref()
                .unwrap_or("no place that it names");
            (
                format!(
                    "{status}{by}: a redirect to {to}; CHeKT counts anything but 200 as a failure"
                ),
                "put the url that it leads to into --public-url, or switch the redirect off for this path",
            )
        }
        200..=299 => {
            if elsewhere {
                return Finding::warning(
                    step,
                    foreign("whoever receives there accepts a request without a signature"),
                    "have the receiver at this url verify signatures: anybody can send it alarms",
                );
            }
            (
                foreign(
                    "somebody who is not our receiver accepts everything, so alarms end there and nobody sees them",
                ),
                "have the Ingress or Gateway lead this path to the receiver's Service",
            )
        }
        401 | 403 if elsewhere => {
            return Finding::ok(
                step,
                foreign("the receiver there refuses a request without a signature"),
            );
        }
        401 | 403 | 407 => (
            foreign(
                "refused by somebody who is not our receiver, such as a login or a firewall before it",
            ),
            "let POST requests to /webhooks/ through to the receiver without a login: it checks the signature itself",
        ),
        404 | 410 => (
            foreign("not our receiver, which never says so: nothing leads this path to it"),
            "have the Ingress or Gateway lead this host and path to the receiver's Service; it expects /webhooks/..., so a path of --public-url must be taken off before it",
        ),
        405 => (
            foreign("not our receiver: whoever answers takes no POST here"),
            "have the Ingress or Gateway lead this path to the receiver's Service",
        ),
        413 => (
            foreign("a proxy takes no body of 4 KiB"),
            "raise its limit for bodies, such as client_max_body_size of nginx (nginx.ingress.kubernetes.io/proxy-body-size)",
        ),
        431 | 494 => (
            foreign("the headers are too large by the time they arrive"),
            Refusal::HeadersTooLarge.remedy(),
        ),
        400 if !elsewhere => (
            foreign("the request cannot be read where it arrives"),
            "switch the PROXY protocol off between load balancer and receiver (send-proxy, proxy_protocol), and have it speak HTTPS to the receiver only if that has a certificate (receiver.tls)",
        ),
        429 => (
            foreign("a proxy limits how often requests may come"),
            "let CHeKT's requests through without a limit: it counts this as a failure as well",
        ),
        // Cloudflare's own numbers.
        525 | 526 => (
            foreign("the CDN does not accept the certificate of the server behind it"),
            "give the receiver, or the Ingress behind the CDN, a certificate that the CDN trusts",
        ),
        502..=504 | 520..=524 | 530 => (
            foreign("a proxy, which gets no answer from the receiver behind it"),
            "see that the receiver runs and is ready, that its Service has endpoints (kubectl get endpointslices), and that the proxy speaks HTTPS to it if it has a certificate (receiver.tls) and HTTP if not",
        ),
        400..=499 if elsewhere => {
            return Finding::ok(
                step,
                foreign("the receiver there refuses a request without a signature"),
            );
        }
        _ => (
            foreign("not our receiver"),
            "see who answers at this url, and have it lead to the receiver's Service",
        ),
    };
    Finding::failed(step, said, next)
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use crate::resources::webhook::SeenProbe;

    const DAY: i64 = 24 * 3600;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn address(text: &str, scope: Scope) -> Address {
        Address {
            text: text.to_owned(),
            scope,
        }
    }

    #[test]
    fn a_name_must_lead_somewhere_and_best_to_the_public() {
        let public = address("192.0.2.1", Scope::Public);
        let private = address("10.0.0.1", Scope::Private);
        let own = address("127.0.0.1", Scope::Loopback);
        let cases = [
            (
                Resolution::Found(vec![public.clone()]),
                Outcome::Ok,
                "192.0.2.1",
            ),
            (
                Resolution::Found(vec![private.clone(), public]),
                Outcome::Ok,
                "10.0.0.1, 192.0.2.1",
            ),
            (
                Resolution::Found(vec![private.clone()]),
                Outcome::Warning,
                "private",
            ),
            (Resolution::Literal(private), Outcome::Warning, "private"),
            (Resolution::Literal(own), Outcome::Ok, "this machine"),
            (Resolution::Found(vec![]), Outcome::Failed, "no address"),
            (
                Resolution::NotFound("no such host".to_owned()),
                Outcome::Failed,
                "no such host",
            ),
            (Resolution::TimedOut, Outcome::Failed, "resolver"),
        ];
        for (resolution, outcome, said) in cases {
            let found = dns("a.example", &resolution);
            assert_eq!(found.outcome, outcome, "{resolution:?}");
            assert!(found.said.contains(said), "{found:?}");
        }
    }

    #[test]
    fn every_address_must_answer_but_one_that_this_machine_has_no_way_to() {
        let to = |fault: Option<Fault>| Connected {
            address: "192.0.2.1:443".to_owned(),
            fault,
        };
        let cases: [(&[Connected], Outcome, &str, &str); 6] = [
            (&[to(None)], Outcome::Ok, "connected to", ""),
            (
                &[to(Some(Fault::Refused))],
                Outcome::Failed,
                "refuses",
                "listens",
            ),
            (
                &[to(Some(Fault::TimedOut))],
                Outcome::Failed,
                "does not answer",
                "firewall",
            ),
            (
                &[to(None), to(Some(Fault::NoRoute))],
                Outcome::Ok,
                "from this machine",
                "",
            ),
            (
                &[to(None), to(Some(Fault::TimedOut))],
                Outcome::Warning,
                "does not answer",
                "out of the DNS",
            ),
            (
                &[to(Some(Fault::NoRoute))],
                Outcome::Failed,
                "cannot be reached",
                "internet",
            ),
        ];
        for (connections, outcome, said, next) in cases {
            let found = tcp(connections);
            assert_eq!(found.outcome, outcome, "{connections:?}");
            assert!(found.said.contains(said), "{found:?}");
            assert!(found.next.unwrap_or_default().contains(next));
        }
    }

    #[test]
    fn a_certificate_is_for_the_host_trusted_and_not_about_to_end() {
        let days = |from: i64, to: i64| {
            let at =
                |days: i64| Timestamp::from_second(now().as_second() + days * DAY + 60).unwrap();
            Some(Validity {
                not_before: at(from),
                not_after: at(to),
            })
        };
        let good = Certificate {
            trust: Trust::Trusted,
            wrong_name: None,
            validity: vec![days(-9, 60)],
            chain_ends_soon: false,
        };
        let ends = |days_left: i64| Certificate {
            validity: vec![days(-9, days_left)],
            ..good.clone()
        };
        let refused = |trust, validity: &[Option<Validity>]| Certificate {
            trust,
            validity: validity.to_vec(),
            ..good.clone()
        };
        let trust = |trust| Certificate {
            trust,
            ..good.clone()
        };
        let named = |names: &[&str]| Certificate {
            wrong_name: Some(names.iter().map(|n| (*n).to_owned()).collect()),
            ..good.clone()
        };
        let cases = [
            (Handshake::Done(good.clone()), Outcome::Ok, "60 more days"),
            (Handshake::Done(ends(14)), Outcome::Ok, "14 more days"),
            (
                Handshake::Done(ends(13)),
                Outcome::Warning,
                "ends in 13 days",
            ),
            (
                Handshake::Done(refused(Trust::Expired, &[days(-9, -1)])),
                Outcome::Failed,
                "the certificate expired at 2023-11-13",
            ),
            (
                Handshake::Done(refused(Trust::Expired, &[days(-9, 60), days(-99, -1)])),
                Outcome::Failed,
                "an issuer's certificate (number 2 of the chain) expired at 2023-11-13",
            ),
            (
                Handshake::Done(refused(Trust::Trusted, &[days(-9, 60), days(-99, -1)])),
                Outcome::Warning,
                "by another chain",
            ),
            (
                Handshake::Done(refused(Trust::Expired, &[None])),
                Outcome::Failed,
                "expired or not valid yet",
            ),
            (
                Handshake::Done(trust(Trust::UnknownIssuer)),
                Outcome::Failed,
                "private CA",
            ),
            (
                Handshake::Done(refused(Trust::NotYetValid, &[days(1, 9)])),
                Outcome::Failed,
                "is not valid before 2023-11-15",
            ),
            (
                Handshake::Done(named(&["b.example"])),
                Outcome::Failed,
                "for b.example, and not for a.example",
            ),
            (
                Handshake::Done(named(&[])),
                Outcome::Failed,
                "no name at all",
            ),
            (
                Handshake::Done(Certificate {
                    chain_ends_soon: true,
                    ..good
                }),
                Outcome::Warning,
                "depends on",
            ),
            (
                Handshake::Plain { loopback: true },
                Outcome::Ok,
                "plain http",
            ),
            (
                Handshake::Plain { loopback: false },
                Outcome::Warning,
                "plain http",
            ),
            (
                Handshake::Failed("corrupt".to_owned()),
                Outcome::Failed,
                "corrupt",
            ),
            (Handshake::TimedOut, Outcome::Failed, "in time"),
        ];
        for (handshake, outcome, said) in cases {
            let found = tls("a.example", &handshake, now());
            assert_eq!(found.outcome, outcome, "{handshake:?}");
            assert!(found.said.contains(said), "{found:?}");
        }
    }

    #[test]
    fn whoever_answers_is_told_from_our_receiver() {
        let with = |status, ours| {
            Answered::With(Answer {
                status,
                ours,
                location: (status == 308).then(|| "https://b.example/".to_owned()),
                server: Some("nginx".to_owned()),
                took: Duration::from_millis(10),
            })
        };
        let slow = Answered::With(Answer {
            status: 401,
            ours: true,
            location: None,
            server: None,
            took: Duration::from_secs(3),
        });
        let cases = [
            (with(401, true), Outcome::Ok, "our receiver", ""),
            (slow, Outcome::Warning, "after 3 s", "proxy"),
            (
                with(503, true),
                Outcome::Failed,
                "takes nothing now",
                "readyz",
            ),
            (
                with(401, false),
                Outcome::Failed,
                "not our receiver",
                "without a login",
            ),
            (
                with(403, false),
                Outcome::Failed,
                "firewall",
                "without a login",
            ),
            (
                with(404, false),
                Outcome::Failed,
                "404 by \"nginx\"",
                "Ingress",
            ),
            (with(405, false), Outcome::Failed, "no POST", "Ingress"),
            (with(502, false), Outcome::Failed, "a proxy", "endpoints"),
            (with(503, false), Outcome::Failed, "a proxy", "endpoints"),
            (
                with(308, false),
                Outcome::Failed,
                "redirect to https://b.example/",
                "--public-url",
            ),
            (
                with(200, false),
                Outcome::Failed,
                "nobody sees them",
                "Ingress",
            ),
            (
                with(200, true),
                Outcome::Failed,
                "nobody sees them",
                "Ingress",
            ),
            (
                with(429, false),
                Outcome::Failed,
                "limits how often",
                "without a limit",
            ),
            (
                with(522, false),
                Outcome::Failed,
                "gets no answer",
                "endpoints",
            ),
            (
                with(526, false),
                Outcome::Failed,
                "does not accept the certificate",
                "CDN trusts",
            ),
            (
                with(413, false),
                Outcome::Failed,
                "no body of 4 KiB",
                "proxy-body-size",
            ),
            (
                with(431, false),
                Outcome::Failed,
                "headers are too large",
                "adds large headers",
            ),
            (
                with(400, false),
                Outcome::Failed,
                "cannot be read",
                "PROXY protocol",
            ),
            (
                with(500, false),
                Outcome::Failed,
                "not our receiver",
                "who answers",
            ),
            (
                Answered::TimedOut,
                Outcome::Failed,
                "5 seconds",
                "stands between",
            ),
            (
                Answered::Broken("reset".to_owned()),
                Outcome::Failed,
                "reset",
                "log",
            ),
        ];
        for (answered, outcome, said, next) in cases {
            let found = answer(&answered, false, &Arrival::nothing());
            assert_eq!(found.outcome, outcome, "{answered:?}");
            assert!(found.said.contains(said), "{found:?}");
            assert!(
                found.next.clone().unwrap_or_default().contains(next),
                "{found:?}"
            );
        }
        for (status, outcome) in [
            (400, Outcome::Ok),
            (401, Outcome::Ok),
            (200, Outcome::Warning),
            (404, Outcome::Failed),
            (502, Outcome::Failed),
        ] {
            assert_eq!(
                answer(&with(status, false), true, &Arrival::nothing()).outcome,
                outcome,
                "{status}"
            );
        }
    }

    #[test]
    fn an_answer_in_the_place_of_the_receivers_is_no_proof_that_it_gets_nothing() {
        let with = |status, ours| {
            Answered::With(Answer {
                status,
                ours,
                location: None,
                server: None,
                took: Duration::from_millis(10),
            })
        };
        for (status, ours, outcome) in [
            (401, true, Outcome::Ok),
            (503, true, Outcome::Ok),
            (401, false, Outcome::Warning),
            (302, false, Outcome::Warning),
            (200, false, Outcome::Failed),
            (504, false, Outcome::Failed),
        ] {
            let seen = Arrival::Seen {
                probe: SeenProbe {
                    id: String::new(),
                    refused: "SignatureMismatch".to_owned(),
                    from: None,
                    path: None,
                    intact: Some(true),
                },
                from: None,
            };
            let found = answer(&with(status, ours), false, &seen);
            assert_eq!(found.outcome, outcome, "{found:?}");
        }
        for (status, refused, said) in [
            (400, "ProxyProtocol", "begins with a PROXY protocol header"),
            (431, "HeadersTooLarge", "larger than 16 KiB"),
            (400, "SignatureMismatch", "cannot be read where it arrives"),
        ] {
            let unseen = Arrival::Unseen {
                refused: Some(refused.to_owned()),
            };
            let found = answer(&with(status, false), false, &unseen);
            assert_eq!(found.outcome, Outcome::Failed);
            assert!(found.said.contains(said), "{found:?}");
        }
    }

    #[test]
    fn what_is_seen_from_inside_is_no_proof_of_a_failure() {
        let found = dns("a.example", &Resolution::TimedOut).seen_from_inside();
        assert_eq!(found.outcome, Outcome::Warning);
        assert!(found.lets_go_on());
    }
}
