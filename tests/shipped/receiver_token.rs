//! The receiver's token: a lesser one, handed over by the controller, gone with the Pod, and no alarm lost without it.

use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use anyhow::Context;
use chekt_operator::resources::conditions::VERIFIED;
use data_encoding::BASE64URL_NOPAD;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::harness::{Identity, Launch, Process, Role, eventually};
use crate::scene::{SOON, Scene, metric};

/// The service account of the receiver.
const LESSER: &str = "receiver";

/// A Pod that nobody runs, and the flags that name it.
async fn pod(scene: &Scene) -> anyhow::Result<(Pod, [String; 4])> {
    let api: Api<Pod> = Api::namespaced(scene.operator.client.clone(), &scene.operator.namespace);
    let body = serde_json::from_value(json!({
        "metadata": {"generateName": "operator-"},
        "spec": {
            "serviceAccountName": "controller",
            "containers": [{"name": "controller", "image": "chekt-operator"}],
        },
    }))?;
    let pod = api.create(&PostParams::default(), &body).await?;
    let uid = pod.uid().context("a Pod without a uid")?;
    let flags = [
        "--pod-name".to_owned(),
        pod.name_any(),
        "--pod-uid".to_owned(),
        uid,
    ];
    Ok((pod, flags))
}

/// Two service accounts, of which the lesser one may do what a receiver does.
async fn accounts(scene: &Scene) -> anyhow::Result<()> {
    let account = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let subject =
        json!({"kind": "ServiceAccount", "name": LESSER, "namespace": scene.operator.namespace});
    let role = |rules: Value| {
        let named = json!({"name": LESSER});
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": named, "rules": rules});
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": named, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": LESSER},
        });
        json!({"apiVersion": "v1", "kind": "List", "items": [role, binding]}).to_string()
    };
    let accounts = json!({"apiVersion": "v1", "kind": "List", "items": [account(LESSER), account("controller")]});
    scene.operator.apply(&accounts.to_string()).await?;
    let keyrings =
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]}]);
    scene.operator.apply(&role(keyrings)).await?;
    let webhooks = json!([
        {"apiGroups": ["chekt.com"], "resources": ["chektwebhooks"], "verbs": ["list", "watch"]},
        {"apiGroups": ["chekt.com"], "resources": ["chektwebhooks/status"], "verbs": ["patch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]);
    scene.users.apply(&role(webhooks)).await?;
    Ok(())
}

async fn text(url: String) -> anyhow::Result<(u16, String)> {
    let answer = reqwest::get(url).await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn the_receiver_waits_for_a_lesser_token_and_loses_no_alarm_without_one() -> anyhow::Result<()>
{
    let scene = Scene::new("lesser").await?;
    accounts(&scene).await?;
    let credentials = scene.dir.join("credentials");
    std::fs::create_dir(&credentials)?;

    let receiver = Process::start(scene.receiver_with(&credentials)).await?;
    let ops = receiver.ops()?;
    assert_eq!(text(format!("http://{ops}/healthz")).await?.0, 200);
    let (status, why) = text(format!("http://{ops}/readyz")).await?;
    let waiting = format!(
        "credentials: waiting for {}",
        credentials.join("token").display()
    );
    assert!(status == 503 && why.contains(&waiting), "{status} {why}");
    let url = format!(
        "http://{}/webhooks/{}/alarms",
        receiver.public()?,
        scene.users.namespace
    );
    let answer = reqwest::Client::new()
        .post(&url)
        .body("{}")
        .header("x-webhook-signature", format!("sha256={}", "0".repeat(64)));
    assert_eq!(answer.send().await?.status(), 503);

    let (first, named) = pod(&scene).await?;
    let kubeconfig = scene.users.plane.kubeconfig(Identity::Admin);
    let launch = scene
        .controller(&kubeconfig, &receiver)?
        .flag("--receiver-service-account", LESSER)
        .flag("--receiver-credentials", credentials.display());
    let mut controller = Process::start(launch.clone().args(&named)).await?;
    controller.ready(SOON).await?;
    receiver.ready(SOON).await?;
    scene.apply_account().await?;
    scene.apply_webhook("alarms", json!({})).await?;
    scene
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;
    scene.alarm("a-1").await?;
    scene
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;

    // Whose token it is, and for how long.
    let token = std::fs::read_to_string(credentials.join("token"))?;
    let claims = token.split('.').nth(1).context("no token")?;
    let claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes())?)?;
    let subject = format!(
        "system:serviceaccount:{}:{LESSER}",
        scene.operator.namespace
    );
    assert_eq!(claims["sub"], subject);
    let life = claims["exp"]
        .as_i64()
        .zip(claims["iat"].as_i64())
        .map(|(exp, iat)| exp - iat);
    assert_eq!(life, Some(3600));
    let mode = std::fs::metadata(credentials.join("token"))?
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o440);
    assert_eq!(
        std::fs::read_to_string(credentials.join("namespace"))?,
        scene.operator.namespace
    );
    let ends = metric(
        &controller,
        "chekt_controller_receiver_token_expiration_timestamp_seconds",
    )
    .await?;
    assert_eq!(Some(ends), claims["exp"].as_f64());

    // The Pod is gone, and with it what the token hangs on. The receiver does not notice: it has its keys.
    controller.kill9()?;
    let pods: Api<Pod> = Api::namespaced(scene.operator.client.clone(), &scene.operator.namespace);
    pods.delete(&first.name_any(), &DeleteParams::default().grace_period(0))
        .await?;
    let dead = scene.users.plane.kubeconfig_for_token("dead", &token)?;
    eventually("the token to end with the Pod", SOON, || async {
        let said = scene
            .users
            .kubectl(&["--kubeconfig", &dead.display().to_string(), "get", "cwh"])
            .await?;
        anyhow::ensure!(
            said.stderr.contains("Unauthorized"),
            "{}{}",
            said.stdout,
            said.stderr
        );
        Ok(())
    })
    .await?;
    for n in 2..5 {
        scene.alarm(&format!("a-{n}")).await?;
    }
    eventually("the alarms to wait in the journal", SOON, || async {
        let pending = metric(&receiver, "chekt_receiver_journal_pending").await?;
        anyhow::ensure!(pending >= 3.0, "{pending}");
        Ok(())
    })
    .await?;
    scene
        .users
        .events_with_reason("alarms", "AlarmTriggered", 1, SOON)
        .await?;

    // Another one, of a controller that is started again: everything is there, once.
    let (_, named) = pod(&scene).await?;
    let _controller = Process::start(launch.args(&named)).await?;
    let all = scene
        .users
        .events_with_reason("alarms", "AlarmTriggered", 4, SOON)
        .await;
    all.with_context(|| receiver.log_tail())?;
    let secrets: Api<Secret> = scene.operator.secrets();
    eventually("the Secret of the first Pod to be gone", SOON, || async {
        let all = secrets.list(&ListParams::default()).await?;
        let of_pods = all
            .iter()
            .filter(|s| s.name_any().starts_with("chekt-receiver-token-"));
        anyhow::ensure!(of_pods.count() == 1, "there are more");
        Ok(())
    })
    .await?;
    let logged = receiver.log_lines().join("\n");
    assert!(!logged.contains(&token), "the token is in the log");
    Ok(())
}

#[tokio::test]
async fn a_token_that_cannot_be_had_is_told_once_and_tried_again() -> anyhow::Result<()> {
    let scene = Scene::new("tokenless").await?;
    let credentials = scene.dir.join("credentials");
    std::fs::create_dir(&credentials)?;
    let receiver = Process::start(scene.receiver_with(&credentials)).await?;
    let kubeconfig = scene.users.plane.kubeconfig(Identity::Admin);
    let launch = scene
        .controller(&kubeconfig, &receiver)?
        .flag("--receiver-service-account", LESSER)
        .flag("--receiver-credentials", credentials.display());
    let controller = Process::start(launch.clone()).await?;
    let failures = "chekt_controller_receiver_token_requests_total{outcome=\"error\"}";
    eventually("it to be tried twice", SOON, || async {
        let count = metric(&controller, failures).await?;
        anyhow::ensure!(count >= 2.0, "{count}");
        Ok(())
    })
    .await?;
    let (_, why) = text(format!("http://{}/readyz", controller.ops()?)).await?;
    assert!(
        why.contains("receiver-token: not found: serviceaccounts \"receiver\" not found"),
        "{why}"
    );
    let told = controller.log_lines();
    let told = told
        .iter()
        .filter(|line| line.contains("the receiver cannot be given a token"));
    assert_eq!(told.count(), 1);

    accounts(&scene).await?;
    controller.ready(SOON).await?;
    receiver.ready(SOON).await?;
    let ends = metric(
        &controller,
        "chekt_controller_receiver_token_expiration_timestamp_seconds",
    )
    .await?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs_f64();
    assert!(
        (3500.0..3700.0).contains(&(ends - now)),
        "it ends in {} s",
        ends - now
    );
    Ok(())
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_what_to_write_instead() -> anyhow::Result<()> {
    let basics = [
        "--public-url",
        "https://alarms.example.com",
        "--operator-namespace",
        "ops",
    ];
    for (flags, said) in [
        (
            &["--receiver-service-account", "x"][..],
            "--receiver-credentials <DIR>",
        ),
        (
            &["--receiver-credentials", "/x"],
            "--receiver-service-account <NAME>",
        ),
        (&["--pod-name", "x"], "--pod-uid <UID>"),
    ] {
        let launch = Launch::new(Role::Controller).args(basics).args(flags);
        let refused = Process::start(launch).await.err().context("it was taken")?;
        assert!(format!("{refused:#}").contains(said), "{refused:#}");
    }
    let scene = Scene::new("nowhere").await?;
    let kubeconfig = scene.users.plane.kubeconfig(Identity::Admin);
    let launch = Launch::new(Role::Controller)
        .args(basics)
        .env("KUBECONFIG", kubeconfig.display())
        .flag("--receiver-service-account", LESSER)
        .flag(
            "--receiver-credentials",
            scene.dir.join("nowhere").display(),
        );
    let refused = Process::start(launch).await.err().context("it was taken")?;
    assert!(
        format!("{refused:#}").contains("is no directory: mount a volume there"),
        "{refused:#}"
    );
    let launch = scene
        .receiver()
        .flag("--kubernetes-credentials", scene.dir.display())
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", "https");
    let refused = Process::start(launch).await.err().context("it was taken")?;
    assert!(format!("{refused:#}").contains("is no port"), "{refused:#}");
    Ok(())
}
