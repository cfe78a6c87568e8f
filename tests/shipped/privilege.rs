//! Least privilege, in both directions: with the roles of the chart everything works, and without any one verb of them
//! exactly the stated thing fails, in words that name the verb. The table of it is in docs/rbac.md.
//!
//! Each lane is an operator of its own, as its Pod has it, under the chart's roles. Its rows take one verb away, do what
//! needs it, look for the sign, give the verb back, and see that it goes on by itself.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use chekt_operator::resources::RECONCILE_REQUESTED_AT;
use chekt_operator::resources::conditions::{READY, VERIFIED};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::harness::{Cluster, ControlPlane, Process, eventually};
use crate::helm;
use crate::scene::{SOON, Scene, metric};

/// Whose right it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Controller,
    Receiver,
}

/// Where it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// In the namespaces that are looked after.
    Users,
    /// In the operator's namespace.
    Own,
    /// In the cluster.
    Cluster,
}

/// What needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The process is started again.
    Start,
    /// The same, when there is no Lease yet.
    StartWithoutLease,
    /// A webhook is made.
    Make,
    /// A webhook is changed, and changed again: the second Event of its kind is a patch of the first.
    ChangeTwice,
    /// A webhook gets another secret.
    Rotate,
    /// A webhook is deleted.
    Delete,
    /// The same, by a process that was just started.
    StartAndDelete,
    /// An account is made, with a Secret of its own.
    Account,
    /// An alarm is triggered.
    Alarm,
    /// A webhook is touched again and again, faster than its passes come to their end.
    Hurry,
    /// Somebody lets others use an account by the labels of their namespaces.
    Select,
}

