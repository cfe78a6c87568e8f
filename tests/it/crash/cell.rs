//! A cell of the matrix: one scenario, from nothing to its end, with one kill on the way or with none.
//!
//! Cells take turns in a slot, which is a stage of its own: two namespaces, a sandbox, a receiver, an interceptor. The
//! controller is new in each cell, and so is the name of the webhook; what a cell leaves is removed by force.

use std::cell::{Cell as Shared, RefCell};
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::Context;
use chekt_operator::resources::conditions::{self, READY};
use chekt_operator::resources::{ChektAccount, ChektWebhook};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::scenario::Scenario;
use super::verdict::{self, Flaw, Flaws, Wanted};
use crate::harness::{
    Identity, Interceptor, Launch, Point, Process, Role, Stage, StageOptions, Strike, eventually,
};

/// How long a controller may take to be ready or to lead.
const READY_IN: Duration = Duration::from_secs(60);
/// How long a cell may take to settle. The longest way, a remote webhook that is made anew after a kill, waits for two
/// settle times and a cooldown of 10 s.
const SETTLED_IN: Duration = Duration::from_secs(90);
/// The pause between two looks. Longer than the harness has it, for many cells look at once.
const LOOK: Duration = Duration::from_millis(250);
/// For how long it must still be well after it was for the first time.
const STAYS: Duration = Duration::from_secs(1);
/// How long after a kill a test delivery may take that the dead process had noted and perhaps not asked for. Where none
/// was killed it comes at once.
const TESTED_IN: Duration = Duration::from_secs(90);
const TESTED_AT_ONCE: Duration = Duration::from_secs(5);
/// The lease of two controllers: the shortest that there is.
const LEASE_SECONDS: u32 = 3;
/// The Secret with the credentials of the account.
const CREDENTIALS: &str = "credentials";
/// How long two remote webhooks of one resource may be alive at once: the settle time of 5 s, after which a list shows
/// both, and as much again for the list and the DELETE.
const MOST_WITH_TWO: Duration = Duration::from_secs(10);

/// Where cells run, one after the other.
pub struct Slot {
    stage: Stage,
    wire: Interceptor,
    cells: Shared<usize>,
}

/// One cell.
pub struct Cell<'a> {
    slot: &'a Slot,
    name: String,
    /// The id at CHeKT of what was there before.
    first: RefCell<Option<String>>,
}

/// What became of a cell.
#[derive(Debug)]
pub struct Outcome {
    /// Which scenario.
    pub scenario: Scenario,
    /// Where the kill was to come.
    pub strike: Option<Strike>,
    /// The name of the call at which it came, if that call came.
    pub struck: Option<String>,
    /// The counted calls, up to the kill or to the end.
    pub calls: Vec<String>,
    /// What is wrong.
    pub flaws: Flaws,
    /// How long it took from the restart, or from what happened, until all was well.
    pub took: Duration,
    /// For how long two remote webhooks were alive.
    pub with_two: Duration,
}

impl Slot {
    /// A slot on free ports.
    pub async fn open() -> anyhow::Result<Slot> {
        let options = StageOptions {
            with_controller: false,
            ..StageOptions::default()
        };
        let stage = Stage::with("crash", options).await?;
        let wire = Interceptor::open(stage.users.plane, stage.sandbox.public()?).await?;
        Ok(Slot {
            stage,
            wire,
            cells: Shared::new(0),
        })
    }

