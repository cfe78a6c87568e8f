//! The probe: a request of `verify` that the receiver refuses and notes in the webhook's status. What it looked like on arrival
//! names what a proxy did to it, and whether it arrived at all tells our receiver from another.

use super::path::{Answered, Scope};
use super::{Finding, Step};
use crate::resources::refusal::Refusal;
use crate::resources::webhook::SeenProbe;

/// Whether the status showed the probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It did.
    Seen {
        /// What the receiver saw.
        probe: SeenProbe,
        /// Whom the address that the receiver saw can be reached by.
        from: Option<Scope>,
    },
    /// It did not in time.
    Unseen {
        /// The word for a request that was refused meanwhile, as far as the status tells.
        refused: Option<String>,
    },
}

impl Arrival {
    /// Where no status could show it.
    #[must_use]
    pub fn nothing() -> Self {
        Arrival::Unseen { refused: None }
    }

    /// Whether the receiver waited for a key of the webhook, which takes 2 s.
    #[must_use]
    pub fn is_without_key(&self) -> bool {
        let words = [Refusal::KeyringEmpty, Refusal::NotReady].map(Refusal::as_str);
        matches!(self, Arrival::Seen { probe, .. } if words.contains(&probe.refused.as_str()))
    }

    /// Why the receiver could not read a request meanwhile, if it says so: then there is no more to come.
    #[must_use]
    pub fn unreadable(&self) -> Option<Refusal> {
        let Arrival::Unseen {
            refused: Some(refused),
        } = self
        else {
            return None;
        };
        let found = Refusal::ALL.iter().find(|r| r.as_str() == refused)?;
        let below_http = matches!(
            found,
            Refusal::ProxyProtocol
                | Refusal::NotHttp
                | Refusal::HeadersTooLarge
                | Refusal::HeadersIncomplete
                | Refusal::ConnectionLost
        );
        below_http.then_some(*found)
    }
}

/// What is found of a probe. `own` is the path of the url.
#[must_use]
pub fn judge(answered: &Answered, arrival: &Arrival, own: &str) -> Finding {
    match arrival {
        Arrival::Seen { probe, from } => seen(probe, *from, own),
        Arrival::Unseen { refused } => unseen(answered, refused.as_deref()),
    }
}

fn seen(probe: &SeenProbe, from: Option<Scope>, own: &str) -> Finding {
    let step = Step::Probe;
    if let Some(path) = &probe.path {
        return strayed(path, own);
    }
    let refusal = Refusal::ALL.iter().find(|r| r.as_str() == probe.refused);
    match refusal {
        Some(Refusal::SignatureMismatch) if probe.intact == Some(true) => Finding::ok(
            step,
            "the receiver got the request as it was sent, on the path of this webhook",
        ),
        Some(Refusal::SignatureMismatch) => Finding::failed(
            step,
            "the request arrives with another body than it was sent with, and no signature fits a changed body",
            "find the proxy that rewrites bodies, such as a filter for JSON or one that re-encodes, and have it pass them on as they are",
        ),
        Some(Refusal::SignatureMissing) => Finding::failed(
            step,
            "the request arrives without its X-Webhook-Signature header, so a proxy or CDN removes it",
            Refusal::SignatureMissing.remedy(),
        ),
        Some(Refusal::OriginNotAllowed) => origin(probe.from.as_deref(), from),
        Some(refusal) => Finding::failed(step, refusal.meaning(), refusal.remedy()),
        None => Finding::failed(
            step,
            format!("the receiver refuses the request: {}", probe.refused),
            "see the receiver's log; it is of another version than this program",
        ),
    }
}

