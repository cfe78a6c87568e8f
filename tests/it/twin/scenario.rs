//! The scenarios: what users, hands at CHeKT and faults do to a webhook while passes over it are dropped, and what must
//! have come of it once they are done.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use chekt_operator::resources::RECEIVER_MANAGER;
use chekt_operator::resources::conditions;
use chekt_operator::resources::keyring::Keyring;
use chekt_operator::resources::webhook::Deliveries;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::apiserver::Mishap;
use super::chekt::TOKEN;
use super::driver::{Driver, LAG, Moment, PUBLIC, Strike, USERS};
use super::oracle::{self, Wanted, WantedWebhook};
use super::{Place, Tally};
use crate::harness::dice::Dice;

const EVENTS: [&str; 5] = [
    "alarm.triggered",
    "alarm.cleared",
    "device.removed",
    "site.armed",
    "site.disarmed",
];

/// How long, by the clock, the engine may take until all is as it was asked for. What was refused is tried again after
/// ten minutes, and what was switched off again after a cooldown.
const LIMIT: Duration = Duration::from_secs(25 * 60);
/// How long nothing must happen then.
const STILL: Duration = Duration::from_secs(4 * 60);

/// One run.
#[derive(Clone, Debug)]
pub struct Script {
    seed: u64,
    /// Seeded: what is done at all; else this.
    fixed: Option<Fixed>,
}

/// A short story without chance, whose passes are dropped at one stated moment.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    pub story: Story,
    /// After so many polls of passes, counted over the whole story.
    pub poll: u32,
    /// So many turns of the runtime later.
    pub turns: u32,
    pub crash: bool,
    /// Whether CHeKT knows a request again by its idempotency key.
    pub idempotent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    Create,
    Adopt,
    Edit,
    NewUrl,
    NewSecret,
    Recover,
    Delete,
}

impl Story {
    pub const ALL: [Story; 7] = [
        Story::Create,
        Story::Adopt,
        Story::Edit,
        Story::NewUrl,
        Story::NewSecret,
        Story::Recover,
        Story::Delete,
    ];
}

/// What is done to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    EditEvents,
    EditUrl,
    EditSecret,
    LoseKeyring,
    AskForPass,
    Rotate,
    AskForTest,
    Suspend,
    Delete,
    DeleteAndMakeAnew,
    HandEditEvents,
    HandEditUrl,
    HandSwitchOff,
    HandDelete,
    FaultAtChekt,
    FaultOfCluster,
    Wait,
}

const DEEDS: [Deed; 17] = [
    Deed::EditEvents,
    Deed::EditUrl,
    Deed::EditSecret,
    Deed::LoseKeyring,
    Deed::AskForPass,
    Deed::Rotate,
    Deed::AskForTest,
    Deed::Suspend,
    Deed::Delete,
    Deed::DeleteAndMakeAnew,
    Deed::HandEditEvents,
    Deed::HandEditUrl,
    Deed::HandSwitchOff,
    Deed::HandDelete,
    Deed::FaultAtChekt,
    Deed::FaultOfCluster,
    Deed::Wait,
];

impl Script {
    pub fn seeded(seed: u64) -> Script {
        Script { seed, fixed: None }
    }

    pub fn fixed(fixed: Fixed) -> Script {
        Script {
            seed: u64::from(fixed.poll),
            fixed: Some(fixed),
        }
    }

    /// Runs it. What the engine does wrong is in the tally; an error is one of the twin itself.
    pub async fn run(self) -> anyhow::Result<Tally> {
        let mut run = Run {
            driver: Driver::new(self.seed).await?,
            wanted: Wanted::default(),
            given: BTreeSet::new(),
            received: true,
            struck_within: None,
            number: 0,
        };
        let outcome = match self.fixed {
            None => run.seeded().await,
            Some(fixed) => run.fixed(fixed).await,
        };
        let driver = &run.driver;
        driver.chekt.close();
        let mut tally = Tally {
            runs: 1,
            passes: driver.passes,
            dropped: driver.strokes.counts(),
            cancelled: driver.cancelled,
            crashed: driver.crashed,
            polls: run.struck_within.unwrap_or(driver.polls),
            failed: Vec::new(),
        };
        tally.dropped.remove(&Place::Nowhere);
        if let Err(why) = outcome {
            let what = match self.fixed {
                None => format!("TWIN_SEED={}", self.seed),
                Some(fixed) => format!("{fixed:?}"),
            };
            let story = run.driver.story.join("\n  ");
            tally.failed.push(format!("{what}: {why:#}\n  {story}"));
        }
        Ok(tally)
    }
}

