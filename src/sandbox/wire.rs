//! An answer as bytes, or as the lack of them.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::{Answer, Arrival, Content};
use super::server::HangUp;

/// Turns an answer into bytes, or into the lack of them.
pub fn response(answer: Answer) -> Response {
    let mut builder = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        builder = builder.header(*name, value);
    }
    let text = match answer.body {
        None => None,
        Some(Content::Json(text)) => {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
            Some(text)
        }
        Some(Content::Html(text)) => {
            builder = builder.header(header::CONTENT_TYPE, "text/html; charset=utf-8");
            Some(text)
        }
    };
    let built = match (answer.arrival, text) {
        (Arrival::Whole, text) => builder.body(text.map_or_else(Body::empty, Body::from)),
        // Nothing can be cut off an empty body but the connection.
        (Arrival::Never, _) | (Arrival::CutShort, None) => {
            builder.extension(HangUp).body(Body::empty())
        }
        (Arrival::CutShort, Some(text)) => builder
            .header(header::CONTENT_LENGTH, text.len())
            .body(cut_short(&text)),
    };
    built.unwrap_or_else(|error| {
        tracing::error!(%error, "an answer cannot be written");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    })
}

fn cut_short(text: &str) -> Body {
    let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
    Body::from_stream(futures::stream::unfold(Some(half), |half| async move {
        if let Some(half) = half {
            Some((Ok(half), None))
        } else {
            // Lets the first half reach the wire, which an error at once would take with it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Err(std::io::Error::other("cut short by a fault")), None))
        }
    }))
}
