//! One webhook, from the object to the Event of a test delivery.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::report::Report;
use super::{Ask, PATIENCE, VerifyArgs};
use crate::checkup::delivery::{self, Mark, Progress};
use crate::checkup::path::{Answered, Handshake};
use crate::checkup::probe::{self, Arrival};
use crate::checkup::remote::{self, Asked};
use crate::checkup::{Finding, Outcome, Step, object, path, verdict};
use crate::cluster::{ClusterError, within, write};
use crate::controller::commands::Reached;
use crate::controller::commands::trial::{self, LOOK};
use crate::delivery::Kind;
use crate::delivery::event::{EVENT, UNREADABLE};
use crate::delivery::probe::Probe;
use crate::ops::clock::Clock;
use crate::reach::{self, Place};
use crate::resources::account::AccountName;
use crate::resources::reasons::Reason;
use crate::resources::remote::is_loopback;
use crate::resources::{ChektAccount, ChektWebhook};
use crate::webhook::health::{self, State};

/// How long an acknowledged delivery may take to become an Event.
const PUBLISHED: Duration = Duration::from_secs(15);
/// How long a probe may take to show that the receiver did not answer.
const UNANSWERED: Duration = Duration::from_secs(3);
/// How long a list of Events may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Everything that the steps share.
struct Checkup<'a> {
    client: &'a Client,
    args: &'a VerifyArgs,
    webhooks: Api<ChektWebhook>,
    clock: Clock,
    report: Report,
}

/// Looks at a webhook, step by step. Gives back the exit code.
pub async fn verify(
    client: &Client,
    args: &VerifyArgs,
    namespace: &str,
    name: &str,
) -> anyhow::Result<u8> {
    let clock = Clock::machine();
    let webhooks: Api<ChektWebhook> = Api::namespaced(client.clone(), namespace);
    let began = clock.now();
    let found = write::latest(&webhooks, name).await?;
    let url = found.as_ref().and_then(|w| {
        w.status
            .as_ref()
            .and_then(|s| s.url.clone())
            .or_else(|| w.spec.url.clone())
    });
    let full = format!("{namespace}/{name}");
    let title = match &url {
        Some(url) => format!("ChektWebhook {full}, {url}"),
        None => format!("ChektWebhook {full}"),
    };
    let about = json!({"webhook": full, "url": url});
    let mut checkup = Checkup {
        client,
        args,
        webhooks,
        report: Report::begin(args.output, &clock, &title, about),
        clock,
    };
    checkup.report.start_at(began);
    match found {
        None => checkup.absent(&full),
        Some(webhook) => checkup.all(webhook, url.as_deref()).await?,
    }
    let concluded = verdict::of_webhook(&checkup.report.findings());
    checkup.report.conclude(&concluded)
}