struct Run {
    driver: Driver,
    wanted: Wanted,
    /// Names of webhooks with a url and a secret of the user's.
    given: BTreeSet<String>,
    /// Whether test deliveries come back.
    received: bool,
    /// How many polls the part of a story took in which it may be struck.
    struck_within: Option<u32>,
    number: u64,
}

impl Run {
    fn account(&self) -> anyhow::Result<()> {
        let api = &self.driver.api;
        let token = data_encoding::BASE64.encode(TOKEN.as_bytes());
        api.create(
            "secrets",
            json!({"metadata": {"name": "chekt-account", "namespace": USERS}, "data": {"token": token}}),
        )?;
        let base = format!("http://{}", self.driver.chekt.address);
        let auth = json!({"accessToken": {"secretRef": {"name": "chekt-account", "key": "token"}}});
        let limit = json!({"requestsPerMinute": 60_000, "burst": 1_000});
        api.create(
            "chektaccounts",
            json!({
                "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount",
                "metadata": {"name": "default", "namespace": USERS},
                "spec": {"baseURL": base, "auth": auth, "rateLimit": limit},
            }),
        )?;
        Ok(())
    }

    fn derived(name: &str) -> String {
        format!("{PUBLIC}/webhooks/{USERS}/{name}")
    }

    fn fresh(&mut self, what: &str) -> String {
        self.number += 1;
        format!("{what}-{}", self.number)
    }

    fn write_secret(&mut self, name: &str) -> anyhow::Result<String> {
        let text = self.fresh("a secret of the user's");
        let data = json!({"data": {"hmac": data_encoding::BASE64.encode(text.as_bytes())}});
        let api = &self.driver.api;
        let secret = format!("{name}-secret");
        if api.get("secrets", USERS, &secret).is_some() {
            api.edit("secrets", USERS, &secret, data)?;
        } else {
            let mut object = data;
            object["metadata"] = json!({"name": secret, "namespace": USERS});
            api.create("secrets", object)?;
        }
        Ok(text)
    }

    fn some_events(dice: &mut Dice) -> BTreeSet<String> {
        let mut events = BTreeSet::from([(*dice.of(&EVENTS)).to_owned()]);
        for _ in 0..dice.below(3) {
            events.insert((*dice.of(&EVENTS)).to_owned());
        }
        events
    }

    /// Creates a webhook, with a url and a secret of the user's, or with neither.
    fn make(&mut self, name: &str, given: bool, tested: bool) -> anyhow::Result<()> {
        let events = Self::some_events(&mut self.driver.dice);
        let mut spec = json!({
            "events": events, "testPolicy": if tested { "OnChange" } else { "Never" },
            "recovery": {"cooldown": "10s"},
        });
        let (mut url, mut secret) = (Self::derived(name), None);
        if given {
            let path = self.fresh("hook");
            url = format!("{PUBLIC}/elsewhere/{path}");
            secret = Some(self.write_secret(name)?);
            spec["url"] = json!(url);
            spec["secretRef"] = json!({"name": format!("{name}-secret"), "key": "hmac"});
            self.given.insert(name.to_owned());
        }
        self.driver.tell(format_args!("create {name}: {spec}"));
        self.driver.api.create(
            "chektwebhooks",
            json!({
                "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
                "metadata": {"name": name, "namespace": USERS}, "spec": spec,
            }),
        )?;
        let wanted = WantedWebhook {
            url,
            events,
            secret,
        };
        self.wanted.webhooks.insert(name.to_owned(), wanted);
        Ok(())
    }

