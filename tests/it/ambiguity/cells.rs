//! The cells: which step meets which answer, and how that must end.
//!
//! Not every answer can be given to every step. What CHeKT's documents leave open is one server's habit, so it holds
//! from the beginning of a cell to its end; what goes wrong on the way strikes the step in question only.

use serde_json::{Value, json};

/// What is asked of CHeKT when the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Create,
    PatchUrl,
    PatchEvents,
    PatchSecret,
    Reactivate,
    Delete,
    Test,
    List,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 8] = [
        Step::Create,
        Step::PatchUrl,
        Step::PatchEvents,
        Step::PatchSecret,
        Step::Reactivate,
        Step::Delete,
        Step::Test,
        Step::List,
    ];

    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Step::Create => "create",
            Step::PatchUrl => "patch url",
            Step::PatchEvents => "patch events",
            Step::PatchSecret => "patch secret",
            Step::Reactivate => "reactivate",
            Step::Delete => "delete",
            Step::Test => "test",
            Step::List => "list",
        }
    }

    /// The sandbox's route.
    fn route(self) -> &'static str {
        match self {
            Step::Create => "create",
            Step::PatchUrl | Step::PatchEvents | Step::PatchSecret | Step::Reactivate => "patch",
            Step::Delete => "delete",
            Step::Test => "test",
            Step::List => "list",
        }
    }

    /// The field that a PATCH of this step changes.
    fn field(self) -> Option<&'static str> {
        match self {
            Step::PatchUrl => Some("url"),
            Step::PatchEvents => Some("events"),
            Step::PatchSecret => Some("secret"),
            Step::Reactivate => Some("status"),
            Step::Create | Step::Delete | Step::Test | Step::List => None,
        }
    }
}

/// How a cell must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As written, proved by a signed delivery, Ready; or gone, where that was asked for.
    Done,
    /// The test delivery is refused, which is said; all the rest as with [`End::Done`].
    Unverified,
    /// It cannot be as written: Stalled, with a message that holds all of these words, and deliveries go on.
    Stalled(&'static [&'static str]),
    /// As with [`End::Done`], and the account is not ready, with a message that holds these words: nothing that is not
    /// known by its id can be made or released safely.
    DoneWithoutAccount(&'static [&'static str]),
}

impl End {
    /// Whether it cannot be as it is written.
    pub fn is_short_of_what_is_written(&self) -> bool {
        match self {
            End::Done => false,
            End::Unverified | End::Stalled(_) | End::DoneWithoutAccount(_) => true,
        }
    }
}

/// One step that meets one answer.
#[derive(Clone, Debug)]
pub struct Cell {
    pub step: Step,
    /// The answer, for people.
    pub answer: &'static str,
    /// How this server is, from beginning to end.
    pub quirks: Value,
    /// What goes wrong when the step is made.
    pub faults: Value,
    /// Remote webhooks of others that are there before.
    pub strangers: usize,
    /// Events that are wanted beside `alarm.triggered` at the end.
    pub events: &'static [&'static str],
    /// The url is given in another spelling than the server's.
    pub odd_url: bool,
    /// How it must end.
    pub end: End,
    /// How many twins may be made on the way and taken away again: one, where CHeKT shows a create only after the settle
    /// time and honours no key.
    pub twins: usize,
    /// Part of the short form.
    pub short: bool,
    /// Takes too long for the short form.
    pub slow: bool,
}

impl Cell {
    fn new(step: Step, answer: &'static str) -> Cell {
        Cell {
            step,
            answer,
            quirks: json!({}),
            faults: json!([]),
            strangers: 0,
            events: &["alarm.cleared"],
            odd_url: false,
            end: End::Done,
            twins: 0,
            short: false,
            slow: false,
        }
    }

    fn quirks(mut self, quirks: Value) -> Cell {
        self.quirks = quirks;
        self
    }

    #[allow(clippy::needless_pass_by_value)] // Reads better where it is called.
    fn fault(mut self, when: &str, effect: Value, times: u32) -> Cell {
        let route = self.step.route();
        self.faults = json!([{"route": route, "when": when, "effect": effect, "times": times}]);
        self
    }

    fn strangers(mut self, strangers: usize) -> Cell {
        self.strangers = strangers;
        self
    }

    fn ends(mut self, end: End) -> Cell {
        self.end = end;
        self
    }