    /// Runs one cell.
    ///
    /// # Errors
    /// When the harness cannot do its part. What the controller does wrong is in the outcome.
    pub async fn run(&self, scenario: Scenario, strike: Option<Strike>) -> anyhow::Result<Outcome> {
        self.cells.set(self.cells.get() + 1);
        let cell = Cell {
            slot: self,
            name: format!("alarms-{}", self.cells.get()),
            first: RefCell::default(),
        };
        let mark = self.stage.chekt.mark().await?;
        let mut controllers = self.start_controllers(scenario).await?;
        scenario
            .prepare(&cell)
            .await
            .with_context(|| tails(&controllers))?;
        self.stage.chekt.set_quirks(scenario.chekt_is()).await?;
        self.wire.count(strike);
        let happened = self.stage.chekt.mark().await?;
        scenario
            .happen(&cell)
            .await
            .with_context(|| tails(&controllers))?;
        let wanted = scenario.after(&cell);

        // Without a strike, or where the call does not come in this run, it ends well by itself.
        let ended = tokio::select! {
            () = self.wire.reached(), if strike.is_some() => None,
            ended = cell.end(&wanted, TESTED_AT_ONCE) => Some(ended?),
        };
        let calls = self.wire.calls();
        let mut struck = None;
        let (took, mut flaws) = if let Some(ended) = ended {
            ended
        } else {
            controllers[0].kill9()?;
            let killed = Instant::now();
            self.wire.clear().await;
            struck = self.struck(strike, &calls, happened).await?;
            // What the dead process said last is not to be taken for the word of the living one.
            if let [_, standby] = &controllers[..] {
                leads(standby).await?;
            } else {
                controllers[0].restart().await?;
                controllers[0].ready(READY_IN).await?;
            }
            if scenario == Scenario::DeleteWithoutCredentials {
                cell.put_credentials_when_asked().await?;
            }
            cell.end(&wanted, TESTED_IN.saturating_sub(killed.elapsed()))
                .await?
        };
        if flaws.is_empty() {
            flaws.extend(cell.is_received(&wanted).await?);
        }
        let ledger = self.stage.chekt.ledger(mark).await?;
        let with_two = verdict::longest_with_two(&ledger);
        if with_two > MOST_WITH_TWO {
            flaws.push((Flaw::Duplicate, format!("two were alive for {with_two:?}")));
        }
        let refused = verdict::refused(&ledger).into_iter();
        flaws.extend(refused.map(|refused| (Flaw::Loss, refused)));
        if !flaws.is_empty() {
            let writes = ledger.writes();
            println!(
                "{} {strike:?} at {struck:?}: {flaws:#?}\n{calls:#?}\n{writes:#?}\n{}",
                scenario.name(),
                tails(&controllers)
            );
        }
        drop(controllers);
        self.clean().await?;
        Ok(Outcome {
            scenario,
            strike,
            struck,
            calls,
            flaws,
            took,
            with_two,
        })
    }

    /// The name of the call at which the kill came. Where CHeKT's own books do not say that it was there and at no other
    /// call, the matrix would be worth nothing.
    async fn struck(
        &self,
        strike: Option<Strike>,
        calls: &[String],
        happened: u64,
    ) -> anyhow::Result<Option<String>> {
        let strike = strike.context("nothing was to be struck")?;
        let name = match strike.of {
            Some(of) => calls.iter().rfind(|call| *call == of),
            None => calls.get(strike.call - 1),
        };
        let name = name.context("a call that never came")?;
        if let Some(route) = name.strip_prefix("CHeKT ") {
            let had = self.stage.chekt.ledger(happened).await?.calls(route).len();
            let passed = calls.iter().filter(|call| *call == name).count();
            let passed = passed - usize::from(strike.point == Point::BeforeItLeaves);
            anyhow::ensure!(
                had == passed,
                "CHeKT had {had} calls of {passed} like {name}"
            );
        }
        Ok(Some(name.clone()))
    }

    async fn start_controllers(&self, scenario: Scenario) -> anyhow::Result<Vec<Process>> {
        let plane = self.stage.users.plane;
        let launch = Launch::new(Role::Controller)
            .env(
                "KUBECONFIG",
                self.wire.kubeconfig(plane, Identity::Admin)?.display(),
            )
            .flag("--public-url", self.stage.public_url()?)
            .flag("--operator-namespace", &self.stage.operator.namespace)
            .flag("--watch-namespace", &self.stage.users.namespace);
        if !scenario.has_standby() {
            let controller = Process::start(launch.flag("--leader-elect", false)).await?;
            controller.ready(READY_IN).await?;
            return Ok(vec![controller]);
        }
        let launch = launch.flag("--lease-duration", LEASE_SECONDS);
        // Only the first one is to be killed, so only its calls are counted.
        let mut past = launch.clone();
        past.env.clear();
        let past = past.env("KUBECONFIG", plane.kubeconfig(Identity::Admin).display());
        let leader = Process::start(launch).await?;
        leads(&leader).await?;
        let standby = Process::start(past).await?;
        standby.ready(READY_IN).await?;
        Ok(vec![leader, standby])
    }

    /// Removes what a cell leaves, finalizers or not: the next one begins with nothing.
    async fn clean(&self) -> anyhow::Result<()> {
        self.wire.clear().await;
        let users = &self.stage.users;
        remove_all(&users.webhooks(), "").await?;
        remove_all(&users.accounts(), "").await?;
        remove_all(&users.secrets(), "").await?;
        let keyrings = self.stage.operator.secrets();
        remove_all(&keyrings, "chekt.com/keyring").await?;
        let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(
            self.stage.operator.client.clone(),
            &self.stage.operator.namespace,
        );
        remove_all(&leases, "").await?;
        for webhook in self.stage.chekt.webhooks().await? {
            self.stage.chekt.delete_webhook(&webhook.webhook_id).await?;
        }
        self.stage.chekt.reset().await
    }
}

