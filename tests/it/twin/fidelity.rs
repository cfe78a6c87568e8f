//! The small API server held against the real one: the same conversation with both, and the same answers.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use chekt_operator::ops::clock::Clock;
use chekt_operator::resources::{CONTROLLER_MANAGER, ChektWebhook, FINALIZER, RECEIVER_MANAGER};
use k8s_openapi::api::core::v1::Secret;

use super::Strokes;
use super::apiserver::ApiServer;
use crate::harness::Cluster;
use crate::harness::dice::Dice;

/// What came of one call: the code and reason of a refusal, or what the engine looks at in the object.
fn told<K: serde::Serialize>(answer: Result<K, kube::Error>) -> Value {
    let object = match answer {
        Ok(object) => serde_json::to_value(object).unwrap_or_default(),
        Err(kube::Error::Api(status)) => {
            return json!({"code": status.code, "reason": status.reason});
        }
        Err(other) => return json!(other.to_string()),
    };
    let meta = &object["metadata"];
    json!({
        "generation": meta["generation"], "finalizers": meta["finalizers"], "deleting": meta["deletionTimestamp"].is_string(),
        "spec": object["spec"], "status": object["status"], "data": object["data"],
    })
}

/// What the engine says to an API server, with its mistakes.
async fn conversation(client: &Client, namespace: &str) -> anyhow::Result<Vec<(String, Value)>> {
    let webhooks: Api<ChektWebhook> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut said: Vec<(String, Value)> = Vec::new();
    let mut say = |what: &str, answer: Value| said.push((what.to_owned(), answer));
    let (create, merge) = (PostParams::default(), PatchParams::default());

    say("get nothing", told(webhooks.get("alarms").await));
    let object: ChektWebhook = serde_json::from_value(json!({
        "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": "alarms"},
        "spec": {"events": ["alarm.triggered"]},
    }))?;
    let made = webhooks.create(&create, &object).await?;
    say("create", told(Ok(made.clone())));
    say(
        "create again",
        told(webhooks.create(&create, &object).await),
    );

    let version = made.metadata.resource_version.clone();
    let finalizer = |version: Option<String>, all: &[&str]| {
        Patch::Merge(json!({"metadata": {"resourceVersion": version, "finalizers": all}}))
    };
    let patch = finalizer(version.clone(), &[FINALIZER]);
    let with = webhooks.patch("alarms", &merge, &patch).await?;
    say("finalizer", told(Ok(with.clone())));
    let stale = webhooks.patch("alarms", &merge, &patch).await;
    say("finalizer with a stale version", told(stale));
    let same = finalizer(with.metadata.resource_version.clone(), &[FINALIZER]);
    let unchanged = webhooks.patch("alarms", &merge, &same).await?;
    let is_same = unchanged.metadata.resource_version == with.metadata.resource_version;
    say(
        "a patch that changes nothing keeps the version",
        json!(is_same),
    );

    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "R", "message": "m", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let uid = with.metadata.uid.clone();
    let apply = |uid: Option<String>, status: Value| {
        Patch::Apply(json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektWebhook", "metadata": {"name": "alarms", "uid": uid},
            "status": status,
        }))
    };
    let (controller, receiver) = (
        PatchParams::apply(CONTROLLER_MANAGER).force(),
        PatchParams::apply(RECEIVER_MANAGER).force(),
    );
    let first = json!({"observedGeneration": 1, "webhookID": "w1", "url": "https://a.example",
        "lastOutage": {"from": "2026-01-01T00:00:00Z"},
        "conditions": [condition("Ready", "False"), condition("Reconciling", "True")]});
    let patch = apply(uid.clone(), first.clone());
    let answer = webhooks.patch_status("alarms", &controller, &patch).await?;
    say("status", told(Ok(answer.clone())));
    let again = webhooks.patch_status("alarms", &controller, &patch).await?;
    let is_same = again.metadata.resource_version == answer.metadata.resource_version;
    say(
        "a status that says the same keeps the version",
        json!(is_same),
    );
    let seen = json!({"deliveries": {"lastEvent": "webhook.test"}});
    let answer = webhooks
        .patch_status("alarms", &receiver, &apply(uid.clone(), seen))
        .await;
    say("another manager's part of the status", told(answer));
    let second = json!({"observedGeneration": 1, "url": "https://a.example",
        "lastOutage": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:01:00Z"},
        "conditions": [condition("Ready", "True")]});
    let answer = webhooks
        .patch_status("alarms", &controller, &apply(uid.clone(), second.clone()))
        .await;
    say("a status that lets go of some of it", told(answer));
    let other = Some("00000000-0000-4000-8000-00000000ffff".to_owned());
    let answer = webhooks
        .patch_status("alarms", &controller, &apply(other, second.clone()))
        .await;
    say("the status of another object", told(answer));

    let edit = Patch::Merge(json!({"spec": {"events": ["site.armed"]}}));
    say("edit", told(webhooks.patch("alarms", &merge, &edit).await));
    let mark = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    say(
        "annotate",
        told(webhooks.patch("alarms", &merge, &mark).await),
    );

    let mut secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "keyring"}, "data": {"attempt": "MQ=="},
    }))?;
    let made = secrets.create(&create, &secret).await?;
    say("keyring", told(Ok(made.clone())));
    say(
        "keyring again",
        told(secrets.create(&create, &secret).await),
    );
    secret.metadata.resource_version = made.metadata.resource_version;
    secret.data = serde_json::from_value(json!({"attempt": "Mg=="}))?;
    let replaced = secrets.replace("keyring", &create, &secret).await;
    say("replace the keyring", told(replaced));
    let stale = secrets.replace("keyring", &create, &secret).await;
    say("replace the keyring with a stale version", told(stale));
    let mut other = secret.clone();
    other.metadata.name = Some("nothing".to_owned());
    let answer = secrets.replace("nothing", &create, &other).await;
    say("replace a keyring that is gone", told(answer));
    let delete = DeleteParams::default();
    let gone = secrets.delete("keyring", &delete).await?.is_right();
    say("delete the keyring: it is gone at once", json!(gone));
    let again = secrets.delete("keyring", &delete).await;
    say("delete it again", told(again.map(|_| ())));

    let left = webhooks.delete("alarms", &delete).await?.left();
    let deleted = left.clone().map(Ok).map(told);
    say("delete: the finalizer keeps it", json!(deleted));
    let version = left.and_then(|object| object.metadata.resource_version);
    let more = finalizer(version.clone(), &[FINALIZER, "example.com/more"]);
    let answer = webhooks.patch("alarms", &merge, &more).await;
    say("one more finalizer", told(answer));
    let answer = webhooks
        .patch_status("alarms", &controller, &apply(uid.clone(), second.clone()))
        .await;
    say("the status of one that is being deleted", told(answer));
    let present = webhooks.get("alarms").await?.metadata.resource_version;
    let answer = webhooks
        .patch("alarms", &merge, &finalizer(present, &[]))
        .await;
    say("release", json!(told(answer)["deleting"]));
    say("it is gone", told(webhooks.get("alarms").await));
    let answer = webhooks
        .patch("alarms", &merge, &finalizer(version, &[]))
        .await;
    say("release it again", told(answer));
    let answer = webhooks
        .patch_status("alarms", &controller, &apply(None, second))
        .await;
    // Here the real one would make an object of a status, if it were not for the spec that it lacks.
    say(
        "the status of nothing",
        json!(told(answer)["code"].is_number()),
    );
    Ok(said)
}

#[tokio::test]
async fn the_small_api_server_answers_as_the_real_one_does() -> anyhow::Result<()> {
    let cluster = Cluster::new("fidelity").await?;
    let real = conversation(&cluster.client, &cluster.namespace).await?;
    let server = ApiServer::new(Clock::machine(), Strokes::new(Dice::default()));
    let small = conversation(&server.client(), "fidelity").await?;
    for (real, small) in real.iter().zip(&small) {
        assert_eq!(small, real);
    }
    assert_eq!(small.len(), real.len());
    Ok(())
}
