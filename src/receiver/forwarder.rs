//! From the journal to the sink, beside the publisher and unknown to it: each delivery at least once, oldest first,
//! with a cursor of its own.
//!
//! A sink that is away holds up neither the 200 nor the Events; it only falls behind. What it can never take is
//! skipped, or it would never get what comes after.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::delivery::cloudevent::{Mode, encode};
use crate::delivery::cursor::Cursor;
use crate::delivery::patience::{Patience, Trouble};
use crate::delivery::{Received, retry};
use crate::journal::{Journal, JournalError};
use crate::sink::{NotTaken, Sink, SinkError};

/// Deliveries that are sent at the same time.
const AT_ONCE: usize = 4;
/// Deliveries that are read from the journal together.
const TOGETHER: usize = 64;
/// How often it is looked at how things stand.
const TICK: Duration = Duration::from_secs(1);
/// The least time between two notes of how far the sink has come, while it has not come to the end.
const NOTE: Duration = Duration::from_millis(200);
/// The pause before the journal is asked once more; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST: Duration = Duration::from_secs(5);

/// Flags of the second sink.
#[derive(Clone, Debug, Args)]
pub struct SinkArgs {
    /// Where each delivery is sent as a CloudEvent 1.0 as well, by POST and at least once. Without it, none is.
    #[arg(long, env = "CHEKT_CLOUDEVENTS_URL", value_name = "URL")]
    pub cloudevents_url: Option<String>,

    /// How a CloudEvent is put into a request: its attributes as headers beside the delivery's own body, or all of it
    /// as one JSON object.
    #[arg(
        long,
        env = "CHEKT_CLOUDEVENTS_MODE",
        value_name = "MODE",
        value_enum,
        default_value_t
    )]
    pub cloudevents_mode: SinkMode,

    /// A file that holds the bearer token for the sink. It is read anew for each request.
    #[arg(long, env = "CHEKT_CLOUDEVENTS_TOKEN_FILE", value_name = "FILE")]
    pub cloudevents_token_file: Option<PathBuf>,

    /// Lets the sink's URL be plain http although it is not this machine's. Deliveries and the token can then be read by
    /// everyone on the way.
    #[arg(long, env = "CHEKT_ALLOW_INSECURE_CLOUDEVENTS")]
    pub allow_insecure_cloudevents: bool,
}

/// How a CloudEvent is put into a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SinkMode {
    /// Attributes as headers, the delivery's body as body.
    #[default]
    Binary,
    /// Attributes and data as one JSON object.
    Structured,
}

impl From<SinkMode> for Mode {
    fn from(mode: SinkMode) -> Self {
        match mode {
            SinkMode::Binary => Mode::Binary,
            SinkMode::Structured => Mode::Structured,
        }
    }
}

impl SinkArgs {
    /// The sink that the flags name, if they name one.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn sink(&self) -> Result<Option<Sink>, SinkError> {
        let Some(url) = self.cloudevents_url.as_ref().filter(|url| !url.is_empty()) else {
            return Ok(None);
        };
        let token_file = self.cloudevents_token_file.clone();
        let token_file = token_file.filter(|file| !file.as_os_str().is_empty());
        Sink::new(url, token_file, self.allow_insecure_cloudevents).map(Some)
    }
}

/// What the forwarder works with.
pub struct Forwarder {
    /// Where deliveries are.
    pub journal: Journal,
    /// Where they go.
    pub sink: Sink,
    /// How.
    pub mode: Mode,
    /// What is counted.
    pub metrics: Metrics,
    /// How long to go on after the end was asked for while something is left: a pod's disk may go with it.
    pub last: Duration,
}

/// A delivery that was read and is not done with.
struct Parcel {
    seq: i64,
    received: Box<Received>,
}

struct State {
    cursor: Cursor,
    /// The cursor's place as the journal knows it, and since when.
    noted: (i64, Instant),
    /// Whether the journal may hold more.
    read_on: bool,
    /// Read and not under way, oldest first.
    waiting: VecDeque<Parcel>,
    /// When each that is not done with arrived.
    arrivals: BTreeMap<i64, Timestamp>,
    patience: Patience,
}