/// What is found where another path arrives than the webhook's. `own` is the path of the url.
fn strayed(path: &str, own: &str) -> Finding {
    let as_is = "have the Ingress or proxy pass the path on as it is (no rewrite-target, no prefix added or taken off)";
    let (how, next) = match path {
        "Extended" if !own.starts_with("/webhooks/") => (
            "with the path of --public-url before it",
            "have the Ingress or proxy take the path of --public-url off before it passes a request on, or leave it out of --public-url",
        ),
        "Extended" => ("with something before it, which a proxy adds", as_is),
        "Shortened" => ("without its beginning, which a proxy takes off", as_is),
        _ => ("as another path, so a proxy rewrites it", as_is),
    };
    let said = format!("the path {own} arrives {how}");
    Finding::failed(Step::Probe, said, next)
}

/// A refused address fails nothing: only CHeKT's counts, and the test delivery has it.
fn origin(address: Option<&str>, scope: Option<Scope>) -> Finding {
    let Some(address) = address else {
        return Finding::warning(
            Step::Probe,
            "the receiver cannot read which address a trusted proxy forwards for, so it refuses the request",
            "have each of --trusted-proxy write one of X-Forwarded-For and Forwarded, and remove the other",
        );
    };
    let next = match scope {
        Some(Scope::Private | Scope::Loopback) => {
            "if this is the address of your Ingress or load balancer, put it into --trusted-proxy, and have it write X-Forwarded-For: CHeKT's deliveries come from it as well"
        }
        Some(Scope::Public) | None => {
            "if this is your own address, nothing: only CHeKT must be let in, which the test delivery shows. If it is a proxy's, put it into --trusted-proxy"
        }
    };
    Finding::warning(
        Step::Probe,
        format!(
            "the request arrives; for the receiver it comes from {address}, which --allow-from does not let in"
        ),
        next,
    )
}

