//! A small API server in memory: what the engine asks of the real one, and that as the real one does it. Objects with
//! resource versions and generations, conflicts, finalizers and deletion, status by server-side apply. It knows no
//! schemas, no watches and no users.
//!
//! A call may be dropped before it arrives and after it was carried out: on both sides of the effect it waits for one
//! turn of the runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::Bytes;
use chekt_operator::ops::clock::Clock;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::task::yield_now;
use tower::{BoxError, Service};

use super::{Place, Strokes};

/// Plural, namespace (empty: of the cluster) and name.
type Key = (String, String, String);

/// The server. Clones are one server.
#[derive(Clone)]
pub struct ApiServer {
    shelf: Arc<Mutex<Shelf>>,
    clock: Clock,
    strokes: Strokes,
}

#[derive(Default)]
struct Shelf {
    objects: BTreeMap<Key, Object>,
    version: u64,
    made: u64,
    changes: u64,
    writes: BTreeMap<String, u64>,
    mishaps: Vec<Mishap>,
    /// Writes whose caller was gone before they arrived.
    under_way: Vec<Call>,
}

#[derive(Clone)]
struct Object {
    value: Value,
    /// What each field manager has applied to the status.
    applied: BTreeMap<String, Map<String, Value>>,
}

/// What goes wrong with one of the next writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// None of this one.
    Spared,
    /// 503, and nothing was done.
    Refused,
    /// It was done, and the answer says 500.
    AnswerLost,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    key: Key,
    is_status: bool,
    is_apply: bool,
    manager: String,
    body: Value,
}

impl ApiServer {
    pub fn new(clock: Clock, strokes: Strokes) -> Self {
        let shelf = Arc::default();
        ApiServer {
            shelf,
            clock,
            strokes,
        }
    }

    /// A client that calls this server.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Creates an object, as a user does.
    pub fn create(&self, plural: &str, object: Value) -> anyhow::Result<Value> {
        let text = |name: &str| {
            let found = object["metadata"][name].as_str();
            found.unwrap_or_default().to_owned()
        };
        let key = (plural.to_owned(), text("namespace"), text("name"));
        self.by_hand(Method::POST, key, object)
    }

    /// Deletes an object, as a user does.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> anyhow::Result<Value> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.by_hand(Method::DELETE, key, Value::Null)
    }

    /// Changes an object by a merge patch, as a user does.
    pub fn edit(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> anyhow::Result<Value> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.by_hand(Method::PATCH, key, patch)
    }

    /// Applies a part of a status, as another field manager does.
    pub fn apply_status(
        &self,
        manager: &str,
        key: (&str, &str, &str),
        status: &Value,
    ) -> anyhow::Result<()> {
        let (plural, namespace, name) = key;
        let call = Call {
            method: Method::PATCH,
            key: (plural.to_owned(), namespace.to_owned(), name.to_owned()),
            is_status: true,
            is_apply: true,
            manager: manager.to_owned(),
            body: json!({"status": status}),
        };
        let (code, answer) = self.shelf().act(&call, &self.clock);
        anyhow::ensure!(code < 300, "{answer}");
        Ok(())
    }

    fn by_hand(&self, method: Method, key: Key, body: Value) -> anyhow::Result<Value> {
        let call = Call {
            method,
            key,
            is_status: false,
            is_apply: false,
            manager: "user".to_owned(),
            body,
        };
        let (code, answer) = self.shelf().act(&call, &self.clock);
        anyhow::ensure!(code < 300, "{:?}: {answer}", call.key);
        Ok(answer)
    }

    /// One object.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.shelf().objects.get(&key).map(|o| o.value.clone())
    }

    /// Looks at one object.
    pub fn look<R>(&self, key: (&str, &str, &str), look: impl FnOnce(&Value) -> R) -> Option<R> {
        let (plural, namespace, name) = key;
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let inside = self.shelf();
        inside.objects.get(&key).map(|o| look(&o.value))
    }

    /// The names of one kind.
    pub fn names(&self, plural: &str) -> Vec<String> {
        let inside = self.shelf();
        let of_kind = inside.objects.keys().filter(|(kind, ..)| kind == plural);
        of_kind.map(|(_, _, name)| name.clone()).collect()
    }

    /// How many changes there were.
    pub fn changes(&self) -> u64 {
        self.shelf().changes
    }

    /// Every object of one kind.
    pub fn all<K: DeserializeOwned>(&self, plural: &str) -> anyhow::Result<Vec<K>> {
        let inside = self.shelf();
        let of_kind = inside
            .objects
            .iter()
            .filter(|((kind, ..), _)| kind == plural);
        of_kind
            .map(|(_, object)| Ok(serde_json::from_value(object.value.clone())?))
            .collect()
    }

    /// How many writes have changed something, whoever made them: of one kind.
    pub fn writes(&self, plural: &str) -> u64 {
        self.shelf().writes.get(plural).copied().unwrap_or_default()
    }

    /// What goes wrong with the next writes, one after the other.
    pub fn set_mishaps(&self, mut mishaps: Vec<Mishap>) {
        mishaps.reverse();
        self.shelf().mishaps = mishaps;
    }

    /// Carries out the writes that were under way when their caller went.
    pub fn land(&self) {
        let calls = std::mem::take(&mut self.shelf().under_way);
        for call in calls {
            // Nobody is left to be answered.
            let _ = self.shelf().act(&call, &self.clock);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Full<Bytes>>, BoxError> {
        let call = Call::read(request).await?;
        let writes = call.method != Method::GET;
        let mut flight = Flight {
            server: &self,
            call: Some(call),
            place: Place::ClusterBefore,
        };
        yield_now().await;
        let Some(call) = flight.call.take() else {
            return Err("this call was carried out already".into());
        };
        flight.place = Place::ClusterAfter;
        let (code, value) = {
            let mut inside = self.shelf();
            let mishap = writes.then(|| inside.mishaps.pop()).flatten();
            match mishap.unwrap_or(Mishap::Spared) {
                Mishap::Spared => inside.act(&call, &self.clock),
                Mishap::Refused => failure(503, "ServiceUnavailable", &call.key, "not now"),
                Mishap::AnswerLost => {
                    let _ = inside.act(&call, &self.clock);
                    failure(500, "InternalError", &call.key, "the answer was lost")
                }
            }
        };
        yield_now().await;
        flight.place = Place::Nowhere;
        let mut response = Response::new(Full::from(serde_json::to_vec(&value)?));
        *response.status_mut() = StatusCode::from_u16(code)?;
        Ok(response)
    }
}

/// A call under way. Whoever drops it is the caller that went.
struct Flight<'a> {
    server: &'a ApiServer,
    call: Option<Call>,
    place: Place,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let arrives = self.server.strokes.struck(self.place);
        if let Some(call) = self.call.take()
            && arrives
            && call.method != Method::GET
        {
            self.server.shelf().under_way.push(call);
        }
    }
}