    fn edit(&self, name: &str, patch: Value) -> anyhow::Result<()> {
        let api = &self.driver.api;
        api.edit("chektwebhooks", USERS, name, patch).map(|_| ())
    }

    fn delete(&mut self, name: &str) -> anyhow::Result<()> {
        self.driver.api.delete("chektwebhooks", USERS, name)?;
        self.wanted.webhooks.remove(name);
        self.given.remove(name);
        Ok(())
    }

    /// The id on record.
    fn recorded(&self, name: &str) -> Option<String> {
        let key = ("chektwebhooks", USERS, name);
        let id = |object: &Value| object["status"]["webhookID"].as_str().map(str::to_owned);
        self.driver.api.look(key, id).flatten()
    }

    /// One turn, and never two remote webhooks with one url, not even for a moment.
    async fn turn(&mut self, strike: Option<Strike>) -> anyhow::Result<()> {
        let before = self.driver.chekt.calls();
        self.driver.turn(strike).await?;
        let after = self.driver.chekt.calls();
        if after != before {
            let (lists, writes, tests) = (
                after.lists - before.lists,
                after.writes - before.writes,
                after.tests - before.tests,
            );
            self.driver.tell(format_args!(
                "{lists} lists, {writes} writes, {tests} tests"
            ));
            if tests > 0 && self.received {
                self.receive()?;
            }
            if writes > 0 {
                oracle::no_twins(&self.driver.chekt.live().await?)?;
            }
        }
        Ok(())
    }

    /// What the receiver does: it says which key verified a test delivery.
    fn receive(&mut self) -> anyhow::Result<()> {
        let api = &self.driver.api;
        let secrets: Vec<Secret> = api.all("secrets")?;
        for secret in secrets {
            let Ok(keyring) = Keyring::from_secret(&secret) else {
                continue;
            };
            let name = keyring.webhook.name.as_str();
            let (Some(key), Some(test)) = (&keyring.current, &keyring.test) else {
                continue;
            };
            let at = Time(conditions::whole_seconds(self.driver.clock.wall()));
            let seen = Deliveries {
                last_test_at: Some(at),
                last_test_key: Some(key.id.clone()),
                last_test_number: Some(test.number),
                ..Deliveries::default()
            };
            if api.get("chektwebhooks", USERS, name).is_some() {
                let key = ("chektwebhooks", USERS, name);
                api.apply_status(RECEIVER_MANAGER, key, &json!({"deliveries": seen}))?;
            }
        }
        Ok(())
    }

    async fn turns(&mut self, most: u64, crashes: bool) -> anyhow::Result<()> {
        for _ in 0..self.driver.dice.below(most) {
            let dice = &mut self.driver.dice;
            let strike = (!dice.one_in(3)).then(|| {
                let (at, turns) = if dice.one_in(2) {
                    (Moment::Write, dice.below(16))
                } else {
                    let poll = u32::try_from(1 + dice.below(60)).unwrap_or(1);
                    (Moment::Poll(poll), dice.below(14))
                };
                Strike {
                    at,
                    turns: u32::try_from(turns).unwrap_or_default(),
                    crash: crashes && dice.one_in(2),
                }
            });
            self.turn(strike).await?;
        }
        Ok(())
    }

