//! TLS by the receiver itself: what is served, how it changes without a restart, and what is wrong with files that cannot
//! be used.

// The helpers below are test code as well; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chekt_operator::journal::Limits as JournalLimits;
use chekt_operator::ops::metrics::Table;
use chekt_operator::receiver::metrics::{self, Metrics, Outcome};
use chekt_operator::receiver::origin::Origins;
use chekt_operator::receiver::server::{Door, Limits};
use chekt_operator::receiver::tls::Files;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Launch, Process, Role, eventually};
use crate::receiver::{ALARM, PATH, Receiver, sign};

const SOON: Duration = Duration::from_secs(20);

/// A certificate for localhost and its key.
struct Made {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Made {
    fn is_valid_now(&self) -> bool {
        let validity = chekt_operator::reach::validity(&self.der).unwrap();
        let now = Timestamp::now();
        validity.not_before <= now && now <= validity.not_after
    }
}

fn made() -> Made {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    Made {
        cert: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

/// A certificate for localhost that is valid from and to so many seconds from now.
fn valid(from: i64, to: i64) -> Made {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = parameters("localhost", from, to).self_signed(&key).unwrap();
    Made {
        cert: cert.pem(),
        key: key.serialize_pem(),
        der: cert.der().clone(),
    }
}

fn parameters(name: &str, from: i64, to: i64) -> rcgen::CertificateParams {
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let now = Timestamp::now();
    let moment =
        |seconds: i64| std::time::SystemTime::from(now + SignedDuration::from_secs(seconds)).into();
    parameters.not_before = moment(from);
    parameters.not_after = moment(to);
    parameters
}

/// A certificate for localhost that is valid for an hour, of an issuer whose own certificate is valid from and to so many
/// seconds from now.
fn issued(from: i64, to: i64) -> Made {
    let issuer_key = rcgen::KeyPair::generate().unwrap();
    let mut issuer = parameters("issuer", from, to);
    issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer_cert = issuer.self_signed(&issuer_key).unwrap();
    let issuer = rcgen::Issuer::new(issuer, issuer_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = parameters("localhost", -60, 3600)
        .signed_by(&key, &issuer)
        .unwrap();
    Made {
        cert: format!("{}{}", cert.pem(), issuer_cert.pem()),
        key: key.serialize_pem(),
        der: cert.der().clone(),
    }
}

/// A mounted Secret, as the kubelet makes and changes it: the files are links to a link to a folder, and the link in the
/// middle is replaced by a rename.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(cert: &str, key: &str) -> Self {
        let mount = Mount(tempfile::tempdir().unwrap());
        mount.change("first", cert, key);
        for name in ["tls.crt", "tls.key"] {
            let link = mount.0.path().join(name);
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
        mount
    }

    fn change(&self, name: &str, cert: &str, key: &str) {
        let (dir, name) = (self.0.path(), format!("..{name}"));
        std::fs::create_dir(dir.join(&name)).unwrap();
        std::fs::write(dir.join(&name).join("tls.crt"), cert).unwrap();
        std::fs::write(dir.join(&name).join("tls.key"), key).unwrap();
        std::os::unix::fs::symlink(&name, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    }

    fn files(&self) -> Files {
        Files {
            cert: self.0.path().join("tls.crt"),
            key: self.0.path().join("tls.key"),
        }
    }
}

/// A receiver that speaks TLS and looks at its files twenty times a second.
async fn receiver(mount: &Mount) -> (Receiver, Metrics) {
    let (tls, watched) = mount.files().load().unwrap();
    let counts = Metrics::register(&mut Table::new(metrics::PREFIX));
    tokio::spawn(watched.follow(Duration::from_millis(50), counts.clone()));
    let door = Door {
        tls: Some(tls),
        ..Door::open(Limits::default())
    };
    let receiver = Receiver::behind(JournalLimits::default(), door, Origins::default()).await;
    (receiver, counts)
}

/// What the receiver shows to a client that trusts these, and how it speaks.
async fn shown(
    receiver: &Receiver,
    trusted: &[&Made],
    alpn: &[&str],
) -> anyhow::Result<(CertificateDer<'static>, String)> {
    let mut roots = RootCertStore::empty();
    for made in trusted {
        roots.add(made.der.clone())?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(receiver.address).await?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let session = stream.get_ref().1;
    let certificates = session.peer_certificates().unwrap_or_default();
    let spoken = session.alpn_protocol().unwrap_or_default();
    Ok((
        certificates[0].clone(),
        String::from_utf8_lossy(spoken).into_owned(),
    ))
}

async fn delivered(client: &reqwest::Client, receiver: &Receiver, body: &str) -> u16 {
    let url = format!("https://localhost:{}{PATH}", receiver.address.port());
    let request = client
        .post(url)
        .header("X-Webhook-Signature", sign(body.as_bytes()))
        .body(body.to_owned());
    request.send().await.unwrap().status().as_u16()
}

fn client(receiver: &Receiver, trusted: &Made) -> reqwest::ClientBuilder {
    let root = reqwest::Certificate::from_pem(trusted.cert.as_bytes()).unwrap();
    reqwest::Client::builder()
        .no_proxy()
        .resolve("localhost", receiver.address)
        .tls_certs_only([root])
}

#[tokio::test]
async fn a_changed_certificate_is_in_force_for_the_next_connection_and_a_broken_one_never()
-> anyhow::Result<()> {
    let (first, second, third) = (made(), made(), made());
    let trusted = [&first, &second, &third];
    let mount = Mount::new(&first.cert, &first.key);
    let (receiver, counts) = receiver(&mount).await;
    let now = async || anyhow::Ok(shown(&receiver, &trusted, &[]).await?.0);
    assert_eq!(now().await?, first.der);
    let kept = client(&receiver, &first).http1_only().build()?;
    assert_eq!(delivered(&kept, &receiver, "one").await, 200);

    let began = Instant::now();
    mount.change("second", &second.cert, &second.key);
    let until = async |made: &Made| {
        eventually("the new certificate", SOON, async || {
            anyhow::ensure!(now().await? == made.der, "another one");
            anyhow::Ok(())
        })
        .await
    };
    until(&second).await?;
    eprintln!("in force after {:?}", began.elapsed());
    // Whoever is connected stays so.
    assert_eq!(delivered(&kept, &receiver, "two").await, 200);

    let kept_before = |outcome| {
        counts
            .certificates
            .get_or_create(&Outcome { outcome })
            .get()
    };
    let broken = [
        ("of two pairs", third.cert.as_str(), first.key.as_str()),
        ("empty", "", ""),
        ("nonsense", "nonsense", third.key.as_str()),
    ];
    for (number, (what, cert, key)) in (1..).zip(broken) {
        mount.change(what, cert, key);
        eventually(what, SOON, async || {
            anyhow::ensure!(kept_before("kept") == number);
            Ok(())
        })
        .await?;
        assert_eq!(now().await?, second.der, "{what}");
    }
    // It looks again and again, and says each once.
    mount.change("third", &third.cert, &third.key);
    until(&third).await?;
    assert_eq!((kept_before("loaded"), kept_before("kept")), (2, 3));
    Ok(())
}

#[tokio::test]
async fn a_metric_tells_when_the_first_certificate_of_the_chain_expires() -> anyhow::Result<()> {
    let now = Timestamp::now().as_second();
    let after = async |made: &Made, seconds: i64| {
        let mount = Mount::new(&made.cert, &made.key);
        let (_receiver, counts) = receiver(&mount).await;
        eventually("the gauge", SOON, async || {
            let seen = counts.certificate_not_after.get();
            let off = (seen - now - seconds).abs();
            anyhow::ensure!(off < 60, "{seen} is {off} s off");
            Ok(())
        })
        .await
    };
    after(&valid(-60, 86_400), 86_400).await?;
    after(&valid(-86_400, -7_200), -7_200).await?;
    after(&issued(-86_400, -7_200), -7_200).await?;
    after(&issued(-86_400, 86_400), 3_600).await
}

#[tokio::test]
async fn a_valid_certificate_stays_in_force_until_the_new_one_is_valid_or_it_is_not()
-> anyhow::Result<()> {
    let (first, expired, early) = (valid(-60, 3600), valid(-3600, -60), valid(4, 3600));
    let mount = Mount::new(&first.cert, &first.key);
    let (receiver, counts) = receiver(&mount).await;
    let trusted = [&first, &expired, &early];
    let count = |outcome| {
        counts
            .certificates
            .get_or_create(&Outcome { outcome })
            .get()
    };
    mount.change("expired", &expired.cert, &expired.key);
    eventually("the expired one to be refused", SOON, async || {
        anyhow::ensure!(count("kept") == 1);
        Ok(())
    })
    .await?;
    assert_eq!(shown(&receiver, &trusted, &[]).await?.0, first.der);
    mount.change("early", &early.cert, &early.key);
    eventually(
        "the one that is not valid yet to be in force",
        SOON,
        async || {
            anyhow::ensure!(count("loaded") == 1, "it is not loaded");
            Ok(())
        },
    )
    .await?;
    assert!(early.is_valid_now(), "it was loaded too early");
    assert_eq!(shown(&receiver, &trusted, &[]).await?.0, early.der);
    Ok(())
}

#[tokio::test]
async fn an_expired_certificate_is_served_and_the_log_says_so_when_it_begins_and_when_it_ends()
-> anyhow::Result<()> {
    // Without credentials for the API server, a receiver serves and answers 503.
    let start = async |mount: &Mount| {
        let files = mount.files();
        let launch = Launch::new(Role::Receiver)
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", "1")
            .flag("--kubernetes-credentials", mount.0.path().display())
            .flag("--operator-namespace", "nowhere")
            .flag("--journal", mount.0.path().join("journal").display())
            .flag("--tls-cert-file", files.cert.display())
            .flag("--tls-key-file", files.key.display());
        Process::start(launch).await
    };
    let says = async |receiver: &Process, words: &str| {
        eventually(words, SOON, async || {
            let lines = receiver.log_lines();
            let said = lines.iter().filter(|line| line.contains(words)).count();
            anyhow::ensure!(said == 1, "said {said} times: {}", receiver.log_tail());
            Ok(())
        })
        .await
    };
    for (made, words) in [
        (valid(-86_400, -7_200), "the certificate expired at"),
        (valid(7_200, 86_400), "the certificate is not valid before"),
        (
            issued(-86_400, -7_200),
            "an issuer's certificate (number 2 of the chain) expired at",
        ),
    ] {
        let mount = Mount::new(&made.cert, &made.key);
        let receiver = start(&mount).await?;
        says(&receiver, words).await?;
        let line = receiver.log_lines();
        let line = line.iter().find(|line| line.contains(words)).unwrap();
        assert!(line.contains("ERROR"), "{line}");
        let made = made.cert.clone();
        assert!(!receiver.log_tail().contains(&made), "{words}");
    }

    // It expires while it is served, and is renewed.
    let made = valid(-60, 5);
    let mount = Mount::new(&made.cert, &made.key);
    let receiver = start(&mount).await?;
    says(&receiver, "the certificate expired at").await?;
    let gauge = "chekt_receiver_certificate_not_after_seconds ";
    let metrics = receiver.metrics().await?;
    let ends: i64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix(gauge))
        .unwrap()
        .parse()?;
    assert!(ends <= Timestamp::now().as_second(), "{ends}");
    let renewed = valid(-60, 3600);
    mount.change("renewed", &renewed.cert, &renewed.key);
    says(&receiver, "the certificate is valid").await
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_over_tls() -> anyhow::Result<()> {
    let made = made();
    let mount = Mount::new(&made.cert, &made.key);
    let (receiver, _) = receiver(&mount).await;
    for (offered, spoken) in [
        (&["h2", "http/1.1"][..], "h2"),
        (&["http/1.1"], "http/1.1"),
        (&[], ""),
    ] {
        assert_eq!(shown(&receiver, &[&made], offered).await?.1, spoken);
    }
    let http1 = client(&receiver, &made).http1_only().build()?;
    let http2 = client(&receiver, &made).http2_prior_knowledge().build()?;
    assert_eq!(delivered(&http1, &receiver, "one").await, 200);
    assert_eq!(delivered(&http2, &receiver, ALARM).await, 200);
    assert_eq!(receiver.journal.depth().pending, 2);
    Ok(())
}

#[tokio::test]
async fn who_does_not_shake_hands_is_cut_and_delays_nobody() -> anyhow::Result<()> {
    let made = made();
    let mount = Mount::new(&made.cert, &made.key);
    let (receiver, _) = receiver(&mount).await;
    let silent = receiver.raw(b"");
    let plain = async {
        let began = Instant::now();
        let said = receiver.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        (said, began.elapsed())
    };
    let delivery = async {
        let client = client(&receiver, &made).build().unwrap();
        delivered(&client, &receiver, ALARM).await
    };
    let began = Instant::now();
    let (said, (to_plain, at_once), status) = tokio::join!(silent, plain, delivery);
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!((said.as_str(), status), ("", 200));
    assert!(!to_plain.contains("HTTP"), "{to_plain}");
    assert!(at_once < Duration::from_secs(4), "{at_once:?}");
    let mut stream = TcpStream::connect(receiver.address).await?;
    stream.write_all(&[0x16, 3, 1, 0xff, 0xff]).await?;
    drop(stream);
    let cut = "chekt_receiver_connections_cut_total{why=\"handshake\"} ";
    eventually("three to be cut", SOON, async || {
        let text = receiver.metrics_text();
        let count = text.lines().find_map(|line| line.strip_prefix(cut));
        anyhow::ensure!(count == Some("3"), "{count:?} are");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_at_the_start_with_what_to_do() -> anyhow::Result<()> {
    let (one, other) = (made(), made());
    let start = async |args: &[&str]| {
        let launch = Launch::new(Role::Receiver)
            .flag("--operator-namespace", "nowhere")
            .args(args);
        match Process::start(launch).await {
            Ok(_) => anyhow::bail!("it has started"),
            Err(error) => Ok(format!("{error:#}")),
        }
    };
    let cases = [
        (
            one.cert.as_str(),
            other.key.as_str(),
            "cannot be used together",
        ),
        ("", one.key.as_str(), "holds no certificate: it must be PEM"),
        (one.key.as_str(), one.key.as_str(), "holds no certificate"),
        (
            one.cert.as_str(),
            one.cert.as_str(),
            "holds no private key: it must be PEM",
        ),
        (
            one.cert.as_str(),
            "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n",
            "holds no private key",
        ),
    ];
    for (cert, key, expected) in cases {
        let mount = Mount::new(cert, key);
        let files = mount.files();
        let (cert, key) = (files.cert.display(), files.key.display());
        let flags = [
            format!("--tls-cert-file={cert}"),
            format!("--tls-key-file={key}"),
        ];
        let said = start(&[flags[0].as_str(), flags[1].as_str()]).await?;
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(!said.contains("c2VjcmV0"), "{said}");
    }
    let said = start(&[
        "--tls-cert-file=/nowhere.crt",
        "--tls-key-file=/nowhere.key",
    ])
    .await?;
    assert!(
        said.contains("cannot read /nowhere.crt: No such file"),
        "{said}"
    );
    let said = start(&["--tls-cert-file=/nowhere.crt"]).await?;
    assert!(said.contains("--tls-key-file"), "{said}");
    let said = start(&["--allow-from=192.0.2.0/24,10.0.0.0/40"]).await?;
    assert!(
        said.contains("write a range of addresses as 192.0.2.0/24"),
        "{said}"
    );
    Ok(())
}