impl Service<Request<Body>> for ApiServer {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

impl Call {
    async fn read(request: Request<Body>) -> Result<Call, BoxError> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let mut parts = head.uri.path().trim_matches('/').split('/').peekable();
        // api/v1, or apis and a group and a version.
        let ahead = if parts.next() == Some("api") { 1 } else { 2 };
        for _ in 0..ahead {
            parts.next();
        }
        let namespace = if parts.next_if_eq(&"namespaces").is_some() {
            parts.next().unwrap_or_default()
        } else {
            ""
        };
        let mut rest = parts.map(str::to_owned);
        let (plural, name) = (rest.next(), rest.next());
        let content = head.headers.get("content-type");
        let content = content.and_then(|v| v.to_str().ok()).unwrap_or_default();
        let query = head.uri.query().unwrap_or_default();
        let manager = url::form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "fieldManager")
            .map(|(_, value)| value.into_owned());
        let body: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)?
        };
        let named = body["metadata"]["name"].as_str().map(str::to_owned);
        Ok(Call {
            method: head.method,
            key: (
                plural.unwrap_or_default(),
                namespace.to_owned(),
                name.or(named).unwrap_or_default(),
            ),
            is_status: rest.next().as_deref() == Some("status"),
            is_apply: content.starts_with("application/apply-patch"),
            manager: manager.unwrap_or_default(),
            body,
        })
    }
}

impl Shelf {
    fn act(&mut self, call: &Call, clock: &Clock) -> (u16, Value) {
        let Some(found) = self.objects.get(&call.key).cloned() else {
            return match call.method {
                Method::POST => (201, self.make(call, clock)),
                _ => failure(404, "NotFound", &call.key, "not found"),
            };
        };
        match call.method {
            Method::GET => (200, found.value),
            Method::POST => failure(409, "AlreadyExists", &call.key, "already exists"),
            Method::PUT => self.replace(call, &found),
            Method::DELETE => self.remove(call, found, clock),
            Method::PATCH => match (call.is_apply, call.is_status) {
                (true, true) => self.apply(call, found),
                (false, false) => self.merge(call, &found),
                _ => failure(415, "UnsupportedMediaType", &call.key, "no such patch here"),
            },
            _ => failure(405, "MethodNotAllowed", &call.key, "not allowed"),
        }
    }

