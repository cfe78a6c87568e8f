//! The driver: what kube's controllers and the clock are to the engine. It hands each object in, turns the clock to the
//! moment at which the next pass is due, and drops passes in their middle.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Wake as TaskWake, Waker};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chekt_operator::controller::args::Settings;
use chekt_operator::controller::claims::Claims;
use chekt_operator::controller::connection::Wake;
use chekt_operator::controller::context::{Accounts, Context, Webhooks};
use chekt_operator::controller::metrics::Metrics;
use chekt_operator::controller::{account, webhook};
use chekt_operator::leadership::fence::Fence;
use chekt_operator::ops::clock::{Clock, Hand};
use chekt_operator::resources::account::AccountName;
use chekt_operator::resources::keyring::Keyring;
use chekt_operator::resources::{ChektAccount, ChektWebhook};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{reflector, watcher};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::yield_now;

use super::Strokes;
use super::apiserver::ApiServer;
use super::chekt::Chekt;
use crate::harness::dice::Dice;

/// Where the keyrings are.
pub const OPERATOR: &str = "chekt-system";
/// Where account and webhooks are.
pub const USERS: &str = "security";
/// The public URL. Nobody listens there.
pub const PUBLIC: &str = "http://127.0.0.1:9";
/// Who is due: a webhook by its name, or the account.
const ACCOUNT: &str = "";

/// After so many turns of the runtime in which a pass was not woken, nothing will wake it but time.
const IDLE: u32 = 400;
/// So many turns of the runtime are enough for both ends of a connection to see that it is closed.
const QUIET: u32 = 60;
/// How long a watch may lag at most.
pub const LAG: Duration = Duration::from_millis(300);
/// How long, by the clock, a request may still be on its way whose sender has gone: less than the settle time.
const LATE_MS: u64 = 4_500;

/// A moment of a pass.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// After so many polls.
    Poll(u32),
    /// When a write is under way to CHeKT.
    Write,
}

/// A pass is dropped at that moment, or so many turns of the runtime later.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    pub at: Moment,
    pub turns: u32,
    /// Whether the process dies of it: everything that it remembers is lost.
    pub crash: bool,
}

/// The uid and the resource version of an object; both empty where there is none.
type Version = (String, String);

/// The engine, as a process has it.
struct Engine {
    context: Arc<Context>,
    webhooks: Writer<ChektWebhook>,
    accounts: Writer<ChektAccount>,
    woken: UnboundedReceiver<Wake>,
    /// The version of each webhook that was handed in last.
    handed: BTreeMap<String, ChektWebhook>,
    /// The version of each object and its Secrets when it was last looked at.
    seen: BTreeMap<String, Version>,
    /// The webhooks there are.
    names: Vec<String>,
    due: BTreeMap<String, Instant>,
    /// How many changes there were at the last look.
    noticed: Option<u64>,
}

/// The engine, its surroundings and the time.
pub struct Driver {
    pub dice: Dice,
    pub clock: Clock,
    hand: Hand,
    pub api: ApiServer,
    pub chekt: Chekt,
    pub strokes: Strokes,
    engine: Engine,
    began: Instant,
    /// When the requests land that are on their way without a sender.
    land_at: Option<Instant>,
    pub passes: u64,
    /// Polls of passes, from the first on.
    pub polls: u32,
    pub cancelled: u64,
    pub crashed: u64,
    pub story: Vec<String>,
}

/// Wakes nobody, and remembers that it should have.
struct Flag(AtomicBool);

impl TaskWake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Engine {
    fn new(api: &ApiServer, clock: &Clock) -> anyhow::Result<Engine> {
        let settings = Settings {
            public_url: PUBLIC.parse()?,
            operator_namespace: OPERATOR.to_owned(),
            watch_namespaces: Vec::new(),
            default_account: None,
            concurrency: 1,
            allow_insecure_partner: false,
            election: None,
            secret_names: Vec::new(),
            receiver: None,
            orphan_after: Duration::from_secs(3600),
        };
        let (webhook_store, webhooks) = reflector::store();
        let (account_store, accounts) = reflector::store();
        let claiming = Webhooks {
            store: webhook_store,
            claims: Arc::new(Claims::new(settings.public_url.clone())),
        };
        // The engine begins once a list has come to its end.
        claiming
            .claims
            .saw(&watcher::Event::InitDone, &claiming.store);
        let known = Accounts {
            namespace: None,
            store: account_store,
            listed: Arc::new(AtomicBool::new(true)),
        };
        let (wake, woken) = mpsc::unbounded_channel();
        let context = Context::new(
            api.client(),
            settings,
            Metrics::default(),
            Fence::open(),
            clock.clone(),
            (vec![claiming], vec![known]),
            wake,
        );
        let mut engine = Engine {
            context: Arc::new(context),
            webhooks,
            accounts,
            woken,
            handed: BTreeMap::new(),
            seen: BTreeMap::new(),
            names: Vec::new(),
            due: BTreeMap::new(),
            noticed: None,
        };
        // What is there is shown one by one, later.
        engine.show(&watcher::Event::Init);
        engine.show(&watcher::Event::InitDone);
        Ok(engine)
    }

