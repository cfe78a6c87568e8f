//! `chekt-operator verify`: each thing that can be broken on the way of a delivery is found at its step, with what to do
//! about it, and a way on which nothing is broken is said to work.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chekt_operator::resources::conditions::{READY, SUSPENDED, VERIFIED};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::cluster::Said;
use crate::harness::process::{binary, command_in};
use crate::harness::{Cluster, Identity, Launch, Lone, Process, Role, Stage, StageOptions};

const SOON: Duration = Duration::from_secs(30);
/// The words of our receiver.
const OURS: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n\r\nnot authorized\n";

/// Runs `verify` as somebody, with more environment.
async fn verify_as(
    cluster: &Cluster,
    who: Identity,
    env: &[(&str, &str)],
    args: &[&str],
) -> anyhow::Result<Said> {
    let kubeconfig = cluster.plane.kubeconfig(who).display().to_string();
    let mut all = vec![("KUBECONFIG", kubeconfig.as_str())];
    all.extend(env);
    let mut words = vec!["verify", "-n", &cluster.namespace];
    words.extend(args);
    command_in(&binary()?, &all, &words, "").await
}

/// The same as admin, for programs: exit code and what was said.
pub async fn verify(cluster: &Cluster, args: &[&str]) -> anyhow::Result<(i32, Value)> {
    verify_with(cluster, &[], args).await
}

/// The same, with more environment.
pub async fn verify_with(
    cluster: &Cluster,
    env: &[(&str, &str)],
    args: &[&str],
) -> anyhow::Result<(i32, Value)> {
    let all = [&["-o", "json"], args].concat();
    read(&verify_as(cluster, Identity::Admin, env, &all).await?)
}

fn read(said: &Said) -> anyhow::Result<(i32, Value)> {
    let parsed = serde_json::from_str(&said.stdout);
    let parsed = parsed.map_err(|e| anyhow::anyhow!("{e}: {} {}", said.stdout, said.stderr))?;
    Ok((said.status.code().unwrap_or(-1), parsed))
}

/// What was found at a step.
fn step<'v>(said: &'v Value, name: &str) -> &'v Value {
    let all = said["steps"].as_array().unwrap();
    all.iter().find(|s| s["step"] == name).unwrap()
}

/// That a step came to this, with these words in what was seen and in what is to be done.
#[track_caller]
pub fn finds(said: &Value, name: &str, outcome: &str, seen: &str, next: &str) {
    let found = step(said, name);
    assert_eq!(found["outcome"], outcome, "{said:#}");
    assert!(found["said"].as_str().unwrap().contains(seen), "{found:#}");
    let told = found["next"].as_str().unwrap_or_default();
    assert!(told.contains(next), "{found:#}");
}

/// Text for people without what differs from run to run.
fn masked(stage: &Stage, text: &str) -> String {
    let mut text = text
        .replace(&stage.users.namespace, "NAMESPACE")
        .replace(&stage.receiver.public().unwrap().port().to_string(), "PORT");
    for line in text.clone().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            if matches!(pair[1], "ms" | "s") && pair[0].parse::<f64>().is_ok() {
                // With the blanks before it, which are fewer for a longer time.
                let at = line.find(&format!("{} {}", pair[0], pair[1])).unwrap();
                let before = line[..at].trim_end();
                let after = &line[at + pair[0].len() + pair[1].len() + 1..];
                text = text.replace(line, &format!("{before}  TIME{after}"));
                break;
            }
        }
        for word in words {
            if word.starts_with("webhook_") {
                text = text.replace(word, "ID");
            } else if word.starts_with("alarms.") && word.len() > 20 {
                text = text.replace(word, "EVENT");
            }
        }
    }
    text
}