/// How one learns of it. Wherever it is, the API server's own words are in it: who may not do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// `/readyz` of the process, under this gate.
    NotReady(&'static str),
    /// A line of the process's log, with this message.
    Log(&'static str),
    /// Ready False of the webhook, with this reason.
    Webhook(&'static str),
    /// Ready False of the account, with this reason.
    Account(&'static str),
}

/// What becomes of alarms meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarms {
    /// They become Events as ever.
    Arrive,
    /// They are answered with 200 and become Events once the right is back.
    Wait,
    /// They are answered with 503 until the receiver has read its keys.
    Refused,
}

/// A verb.
struct Row {
    who: Who,
    place: Place,
    resource: &'static str,
    verb: &'static str,
    why: &'static str,
    without: &'static str,
    act: Act,
    sign: Sign,
    alarms: Alarms,
}

macro_rules! rows {
    ($($who:ident $place:ident $resource:literal $verb:literal: $why:literal; $without:literal; $act:ident => $sign:ident($said:literal), $alarms:ident.)*) => {
        &[$(Row {
            who: Who::$who, place: Place::$place, resource: $resource, verb: $verb, why: $why, without: $without,
            act: Act::$act, sign: Sign::$sign($said), alarms: Alarms::$alarms,
        }),*]
    };
}

#[rustfmt::skip]
const ROWS: &[Row] = rows! {
    Controller Users "chektaccounts.chekt.com" "get": "Read an account right before it is held for a webhook or its orphans are written"; "A webhook of an account that nothing holds yet is not made"; Make => Webhook("Forbidden"), Arrive.
    Controller Users "chektaccounts.chekt.com" "list": "Know the accounts"; "The controller does not begin"; Start => NotReady("kinds"), Arrive.
    Controller Users "chektaccounts.chekt.com" "watch": "Notice changes of accounts"; "They are noticed by listing again, ever less often"; Start => Log("a watch broke off and is tried again"), Arrive.
    Controller Users "chektaccounts.chekt.com" "patch": "Keep an account in the cluster while webhooks are with it, by a finalizer"; "A webhook of an account that nothing holds yet is not made"; Make => Webhook("Forbidden"), Arrive.
    Controller Users "chektaccounts.chekt.com/status" "patch": "Say how an account is, and what was left behind at CHeKT"; "The status stays as it was, or empty"; Account => Log("the pass over an account could not be finished"), Arrive.
    Controller Users "chektwebhooks.chekt.com" "get": "Read a webhook whose watch is behind the controller's own last write, so that nothing is done twice"; "Its next pass waits until the watch has come on"; Hurry => Log("the pass could not be finished"), Arrive.
    Controller Users "chektwebhooks.chekt.com" "list": "Know the webhooks"; "The controller does not begin"; Start => NotReady("kinds"), Arrive.
    Controller Users "chektwebhooks.chekt.com" "watch": "Notice changes of webhooks, and that a test delivery has come back"; "They are noticed by listing again, ever less often"; Start => Log("a watch broke off and is tried again"), Arrive.
    Controller Users "chektwebhooks.chekt.com" "patch": "Keep a webhook in the cluster until it is gone at CHeKT, by a finalizer"; "No webhook is made, and none that is being deleted goes"; Make => Webhook("Forbidden"), Arrive.
    Controller Users "chektwebhooks.chekt.com/status" "patch": "Say how a webhook is, and put its id on record"; "The status stays as it was, or empty; the webhook is made at CHeKT, once, and works"; Make => Log("the pass could not be finished"), Arrive.
    Controller Users "secrets" "get": "Read the credentials of accounts and the secrets that webhooks name"; "An account is not connected, a webhook that names a secret is not made; nothing is let go of"; Account => Account("Forbidden"), Arrive.
    Controller Users "secrets" "list": "Notice changes of these Secrets: their metadata are listed"; "They are noticed when the account or the webhook is looked at for another reason"; Start => Log("a watch broke off and is tried again"), Arrive.
    Controller Users "secrets" "watch": "Notice changes of these Secrets: their metadata are watched"; "They are noticed by listing again, ever less often"; Start => Log("a watch broke off and is tried again"), Arrive.
    Controller Users "events.events.k8s.io" "create": "Tell of transitions, such as `Created`"; "There are no Events but those of deliveries"; Make => Log("an Event about a transition could not be published; the next ones that cannot are only counted"), Arrive.
    Controller Users "events.events.k8s.io" "patch": "Count the same transition within six minutes in one Event"; "Only its first occurrence is told"; ChangeTwice => Log("an Event about a transition could not be published; the next ones that cannot are only counted"), Arrive.
    Controller Cluster "customresourcedefinitions.apiextensions.k8s.io" "get": "See, before a webhook is deleted at CHeKT, whether its definition is being deleted; of the name `chektwebhooks.chekt.com` only"; "Whoever deletes the definition deletes every webhook at CHeKT"; StartAndDelete => Log("the definition of ChektWebhook may not be looked at, so whoever deletes it deletes every webhook at CHeKT: let the controller get customresourcedefinitions"), Arrive.
    Controller Cluster "namespaces" "list": "Let accounts choose by labels whose webhooks they serve (`allowedNamespaces.from: Selector`); only without `watchNamespaces`"; "Nobody is let in by labels"; Select => Webhook("AccountNotAllowed"), Arrive.
    Controller Cluster "namespaces" "watch": "Notice changes of these labels"; "They are noticed by listing again, ever less often"; Select => Log("the watch of namespaces broke off and is tried again"), Arrive.
    Controller Own "secrets" "get": "Read a keyring"; "Webhooks are not made, changed or deleted"; Make => Webhook("Forbidden"), Arrive.
    Controller Own "secrets" "list": "Notice changes of keyrings: their metadata are listed; and see which webhooks are with an account"; "They are noticed when the webhook is looked at for another reason; an account that is being deleted stays"; Start => Log("a watch broke off and is tried again"), Arrive.
    Controller Own "secrets" "watch": "Notice changes of keyrings: their metadata are watched"; "They are noticed by listing again, ever less often"; Start => Log("a watch broke off and is tried again"), Arrive.
    Controller Own "secrets" "create": "Make a keyring, and the Secret that the receiver's token ends with"; "No webhook is made, and the receiver of a new Pod is given no token"; Make => Webhook("Forbidden"), Arrive.
    Controller Own "secrets" "update": "Advance a rotation, and note each request before it is sent"; "Webhooks stay as they are"; Rotate => Webhook("Forbidden"), Arrive.
    Controller Own "secrets" "delete": "Remove the keyring of a webhook that is gone at CHeKT"; "The webhook stays in the cluster; at CHeKT it is gone"; Delete => Webhook("Forbidden"), Arrive.
    Controller Own "serviceaccounts/token" "create": "Give the receiver a token; of its service account only"; "The receiver has none once the last one has ended, within the hour; in a new Pod at once"; Start => NotReady("receiver-token"), Arrive.
    Controller Own "leases.coordination.k8s.io" "create": "Stand for election where nobody has yet"; "Nobody leads"; StartWithoutLease => NotReady("lease"), Arrive.
    Controller Own "leases.coordination.k8s.io" "get": "See who leads; the named Lease only"; "Nobody new leads"; Start => NotReady("lease"), Arrive.
    Controller Own "leases.coordination.k8s.io" "update": "Take the lead and keep it; the named Lease only"; "Nobody new leads"; Start => NotReady("lease"), Arrive.
    Receiver Users "chektwebhooks.chekt.com" "list": "Know which paths there are"; "The receiver does not begin"; Start => Log("the watch is broken; going on with what is known"), Refused.
    Receiver Users "chektwebhooks.chekt.com" "watch": "Notice new webhooks"; "They are noticed by listing again, within 5 s"; Start => Log("the watch is broken; going on with what is known"), Arrive.
    Receiver Users "chektwebhooks.chekt.com/status" "patch": "Say when deliveries arrived and which key verified them (`status.deliveries`)"; "Verified does not become True"; Make => Log("status.deliveries cannot be written; trying again"), Arrive.
    Receiver Users "events.events.k8s.io" "create": "Make an Event of each delivery"; "Deliveries of that namespace wait in the journal"; Alarm => Log("no Event can be made in this namespace; its deliveries wait in the journal"), Wait.
    Receiver Own "secrets" "list": "Read the keyrings"; "The receiver does not begin"; Start => Log("the watch is broken; going on with what is known"), Refused.
    Receiver Own "secrets" "watch": "Notice new keys"; "They are noticed by listing again, within 5 s"; Start => Log("the watch is broken; going on with what is known"), Arrive.
};

/// One rule for one verb on one resource, as the chart has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Atom {
    who: Who,
    place: Place,
    group: String,
    resource: String,
    verb: String,
    names: Vec<String>,
}

impl Atom {
    /// The resource as a row names it.
    fn named(&self) -> String {
        let (resource, sub) = self.split();
        let group = if self.group.is_empty() {
            String::new()
        } else {
            format!(".{}", self.group)
        };
        let sub = if sub.is_empty() {
            String::new()
        } else {
            format!("/{sub}")
        };
        format!("{resource}{group}{sub}")
    }

    fn split(&self) -> (&str, &str) {
        self.resource
            .split_once('/')
            .unwrap_or((&self.resource, ""))
    }

    fn is(&self, row: &Row) -> bool {
        (self.who, self.place, self.verb.as_str()) == (row.who, row.place, row.verb)
            && self.named() == row.resource
    }

    fn rule(&self) -> Value {
        let mut rule = json!({
            "apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb],
        });
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }
}

/// A role of the chart.
struct Role {
    object: Value,
    atoms: Vec<Atom>,
}

/// What the chart makes, and the roles in it.
struct Chart {
    objects: Vec<Value>,
    roles: Vec<Role>,
    controller: String,
    receiver: String,
}

/// What of the chart is about rights.
const KINDS: [&str; 5] = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
];