    /// Shows a webhook to whoever watches.
    fn show(&mut self, event: &watcher::Event<ChektWebhook>) {
        self.webhooks.apply_watcher_event(event);
        for known in &self.context.webhooks {
            known.claims.saw(event, &known.store);
        }
    }

    /// Takes in what watches would show. As in the product, what shows a write of the engine's own makes no pass.
    fn notice_changes(&mut self, api: &ApiServer, now: Instant) -> anyhow::Result<()> {
        let version = |plural: &str, namespace: &str, name: &str| {
            let found = api.look((plural, namespace, name), |object| {
                let text = |name: &str| {
                    let found = object["metadata"][name].as_str();
                    found.unwrap_or_default().to_owned()
                };
                (text("uid"), text("resourceVersion"))
            });
            found.unwrap_or_default()
        };
        let context = Arc::clone(&self.context);
        let mut seen = BTreeMap::new();
        for name in api.names("chektaccounts") {
            let (object, secret) = (
                version("chektaccounts", USERS, &name),
                version("secrets", USERS, "chekt-account"),
            );
            let new = self.is_new("account", &object);
            if new && let Some(account) = api.get("chektaccounts", USERS, &name) {
                let account: ChektAccount = serde_json::from_value(account)?;
                let event = watcher::Event::Apply(account);
                self.accounts.apply_watcher_event(&event);
            }
            let is_echo = |(uid, version): &Version| {
                let version = Some(version.as_str());
                context.account_echoes.is_echo(uid, version)
            };
            if new && !is_echo(&object) || self.is_new("account's secret", &secret) {
                self.due.insert(ACCOUNT.to_owned(), now);
            }
            seen.insert("account".to_owned(), object);
            seen.insert("account's secret".to_owned(), secret);
        }
        let names = api.names("chektwebhooks");
        for name in &names {
            let object = version("chektwebhooks", USERS, name);
            let keyring_name = Keyring::secret_name(&object.0);
            let (keyring, secret) = (
                version("secrets", OPERATOR, &keyring_name),
                version("secrets", USERS, &format!("{name}-secret")),
            );
            let [of_keyring, of_secret] =
                ["keyring", "secret"].map(|what| format!("{what} of {name}"));
            let (new, new_keyring) = (
                self.is_new(name, &object),
                self.is_new(&of_keyring, &keyring),
            );
            if new && let Some(webhook) = api.get("chektwebhooks", USERS, name) {
                let webhook: ChektWebhook = serde_json::from_value(webhook)?;
                self.show(&watcher::Event::Apply(webhook));
            }
            let shown = |version: &Version| Some(version.1.clone());
            let is_echo = context
                .webhook_echoes
                .is_echo(&object.0, shown(&object).as_deref());
            let is_keyring_echo = context
                .keyring_echoes
                .is_echo(&keyring_name, shown(&keyring).as_deref());
            if new && !is_echo
                || new_keyring && !is_keyring_echo
                || self.is_new(&of_secret, &secret)
            {
                self.due.insert(name.clone(), now);
            }
            seen.insert(name.clone(), object);
            seen.insert(of_keyring, keyring);
            seen.insert(of_secret, secret);
        }
        let gone: Vec<String> = self
            .names
            .iter()
            .filter(|n| !names.contains(n))
            .cloned()
            .collect();
        for name in gone {
            self.due.remove(&name);
            if let Some(last) = self.handed.remove(&name) {
                self.show(&watcher::Event::Delete(last));
            }
        }
        self.names = names;
        self.seen = seen;
        Ok(())
    }

    /// Whether a version differs from the one that was seen last.
    fn is_new(&self, what: &str, version: &Version) -> bool {
        self.seen.get(what) != Some(version)
    }