impl Checkup<'_> {
    fn absent(&mut self, full: &str) {
        self.report.add(Finding::failed(
            Step::Webhook,
            format!("ChektWebhook {full} does not exist"),
            "see which there are: kubectl get cwh -A",
        ));
    }

    async fn all(&mut self, webhook: ChektWebhook, url: Option<&str>) -> anyhow::Result<()> {
        self.report.add(object::webhook(&webhook));
        let account = self.account(&webhook).await?;
        self.report.start();
        let asked = self.ask(&webhook, account.as_ref()).await?;
        let off = object::is_off(&webhook);
        self.report.add(remote::judge(&webhook, &asked, off));
        self.path(&webhook, url).await?;
        let before = self.events(&webhook).await;
        let arrived = self.delivery(&webhook).await?;
        self.event(&webhook, before.as_ref(), arrived.as_ref())
            .await;
        let latest = write::latest(&self.webhooks, &webhook.name_any()).await?;
        let unreadable = self.unreadable(&webhook).await;
        self.report.add(object::journal(
            latest.as_ref().unwrap_or(&webhook),
            unreadable,
        ));
        Ok(())
    }

    /// The account that a webhook is with, or is to be with.
    async fn account(
        &mut self,
        webhook: &ChektWebhook,
    ) -> anyhow::Result<Option<(AccountName, ChektAccount)>> {
        let on_record = webhook.status.as_ref().and_then(|s| s.account.as_deref());
        let name = match on_record {
            Some(name) => name.parse()?,
            None => AccountName {
                namespace: webhook
                    .spec
                    .account_ref
                    .namespace
                    .clone()
                    .or_else(|| webhook.namespace())
                    .unwrap_or_default(),
                name: webhook.spec.account_ref.name.clone(),
            },
        };
        let accounts: Api<ChektAccount> = Api::namespaced(self.client.clone(), &name.namespace);
        let account = match write::latest(&accounts, &name.name).await {
            Ok(account) => account,
            Err(ClusterError::Forbidden(_)) => {
                let why = format!("you may not read ChektAccount {name}");
                self.report.add(Finding::skipped(Step::Account, why));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        self.report
            .add(object::account(&name.to_string(), account.as_ref()));
        Ok(account.map(|account| (name, account)))
    }

    /// What CHeKT shows of the remote webhook, if it is to be and can be asked.
    async fn ask(
        &self,
        webhook: &ChektWebhook,
        account: Option<&(AccountName, ChektAccount)>,
    ) -> anyhow::Result<Asked> {
        let not_asked = |why: &str| match self.args.ask_chekt {
            Ask::Always => Asked::Refused(why.to_owned()),
            Ask::Auto | Ask::Never => Asked::NotAsked(why.to_owned()),
        };
        let id = webhook
            .status
            .as_ref()
            .and_then(|s| s.webhook_id.as_deref());
        let (Some((key, account)), Some(id)) = (account, id) else {
            return Ok(not_asked("the account cannot be read"));
        };
        if self.args.ask_chekt == Ask::Never {
            return Ok(not_asked("--ask-chekt=never"));
        }
        let insecure = self.args.allow_insecure_partner;
        let reached = match Reached::through(self.client, key, account.clone(), insecure).await {
            Ok(Ok(reached)) => reached,
            // In its own words it speaks of the operator's rights, and these are yours.
            Ok(Err(problem)) if problem.reason == Reason::Forbidden => {
                return Ok(not_asked("you may not read the account's credentials"));
            }
            Ok(Err(problem)) => return Ok(not_asked(&problem.message)),
            Err(error) => return Err(error),
        };
        if let Err(error) = reached.list().await {
            return Ok(not_asked(&format!("{error:#}")));
        }
        let shown = reached.connection.roster().get(id).cloned();
        let off = shown
            .as_ref()
            .is_some_and(|r| health::state(r) == State::Off);
        Ok(Asked::Shown(shown, off))
    }

    /// The way that a delivery takes, as far as it can be seen from here.
    async fn path(&mut self, webhook: &ChektWebhook, url: Option<&str>) -> anyhow::Result<()> {
        let steps = [Step::Dns, Step::Tcp, Step::Tls, Step::Answer, Step::Probe];
        let Some(place) = url.and_then(Place::of) else {
            self.skip_all(&steps, "there is no url yet");
            return Ok(());
        };
        self.report.start();
        let (resolution, addresses) = reach::resolve(&place, PATIENCE).await;
        if !self.seen(path::dns(&place.host, &resolution)) && addresses.is_empty() {
            self.skip_all(&steps[1..], "the host has no address");
            return Ok(());
        }
        let (connections, first) = reach::connect(&addresses, PATIENCE).await;
        self.seen(path::tcp(&connections));
        let Some(address) = first else {
            self.skip_all(&steps[2..], "there is no connection");
            return Ok(());
        };
        let handshake = if place.is_tls() {
            reach::handshake(&place, address, PATIENCE).await
        } else {
            Handshake::Plain {
                loopback: is_loopback(&place.url),
            }
        };
        let finding = path::tls(&place.host, &handshake, self.clock.wall());
        self.seen(finding);
        match handshake {
            Handshake::Failed(_) | Handshake::TimedOut => {
                self.skip_all(&steps[3..], "there is no connection");
            }
            // Who stands behind a certificate that is not accepted is worth knowing, too.
            Handshake::Plain { .. } | Handshake::Done(_) => {
                self.probe(webhook, &place, address).await?;
            }
        }
        Ok(())
    }

    /// Sends a request, and looks who answers and what the receiver saw of it.
    async fn probe(
        &mut self,
        webhook: &ChektWebhook,
        place: &Place,
        address: SocketAddr,
    ) -> anyhow::Result<()> {
        if object::received_elsewhere(webhook) {
            let answered = reach::ask(place, address, None).await;
            self.seen(path::answer(&answered, true, &Arrival::nothing()));
            self.skip(
                Step::Probe,
                "deliveries go to a url that is not this operator's",
            );
            return Ok(());
        }
        let namespace = webhook.namespace().unwrap_or_default();
        let full = format!("{namespace}/{}", webhook.name_any());
        let id = uuid::Uuid::new_v4().simple().to_string();
        let probe = Probe::new(&id, &full).context("an id is 32 hexadecimal digits")?;
        let before = write::latest(&self.webhooks, &webhook.name_any()).await?;
        let before = Mark::of(before.as_ref().unwrap_or(webhook));
        let answered = reach::ask(place, address, Some(&probe)).await;
        let arrival = self.arrival(webhook, &id, &answered, &before).await?;
        self.seen(path::answer(&answered, false, &arrival));
        self.seen(probe::judge(&answered, &arrival, place.url.path()));
        Ok(())
    }

    /// Waits until the status shows a probe, at most for `--timeout` if our receiver has answered.
    async fn arrival(
        &self,
        webhook: &ChektWebhook,
        id: &str,
        answered: &Answered,
        before: &Mark,
    ) -> anyhow::Result<Arrival> {
        let limit = match answered {
            Answered::With(answer) if answer.ours => self.args.timeout,
            // The receiver may have got it all the same, and then says so at once.
            _ => self.args.timeout.min(UNANSWERED),
        };
        let began = self.clock.now();
        loop {
            let latest = write::latest(&self.webhooks, &webhook.name_any()).await?;
            let latest = latest.context("the webhook was deleted meanwhile")?;
            let seen = latest.status.as_ref().and_then(|s| s.deliveries.as_ref());
            let mut probes = seen.iter().flat_map(|d| &d.probes);
            if let Some(probe) = probes.find(|probe| probe.id == id) {
                let from = probe.from.as_deref().and_then(reach::scope_of);
                let probe = probe.clone();
                return Ok(Arrival::Seen { probe, from });
            }
            let refused = Mark::of(&latest).refused;
            let refused = refused.filter(|now| before.refused.as_ref() != Some(now));
            let refused = refused.map(|(_, why)| why);
            let unseen = Arrival::Unseen { refused };
            let waited = self.clock.now().saturating_duration_since(began);
            if waited >= limit || unseen.unreadable().is_some() {
                return Ok(unseen);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes in what was seen of the way; whether it may be gone on.
    fn seen(&mut self, finding: Finding) -> bool {
        let goes_on = finding.lets_go_on();
        self.report.add(if self.args.from_inside {
            finding.seen_from_inside()
        } else {
            finding
        });
        goes_on
    }

    fn skip(&mut self, step: Step, why: &str) {
        self.report.add(Finding::skipped(step, why));
    }

    fn skip_all(&mut self, steps: &[Step], why: &str) {
        for step in steps {
            self.skip(*step, why);
        }
    }

    /// Has a test delivery made, and waits for it. Gives back the webhook as it was when it had arrived.
    async fn delivery(&mut self, webhook: &ChektWebhook) -> anyhow::Result<Option<ChektWebhook>> {
        self.report.start();
        if let Some(finding) = delivery::hindrance(webhook) {
            self.report.add(finding);
            return Ok(None);
        }
        let broken = self
            .report
            .findings()
            .into_iter()
            .find(|f| f.outcome == Outcome::Failed);
        if let Some(broken) = broken {
            let why = format!(
                "not made while {} fails: CHeKT counts each delivery that fails, and switches a webhook off after three",
                broken.step.name()
            );
            self.skip(Step::Delivery, &why);
            return Ok(None);
        }
        if self.args.no_test {
            self.report
                .add(delivery::on_record(webhook, "not made (--no-test)"));
            return Ok(None);
        }
        let limit = self.args.timeout;
        let trial = match trial::run(&self.webhooks, webhook, &self.clock, limit).await {
            Ok(trial) => trial,
            Err(ClusterError::Forbidden(_)) => {
                let why = "not made: you may not patch the webhook, which asks for it";
                self.report.add(delivery::on_record(webhook, why));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(seen) = trial.webhook else {
            anyhow::bail!("the webhook was deleted meanwhile");
        };
        let waited = format!("{} s", limit.as_secs());
        self.report.add(delivery::judge(&trial.progress, &waited));
        Ok((trial.progress == Progress::Arrived).then_some(seen))
    }

    /// The Event of the test delivery. `before` are those that were there; `None`: they may not be listed.
    async fn event(
        &mut self,
        webhook: &ChektWebhook,
        before: Option<&BTreeSet<String>>,
        arrived: Option<&ChektWebhook>,
    ) {
        self.report.start();
        let step = Step::Event;
        let Some(arrived) = arrived else {
            return self.skip(step, "no test delivery was made");
        };
        let Some(before) = before else {
            return self.skip(
                step,
                "you may not list events.events.k8s.io in this namespace",
            );
        };
        let began = self.clock.now();
        loop {
            let now = self.tests(webhook).await.unwrap_or_default();
            if let Some(new) = now.iter().find(|e| !before.contains(&e.name_any())) {
                let reason = new.reason.clone().unwrap_or_default();
                let said = format!("published as {reason} {}", new.name_any());
                return self.report.add(Finding::ok(step, said));
            }
            if self.clock.now().saturating_duration_since(began) >= PUBLISHED {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let at = Mark::of(arrived).arrived.map(|t| t.to_string());
        self.report.add(Finding::failed(
            step,
            format!(
                "the delivery of {} is acknowledged, and has not become an Event within {} s; it is kept in the journal",
                at.unwrap_or_default(),
                PUBLISHED.as_secs()
            ),
            "see the receiver's log, and that it may create events.events.k8s.io in this namespace",
        ));
    }

    /// The names of the Events of earlier test deliveries; `None`: they may not be listed.
    async fn events(&self, webhook: &ChektWebhook) -> Option<BTreeSet<String>> {
        let all = self.tests(webhook).await?;
        Some(all.iter().map(ResourceExt::name_any).collect())
    }

    async fn tests(&self, webhook: &ChektWebhook) -> Option<Vec<Event>> {
        let test = format!("{EVENT}=webhook.test");
        let all = self
            .list(webhook, &ListParams::default().labels(&test))
            .await?;
        let is_test = |e: &Event| e.reason.as_deref() == Some(Kind::WebhookTest.reason());
        Some(all.into_iter().filter(is_test).collect())
    }

    /// How many Events tell of dead letters; `None`: nobody knows.
    async fn unreadable(&self, webhook: &ChektWebhook) -> Option<usize> {
        let of = format!("reason={UNREADABLE}");
        let all = self
            .list(webhook, &ListParams::default().fields(&of))
            .await?;
        Some(all.len())
    }

    /// Events on a webhook. An error counts as not being allowed to look: the findings then say that nobody knows.
    async fn list(&self, webhook: &ChektWebhook, which: &ListParams) -> Option<Vec<Event>> {
        let namespace = webhook.namespace().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        match within(DEADLINE, events.list(which)).await {
            Ok(list) => {
                let on_it = |e: &Event| {
                    e.regarding.as_ref().and_then(|r| r.uid.as_deref()) == webhook.uid().as_deref()
                };
                Some(list.items.into_iter().filter(on_it).collect())
            }
            Err(error) => {
                tracing::debug!(%error, "events cannot be listed");
                None
            }
        }
    }
}