/// The service accounts of the Pod, and so of the controller, and of the receiver.
fn accounts(objects: &[Value]) -> anyhow::Result<(String, String)> {
    let workload = helm::object(objects, "Deployment")?;
    let account = &workload["spec"]["template"]["spec"]["serviceAccountName"];
    let args = helm::container(workload, "controller")?["args"].as_array();
    let mut args = args.into_iter().flatten().filter_map(Value::as_str);
    let receiver = args.find_map(|arg| arg.strip_prefix("--receiver-service-account="));
    Ok((
        account
            .as_str()
            .context("no account of the Pod")?
            .to_owned(),
        receiver.context("no account of the receiver")?.to_owned(),
    ))
}

/// Renders the chart, and takes the rights out of it.
async fn render(namespace: &str, values: &Value) -> anyhow::Result<Chart> {
    let (release, mut values) = (namespace.to_owned(), values.clone());
    values["publicUrl"] = json!("https://alarms.example.com");
    let rendering = tokio::task::spawn_blocking(move || helm::render_with(&release, &values));
    let mut objects = helm::objects(&rendering.await??)?;
    let (controller, receiver) = accounts(&objects)?;
    objects.retain(|object| KINDS.iter().any(|kind| object["kind"] == *kind));
    let text = |object: &Value, path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut roles = Vec::new();
    for binding in objects
        .iter()
        .filter(|o| text(o, "/kind").ends_with("RoleBinding"))
    {
        let of = |path| text(binding, path);
        let account = of("/subjects/0/name");
        let who = match account.as_str() {
            account if account == controller => Who::Controller,
            account if account == receiver => Who::Receiver,
            // Of `helm test`, which has an account of its own.
            _ if binding["metadata"]["annotations"]["helm.sh/hook"] == "test" => continue,
            other => anyhow::bail!("{} gives rights to {other}", of("/metadata/name")),
        };
        let object = objects
            .iter()
            .find(|o| {
                text(o, "/kind") == of("/roleRef/kind")
                    && text(o, "/metadata/name") == of("/roleRef/name")
                    && text(o, "/metadata/namespace") == of("/metadata/namespace")
            })
            .context("a binding without a role")?;
        let (name, place) = (
            text(object, "/metadata/name"),
            text(object, "/metadata/namespace"),
        );
        let place = match place.as_str() {
            "" if name.ends_with("-cluster") => Place::Cluster,
            own if own == namespace => Place::Own,
            _ => Place::Users,
        };
        let words = |rule: &Value, key: &str| -> Vec<String> {
            let words = rule[key].as_array().into_iter().flatten();
            words.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let mut atoms = Vec::new();
        for rule in object["rules"].as_array().into_iter().flatten() {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    for verb in words(rule, "verbs") {
                        atoms.push(Atom {
                            who,
                            place,
                            group: group.clone(),
                            resource: resource.clone(),
                            verb,
                            names: words(rule, "resourceNames"),
                        });
                    }
                }
            }
        }
        roles.push(Role {
            object: object.clone(),
            atoms,
        });
    }
    Ok(Chart {
        objects,
        roles,
        controller,
        receiver,
    })
}

/// Applies the roles and accounts of the chart.
async fn install(scene: &Scene, values: &Value) -> anyhow::Result<Chart> {
    let chart = render(&scene.operator.namespace, values).await?;
    let (users, rest): (Vec<_>, Vec<_>) = chart
        .objects
        .iter()
        .partition(|o| o["metadata"]["namespace"] == scene.users.namespace);
    for (cluster, objects) in [(&scene.users, users), (&scene.operator, rest)] {
        if !objects.is_empty() {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            cluster.apply(&list.to_string()).await?;
        }
    }
    Ok(chart)
}

/// An operator under the chart's roles.
struct Lane {
    scene: Scene,
    chart: Chart,
    receiver: Process,
    controller: Process,
    alarms: usize,
    rows: usize,
}

