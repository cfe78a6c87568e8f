//! One release from its first installation to its end, on one node, told in stages. Each stage says what it measured.
//!
//! One test and not many, since each stage needs what the one before it left: an upgrade needs a release that works.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use chekt_operator::resources::conditions::{READY, VERIFIED};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::go_build::say;
use crate::harness::load::retries;
use crate::harness::{Cluster, Node, SandboxClient, eventually, reaper};
use crate::interruption::nothing_left;
use crate::release::{
    Helm, NAMESPACE, NEW_FIELD, PREVIOUS, RELEASE, chart, image, image_name, previous_chart,
};
use crate::traffic::Traffic;

const SOON: Duration = Duration::from_secs(60);
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// As the chart has it.
const LEASE: Duration = Duration::from_secs(15);
/// The token that the sandbox takes (sandbox.yaml).
const TOKEN: &str = "e2e-token";
/// Where Pods find the sandbox, and where the tests do (sandbox.yaml).
const SANDBOX: &str = "http://sandbox.chekt.svc.cluster.local:8480";
const SANDBOX_PORT: u16 = 30480;
/// Where deliveries come in (values.yaml).
const DELIVERIES_PORT: u16 = 30080;
/// The events of the example, and one's own for what is created on the way.
const EVENTS: [&str; 3] = ["alarm.triggered", "alarm.cleared", "alarm.acknowledged"];

/// How a Pod goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is deleted, and has its time.
    Asked,
    /// Its processes are killed, as with the node they run on.
    Killed,
}

/// Everything a stage works with.
struct Shipped {
    node: Node,
    helm: Helm,
    users: Cluster,
    chekt: SandboxClient,
    deliveries: SocketAddr,
    begun: Instant,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_first_installation_to_the_last_no_alarm_is_lost_and_no_webhook_made_twice()
-> anyhow::Result<()> {
    let begun = Instant::now();
    let mut node = Node::start().await?;
    told(begun, "a node is up", "");
    let archive = image()?;
    let (present, previous) = (image_name(VERSION), image_name(PREVIOUS));
    let imported = node.import(&archive).await?;
    anyhow::ensure!(imported == present, "the image calls itself {imported}");
    node.ctr(&["images", "tag", &present, &previous]).await?;
    let shipped = Shipped {
        helm: Helm::on(&node).await?,
        users: Cluster::named(node.plane(), "house").await?,
        chekt: SandboxClient::new(node.relay(Node::port(SANDBOX_PORT))?)?,
        deliveries: node.relay(Node::port(DELIVERIES_PORT))?,
        node,
        begun,
    };
    let told = shipped.story().await;
    if told.is_err() {
        shipped.say_what_there_is().await;
    }
    told?;
    let (init, cgroup) = (shipped.node.init(), shipped.node.cgroup().to_owned());
    let files = shipped.node.dir().to_owned();
    shipped.node.stop().await?;
    let nothing = "nothing of the node to be left";
    eventually(nothing, SOON, || async {
        nothing_left(init, &cgroup, &files)
    })
    .await?;
    self::told(begun, "the node has ended, and nothing is left", "");
    Ok(())
}

impl Shipped {
    async fn story(&self) -> anyhow::Result<()> {
        self.the_previous_version_is_installed().await?;
        self.the_examples_are_ready_and_an_alarm_is_an_event()
            .await?;
        self.an_upgrade_under_load_brings_the_new_field().await?;
        self.the_receiver_holds_a_lesser_token_alone().await?;
        self.helm_test_passes().await?;
        self.a_restart_under_load_costs_nothing().await?;
        self.a_leader_that_is_deleted_hands_over().await?;
        self.a_leader_that_is_killed_is_followed().await?;
        self.a_rollback_and_the_way_back_cost_nothing().await?;
        self.uninstalled_and_installed_anew_it_finds_what_was_there()
            .await?;
        self.killed_receivers_lose_nothing().await?;
        self.what_users_delete_is_deleted_at_chekt().await?;
        self.the_notes_lead_to_a_webhook().await
    }