    async fn seeded(&mut self) -> anyhow::Result<()> {
        self.account()?;
        let stranger = format!("{PUBLIC}/strangers");
        self.driver.chekt.add(&stranger, &["site.armed"]).await?;
        self.wanted.strangers.insert(stranger);
        let dice = &mut self.driver.dice;
        let crashes = !dice.one_in(3);
        let idempotent = dice.one_in(2);
        self.received = !dice.one_in(4);
        let names: &[&str] = if dice.one_in(3) {
            &["alarms", "sites"]
        } else {
            &["alarms"]
        };
        if !idempotent {
            let quirks = json!({"idempotency": "ignored"});
            self.driver.chekt.set_quirks(quirks).await?;
        }
        if self.driver.dice.one_in(4) {
            self.driver.tell("one is there with the derived url");
            let url = Self::derived("alarms");
            self.driver.chekt.add(&url, &["site.armed"]).await?;
        }
        for name in names {
            let dice = &mut self.driver.dice;
            // The one with the derived url must be derived, or nobody ever takes what was left there.
            let given = *name == "sites" && dice.one_in(2);
            let tested = dice.one_in(2);
            self.make(name, given, tested)?;
            self.turns(8, crashes).await?;
        }
        for _ in 0..=self.driver.dice.below(4) {
            let deed = *self.driver.dice.of(&DEEDS);
            let name = *self.driver.dice.of(names);
            self.act(deed, name)
                .await
                .with_context(|| format!("{deed:?} {name}"))?;
            self.turns(10, crashes).await?;
        }
        self.finish().await
    }

    async fn act(&mut self, deed: Deed, name: &str) -> anyhow::Result<()> {
        let id = self.recorded(name);
        let exists = self.wanted.webhooks.contains_key(name);
        let given = self.given.contains(name);
        let there = match &id {
            Some(id) => {
                let live = self.driver.chekt.live().await?;
                live.iter().any(|r| r.webhook_id == *id)
            }
            None => false,
        };
        self.driver.tell(format_args!("{deed:?} {name}"));
        match deed {
            Deed::EditEvents if exists => {
                let events = Self::some_events(&mut self.driver.dice);
                self.edit(name, json!({"spec": {"events": events}}))?;
                if let Some(wanted) = self.wanted.webhooks.get_mut(name) {
                    wanted.events = events;
                }
            }
            Deed::EditUrl if given => {
                let url = format!("{PUBLIC}/elsewhere/{}", self.fresh("hook"));
                self.edit(name, json!({"spec": {"url": url}}))?;
                if let Some(wanted) = self.wanted.webhooks.get_mut(name) {
                    wanted.url = url;
                }
            }
            Deed::EditSecret if given => {
                let secret = self.write_secret(name)?;
                if let Some(wanted) = self.wanted.webhooks.get_mut(name) {
                    wanted.secret = Some(secret);
                }
            }
            Deed::LoseKeyring if exists && id.is_some() => {
                let object = self.driver.api.get("chektwebhooks", USERS, name);
                let uid = object.map(|o| o["metadata"]["uid"].clone());
                let uid = uid.as_ref().and_then(Value::as_str).unwrap_or_default();
                let keyring = format!("chekt-keyring-{uid}");
                if let Err(why) =
                    self.driver
                        .api
                        .delete("secrets", super::driver::OPERATOR, &keyring)
                {
                    self.driver.tell(why);
                }
            }
            Deed::AskForPass if exists => {
                let token = self.fresh("token");
                let asked = json!({"chekt.com/reconcile-requested-at": token});
                self.edit(name, json!({"metadata": {"annotations": asked}}))?;
            }
            Deed::Rotate if exists => {
                let token = self.fresh("token");
                let asked = json!({"chekt.com/rotate-requested-at": token});
                self.edit(name, json!({"metadata": {"annotations": asked}}))?;
            }
            Deed::AskForTest if exists => {
                let token = self.fresh("token");
                let asked = json!({"chekt.com/test-requested-at": token});
                self.edit(name, json!({"metadata": {"annotations": asked}}))?;
            }
            Deed::Suspend if exists => {
                self.edit(name, json!({"spec": {"suspend": true}}))?;
                self.turns(6, true).await?;
                self.driver.tell(format_args!("resume {name}"));
                self.edit(name, json!({"spec": {"suspend": false}}))?;
            }
            // Before anything was sent, what was there with our url is not ours, and stays.
            Deed::Delete if exists && id.is_some() => self.delete(name)?,
            Deed::DeleteAndMakeAnew if exists && id.is_some() => {
                self.delete(name)?;
                while self.driver.api.get("chektwebhooks", USERS, name).is_some() {
                    self.turns(4, true).await?;
                    self.turn(None).await?;
                }
                let given = given || (name == "sites" && self.driver.dice.one_in(2));
                self.make(name, given, false)?;
            }
            Deed::HandEditEvents if there => {
                let change = json!({"events": ["site.armed"]});
                self.driver
                    .chekt
                    .edit(&id.unwrap_or_default(), change)
                    .await?;
            }
            Deed::HandEditUrl if there && exists => {
                let url = format!("{PUBLIC}/{}", self.fresh("hand"));
                let change = json!({"url": url});
                self.driver
                    .chekt
                    .edit(&id.unwrap_or_default(), change)
                    .await?;
            }
            Deed::HandSwitchOff if there => {
                let change = json!({"status": "disabled"});
                self.driver
                    .chekt
                    .edit(&id.unwrap_or_default(), change)
                    .await?;
            }
            Deed::HandDelete if there => {
                self.driver.chekt.vanish(&id.unwrap_or_default()).await?;
            }
            Deed::FaultAtChekt => {
                let dice = &mut self.driver.dice;
                let route = *dice.of(&["create", "patch", "delete", "list", "test", "any"]);
                let when = *dice.of(&["before", "after"]);
                let effects = [
                    json!("drop"),
                    json!({"status": 500}),
                    json!({"status": 503}),
                    json!({"status": 502, "html": true}),
                    json!({"status": 429, "retry_after": 2}),
                ];
                let (effect, times) = (dice.of(&effects).clone(), 1 + dice.below(3));
                // A 429 says that nothing was done.
                let when = if effect["status"] == 429 {
                    "before"
                } else {
                    when
                };
                let fault = json!({"route": route, "when": when, "effect": effect, "times": times});
                self.driver.tell(&fault);
                self.driver.chekt.set_faults(json!([fault])).await?;
            }
            Deed::FaultOfCluster => {
                let dice = &mut self.driver.dice;
                let all = [Mishap::Spared, Mishap::Refused, Mishap::AnswerLost];
                let mishaps: Vec<_> = (0..=dice.below(5)).map(|_| *dice.of(&all)).collect();
                self.driver.tell(format_args!("{mishaps:?}"));
                self.driver.api.set_mishaps(mishaps);
            }
            Deed::Wait => {
                let wait = Duration::from_secs(self.driver.dice.below(90));
                let end = self.driver.clock.now() + wait;
                while self.driver.next_due()? < end {
                    self.turn(None).await?;
                }
            }
            // Not with this webhook, as it is now.
            Deed::EditEvents
            | Deed::EditUrl
            | Deed::EditSecret
            | Deed::LoseKeyring
            | Deed::AskForPass
            | Deed::Rotate
            | Deed::AskForTest
            | Deed::Suspend
            | Deed::Delete
            | Deed::DeleteAndMakeAnew
            | Deed::HandEditEvents
            | Deed::HandEditUrl
            | Deed::HandSwitchOff
            | Deed::HandDelete => self.driver.tell("(not now)"),
        }
        Ok(())
    }