#[tokio::test]
async fn a_way_on_which_nothing_is_broken_works_from_the_object_to_the_event() -> anyhow::Result<()>
{
    let stage = Stage::verified("verify", &["alarm.triggered"], StageOptions::default()).await?;
    let said = verify_as(&stage.users, Identity::Admin, &[], &["alarms"]).await?;
    assert_eq!(
        said.status.code(),
        Some(0),
        "{}{}",
        said.stdout,
        said.stderr
    );
    insta::assert_snapshot!(masked(&stage, &said.stdout));

    let all = ["-o", "json"];
    let again = verify_as(
        &stage.users,
        Identity::Admin,
        &[],
        &[&all[..], &["alarms"]].concat(),
    )
    .await?;
    let (code, object) = read(&again)?;
    assert_eq!(
        (code, &object["verdict"]),
        (0, &json!("works")),
        "{object:#}"
    );
    for step in object["steps"].as_array().unwrap() {
        assert_eq!(step["outcome"], "ok", "{object:#}");
        assert!(step["tookMs"].is_u64(), "{object:#}");
    }

    // It may be looked at by whoever may only look.
    let_read(&stage.users).await?;
    let somebody = verify_as(
        &stage.users,
        Identity::Somebody,
        &[],
        &[&all[..], &["alarms"]].concat(),
    )
    .await?;
    let (code, object) = read(&somebody)?;
    assert_eq!(code, 0, "{object:#}");
    finds(
        &object,
        "remote",
        "ok",
        "you may not read the account's credentials",
        "",
    );
    finds(
        &object,
        "delivery",
        "warning",
        "you may not patch the webhook",
        "",
    );
    finds(&object, "event", "skipped", "", "");

    let secret = stage
        .chekt
        .webhook_at(&stage.derived_url("alarms")?, SOON)
        .await?
        .secret;
    for said in [&said, &again, &somebody] {
        for canary in [&secret, &stage.token] {
            assert!(!said.stdout.contains(canary.as_str()), "{}", said.stdout);
            assert!(!said.stderr.contains(canary.as_str()), "{}", said.stderr);
        }
    }
    Ok(())
}