    fn with_a_twin(mut self) -> Cell {
        self.twins = 1;
        self
    }

    fn short(mut self) -> Cell {
        self.short = true;
        self
    }

    fn short_for(self, steps: &[Step]) -> Cell {
        let short = steps.contains(&self.step);
        Cell { short, ..self }
    }

    fn slow(mut self) -> Cell {
        self.slow = true;
        self
    }

    /// How late a list shows a change, in milliseconds.
    pub fn lag(&self) -> u64 {
        self.quirks["changes_listed_after_ms"]
            .as_u64()
            .unwrap_or_default()
    }

    /// Step and answer.
    pub fn name(&self) -> String {
        format!("{}: {}", self.step.name(), self.answer)
    }
}

/// Every cell.
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for step in Step::ALL {
        cells.extend(lost_answers(step));
        cells.extend(habits(step));
    }
    for cell in &mut cells {
        // A test delivery without an answer is asked for again after 30 s, and under a new number only two minutes later:
        // until then CHeKT may answer with the failure that it keeps under the old one.
        if cell.step == Step::Test && cell.answer.starts_with("not done") {
            cell.slow = true;
        }
        if cell.step == Step::Test && cell.answer.starts_with("failures are kept") {
            cell.end = End::Unverified;
            cell.slow = true;
        }
    }
    cells.extend(creates());
    cells.extend(patches());
    cells.extend(deletes());
    cells.extend(lists());
    for cell in &mut cells {
        cell.slow |= cell.lag() > 5_000;
    }
    cells
}

/// Answers that get lost, come from a proxy, or come too late, whatever was asked.
fn lost_answers(step: Step) -> Vec<Cell> {
    use Step::{Create, Delete, List, PatchEvents, PatchSecret, PatchUrl, Reactivate, Test};
    let cell = |answer| Cell::new(step, answer);
    let status = |status: u16| json!({"status": status});
    vec![
        cell("done, connection dropped")
            .fault("after", json!("drop"), 1)
            .short_for(&[Create, PatchUrl, Delete]),
        cell("done, connection dropped three times").fault("after", json!("drop"), 3),
        cell("done, answer cut short")
            .fault("after", json!("truncate"), 1)
            .short_for(&[PatchSecret]),
        cell("done, 500")
            .fault("after", status(500), 1)
            .short_for(&[PatchEvents]),
        cell("done, 502 in HTML").fault("after", json!({"status": 502, "html": true}), 1),
        cell("done, 504")
            .fault("after", status(504), 1)
            .short_for(&[Test]),
        cell("done, 200 in HTML")
            .fault("after", json!({"status": 200, "html": true}), 1)
            .short_for(&[Create, List]),
        cell("done, no answer in time")
            .fault("after", json!({"stall_ms": 17_000}), 1)
            .slow(),
        cell("not done, connection dropped").fault("before", json!("drop"), 1),
        cell("not done, 503")
            .fault("before", status(503), 1)
            .short_for(&[Reactivate]),
        cell("done after nobody waits any more")
            .fault("before", json!({"stall_ms": 17_000}), 1)
            .slow(),
        cell("429 with Retry-After, twice")
            .fault("before", json!({"status": 429, "retry_after": 3}), 2)
            .short_for(&[Delete]),
        cell("429 without Retry-After, twice").fault("before", status(429), 2),
    ]
}

/// How a server may be that concerns every step.
fn habits(step: Step) -> Vec<Cell> {
    let cell = |answer| Cell::new(step, answer);
    let lag = |ms: u32| json!({"create_visible_after_ms": ms, "changes_listed_after_ms": ms, "deleted_listed_for_ms": ms});
    let dropped = |cell: Cell| match step {
        Step::List => cell,
        _ => cell.fault("after", json!("drop"), 1),
    };
    let ids = json!({"numeric_ids": true, "id_key": "id"});
    let pages = |churn: &str| json!({"list_paging": "page", "page_size": 2, "list_shape": "data_webhooks", "list_churn": churn});
    let mut cells = vec![
        cell("lists lag 3 s").quirks(lag(3_000)),
        dropped(cell("lists lag 3 s, and the answer is lost").quirks(lag(3_000)))
            .short_for(&[Step::Create]),
        dropped(cell("lists lag 8 s, and the answer is lost").quirks(lag(8_000))),
        cell("ids are numbers").quirks(ids).short_for(&[Step::List]),
        dropped(
            cell("pages skip while another client writes, and the answer is lost")
                .quirks(pages("skip")),
        )
        .strangers(2)
        .short_for(&[Step::Delete]),
        dropped(
            cell("pages repeat while another client writes, and the answer is lost")
                .quirks(pages("repeat")),
        )
        .strangers(2),
        dropped(
            cell("keys of idempotency are ignored, and the answer is lost")
                .quirks(json!({"idempotency": "ignored"})),
        ),
        cell("failures are kept under their key: 503")
            .quirks(json!({"idempotency": "caches_errors"}))
            .fault("before", json!({"status": 503}), 1),
        cell("409 while in flight, which is long")
            .quirks(json!({"idempotency": "409_in_flight"}))
            .fault("before", json!({"stall_ms": 24_000}), 1)
            .slow(),
    ];
    if step == Step::List {
        // A list carries no key, and none can be in flight.
        cells.truncate(6);
    }
    cells
}

