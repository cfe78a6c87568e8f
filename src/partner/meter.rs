//! The meter: what is counted of the calls to CHeKT, whoever makes them.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::fault::{Kind, PartnerError};
use crate::ops::metrics::{Label, Table};

/// Bounds in seconds: a call has 15 s.
const BOUNDS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];

const ROUTE: Label = Label {
    name: "route",
    values: &[
        ("list", "GET of a page of webhooks"),
        ("create", "POST of a webhook"),
        ("update", "PATCH of a webhook"),
        ("delete", "DELETE of a webhook"),
        ("test", "POST that asks for a test delivery"),
        ("token", "POST to the token endpoint"),
    ],
};

const CLASS: Label = Label {
    name: "class",
    values: &[
        ("ok", "success"),
        ("credentials", "401, or no token to be had"),
        ("forbidden", "403"),
        ("missing", "404 or 410 on one webhook"),
        (
            "no_webhooks_api",
            "404, 405 or 501 where all webhooks are listed and created",
        ),
        ("conflict", "409"),
        ("rejected", "400, 422, or another 4xx"),
        ("throttled", "429: the whole account pauses"),
        ("server", "408 or 5xx"),
        (
            "network",
            "no connection, no answer in time, or a broken one",
        ),
        ("unreadable", "success, with a body that makes no sense"),
    ],
};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A page of the list of webhooks.
    List,
    /// A new webhook.
    Create,
    /// A change of one.
    Update,
    /// The end of one.
    Delete,
    /// A test delivery.
    Test,
    /// A token.
    Token,
}

impl Route {
    /// The word in the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Route::List => "list",
            Route::Create => "create",
            Route::Update => "update",
            Route::Delete => "delete",
            Route::Test => "test",
            Route::Token => "token",
        }
    }

    /// Whether it is a call to the collection of webhooks and not to one of them.
    #[must_use]
    pub fn is_of_all(self) -> bool {
        match self {
            Route::List | Route::Create => true,
            Route::Update | Route::Delete | Route::Test | Route::Token => false,
        }
    }
}

/// A call by what was called and what became of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Called {
    route: &'static str,
    class: &'static str,
}

/// What was called.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Took {
    route: &'static str,
}

/// What is counted of the calls to CHeKT. Clones count together.
#[derive(Clone, Debug)]
pub struct Meter {
    calls: Family<Called, Counter>,
    seconds: Family<Took, Histogram>,
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            calls: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
        }
    }
}

impl Meter {
    /// Makes it and enters it into a table.
    pub fn register(table: &mut Table) -> Self {
        let meter = Meter::default();
        let routes = || ROUTE.values.iter().map(|(route, _)| *route);
        let called = routes().flat_map(|route| {
            let classes = CLASS.values.iter();
            classes.map(move |(class, _)| Called { route, class })
        });
        table.add_family(
            "partner_requests",
            "Requests to CHeKT by what became of them",
            &[ROUTE, CLASS],
            called,
            &meter.calls,
        );
        table.add_family(
            "partner_request_seconds",
            "From sending a request to CHeKT to the end of its answer",
            &[ROUTE],
            routes().map(|route| Took { route }),
            &meter.seconds,
        );
        meter
    }

    /// Counts a call that was sent. `took`: until its answer was read, or there was none to be had.
    pub fn called<T>(&self, route: Route, outcome: &Result<T, PartnerError>, took: Duration) {
        let class = match outcome {
            Ok(_) => "ok",
            Err(error) => class(error.kind),
        };
        let route = route.as_str();
        self.calls.get_or_create(&Called { route, class }).inc();
        let seconds = took.as_secs_f64();
        self.seconds.get_or_create(&Took { route }).observe(seconds);
    }
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Credentials => "credentials",
        Kind::Forbidden => "forbidden",
        Kind::Missing => "missing",
        Kind::NoWebhooksApi => "no_webhooks_api",
        Kind::Conflict => "conflict",
        Kind::Rejected => "rejected",
        Kind::Throttled => "throttled",
        Kind::Server => "server",
        Kind::Network => "network",
        Kind::Unreadable => "unreadable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word that the table lacks would be a series that is not there from the start, and that no page tells of.
    #[test]
    fn every_call_is_counted_in_words_of_the_table() {
        let known = |label: Label, word| label.values.iter().any(|(value, _)| *value == word);
        for route in [
            Route::List,
            Route::Create,
            Route::Update,
            Route::Delete,
            Route::Test,
            Route::Token,
        ] {
            assert!(known(ROUTE, route.as_str()), "{route:?}");
        }
        for kind in [
            Kind::Credentials,
            Kind::Forbidden,
            Kind::Missing,
            Kind::NoWebhooksApi,
            Kind::Conflict,
            Kind::Rejected,
            Kind::Throttled,
            Kind::Server,
            Kind::Network,
            Kind::Unreadable,
        ] {
            assert!(known(CLASS, class(kind)), "{kind:?}");
        }
    }
}
