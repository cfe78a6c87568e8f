//! What outlives the end of the process, whether it was asked to end or killed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use chekt_operator::sandbox::Settings;
use reqwest::Method;
use serde_json::{Value, json};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::bench::{
    Bench, CLIENT_SECRET, SECRET, TOKEN, WEBHOOKS, client, reply, settings, start, until,
};
use super::receiver::Receiver;

#[tokio::test]
async fn a_restart_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        // The first retry is due in 500 ms.
        time_scale: 0.1,
        state: Some(folder.path().join("state.json")),
        ..settings()
    };
    let bench = start(settings.clone()).await;
    let receiver = Receiver::start(&[500]).await;
    let body = json!({"url": receiver.url, "events": ["site.armed"], "secret": SECRET});
    let create = |bench: &Bench| {
        let request = bench.partner(Method::POST, WEBHOOKS);
        reply(request.header("idempotency-key", "k").json(&body))
    };
    let made = create(&bench).await;
    let gone = bench.made("https://a.example/", &["site.armed"]).await;
    bench.delete(&gone).await;
    let token = reply(bench.request(Method::POST, "/oauth/token").form(&[
        ("grant_type", "client_credentials"),
        ("client_id", "me"),
        ("client_secret", CLIENT_SECRET),
    ]));
    let token = token.await.body["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    bench.emit("site.armed").await;
    until("the first attempt", || async {
        (bench.ledger("delivery").await.len() == 1).then_some(())
    })
    .await;
    bench.stop().await;

    let bench = start(settings).await;
    let list = reply(bench.request(Method::GET, WEBHOOKS).bearer_auth(token)).await;
    assert_eq!(list.body, json!([made.body]));
    assert_eq!(create(&bench).await.body, made.body);
    assert_eq!(bench.list().await.body, json!([made.body]));
    let ended = bench.settled().await;
    assert_eq!(ended[0]["state"], "delivered");
    assert_eq!(ended[0]["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(receiver.bodies(SECRET).len(), 2);
    bench.stop().await;
}

fn spawn(arguments: &[&str], state: Option<&PathBuf>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chekt-operator"));
    command
        .args(["--log-format", "json", "--log", "debug"])
        .args(["sandbox", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for variable in ["CHEKT_TOKEN", "CHEKT_CLIENT_ID", "CHEKT_CLIENT_SECRET"] {
        command.env_remove(variable);
    }
    if let Some(state) = state {
        command.arg("--state").arg(state);
    }
    command.spawn().unwrap()
}

/// The base url of a process, from the line in which it says where it listens.
async fn address(log: &mut BufReader<tokio::process::ChildStderr>) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).await.unwrap(), 0, "the log ended");
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "listening" {
            assert_eq!(line["role"], "sandbox");
            return format!("http://{}", line["public"].as_str().unwrap());
        }
    }
}

#[tokio::test]
async fn a_killed_process_forgets_nothing_that_it_answered_and_logs_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let mut process = spawn(&["--token", TOKEN], Some(&state));
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let base = address(&mut log).await;
    let body = json!({"url": "https://a.example/", "events": ["site.armed"], "secret": SECRET});
    let webhooks = format!("{base}{WEBHOOKS}");
    let made = reply(client().post(webhooks).bearer_auth(TOKEN).json(&body)).await;
    assert_eq!(made.status, 201);
    process.kill().await.unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).await.unwrap();
    assert!(!rest.contains("canary"), "{rest}");

    let mut process = spawn(&["--token", TOKEN], Some(&state));
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let base = address(&mut log).await;
    let webhooks = format!("{base}{WEBHOOKS}");
    let list = reply(client().get(webhooks).bearer_auth(TOKEN)).await;
    assert_eq!(list.body, json!([made.body]));
}

#[tokio::test]
async fn a_process_that_nobody_could_call_does_not_start_and_says_what_to_pass() {
    let process = spawn(&[], None);
    let ended = tokio::time::timeout(Duration::from_secs(15), process.wait_with_output());
    let output = ended.await.expect("it goes on running").unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("--token") && error.contains("--client-id"),
        "{error}"
    );
}
