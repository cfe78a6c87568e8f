//! What every pass is handed: the edges, the stores, and what the process remembers.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use tokio::sync::Mutex as AsyncMutex;
use tokio::sync::mpsc::UnboundedSender;

use super::args::Settings;
use super::claims::{self, Claims};
use super::connection::{Connection, Wake};
use super::definition::Definition;
use super::echoes::Echoes;
use super::holds::Holds;
use super::memory::Remembered;
use super::metrics::Metrics;
use super::namespaces::Namespaces;
use super::transitions::Transitions;
use crate::account::report::Problem;
use crate::account::tenancy::{self, Permission};
use crate::leadership::fence::Fence;
use crate::ops::clock::Clock;
use crate::resources::account::{AccountName, AllowedNamespaces};
use crate::resources::keyring::Keyring;
use crate::resources::{ChektAccount, ChektWebhook, remote};

/// Where kubectl keeps what was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

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
    /// Where transitions are put that are to become Events.
    pub transitions: Transitions,
    /// Every webhook, by watched namespace.
    pub webhooks: Vec<Webhooks>,
    /// Every account, by watched namespace.
    pub accounts: Vec<Accounts>,
    /// The labels of namespaces.
    pub namespaces: Namespaces,
    /// What every call to CHeKT must pass; writes to the API server pass it in the client.
    pub fence: Fence,
    /// Tells the time.
    pub clock: Clock,
    /// Wakes webhooks.
    pub wake: UnboundedSender<Wake>,
    /// Whether the definition of `ChektWebhook` is being deleted.
    pub definition: Definition,
    /// Who holds which account.
    pub holds: Holds,
    /// Held by whoever changes a record of orphans, so that passes do not run into each other's versions.
    pub orphans: AsyncMutex<()>,
    /// What our own writes have made of webhooks, by their uid.
    pub webhook_echoes: Echoes,
    /// What our own writes have made of accounts, by their uid.
    pub account_echoes: Echoes,
    /// What our own writes have made of keyrings, by their names.
    pub keyring_echoes: Echoes,
    connections: Mutex<HashMap<AccountName, Slot>>,
    allowed: Mutex<HashMap<AccountName, AllowedNamespaces>>,
    memories: Mutex<HashMap<String, Arc<AsyncMutex<Remembered>>>>,
}

/// The webhooks of one watched namespace: a store that also knows who wants which url.
pub struct Webhooks {
    /// What the watch has shown.
    pub store: Store<ChektWebhook>,
    /// Who of them wants which url.
    pub claims: Arc<Claims>,
}

impl Deref for Webhooks {
    type Target = Store<ChektWebhook>;

    fn deref(&self) -> &Store<ChektWebhook> {
        &self.store
    }
}

/// The accounts of one watched namespace.
pub struct Accounts {
    /// Which namespace; `None`: all.
    pub namespace: Option<String>,
    /// What the watch has shown.
    pub store: Store<ChektAccount>,
    /// Whether that is all there is.
    pub listed: Arc<AtomicBool>,
}