fn creates() -> Vec<Cell> {
    let cell = |answer| Cell::new(Step::Create, answer);
    let lost = |answer, quirks| cell(answer).quirks(quirks).fault("after", json!("drop"), 1);
    vec![
        cell("202 without a body")
            .quirks(json!({"create_status": 202}))
            .short(),
        cell("202 without a body, lists lag 3 s")
            .quirks(json!({"create_status": 202, "create_visible_after_ms": 3_000})),
        cell("202 without a body, lists lag 8 s")
            .quirks(json!({"create_status": 202, "create_visible_after_ms": 8_000}))
            .with_a_twin(),
        lost(
            "the answer is lost, a second of the url is 409",
            json!({"duplicate_url": "409"}),
        ),
        lost(
            "the answer is lost, a second of the url is 422",
            json!({"duplicate_url": "422"}),
        ),
        lost(
            "the answer is lost, a second of the url is the first",
            json!({"duplicate_url": "existing"}),
        ),
        lost(
            "the answer is lost, lists lag 8 s, no keys, a second of the url is 409",
            json!({"duplicate_url": "409", "create_visible_after_ms": 8_000, "idempotency": "ignored"}),
        ),
        lost(
            "the answer is lost, lists lag 8 s, no keys, a second of the url is 422",
            json!({"duplicate_url": "422", "create_visible_after_ms": 8_000, "idempotency": "ignored"}),
        ),
        lost(
            "the answer is lost, lists lag 8 s, no keys",
            json!({"create_visible_after_ms": 8_000, "idempotency": "ignored"}),
        )
        .with_a_twin(),
        cell("events reordered").quirks(json!({"events_echo": "reorder"})),
        Cell {
            odd_url: true,
            ..cell("url normalised").quirks(json!({"url_echo": "normalised"}))
        },
        Cell {
            odd_url: true,
            ..lost(
                "url normalised, and the answer is lost",
                json!({"url_echo": "normalised"}),
            )
            .short()
        },
        Cell {
            events: &["no.such_event"],
            ..cell("unknown events dropped").quirks(json!({"unknown_events": "drop"}))
        }
        .ends(End::Stalled(&["events", "no.such_event"]))
        .short(),
        cell("events without a scope dropped")
            .quirks(json!({"withheld_events": ["alarm.cleared"]}))
            .ends(End::Stalled(&["events", "alarm.cleared"])),
        Cell {
            events: &["no.such_event"],
            ..cell("unknown events refused")
        }
        .ends(End::Stalled(&["events", "no.such_event"])),
    ]
}