    /// Nothing disturbs the engine any more: in a limited time, with a limited number of calls, all is as it was asked
    /// for, and stays so without a write.
    async fn finish(&mut self) -> anyhow::Result<()> {
        self.driver.tell("left alone from now on");
        self.driver.chekt.set_faults(json!([])).await?;
        self.driver.api.set_mishaps(Vec::new());
        let (began, calls, passes) = (
            self.driver.clock.now(),
            self.driver.chekt.calls(),
            self.driver.passes,
        );
        loop {
            self.turn(None).await?;
            let now = self.driver.clock.now();
            let minutes = now.duration_since(began).as_secs() / 60;
            let made = self.driver.chekt.calls();
            let remote =
                made.lists + made.writes + made.tests - (calls.lists + calls.writes + calls.tests);
            anyhow::ensure!(
                remote <= 40 + 6 * minutes && self.driver.passes - passes <= 80 + 20 * minutes,
                "it loops hot: {remote} calls and {} passes in {minutes} minutes",
                self.driver.passes - passes
            );
            // A watch that lags may have something to show yet.
            if self.driver.next_due()? <= now + LAG || self.driver.is_landing() {
                continue;
            }
            let Driver { api, chekt, .. } = &self.driver;
            match oracle::judge(&self.wanted, api, chekt).await {
                Ok(()) => break,
                Err(why) if now.duration_since(began) > LIMIT => return Err(why),
                Err(_) => {}
            }
        }
        self.stay().await
    }

