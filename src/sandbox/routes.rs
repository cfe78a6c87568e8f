//! One call of the partner API, from request to answer, in this order:
//!
//! ```text
//! fault before -> bearer -> rate -> route -> idempotency key -> operation -> key kept -> fault after -> ledger
//! ```
//!
//! Everything between the two pauses that a fault may cause is one synchronous step under one lock, so a caller
//! that hangs up cannot leave half an effect behind.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Sandbox;
use super::answer::{Answer, Arrival, Content, Refusal};
use super::faults::{Effect, InPlace, Route, Stall, When, Word};
use super::idempotency::Found;
use super::ledger::{Call as CallEntry, What, covered};
use super::listing;
use super::operations;
use super::quirks::{Collection, IdempotencyMode, RetryAfter};
use super::rate;
use super::state::State;
use super::store::Moment;
use super::target::{Target, WEBHOOKS};
use super::tokens::Credentials;
use super::wire::response;

/// Largest body read. A webhook with a url and a secret of the longest kind is far below.
const LARGEST_BODY: usize = 256 << 10;

/// A call as it came in.
struct Call {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

/// Answers a call of the partner API or of the token endpoint.
pub async fn partner(Extract(sandbox): Extract<Arc<Sandbox>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        return (
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too large or did not arrive\n",
        )
            .into_response();
    };
    let call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    // A task of its own: when the caller hangs up, the call goes on, as it would at the real server.
    let answered = sandbox.tasks.spawn(run(sandbox.clone(), call)).await;
    match answered {
        Ok(answer) => response(answer),
        Err(error) => {
            tracing::error!(%error, "a call was not answered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn run(sandbox: Arc<Sandbox>, call: Call) -> Answer {
    let target = Target::of(&call.method, &call.path);
    let route = target.route();
    let endpoint = format!("{} {}", call.method, call.path);
    let flight = header(&call.headers, "idempotency-key").map(|key| format!("{endpoint}\n{key}"));
    let claimed = flight
        .as_ref()
        .is_none_or(|flight| sandbox.look(|state| state.in_flight.insert(flight.clone())));
    let before =
        route.and_then(|route| sandbox.look(|state| state.faults.take(route, When::Before)));
    if let Some(Effect::Stall(stall)) = &before {
        sandbox.pause(Duration::from_millis(stall.stall_ms)).await;
    }
    let moment = Sandbox::moment();
    let decided = sandbox.change(|state| {
        decide(
            state,
            &sandbox.credentials,
            &call,
            &target,
            before,
            claimed,
            moment,
        )
    });
    if route != Some(Route::List) {
        sandbox.saved().await;
    }
    if let Some(pause) = decided.pause {
        sandbox.pause(pause).await;
    }
    if let Some(flight) = flight.filter(|_| claimed) {
        sandbox.look(|state| state.in_flight.remove(&flight));
    }
    decided.answer
}

struct Decided {
    answer: Answer,
    // How long the answer is held back.
    pause: Option<Duration>,
}

fn decide(
    state: &mut State,
    credentials: &Credentials,
    call: &Call,
    target: &Target,
    before: Option<Effect>,
    claimed: bool,
    moment: Moment,
) -> Decided {
    let request_id = format!("req_{:032x}", moment.random);
    let endpoint = format!("{} {}", call.method, call.path);
    let key = match (&call.method, state.quirks.idempotency) {
        (&Method::GET, _) | (_, IdempotencyMode::Ignored) => None,
        (
            _,
            IdempotencyMode::Honoured
            | IdempotencyMode::CachesErrors
            | IdempotencyMode::ConflictInFlight,
        ) => header(&call.headers, "idempotency-key"),
    };
    let mut replayed = false;
    let mut pause = None;
    let performed = matches!(before, None | Some(Effect::Stall(_)));
    let mut fault = before
        .as_ref()
        .map(|effect| json!({"when": "before", "effect": effect}));

    let mut answer = match before {
        Some(Effect::Word(Word::Drop)) => Answer {
            arrival: Arrival::Never,
            ..Answer::empty(500)
        },
        Some(Effect::Word(Word::Truncate)) => Answer {
            arrival: Arrival::CutShort,
            ..Answer::json(200, &json!({"data": "this answer is cut short"}))
        },
        Some(Effect::Status(status)) => {
            let answer = in_place(state, &status, &request_id);
            if state.quirks.idempotency == IdempotencyMode::CachesErrors
                && let Some(key) = key
            {
                state
                    .store
                    .answers
                    .keep(&endpoint, key, &call.body, &answer, moment.now);
            }
            answer
        }
        Some(Effect::Stall(_)) | None => {
            let done = perform(
                state,
                credentials,
                call,
                target,
                key.map(|key| (endpoint.as_str(), key)),
                claimed,
                &mut replayed,
                &request_id,
                moment,
            );
            done.unwrap_or_else(|refusal| {
                let mut answer = refusal.in_style(state.quirks.error_style, &request_id);
                if let Some(wait) = refusal.retry_after {
                    answer
                        .headers
                        .extend(retry_after(state.quirks.retry_after, wait, moment));
                }
                answer
            })
        }
    };

    // The effect has happened only where the call was performed and the answer says so.
    if performed && answer.is_success() {
        let after = target
            .route()
            .and_then(|route| state.faults.take(route, When::After));
        if let Some(effect) = after {
            fault = Some(json!({"when": "after", "effect": effect}));
            match effect {
                Effect::Word(Word::Drop) => answer.arrival = Arrival::Never,
                Effect::Word(Word::Truncate) => answer.arrival = Arrival::CutShort,
                Effect::Status(status) => answer = in_place(state, &status, &request_id),
                Effect::Stall(Stall { stall_ms }) => pause = Some(Duration::from_millis(stall_ms)),
            }
        }
    }

    answer.headers.push(("x-request-id", request_id.clone()));
    if *target != Target::Token && call.path.starts_with("/partner/") {
        answer
            .headers
            .extend(state.bucket.headers(state.limit(), moment.now));
    }
    let entry = entry(call, target, &answer, replayed, request_id, fault);
    state.ledger.write(moment.now, What::Call(Box::new(entry)));
    Decided { answer, pause }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one call, handed from one step to the next"
)]
fn perform(
    state: &mut State,
    credentials: &Credentials,
    call: &Call,
    target: &Target,
    key: Option<(&str, &str)>,
    claimed: bool,
    replayed: &mut bool,
    request_id: &str,
    moment: Moment,
) -> Result<Answer, Refusal> {
    if *target == Target::Token {
        let State { store, quirks, .. } = state;
        return Ok(store.tokens.grant(&call.body, credentials, quirks, moment));
    }
    let authorization = header(&call.headers, header::AUTHORIZATION.as_str());
    state
        .store
        .tokens
        .check(authorization, credentials, &state.quirks, moment.now)?;
    let limit = state.limit();
    state
        .bucket
        .take(limit, moment.now)
        .map_err(|wait| Refusal {
            retry_after: Some(wait),
            ..Refusal::new(429, "rate_limited", "too many requests")
        })?;
    exists(state.quirks.collection, &call.path)?;

    if !claimed && state.quirks.idempotency == IdempotencyMode::ConflictInFlight {
        return Err(Refusal::new(
            409,
            "idempotency_conflict",
            "a call under this Idempotency-Key has no answer yet",
        ));
    }
    if let Some((endpoint, key)) = key {
        match state
            .store
            .answers
            .find(endpoint, key, &call.body, moment.now)
        {
            Found::Nothing => {}
            Found::Same(answer) => {
                *replayed = true;
                return Ok(answer);
            }
            Found::Conflict => {
                return Err(Refusal::new(
                    409,
                    "idempotency_conflict",
                    "this Idempotency-Key came before with another payload",
                ));
            }
        }
    }
    let done = operate(state, call, target, moment);
    if let Some((endpoint, key)) = key {
        let kept = match &done {
            Ok(answer) => Some(answer.clone()),
            Err(refusal) => (state.quirks.idempotency == IdempotencyMode::CachesErrors)
                .then(|| refusal.in_style(state.quirks.error_style, request_id)),
        };
        if let Some(answer) = kept {
            state
                .store
                .answers
                .keep(endpoint, key, &call.body, &answer, moment.now);
        }
    }
    done
}

fn operate(
    state: &mut State,
    call: &Call,
    target: &Target,
    moment: Moment,
) -> Result<Answer, Refusal> {
    match target {
        Target::Create => operations::create(state, &call.body, moment),
        Target::List => {
            let host = header(&call.headers, header::HOST.as_str()).unwrap_or("localhost");
            let here = format!("http://{host}{WEBHOOKS}");
            if listing::is_first_page(&call.query) {
                state.lists += 1;
            }
            listing::answer(
                &state.store.webhooks,
                &state.quirks,
                &call.query,
                &here,
                state.lists % 2 == 1,
                moment,
            )
        }
        Target::Patch(id) => operations::patch(state, id, &call.body, moment),
        Target::Delete(id) => operations::delete(state, id, moment),
        Target::GetOne(id) => operations::get_one(state, id),
        Target::Test(id) => operations::test(state, id, moment),
        Target::WrongMethod => Err(Refusal::new(
            405,
            "method_not_allowed",
            "this path does not take this method",
        )),
        Target::Token | Target::Unknown => Err(Refusal::new(404, "not_found", "no such route")),
    }
}

fn exists(collection: Collection, path: &str) -> Result<(), Refusal> {
    if !path.starts_with(WEBHOOKS) {
        return Ok(());
    }
    match collection {
        Collection::Present => Ok(()),
        Collection::NotFound => Err(Refusal::new(404, "not_found", "no such route")),
        Collection::MethodNotAllowed => Err(Refusal::new(
            405,
            "method_not_allowed",
            "this path does not take this method",
        )),
        Collection::NotImplemented => Err(Refusal::new(
            501,
            "not_implemented",
            "webhooks are not available",
        )),
    }
}

/// The answer that a status fault puts in place of the true one.
fn in_place(state: &State, fault: &InPlace, request_id: &str) -> Answer {
    let mut answer = if fault.html {
        Answer {
            body: Some(Content::Html(format!(
                "<html><body><h1>{}</h1></body></html>\n",
                fault.status
            ))),
            ..Answer::empty(fault.status)
        }
    } else {
        let usual = match fault.status {
            400 => "invalid_request",
            401 => "invalid_api_key",
            403 => "permission_denied",
            404 => "webhook_not_found",
            409 => "conflict",
            422 => "validation_failed",
            429 => "rate_limited",
            _ => "internal_error",
        };
        let code = fault.code.as_deref().unwrap_or(usual);
        let message = fault.message.as_deref().unwrap_or("a fault of the sandbox");
        Refusal::new(fault.status, code, message).in_style(state.quirks.error_style, request_id)
    };
    if let Some(seconds) = fault.retry_after {
        answer.headers.push(("retry-after", seconds.to_string()));
    }
    answer
}

fn retry_after(
    style: RetryAfter,
    wait: Duration,
    moment: Moment,
) -> Option<(&'static str, String)> {
    let end = rate::rounded_up(moment.now, wait);
    let value = match style {
        RetryAfter::Absent => return None,
        RetryAfter::Seconds => wait.as_secs_f64().ceil().max(1.0).to_string(),
        RetryAfter::Date => k8s_openapi::jiff::Timestamp::from_second(end)
            .unwrap_or(moment.now)
            .strftime("%a, %d %b %Y %H:%M:%S GMT")
            .to_string(),
    };
    Some(("retry-after", value))
}

fn entry(
    call: &Call,
    target: &Target,
    answer: &Answer,
    replayed: bool,
    request_id: String,
    fault: Option<Value>,
) -> CallEntry {
    let owned = |name| header(&call.headers, name).map(str::to_owned);
    let body = if *target == Target::Token {
        form_without_secrets(&call.body)
    } else {
        covered(&call.body)
    };
    CallEntry {
        method: call.method.to_string(),
        path: call.path.clone(),
        query: (!call.query.is_empty()).then(|| call.query.clone()),
        route: target.route(),
        status: (answer.arrival != Arrival::Never).then_some(answer.status),
        idempotency_key: owned("idempotency-key"),
        replayed,
        trace_id: owned("x-partner-trace-id"),
        request_id,
        fault,
        body,
    }
}

/// Of a token request only what is no secret.
fn form_without_secrets(form: &[u8]) -> Value {
    let mut told = serde_json::Map::new();
    for (name, value) in url::form_urlencoded::parse(form) {
        if matches!(
            name.as_ref(),
            "grant_type" | "client_id" | "audience" | "scope"
        ) {
            told.insert(name.into_owned(), Value::String(value.into_owned()));
        }
    }
    Value::Object(told)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_429_says_when_to_come_back_in_either_form() {
        let moment = Moment {
            now: crate::sandbox::store::samples::at(0),
            random: 0,
        };
        let told = |style| retry_after(style, Duration::from_millis(1500), moment);
        assert_eq!(told(RetryAfter::Absent), None);
        assert_eq!(told(RetryAfter::Seconds).unwrap().1, "2");
        assert_eq!(
            told(RetryAfter::Date).unwrap().1,
            "Tue, 14 Nov 2023 22:13:22 GMT"
        );
    }

    #[test]
    fn a_token_request_is_written_down_without_its_secret() {
        let form =
            b"grant_type=client_credentials&client_id=me&client_secret=hush&client_assertion=x";
        assert_eq!(
            form_without_secrets(form),
            json!({"grant_type": "client_credentials", "client_id": "me"})
        );
    }
}
