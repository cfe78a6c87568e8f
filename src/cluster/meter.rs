//! A metered client: every request to the API server is counted, whoever makes it.
//!
//! It is in the client and not beside each call, so that no request can be added that forgets it. Paths are not told
//! apart, since they hold names.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tower::{Layer, Service};

use crate::delivery::retry;
use crate::ops::metrics::{Label, Table};

/// Bounds in seconds: what we wait for has 10 s.
const BOUNDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

const VERB: Label = Label {
    name: "verb",
    values: &[
        ("read", "GET: one object, a list, or the begin of a watch"),
        ("create", "POST"),
        ("update", "PUT"),
        ("patch", "PATCH"),
        ("delete", "DELETE"),
    ],
};

const CLASS: Label = Label {
    name: "class",
    values: &[
        ("ok", "success"),
        ("forbidden", "401 or 403: a right is missing"),
        ("not_found", "404"),
        (
            "conflict",
            "409: somebody else wrote first, or it is there already",
        ),
        ("expired", "410: a watch begins anew"),
        ("throttled", "429"),
        ("rejected", "another 4xx"),
        ("server", "5xx"),
        ("network", "no connection, or a broken one"),
    ],
};

/// A request by its verb and what became of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    verb: &'static str,
    class: &'static str,
}

/// A request by its verb.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Took {
    verb: &'static str,
}

/// What is counted of the requests to the API server, and the time that its answers tell. Clones count together.
#[derive(Clone, Debug)]
pub struct Meter {
    requests: Family<Asked, Counter>,
    seconds: Family<Took, Histogram>,
    told: Arc<Mutex<Option<(Timestamp, Instant)>>>,
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            told: Arc::default(),
        }
    }
}

impl Meter {
    /// Makes it and enters it into a table.
    pub fn register(table: &mut Table) -> Self {
        let meter = Meter::default();
        let verbs = || VERB.values.iter().map(|(verb, _)| *verb);
        let asked = verbs().flat_map(|verb| {
            let classes = CLASS.values.iter();
            classes.map(move |(class, _)| Asked { verb, class })
        });
        table.add_family(
            "kubernetes_requests",
            "Requests to the API server by what became of them",
            &[VERB, CLASS],
            asked,
            &meter.requests,
        );
        table.add_family(
            "kubernetes_request_seconds",
            "From sending a request to the API server to the headers of its answer",
            &[VERB],
            verbs().map(|verb| Took { verb }),
            &meter.seconds,
        );
        meter
    }
}

impl Meter {
    /// The time by the clock of the API server: what the last answer said, and how long ago that was. `None`: no answer
    /// had a date.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        let (told, at) = (*self.told.lock().unwrap_or_else(PoisonError::into_inner))?;
        told.checked_add(at.elapsed()).ok()
    }

    fn heard(&self, headers: &HeaderMap) {
        if let Some(date) = retry::date(headers) {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            *told = Some((date, Instant::now()));
        }
    }
}

/// Puts a meter around a service.
#[derive(Clone, Debug)]
pub struct MeterLayer(pub Meter);

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Metered<S> {
    inner: S,
    meter: Meter,
}

impl<S> Layer<S> for MeterLayer {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Metered<S> {
        let meter = self.0.clone();
        Metered { inner, meter }
    }
}

impl<S, A, B> Service<Request<A>> for Metered<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Answer<S::Future> {
        Answer {
            verb: verb(request.method()),
            began: Instant::now(),
            meter: self.meter.clone(),
            inner: Box::pin(self.inner.call(request)),
        }
    }
}

/// An answer that is being waited for. One that nobody waits for any longer is not counted.
#[derive(Debug)]
pub struct Answer<F> {
    verb: &'static str,
    began: Instant,
    meter: Meter,
    inner: Pin<Box<F>>,
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let answer = ready!(self.inner.as_mut().poll(cx));
        if let Ok(answer) = &answer {
            self.meter.heard(answer.headers());
        }
        let class = answer.as_ref().map_or("network", |a| class(a.status()));
        let verb = self.verb;
        let asked = Asked { verb, class };
        self.meter.requests.get_or_create(&asked).inc();
        let seconds = self.began.elapsed().as_secs_f64();
        let took = self.meter.seconds.get_or_create(&Took { verb });
        took.observe(seconds);
        drop(took);
        Poll::Ready(answer)
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "read",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        410 => "expired",
        429 => "throttled",
        400..=499 => "rejected",
        500..=599 => "server",
        // The change to a WebSocket, and a redirection, are no failures of a request.
        _ => "ok",
    }
}

#[cfg(test)]
mod tests {
    use tower::{BoxError, ServiceExt};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_counted_by_its_verb_and_status_and_none_is_a_matter_of_the_network() {
        let mut table = Table::new("x");
        let meter = Meter::register(&mut table);
        let client =
            MeterLayer(meter).layer(tower::service_fn(|status: Request<u16>| async move {
                match *status.body() {
                    0 => Err(BoxError::from("cut")),
                    code => Ok(Response::builder().status(code).body(())?),
                }
            }));
        for (method, status) in [
            (Method::GET, 200),
            (Method::GET, 200),
            (Method::POST, 409),
            (Method::PATCH, 403),
            (Method::PUT, 429),
            (Method::DELETE, 0),
        ] {
            let request = Request::builder().method(method).body(status).unwrap();
            drop(client.clone().oneshot(request).await);
        }
        let mut text = String::new();
        let registry = table.into_registry();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for (verb, class, n) in [
            ("read", "ok", 2),
            ("create", "conflict", 1),
            ("patch", "forbidden", 1),
            ("update", "throttled", 1),
            ("delete", "network", 1),
            ("create", "ok", 0),
        ] {
            let line =
                format!("x_kubernetes_requests_total{{verb=\"{verb}\",class=\"{class}\"}} {n}\n");
            assert!(text.contains(&line), "{line}\n{text}");
        }
        assert!(text.contains("x_kubernetes_request_seconds_count{verb=\"read\"} 2\n"));
    }

    #[tokio::test]
    async fn the_time_of_the_api_server_is_what_its_answers_say() {
        let meter = Meter::default();
        let client = MeterLayer(meter.clone()).layer(tower::service_fn(
            |asked: Request<&'static str>| async move {
                let answer = Response::builder().header("date", *asked.body());
                Ok::<_, BoxError>(answer.body(())?)
            },
        ));
        assert_eq!(meter.time(), None);
        for (date, second) in [
            ("yesterday", None),
            ("Thu, 01 Jan 1970 00:16:40 GMT", Some(1_000)),
            ("Thu, 01 Jan 1970 00:16:50 GMT", Some(1_010)),
            ("", Some(1_010)),
        ] {
            let answer = client.clone().oneshot(Request::new(date)).await;
            assert!(answer.is_ok());
            let time = meter.time().map(Timestamp::as_second);
            assert_eq!(time, second, "{date:?}");
        }
    }

    #[test]
    fn every_status_is_counted_in_a_word_of_the_table() {
        for code in 100..1000 {
            let word = class(StatusCode::from_u16(code).unwrap());
            assert!(CLASS.values.iter().any(|(value, _)| *value == word));
        }
    }
}
