//! Whether a chain of certificates is within its validity: `verify` asks about the chain that a url shows, the receiver about
//! the chain that it serves.

use std::fmt;

use k8s_openapi::jiff::Timestamp;

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: Timestamp,
    /// The last second.
    pub not_after: Timestamp,
}

/// What a chain is at a moment. `link` counts from 0, the certificate of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every certificate is within its validity.
    Valid,
    /// A certificate has expired.
    Expired {
        /// Which.
        link: usize,
        /// Its last second.
        at: Timestamp,
    },
    /// A certificate is not valid yet.
    NotYetValid {
        /// Which.
        link: usize,
        /// Its first second.
        at: Timestamp,
    },
}

/// What a chain is now. The host's certificate comes first; `None`: the validity of this one cannot be read.
#[must_use]
pub fn standing(chain: &[Option<Validity>], now: Timestamp) -> Standing {
    for (link, validity) in chain.iter().enumerate() {
        let Some(Validity {
            not_before,
            not_after,
        }) = *validity
        else {
            continue;
        };
        if now > not_after {
            return Standing::Expired {
                link,
                at: not_after,
            };
        }
        if now < not_before {
            return Standing::NotYetValid {
                link,
                at: not_before,
            };
        }
    }
    Standing::Valid
}

/// When the first certificate of a chain expires, as far as that can be read.
#[must_use]
pub fn not_after(chain: &[Option<Validity>]) -> Option<Timestamp> {
    chain.iter().flatten().map(|v| v.not_after).min()
}

/// A sentence about what is wrong, without its full stop.
impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = |link: usize| match link {
            0 => "the certificate".to_owned(),
            link => format!("an issuer's certificate (number {} of the chain)", link + 1),
        };
        match *self {
            Standing::Valid => f.write_str("the certificate is valid"),
            Standing::Expired { link, at } => write!(f, "{} expired at {at}", which(link)),
            Standing::NotYetValid { link, at } => {
                write!(f, "{} is not valid before {at}", which(link))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn from_to(not_before: i64, not_after: i64) -> Validity {
        Validity {
            not_before: at(not_before),
            not_after: at(not_after),
        }
    }

    #[test]
    fn the_first_certificate_outside_its_validity_is_named() {
        let cases = [
            (vec![Some(from_to(10, 20))], Standing::Valid),
            (vec![Some(from_to(10, 15))], Standing::Valid),
            (vec![Some(from_to(15, 20))], Standing::Valid),
            (
                vec![Some(from_to(10, 14))],
                Standing::Expired {
                    link: 0,
                    at: at(14),
                },
            ),
            (
                vec![Some(from_to(16, 20))],
                Standing::NotYetValid {
                    link: 0,
                    at: at(16),
                },
            ),
            (
                vec![Some(from_to(10, 20)), Some(from_to(0, 12))],
                Standing::Expired {
                    link: 1,
                    at: at(12),
                },
            ),
            (
                vec![Some(from_to(10, 20)), None, Some(from_to(16, 20))],
                Standing::NotYetValid {
                    link: 2,
                    at: at(16),
                },
            ),
            (vec![None], Standing::Valid),
            (vec![], Standing::Valid),
        ];
        for (chain, expected) in cases {
            assert_eq!(standing(&chain, at(15)), expected, "{chain:?}");
        }
    }

    #[test]
    fn a_chain_ends_with_the_certificate_that_expires_first() {
        let chain = [Some(from_to(0, 30)), None, Some(from_to(0, 20))];
        assert_eq!(not_after(&chain), Some(at(20)));
        assert_eq!(not_after(&[None]), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_time() {
        let own = Standing::Expired { link: 0, at: at(0) };
        assert_eq!(
            own.to_string(),
            "the certificate expired at 1970-01-01T00:00:00Z"
        );
        let issuer = Standing::NotYetValid { link: 1, at: at(0) };
        assert_eq!(
            issuer.to_string(),
            "an issuer's certificate (number 2 of the chain) is not valid before 1970-01-01T00:00:00Z"
        );
    }
}
