//! The delivery engine: one task for each delivery waits until it is due, sends it, and lets the state decide
//! what comes next. The bytes that are signed are the bytes that are sent.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use reqwest::header::CONTENT_TYPE;

use super::Sandbox;
use super::book::Progress;
use super::envelope::Shot;
use super::schedule::ANSWER_WITHIN;
use super::signature;
use super::state::Outcome;

/// Most attempts on their way at once.
pub const MOST_AT_ONCE: usize = 256;

/// The client for deliveries: it follows no redirect, uses no proxy and repeats nothing by itself. Every attempt
/// has a connection of its own, since one that the receiver has closed meanwhile would count as its failure.
///
/// # Errors
/// When the roots of trust cannot be read.
pub fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .http1_only()
        .pool_max_idle_per_host(0)
        .timeout(ANSWER_WITHIN)
        .user_agent(concat!("chekt-sandbox/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Works at one delivery until it has ended or the sandbox ends.
pub async fn work(sandbox: Arc<Sandbox>, number: u64) {
    loop {
        let Some(wait) = sandbox.look(|state| {
            let delivery = state.store.book.get(number)?;
            (delivery.state == Progress::Pending).then(|| until(delivery.due))
        }) else {
            return;
        };
        tokio::select! {
            () = sandbox.end.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let permit = tokio::select! {
            () = sandbox.end.cancelled() => return,
            permit = sandbox.at_once.acquire() => permit,
        };
        let Ok(_permit) = permit else {
            return;
        };
        let shot = sandbox.change(|state| state.prepare(number, Timestamp::now()));
        let Some(shot) = shot else {
            sandbox.saved().await;
            return;
        };
        let outcome = tokio::select! {
            // The attempt is repeated after a restart, as after any crash of a sender.
            () = sandbox.end.cancelled() => return,
            outcome = send(&sandbox.client, shot) => outcome,
        };
        sandbox.change(|state| state.conclude(number, outcome, Timestamp::now()));
        sandbox.saved().await;
    }
}

fn until(due: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default()
}

async fn send(client: &reqwest::Client, shot: Shot) -> Outcome {
    let (began, start) = (Timestamp::now(), Instant::now());
    let mut request = client
        .post(shot.url)
        .header(CONTENT_TYPE, "application/json")
        .body(shot.body);
    for signature in shot.signatures {
        request = request.header(signature::HEADER, signature);
    }
    let result = request
        .send()
        .await
        .map(|response| response.status().as_u16())
        .map_err(|error| explained(&error.without_url()));
    Outcome {
        began,
        took: start.elapsed(),
        result,
    }
}

/// Why there was no answer, with the causes, which is where the reason is.
fn explained(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("timeout: no answer within {} s", ANSWER_WITHIN.as_secs());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
