//! The manifests of `examples/`, as they are but for what must differ on this machine: where CHeKT is, and a token
//! that it accepts.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};

/// The text of an example.
///
/// # Errors
/// When it cannot be read.
pub fn text(name: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// `secret.yaml` with a token that the sandbox accepts.
///
/// # Errors
/// When it cannot be read.
pub fn secret(token: &str) -> anyhow::Result<String> {
    let mut secret = one("secret.yaml")?;
    secret["stringData"]["token"] = json!(token);
    Ok(secret.to_string())
}

/// `account.yaml` with the sandbox as CHeKT, listed every ten seconds.
///
/// # Errors
/// When it cannot be read.
pub fn account(base_url: &str) -> anyhow::Result<String> {
    let mut account = one("account.yaml")?;
    account["spec"]["baseURL"] = json!(base_url);
    account["spec"]["syncInterval"] = json!("10s");
    Ok(account.to_string())
}

fn one(name: &str) -> anyhow::Result<Value> {
    let text = text(name)?;
    let mut documents = serde_yaml::Deserializer::from_str(&text);
    let document = documents.next().context("an empty example")?;
    anyhow::ensure!(documents.next().is_none(), "{name} holds more than one");
    Ok(Value::deserialize(document)?)
}
