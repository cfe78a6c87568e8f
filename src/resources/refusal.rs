//! Refusals: why a request to the receiver did not end in 200, as one enum. `status.deliveries` shows the word and the
//! message, one counter has the outcome, and the reference lists them all.

use http::StatusCode;

macro_rules! refusals {
    ($($name:ident $outcome:literal $status:literal: $meaning:literal, $remedy:literal,)*) => {
        /// Why a request did not end in 200.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $(#[doc = $meaning] $name,)*
        }

        impl Refusal {
            /// Every refusal, in the order of the reference.
            pub const ALL: &[Refusal] = &[$(Refusal::$name,)*];

            /// Every outcome with its meaning, in the same order.
            pub const OUTCOMES: &[(&'static str, &'static str)] = &[$(($outcome, $meaning),)*];

            /// The word in `status.deliveries.lastRejectedReason`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Refusal::$name => stringify!($name),)* }
            }

            /// The value of the label `outcome`: the same word in snake case.
            #[must_use]
            pub fn outcome(self) -> &'static str {
                match self { $(Refusal::$name => $outcome,)* }
            }

            /// The number of the answer; `None` where the connection ends without one.
            #[must_use]
            pub fn status(self) -> Option<StatusCode> {
                let number: u16 = match self { $(Refusal::$name => $status,)* };
                StatusCode::from_u16(number).ok()
            }

            /// What is wrong.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Refusal::$name => $meaning,)* }
            }

            /// What a person does about it.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Refusal::$name => $remedy,)* }
            }

            /// What is wrong and what to do, for `status.deliveries.lastRejectedMessage`.
            #[must_use]
            pub fn message(self) -> &'static str {
                match self { $(Refusal::$name => concat!($meaning, " ", $remedy),)* }
            }
        }
    };
}

refusals! {
    OriginNotAllowed "origin_not_allowed" 401:
        "The sender's address is not in --allow-from.",
        "If CHeKT sent it, add its addresses to --allow-from, and those of your proxies to --trusted-proxy.",
    MethodNotAllowed "method_not_allowed" 405:
        "The request is not a POST.",
        "CHeKT sends POST. If CHeKT sent it, find the proxy that changes the method, such as a redirect from http to https.",
    UnknownPath "unknown_path" 401:
        "The path names no webhook of this receiver.",
        "Compare the path that arrives with status.url: a proxy may add or remove a prefix.",
    SignatureMissing "signature_missing" 401:
        "The request has no X-Webhook-Signature header.",
        "If CHeKT sent it, let your proxies and CDN pass this header on.",
    SignatureMalformed "signature_malformed" 401:
        "The X-Webhook-Signature header is not sha256= and 64 hexadecimal digits.",
        "If CHeKT sent it, find what changes this header on the way.",
    SignatureMismatch "signature_mismatch" 401:
        "The signature fits no key of the webhook.",
        "If CHeKT sent it, a proxy changes the body or CHeKT signs with another secret: pass bodies on unchanged, or rotate the secret (kubectl chekt rotate).",
    ContentEncoded "content_encoded" 401:
        "The signature fits no key of the webhook, and the body has a Content-Encoding.",
        "Switch off compression of requests on the way: the signature is over the bytes that CHeKT sent.",
    KeyringEmpty "keyring_empty" 401:
        "The webhook has no key yet.",
        "Wait until the webhook is Synced. If it is, check that controller and receiver have the same --operator-namespace and that the receiver may list Secrets there.",
    NotReady "not_ready" 503:
        "The receiver has not read all webhooks and keyrings yet.",
        "Wait until it is ready. If it stays so, read /readyz and the receiver's log.",
    BodyTooLarge "body_too_large" 413:
        "The body is larger than 256 KiB.",
        "CHeKT's deliveries are much smaller: find out who sends this.",
    BodyTooSlow "body_too_slow" 408:
        "The body did not arrive within 3 seconds.",
        "If CHeKT sent it, check the proxies and the network on the way.",
    BodyBroken "body_broken" 400:
        "The body ended early or cannot be read.",
        "If CHeKT sent it, check the proxies and the network on the way.",
    BodiesTooMany "bodies_too_many" 503:
        "Too many large bodies are being read at once.",
        "Limit who may send with --allow-from, or limit requests at your proxy.",
    JournalFull "journal_full" 503:
        "As many deliveries wait to be published as may.",
        "Find out why they are not published (condition DeliveriesDelayed, the receiver's log), or raise --journal-max-records and --journal-max-mib.",
    OverShare "over_share" 503:
        "The journal is more than half full, and the webhook or its namespace holds more than its share of it.",
        "Find out why its deliveries do not become Events (condition DeliveriesDelayed), or have CHeKT send fewer.",
    JournalFailed "journal_failed" 503:
        "The journal cannot be written.",
        "Read /readyz of the receiver: its disk is full, slow or broken.",
    ConnectionLost "connection_lost" 0:
        "The connection ended before the request had its answer.",
        "If CHeKT sent it, check the timeouts of the proxies on the way: they must be longer than 5 seconds.",
    HeadersTooLarge "headers_too_large" 431:
        "The headers are larger than 16 KiB (8 KiB over HTTP/2) or more than 100.",
        "Find the proxy that adds large headers, such as cookies or tokens, and have it remove them.",
    HeadersIncomplete "headers_incomplete" 0:
        "The connection ended before the headers were complete.",
        "If CHeKT sent it, check the proxies and the network on the way.",
    StreamRefused "stream_refused" 0:
        "HTTP/2 refused the request before it was one: headers over 32 KiB, more than 8 requests at once, or no valid request.",
        "A proxy sends again what was too many at once. For large headers, find the proxy that adds them.",
    NotHttp "not_http" 400:
        "The bytes are not a request of HTTP/1.1 or HTTP/2.",
        "Check what your load balancer speaks to the receiver: it must be HTTP.",
    ProxyProtocol "proxy_protocol" 400:
        "The connection begins with a PROXY protocol header.",
        "Switch the PROXY protocol off between your load balancer and the receiver.",
    TlsUnexpected "tls_unexpected" 400:
        "The connection begins with TLS, and the receiver has no certificate.",
        "Let your proxy speak plain HTTP to the receiver, or give the receiver a certificate (--tls-cert-file).",
    TlsMissing "tls_missing" 0:
        "The connection begins with plain HTTP, and the receiver expects TLS.",
        "Let your proxy speak HTTPS to the receiver, or take --tls-cert-file away.",
    TlsFailed "tls_failed" 0:
        "The TLS handshake failed.",
        "Check that your proxy accepts the receiver's certificate and speaks TLS 1.2 or 1.3.",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_the_same_word_in_snake_case_and_a_message_is_two_sentences() {
        for refusal in Refusal::ALL {
            let mut snake = String::new();
            for c in refusal.as_str().chars() {
                if c.is_ascii_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
            }
            assert_eq!(refusal.outcome(), snake);
            for text in [refusal.meaning(), refusal.remedy()] {
                assert!(text.ends_with('.') && !text.contains('\n'), "{text}");
            }
            assert!(refusal.message().len() <= 512);
        }
    }
}