impl Lane {
    /// Starts it and sees everything work: made, verified, an alarm.
    async fn start(scene: Scene, values: &Value, flags: &[&str]) -> anyhow::Result<Lane> {
        let chart = install(&scene, values).await?;
        let credentials = scene.dir.join("credentials");
        std::fs::create_dir(&credentials)?;
        let receiver = Process::start(scene.receiver_with(&credentials)).await?;
        let identity = scene.identity(&chart.controller).await?;
        let controller = scene
            .controller(&identity, &receiver)?
            .flag("--receiver-service-account", &chart.receiver)
            .flag("--receiver-credentials", credentials.display())
            .args(flags);
        let controller = Process::start(controller).await?;
        let mut lane = Lane {
            scene,
            chart,
            receiver,
            controller,
            alarms: 0,
            rows: 0,
        };
        lane.works().await.with_context(|| lane.logs())?;
        Ok(lane)
    }

    async fn works(&mut self) -> anyhow::Result<()> {
        self.controller.ready(SOON).await?;
        self.receiver.ready(SOON).await?;
        self.scene.apply_account().await?;
        self.scene.apply_webhook("main", json!({})).await?;
        self.scene
            .users
            .webhook_condition("main", VERIFIED, "True", SOON)
            .await?;
        let alarm = self.next_alarm();
        self.scene.alarm(&alarm).await?;
        self.alarms_are_there().await
    }

    /// Deletes everything, and sees it go.
    async fn ends(&mut self) -> anyhow::Result<()> {
        let users = &self.scene.users;
        users
            .webhook_condition("main", VERIFIED, "True", SOON)
            .await?;
        users
            .kubectl(&["delete", "cwh,cacc", "--all", "--wait=false"])
            .await?
            .ok()?;
        eventually("all webhooks and accounts to be gone", SOON, || async {
            let left = users
                .kubectl(&["get", "cwh,cacc", "-o", "name"])
                .await?
                .ok()?;
            anyhow::ensure!(left.is_empty(), "{left}");
            Ok(())
        })
        .await?;
        let left = self.scene.chekt.webhooks().await?;
        anyhow::ensure!(left.is_empty(), "left at CHeKT: {left:?}");
        Ok(())
    }

    fn next_alarm(&mut self) -> String {
        self.alarms += 1;
        format!("a-{}", self.alarms)
    }

    async fn alarms_are_there(&self) -> anyhow::Result<()> {
        let users = &self.scene.users;
        users
            .events_with_reason("main", "AlarmTriggered", self.alarms, SOON)
            .await?;
        Ok(())
    }

    fn log_lines_about_watches(&self) -> Vec<String> {
        let mut lines = self.controller.log_lines();
        lines.retain(|line| line.contains("a watch broke off"));
        lines
    }

    fn logs(&self) -> String {
        self.controller.log_tail() + &self.receiver.log_tail()
    }

    /// Takes the verb of a row away, sees what is stated and nothing else, and gives it back.
    async fn try_row(&mut self, row: &Row) -> anyhow::Result<()> {
        self.rows += 1;
        let name = format!("row-{}", self.rows);
        let what = format!(
            "{:?} {:?} {} {}",
            row.who, row.place, row.resource, row.verb
        );
        let tried = self.row(row, &name).await;
        tried.with_context(|| format!("{what} ({name})\n{}", self.logs()))
    }

    async fn row(&mut self, row: &Row, name: &str) -> anyhow::Result<()> {
        self.prepare(row, name).await?;
        self.stop(row).await?;
        let before = self.process(row.who).log_lines().len();
        self.set(row, false).await?;
        self.act(row, name).await?;
        self.sign(row, name, before)
            .await
            .context("no sign of it")?;
        self.alarm_meanwhile(row)
            .await
            .context("alarms meanwhile")?;
        self.set(row, true).await?;
        self.goes_on(row, name)
            .await
            .context("with the right given back")
    }

    fn process(&self, who: Who) -> &Process {
        match who {
            Who::Controller => &self.controller,
            Who::Receiver => &self.receiver,
        }
    }

    /// What must be there before the right is taken away.
    async fn prepare(&self, row: &Row, name: &str) -> anyhow::Result<()> {
        match row.act {
            Act::ChangeTwice | Act::Hurry | Act::Rotate | Act::Delete | Act::StartAndDelete => {
                self.make(name).await?;
                self.is_ready(name).await
            }
            Act::Start
            | Act::StartWithoutLease
            | Act::Make
            | Act::Account
            | Act::Alarm
            | Act::Select => Ok(()),
        }
    }

    /// A webhook that has nothing to do with alarms, with an account of its own.
    async fn make(&self, name: &str) -> anyhow::Result<()> {
        self.scene
            .apply_account_in(&self.scene.users, name, json!({}))
            .await?;
        let spec = json!({"events": ["site.armed"], "accountRef": {"name": name}});
        self.scene.apply_webhook(name, spec).await
    }

    async fn is_ready(&self, name: &str) -> anyhow::Result<()> {
        self.scene
            .users
            .webhook_condition(name, READY, "True", SOON)
            .await?;
        Ok(())
    }

    async fn stop(&mut self, row: &Row) -> anyhow::Result<()> {
        let starts = match row.act {
            Act::Start | Act::StartWithoutLease | Act::StartAndDelete | Act::Select => true,
            Act::Make
            | Act::ChangeTwice
            | Act::Hurry
            | Act::Rotate
            | Act::Delete
            | Act::Account
            | Act::Alarm => false,
        };
        if starts {
            match row.who {
                Who::Controller => drop(self.controller.terminate(SOON).await?),
                Who::Receiver => self.receiver.kill9()?,
            }
        }
        Ok(())
    }