/// An account, as far as the stores know.
pub enum Known {
    /// It is there.
    There(Arc<ChektAccount>),
    /// It is not.
    Absent,
    /// Its namespace was not listed yet.
    NotYet,
    /// Its namespace is not looked after.
    NotWatched,
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
    ///
    /// It is made on a runtime, since its transitions have a task of their own.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        metrics: Metrics,
        fence: Fence,
        clock: Clock,
        stores: (Vec<Webhooks>, Vec<Accounts>),
        wake: UnboundedSender<Wake>,
    ) -> Self {
        let (webhooks, accounts) = stores;
        let (connections, memories) = (Mutex::default(), Mutex::default());
        let allowed = Mutex::default();
        let namespaces = Namespaces::new(settings.watch_namespaces.is_empty());
        let started = clock.now();
        let transitions = Transitions::start(client.clone(), metrics.clone());
        Context {
            client,
            settings,
            started,
            metrics,
            transitions,
            webhooks,
            accounts,
            namespaces,
            fence,
            clock,
            wake,
            definition: Definition::default(),
            holds: Holds::default(),
            orphans: AsyncMutex::default(),
            webhook_echoes: Echoes::default(),
            account_echoes: Echoes::default(),
            keyring_echoes: Echoes::default(),
            connections,
            allowed,
            memories,
        }
    }

    /// The time by the clock of the API server, which stamps objects; it is the same one for every controller. Where its
    /// answers carry no date, the clock of this machine stands in.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        let of_server = self.metrics.kubernetes.time();
        of_server.unwrap_or_else(|| self.clock.wall())
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
    pub fn slot(&self, key: &AccountName) -> Option<Slot> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Notes what became of an account. Returns what was noted before.
    pub fn set_slot(&self, key: AccountName, slot: Slot) -> Option<Slot> {
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
        self.webhook_echoes.forget(uid);
        self.keyring_echoes.forget(&Keyring::secret_name(uid));
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
        self.holds.forget(uid);
    }

    /// Notes whom an account allows. Returns whether that is news.
    pub fn has_changed(&self, key: &AccountName, allowed: &AllowedNamespaces) -> bool {
        let mut known = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(key) {
            Some(old) if old == allowed => false,
            Some(_) | None => known.insert(key.clone(), allowed.clone()).is_some(),
        }
    }

    /// An account, as far as the stores know.
    #[must_use]
    pub fn account(&self, key: &AccountName) -> Known {
        let watched = |a: &&Accounts| a.namespace.as_ref().is_none_or(|n| *n == key.namespace);
        let Some(accounts) = self.accounts.iter().find(watched) else {
            return Known::NotWatched;
        };
        // First the flag: what comes in between is in the store.
        let listed = accounts.listed.load(Ordering::Acquire);
        let object = ObjectRef::new(&key.name).within(&key.namespace);
        match accounts.store.get(&object) {
            Some(account) => Known::There(account),
            None if listed => Known::Absent,
            None => Known::NotYet,
        }
    }

    /// Whether every webhook that is looked after is known. Before that, an account may look as if nobody used it.
    #[must_use]
    pub fn knows_all_webhooks(&self) -> bool {
        self.webhooks.iter().all(|known| known.claims.is_complete())
    }

    /// The account that a webhook is to use. `on_record`: the one that it is with.
    #[must_use]
    pub fn choose(&self, webhook: &ChektWebhook, on_record: Option<&AccountName>) -> AccountName {
        let namespace = webhook.namespace().unwrap_or_default();
        let shared = self.settings.default_account.as_ref();
        let may_exist =
            |own: &AccountName| matches!(self.account(own), Known::There(_) | Known::NotYet);
        tenancy::choose(
            &webhook.spec.account_ref,
            &namespace,
            shared,
            on_record,
            may_exist,
        )
    }

    /// The account that a webhook is with, else the one that it is to use, as far as the stores know.
    #[must_use]
    pub fn account_of(&self, webhook: &ChektWebhook) -> AccountName {
        on_record(webhook).unwrap_or_else(|| self.choose(webhook, None))
    }

    /// Whether a webhook may use an account that exists.
    #[must_use]
    pub fn permits(
        &self,
        account: &ChektAccount,
        key: &AccountName,
        namespace: &str,
    ) -> Permission {
        let allowed = &account.spec.allowed_namespaces;
        tenancy::permits(key, allowed, namespace, || {
            self.namespaces.labels(namespace)
        })
    }

    /// The webhooks that use an account or would like to, as far as the stores know.
    #[must_use]
    pub fn webhooks_of(&self, key: &AccountName) -> Vec<Arc<ChektWebhook>> {
        self.webhooks
            .iter()
            .flat_map(|store| store.state_filter(|w| self.account_of(w) == *key))
            .collect()
    }

    /// The webhooks that an account serves: those that are with it, and those that may be. One that may not must not
    /// stand in the way of one that may.
    #[must_use]
    pub fn served_by(&self, key: &AccountName) -> Vec<Arc<ChektWebhook>> {
        let mut webhooks = self.webhooks_of(key);
        webhooks.retain(|w| self.serves(key, w));
        webhooks
    }

    /// Whether an account serves a webhook that uses it or would like to.
    fn serves(&self, key: &AccountName, webhook: &ChektWebhook) -> bool {
        let namespace = webhook.namespace().unwrap_or_default();
        namespace == key.namespace
            || on_record(webhook).is_some()
            || match self.account(key) {
                Known::There(account) => {
                    self.permits(&account, key, &namespace) == Permission::Granted
                }
                Known::Absent | Known::NotYet | Known::NotWatched => false,
            }
    }

    /// The webhooks of an account that want `url`, in whatever spelling, the asking one among them.
    #[must_use]
    pub fn rivals(&self, key: &AccountName, url: &str) -> Vec<Arc<ChektWebhook>> {
        let known = self.webhooks.iter();
        let mut rivals: Vec<_> = known.flat_map(|w| w.claims.of(url, &w.store)).collect();
        rivals.retain(|w| {
            remote::same(&self.wanted_url(w), url)
                && self.account_of(w) == *key
                && self.serves(key, w)
        });
        rivals
    }

    /// The webhooks of some namespaces whose account is in another one.
    #[must_use]
    pub fn guests(&self, namespaces: &HashSet<String>) -> Vec<Arc<ChektWebhook>> {
        let guest = |w: &ChektWebhook| {
            let namespace = w.namespace().unwrap_or_default();
            namespaces.contains(&namespace) && self.account_of(w).namespace != namespace
        };
        self.webhooks
            .iter()
            .flat_map(|store| store.state_filter(guest))
            .collect()
    }

    /// The url that a webhook wants, given or derived.
    #[must_use]
    pub fn wanted_url(&self, webhook: &ChektWebhook) -> String {
        claims::wanted_url(&self.settings.public_url, webhook)
    }

    /// The url of our receiver for a webhook.
    #[must_use]
    pub fn derived_url(&self, webhook: &ChektWebhook) -> String {
        claims::derived_url(&self.settings.public_url, webhook)
    }
}

/// Leaves out of a store what nobody asks it for, which is half of an object.
pub fn lighten<K: kube::Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// The account that a webhook is with, as its status says. Only the keyring is believed where credentials are at stake.
fn on_record(webhook: &ChektWebhook) -> Option<AccountName> {
    webhook.status.as_ref()?.account.as_ref()?.parse().ok()
}
