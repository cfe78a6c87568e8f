//! The accept loop. It is written out here because a fault may close a connection without an answer, which a
//! router cannot express: the answer carries [`HangUp`], and the connection ends.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Marks an answer that is not to be given.
#[derive(Clone, Copy, Debug)]
pub struct HangUp;

/// The connection was closed without an answer, as a fault asked for.
#[derive(Debug, thiserror::Error)]
#[error("closed without an answer by a fault")]
struct HungUp;

/// How long calls may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a caller may take to send its headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);

/// Serves until `end` is cancelled, then lets the calls under way finish for a short time.
pub async fn run(listener: TcpListener, router: Router, end: CancellationToken) {
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = end.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: others will be closed meanwhile.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let router = router.clone();
        let service = service_fn(move |request| answer(router.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some calls were cut off by the end");
    }
}

async fn answer(router: Router, request: hyper::Request<Incoming>) -> Result<Response, HungUp> {
    let request: Request = request.map(Body::new);
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => {
            let never: Infallible = never;
            match never {}
        }
    };
    if response.extensions().get::<HangUp>().is_some() {
        Err(HungUp)
    } else {
        Ok(response)
    }
}
