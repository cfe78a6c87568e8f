//! The edge to whoever keeps a record that outlives an Event: one HTTP request for each delivery, and the few words
//! that its answer is worth.
//!
//! Neither the url nor an answer's body is ever in an error: a url may hold a key, and what others write is theirs.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use http::header::RETRY_AFTER;
use k8s_openapi::jiff::Timestamp;
use reqwest::{Client, Response, StatusCode};
use secrecy::zeroize::Zeroizing;
use url::Url;

use crate::delivery::cloudevent::Message;
use crate::delivery::retry;
use crate::resources::remote::is_loopback;

/// How long one request may take, from the first byte sent to the last byte read.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read so that its connection can be used again.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Why a sink cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Not a URL that can be called. It is not repeated, since it may hold a key.
    #[error(
        "--cloudevents-url is not a URL that can be called: write https://events.example.com/chekt"
    )]
    Url,
    /// A user or a password in the URL.
    #[error(
        "--cloudevents-url must hold no user and no password: put a bearer token into a file and give --cloudevents-token-file"
    )]
    Credentials,
    /// Plain http to a host that is not this machine.
    #[error(
        "--cloudevents-url is plain http to {0}, which would show every delivery to everyone on the way: write https, or run the receiver with --allow-insecure-cloudevents"
    )]
    Insecure(String),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Http(#[from] reqwest::Error),
}

/// Why a delivery was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// This one never will be: the sink says that the request itself is wrong.
    #[error("it was refused with {0}")]
    Refused(u16),
    /// A pause is asked for.
    #[error("a pause was asked for with {status}")]
    Throttled {
        /// The status of the answer.
        status: u16,
        /// How long, where it said so.
        retry_after: Option<Duration>,
    },
    /// Another answer without success.
    #[error("the answer was {0}")]
    Answered(u16),
    /// No answer within the deadline.
    #[error("no answer within {DEADLINE:?}")]
    Late,
    /// No connection, or it broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The bearer token cannot be read.
    #[error("the token in the file of --cloudevents-token-file cannot be read: {0}")]
    Token(String),
}

/// Where CloudEvents go.
#[derive(Clone, Debug)]
pub struct Sink {
    http: Client,
    url: Url,
    token_file: Option<PathBuf>,
}

impl Sink {
    /// A sink at `url`: https, or plain http to this machine, or plain http if that is allowed.
    ///
    /// # Errors
    /// [`SinkError`], in words that say what to write instead.
    pub fn new(
        url: &str,
        token_file: Option<PathBuf>,
        allow_insecure: bool,
    ) -> Result<Self, SinkError> {
        let url = Url::parse(url).map_err(|_| SinkError::Url)?;
        let host = url.host_str().ok_or(SinkError::Url)?.to_owned();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SinkError::Credentials);
        }
        match url.scheme() {
            "https" => {}
            "http" if allow_insecure || is_loopback(&url) => {}
            "http" => return Err(SinkError::Insecure(host)),
            _ => return Err(SinkError::Url),
        }
        // No redirects, which could carry the token and the deliveries to another host.
        let builder = Client::builder()
            .user_agent(concat!("chekt-operator/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(DEADLINE);
        let http = if is_loopback(&url) {
            builder.no_proxy()
        } else {
            builder
        }
        .build()?;
        Ok(Sink {
            http,
            url,
            token_file,
        })
    }

    /// The host, for people.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`NotTaken`]; except after [`NotTaken::Refused`] it may have been taken all the same.
    pub async fn send(&self, message: Message) -> Result<(), NotTaken> {
        let mut request = self.http.post(self.url.clone());
        for (name, value) in &message.headers {
            request = request.header(name, value);
        }
        if let Some(file) = &self.token_file {
            // Read each time: who changes the file expects it to be in force.
            let token = tokio::fs::read_to_string(file)
                .await
                .map_err(|error| NotTaken::Token(error.to_string()))?;
            let token = Zeroizing::new(token);
            request = request.bearer_auth(token.trim());
        }
        let answer = request
            .body(message.body)
            .send()
            .await
            .map_err(|error| unanswered(&error))?;
        let outcome = judge(
            answer.status(),
            answer.headers().get(RETRY_AFTER),
            retry::date(answer.headers()),
        );
        drain(answer).await;
        outcome
    }
}