fn unseen(answered: &Answered, refused: Option<&str>) -> Finding {
    let step = Step::Probe;
    let is_read = matches!(answered, Answered::With(answer) if answer.ours && answer.status == 401);
    if !is_read {
        return Finding::skipped(step, "the receiver has not read the request");
    }
    if refused == Some(Refusal::SignatureMissing.as_str()) {
        return Finding::failed(
            step,
            "a request without a signature arrived in the place of the one that was sent, so a proxy or CDN removes headers that it does not know",
            "have it pass on all headers, or at least X-Webhook-Signature",
        );
    }
    Finding::failed(
        step,
        "a receiver of ours answered, and the status of this webhook does not show the request: it went to another receiver, or lost both its path and its headers on the way",
        "see that the url leads to the receiver of this cluster, that proxies pass path and headers on as they are, and that receiver and definitions are of this version",
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Outcome;
    use super::super::path::Answer;
    use super::*;

    fn probe(refused: &str, change: impl FnOnce(&mut SeenProbe)) -> SeenProbe {
        let mut probe = SeenProbe {
            id: "0".repeat(32),
            refused: refused.to_owned(),
            from: Some("192.0.2.7".to_owned()),
            path: None,
            intact: Some(true),
        };
        change(&mut probe);
        probe
    }

    fn arrived(probe: SeenProbe, from: Scope) -> Arrival {
        let from = Some(from);
        Arrival::Seen { probe, from }
    }

    fn with(ours: bool) -> Answered {
        Answered::With(Answer {
            status: 401,
            ours,
            location: None,
            server: None,
            took: Duration::from_millis(1),
        })
    }

    #[test]
    fn what_a_proxy_does_to_the_request_is_named() {
        let same = |_: &mut SeenProbe| {};
        let public = |probe| arrived(probe, Scope::Public);
        let unseen = |refused: Option<&str>| Arrival::Unseen {
            refused: refused.map(str::to_owned),
        };
        let cases = [
            (
                public(probe("SignatureMismatch", same)),
                Outcome::Ok,
                "as it was sent",
                "",
            ),
            (
                public(probe("UnknownPath", |p| {
                    p.path = Some("Shortened".to_owned());
                })),
                Outcome::Failed,
                "/webhooks/a/b arrives without its beginning",
                "rewrite-target",
            ),
            (
                public(probe("UnknownPath", |p| {
                    p.path = Some("Extended".to_owned());
                })),
                Outcome::Failed,
                "with something before it",
                "no prefix added",
            ),
            (
                // What is said of the path holds whatever else is wrong.
                public(probe("SignatureMissing", |p| {
                    p.path = Some("Other".to_owned());
                })),
                Outcome::Failed,
                "as another path",
                "",
            ),
            (
                public(probe("SignatureMissing", |p| p.intact = None)),
                Outcome::Failed,
                "without its X-Webhook-Signature header",
                "CDN",
            ),
            (
                public(probe("SignatureMalformed", |p| p.intact = None)),
                Outcome::Failed,
                "64 hexadecimal digits",
                "changes this header",
            ),
            (
                public(probe("SignatureMismatch", |p| p.intact = Some(false))),
                Outcome::Failed,
                "another body",
                "rewrites bodies",
            ),
            (
                public(probe("ContentEncoded", same)),
                Outcome::Failed,
                "has a Content-Encoding",
                "compression",
            ),
            (
                public(probe("OriginNotAllowed", |p| p.intact = None)),
                Outcome::Warning,
                "comes from 192.0.2.7",
                "only CHeKT must be let in",
            ),
            (
                arrived(probe("OriginNotAllowed", same), Scope::Private),
                Outcome::Warning,
                "comes from 192.0.2.7",
                "put it into --trusted-proxy",
            ),
            (
                public(probe("OriginNotAllowed", |p| p.from = None)),
                Outcome::Warning,
                "cannot read which address",
                "remove the other",
            ),
            (
                public(probe("MethodNotAllowed", |p| p.intact = None)),
                Outcome::Failed,
                "not a POST",
                "changes the method",
            ),
            (
                public(probe("KeyringEmpty", same)),
                Outcome::Failed,
                "no key yet",
                "--operator-namespace",
            ),
            (
                public(probe("OfANewerReceiver", same)),
                Outcome::Failed,
                "OfANewerReceiver",
                "another version",
            ),
            (
                unseen(None),
                Outcome::Failed,
                "went to another receiver",
                "of this cluster",
            ),
            (
                unseen(Some("SignatureMissing")),
                Outcome::Failed,
                "removes headers",
                "all headers",
            ),
            (
                unseen(Some("SignatureMismatch")),
                Outcome::Failed,
                "went to another receiver",
                "",
            ),
        ];
        for (arrival, outcome, said, next) in cases {
            let found = judge(&with(true), &arrival, "/webhooks/a/b");
            assert_eq!(found.outcome, outcome, "{arrival:?}");
            assert!(found.said.contains(said), "{said}: {found:?}");
            let told = found.next.clone().unwrap_or_default();
            assert!(told.contains(next), "{next}: {found:?}");
        }
    }

    #[test]
    fn a_public_url_with_a_path_wants_that_taken_off() {
        let extended = probe("UnknownPath", |p| p.path = Some("Extended".to_owned()));
        let extended = arrived(extended, Scope::Public);
        let found = judge(&with(true), &extended, "/chekt/webhooks/a/b");
        assert!(found.said.contains("--public-url before it"), "{found:?}");
    }

    #[test]
    fn where_another_server_answers_a_missing_probe_says_nothing() {
        let unseen = Arrival::Unseen { refused: None };
        for answered in [with(false), Answered::TimedOut] {
            assert_eq!(
                judge(&answered, &unseen, "/").outcome,
                Outcome::Skipped,
                "{answered:?}"
            );
        }
    }

    #[test]
    fn every_refusal_of_a_probe_has_something_to_do() {
        for refusal in Refusal::ALL {
            let seen = arrived(probe(refusal.as_str(), |p| p.intact = None), Scope::Public);
            let found = judge(&with(true), &seen, "/webhooks/a/b");
            assert!(found.next.is_some(), "{found:?}");
        }
    }
}