fn patches() -> Vec<Cell> {
    // With a cooldown of 10 s, what a list shows after 8 s may come too late to keep it from being made anew.
    let late = |cell: Cell| match cell.step {
        Step::Reactivate => cell.with_a_twin(),
        _ => cell,
    };
    let mut cells = Vec::new();
    for step in [
        Step::PatchUrl,
        Step::PatchEvents,
        Step::PatchSecret,
        Step::Reactivate,
    ] {
        let cell = |answer| Cell::new(step, answer);
        let Some(field) = step.field() else { continue };
        let ignored = match step {
            // It is made anew, which makes it active.
            Step::Reactivate => End::Done,
            Step::PatchUrl => End::Stalled(&["url"]),
            Step::PatchEvents => End::Stalled(&["events", "alarm.cleared"]),
            _ => End::Stalled(&["secret"]),
        };
        let refused = match step {
            Step::Reactivate => End::Done,
            Step::PatchUrl => End::Stalled(&["422", "url"]),
            Step::PatchEvents => End::Stalled(&["422", "events"]),
            _ => End::Stalled(&["422", "secret"]),
        };
        cells.extend([
            cell("204 without a body")
                .quirks(json!({"patch_answer": "204"}))
                .short_for(&[Step::PatchEvents]),
            late(
                cell("204 without a body, lists lag 8 s")
                    .quirks(json!({"patch_answer": "204", "changes_listed_after_ms": 8_000})),
            ),
            cell("only what changed").quirks(json!({"patch_answer": "changed_fields"})),
            cell("as it was before").quirks(json!({"patch_answer": "stale"})),
            cell("200 and ignored")
                .quirks(json!({"patch_ignores": [field]}))
                .ends(ignored)
                .short_for(&[Step::PatchUrl, Step::PatchEvents]),
            cell("422, for this field may not be changed")
                .quirks(json!({"patch_refuses": [field]}))
                .ends(refused),
        ]);
    }
    let events = |answer| Cell::new(Step::PatchEvents, answer);
    cells.extend([
        events("events are merged")
            .quirks(json!({"patch_events": "merge"}))
            .ends(End::Stalled(&["events", "site.created"]))
            .short(),
        events("events reordered").quirks(json!({"events_echo": "reorder"})),
        events("events without a scope dropped")
            .quirks(json!({"withheld_events": ["alarm.cleared"]}))
            .ends(End::Stalled(&["events", "alarm.cleared"])),
        Cell {
            events: &["no.such_event"],
            ..events("unknown events dropped").quirks(json!({"unknown_events": "drop"}))
        }
        .ends(End::Stalled(&["events", "no.such_event"])),
        Cell::new(Step::PatchUrl, "url normalised").quirks(json!({"url_echo": "normalised"})),
        Cell::new(Step::Reactivate, "any PATCH does it").quirks(json!({"reenable": "any_patch"})),
        Cell::new(Step::Reactivate, "only a new one is active")
            .quirks(json!({"reenable": "only_recreate"})),
        Cell::new(Step::Reactivate, "what waited comes all at once")
            .quirks(json!({"while_disabled": "queue"})),
    ]);
    cells
}

fn deletes() -> Vec<Cell> {
    let cell = |answer| Cell::new(Step::Delete, answer);
    vec![
        cell("200 with a body").quirks(json!({"delete_answer": 200})),
        cell("202").quirks(json!({"delete_answer": 202, "deleted_listed_for_ms": 3_000})),
        cell("the answer is lost, the second is 204")
            .quirks(json!({"second_delete": 204}))
            .fault("after", json!("drop"), 1),
        cell("the answer is lost, the second is 404, still listed for 8 s")
            .quirks(json!({"deleted_listed_for_ms": 8_000}))
            .fault("after", json!("drop"), 1),
        cell("the list is cut and does not say so")
            .quirks(json!({"list_paging": "capped_silently", "page_size": 10}))
            .strangers(10),
    ]
}

fn lists() -> Vec<Cell> {
    let cell = |answer| Cell::new(Step::List, answer);
    let paged = |answer, paging: &str, size: u32, churn: &str| {
        cell(answer).quirks(json!({"list_paging": paging, "page_size": size, "list_churn": churn}))
    };
    vec![
        paged("pages by cursor, which skip", "cursor", 2, "skip").strangers(2),
        paged("pages by Link, which skip", "link", 2, "skip").strangers(2),
        paged(
            "pages without a total, which skip",
            "page_without_total",
            10,
            "skip",
        )
        .strangers(10),
        paged(
            "pages without a total, which repeat",
            "page_without_total",
            10,
            "repeat",
        )
        .strangers(10),
        paged("cut, and no word of it", "capped_silently", 10, "none")
            .strangers(10)
            .ends(End::DoneWithoutAccount(&["not whole"])),
        cell("in random order")
            .quirks(json!({"list_order": "random"}))
            .strangers(5),
        cell("an unknown shape").fault("after", json!({"status": 200, "html": true}), 4),
        cell("429 with a date")
            .quirks(json!({"retry_after": "date", "requests_per_minute": 60, "burst": 3})),
        cell("429 without Retry-After, by the limit itself")
            .quirks(json!({"retry_after": "absent", "requests_per_minute": 60, "burst": 3})),
    ]
}