    async fn act(&mut self, row: &Row, name: &str) -> anyhow::Result<()> {
        let users = self.scene.users.clone();
        let change = async |events: Value| {
            let patch = json!({"spec": {"events": events}}).to_string();
            let args = ["patch", "cwh", name, "--type=merge", "-p", &patch];
            users.kubectl(&args).await?.ok()
        };
        match row.act {
            Act::Start => self.restart(row.who).await,
            Act::StartWithoutLease => {
                let (client, namespace) =
                    (&self.scene.operator.client, &self.scene.operator.namespace);
                let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
                leases
                    .delete("chekt-controller", &DeleteParams::default())
                    .await?;
                self.restart(row.who).await
            }
            Act::Make | Act::Account => self.make(name).await,
            Act::ChangeTwice => {
                change(json!(["site.armed", "site.disarmed"])).await?;
                self.is_ready(name).await?;
                users.events_with_reason(name, "Updated", 1, SOON).await?;
                change(json!(["site.armed"])).await?;
                self.is_ready(name).await
            }
            // Until it has met a store that is behind: see `sign`.
            Act::Hurry => Ok(()),
            Act::Rotate => {
                let rotate = "chekt.com/rotate-requested-at=now";
                users
                    .kubectl(&["annotate", "cwh", name, rotate])
                    .await?
                    .ok()?;
                Ok(())
            }
            Act::Delete => {
                users
                    .kubectl(&["delete", "cwh", name, "--wait=false"])
                    .await?
                    .ok()?;
                Ok(())
            }
            Act::StartAndDelete => {
                self.restart(row.who).await?;
                self.controller.ready(SOON).await?;
                users
                    .kubectl(&["delete", "cwh", name, "--wait=false"])
                    .await?
                    .ok()?;
                Ok(())
            }
            Act::Alarm => {
                let alarm = self.next_alarm();
                self.scene.alarm(&alarm).await
            }
            Act::Select => {
                self.restart(row.who).await?;
                let (own, labels) = (
                    &self.scene.operator,
                    json!({"kubernetes.io/metadata.name": users.namespace}),
                );
                let allowed = json!({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": labels}}});
                self.scene.apply_account_in(own, name, allowed).await?;
                let account = json!({"name": name, "namespace": own.namespace});
                let spec = json!({"events": ["site.armed"], "accountRef": account});
                self.scene.apply_webhook(name, spec).await
            }
        }
    }

    async fn restart(&mut self, who: Who) -> anyhow::Result<()> {
        match who {
            Who::Controller => self.controller.restart().await,
            Who::Receiver => self.receiver.restart().await,
        }
    }

    /// Waits for the sign, with the API server's own words in it.
    async fn sign(&self, row: &Row, name: &str, before: usize) -> anyhow::Result<()> {
        let (resource, sub) = row.resource.split_once('/').unwrap_or((row.resource, ""));
        let (resource, _) = resource.split_once('.').unwrap_or((resource, ""));
        let sub = if sub.is_empty() {
            String::new()
        } else {
            format!("/{sub}")
        };
        let words = format!("cannot {} resource \"{resource}{sub}\"", row.verb);
        let process = self.process(row.who);
        let mut touched = 0;
        eventually(&words, SOON, async || {
            if row.act == Act::Hurry {
                for _ in 0..20 {
                    touched += 1;
                    let value = format!("{name}-{touched}");
                    let patch =
                        json!({"metadata": {"annotations": {RECONCILE_REQUESTED_AT: value}}});
                    let (api, patch) = (self.scene.users.webhooks(), Patch::Merge(&patch));
                    api.patch(name, &PatchParams::default(), &patch).await?;
                }
            }
            let seen = match row.sign {
                Sign::NotReady(gate) => {
                    let url = format!("http://{}/readyz", process.ops()?);
                    let text = reqwest::get(url).await?.text().await?;
                    let gate = format!("{gate}: ");
                    let lines = text.lines().filter(|line| line.contains(&gate));
                    lines.map(str::to_owned).collect::<Vec<_>>()
                }
                Sign::Log(message) => {
                    let lines = process.log_lines();
                    let lines = lines.iter().skip(before).filter_map(|line| {
                        let line: Value = serde_json::from_str(line).ok()?;
                        let fields = line.as_object()?.clone();
                        (fields.get("message")? == message).then(|| {
                            let texts = fields.values().filter_map(Value::as_str);
                            texts.collect::<Vec<_>>().join(" ")
                        })
                    });
                    lines.collect()
                }
                Sign::Webhook(reason) => {
                    let found = self.scene.users.webhooks().get(name).await?;
                    let all = found.status.map(|s| s.conditions).unwrap_or_default();
                    let ready = all
                        .into_iter()
                        .filter(|c| c.type_ == READY && c.reason == reason);
                    ready.map(|c| c.message).collect()
                }
                Sign::Account(reason) => {
                    let found = self.scene.users.accounts().get(name).await?;
                    let all = found.status.map(|s| s.conditions).unwrap_or_default();
                    let ready = all
                        .into_iter()
                        .filter(|c| c.type_ == READY && c.reason == reason);
                    ready.map(|c| c.message).collect()
                }
            };
            anyhow::ensure!(seen.iter().any(|text| text.contains(&words)), "{seen:?}");
            Ok(())
        })
        .await
    }

    async fn alarm_meanwhile(&mut self, row: &Row) -> anyhow::Result<()> {
        match row.alarms {
            Alarms::Arrive => {
                let alarm = self.next_alarm();
                self.receiver.ready(SOON).await?;
                self.scene.alarm(&alarm).await?;
                self.alarms_are_there().await
            }
            Alarms::Wait => {
                let pending = "chekt_receiver_journal_pending";
                eventually("it to wait in the journal", SOON, || async {
                    let pending = metric(&self.receiver, pending).await?;
                    anyhow::ensure!(pending >= 1.0, "{pending}");
                    Ok(())
                })
                .await
            }
            Alarms::Refused => {
                let path = format!("/webhooks/{}/main", self.scene.users.namespace);
                let request = reqwest::Client::new()
                    .post(format!("http://{}{path}", self.receiver.public()?))
                    .header("x-webhook-signature", format!("sha256={}", "0".repeat(64)))
                    .body("{}");
                let status = request.send().await?.status();
                anyhow::ensure!(status == 503, "{status}");
                Ok(())
            }
        }
    }

    async fn goes_on(&mut self, row: &Row, name: &str) -> anyhow::Result<()> {
        match row.act {
            Act::Start | Act::StartWithoutLease => self.process(row.who).ready(SOON).await?,
            Act::Make => {
                let users = &self.scene.users;
                users
                    .webhook_condition(name, VERIFIED, "True", SOON)
                    .await?;
            }
            Act::ChangeTwice | Act::Hurry | Act::Rotate | Act::Select => {
                self.is_ready(name).await?;
            }
            Act::Delete | Act::StartAndDelete => self.scene.users.webhook_gone(name, SOON).await?,
            Act::Account => {
                let users = &self.scene.users;
                users.account_condition(name, READY, "True", SOON).await?;
            }
            Act::Alarm => {}
        }
        self.alarms_are_there().await
    }

    /// Takes a verb away or gives it back, and waits until the API server knows.
    async fn set(&self, row: &Row, granted: bool) -> anyhow::Result<()> {
        let mut roles = self.chart.roles.iter();
        let role = roles.find(|role| role.atoms.iter().any(|atom| atom.is(row)));
        let role = role.context("no role with it")?;
        let atom = role
            .atoms
            .iter()
            .find(|atom| atom.is(row))
            .context("no rule with it")?;
        let left = role.atoms.iter().filter(|atom| granted || !atom.is(row));
        let mut object = role.object.clone();
        object["rules"] = left.map(Atom::rule).collect();
        let object: DynamicObject = serde_json::from_value(object)?;
        let kind = object
            .types
            .as_ref()
            .map(|t| t.kind.clone())
            .unwrap_or_default();
        let resource = ApiResource {
            group: "rbac.authorization.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "rbac.authorization.k8s.io/v1".to_owned(),
            plural: format!("{}s", kind.to_lowercase()),
            kind,
        };
        let client = self.scene.operator.client.clone();
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let parameters = PatchParams::apply("test").force();
        api.patch(&object.name_any(), &parameters, &Patch::Apply(&object))
            .await?;

        let account = match row.who {
            Who::Controller => &self.chart.controller,
            Who::Receiver => &self.chart.receiver,
        };
        let own = &self.scene.operator.namespace;
        let namespace = match row.place {
            Place::Users => self.scene.users.namespace.clone(),
            Place::Own => own.clone(),
            Place::Cluster => String::new(),
        };
        let (resource, subresource) = atom.split();
        let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
            "user": format!("system:serviceaccount:{own}:{account}"),
            "resourceAttributes": {
                "group": atom.group, "resource": resource, "subresource": subresource,
                "namespace": namespace, "verb": row.verb, "name": atom.names.first(),
            },
        }}))?;
        let reviews: Api<SubjectAccessReview> = Api::all(client);
        eventually("the API server to know", SOON, || async {
            let said = reviews.create(&PostParams::default(), &review).await?;
            let allowed = said.status.is_some_and(|s| s.allowed);
            anyhow::ensure!(allowed == granted, "{allowed}");
            Ok(())
        })
        .await
    }
}

