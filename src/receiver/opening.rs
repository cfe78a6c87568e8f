//! The first bytes of a request that never became one: what they are, and which path they name.
//!
//! What cannot be read as HTTP never reaches the service. To count it and to tell the webhook's owner, the connection
//! keeps the first bytes of each request until its headers are complete.

use crate::resources::refusal::Refusal;

/// Enough for a PROXY protocol header and a request line with the longest path of a webhook.
const MOST: usize = 1024;
/// How a PROXY protocol header of version 2 begins.
const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How a connection of HTTP/2 begins.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The length of what a connection of HTTP/2 begins with.
const PREFACE: usize = 24;
/// The length of what a frame of HTTP/2 begins with.
const FRAME_HEAD: usize = 9;

/// The first bytes since the last request.
#[derive(Clone, Debug, Default)]
pub struct Opening(Vec<u8>);

/// Counts the requests that a peer opens over HTTP/2 (RFC 9113, section 4.1). h2 refuses some of them and tells only the
/// peer.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Bytes until the next frame begins.
    skip: usize,
    /// The beginning of a frame that is not whole.
    head: Vec<u8>,
    last: u32,
    opened: u32,
}

impl Default for Streams {
    fn default() -> Self {
        Streams {
            skip: PREFACE,
            head: Vec::new(),
            last: 0,
            opened: 0,
        }
    }
}

impl Streams {
    /// More bytes have come.
    pub fn push(&mut self, mut bytes: &[u8]) {
        const HEADERS: u8 = 1;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let missing = (FRAME_HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            let [l0, l1, l2, kind, _, s0, s1, s2, s3] = self.head[..] else {
                return;
            };
            self.head.clear();
            self.skip = (usize::from(l0) << 16) | (usize::from(l1) << 8) | usize::from(l2);
            let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
            // Trailers are headers of a stream that is known.
            if kind == HEADERS && stream > self.last {
                self.last = stream;
                self.opened = self.opened.saturating_add(1);
            }
        }
    }

    /// How many were opened.
    #[must_use]
    pub fn opened(&self) -> u32 {
        self.opened
    }
}

/// How a connection ended, as far as it matters to a request that never became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was closed or cut.
    Closed,
    /// The headers are larger than a request may have.
    TooLarge,
    /// The bytes cannot be read as HTTP.
    Unreadable,
    /// The TLS handshake failed or took too long.
    Handshake,
}