    async fn the_previous_version_is_installed(&self) -> anyhow::Result<()> {
        let sandbox = include_str!("sandbox.yaml").replace("IMAGE_TAG", VERSION);
        self.within("chekt").apply(&sandbox).await?;
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            }},
        });
        self.within(NAMESPACE).apply(&namespace.to_string()).await?;
        let chart = previous_chart(&reaper::directory("previous-chart")?)?;
        let start = Instant::now();
        self.helm.install(&chart, &[]).await?;
        let took = start.elapsed();
        let pods = self.pods().await?;
        anyhow::ensure!(pods.len() == 2, "{} Pods", pods.len());
        anyhow::ensure!(!self.knows_new_field().await?);
        self.told(
            "the version before is installed, two replicas",
            &format!("helm install --wait took {:.1} s", took.as_secs_f64()),
        );
        Ok(())
    }

    async fn the_examples_are_ready_and_an_alarm_is_an_event(&self) -> anyhow::Result<()> {
        let sandbox = async || self.chekt.webhooks().await;
        eventually("the sandbox", SOON, sandbox).await?;
        for (file, change) in [
            ("secret.yaml", json!({"stringData": {"token": TOKEN}})),
            (
                "account.yaml",
                json!({"spec": {"baseURL": SANDBOX, "syncInterval": "10s",
                    "rateLimit": {"requestsPerMinute": 6_000, "burst": 100}}}),
            ),
            ("webhook.yaml", json!({})),
        ] {
            let manifest = example(file, &change)?;
            self.users.apply(&manifest).await?;
        }
        let start = Instant::now();
        for condition in [READY, VERIFIED] {
            let wait = [
                "wait",
                &format!("--for=condition={condition}"),
                "chektwebhook/alarms",
                "--timeout=60s",
            ];
            self.users.kubectl(&wait).await?.ok()?;
        }
        let verified = start.elapsed();
        let sent = self
            .chekt
            .emit("alarm.triggered", json!({"alarm_id": "first"}))
            .await?;
        self.chekt.delivered(&sent, SOON).await?;
        eventually("the alarm in kubectl events", SOON, async || {
            let args = ["events", "--for", "chektwebhook/alarms"];
            let events = self.users.kubectl(&args).await?.ok()?;
            anyhow::ensure!(events.contains("AlarmTriggered"), "{events}");
            anyhow::Ok(())
        })
        .await?;
        self.told(
            "the examples are Ready and Verified, and an alarm is an Event",
            &format!("after {:.1} s", verified.as_secs_f64()),
        );
        Ok(())
    }

    async fn an_upgrade_under_load_brings_the_new_field(&self) -> anyhow::Result<()> {
        let before = self.creates().await?;
        let mut traffic = self.traffic("upgrade").await?;
        traffic.flows(50).await?;
        let start = Instant::now();
        self.helm.install(&chart(), &[]).await?;
        let took = start.elapsed();
        traffic.flows(50).await?;
        self.only_new_pods().await?;
        anyhow::ensure!(self.knows_new_field().await?);
        let outcome = traffic.finish(&self.users).await?;
        outcome.flawless()?;
        self.still_one(before).await?;
        self.told(
            "helm upgrade to this version, with a field that the definition did not have, under load",
            &format!("{:.1} s; {}", took.as_secs_f64(), outcome.spoken()),
        );
        Ok(())
    }

    async fn the_receiver_holds_a_lesser_token_alone(&self) -> anyhow::Result<()> {
        let wanted = format!("system:serviceaccount:{NAMESPACE}:{RELEASE}-receiver");
        for pod in self.pods().await? {
            let tokens = self.tokens_in(&pod, "receiver").await?;
            let others = tokens
                .iter()
                .map(|(who, _)| who)
                .filter(|who| **who != wanted);
            let others: Vec<_> = others.collect();
            let name = pod.name_any();
            anyhow::ensure!(others.is_empty(), "the receiver of {name} holds {others:?}");
            let (_, token) = tokens.first().context("no token")?;
            let users = format!("/api/v1/namespaces/{}/secrets", self.users.namespace);
            let operators = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
            let webhooks = "/apis/chekt.com/v1alpha1/chektwebhooks".to_owned();
            for (path, wanted) in [
                (format!("{users}/chekt-token"), 403),
                (users, 403),
                (operators, 403),
                // It is a token that is good for something.
                (webhooks, 200),
            ] {
                let answer = self.ask_as(token, &path).await?;
                anyhow::ensure!(answer == wanted, "{path}: {answer} instead of {wanted}");
            }
        }
        self.told(
            "the receiver holds a token of its own account alone, which reads no Secret of users",
            "looked at from outside, in every file of its mounts",
        );
        Ok(())
    }

    async fn helm_test_passes(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let said = self.helm.test().await?;
        anyhow::ensure!(said.contains("Succeeded"), "{said}");
        self.told(
            "helm test looks at the installation and follows a test delivery",
            &format!("{:.1} s", start.elapsed().as_secs_f64()),
        );
        Ok(())
    }

    async fn a_restart_under_load_costs_nothing(&self) -> anyhow::Result<()> {
        let before = self.creates().await?;
        let mut traffic = self.traffic("restart").await?;
        traffic.flows(50).await?;
        let start = Instant::now();
        let deployment = format!("deployment/{RELEASE}");
        self.operate(&["rollout", "restart", &deployment]).await?;
        self.operate(&["rollout", "status", &deployment, "--timeout=120s"])
            .await?;
        let took = start.elapsed();
        self.only_new_pods().await?;
        traffic.flows(50).await?;
        let outcome = traffic.finish(&self.users).await?;
        outcome.flawless()?;
        self.still_one(before).await?;
        self.told(
            "kubectl rollout restart under load",
            &format!("{:.1} s; {}", took.as_secs_f64(), outcome.spoken()),
        );
        Ok(())
    }

    async fn a_leader_that_is_deleted_hands_over(&self) -> anyhow::Result<()> {
        let traffic = self.traffic("handover").await?;
        let took = self.leader_goes("deleted", End::Asked).await?;
        // It gives the Lease back; nobody has to wait until it runs out.
        anyhow::ensure!(took < LEASE, "another one led only after {took:?}");
        let outcome = traffic.finish(&self.users).await?;
        outcome.flawless()?;
        self.told(
            "the leader's Pod is deleted, a webhook is created meanwhile, under load",
            &format!(
                "another one leads after {:.1} s, one POST; {}",
                took.as_secs_f64(),
                outcome.spoken()
            ),
        );
        self.settled(2).await
    }

    async fn a_leader_that_is_killed_is_followed(&self) -> anyhow::Result<()> {
        let took = self.leader_goes("killed", End::Killed).await?;
        // The lease, the pause between two looks at it, and a machine that has much to do.
        let limit = LEASE + Duration::from_secs(5);
        anyhow::ensure!(took < limit, "another one led only after {took:?}");
        self.told(
            "the leader's processes are killed and its Pod is removed, a webhook is created meanwhile",
            &format!(
                "another one leads after {:.1} s, one POST",
                took.as_secs_f64()
            ),
        );
        self.settled(2).await
    }

    async fn a_rollback_and_the_way_back_cost_nothing(&self) -> anyhow::Result<()> {
        let before = self.creates().await?;
        let mut traffic = self.traffic("rollback").await?;
        traffic.flows(50).await?;
        self.helm.rollback("1").await?;
        // Part of the release, so that goes back, too; what it does not know is kept out of sight and not lost.
        anyhow::ensure!(!self.knows_new_field().await?);
        self.only_new_pods().await?;
        self.helm.rollback("2").await?;
        anyhow::ensure!(self.knows_new_field().await?);
        self.only_new_pods().await?;
        traffic.flows(50).await?;
        let outcome = traffic.finish(&self.users).await?;
        outcome.flawless()?;
        self.still_one(before).await?;
        self.told(
            "helm rollback to the version before, and forth again, under load",
            &outcome.spoken(),
        );
        Ok(())
    }

    async fn uninstalled_and_installed_anew_it_finds_what_was_there(&self) -> anyhow::Result<()> {
        let before = self.ids().await?;
        let mark = self.chekt.mark().await?;
        self.helm.uninstall().await?;
        let pods = async || match self.pods().await?.len() {
            0 => anyhow::Ok(()),
            more => anyhow::bail!("{more} Pods"),
        };
        eventually("the Pods to be gone", SOON, pods).await?;
        let objects = self.users.webhooks().list(&ListParams::default()).await?;
        anyhow::ensure!(objects.items.len() == before.len(), "objects went");
        anyhow::ensure!(self.ids().await? == before, "remote webhooks went");
        // The journals are to be on volumes from now on, so it is another kind of release as well.
        let folders = "mkdir -p /var/lib/journals/0 /var/lib/journals/1";
        self.inside(folders).await?;
        self.users.apply(include_str!("volumes.yaml")).await?;
        let volumes = [
            "--set",
            "persistence.enabled=true,persistence.storageClassName=local",
        ];
        self.helm.install(&chart(), &volumes).await?;
        for object in objects.items {
            let name = object.name_any();
            // Ready is what the release before wrote; this is answered by the new one.
            let look = "chekt.com/reconcile-requested-at=reinstalled";
            let args = ["annotate", "--overwrite", "chektwebhook", &name, look];
            self.users.kubectl(&args).await?.ok()?;
            eventually("a pass of the new release", SOON, async || {
                let status = self.users.webhooks().get(&name).await?.status;
                let handled = status.and_then(|s| s.last_handled_reconcile_at);
                anyhow::ensure!(handled.as_deref() == Some("reinstalled"), "{handled:?}");
                anyhow::Ok(())
            })
            .await?;
            self.users
                .webhook_condition(&name, READY, "True", SOON)
                .await?;
        }
        let alarm = json!({"alarm_id": "reinstalled"});
        let sent = self.chekt.emit("alarm.triggered", alarm).await?;
        anyhow::ensure!(sent.len() == before.len(), "{sent:?}");
        self.chekt.delivered(&sent, SOON).await?;
        anyhow::ensure!(self.ids().await? == before, "not the same webhooks");
        let ledger = self.chekt.ledger(mark).await?;
        for route in ["create", "delete"] {
            let calls = ledger.calls(route);
            anyhow::ensure!(calls.is_empty(), "{route}: {calls:?}");
        }
        self.told(
            "uninstalled and installed anew, as a StatefulSet with volumes",
            &format!(
                "definitions, objects and {} remote webhooks stayed, under the same ids; no POST, no DELETE",
                before.len()
            ),
        );
        Ok(())
    }

    async fn killed_receivers_lose_nothing(&self) -> anyhow::Result<()> {
        // The kubelet waits 10 s before it starts a container for the second time, and longer each time.
        const ROUNDS: usize = 2;
        let secret = self.secret().await?;
        // Again after half of CHeKT's pauses: while all receivers are down, nobody can answer.
        let mut traffic = Traffic::start(
            self.deliveries,
            &self.users.namespace,
            "alarms",
            secret,
            "killed",
            retries(0.5),
        );
        for _ in 0..ROUNDS {
            traffic.flows(100).await?;
            let pods = self.pods().await?;
            for pod in &pods {
                self.kill(pod, "receiver")?;
            }
            let before = pods.iter().map(restarts).sum::<i32>();
            eventually("the receivers to be started again", SOON, async || {
                let pods = self.pods().await?;
                let now = pods.iter().map(restarts).sum::<i32>();
                anyhow::ensure!(
                    now >= before + 2 && pods.iter().all(ready),
                    "{now} restarts"
                );
                anyhow::Ok(())
            })
            .await?;
        }
        traffic.flows(100).await?;
        let outcome = traffic.finish(&self.users).await?;
        self.told(
            "all receivers are killed at once under load, twice",
            &outcome.spoken(),
        );
        Ok(())
    }

    async fn what_users_delete_is_deleted_at_chekt(&self) -> anyhow::Result<()> {
        let delete = ["delete", "chektwebhooks", "--all", "--timeout=60s"];
        self.users.kubectl(&delete).await?.ok()?;
        let left = self.chekt.webhooks().await?;
        anyhow::ensure!(left.is_empty(), "{left:?}");
        self.helm.uninstall().await?;
        self.told("deleted and uninstalled", "nothing is left at CHeKT");
        Ok(())
    }

    /// What a stranger does: install with the sandbox, then the commands that helm shows, as they are.
    async fn the_notes_lead_to_a_webhook(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        self.helm.install_to_try(&chart()).await?;
        let notes = self.helm.run(&["get", "notes", RELEASE]).await?;
        let commands: Vec<_> = notes
            .lines()
            .filter_map(|l| l.strip_prefix("   "))
            .collect();
        let commands = commands.join("\n");
        anyhow::ensure!(commands.contains("kubectl"), "no commands: {notes}");
        let kubectl = &self.node.plane().assets().kubectl;
        let path = std::env::join_paths(kubectl.parent().map(Path::to_owned).into_iter().chain(
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()),
        ))?;
        let output = tokio::process::Command::new("bash")
            .args(["-e", "-c", &commands])
            .env("PATH", path)
            .env("KUBECONFIG", self.users.kubeconfig())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(SOON * 2, output).await??;
        anyhow::ensure!(
            output.status.success(),
            "{commands}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        self.told(
            "installed with the sandbox, and the commands of its notes, as they are, end in Verified",
            &format!("{:.1} s", start.elapsed().as_secs_f64()),
        );
        Ok(())
    }

    /// The leader's Pod goes, and while nobody leads a webhook is created. How long until another Pod leads.
    async fn leader_goes(&self, webhook: &str, end: End) -> anyhow::Result<Duration> {
        let leader = self.leader().await?;
        let start = Instant::now();
        let mut args = vec!["delete", "pod", &leader, "--wait=false"];
        if end == End::Killed {
            let pods = self.pods().await?;
            let pod = pods.iter().find(|pod| pod.name_any() == leader);
            let pod = pod.with_context(|| format!("no Pod {leader}"))?;
            // Deleting it, without grace or not, still asks the controller to end, and it would resign.
            for container in ["controller", "receiver"] {
                self.kill(pod, container)?;
            }
            args.extend(["--force", "--grace-period=0"]);
        }
        self.operate(&args).await?;
        let manifest = json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook",
            "metadata": {"name": webhook}, "spec": {"events": EVENTS},
        });
        self.users.apply(&manifest.to_string()).await?;
        eventually("another Pod to lead", LEASE * 3, async || {
            let now = self.leader().await?;
            anyhow::ensure!(now != leader && !now.is_empty(), "{now:?} leads");
            anyhow::Ok(())
        })
        .await?;
        let took = start.elapsed();
        self.users
            .webhook_condition(webhook, READY, "True", SOON)
            .await?;
        let url = format!(
            "http://{RELEASE}.{NAMESPACE}.svc.cluster.local/webhooks/{}/{webhook}",
            self.users.namespace
        );
        let all = self.chekt.all_webhooks().await?;
        let ever = all.iter().filter(|w| w.url == url).count();
        anyhow::ensure!(ever == 1, "{ever} remote webhooks ever had {url}");
        Ok(took)
    }

    /// The Pod that leads; empty if none does.
    async fn leader(&self) -> anyhow::Result<String> {
        let api: Api<Lease> = Api::namespaced(self.users.client.clone(), NAMESPACE);
        let lease = api.get("chekt-controller").await?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        // The Pod's name, and a word that each process has for itself.
        let holder = holder.unwrap_or_default();
        let pod = holder.rsplit_once('-').map(|(pod, _)| pod.to_owned());
        Ok(pod.unwrap_or_default())
    }

    /// The operator's Pods, with those that are on their way out.
    async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.users.client.clone(), NAMESPACE);
        let mine = ListParams::default().labels("app.kubernetes.io/component=operator");
        Ok(api.list(&mine).await?.items)
    }

    /// Waits until `count` Pods are there and ready, and no other.
    async fn settled(&self, count: usize) -> anyhow::Result<()> {
        eventually("all Pods to be ready", SOON, async || {
            let pods = self.pods().await?;
            let ready = pods.iter().filter(|pod| ready(pod)).count();
            anyhow::ensure!(
                pods.len() == count && ready == count,
                "{} Pods, {ready} ready",
                pods.len()
            );
            anyhow::Ok(())
        })
        .await
    }

    /// Waits until the Pods that were replaced have ended, with their journals empty.
    async fn only_new_pods(&self) -> anyhow::Result<()> {
        self.settled(2).await
    }

    /// Process ids of a container, as they are called out here.
    fn pids(&self, pod: &Pod, container: &str) -> anyhow::Result<Vec<u32>> {
        let status = pod.status.as_ref();
        let all = status.into_iter().flat_map(|s| {
            let init = s.init_container_statuses.iter().flatten();
            init.chain(s.container_statuses.iter().flatten())
        });
        let mine = all.into_iter().find(|c| c.name == container);
        let id = mine.and_then(|c| c.container_id.as_deref());
        let id = id.and_then(|id| id.strip_prefix("containerd://"));
        self.node
            .pids_of_container(id.with_context(|| format!("no container {container}"))?)
    }

    /// Kills a container's processes from outside.
    fn kill(&self, pod: &Pod, container: &str) -> anyhow::Result<()> {
        let pids = self.pids(pod, container)?;
        anyhow::ensure!(!pids.is_empty(), "nothing runs in {container}");
        for pid in pids {
            reaper::signal(pid, "KILL")?;
        }
        Ok(())
    }

    /// Every token in the files that a container sees: whose it is, and the token.
    async fn tokens_in(&self, pod: &Pod, container: &str) -> anyhow::Result<Vec<(String, String)>> {
        let what = format!("a token in {container} of {}", pod.name_any());
        eventually(&what, SOON, async || {
            let pids = self.pids(pod, container)?;
            let pid = pids.first().context("no process")?;
            let root = Path::new("/proc").join(pid.to_string());
            let mounts = std::fs::read_to_string(root.join("mountinfo"))?;
            let mut tokens = Vec::new();
            for mount in mounts.lines().filter_map(|l| l.split(' ').nth(4)) {
                let kernel = ["/proc", "/sys", "/dev"];
                let kernels = kernel.iter().any(|k| mount.starts_with(k));
                if mount != "/" && !kernels {
                    let inside = root.join("root").join(mount.trim_start_matches('/'));
                    collect_tokens(&inside, &mut tokens)?;
                }
            }
            anyhow::ensure!(!tokens.is_empty(), "none");
            anyhow::Ok(tokens)
        })
        .await
    }

    /// What the API server answers to a GET by whoever has this token.
    async fn ask_as(&self, token: &str, path: &str) -> anyhow::Result<u16> {
        let root = std::fs::read(self.node.dir().join("pki/ca.crt"))?;
        let http = reqwest::Client::builder()
            .add_root_certificate(reqwest::Certificate::from_pem(&root)?)
            .no_proxy()
            .build()?;
        let url = format!("https://{}{path}", self.node.plane().address());
        let answer = http.get(url).bearer_auth(token).send().await?;
        Ok(answer.status().as_u16())
    }

    /// Runs a shell command where the node's processes run.
    async fn inside(&self, command: &str) -> anyhow::Result<()> {
        let output = tokio::process::Command::new("nsenter")
            .args(["--target", &self.node.init().to_string(), "--mount"])
            .args(["sh", "-c", command])
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        Ok(())
    }

    /// Another namespace of the same cluster.
    fn within(&self, namespace: &str) -> Cluster {
        Cluster {
            namespace: namespace.to_owned(),
            ..self.users.clone()
        }
    }

    /// kubectl in the namespace of the release.
    async fn operate(&self, args: &[&str]) -> anyhow::Result<String> {
        self.within(NAMESPACE).kubectl(args).await?.ok()
    }

    async fn knows_new_field(&self) -> anyhow::Result<bool> {
        let api: Api<CustomResourceDefinition> = Api::all(self.users.client.clone());
        let definition = serde_json::to_value(api.get("chektwebhooks.chekt.com").await?)?;
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let fields = definition.pointer(spec).context("no fields")?;
        Ok(fields.get(NEW_FIELD).is_some())
    }

    async fn traffic(&self, idea: &'static str) -> anyhow::Result<Traffic> {
        let secret = self.secret().await?;
        // One attempt each: nothing may be hidden by a second one.
        let namespace = &self.users.namespace;
        Ok(Traffic::start(
            self.deliveries,
            namespace,
            "alarms",
            secret,
            idea,
            Vec::new(),
        ))
    }

    /// The secret that the remote webhook of the example is signed with.
    async fn secret(&self) -> anyhow::Result<String> {
        let all = self.chekt.webhooks().await?;
        let mut mine = all.into_iter().filter(|w| w.url.ends_with("/alarms"));
        Ok(mine.next().context("no remote webhook")?.secret)
    }

    /// The ids of the remote webhooks.
    async fn ids(&self) -> anyhow::Result<Vec<String>> {
        let all = self.chekt.webhooks().await?;
        let mut ids: Vec<_> = all.into_iter().map(|w| w.webhook_id).collect();
        ids.sort();
        Ok(ids)
    }

    /// How many POSTs CHeKT has seen.
    async fn creates(&self) -> anyhow::Result<usize> {
        Ok(self.chekt.ledger(0).await?.calls("create").len())
    }

    /// Fails if CHeKT has seen another POST.
    async fn still_one(&self, creates: usize) -> anyhow::Result<()> {
        let now = self.creates().await?;
        anyhow::ensure!(now == creates, "{now} POSTs after {creates}");
        Ok(())
    }

    fn told(&self, stage: &str, figures: &str) {
        told(self.begun, stage, figures);
    }

    /// For a failure: what a person would look at first.
    async fn say_what_there_is(&self) {
        let everywhere = ["--all-namespaces", "-o", "wide"];
        let operator = [
            "logs",
            "-l",
            "app.kubernetes.io/component=operator",
            "--prefix",
        ];
        // One container at a time: one that has not started yet keeps kubectl from showing the others.
        for (namespace, args) in [
            (NAMESPACE, [&["get", "pods"], &everywhere[..]].concat()),
            (NAMESPACE, [&["get", "chekt"], &everywhere[..]].concat()),
            (NAMESPACE, vec!["events"]),
            (
                NAMESPACE,
                [&operator[..], &["-c", "receiver", "--tail=25"]].concat(),
            ),
            (
                NAMESPACE,
                [&operator[..], &["-c", "controller", "--tail=25"]].concat(),
            ),
            ("chekt", vec!["logs", "sandbox", "--tail=25"]),
        ] {
            let within = self.within(namespace);
            match within.kubectl(&args).await {
                Ok(said) => say(&format!(
                    "--- kubectl {args:?}\n{}{}",
                    said.stdout, said.stderr
                )),
                Err(error) => say(&format!("{error:#}")),
            }
        }
        say(&self.node.logs());
    }
}

