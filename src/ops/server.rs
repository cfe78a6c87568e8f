//! The operations server: `/healthz`, `/readyz` and `/metrics` on an address of their own, apart from the port
//! that faces the internet.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::exposition::{OPEN_METRICS, PLAIN, plain, reads_open_metrics};
use super::health::Readiness;

struct Ops {
    registry: Registry,
    readiness: Readiness,
}

/// Serves until `end` is cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    readiness: Readiness,
    end: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Ops {
            registry,
            readiness,
        }));
    axum::serve(listener, router)
        .with_graceful_shutdown(end.cancelled_owned())
        .await
}

async fn readyz(State(ops): State<Arc<Ops>>) -> (StatusCode, String) {
    let waiting = ops.readiness.waiting();
    if waiting.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n")
    }
}

async fn metrics(State(ops): State<Arc<Ops>>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok());
    let mut text = String::new();
    let written = prometheus_client::encoding::text::encode(&mut text, &ops.registry);
    let (status, kind, text) = match written {
        Ok(()) if reads_open_metrics(accept) => (StatusCode::OK, OPEN_METRICS, text),
        Ok(()) => (StatusCode::OK, PLAIN, plain(&text)),
        Err(std::fmt::Error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain; charset=utf-8",
            "the metrics cannot be written\n".to_owned(),
        ),
    };
    (status, [(header::CONTENT_TYPE, kind)], text)
}
