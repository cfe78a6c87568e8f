//! The naive reconciler: what a small team writes with kube-rs in an afternoon, after the examples of kube-rs.
//!
//! A finalizer, a POST if no id is in the status, else a GET and a PATCH where it differs, a DELETE at the end, and a look
//! every minute. It does what its reader expects of it, as long as nothing dies in between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chekt_operator::resources::{ChektWebhook, FINALIZER};
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const LOOK_AGAIN: Duration = Duration::from_secs(60);

struct Context {
    client: Client,
    http: reqwest::Client,
    collection: String,
    token: String,
    secret: String,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("{0}")]
    Other(String),
    #[error("finalizer: {0}")]
    Finalizer(#[source] Box<kube::runtime::finalizer::Error<Error>>),
}

/// Runs until it is killed.
///
/// # Errors
/// When something is missing in its environment.
pub async fn serve() -> anyhow::Result<()> {
    // kube and reqwest may each want to choose a provider; whoever comes second finds it chosen.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let of = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let client = Client::try_default().await?;
    let api: Api<ChektWebhook> = Api::namespaced(client.clone(), &of("NAMESPACE")?);
    let context = Arc::new(Context {
        client,
        http: reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .build()?,
        collection: format!("{}/partner/v1/webhooks", of("PARTNER_URL")?),
        token: of("PARTNER_TOKEN")?,
        secret: of("SIGNING_SECRET")?,
    });
    Controller::new(api, watcher::Config::default())
        .run(reconcile, error_policy, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                eprintln!("{error}");
            }
        })
        .await;
    Ok(())
}

async fn reconcile(webhook: Arc<ChektWebhook>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = webhook.namespace().unwrap_or_default();
    let api: Api<ChektWebhook> = Api::namespaced(context.client.clone(), &namespace);
    finalizer(&api, FINALIZER, webhook, |event| async {
        match event {
            Event::Apply(webhook) => apply(&context, &api, &webhook).await,
            Event::Cleanup(webhook) => cleanup(&context, &webhook).await,
        }
    })
    .await
    .map_err(|error| Error::Finalizer(Box::new(error)))
}

async fn apply(
    context: &Context,
    api: &Api<ChektWebhook>,
    webhook: &ChektWebhook,
) -> Result<Action, Error> {
    let wanted = json!({
        "url": webhook.spec.url, "events": webhook.spec.events, "secret": context.secret,
    });
    let known = webhook.status.as_ref().and_then(|s| s.webhook_id.clone());
    let remote = match &known {
        Some(id) => context.call(Method::GET, id, None).await?,
        None => None,
    };
    let id = if let (Some(id), Some(remote)) = (known, remote) {
        let events: BTreeSet<&str> = remote["events"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let same = remote["url"].as_str() == webhook.spec.url.as_deref()
            && events == webhook.spec.events.iter().map(String::as_str).collect();
        if !same {
            context.call(Method::PATCH, &id, Some(&wanted)).await?;
        }
        id
    } else {
        let made = context.call(Method::POST, "", Some(&wanted)).await?;
        let id = made.as_ref().and_then(|m| m["webhook_id"].as_str());
        id.ok_or_else(|| Error::Other("the answer has no webhook_id".to_owned()))?
            .to_owned()
    };
    let old = webhook.status.as_ref();
    let told = old.is_some_and(|s| {
        s.webhook_id.as_ref() == Some(&id) && s.observed_generation == webhook.metadata.generation
    });
    if !told {
        let status = json!({"status": {
            "webhookID": id,
            "url": webhook.spec.url,
            "observedGeneration": webhook.metadata.generation,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Synced", "message": "in sync",
                "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }],
        }});
        let parameters = PatchParams::default();
        api.patch_status(&webhook.name_any(), &parameters, &Patch::Merge(status))
            .await?;
    }
    Ok(Action::requeue(LOOK_AGAIN))
}

async fn cleanup(context: &Context, webhook: &ChektWebhook) -> Result<Action, Error> {
    if let Some(id) = webhook.status.as_ref().and_then(|s| s.webhook_id.as_ref()) {
        context.call(Method::DELETE, id, None).await?;
    }
    Ok(Action::await_change())
}

fn error_policy(_: Arc<ChektWebhook>, error: &Error, _: Arc<Context>) -> Action {
    eprintln!("{error}");
    Action::requeue(Duration::from_secs(5))
}

impl Context {
    /// Calls CHeKT. `None`: it does not know the webhook.
    async fn call(
        &self,
        method: Method,
        id: &str,
        body: Option<&Value>,
    ) -> Result<Option<Value>, Error> {
        let url = match id {
            "" => self.collection.clone(),
            id => format!("{}/{id}", self.collection),
        };
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = answer.error_for_status()?.text().await?;
        if text.is_empty() {
            return Ok(Some(Value::Null));
        }
        let value: Value = serde_json::from_str(&text).map_err(|e| Error::Other(e.to_string()))?;
        Ok(Some(match value.get("data") {
            Some(data) => data.clone(),
            None => value,
        }))
    }
}
