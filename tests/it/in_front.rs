//! `verify` with a real nginx or haproxy between it and the receiver: one case for each thing that such a proxy does wrong.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use chekt_operator::resources::conditions::READY;
use serde_json::{Value, json};

use crate::harness::proxy::{Programs, Tls};
use crate::harness::{Identity, Launch, Lone, Process, Proxy, Role, Stage, StageOptions};
use crate::verify::{account, certificate, finds, registered, verify, verify_with};

const SOON: Duration = Duration::from_secs(30);

/// What a case expects of `verify`.
struct Expected {
    step: &'static str,
    outcome: &'static str,
    said: &'static str,
    next: &'static str,
}

const fn failed(step: &'static str, said: &'static str, next: &'static str) -> Expected {
    Expected {
        step,
        outcome: "failed",
        said,
        next,
    }
}

const fn warning(step: &'static str, said: &'static str, next: &'static str) -> Expected {
    Expected {
        outcome: "warning",
        ..failed(step, said, next)
    }
}

/// A receiver with a webhook for each case, and no controller: the url of each is written into its status.
async fn receiver(idea: &str, cases: usize, flags: &[&str]) -> anyhow::Result<Lone> {
    let names: Vec<String> = (0..cases).map(|n| format!("w{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lone = Lone::start(idea, &names, Identity::Admin, flags).await?;
    account(&lone.users).await?;
    Ok(lone)
}

/// Another receiver of the same webhooks, or of those in another namespace.
async fn another(
    lone: &Lone,
    dir: &tempfile::TempDir,
    watched: &str,
    flags: &[&str],
) -> anyhow::Result<Process> {
    let journal = dir.path().join(format!("journal-{}", uuid::Uuid::new_v4()));
    let launch = Launch::new(Role::Receiver)
        .env("KUBECONFIG", lone.users.kubeconfig().display())
        .flag("--operator-namespace", &lone.operator.namespace)
        .flag("--watch-namespace", watched)
        .flag("--journal", journal.display())
        .args(flags);
    let receiver = Process::start(launch).await?;
    receiver.ready(SOON).await?;
    Ok(receiver)
}

/// Has the url of webhook `n` lead through a proxy.
async fn led(lone: &Lone, n: usize, scheme: &str, proxy: SocketAddr) -> anyhow::Result<()> {
    let namespace = &lone.users.namespace;
    let host = match scheme {
        "https" => format!("localhost:{}", proxy.port()),
        _ => proxy.to_string(),
    };
    let url = format!("{scheme}://{host}/webhooks/{namespace}/w{n}");
    registered(&lone.users, &format!("w{n}"), &url).await
}

/// What `verify` says of webhook `n` behind a proxy.
async fn behind(lone: &Lone, n: usize, proxy: &Proxy, timeout: &str) -> anyhow::Result<Value> {
    led(lone, n, "http", proxy.address).await?;
    let name = format!("w{n}");
    let args = [name.as_str(), "--no-test", "--timeout", timeout];
    let (_, said) = verify(&lone.users, &args).await?;
    Ok(said)
}

/// That a case is found, and that the verdict names a failure.
fn expects(said: &Value, expected: &Expected) {
    let Expected {
        step,
        outcome,
        said: seen,
        next,
    } = expected;
    finds(said, step, outcome, seen, next);
    if *outcome == "failed" {
        let verdict = said["said"].as_str().unwrap();
        assert!(verdict.starts_with(step), "{said:#}");
    }
}

/// Words that a message must not have when something else is to blame.
#[track_caller]
fn blames_nothing_else(said: &Value) {
    for word in ["firewall", "not our receiver"] {
        assert!(!said["said"].as_str().unwrap().contains(word), "{said:#}");
        let next = said["next"].as_str().unwrap_or_default();
        assert!(!next.contains(word), "{said:#}");
    }
}

#[tokio::test]
async fn a_proxy_that_changes_a_request_is_named_by_what_arrives() -> anyhow::Result<()> {
    let Some(programs) = Programs::find().await? else {
        return Ok(());
    };
    let pass = "location / { proxy_pass http://RECEIVER; CHANGE }";
    let large = [1, 2, 3, 4, 5, 6]
        .map(|n| format!("proxy_set_header X-Large-{n} {};", "x".repeat(3_000)))
        .concat();
    let cases = [
        (
            pass.replace("CHANGE", "proxy_set_header X-Webhook-Signature '';"),
            failed(
                "probe",
                "without its X-Webhook-Signature header",
                "pass this header on",
            ),
        ),
        (
            pass.replace("CHANGE", "proxy_pass_request_headers off;"),
            failed(
                "probe",
                "removes headers that it does not know",
                "pass on all headers",
            ),
        ),
        (
            pass.replace("CHANGE", "proxy_set_header X-Webhook-Signature redacted;"),
            failed("probe", "64 hexadecimal digits", "changes this header"),
        ),
        (
            "location /webhooks/ { proxy_pass http://RECEIVER/; }".to_owned(),
            failed("probe", "without its beginning", "rewrite-target"),
        ),
        (
            "location / { proxy_pass http://RECEIVER/hooks/; }".to_owned(),
            failed("probe", "with something before it", "no prefix added"),
        ),
        (
            "location / { rewrite ^ /elsewhere break; proxy_set_header X-Webhook-Signature ''; \
             proxy_pass http://RECEIVER; }"
                .to_owned(),
            failed("probe", "as another path", "rewrite-target"),
        ),
        (
            pass.replace("CHANGE", "proxy_set_header Content-Encoding gzip;"),
            failed("probe", "has a Content-Encoding", "compression"),
        ),
        (
            pass.replace("CHANGE", r#"proxy_set_body '{"cleaned": true}';"#),
            failed("probe", "with another body", "rewrites bodies"),
        ),
        (
            pass.replace("CHANGE", "proxy_method GET;"),
            failed("probe", "not a POST", "changes the method"),
        ),
        (
            pass.replace("CHANGE", &large),
            failed(
                "answer",
                "headers are larger than 16 KiB",
                "adds large headers",
            ),
        ),
    ];
    let lone = receiver("in-front-changes", cases.len() + 1, &[]).await?;
    let address = lone.receiver.public()?.to_string();
    let refused = "chekt_receiver_deliveries_total{outcome=\"signature_mismatch\"}";
    for (n, (server, expected)) in cases.iter().enumerate() {
        let proxy = programs
            .nginx(None, &server.replace("RECEIVER", &address))
            .await?;
        let said = behind(&lone, n, &proxy, "5s").await?;
        expects(&said, expected);
        blames_nothing_else(&said);
        let status = lone.users.webhooks().get(&format!("w{n}")).await?.status;
        let deliveries = status.and_then(|s| s.deliveries).unwrap_or_default();
        let counted = deliveries.last_rejected_reason.is_some();
        // A probe counts as no refused delivery, unless nothing is left by which the receiver could know it.
        let unknown = ["does not know", "larger than"];
        let is_unknown = unknown.iter().any(|words| expected.said.contains(words));
        assert_eq!(counted, is_unknown, "{n}: {said:#}");
    }

    // What a proxy should do.
    let proxy = programs
        .nginx(
            None,
            &pass.replace("RECEIVER", &address).replace("CHANGE", ""),
        )
        .await?;
    let before = lone.metric(refused).await?;
    let said = behind(&lone, cases.len(), &proxy, "20s").await?;
    finds(&said, "answer", "ok", "our receiver", "");
    finds(&said, "probe", "ok", "as it was sent", "");
    let probes = lone.metric("chekt_receiver_deliveries_total{outcome=\"probe\"}");
    assert_eq!(probes.await?, 1);
    assert_eq!(lone.metric(refused).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_answers_itself_is_told_from_the_receiver() -> anyhow::Result<()> {
    let Some(programs) = Programs::find().await? else {
        return Ok(());
    };
    let cases = [
        (
            "location / { return 404; }",
            failed("answer", "404 by \"nginx", "lead this host and path"),
        ),
        (
            "location / { return 503; }",
            failed("answer", "a proxy, which gets no answer", "endpoints"),
        ),
        (
            "location / { default_type text/html; return 200 '<html>Welcome</html>'; }",
            failed("answer", "accepts everything", "lead this path"),
        ),
        (
            "location / { return 308 https://$host:8443$request_uri; }",
            failed(
                "answer",
                "a redirect to https://127.0.0.1:8443/webhooks",
                "--public-url",
            ),
        ),
        (
            "location / { client_max_body_size 1k; proxy_pass http://RECEIVER; }",
            failed("answer", "no body of 4 KiB", "proxy-body-size"),
        ),
        (
            "location / { proxy_pass http://OTHER; }",
            failed("probe", "went to another receiver", "of this cluster"),
        ),
        (
            "proxy_intercept_errors on; error_page 401 =403 @login; \
             location / { proxy_pass http://RECEIVER; } location @login { return 403 'log in'; }",
            warning("answer", "in the place of the receiver", "error pages"),
        ),
    ];
    let lone = receiver("in-front-answers", cases.len(), &[]).await?;
    let dir = tempfile::tempdir()?;
    let other = another(&lone, &dir, &lone.operator.namespace, &[]).await?;
    for (n, (server, expected)) in cases.iter().enumerate() {
        let server = server
            .replace("RECEIVER", &lone.receiver.public()?.to_string())
            .replace("OTHER", &other.public()?.to_string());
        let proxy = programs.nginx(None, &server).await?;
        let said = behind(&lone, n, &proxy, "5s").await?;
        expects(&said, expected);
        assert!(
            !said["next"]
                .as_str()
                .unwrap_or_default()
                .contains("firewall")
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_balancer_that_speaks_another_protocol_than_the_receiver_is_named() -> anyhow::Result<()>
{
    let Some(programs) = Programs::find().await? else {
        return Ok(());
    };
    let lone = receiver("in-front-protocol", 6, &[]).await?;
    let dir = tempfile::tempdir()?;
    let (cert, key) = certificate("localhost", -1, 60)?;
    let files = [dir.path().join("tls.crt"), dir.path().join("tls.key")];
    std::fs::write(&files[0], cert)?;
    std::fs::write(&files[1], key)?;
    let [cert, key] = files.each_ref().map(|file| file.display().to_string());
    let flags = ["--tls-cert-file", &cert, "--tls-key-file", &key];
    let over_tls = another(&lone, &dir, &lone.users.namespace, &flags).await?;
    let (plain, tls) = (lone.receiver.public()?, over_tls.public()?);
    let proxy_protocol = "witch the PROXY protocol off between";
    let http_or_https = "speaks HTTPS to it if it has a certificate";
    let cases = [
        (plain, "send-proxy", Some(("answer", "400", proxy_protocol))),
        (
            plain,
            "send-proxy-v2",
            Some(("answer", "400", proxy_protocol)),
        ),
        (
            plain,
            "ssl verify none",
            Some(("answer", "50", http_or_https)),
        ),
        (tls, "", Some(("answer", "50", http_or_https))),
        (tls, "ssl verify none", None),
        (plain, "", None),
    ];
    for (n, (server, options, expected)) in cases.into_iter().enumerate() {
        let proxy = programs.haproxy(None, server, options).await?;
        let said = behind(&lone, n, &proxy, "20s").await?;
        match expected {
            Some((step, seen, next)) => {
                expects(&said, &failed(step, seen, next));
                blames_nothing_else(&said);
            }
            None => finds(&said, "probe", "ok", "as it was sent", ""),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_origin_is_shown_with_the_address_that_the_receiver_sees() -> anyhow::Result<()> {
    let Some(programs) = Programs::find().await? else {
        return Ok(());
    };
    let allowed = ["--allow-from", "192.0.2.0/24"];
    let lone = receiver("in-front-origin", 4, &allowed).await?;
    let dir = tempfile::tempdir()?;
    let trusting = [&allowed[..], &["--trusted-proxy", "127.0.0.1"]].concat();
    let trusting = another(&lone, &dir, &lone.users.namespace, &trusting).await?;
    let (distrusting, trusting) = (lone.receiver.public()?, trusting.public()?);
    let cases = [
        (
            distrusting,
            "192.0.2.7",
            warning(
                "probe",
                "comes from 127.0.0.1",
                "put it into --trusted-proxy",
            ),
        ),
        (
            trusting,
            "203.0.113.9",
            warning(
                "probe",
                "comes from 203.0.113.9",
                "only CHeKT must be let in",
            ),
        ),
        (
            trusting,
            "nonsense",
            warning("probe", "cannot read which address", "remove the other"),
        ),
        (
            trusting,
            "192.0.2.7",
            Expected {
                step: "probe",
                outcome: "ok",
                said: "as it was sent",
                next: "",
            },
        ),
    ];
    for (n, (server, forwarded, expected)) in cases.iter().enumerate() {
        let server = format!(
            "location / {{ proxy_pass http://{server}; proxy_set_header X-Forwarded-For {forwarded}; }}"
        );
        let proxy = programs.nginx(None, &server).await?;
        expects(&behind(&lone, n, &proxy, "20s").await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_a_proxy_is_judged_and_the_request_goes_through_it() -> anyhow::Result<()>
{
    let Some(programs) = Programs::find().await? else {
        return Ok(());
    };
    let cases = [
        (("localhost", -1, 60), true, None),
        (
            ("localhost", -9, -1),
            true,
            Some(failed("tls", "the certificate expired at", "renew")),
        ),
        (
            ("other.example", -1, 60),
            true,
            Some(failed("tls", "is for other.example", "tls.hosts")),
        ),
        (
            ("localhost", -1, 60),
            false,
            Some(failed("tls", "self-signed", "public CA")),
        ),
    ];
    let lone = receiver("in-front-tls", cases.len(), &[]).await?;
    let address = lone.receiver.public()?;
    let dir = tempfile::tempdir()?;
    for (n, ((host, begins, ends), trusted, expected)) in cases.iter().enumerate() {
        let (chain, key) = certificate(host, *begins, *ends)?;
        let (other, _) = certificate("unknown", -1, 1)?;
        let roots = dir.path().join(format!("{n}.pem"));
        std::fs::write(&roots, if *trusted { &chain } else { &other })?;
        let tls = Tls {
            chain: &chain,
            key: &key,
        };
        let server = format!("location / {{ proxy_pass http://{address}; }}");
        let proxy = programs.nginx(Some(tls), &server).await?;
        led(&lone, n, "https", proxy.address).await?;
        let name = format!("w{n}");
        let roots = roots.display().to_string();
        let env = [("SSL_CERT_FILE", roots.as_str())];
        let args = [name.as_str(), "--no-test", "--timeout", "20s"];
        let (_, said) = verify_with(&lone.users, &env, &args).await?;
        match expected {
            Some(expected) => expects(&said, expected),
            None => finds(&said, "tls", "ok", "valid for localhost", ""),
        }
        finds(&said, "probe", "ok", "as it was sent", "");
    }
    Ok(())
}

#[tokio::test]
async fn strangers_who_send_probes_learn_nothing_and_cause_few_writes() -> anyhow::Result<()> {
    let lone = receiver("in-front-strangers", 2, &[]).await?;
    let namespace = &lone.users.namespace;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let answer = async |path: &str, named: &str, body: &str| {
        let id = uuid::Uuid::new_v4().simple();
        let request = http
            .post(format!("http://{}{path}", lone.receiver.public()?))
            .header("x-chekt-probe", format!("{id}/{named}"))
            .header("x-webhook-signature", format!("sha256={}", "0".repeat(64)))
            .body(body.to_owned());
        let response = request.send().await?;
        let mut headers = response.headers().clone();
        headers.remove("date");
        // Said once a connection has had its share of requests.
        headers.remove("connection");
        anyhow::Ok((response.status(), headers, response.text().await?))
    };
    let (there, absent) = (format!("{namespace}/w0"), format!("{namespace}/absent"));
    let began = std::time::Instant::now();
    let mut answers = Vec::new();
    for n in 0..200 {
        let (path, named) = match n % 4 {
            0 => (&there, &there),
            1 => (&absent, &there),
            2 => (&there, &absent),
            _ => (&absent, &absent),
        };
        answers.push(answer(&format!("/webhooks/{path}"), named, "x").await?);
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(answers[0].0, 401);
    // What no signature fits is a refused delivery, whatever else it calls itself.
    let of = |outcome| format!("chekt_receiver_deliveries_total{{outcome=\"{outcome}\"}}");
    assert_eq!(lone.metric(&of("probe")).await?, 0);
    assert_eq!(lone.metric(&of("signature_mismatch")).await?, 100);
    let writes = lone
        .metric("chekt_receiver_status_writes_total{outcome=\"written\"}")
        .await?;
    let most = 2 + i64::try_from(began.elapsed().as_secs())? / 2;
    assert!(
        (1..=most).contains(&writes),
        "{writes} writes, at most {most}"
    );
    let status = lone.users.webhooks().get("w0").await?.status;
    let probes = status.and_then(|s| s.deliveries).unwrap_or_default().probes;
    assert!((1..=4).contains(&probes.len()), "{probes:?}");
    assert!(probes.iter().all(|probe| probe.intact != Some(true)));
    Ok(())
}

#[tokio::test]
async fn a_test_delivery_is_made_through_a_good_proxy_and_not_through_one_that_removes_its_header()
-> anyhow::Result<()> {
    let Some(programs) = Programs::find().await? else {
        return Ok(());
    };
    for (idea, change, works) in [
        ("in-front-good", "", true),
        (
            "in-front-bad",
            "proxy_set_header X-Webhook-Signature '';",
            false,
        ),
    ] {
        let options = StageOptions {
            with_controller: false,
            ..StageOptions::default()
        };
        let stage = Stage::with(idea, options).await?;
        let server = format!(
            "location / {{ proxy_pass {}; {change} }}",
            stage.public_url()?
        );
        let proxy = programs.nginx(None, &server).await?;
        let controller = Launch::new(Role::Controller)
            .env("KUBECONFIG", stage.users.kubeconfig().display())
            .flag("--public-url", format!("http://{}", proxy.address))
            .flag("--operator-namespace", &stage.operator.namespace)
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
        if works {
            assert_eq!(code, 0, "{said:#}");
            finds(&said, "delivery", "ok", "a test delivery", "");
        } else {
            assert_eq!(code, 2, "{said:#}");
            finds(
                &said,
                "probe",
                "failed",
                "X-Webhook-Signature",
                "pass this header on",
            );
            finds(
                &said,
                "delivery",
                "skipped",
                "not made while probe fails",
                "",
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_delivery_of_chekt_that_is_refused_for_its_origin_is_named() -> anyhow::Result<()> {
    // Retries that come late enough leave the webhook active.
    let options = StageOptions {
        receiver: vec!["--allow-from".to_owned(), "192.0.2.0/24".to_owned()],
        time_scale: 100.0,
        ..StageOptions::default()
    };
    let stage = Stage::with("in-front-refused", options).await?;
    stage.apply_account("24h").await?;
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
        "warning",
        "from 127.0.0.1",
        "--trusted-proxy",
    );
    finds(
        &said,
        "delivery",
        "failed",
        "address is not in --allow-from",
        "add its addresses to --allow-from",
    );
    Ok(())
}
