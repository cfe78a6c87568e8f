//! What every pass is handed: the edges, the stores, and what the process remembers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use tokio::sync::Mutex as AsyncMutex;
use tokio::sync::mpsc::UnboundedSender;

use super::args::Settings;
use super::connection::{AccountKey, Connection, Wake};
use super::memory::Remembered;
use super::metrics::Metrics;
use crate::account::report::Problem;
use crate::leadership::fence::Fence;
use crate::resources::{ChektAccount, ChektWebhook};
use crate::webhook::identity;

/// What every pass is handed.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What the flags mean.
    pub settings: Settings,
    /// When this process began to lead: what an earlier leader sent may land for a while after it.
    pub started: Instant,
    /// What is counted.
    pub metrics: Metrics,
    /// Publishes transitions as Events.
    pub recorder: Recorder,
    /// Every webhook, by watched namespace.
    pub webhooks: Vec<Store<ChektWebhook>>,
    /// Every account, by watched namespace.
    pub accounts: Vec<Store<ChektAccount>>,
    /// What every call to CHeKT must pass; writes to the API server pass it in the client.
    pub fence: Fence,
    /// Wakes webhooks.
    pub wake: UnboundedSender<Wake>,
    connections: Mutex<HashMap<AccountKey, Slot>>,
    memories: Mutex<HashMap<String, Arc<AsyncMutex<Remembered>>>>,
}

/// What became of an account.
#[derive(Clone)]
pub enum Slot {
    /// It could be connected to.
    Connected(Arc<Connection>),
    /// It could not, because of what is written in it. The connection from before, if there was one, still serves
    /// deletions: a namespace that is deleted as a whole often loses its Secrets first.
    Broken(Problem, Option<Arc<Connection>>),
}

impl Slot {
    /// The connection, or the one from before.
    #[must_use]
    pub fn last_connection(&self) -> Option<&Arc<Connection>> {
        match self {
            Slot::Connected(connection) => Some(connection),
            Slot::Broken(_, last) => last.as_ref(),
        }
    }
}

impl Context {
    /// A context without any memory.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        metrics: Metrics,
        recorder: Recorder,
        fence: Fence,
        stores: (Vec<Store<ChektWebhook>>, Vec<Store<ChektAccount>>),
        wake: UnboundedSender<Wake>,
    ) -> Self {
        let (webhooks, accounts) = stores;
        let (connections, memories) = (Mutex::default(), Mutex::default());
        let started = Instant::now();
        Context {
            client,
            settings,
            started,
            metrics,
            recorder,
            webhooks,
            accounts,
            fence,
            wake,
            connections,
            memories,
        }
    }

    /// The Secrets of a namespace.
    #[must_use]
    pub fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The Secrets of the operator's own namespace.
    #[must_use]
    pub fn keyrings(&self) -> Api<Secret> {
        self.secrets(&self.settings.operator_namespace)
    }

    /// What became of an account; `None` before its first pass.
    #[must_use]
    pub fn slot(&self, key: &AccountKey) -> Option<Slot> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Notes what became of an account. Returns what was noted before.
    pub fn set_slot(&self, key: AccountKey, slot: Slot) -> Option<Slot> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, slot)
    }

    /// What the process remembers of a webhook.
    #[must_use]
    pub fn memory(&self, uid: &str) -> Arc<AsyncMutex<Remembered>> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets a webhook that is gone.
    pub fn forget(&self, uid: &str) {
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }

    /// Whether an account exists, as far as the stores know.
    #[must_use]
    pub fn account_exists(&self, key: &AccountKey) -> bool {
        let object = ObjectRef::new(&key.name).within(&key.namespace);
        self.accounts
            .iter()
            .any(|store| store.get(&object).is_some())
    }

    /// The webhooks of an account, as far as the stores know.
    #[must_use]
    pub fn webhooks_of(&self, key: &AccountKey) -> Vec<Arc<ChektWebhook>> {
        let of = |w: &ChektWebhook| account_of(w) == *key;
        self.webhooks
            .iter()
            .flat_map(|store| store.state_filter(of))
            .collect()
    }

    /// The url that a webhook wants, given or derived.
    #[must_use]
    pub fn wanted_url(&self, webhook: &ChektWebhook) -> String {
        webhook
            .spec
            .url
            .clone()
            .unwrap_or_else(|| self.derived_url(webhook))
    }

    /// The url of our receiver for a webhook.
    #[must_use]
    pub fn derived_url(&self, webhook: &ChektWebhook) -> String {
        let namespace = webhook.namespace().unwrap_or_default();
        identity::derived(&self.settings.public_url, &namespace, &webhook.name_any())
    }
}

/// The account that a webhook names.
#[must_use]
pub fn account_of(webhook: &ChektWebhook) -> AccountKey {
    AccountKey {
        namespace: webhook.namespace().unwrap_or_default(),
        name: webhook.spec.account_ref.name.clone(),
    }
}
