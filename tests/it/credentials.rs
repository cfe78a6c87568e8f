//! How an account proves who it is, and how few tokens that takes.

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use chekt_operator::resources::conditions::READY;
use serde_json::{Value, json};

use crate::harness::sandbox_client::Fault;
use crate::harness::{Stage, StageOptions, eventually, reaper};

const SOON: Duration = Duration::from_secs(30);

/// A private and a public key in PEM.
struct Pair {
    private: String,
    public: String,
}

impl Pair {
    fn new(private: &[u8], public: &[u8]) -> Pair {
        let pem = |label: &str, der: &[u8]| {
            let text = data_encoding::BASE64.encode(der);
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        Pair {
            private: pem("PRIVATE KEY", private),
            public: pem("PUBLIC KEY", public),
        }
    }

    fn rsa() -> anyhow::Result<Pair> {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048)?;
        let private: Pkcs8V1Der<'_> = pair.as_der()?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
        Ok(Pair::new(private.as_ref(), public.as_ref()))
    }

    fn ec() -> anyhow::Result<Pair> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
        Ok(Pair::new(pair.to_pkcs8v1()?.as_ref(), public.as_ref()))
    }
}

async fn apply_account(stage: &Stage, auth: Value) -> anyhow::Result<()> {
    let account = json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": "default"},
        "spec": {
            "baseURL": stage.base_url()?, "auth": auth, "syncInterval": "10s",
            "rateLimit": {"requestsPerMinute": 100_000, "burst": 10_000},
        },
    });
    stage.users.apply(&account.to_string()).await?;
    Ok(())
}

async fn by_key(idea: &str, pair: Pair) -> anyhow::Result<()> {
    let dir = reaper::directory(idea)?;
    let file = dir.join("public.pem");
    std::fs::write(&file, &pair.public)?;
    let options = StageOptions {
        sandbox: vec!["--client-public-key".to_owned(), file.display().to_string()],
        ..StageOptions::default()
    };
    let stage = Stage::with(idea, options).await?;
    let auth = json!({"privateKeyJWT": {
        "secretRef": {"name": "chekt-key", "key": "key.pem"}, "clientID": stage.client_id, "keyID": "k1",
        "tokenURL": format!("{}/oauth/token", stage.base_url()?), "audience": "partner",
    }});
    // What is in the Secret at first is no key, and that is said with what to write.
    stage
        .users
        .put_secret("chekt-key", &[("key.pem", "hush")])
        .await?;
    apply_account(&stage, auth).await?;
    let ready = stage
        .users
        .account_condition("default", READY, "False", SOON)
        .await?;
    assert_eq!(ready.reason, "SecretNotUsable");
    for words in [
        "key key.pem of Secret chekt-key",
        "-----BEGIN PRIVATE KEY-----",
    ] {
        assert!(ready.message.contains(words), "{}", ready.message);
    }
    assert!(!ready.message.contains("hush"), "{}", ready.message);

    stage
        .users
        .put_secret("chekt-key", &[("key.pem", &pair.private)])
        .await?;
    stage
        .apply_webhook("alarms", &["alarm.triggered"], json!({}))
        .await?;
    stage
        .users
        .webhook_condition("alarms", READY, "True", SOON)
        .await?;
    let ledger = stage.chekt.ledger(0).await?;
    let tokens = ledger.calls("token");
    assert_eq!(tokens.len(), 1, "{tokens:?}");

    // A key that CHeKT does not know is refused like any other credentials.
    let other = Pair::ec()?;
    stage
        .users
        .put_secret("chekt-key", &[("key.pem", &other.private)])
        .await?;
    eventually("the refusal to be said", SOON, || async {
        let ready = stage
            .users
            .account_condition("default", READY, "False", SOON)
            .await?;
        anyhow::ensure!(ready.reason == "CredentialsRejected", "{}", ready.message);
        Ok(())
    })
    .await?;
    for line in stage.all_log_lines() {
        assert!(!line.contains("PRIVATE KEY-----\\nMI"), "{line}");
        assert!(!line.contains("eyJ"), "an assertion is in the log: {line}");
    }
    reaper::remove(&dir);
    Ok(())
}

#[tokio::test]
async fn an_rsa_key_opens_the_account() -> anyhow::Result<()> {
    by_key("rsa-key", Pair::rsa()?).await
}

#[tokio::test]
async fn an_ec_key_opens_the_account() -> anyhow::Result<()> {
    by_key("ec-key", Pair::ec()?).await
}

#[tokio::test]
async fn fifty_webhooks_share_one_token_and_one_that_is_refused_is_replaced_once()
-> anyhow::Result<()> {
    let stage = Stage::new("one-token").await?;
    let secret = [
        ("client_id", stage.client_id.as_str()),
        ("client_secret", stage.client_secret.as_str()),
    ];
    stage.users.put_secret("chekt-client", &secret).await?;
    let webhooks: Vec<String> = (0..50)
        .map(|n| {
            json!({
                "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": format!("w{n}")},
                "spec": {"events": ["alarm.triggered"], "testPolicy": "Never"},
            })
            .to_string()
        })
        .collect();
    stage.users.apply(&webhooks.join("\n---\n")).await?;
    let auth = json!({"clientCredentials": {"secretRef": {"name": "chekt-client"}}});
    apply_account(&stage, auth).await?;
    let all = [
        "wait",
        "--for=condition=Ready",
        "cwh",
        "--all",
        "--timeout=50s",
    ];
    stage.users.kubectl(&all).await?.ok()?;
    let tokens = async || anyhow::Ok(stage.chekt.ledger(0).await?.calls("token").len());
    assert_eq!(stage.chekt.ledger(0).await?.calls("create").len(), 50);
    assert_eq!(tokens().await?, 1);

    // One of fifty edits finds the token refused: one more is fetched, and all of them use it.
    let faults = [Fault::status("patch", "before", 401, 1)];
    stage.chekt.set_faults(&faults).await?;
    let edited = webhooks
        .join("\n---\n")
        .replace("alarm.triggered", "site.armed");
    stage.users.apply(&edited).await?;
    eventually("all to be edited", SOON, || async {
        let there = stage.chekt.webhooks().await?;
        let left = there.iter().filter(|w| w.events != ["site.armed"]).count();
        anyhow::ensure!(left == 0, "{left} are not");
        Ok(())
    })
    .await?;
    assert_eq!(tokens().await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_token_that_lives_for_five_seconds_is_renewed_before_it_ends() -> anyhow::Result<()> {
    let stage = Stage::new("short-token").await?;
    stage
        .chekt
        .set_quirks(json!({"token_expires_in": 5}))
        .await?;
    let secret = [
        ("client_id", stage.client_id.as_str()),
        ("client_secret", stage.client_secret.as_str()),
    ];
    stage.users.put_secret("chekt-client", &secret).await?;
    let auth = json!({"clientCredentials": {"secretRef": {"name": "chekt-client"}}});
    apply_account(&stage, auth).await?;
    stage
        .users
        .account_condition("default", READY, "True", SOON)
        .await?;
    // The second list comes after the first token has ended.
    eventually("a second list", SOON, || async {
        let ledger = stage.chekt.ledger(0).await?;
        let lists = ledger.calls("list");
        anyhow::ensure!(lists.len() >= 2, "{} lists", lists.len());
        assert!(lists.iter().all(|l| l.status == Some(200)), "{lists:?}");
        assert_eq!(ledger.calls("token").len(), lists.len());
        Ok(())
    })
    .await
}