/// Rights to look at webhooks and accounts, for somebody who has no others.
async fn let_read(users: &Cluster) -> anyhow::Result<()> {
    let group = "rbac.authorization.k8s.io";
    let rules = json!([
        {"apiGroups": ["chekt.com"], "resources": ["chektwebhooks", "chektaccounts"], "verbs": ["get"]},
    ]);
    let items = json!([
        {"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "looks"}, "rules": rules},
        {"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "looks"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": Identity::Somebody.user()}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "looks"}},
    ]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    users.apply(&list.to_string()).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_said_of_a_webhook_is_said_of_its_state_as_well() -> anyhow::Result<()> {
    let options = StageOptions::default();
    let stage = Stage::with("verify-off", options).await?;
    stage.apply_account("24h").await?;
    let never = json!({"recovery": {"policy": "Never"}});
    stage
        .apply_webhook("alarms", &["alarm.triggered"], never)
        .await?;
    stage
        .users
        .webhook_condition("alarms", VERIFIED, "True", SOON)
        .await?;

    let (code, said) = verify(&stage.users, &["nobody"]).await?;
    assert_eq!(code, 2, "{said:#}");
    finds(
        &said,
        "webhook",
        "failed",
        "does not exist",
        "kubectl get cwh",
    );

    let remote = stage
        .chekt
        .webhook_at(&stage.derived_url("alarms")?, SOON)
        .await?;
    stage
        .chekt
        .patch_webhook(&remote.webhook_id, json!({"status": "disabled"}))
        .await?;
    let mark = stage.chekt.mark().await?;
    let (code, said) = verify(&stage.users, &["alarms"]).await?;
    assert_eq!((code, &said["verdict"]), (2, &json!("fails")), "{said:#}");
    finds(
        &said,
        "remote",
        "failed",
        "is disabled at CHeKT",
        "three failures",
    );
    finds(&said, "answer", "ok", "our receiver", "");
    finds(
        &said,
        "delivery",
        "skipped",
        "not made while remote fails",
        "",
    );
    assert_eq!(stage.chekt.ledger(mark).await?.writes(), [""; 0]);

    // Whoever does not ask hears what the operator saw last.
    let (_, said) = verify(
        &stage.users,
        &["alarms", "--ask-chekt", "never", "--no-test"],
    )
    .await?;
    finds(
        &said,
        "remote",
        "ok",
        "was active when the operator listed last",
        "",
    );

    stage
        .chekt
        .patch_webhook(&remote.webhook_id, json!({"status": "active"}))
        .await?;
    let suspended = json!({"suspend": true});
    stage
        .apply_webhook("alarms", &["alarm.triggered"], suspended)
        .await?;
    stage
        .users
        .webhook_condition("alarms", SUSPENDED, "True", SOON)
        .await?;
    let (code, said) = verify(&stage.users, &["alarms"]).await?;
    assert_eq!(
        (code, &said["verdict"]),
        (3, &json!("unproven")),
        "{said:#}"
    );
    finds(
        &said,
        "delivery",
        "skipped",
        "spec.suspend is true",
        "resume",
    );

    // The credentials go bad: the account says so, and so does who asks.
    stage
        .users
        .put_secret("chekt-token", &[("token", "another")])
        .await?;
    stage
        .users
        .account_condition("default", READY, "False", SOON)
        .await?;
    let (code, said) = verify(&stage.users, &["alarms", "--ask-chekt", "always"]).await?;
    assert_eq!(code, 2, "{said:#}");
    finds(
        &said,
        "account",
        "failed",
        "CredentialsRejected",
        "credentials",
    );
    finds(&said, "remote", "failed", "CHeKT was asked", "credentials");
    Ok(())
}

#[tokio::test]
async fn a_secret_that_does_not_fit_is_found_by_the_test_delivery() -> anyhow::Result<()> {
    let stage = Stage::verified(
        "verify-secret",
        &["alarm.triggered"],
        StageOptions::default(),
    )
    .await?;
    let remote = stage
        .chekt
        .webhook_at(&stage.derived_url("alarms")?, SOON)
        .await?;
    stage
        .chekt
        .patch_webhook(&remote.webhook_id, json!({"secret": "another secret"}))
        .await?;
    let (code, said) = verify(&stage.users, &["alarms"]).await?;
    assert_eq!(code, 2, "{said:#}");
    finds(
        &said,
        "delivery",
        "failed",
        "signature fits no key",
        "rotate",
    );
    finds(&said, "event", "skipped", "", "");
    Ok(())
}

#[tokio::test]
async fn a_receiver_without_the_keyring_is_found_by_the_probe() -> anyhow::Result<()> {
    // Retries that come late enough leave the webhook active.
    let options = StageOptions {
        with_controller: false,
        time_scale: 100.0,
        ..StageOptions::default()
    };
    let stage = Stage::with("verify-keyring", options).await?;
    // The controller keeps its keyrings where the receiver does not look.
    let controller = Launch::new(Role::Controller)
        .env("KUBECONFIG", stage.users.kubeconfig().display())
        .flag("--public-url", stage.public_url()?)
        .flag("--operator-namespace", &stage.users.namespace)
        .flag("--watch-namespace", &stage.users.namespace);
    let _controller = Process::start(controller).await?;
    stage.apply_account("10s").await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let (code, said) = verify(&stage.users, &["alarms"]).await?;
    assert_eq!(code, 2, "{said:#}");
    finds(&said, "answer", "ok", "our receiver", "");
    finds(
        &said,
        "probe",
        "failed",
        "no key yet",
        "--operator-namespace",
    );
    Ok(())
}

/// A webhook that nobody looks after, with a status by hand: all is well but what its url leads to.
async fn webhook_at(cluster: &Cluster, name: &str, url: &str) -> anyhow::Result<()> {
    let webhook = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": name},
        "spec": {"events": ["alarm.triggered"]},
    });
    cluster.apply(&webhook.to_string()).await?;
    registered(cluster, name, url).await
}