impl Forwarder {
    /// Sends until `end` is cancelled and nothing is left, or the time for that is over.
    pub async fn run(self, end: CancellationToken) {
        let start = Instant::now();
        let mut appended = self.journal.appended();
        let Some(position) = self.position(&end).await else {
            return;
        };
        let mut state = State {
            cursor: Cursor::new(position),
            noted: (position, start),
            read_on: true,
            waiting: VecDeque::new(),
            arrivals: BTreeMap::new(),
            patience: Patience::new(AT_ONCE),
        };
        let mut sending = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry_at: Option<Instant> = None;
        let mut failures = 0;
        let mut ending: Option<Instant> = None;
        loop {
            let over = ending.is_some_and(|until| Instant::now() >= until);
            // The journal first: what it fails at is tried again after a pause, and sending goes on.
            if retry_at.is_none_or(|at| Instant::now() >= at) {
                retry_at = None;
                match self.ask(&mut state, over).await {
                    Ok(()) => failures = 0,
                    Err(JournalError::Closed) => return,
                    Err(error) => {
                        if failures == 0 {
                            tracing::warn!(%error, "the sink's place in the journal cannot be read or kept; trying again");
                        }
                        retry_at = Some(Instant::now() + retry::pause(failures, FIRST, LONGEST));
                        failures += 1;
                    }
                }
            }
            if over {
                // What is under way is sent again by the next start, with the same id.
                break;
            }
            let paused_until = state.patience.paused_until();
            let paused = paused_until > start.elapsed();
            while !paused && sending.len() < state.patience.width() {
                let Some(parcel) = state.waiting.pop_front() else {
                    break;
                };
                sending.push(self.send(parcel));
            }
            if ending.is_some() && sending.is_empty() && state.is_done() {
                break;
            }
            tokio::select! {
                Some((parcel, outcome)) = sending.next(), if !sending.is_empty() => {
                    self.conclude(&mut state, parcel, outcome, start.elapsed());
                }
                changed = appended.changed() => match changed {
                    Ok(()) => state.read_on = true,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(start + paused_until), if paused && !state.waiting.is_empty() => {}
                () = sleep_until(retry_at), if retry_at.is_some() => {}
                () = sleep_until(ending), if ending.is_some() => {}
                _ = tick.tick() => self.show(&state),
                () = end.cancelled(), if ending.is_none() => {
                    ending = Some(Instant::now() + self.last);
                }
            }
        }
        self.show(&state);
        if !state.arrivals.is_empty() {
            let left = state.arrivals.len();
            tracing::warn!(
                left,
                "ending with deliveries that the sink has not taken; the next start goes on with them"
            );
        }
    }

    /// Where the cursor stands; asked until it is told, or the end comes first.
    async fn position(&self, end: &CancellationToken) -> Option<i64> {
        let mut failures = 0;
        loop {
            match self.journal.sink_cursor().await {
                Ok(position) => return Some(position),
                Err(JournalError::Closed) => return None,
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "the sink's place in the journal cannot be read yet");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(retry::pause(failures, FIRST, LONGEST)) => {}
                () = end.cancelled() => return None,
            }
            failures += 1;
        }
    }

    /// Has the journal note the cursor's place, not for each delivery, and reads on where little is left.
    async fn ask(&self, state: &mut State, over: bool) -> Result<(), JournalError> {
        let position = state.cursor.position();
        let (noted, at) = state.noted;
        if position > noted && (state.arrivals.is_empty() || over || at.elapsed() >= NOTE) {
            self.journal.advance_sink(position).await?;
            state.noted = (position, Instant::now());
        }
        if state.read_on && state.waiting.len() < AT_ONCE {
            let after = state.cursor.read();
            let read = self.journal.for_sink(after, TOGETHER).await?;
            // Fewer than asked for are all there are, until something is appended.
            state.read_on = read.len() == TOGETHER;
            for (seq, received) in read {
                state.cursor.begin(seq);
                state.arrivals.insert(seq, received.received_at);
                let received = Box::new(received);
                state.waiting.push_back(Parcel { seq, received });
            }
        }
        Ok(())
    }

    /// Sends one. It borrows nothing, so that others can be under way meanwhile.
    fn send(&self, parcel: Parcel) -> impl Future<Output = (Parcel, Result<(), NotTaken>)> + use<> {
        let sink = self.sink.clone();
        let message = encode(&parcel.received, self.mode);
        async move {
            let outcome = sink.send(message).await;
            (parcel, outcome)
        }
    }

    fn conclude(
        &self,
        state: &mut State,
        parcel: Parcel,
        outcome: Result<(), NotTaken>,
        now: Duration,
    ) {
        let host = self.sink.host();
        let error = match outcome {
            Ok(()) => {
                self.metrics.sink_sent.inc();
                if state.patience.succeeded() {
                    tracing::info!(host, "the sink takes CloudEvents again");
                }
                return state.done(parcel.seq);
            }
            Err(error) => error,
        };
        let (class, trouble) = match &error {
            NotTaken::Refused(status) => {
                let webhook = &parcel.received.webhook;
                let webhook = format!("{}/{}", webhook.namespace, webhook.name);
                let delivery = parcel.received.key.short();
                self.metrics.sink_skipped.inc();
                tracing::error!(
                    webhook,
                    delivery,
                    status,
                    host,
                    "the sink refuses a CloudEvent for good; it is skipped"
                );
                return state.done(parcel.seq);
            }
            NotTaken::Throttled { retry_after, .. } => {
                ("throttled", Trouble::Throttled(*retry_after))
            }
            NotTaken::Answered(_) => ("answered", Trouble::Everywhere),
            NotTaken::Late => ("late", Trouble::Everywhere),
            NotTaken::Unreachable(_) => ("unreachable", Trouble::Everywhere),
            NotTaken::Token(_) => ("token", Trouble::Everywhere),
        };
        self.metrics.sink_failed(class);
        if state.patience.failed(trouble, now) {
            tracing::warn!(host, %error, "the sink takes no CloudEvents; they wait in the journal");
        }
        let at = state
            .waiting
            .partition_point(|other| other.seq < parcel.seq);
        state.waiting.insert(at, parcel);
    }

    fn show(&self, state: &State) {
        let depth = self.journal.depth();
        self.metrics.sink_lag_records.set(depth.sink_pending);
        self.metrics.sink_missed.set(depth.sink_skipped);
        let age = state.arrivals.values().min().map_or(0, |oldest| {
            Timestamp::now().duration_since(*oldest).as_secs().max(0)
        });
        self.metrics.sink_lag_seconds.set(age);
    }
}

impl State {
    /// Whether the sink has everything and the journal knows.
    fn is_done(&self) -> bool {
        self.arrivals.is_empty() && !self.read_on && self.noted.0 == self.cursor.position()
    }

    fn done(&mut self, seq: i64) {
        self.cursor.finish(seq);
        self.arrivals.remove(&seq);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
