//! Every reason of a refusal happens on the real binary, and is found in the counter and, where the path names a webhook, in
//! its status.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use chekt_operator::resources::refusal::Refusal;
use kube::api::{DeleteParams, ListParams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::lone::SECRET;
use crate::harness::{Cluster, Identity, Launch, Lone, Process, Role, eventually};

const SOON: Duration = Duration::from_secs(40);
/// The sender that a trusted proxy names in these tests.
const SENDER: &str = "X-Forwarded-For: 192.0.2.7\r\n";

/// The name of a webhook for each reason, so that no write of a status waits for another.
fn name(refusal: Refusal) -> String {
    refusal.outcome().replace('_', "-")
}

/// Sends bytes as they are and reads until the server has nothing more to say.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read all.
    let _ = stream.write_all(bytes).await;
    said(&mut stream).await
}

async fn said(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The reason is counted, and the status of its webhook in this cluster has it if its path was named.
async fn is_told(
    receiver: &Process,
    users: Option<&Cluster>,
    refusal: Refusal,
) -> anyhow::Result<()> {
    let outcome = refusal.outcome();
    eventually(refusal.as_str(), SOON, async || {
        let metrics = receiver.metrics().await?;
        let series = format!("chekt_receiver_deliveries_total{{outcome=\"{outcome}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
        anyhow::ensure!(count.is_some_and(|count| count != "0"), "{count:?}");
        let Some(users) = users else { return Ok(()) };
        let webhook = users.webhooks().get(&name(refusal)).await?;
        let seen = webhook
            .status
            .and_then(|s| s.deliveries)
            .unwrap_or_default();
        anyhow::ensure!(
            seen.last_rejected_reason.as_deref() == Some(refusal.as_str())
                && seen.last_rejected_message.as_deref() == Some(refusal.message()),
            "{seen:?}"
        );
        Ok(())
    })
    .await
}

fn sign(body: &[u8]) -> String {
    crate::deliveries::sign(
        std::str::from_utf8(SECRET).unwrap(),
        std::str::from_utf8(body).unwrap(),
    )
}

#[tokio::test]
async fn every_reason_of_a_refusal_is_counted_and_told_to_the_owner_of_the_webhook()
-> anyhow::Result<()> {
    let names: Vec<String> = Refusal::ALL.iter().copied().map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let flags = [
        "--allow-from",
        "192.0.2.0/24",
        "--trusted-proxy",
        "127.0.0.1",
    ];
    let lone = Lone::start("refusals", &names, Identity::Receiver, &flags).await?;
    let (address, users) = (lone.receiver.public()?, &lone.users);
    let path = |refusal| format!("/webhooks/{}/{}", users.namespace, name(refusal));
    let body = lone.alarm();
    let post = |refusal: Refusal, signature: Option<&str>, more: &str, body: &str| {
        let path = path(refusal);
        let length = body.len();
        let signature =
            signature.map_or(String::new(), |s| format!("X-Webhook-Signature: {s}\r\n"));
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{signature}Content-Length: {length}\r\n{more}\r\n{body}"
        )
    };
    let (right, wrong) = (sign(body.as_bytes()), sign(b"x"));
    let mut shown = BTreeSet::new();

    // The keyring of one webhook is gone.
    let secrets = lone.operator.secrets();
    for secret in secrets.list(&ListParams::default()).await? {
        let name = secret.metadata.name.unwrap();
        let id = secret.data.unwrap_or_default().remove("current-id");
        if id.is_some_and(|id| id.0 == b"key-of-keyring-empty") {
            secrets.delete(&name, &DeleteParams::default()).await?;
        }
    }

    let half = post(Refusal::BodyTooSlow, Some(&wrong), SENDER, &body);
    let (half, _) = half.split_at(half.len() - 10);
    let large = "x".repeat(300_000);
    let cookie = format!("{SENDER}Cookie: {}\r\n", "x".repeat(19 * 1024));
    let proxied = |refusal| {
        let request = post(refusal, Some(&right), SENDER, &body);
        format!("PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n{request}")
    };
    let headers = post(Refusal::HeadersIncomplete, Some(&right), SENDER, &body);
    let (headers, _) = headers.split_once("Content-Length").unwrap();
    let chunks = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nX-Webhook-Signature: {wrong}\r\n{SENDER}Transfer-Encoding: chunked\r\n\r\nno size\r\n",
        path(Refusal::BodyBroken)
    );
    let get = post(Refusal::MethodNotAllowed, Some(&right), SENDER, "").replace("POST", "GET");
    let cases: Vec<(Refusal, String)> = vec![
        (
            Refusal::OriginNotAllowed,
            post(
                Refusal::OriginNotAllowed,
                Some(&right),
                "X-Forwarded-For: 203.0.113.9\r\n",
                &body,
            ),
        ),
        (Refusal::MethodNotAllowed, get),
        (
            Refusal::SignatureMissing,
            post(Refusal::SignatureMissing, None, SENDER, &body),
        ),
        (
            Refusal::SignatureMalformed,
            post(Refusal::SignatureMalformed, Some("sha1=ab"), SENDER, &body),
        ),
        (
            Refusal::SignatureMismatch,
            post(Refusal::SignatureMismatch, Some(&wrong), SENDER, &body),
        ),
        (
            Refusal::ContentEncoded,
            post(
                Refusal::ContentEncoded,
                Some(&wrong),
                &format!("{SENDER}Content-Encoding: gzip\r\n"),
                &body,
            ),
        ),
        (
            Refusal::KeyringEmpty,
            post(Refusal::KeyringEmpty, Some(&right), SENDER, &body),
        ),
        (
            Refusal::BodyTooLarge,
            post(Refusal::BodyTooLarge, Some(&wrong), SENDER, &large),
        ),
        (Refusal::BodyTooSlow, half.to_owned()),
        (Refusal::BodyBroken, chunks),
        (
            Refusal::HeadersTooLarge,
            post(Refusal::HeadersTooLarge, Some(&right), &cookie, &body),
        ),
        (
            Refusal::NotHttp,
            post(Refusal::NotHttp, Some(&right), "no header\r\n", &body),
        ),
        (Refusal::ProxyProtocol, proxied(Refusal::ProxyProtocol)),
    ];
    for (refusal, sent) in cases {
        let expected = refusal.status().unwrap().as_str().to_owned();
        // The receiver hears of the keyring that is gone a moment later.
        eventually(refusal.as_str(), SOON, async || {
            let answer = raw(address, sent.as_bytes()).await;
            anyhow::ensure!(answer.get(9..12) == Some(&*expected), "{answer}");
            Ok(())
        })
        .await?;
        is_told(&lone.receiver, Some(users), refusal).await?;
        shown.insert(refusal.as_str());
    }
    // These have no answer.
    let mut cut = TcpStream::connect(address).await?;
    cut.write_all(headers.as_bytes()).await?;
    cut.shutdown().await?;
    assert_eq!(said(&mut cut).await, "");
    is_told(&lone.receiver, Some(users), Refusal::HeadersIncomplete).await?;
    // And these name no webhook.
    let elsewhere = post(Refusal::SignatureMissing, Some(&right), SENDER, &body);
    let elsewhere = elsewhere.replacen("/signature-missing", "/others", 1);
    assert!(raw(address, elsewhere.as_bytes()).await.contains(" 401 "));
    is_told(&lone.receiver, None, Refusal::UnknownPath).await?;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    assert!(raw(address, hello).await.contains(" 400 "));
    is_told(&lone.receiver, None, Refusal::TlsUnexpected).await?;
    let (client, connection) = h2::client::handshake(TcpStream::connect(address).await?).await?;
    let connection = tokio::spawn(connection);
    let large = http::Request::post(format!("http://{address}/"))
        .header("x-large", "x".repeat(40_000))
        .body(())?;
    let (answer, _) = client.ready().await?.send_request(large, true)?;
    if let Ok(answer) = answer.await {
        assert_eq!(answer.status(), 431);
    }
    connection.abort();
    is_told(&lone.receiver, None, Refusal::StreamRefused).await?;
    shown.extend(
        [
            Refusal::StreamRefused,
            Refusal::HeadersIncomplete,
            Refusal::UnknownPath,
            Refusal::TlsUnexpected,
        ]
        .map(Refusal::as_str),
    );

    // So many large bodies that one more finds no room: it began first, so it gives up first.
    let filling = post(
        Refusal::BodyTooSlow,
        Some(&wrong),
        SENDER,
        &"x".repeat(200_000),
    );
    let last = filling.replacen("/body-too-slow", "/bodies-too-many", 1);
    let (head, rest) = last.split_once("\r\n\r\n").unwrap();
    let health = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    eventually("no room for a body", SOON, async || {
        let mut late = TcpStream::connect(address).await?;
        late.write_all(format!("{head}\r\n\r\n").as_bytes()).await?;
        let mut fillers = Vec::new();
        for _ in 0..60 {
            let mut filler = TcpStream::connect(address).await?;
            let sent = &filling.as_bytes()[..filling.len() - 1];
            filler.write_all(sent).await?;
            fillers.push(filler);
        }
        // Other answers show that the receiver has had time to read.
        for _ in 0..100 {
            assert!(raw(address, health).await.contains(" 200 "));
        }
        late.write_all(&rest.as_bytes()[..rest.len() - 1]).await?;
        let answer = said(&mut late).await;
        anyhow::ensure!(answer.contains(" 503 "), "{answer}");
        Ok(())
    })
    .await?;
    is_told(&lone.receiver, Some(users), Refusal::BodiesTooMany).await?;
    shown.insert(Refusal::BodiesTooMany.as_str());

    // Other receivers for the same webhooks: one that may not read the keyrings, one whose disk takes no more, and
    // two that have little room.
    let dir = tempfile::tempdir()?;
    let another = |journal: &str, keyrings: &str| {
        Launch::new(Role::Receiver)
            .env(
                "KUBECONFIG",
                users.plane.kubeconfig(Identity::Receiver).display(),
            )
            .flag("--journal", dir.path().join(journal).display())
            .flag("--operator-namespace", keyrings)
            .flag("--watch-namespace", &users.namespace)
    };
    let blind = Process::start(another("blind", &users.namespace)).await?;
    let refused = post(Refusal::NotReady, Some(&right), "", &body);
    eventually("the webhooks to be read", SOON, async || {
        let answer = raw(blind.public()?, refused.as_bytes()).await;
        anyhow::ensure!(answer.contains(" 503 "), "{answer}");
        is_told(&blind, None, Refusal::NotReady).await
    })
    .await?;
    is_told(&blind, Some(users), Refusal::NotReady).await?;
    shown.insert(Refusal::NotReady.as_str());
    // It waits for them with the request in its hands, and the sender does not.
    let left = post(Refusal::ConnectionLost, Some(&right), "", &body);
    let left = left.replacen("Connection: close\r\n", "", 1);
    eventually("a sender that leaves to be seen", SOON, async || {
        let mut leaves = TcpStream::connect(blind.public()?).await?;
        leaves.write_all(left.as_bytes()).await?;
        drop(leaves);
        let metrics = blind.metrics().await?;
        let none = "chekt_receiver_deliveries_total{outcome=\"connection_lost\"} 0";
        anyhow::ensure!(!metrics.contains(none), "it is not counted");
        Ok(())
    })
    .await?;
    is_told(&blind, Some(users), Refusal::ConnectionLost).await?;
    shown.insert(Refusal::ConnectionLost.as_str());

    let limited = r#"trap "" XFSZ; ulimit -f 2048; exec "$0" "$@""#;
    let launch = another("limited", &lone.operator.namespace).through(["sh", "-c", limited]);
    let limited = Process::start(launch).await?;
    limited.ready(SOON).await?;
    eventually("a write that fails", SOON, async || {
        let body = format!("{}{}", lone.alarm(), " ".repeat(200_000));
        let sent = post(
            Refusal::JournalFailed,
            Some(&sign(body.as_bytes())),
            "",
            &body,
        );
        let answer = raw(limited.public()?, sent.as_bytes()).await;
        anyhow::ensure!(answer.contains(" 503 "), "{answer}");
        Ok(())
    })
    .await?;
    is_told(&limited, Some(users), Refusal::JournalFailed).await?;
    shown.insert(Refusal::JournalFailed.as_str());

    // Room for one delivery is full with it; of room for eight, one webhook may not take more than half.
    for (room, refusal) in [("1", Refusal::JournalFull), ("8", Refusal::OverShare)] {
        let launch = another(refusal.as_str(), &lone.operator.namespace).args([
            "--journal-max-records",
            room,
            "--events-per-second",
            "1",
            "--events-burst",
            "1",
        ]);
        let crowded = Process::start(launch).await?;
        crowded.ready(SOON).await?;
        eventually("a journal without room", SOON, async || {
            let body = lone.alarm();
            let sent = post(refusal, Some(&sign(body.as_bytes())), "", &body);
            let answer = raw(crowded.public()?, sent.as_bytes()).await;
            anyhow::ensure!(answer.contains(" 503 "), "{answer}");
            Ok(())
        })
        .await?;
        is_told(&crowded, Some(users), refusal).await?;
        shown.insert(refusal.as_str());
    }

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    std::fs::write(&cert, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let launch = another("tls", &lone.operator.namespace)
        .flag("--tls-cert-file", cert.display())
        .flag("--tls-key-file", key.display());
    let tls = Process::start(launch).await?;
    tls.ready(SOON).await?;
    raw(
        tls.public()?,
        post(Refusal::TlsMissing, Some(&right), "", &body).as_bytes(),
    )
    .await;
    is_told(&tls, Some(users), Refusal::TlsMissing).await?;
    raw(tls.public()?, hello).await;
    is_told(&tls, None, Refusal::TlsFailed).await?;
    shown.extend([Refusal::TlsMissing, Refusal::TlsFailed].map(Refusal::as_str));

    let documented: BTreeSet<&str> = Refusal::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(shown, documented);
    Ok(())
}