/// Writes the status of a webhook as if the controller had registered this url at CHeKT.
pub async fn registered(cluster: &Cluster, name: &str, url: &str) -> anyhow::Result<()> {
    let condition = |kind: &str, reason: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": "By hand.",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let status = json!({"status": {
        "observedGeneration": 1, "webhookID": "webhook_1", "url": url, "state": "active",
        "deliveries": {"lastTestAt": "2026-01-01T00:00:00Z"},
        "conditions": [condition("Ready", "InSync"), condition("Verified", "Verified")],
    }});
    let patch = status.to_string();
    let args = [
        "patch",
        "cwh",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    cluster.kubectl(&args).await?.ok()?;
    Ok(())
}

/// The account of such webhooks.
pub async fn account(cluster: &Cluster) -> anyhow::Result<()> {
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
        "spec": {"auth": {"accessToken": {"secretRef": {"name": "none", "key": "none"}}}},
    });
    cluster.apply(&account.to_string()).await?;
    let status = json!({"status": {"observedGeneration": 1, "conditions": [
        {"type": "Ready", "status": "True", "reason": "Connected", "message": "By hand.",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let patch = status.to_string();
    let args = [
        "patch",
        "cacc",
        "default",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    cluster.kubectl(&args).await?.ok()?;
    Ok(())
}

/// Whatever stands before the receiver, or in its place: it says the same to everybody.
async fn stranger(answer: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(say(stream, answer));
        }
    });
    Ok(address)
}

/// Reads a request to the end of its small body and answers. What does not begin like HTTP ends the conversation.
async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &'static str) {
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    // Bodies are JSON objects, and headers end with none.
    while !seen.ends_with(b"}") {
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 && buffer[0].is_ascii_graphic() => seen.extend_from_slice(&buffer[..n]),
            Ok(n) if n > 0 => {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                return;
            }
            _ => return,
        }
    }
    // Whoever hangs up early is of no interest.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn whatever_stands_in_the_receivers_place_is_called_by_its_name() -> anyhow::Result<()> {
    let cluster = Cluster::new("verify-path").await?;
    account(&cluster).await?;
    // Nobody listens where somebody has just stopped to.
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let at = |address: SocketAddr| format!("http://{address}/webhooks/a/b");
    let bad_gateway =
        stranger("HTTP/1.1 502 Bad Gateway\r\nserver: nginx\r\ncontent-length: 0\r\n\r\n").await?;
    let not_found =
        stranger("HTTP/1.1 404 Not Found\r\ncontent-length: 15\r\n\r\nnot authorized\n").await?;
    let redirect = stranger("HTTP/1.1 308 Permanent Redirect\r\nlocation: https://elsewhere.example/é/x\r\ncontent-length: 0\r\n\r\n").await?;
    let login = stranger("HTTP/1.1 401 Unauthorized\r\ncontent-length: 6\r\n\r\nlog in").await?;
    let polite = stranger("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
    let broken = stranger("what?").await?;
    let ours = stranger(OURS).await?;
    let cases = [
        (
            "https://alarms.example.invalid/x".to_owned(),
            "dns",
            "does not resolve",
            "DNS record",
        ),
        (at(nobody), "tcp", "refuses the connection", "listens"),
        (
            format!("https://{ours}/x"),
            "tls",
            "no TLS handshake",
            "speaks TLS",
        ),
        (
            at(bad_gateway),
            "answer",
            "502 by \"nginx\": a proxy",
            "endpoints",
        ),
        (at(not_found), "answer", "404", "Ingress"),
        (
            at(redirect),
            "answer",
            "a redirect to https://elsewhere.example/ /x",
            "--public-url",
        ),
        (at(login), "answer", "a login", "without a login"),
        (at(polite), "answer", "nobody sees them", "Ingress"),
        (at(broken), "answer", "broke before the answer", "log"),
    ];
    for (n, (url, broken, seen, next)) in cases.iter().enumerate() {
        let name = format!("w{n}");
        webhook_at(&cluster, &name, url).await?;
        let (code, said) = verify(&cluster, &[&name, "--timeout", "1s"]).await?;
        assert_eq!(code, 2, "{url}: {said:#}");
        finds(&said, broken, "failed", seen, next);
        assert!(
            said["said"].as_str().unwrap().starts_with(*broken),
            "{said:#}"
        );
        assert_eq!(said["next"], step(&said, broken)["next"]);
        finds(&said, "delivery", "skipped", "not made while", "");
        let annotations = cluster.webhooks().get(&name).await?.metadata.annotations;
        assert!(!format!("{annotations:?}").contains("test-requested-at"));
    }

    // Within a cluster, a name that leads nowhere is no proof, and what is on record counts.
    let (code, said) = verify(&cluster, &["w0", "--from-inside", "--no-test"]).await?;
    assert_eq!(code, 0, "{said:#}");
    finds(&said, "dns", "warning", "seen from inside", "DNS record");
    // A server that answers as our receiver does, and is none.
    webhook_at(&cluster, "ours", &at(ours)).await?;
    let (code, said) = verify(&cluster, &["ours", "--timeout", "1s"]).await?;
    assert_eq!(code, 2, "{said:#}");
    finds(&said, "answer", "ok", "our receiver", "");
    finds(&said, "probe", "failed", "another receiver", "");
    // From inside, that is no proof, and the test delivery decides: there is no controller to ask for it.
    let args = ["ours", "--from-inside", "--timeout", "1s"];
    let (code, said) = verify(&cluster, &args).await?;
    assert_eq!(code, 2, "{said:#}");
    finds(
        &said,
        "delivery",
        "failed",
        "the controller has not acted",
        "controller runs",
    );
    Ok(())
}

/// A certificate for a name and its key, in PEM, that begins and ends so many days from now.
pub fn certificate(name: &str, begins: i64, ends: i64) -> anyhow::Result<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let parameters = parameters(name, begins, ends)?;
    Ok((parameters.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn parameters(name: &str, begins: i64, ends: i64) -> anyhow::Result<rcgen::CertificateParams> {
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()])?;
    let day = |days: i64| {
        std::time::SystemTime::now() + Duration::from_secs(days.unsigned_abs() * 86_400)
    };
    let moment = |days: i64| -> std::time::SystemTime {
        if days >= 0 {
            day(days)
        } else {
            std::time::SystemTime::now() - Duration::from_secs(days.unsigned_abs() * 86_400)
        }
    };
    parameters.not_before = moment(begins).into();
    parameters.not_after = moment(ends).into();
    Ok(parameters)
}

/// A server with this certificate, which answers as our receiver does.
async fn server(cert: &str, key: &str) -> anyhow::Result<SocketAddr> {
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    say(stream, OURS).await;
                }
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn an_expired_certificate_of_an_issuer_is_not_blamed_on_the_host() -> anyhow::Result<()> {
    let cluster = Cluster::new("verify-chain").await?;
    account(&cluster).await?;
    let dir = tempfile::tempdir()?;
    let root = Issuer::root()?;
    for (n, (begins, ends, outcome, seen, next)) in [
        (-60, 60, "ok", "valid for localhost", ""),
        (
            -60,
            -1,
            "failed",
            "an issuer's certificate (number 2 of the chain) expired at",
            "serve the chain",
        ),
        (
            1,
            60,
            "failed",
            "an issuer's certificate (number 2 of the chain) is not valid before",
            "clocks",
        ),
        (
            -60,
            8,
            "warning",
            "one that it depends on ends within 14 days",
            "serve the chain",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let between = root.issuer(begins, ends)?;
        let (cert, key) = between.certificate()?;
        let chain = format!("{cert}{}", between.pem);
        let address = server(&chain, &key).await?;
        let roots = dir.path().join(format!("{n}.pem"));
        std::fs::write(&roots, &root.pem)?;
        let name = format!("w{n}");
        let url = format!("https://localhost:{}/webhooks/a/b", address.port());
        webhook_at(&cluster, &name, &url).await?;
        let roots = roots.display().to_string();
        let env = [("SSL_CERT_FILE", roots.as_str())];
        let args = [name.as_str(), "--no-test", "--timeout", "1s"];
        let (_, said) = verify_with(&cluster, &env, &args).await?;
        finds(&said, "tls", outcome, seen, next);
    }
    Ok(())
}

/// A certificate that others are issued by.
struct Issuer {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Issuer {
    fn parameters(name: &str, begins: i64, ends: i64) -> anyhow::Result<rcgen::CertificateParams> {
        let mut parameters = parameters("issuer.example", begins, ends)?;
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Ok(parameters)
    }

    fn root() -> anyhow::Result<Self> {
        let parameters = Issuer::parameters("root", -60, 600)?;
        let key = rcgen::KeyPair::generate()?;
        let pem = parameters.self_signed(&key)?.pem();
        let issuer = rcgen::Issuer::new(parameters, key);
        Ok(Issuer { pem, issuer })
    }

    fn issuer(&self, begins: i64, ends: i64) -> anyhow::Result<Self> {
        let parameters = Issuer::parameters("between", begins, ends)?;
        let key = rcgen::KeyPair::generate()?;
        let pem = parameters.signed_by(&key, &self.issuer)?.pem();
        let issuer = rcgen::Issuer::new(parameters, key);
        Ok(Issuer { pem, issuer })
    }

    /// A certificate for localhost that is valid for 60 days, and its key.
    fn certificate(&self) -> anyhow::Result<(String, String)> {
        let key = rcgen::KeyPair::generate()?;
        let parameters = parameters("localhost", -1, 60)?;
        let cert = parameters.signed_by(&key, &self.issuer)?;
        Ok((cert.pem(), key.serialize_pem()))
    }
}

#[tokio::test]
async fn a_certificate_is_judged_as_chekt_would() -> anyhow::Result<()> {
    let cluster = Cluster::new("verify-tls").await?;
    account(&cluster).await?;
    let dir = tempfile::tempdir()?;
    let cases = [
        (("localhost", -1, 60), true, "ok", "59 more days", ""),
        (
            ("localhost", -1, 8),
            true,
            "warning",
            "ends in 7 days",
            "renew",
        ),
        (
            ("localhost", -9, -1),
            true,
            "failed",
            "the certificate expired at",
            "renew",
        ),
        (
            ("localhost", 1, 9),
            true,
            "failed",
            "the certificate is not valid before",
            "clocks",
        ),
        (
            ("other.example", -1, 60),
            true,
            "failed",
            "is for other.example, and not for localhost",
            "tls.hosts",
        ),
        (
            ("localhost", -1, 60),
            false,
            "failed",
            "leads to no root",
            "public CA",
        ),
    ];
    for (n, ((host, begins, ends), trusted, outcome, seen, next)) in cases.into_iter().enumerate() {
        let (cert, key) = certificate(host, begins, ends)?;
        let (other, _) = certificate("unknown", -1, 1)?;
        let address = server(&cert, &key).await?;
        let roots = dir.path().join(format!("{n}.pem"));
        std::fs::write(&roots, if trusted { &cert } else { &other })?;
        let name = format!("w{n}");
        let url = format!("https://localhost:{}/webhooks/a/b", address.port());
        webhook_at(&cluster, &name, &url).await?;
        let roots = roots.display().to_string();
        let args = [name.as_str(), "--no-test", "--timeout", "1s"];
        let env = [("SSL_CERT_FILE", roots.as_str())];
        let (_, said) = verify_with(&cluster, &env, &args).await?;
        finds(&said, "tls", outcome, seen, next);
        let verdict = said["said"].as_str().unwrap();
        assert_eq!(verdict.starts_with("tls"), outcome == "failed", "{said:#}");
        // Who stands behind it is told in any case.
        finds(&said, "answer", "ok", "our receiver", "");
    }
    Ok(())
}

#[tokio::test]
async fn our_own_receiver_is_known_through_its_own_tls() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (cert, key) = certificate("localhost", -1, 60)?;
    let files = [dir.path().join("tls.crt"), dir.path().join("tls.key")];
    std::fs::write(&files[0], cert)?;
    std::fs::write(&files[1], key)?;
    let [cert, key] = files.each_ref().map(|file| file.display().to_string());
    let flags = ["--tls-cert-file", &cert, "--tls-key-file", &key];
    let lone = Lone::start("verify-own-tls", &["alarms"], Identity::Admin, &flags).await?;
    account(&lone.users).await?;
    let url = format!(
        "https://localhost:{}/webhooks/{}/alarms",
        lone.receiver.public()?.port(),
        lone.users.namespace
    );
    webhook_at(&lone.users, "alarms", &url).await?;
    let env = [("SSL_CERT_FILE", cert.as_str())];
    let (code, said) = verify_with(&lone.users, &env, &["alarms", "--no-test"]).await?;
    assert_eq!(code, 0, "{said:#}");
    finds(&said, "tls", "ok", "valid for localhost", "");
    finds(&said, "answer", "ok", "our receiver", "");
    finds(&said, "probe", "ok", "as it was sent", "");
    Ok(())
}

#[tokio::test]
async fn an_installation_is_looked_at_without_any_webhook() -> anyhow::Result<()> {
    let mut stage = Stage::new("verify-installation").await?;
    let operator = stage.operator.namespace.clone();
    let receiver = stage.public_url()?;
    let args = |receiver: &str| {
        let all = [
            "--installation",
            "--operator-namespace",
            &operator,
            "--watch-namespace",
            &stage.users.namespace,
            "--receiver-url",
            receiver,
        ];
        all.map(str::to_owned).to_vec()
    };
    let all = args(&receiver);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let (code, said) = verify(&stage.users, &all).await?;
    assert_eq!((code, &said["verdict"]), (0, &json!("works")), "{said:#}");
    finds(
        &said,
        "definitions",
        "ok",
        "of this version: chektaccounts.chekt.com",
        "",
    );
    finds(&said, "lease", "ok", "held and renewed by", "");
    finds(&said, "receiver", "ok", "our receiver", "");
    finds(&said, "accounts", "ok", "no ChektAccount yet", "");

    // What is broken is said, and whoever may not look is told so.
    stage.receiver.terminate(SOON).await?;
    let (code, said) = verify(&stage.users, &all).await?;
    assert_eq!(code, 2, "{said:#}");
    finds(
        &said,
        "receiver",
        "failed",
        "refuses the connection",
        "endpoints",
    );
    let json = [&all[..], &["-o", "json"]].concat();
    let said = verify_as(&stage.users, Identity::Somebody, &[], &json).await?;
    let (code, said) = read(&said)?;
    assert_eq!(code, 2, "{said:#}");
    finds(
        &said,
        "definitions",
        "skipped",
        "may not get customresourcedefinitions",
        "",
    );
    finds(&said, "lease", "skipped", "may not get leases", "");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_said_at_all_is_an_error_of_its_own() -> anyhow::Result<()> {
    let cluster = Cluster::new("verify-error").await?;
    let said = verify_as(&cluster, Identity::Nobody, &[], &["alarms"]).await?;
    assert_eq!(said.status.code(), Some(1), "{}", said.stdout);
    assert!(said.stderr.contains("forbidden"), "{}", said.stderr);
    let said = verify_as(&cluster, Identity::Admin, &[], &["other/alarms"]).await?;
    assert_eq!(said.status.code(), Some(1), "{}", said.stdout);
    assert!(
        said.stderr.contains("leave one of them out"),
        "{}",
        said.stderr
    );
    Ok(())
}