    /// Takes in what watches would show, and what the engine itself found worth a look.
    fn notice(&mut self, api: &ApiServer, now: Instant) -> anyhow::Result<()> {
        if self.noticed != Some(api.changes()) {
            self.noticed = Some(api.changes());
            self.notice_changes(api, now)?;
        }
        while let Ok(wake) = self.woken.try_recv() {
            let everyone = || self.names.iter().cloned();
            let names: Vec<String> = match wake {
                Wake::Everyone(_) => everyone().chain([ACCOUNT.to_owned()]).collect(),
                Wake::Account(_) => vec![ACCOUNT.to_owned()],
                Wake::Concerned(..) | Wake::Guests(_) => everyone().collect(),
                Wake::One(asker) => vec![asker.name],
            };
            for name in names {
                if name == ACCOUNT || self.names.contains(&name) {
                    self.due.insert(name, now);
                }
            }
        }
        Ok(())
    }
}

impl Driver {
    /// An engine that has seen nothing yet, with nothing around it.
    pub async fn new(seed: u64) -> anyhow::Result<Driver> {
        let (clock, hand) = Clock::manual();
        let strokes = Strokes::new(Dice::thrown(!seed));
        let api = ApiServer::new(clock.clone(), strokes.clone());
        let chekt = Chekt::open(strokes.clone()).await?;
        let engine = Engine::new(&api, &clock)?;
        Ok(Driver {
            dice: Dice::thrown(seed),
            began: clock.now(),
            clock,
            hand,
            api,
            chekt,
            strokes,
            engine,
            land_at: None,
            passes: 0,
            polls: 0,
            cancelled: 0,
            crashed: 0,
            story: Vec::new(),
        })
    }

    /// Adds a line to what is told of a run that failed.
    pub fn tell(&mut self, line: impl std::fmt::Display) {
        let at = self.clock.now() - self.began;
        self.story.push(format!("{:9.3} {line}", at.as_secs_f64()));
    }

    /// Lets time go by; what is on its way lands when its time has come.
    pub async fn advance(&mut self, by: Duration) {
        let end = self.clock.now() + by;
        if let Some(at) = self.land_at.filter(|at| *at <= end) {
            self.hand
                .advance(at.saturating_duration_since(self.clock.now()));
            self.land_at = None;
            self.tell("what was on its way to CHeKT has landed");
            self.chekt.land().await;
        }
        self.hand
            .advance(end.saturating_duration_since(self.clock.now()));
        let key = AccountName {
            namespace: USERS.to_owned(),
            name: "default".to_owned(),
        };
        if let Some(slot) = self.engine.context.slot(&key)
            && let Some(connection) = slot.last_connection()
        {
            // Those who wait for a turn wait by the machine's clock.
            connection.client.waiting().notify_one();
        }
    }

    /// When the next pass is due.
    pub fn next_due(&mut self) -> anyhow::Result<Instant> {
        self.engine.notice(&self.api, self.clock.now())?;
        let first = self.engine.due.values().min().copied();
        first.context("nobody is due, not even the account")
    }

    /// Whether a request is still on its way whose sender has gone.
    pub fn is_landing(&self) -> bool {
        self.land_at.is_some()
    }

    /// One pass, at the moment at which it is due, or a part of one.
    pub async fn turn(&mut self, strike: Option<Strike>) -> anyhow::Result<()> {
        let at = self.next_due()?;
        self.advance(at.saturating_duration_since(self.clock.now()))
            .await;
        let due = self.engine.due.iter().find(|(_, due)| **due <= at);
        let who = due.map(|(who, _)| who.clone()).unwrap_or_default();
        self.engine.due.remove(&who);
        self.passes += 1;
        let context = Arc::clone(&self.engine.context);
        let pass: Pass = if who == ACCOUNT {
            let Some(account) = self.api.all::<ChektAccount>("chektaccounts")?.pop() else {
                return Ok(());
            };
            Box::pin(account::reconcile(Arc::new(account), context))
        } else {
            let Some(webhook) = self.hand_in(&who)? else {
                return Ok(());
            };
            Box::pin(webhook::reconcile(Arc::new(webhook), context))
        };
        match self.poll(pass, strike).await? {
            Some(action) => {
                let again = requeue_after(&action)?;
                let ready = self.ready(&who);
                self.tell(format_args!("{who:?} rests for {again:?}, {ready}"));
                if let Some(again) = again {
                    let due = self.clock.now() + again;
                    self.engine.due.entry(who).or_insert(due);
                }
            }
            None => self.struck(&who, strike).await?,
        }
        Ok(())
    }