/// Says that a stage is over, and what it measured.
fn told(begun: Instant, stage: &str, figures: &str) {
    let colon = if figures.is_empty() { "" } else { ": " };
    say(&format!(
        "[{:5.1} s] {stage}{colon}{figures}",
        begun.elapsed().as_secs_f64()
    ));
}

/// A manifest of `examples/`, with something changed that must differ here.
fn example(file: &str, change: &Value) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut documents = serde_yaml::Deserializer::from_str(&text);
    let mut manifest = Value::deserialize(documents.next().context("an empty example")?)?;
    merge(&mut manifest, change);
    Ok(manifest.to_string())
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let receivers = status
        .into_iter()
        .flat_map(|s| s.init_container_statuses.iter().flatten());
    receivers.map(|c| c.restart_count).sum()
}

fn ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Adds every service account token in the files below `path`.
fn collect_tokens(path: &Path, tokens: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            collect_tokens(&entry?.path(), tokens)?;
        }
        return Ok(());
    }
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))) {
        if let Some(who) = subject(word) {
            tokens.push((who, word.to_owned()));
        }
    }
    Ok(())
}

/// Whose token it is, if it is one.
fn subject(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (_, claims) = (parts.next()?, parts.next()?);
    let claims = data_encoding::BASE64URL_NOPAD
        .decode(claims.as_bytes())
        .ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Some(claims.get("sub")?.as_str()?.to_owned())
}
