//! One request without a valid signature, as anybody could send it, and who answers.
//!
//! It goes to the address that was connected to and to no proxy of this machine's, follows no redirect, and waits for as
//! long as CHeKT waits. It is honest about who it is in its `User-Agent`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, SERVER};
use reqwest::redirect::Policy;

use super::{Place, cleaned};
use crate::checkup::path::{Answer, Answered};
use crate::delivery::answers;
use crate::delivery::probe::{HEADER, Probe};
use crate::delivery::profile::PARTNER;

/// How long CHeKT waits for an answer (webhook-setup-guide, "Prerequisites").
const PATIENCE: Duration = Duration::from_secs(5);
/// More bytes of an answer are none of our receiver's.
const LONGEST_BODY: usize = 64;
/// Who asks.
const AGENT: &str = concat!("chekt-operator-verify/", env!("CARGO_PKG_VERSION"));

/// Sends the request, as a probe of a webhook where there is one, and gives back who answered. The certificate was looked at before and is not looked at again: nothing
/// that is sent is worth hiding, and who stands behind a bad certificate is worth knowing.
pub async fn ask(place: &Place, address: SocketAddr, probe: Option<&Probe>) -> Answered {
    let client = reqwest::Client::builder()
        .user_agent(AGENT)
        .redirect(Policy::none())
        .no_proxy()
        .http1_only()
        .resolve(&place.host, address)
        .tls_danger_accept_invalid_certs(true)
        .tls_danger_accept_invalid_hostnames(true)
        .timeout(PATIENCE)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return Answered::Broken(why(&error)),
    };
    let began = Instant::now();
    let request = client
        .post(place.url.clone())
        .header(CONTENT_TYPE, "application/json");
    let request = match probe {
        Some(probe) => {
            let body = probe.body();
            request
                .header(HEADER, probe.header())
                .header(PARTNER.signature_header, probe.signature(&PARTNER, &body))
                .body(body)
        }
        None => request.body("{}"),
    };
    let sent = request.send().await;
    let mut response = match sent {
        Ok(response) => response,
        Err(error) if error.is_timeout() => return Answered::TimedOut,
        Err(error) => return Answered::Broken(why(&error)),
    };
    let took = began.elapsed();
    let mut body = Vec::new();
    while body.len() <= LONGEST_BODY {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            // What has come so far is what there is to judge.
            Ok(None) | Err(_) => break,
        }
    }
    let status = response.status();
    let headers = response.headers();
    Answered::With(Answer {
        status: status.as_u16(),
        ours: answers::refusal(status).is_some_and(|text| text.as_bytes() == body.as_slice()),
        location: word(headers, &LOCATION),
        server: word(headers, &SERVER),
        took,
    })
}

fn word(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(cleaned(&String::from_utf8_lossy(value.as_bytes())))
}

/// The innermost cause, which says more than those around it.
fn why(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cleaned(&cause.to_string())
}