/// Sees everything work, takes the rows one after the other, and sees everything go.
async fn run(mut lane: Lane, mine: impl Fn(usize, &Row) -> bool) -> anyhow::Result<()> {
    for (_, row) in ROWS.iter().enumerate().filter(|(n, row)| mine(*n, row)) {
        lane.try_row(row).await?;
    }
    lane.ends().await.with_context(|| lane.logs())
}

/// An operator that looks after one namespace, by Roles.
async fn lane(idea: &str, mine: impl Fn(usize, &Row) -> bool) -> anyhow::Result<()> {
    let scene = Scene::new(idea).await?;
    let watched = watched(&scene);
    run(Lane::start(scene, &watched, &[]).await?, mine).await
}

/// An operator that looks after everything, by ClusterRoles.
async fn cluster_lane() -> anyhow::Result<()> {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await?));
    let scene = Scene::alone(plane, "rights-cluster").await?;
    let lane = Lane::start(scene, &json!({}), &[]).await?;
    run(lane, |_, row| row.place == Place::Cluster).await?;
    plane.stop();
    Ok(())
}

fn watched(scene: &Scene) -> Value {
    json!({"watchNamespaces": [scene.users.namespace]})
}

#[tokio::test]
async fn with_the_roles_of_the_chart_everything_works_and_without_any_verb_what_is_stated_fails()
-> anyhow::Result<()> {
    let of_controller = |row: &Row| row.who == Who::Controller && row.place == Place::Users;
    futures::try_join!(
        Box::pin(lane("rights-a", |n, row| of_controller(row) && n % 2 == 0)),
        Box::pin(lane("rights-b", |n, row| of_controller(row) && n % 2 == 1)),
        Box::pin(lane("rights-own", |_, row| {
            row.who == Who::Controller && row.place == Place::Own
        })),
        Box::pin(lane("rights-receiver", |_, row| row.who == Who::Receiver)),
        Box::pin(cluster_lane()),
    )?;
    Ok(())
}