    /// What a webhook says of itself.
    fn ready(&self, name: &str) -> String {
        let ready = self.api.look(("chektwebhooks", USERS, name), |object| {
            let conditions = object["status"]["conditions"].as_array();
            let ready = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
            ready.map(|c| format!("{}: {}", c["reason"], c["message"]))
        });
        ready.flatten().unwrap_or_default()
    }

    /// The webhook as the store shows it: now and then as it did the last time, since a watch may lag.
    fn hand_in(&mut self, name: &str) -> anyhow::Result<Option<ChektWebhook>> {
        let Some(present) = self.api.get("chektwebhooks", USERS, name) else {
            return Ok(None);
        };
        if let Some(last) = self.engine.handed.get(name)
            && last.uid().as_deref() == present["metadata"]["uid"].as_str()
            && last.resource_version().as_deref() != present["metadata"]["resourceVersion"].as_str()
            && self.dice.one_in(4)
        {
            let soon = self.clock.now() + Duration::from_millis(self.dice.below(300));
            self.engine.due.insert(name.to_owned(), soon);
            return Ok(Some(last.clone()));
        }
        let webhook: ChektWebhook = serde_json::from_value(present)?;
        self.engine.handed.insert(name.to_owned(), webhook.clone());
        Ok(Some(webhook))
    }

    /// Polls a pass until it ends or is to be dropped. It is polled only when it was woken, so that the number of a
    /// poll says how far it has come; and if nothing wakes it, time goes by.
    async fn poll(
        &mut self,
        mut pass: Pass,
        strike: Option<Strike>,
    ) -> anyhow::Result<Option<Action>> {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut task = TaskContext::from_waker(&waker);
        let (mut polls, mut idle, mut waited) = (0, 0, 0);
        loop {
            if flag.0.swap(false, Ordering::AcqRel) {
                idle = 0;
                polls += 1;
                self.polls += 1;
                if let Poll::Ready(Ok(action)) = pass.as_mut().poll(&mut task) {
                    return Ok(Some(action));
                }
            } else {
                yield_now().await;
            }
            let is_now = |strike: &Strike| match strike.at {
                Moment::Poll(poll) => poll == polls,
                Moment::Write => self.chekt.is_being_written(),
            };
            if let Some(strike) = strike.filter(is_now) {
                for _ in 0..strike.turns {
                    yield_now().await;
                }
                return Ok(None);
            }
            idle += 1;
            if idle == IDLE {
                idle = 0;
                waited += 1;
                anyhow::ensure!(waited < 600, "a pass hangs");
                self.advance(Duration::from_secs(1)).await;
            }
        }
    }

    /// A pass was dropped.
    async fn struck(&mut self, who: &str, strike: Option<Strike>) -> anyhow::Result<()> {
        for _ in 0..QUIET {
            yield_now().await;
        }
        self.tell(format_args!("{who:?} dropped: {strike:?}"));
        // What is on its way to the API server lands within a moment or never: both ends are in one network.
        self.api.land();
        if self.chekt.has_under_way() && self.land_at.is_none() {
            let late = Duration::from_millis(self.dice.below(LATE_MS));
            self.land_at = Some(self.clock.now() + late);
        }
        if strike.is_some_and(|strike| strike.crash) {
            self.crashed += 1;
            let pause = Duration::from_millis(self.dice.below(3_000));
            self.advance(pause).await;
            self.engine = Engine::new(&self.api, &self.clock)?;
        } else {
            self.cancelled += 1;
            self.engine.due.insert(who.to_owned(), self.clock.now());
        }
        Ok(())
    }
}

type Pass = Pin<Box<dyn Future<Output = Result<Action, std::convert::Infallible>> + Send>>;

/// When the next pass is wanted. kube tells its own controller and nobody else, except in its debug output.
fn requeue_after(action: &Action) -> anyhow::Result<Option<Duration>> {
    if *action == Action::await_change() {
        return Ok(None);
    }
    let text = format!("{action:?}");
    let inner = text
        .strip_prefix("Action { requeue_after: Some(")
        .and_then(|t| t.strip_suffix(") }"))
        .with_context(|| text.clone())?;
    let unit = inner.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = inner.trim_end_matches(unit).parse()?;
    let factor = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        other => anyhow::bail!("{other} is no unit of a duration"),
    };
    let wait = Duration::from_secs_f64(number * factor);
    anyhow::ensure!(
        Action::requeue(wait) == *action || !wait.is_zero(),
        "{text}"
    );
    Ok(Some(wait))
}
