//! The control routes under `/sandbox/`: for those who try things out and for tests. They need no token, show
//! secrets, and are therefore no part of what the partner API promises.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Sandbox;
use super::answer::Refusal;
use super::faults::{Fault, Faults};
use super::fields::{self, ACTIVE, Fields};
use super::operations::{overrun, unknown};
use super::quirks::{Quirks, UnknownEvents};
use super::state::Emission;

/// The routes.
pub fn router() -> Router<Arc<Sandbox>> {
    Router::new()
        .route("/sandbox/emit", post(emit))
        .route("/sandbox/deliver", post(deliver))
        .route("/sandbox/webhooks", get(webhooks))
        .route(
            "/sandbox/webhooks/{id}",
            patch(edit_webhook).delete(delete_webhook),
        )
        .route("/sandbox/ledger", get(ledger))
        .route("/sandbox/deliveries", get(deliveries))
        .route("/sandbox/quirks", get(quirks).put(set_quirks))
        .route(
            "/sandbox/faults",
            get(faults).put(set_faults).delete(clear_faults),
        )
        .route("/sandbox/reset", post(reset))
}

/// A refusal of a control route.
struct Refused(Refusal);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(refusal) = self;
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
        let mut error = json!({"code": refusal.code, "message": refusal.message});
        if let Some(field) = refusal.field {
            error["field"] = json!(field);
        }
        (status, Json(json!({"error": error}))).into_response()
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Refused(refusal)
    }
}

fn invalid(why: impl std::fmt::Display) -> Refused {
    Refused(Refusal::new(422, "validation_failed", why.to_string()))
}

/// Reads a body as JSON whatever its content type, so that a plain `curl -d` works.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(invalid)
}

async fn emit(Extract(sandbox): Extract<Arc<Sandbox>>, body: Bytes) -> Result<Response, Refused> {
    let emission: Emission = read(&body)?;
    let ordered = sandbox.change(|state| {
        if let Some(id) = &emission.webhook_id
            && state.store.webhooks.get(id).is_none()
        {
            return Err(unknown(id));
        }
        state
            .emit(&emission, Sandbox::moment())
            .map_err(|full| overrun(&full))
    })?;
    sandbox.saved().await;
    Ok((StatusCode::ACCEPTED, Json(json!({"deliveries": ordered}))).into_response())
}

/// Raw bytes for one webhook.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delivered {
    webhook_id: String,
    body: String,
    #[serde(default = "one")]
    copies: u32,
}

fn one() -> u32 {
    1
}

async fn deliver(
    Extract(sandbox): Extract<Arc<Sandbox>>,
    body: Bytes,
) -> Result<Response, Refused> {
    let Delivered {
        webhook_id,
        body,
        copies,
    } = read(&body)?;
    let ordered = sandbox.change(|state| {
        if state.store.webhooks.get(&webhook_id).is_none() {
            return Err(unknown(&webhook_id));
        }
        state
            .deliver(&webhook_id, &body, copies, Sandbox::moment().now)
            .map_err(|full| overrun(&full))
    })?;
    sandbox.saved().await;
    Ok((StatusCode::ACCEPTED, Json(json!({"deliveries": ordered}))).into_response())
}

#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    all: bool,
}

async fn webhooks(
    Extract(sandbox): Extract<Arc<Sandbox>>,
    Query(which): Query<Which>,
) -> Json<Vec<Value>> {
    Json(sandbox.look(|state| {
        state
            .store
            .webhooks
            .all()
            .iter()
            .filter(|webhook| which.all || webhook.deleted_at.is_none())
            .map(super::store::Webhook::laid_open)
            .collect()
    }))
}