#[tokio::test]
async fn every_right_of_the_chart_has_its_row_and_every_row_its_right() -> anyhow::Result<()> {
    let mut everything = BTreeSet::new();
    for values in [json!({}), json!({"watchNamespaces": ["team"]})] {
        let chart = render("operator", &values).await?;
        for atom in chart.roles.iter().flat_map(|role| &role.atoms) {
            let rows = ROWS.iter().filter(|row| atom.is(row)).count();
            assert_eq!(rows, 1, "rows for {atom:?}");
            everything.insert(atom.clone());
        }
    }
    for row in ROWS {
        let what = format!(
            "{:?} {:?} {} {}",
            row.who, row.place, row.resource, row.verb
        );
        let there = everything.iter().any(|atom| atom.is(row));
        assert!(there, "the chart has no {what}");
    }
    assert_eq!(everything.len(), ROWS.len());
    Ok(())
}

#[tokio::test]
async fn whoever_has_the_receivers_token_can_do_little_with_it() -> anyhow::Result<()> {
    let scene = Scene::new("lesser-rights").await?;
    let chart = install(&scene, &watched(&scene)).await?;
    let token = scene.identity(&chart.receiver).await?;
    let token = token.display().to_string();
    let may = async |cluster: &Cluster, what: &str| -> anyhow::Result<bool> {
        let mut args = vec!["--kubeconfig", &token, "auth", "can-i"];
        args.extend(what.split(' '));
        Ok(cluster.kubectl(&args).await?.stdout.trim() == "yes")
    };
    let (users, own) = (&scene.users, &scene.operator);
    for (cluster, what) in [
        (users, "list chektwebhooks.chekt.com"),
        (users, "patch chektwebhooks.chekt.com --subresource=status"),
        (users, "create events.events.k8s.io"),
        (own, "list secrets"),
        (own, "watch secrets"),
    ] {
        assert!(may(cluster, what).await?, "it needs to {what}");
    }
    for (cluster, what) in [
        (users, "get secrets"),
        (users, "list secrets"),
        (users, "watch secrets"),
        (users, "get chektaccounts.chekt.com"),
        (users, "list chektaccounts.chekt.com"),
        (users, "patch chektaccounts.chekt.com --subresource=status"),
        (users, "create chektwebhooks.chekt.com"),
        (users, "patch chektwebhooks.chekt.com"),
        (users, "update chektwebhooks.chekt.com --subresource=status"),
        (users, "delete chektwebhooks.chekt.com"),
        (users, "list events.events.k8s.io"),
        (users, "patch events.events.k8s.io"),
        (users, "delete events.events.k8s.io"),
        (users, "create pods"),
        (own, "create secrets"),
        (own, "update secrets"),
        (own, "patch secrets"),
        (own, "delete secrets"),
        (own, "create serviceaccounts --subresource=token"),
        (own, "update leases.coordination.k8s.io"),
        (own, "create events.events.k8s.io"),
        (own, "list namespaces"),
    ] {
        assert!(!may(cluster, what).await?, "it can {what}");
    }
    scene.apply_account().await?;
    let args = ["--kubeconfig", &token, "get", "secret", "default-token"];
    let refused = users.kubectl(&args).await?.refused()?;
    assert!(refused.contains("Forbidden"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn view_edit_and_admin_include_our_kinds_and_no_secret_goes_along() -> anyhow::Result<()> {
    let scene = Scene::new("aggregate").await?;
    install(&scene, &watched(&scene)).await?;
    let users = &scene.users;
    for role in ["view", "edit", "admin"] {
        let (role, user) = (format!("--clusterrole={role}"), format!("--user={role}"));
        let args = ["create", "rolebinding", &user[7..], &role, &user];
        users.kubectl(&args).await?.ok()?;
    }
    let status = "patch chektwebhooks.chekt.com --subresource=status";
    let orphans = "patch chektaccounts.chekt.com --subresource=status";
    for (what, view, edit, admin) in [
        ("get chektwebhooks.chekt.com", true, true, true),
        ("watch chektaccounts.chekt.com", true, true, true),
        ("create chektwebhooks.chekt.com", false, true, true),
        ("patch chektaccounts.chekt.com", false, true, true),
        ("delete chektwebhooks.chekt.com", false, true, true),
        (orphans, false, false, true),
        (status, false, false, false),
        // As without us.
        ("get secrets", false, true, true),
    ] {
        for (user, may) in [("view", view), ("edit", edit), ("admin", admin)] {
            // The cluster's controller gathers the rules a moment after the roles are made.
            eventually(&format!("{user}: {what}: {may}"), SOON, || async {
                let mut args = vec!["--as", user, "auth", "can-i"];
                args.extend(what.split(' '));
                let said = users.kubectl(&args).await?.stdout;
                anyhow::ensure!((said.trim() == "yes") == may, "{said}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_controller_may_be_held_to_secrets_of_some_names() -> anyhow::Result<()> {
    let scene = Scene::new("named-secrets").await?;
    let mut values = watched(&scene);
    values["rbac"] = json!({"secretNames": ["default-token", "elsewhere"]});
    let flags = [
        "--secret-name",
        "default-token",
        "--secret-name",
        "elsewhere",
    ];
    let mut lane = Lane::start(scene, &values, &flags).await?;
    let users = lane.scene.users.clone();
    let told = lane.log_lines_about_watches();
    assert!(told.is_empty(), "{told:?}");

    // Another Secret: told on the object, and nothing else happens.
    users
        .put_secret("own", &[("signing", "a-secret-of-my-own")])
        .await?;
    let spec = json!({"secretRef": {"name": "own", "key": "signing"}});
    lane.scene.apply_webhook("own", spec).await?;
    let ready = users.webhook_condition("own", READY, "False", SOON).await?;
    assert_eq!(ready.reason, "Forbidden");
    assert!(
        ready.message.contains("Secret own may not be read"),
        "{}",
        ready.message
    );
    lane.scene
        .apply_account_in(&users, "other", json!({}))
        .await?;
    let ready = users
        .account_condition("other", READY, "False", SOON)
        .await?;
    assert_eq!(ready.reason, "Forbidden");

    // A change of one that may be read is noticed at once.
    let good = users.secrets().get("default-token").await?;
    users
        .put_secret("default-token", &[("token", "not-this-one")])
        .await?;
    eventually("the change to be noticed", SOON, || async {
        let ready = users
            .account_condition("default", READY, "False", SOON)
            .await?;
        anyhow::ensure!(ready.reason == "CredentialsRejected", "{}", ready.reason);
        Ok(())
    })
    .await?;
    let data = json!({"data": good.data});
    let patch = Patch::Merge(&data);
    users
        .secrets()
        .patch("default-token", &PatchParams::default(), &patch)
        .await?;
    users
        .account_condition("default", READY, "True", SOON)
        .await?;
    users.webhook_condition("main", READY, "True", SOON).await?;
    lane.ends().await.with_context(|| lane.logs())
}

/// Where the table begins and ends in docs/rbac.md.
const MARKS: [&str; 2] = [
    "<!-- from tests/shipped/privilege.rs -->\n",
    "<!-- end -->\n",
];

#[test]
fn the_page_says_what_the_rows_say() -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rbac.md");
    let page = std::fs::read_to_string(&path)?;
    let [begin, end] = MARKS;
    let (before, rest) = page.split_once(begin).context("no begin of the table")?;
    let (_, after) = rest.split_once(end).context("no end of the table")?;
    let new = format!("{before}{begin}{}\n{end}{after}", tables());
    if std::env::var_os("UPDATE").is_some() && new != page {
        std::fs::write(&path, &new)?;
    }
    let page = std::fs::read_to_string(&path)?;
    assert!(
        page == new,
        "docs/rbac.md is out of date: run `make generate`"
    );
    Ok(())
}

fn tables() -> String {
    let mut text = String::new();
    for (who, place, title) in [
        (
            Who::Controller,
            Place::Users,
            "The controller, in the namespaces that are looked after",
        ),
        (
            Who::Controller,
            Place::Own,
            "The controller, in the operator's namespace",
        ),
        (
            Who::Controller,
            Place::Cluster,
            "The controller, in the cluster",
        ),
        (
            Who::Receiver,
            Place::Users,
            "The receiver, in the namespaces that are looked after",
        ),
        (
            Who::Receiver,
            Place::Own,
            "The receiver, in the operator's namespace",
        ),
    ] {
        text += &format!("\n### {title}\n\n");
        text +=
            "| what | verb | why | without it | what you see |\n| --- | --- | --- | --- | --- |\n";
        for row in ROWS
            .iter()
            .filter(|row| (row.who, row.place) == (who, place))
        {
            let process = match row.who {
                Who::Controller => "controller",
                Who::Receiver => "receiver",
            };
            let sign = match row.sign {
                Sign::NotReady(gate) => format!("`/readyz` of the {process}, under `{gate}`"),
                Sign::Log(message) => format!("Log of the {process}: *{message}*"),
                Sign::Webhook(reason) => format!("Webhook: Ready False, `{reason}`"),
                Sign::Account(reason) => format!("Account: Ready False, `{reason}`"),
            };
            let meanwhile = match row.alarms {
                Alarms::Arrive => "",
                Alarms::Wait => ". Alarms are answered with 200",
                Alarms::Refused => ". Alarms are answered with 503",
            };
            let Row {
                resource,
                verb,
                why,
                without,
                ..
            } = row;
            text += &format!("| `{resource}` | {verb} | {why} | {without}{meanwhile} | {sign} |\n");
        }
    }
    text
}