    async fn stay(&mut self) -> anyhow::Result<()> {
        self.driver.tell("all is as it was asked for");
        let before = self.driver.chekt.calls();
        let api = &self.driver.api;
        let writes =
            |api: &super::apiserver::ApiServer| api.writes("chektwebhooks") + api.writes("secrets");
        let written = writes(api);
        let end = self.driver.clock.now() + STILL;
        while self.driver.next_due()? < end {
            self.turn(None).await?;
        }
        let after = self.driver.chekt.calls();
        let lists = after.lists - before.lists;
        anyhow::ensure!(
            after.writes == before.writes && lists <= 10,
            "it rests and does not: {lists} lists, {} writes",
            after.writes - before.writes
        );
        // A key that has run out goes. A test delivery that does not come back is told, and asked for once more.
        let more = writes(&self.driver.api) - written;
        let few = 4 * u64::try_from(self.wanted.webhooks.len())?;
        anyhow::ensure!(more <= few, "it rests and writes {more} times");
        let Driver { api, chekt, .. } = &self.driver;
        oracle::judge(&self.wanted, api, chekt).await
    }

    async fn fixed(&mut self, fixed: Fixed) -> anyhow::Result<()> {
        let Fixed {
            story,
            poll,
            turns,
            crash,
            idempotent,
        } = fixed;
        self.account()?;
        if !idempotent {
            let quirks = json!({"idempotency": "ignored"});
            self.driver.chekt.set_quirks(quirks).await?;
        }
        if story == Story::Adopt {
            let url = Self::derived("alarms");
            self.driver.chekt.add(&url, &["site.armed"]).await?;
        }
        let given = matches!(story, Story::NewUrl | Story::NewSecret);
        self.make("alarms", given, true)?;
        if !matches!(story, Story::Create | Story::Adopt) {
            self.rest(None).await?;
            let deed = match story {
                Story::Edit => {
                    // More than it was made with, whatever that was.
                    let events = EVENTS.map(str::to_owned);
                    self.edit("alarms", json!({"spec": {"events": events}}))?;
                    if let Some(wanted) = self.wanted.webhooks.get_mut("alarms") {
                        wanted.events = events.into();
                    }
                    Deed::AskForPass
                }
                Story::NewUrl => Deed::EditUrl,
                Story::NewSecret => Deed::EditSecret,
                Story::Recover => Deed::HandSwitchOff,
                Story::Create | Story::Adopt | Story::Delete => Deed::Delete,
            };
            self.act(deed, "alarms").await?;
        }
        let first = self.driver.polls;
        self.rest(Some((poll, turns, crash))).await?;
        self.struck_within = Some(self.driver.polls - first);
        self.finish().await
    }

    /// Turns until all is as it was asked for. The strike comes after so many polls, in whichever pass that is.
    async fn rest(&mut self, strike: Option<(u32, u32, bool)>) -> anyhow::Result<()> {
        let first = self.driver.polls;
        let end = self.driver.clock.now() + LIMIT;
        loop {
            let now = strike.and_then(|(poll, turns, crash)| {
                let poll = (first + poll).checked_sub(self.driver.polls)?;
                let at = Moment::Poll(poll);
                (poll > 0).then_some(Strike { at, turns, crash })
            });
            self.turn(now).await?;
            let now = self.driver.clock.now();
            let Driver { api, chekt, .. } = &self.driver;
            let judged = oracle::judge(&self.wanted, api, chekt).await;
            let is_still = self.driver.next_due()? > now + LAG && !self.driver.is_landing();
            if is_still && judged.is_ok() {
                return Ok(());
            }
            anyhow::ensure!(now < end, "{judged:?}");
        }
    }
}