impl<'a> Cell<'a> {
    /// Where it runs.
    pub fn stage(&self) -> &'a Stage {
        &self.slot.stage
    }

    /// Between the controller and its servers.
    pub fn wire(&self) -> &'a Interceptor {
        &self.slot.wire
    }

    /// The name of the webhook.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of what was there before.
    pub fn first_id(&self) -> Option<String> {
        self.first.borrow().clone()
    }

    /// One remote webhook at the url of our receiver.
    pub fn derived(&self, events: &[&str]) -> Wanted {
        Wanted::one(&self.url(), events).received()
    }

    fn url(&self) -> String {
        // The receiver listens, or the stage had not begun.
        self.stage().derived_url(&self.name).unwrap_or_default()
    }

    /// Makes the account with its credentials: a client secret, or an access token.
    pub async fn make_account(&self, by_client_secret: bool) -> anyhow::Result<()> {
        self.put_credentials().await?;
        let auth = if by_client_secret {
            json!({"clientCredentials": {"secretRef": {"name": CREDENTIALS}}})
        } else {
            json!({"accessToken": {"secretRef": {"name": CREDENTIALS, "key": "token"}}})
        };
        let account: ChektAccount = serde_json::from_value(json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
            "spec": {
                "baseURL": self.wire().base_url(), "auth": auth,
                // Seldom, so that no list of the account's own comes between the counted calls.
                "syncInterval": "5m",
                "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
            },
        }))?;
        let accounts = self.stage().users.accounts();
        accounts.create(&PostParams::default(), &account).await?;
        Ok(())
    }

    /// Waits until it is ready.
    pub async fn account_is_ready(&self) -> anyhow::Result<()> {
        let users = &self.stage().users;
        users
            .account_condition("default", READY, "True", READY_IN)
            .await?;
        Ok(())
    }

    /// Makes the webhook, with this beside its events, or instead of them.
    pub async fn make_webhook(&self, more: Value) -> anyhow::Result<()> {
        let mut spec = json!({"events": ["alarm.triggered", "alarm.cleared"]});
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let webhook: ChektWebhook = serde_json::from_value(json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
            "metadata": {"name": self.name}, "spec": spec,
        }))?;
        let webhooks = self.stage().users.webhooks();
        webhooks.create(&PostParams::default(), &webhook).await?;
        Ok(())
    }

    /// Changes the webhook by a merge patch.
    pub async fn edit(&self, change: Value) -> anyhow::Result<()> {
        let webhooks = self.stage().users.webhooks();
        let parameters = PatchParams::default();
        webhooks
            .patch(&self.name, &parameters, &Patch::Merge(change))
            .await?;
        Ok(())
    }

    /// Deletes the webhook and does not wait for it to go.
    pub async fn delete(&self) -> anyhow::Result<()> {
        let webhooks = self.stage().users.webhooks();
        webhooks
            .delete(&self.name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Gives the user's signing secret this value.
    pub async fn put_secret(&self, value: &str) -> anyhow::Result<()> {
        self.apply_secret("signing", json!({"value": value})).await
    }

    /// Makes the Secret with the credentials.
    pub async fn put_credentials(&self) -> anyhow::Result<()> {
        let stage = self.stage();
        let data = json!({
            "token": stage.token, "client_id": stage.client_id, "client_secret": stage.client_secret,
        });
        self.apply_secret(CREDENTIALS, data).await
    }

    /// Deletes it.
    pub async fn remove_credentials(&self) -> anyhow::Result<()> {
        let secrets = self.stage().users.secrets();
        secrets
            .delete(CREDENTIALS, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// CHeKT switches the remote webhook off.
    pub async fn switch_off(&self) -> anyhow::Result<()> {
        let id = self.first_id().context("there is none yet")?;
        let off = json!({"status": "disabled"});
        self.stage().chekt.patch_webhook(&id, off).await
    }

    /// Somebody else has made a remote webhook with our url.
    pub async fn remote_of_a_stranger(&self) -> anyhow::Result<()> {
        let stage = self.stage();
        let url = format!("{}/partner/v1/webhooks", stage.chekt.base_url());
        let draft = json!({
            "url": self.url(), "events": ["site.armed"], "secret": "what only the stranger knows",
        });
        let http = reqwest::Client::builder().no_proxy().build()?;
        let request = http.post(url).bearer_auth(&stage.token).json(&draft);
        request.send().await?.error_for_status()?;
        self.note_id().await
    }

    /// Waits until all is well before anything happens.
    pub async fn is_settled(&self, wanted: &Wanted) -> anyhow::Result<()> {
        let flaws = self.settle(wanted, TESTED_IN).await?;
        anyhow::ensure!(flaws.is_empty(), "before anything happened: {flaws:?}");
        self.note_id().await
    }

    async fn note_id(&self) -> anyhow::Result<()> {
        let all = self.stage().chekt.webhooks().await?;
        *self.first.borrow_mut() = all.into_iter().next().map(|one| one.webhook_id);
        Ok(())
    }

    async fn apply_secret(&self, name: &str, data: Value) -> anyhow::Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data,
        });
        let secrets = self.stage().users.secrets();
        let parameters = PatchParams::apply("user").force();
        secrets
            .patch(name, &parameters, &Patch::Apply(secret))
            .await?;
        Ok(())
    }

    /// Waits until all is well, and gives back what is not in the end.
    async fn settle(&self, wanted: &Wanted, tested_in: Duration) -> anyhow::Result<Flaws> {
        let start = Instant::now();
        let mut untested_since = None;
        loop {
            let flaws = verdict::flaws(self, wanted).await?;
            if flaws.iter().any(|(flaw, _)| *flaw == Flaw::Untested) {
                untested_since.get_or_insert_with(Instant::now);
            } else {
                untested_since = None;
            }
            let untested = untested_since.is_some_and(|since| since.elapsed() > tested_in);
            if flaws.is_empty() || untested || start.elapsed() > SETTLED_IN {
                return Ok(flaws);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until all is well and stays so. Also gives how long the former took.
    ///
    /// It may be well for a moment by the word of a process that is dead: until the next one has looked.
    async fn end(&self, wanted: &Wanted, tested_in: Duration) -> anyhow::Result<(Duration, Flaws)> {
        let start = Instant::now();
        loop {
            let flaws = self.settle(wanted, tested_in).await?;
            let took = start.elapsed();
            if !flaws.is_empty() {
                return Ok((took, flaws));
            }
            tokio::time::sleep(STAYS).await;
            let flaws = verdict::flaws(self, wanted).await?;
            if flaws.is_empty() || start.elapsed() > SETTLED_IN {
                return Ok((took, flaws));
            }
        }
    }

    /// A process that was started without the credentials cannot delete anything: either it is done by now, or the object
    /// stays and says what it waits for, and the credentials are put back. One that says nothing is stuck in the end.
    async fn put_credentials_when_asked(&self) -> anyhow::Result<()> {
        let webhooks = self.stage().users.webhooks();
        let start = Instant::now();
        while let Some(object) = webhooks.get_opt(&self.name).await? {
            let status = object.status.unwrap_or_default();
            let ready = conditions::find(&status.conditions, READY);
            if ready.is_some_and(|c| c.status == "False" && c.message.contains(CREDENTIALS)) {
                return self.put_credentials().await;
            }
            if start.elapsed() > SETTLED_IN {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The secret is proved by use: an alarm that CHeKT signs with what it holds is verified by our receiver.
    async fn is_received(&self, wanted: &Wanted) -> anyhow::Result<Flaws> {
        if !matches!(wanted, Wanted::One(one) if one.is_received) {
            return Ok(Flaws::new());
        }
        let chekt = &self.stage().chekt;
        let data = json!({"alarm_id": self.name});
        let sent = chekt.emit("alarm.triggered", data).await?;
        if sent.len() != 1 {
            let why = format!("an alarm is delivered {} times", sent.len());
            return Ok(vec![(Flaw::Loss, why)]);
        }
        let delivered = chekt.delivered(&sent, READY_IN).await;
        let lost = delivered.err().map(|why| (Flaw::Loss, format!("{why:#}")));
        Ok(lost.into_iter().collect())
    }
}

/// Waits until a controller leads.
async fn leads(controller: &Process) -> anyhow::Result<()> {
    eventually("a controller to lead", READY_IN, async || {
        let metrics = controller.metrics().await?;
        let leads = metrics.lines().any(|l| l == "chekt_controller_leader 1");
        anyhow::ensure!(leads, "it does not");
        Ok(())
    })
    .await
}

fn tails(controllers: &[Process]) -> String {
    controllers.iter().map(Process::log_tail).collect()
}

/// Removes all objects of a namespace that have this label, whatever finalizers they have.
async fn remove_all<K>(api: &Api<K>, label: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let params = ListParams::default().labels(label);
    for object in api.list(&params).await?.items {
        let name = object.name_any();
        if !object.finalizers().is_empty() {
            let none = json!({"metadata": {"finalizers": null}});
            let patch = Patch::Merge(none);
            gone(
                api.patch(&name, &PatchParams::default(), &patch)
                    .await
                    .map(drop),
            )?;
        }
        gone(api.delete(&name, &DeleteParams::default()).await.map(drop))?;
    }
    Ok(())
}

/// Whoever is gone already is gone.
fn gone(outcome: kube::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(kube::Error::Api(refusal)) if refusal.code == 404 => Ok(()),
        other => Ok(other?),
    }
}