    fn make(&mut self, call: &Call, clock: &Clock) -> Value {
        self.made += 1;
        let mut value = call.body.clone();
        let now = clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        value["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.made));
        value["metadata"]["creationTimestamp"] = json!(now);
        if is_ours(&call.key) {
            value["metadata"]["generation"] = json!(1);
            value["status"] = json!({"observedGeneration": -1});
        }
        let applied = BTreeMap::new();
        self.put(&call.key, Object { value, applied })
    }

    /// Takes in a change. One that changes nothing leaves the version as it is.
    fn put(&mut self, key: &Key, mut object: Object) -> Value {
        let old = self.objects.get(key);
        if old.is_some_and(|old| old.value == object.value) {
            self.objects.insert(key.clone(), object.clone());
            return object.value;
        }
        self.version += 1;
        self.changes += 1;
        object.value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        *self.writes.entry(key.0.clone()).or_default() += 1;
        let meta = &object.value["metadata"];
        let is_over = meta["deletionTimestamp"].is_string() && finalizers(&object.value).is_empty();
        if is_over {
            self.objects.remove(key);
        } else {
            self.objects.insert(key.clone(), object.clone());
        }
        object.value
    }

    fn replace(&mut self, call: &Call, found: &Object) -> (u16, Value) {
        if let Some(refused) = stale(call, &found.value) {
            return refused;
        }
        let mut value = call.body.clone();
        for kept in ["uid", "creationTimestamp", "resourceVersion", "generation"] {
            if let Some(old) = found.value["metadata"].get(kept) {
                value["metadata"][kept] = old.clone();
            }
        }
        let applied = found.applied.clone();
        (200, self.put(&call.key, Object { value, applied }))
    }

    fn remove(&mut self, call: &Call, mut found: Object, clock: &Clock) -> (u16, Value) {
        if finalizers(&found.value).is_empty() {
            self.objects.remove(&call.key);
            self.changes += 1;
            *self.writes.entry(call.key.0.clone()).or_default() += 1;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": call.key.2, "kind": call.key.0, "uid": found.value["metadata"]["uid"]}});
            return (200, done);
        }
        if !found.value["metadata"]["deletionTimestamp"].is_string() {
            let now = clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            found.value["metadata"]["deletionTimestamp"] = json!(now);
            found.value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            next_generation(&mut found.value);
        }
        (200, self.put(&call.key, found))
    }

    fn merge(&mut self, call: &Call, found: &Object) -> (u16, Value) {
        if let Some(refused) = stale(call, &found.value) {
            return refused;
        }
        let mut object = found.clone();
        let mut patch = call.body.clone();
        if let Some(fields) = patch.as_object_mut() {
            fields.remove("status");
            if let Some(meta) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.remove("resourceVersion");
            }
        }
        merge(&mut object.value, &patch);
        let (before, after) = (finalizers(&found.value), finalizers(&object.value));
        if found.value["metadata"]["deletionTimestamp"].is_string()
            && after.iter().any(|f| !before.contains(f))
        {
            let why = "no new finalizers can be added if the object is being deleted";
            return failure(422, "Invalid", &call.key, why);
        }
        if object.value["spec"] != found.value["spec"] {
            next_generation(&mut object.value);
        }
        (200, self.put(&call.key, object))
    }

    /// What the manager applied before and applies no longer goes; conditions are told apart by their type. Nothing of the
    /// metadata is looked at, not even the uid.
    fn apply(&mut self, call: &Call, mut found: Object) -> (u16, Value) {
        let wanted = call.body["status"].as_object().cloned().unwrap_or_default();
        let before = found.applied.insert(call.manager.clone(), wanted.clone());
        let before = before.unwrap_or_default();
        if !found.value["status"].is_object() {
            found.value["status"] = json!({});
        }
        let Some(status) = found.value["status"].as_object_mut() else {
            return failure(500, "InternalError", &call.key, "no status");
        };
        for name in before.keys().filter(|name| !wanted.contains_key(*name)) {
            status.remove(name);
        }
        for (name, value) in &wanted {
            let new = if name == "conditions" {
                by_type(status.get(name), before.get(name), value)
            } else {
                value.clone()
            };
            status.insert(name.clone(), new);
        }
        (200, self.put(&call.key, found))
    }
}

/// Conditions after an apply: those there, without those that the manager lets go, with those that it wants.
fn by_type(there: Option<&Value>, before: Option<&Value>, wanted: &Value) -> Value {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (wanted, before) = (list(Some(wanted)), list(before));
    let has = |list: &[Value], one: &Value| list.iter().any(|c| c["type"] == one["type"]);
    let mut all = list(there);
    all.retain(|c| has(&wanted, c) || !has(&before, c));
    for new in wanted {
        match all.iter_mut().find(|c| c["type"] == new["type"]) {
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
    Value::Array(all)
}

fn is_ours((plural, ..): &Key) -> bool {
    plural.starts_with("chekt")
}

fn next_generation(value: &mut Value) {
    if let Some(number) = value["metadata"]["generation"].as_i64() {
        value["metadata"]["generation"] = json!(number + 1);
    }
}

fn finalizers(value: &Value) -> Vec<Value> {
    let list = value["metadata"]["finalizers"].as_array();
    list.cloned().unwrap_or_default()
}

/// A refusal, where the version that the write names is not the present one.
fn stale(call: &Call, found: &Value) -> Option<(u16, Value)> {
    let named = call.body["metadata"]["resourceVersion"].as_str()?;
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    (found["metadata"]["resourceVersion"] != named)
        .then(|| failure(409, "Conflict", &call.key, why))
}

fn failure(code: u16, reason: &str, key: &Key, why: &str) -> (u16, Value) {
    let (plural, _, name) = key;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": format!("{plural} {name:?}: {why}"), "details": {"name": name, "kind": plural},
    });
    (code, status)
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(fields) = target.as_object_mut() else {
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