/// A hand edit: what an operator at CHeKT might do. Any word is taken as status.
async fn edit_webhook(
    Extract(sandbox): Extract<Arc<Sandbox>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let Fields {
        url,
        events,
        secret,
        status,
    } = fields::parse(
        &body,
        &Quirks {
            unknown_events: UnknownEvents::Accept,
            ..Quirks::default()
        },
        sandbox.look(|state| state.urls),
    )?;
    let told = sandbox.change(|state| {
        let webhook = state
            .store
            .webhooks
            .get_mut(&id)
            .ok_or_else(|| unknown(&id))?;
        if let Some(url) = url {
            webhook.url = url;
        }
        if let Some(events) = events {
            webhook.events = events;
        }
        if let Some(secret) = secret {
            webhook.secret = secret;
        }
        match status {
            Some(status) if status == ACTIVE => webhook.activate(),
            Some(status) => webhook.status = status,
            None => {}
        }
        let (told, active) = (webhook.laid_open(), webhook.is_active());
        let now = Sandbox::moment().now;
        if active {
            state.release(&id, now);
        } else {
            state.drop_pending(&id, now);
        }
        Ok::<Value, Refusal>(told)
    })?;
    sandbox.saved().await;
    Ok(Json(told))
}

/// A webhook that goes away behind the client's back.
async fn delete_webhook(
    Extract(sandbox): Extract<Arc<Sandbox>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    let now = Sandbox::moment().now;
    let was_there = sandbox.change(|state| {
        let was_there = state.store.webhooks.delete(&id, now);
        state.drop_pending(&id, now);
        was_there
    });
    sandbox.saved().await;
    if was_there {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(unknown(&id).into())
    }
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn ledger(
    Extract(sandbox): Extract<Arc<Sandbox>>,
    Query(After { after }): Query<After>,
) -> Response {
    // Written out under the lock: to copy a long ledger first would take longer than to write it.
    json_text(sandbox.look(|state| serde_json::to_string(&json_ledger(&state.ledger, after))))
}

#[derive(serde::Serialize)]
struct LedgerPage<'a> {
    entries: Vec<&'a super::ledger::Entry>,
    next: u64,
}

fn json_ledger(ledger: &super::ledger::Ledger, after: u64) -> LedgerPage<'_> {
    LedgerPage {
        entries: ledger.after(after),
        next: ledger.last(),
    }
}

async fn deliveries(Extract(sandbox): Extract<Arc<Sandbox>>) -> Response {
    json_text(sandbox.look(|state| {
        let all: Vec<_> = state.store.book.all().collect();
        serde_json::to_string(&all)
    }))
}

fn json_text(text: serde_json::Result<String>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn quirks(Extract(sandbox): Extract<Arc<Sandbox>>) -> Json<Quirks> {
    Json(sandbox.look(|state| state.quirks.clone()))
}

async fn set_quirks(
    Extract(sandbox): Extract<Arc<Sandbox>>,
    body: Bytes,
) -> Result<Json<Quirks>, Refused> {
    let change: Value = read(&body)?;
    sandbox
        .look(|state| {
            state.quirks = state.quirks.with(change)?;
            Ok::<_, super::quirks::QuirksError>(state.quirks.clone())
        })
        .map(Json)
        .map_err(invalid)
}

async fn faults(Extract(sandbox): Extract<Arc<Sandbox>>) -> Json<Vec<Fault>> {
    Json(sandbox.look(|state| state.faults.all().to_vec()))
}

async fn set_faults(
    Extract(sandbox): Extract<Arc<Sandbox>>,
    body: Bytes,
) -> Result<Json<Vec<Fault>>, Refused> {
    let list: Vec<Fault> = read(&body)?;
    sandbox
        .look(|state| {
            state.faults.set(list)?;
            Ok::<_, String>(state.faults.all().to_vec())
        })
        .map(Json)
        .map_err(invalid)
}

async fn clear_faults(Extract(sandbox): Extract<Arc<Sandbox>>) -> StatusCode {
    sandbox.look(|state| state.faults = Faults::default());
    StatusCode::NO_CONTENT
}

async fn reset(Extract(sandbox): Extract<Arc<Sandbox>>) -> StatusCode {
    sandbox.look(|state| {
        state.quirks = Quirks::default();
        state.faults = Faults::default();
    });
    StatusCode::NO_CONTENT
}