/// What an answer says. Only what is wrong with the request itself is for ever; a wrong path or token is put right by
/// somebody, and the record must not have a gap then.
fn judge(
    status: StatusCode,
    retry_after: Option<&http::HeaderValue>,
    answered: Option<Timestamp>,
) -> Result<(), NotTaken> {
    let retry_after = retry_after
        .and_then(|value| value.to_str().ok())
        .and_then(|value| retry::asked(value, answered));
    let code = status.as_u16();
    match code {
        200..=299 => Ok(()),
        400 | 413 | 415 | 422 => Err(NotTaken::Refused(code)),
        429 => Err(NotTaken::Throttled {
            status: code,
            retry_after,
        }),
        _ if retry_after.is_some() => Err(NotTaken::Throttled {
            status: code,
            retry_after,
        }),
        _ => Err(NotTaken::Answered(code)),
    }
}

fn unanswered(error: &reqwest::Error) -> NotTaken {
    if error.is_timeout() {
        return NotTaken::Late;
    }
    // The innermost cause says most, and holds no url.
    let mut cause = error.source();
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    NotTaken::Unreachable(cause.map_or_else(|| "the request broke".to_owned(), ToString::to_string))
}

/// Reads an answer to its end, if that is near, so that its connection can be used again.
async fn drain(mut answer: Response) {
    let mut left = LARGEST_ANSWER;
    // What is wrong with the rest of an answer changes nothing of what it said.
    while let Ok(Some(chunk)) = answer.chunk().await {
        match left.checked_sub(chunk.len()) {
            Some(less) => left = less,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_or_this_machine_or_allowed() {
        let new = |url: &str, allow| Sink::new(url, None, allow).map(|s| s.host().to_owned());
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for (url, allow) in [
            ("https://events.example.com/x?key=1", false),
            ("http://127.0.0.1:1234/", false),
            ("http://localhost/", false),
            ("http://[::1]:80/", false),
            ("http://broker.knative.svc/", true),
        ] {
            assert!(new(url, allow).is_ok(), "{url}");
        }
        for (url, words) in [
            (
                "http://broker.knative.svc/?key=s3cret",
                "--allow-insecure-cloudevents",
            ),
            (
                "https://user:s3cret@events.example.com",
                "--cloudevents-token-file",
            ),
            ("events.example.com/s3cret", "write https://"),
            ("ftp://events.example.com/s3cret", "write https://"),
            ("mailto:s3cret", "write https://"),
        ] {
            let error = new(url, false).unwrap_err().to_string();
            assert!(error.contains(words), "{url}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn answers_mean_this() {
        let throttled = |status, seconds: Option<u64>| NotTaken::Throttled {
            status,
            retry_after: seconds.map(Duration::from_secs),
        };
        for (status, retry_after, expected) in [
            (200, None, Ok(())),
            (202, Some("9"), Ok(())),
            (204, None, Ok(())),
            (400, None, Err(NotTaken::Refused(400))),
            (413, Some("9"), Err(NotTaken::Refused(413))),
            (415, None, Err(NotTaken::Refused(415))),
            (422, None, Err(NotTaken::Refused(422))),
            (429, None, Err(throttled(429, None))),
            (429, Some("3"), Err(throttled(429, Some(3)))),
            (503, Some("2"), Err(throttled(503, Some(2)))),
            (503, Some("soon"), Err(NotTaken::Answered(503))),
            (301, None, Err(NotTaken::Answered(301))),
            (401, None, Err(NotTaken::Answered(401))),
            (404, None, Err(NotTaken::Answered(404))),
            (410, None, Err(NotTaken::Answered(410))),
            (500, None, Err(NotTaken::Answered(500))),
        ] {
            let value = retry_after.map(http::HeaderValue::from_static);
            let code = StatusCode::from_u16(status).unwrap();
            let seen = judge(code, value.as_ref(), None);
            assert_eq!(seen, expected, "{status} {retry_after:?}");
        }
    }
}