impl Opening {
    /// More bytes have come.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = MOST - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// They have become a request.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether it is HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.0.starts_with(HTTP_2)
    }

    /// Why they have not become one when the connection ended like this; `None`: there was no request.
    #[must_use]
    pub fn refusal(&self, end: End) -> Option<Refusal> {
        let bytes = self.0.as_slice();
        Some(match end {
            _ if bytes.starts_with(b"PROXY ") || bytes.starts_with(PROXY_2) => {
                Refusal::ProxyProtocol
            }
            End::TooLarge => Refusal::HeadersTooLarge,
            End::Handshake if bytes.is_empty() => return None,
            End::Handshake if self.request_line().is_some() => Refusal::TlsMissing,
            End::Handshake => Refusal::TlsFailed,
            // A record of a handshake, of any version.
            _ if bytes.starts_with(&[0x16, 0x03]) => Refusal::TlsUnexpected,
            End::Unreadable => Refusal::NotHttp,
            End::Closed if bytes.trim_ascii_start().is_empty() || self.is_http2() => {
                return None;
            }
            End::Closed => Refusal::HeadersIncomplete,
        })
    }

    /// The path that they name, as far as they are a request.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        let target = self.request_line()?;
        // An absolute target names a host first.
        let path = match target.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/')?..],
            None => target,
        };
        path.split(['?', '#']).next()
    }

    /// The target of the request line.
    fn request_line(&self) -> Option<&str> {
        let rest = match self.0.strip_prefix(b"PROXY ") {
            Some(rest) => &rest[rest.iter().position(|b| *b == b'\n')? + 1..],
            None => match self.0.strip_prefix(PROXY_2) {
                // Version, family, and the length of what follows.
                Some([_, _, high, low, rest @ ..]) => {
                    rest.get(usize::from(u16::from_be_bytes([*high, *low]))..)?
                }
                Some(_) => return None,
                None => &self.0,
            },
        };
        let mut words = rest.split(|b| b" \r\n".contains(b));
        let method = words.next()?;
        let target = std::str::from_utf8(words.next()?).ok()?;
        let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_uppercase);
        (is_method && !target.is_empty()).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(bytes: &[u8]) -> Opening {
        let mut opening = Opening::default();
        for part in bytes.chunks(3) {
            opening.push(part);
        }
        opening
    }

    #[test]
    fn streams_are_counted_however_their_frames_are_cut() {
        let frame = |length: u8, kind: u8, stream: u8| {
            let mut bytes = vec![0, 0, length, kind, 0, 0, 0, 0, stream];
            bytes.extend(vec![1; usize::from(length)]);
            bytes
        };
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (length, kind, stream) in [
            (0, 4, 0),
            (20, 1, 1),
            (200, 0, 1),
            (3, 1, 3),
            (9, 9, 3),
            (1, 1, 1),
            (0, 1, 5),
        ] {
            sent.extend(frame(length, kind, stream));
        }
        for size in 1..40 {
            let mut streams = Streams::default();
            sent.chunks(size).for_each(|part| streams.push(part));
            assert_eq!(streams.opened(), 3, "{size}");
        }
    }

    #[test]
    fn what_never_became_a_request_has_a_reason_and_maybe_a_path() {
        type Case<'c> = (&'c [u8], End, Option<Refusal>, Option<&'c str>);
        let mut version_2 = PROXY_2.to_vec();
        version_2.extend([0x21, 0x11, 0, 12]);
        version_2.extend([7; 12]);
        version_2.extend(b"POST /webhooks/a/b HTTP/1.1\r\n");
        let long = format!("POST /webhooks/a/b?x HTTP/1.1\r\nX: {}", "y".repeat(5_000));
        let path = Some("/webhooks/a/b");
        let cases: [Case; 18] = [
            (b"", End::Closed, None, None),
            (b"", End::Handshake, None, None),
            (b"\r\n", End::Closed, None, None),
            (b"", End::Unreadable, Some(Refusal::NotHttp), None),
            (b"", End::TooLarge, Some(Refusal::HeadersTooLarge), None),
            (
                long.as_bytes(),
                End::TooLarge,
                Some(Refusal::HeadersTooLarge),
                path,
            ),
            (
                b"POST /webhooks/a/b HT",
                End::Closed,
                Some(Refusal::HeadersIncomplete),
                path,
            ),
            (b"POST", End::Closed, Some(Refusal::HeadersIncomplete), None),
            (
                b"POST http://x/webhooks/a/b HT",
                End::Unreadable,
                Some(Refusal::NotHttp),
                path,
            ),
            (
                b"POST http://x HT",
                End::Unreadable,
                Some(Refusal::NotHttp),
                None,
            ),
            (b"\x00\xffx", End::Unreadable, Some(Refusal::NotHttp), None),
            (
                b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nPOST /webhooks/a/b HTTP/1.1\r\n",
                End::Unreadable,
                Some(Refusal::ProxyProtocol),
                path,
            ),
            (
                b"PROXY TCP4 1.1.1.1",
                End::Handshake,
                Some(Refusal::ProxyProtocol),
                None,
            ),
            (
                &version_2,
                End::Unreadable,
                Some(Refusal::ProxyProtocol),
                path,
            ),
            (
                b"\x16\x03\x01\x02",
                End::Unreadable,
                Some(Refusal::TlsUnexpected),
                None,
            ),
            (
                b"\x16\x03\x01\x02",
                End::Handshake,
                Some(Refusal::TlsFailed),
                None,
            ),
            (
                b"POST /webhooks/a/b HTTP/1.1\r\n",
                End::Handshake,
                Some(Refusal::TlsMissing),
                path,
            ),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                End::Closed,
                None,
                Some("*"),
            ),
        ];
        for (bytes, end, refusal, path) in cases {
            let opening = opening(bytes);
            let what = String::from_utf8_lossy(bytes);
            assert_eq!(opening.refusal(end), refusal, "{what} {end:?}");
            assert_eq!(opening.path(), path, "{what}");
            assert!(opening.0.len() <= MOST);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, version: bool) {
            let mut all = if version { PROXY_2.to_vec() } else { b"PROXY ".to_vec() };
            all.extend(bytes);
            let _ = opening(&all).path();
        }
    }
}
