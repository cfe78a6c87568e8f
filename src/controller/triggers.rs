//! Triggers: what makes a pass happen.
//!
//! | what changes | who looks again |
//! | --- | --- |
//! | a webhook | itself |
//! | an account | itself; its webhooks, once its health differs |
//! | a Secret, as metadata only | the webhooks and accounts that name it |
//! | a keyring, as metadata only | its webhook |
//! | the last webhook of an account goes | the account |
//! | the roster | the webhooks whose id or url is concerned |
//! | the account's budget | the webhook whose turn it is |
//! | whom an account allows | its webhooks, and those that would like to be |
//! | the labels of a namespace, once a selector asks for them | its webhooks that use an account of another namespace |

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::args::Settings;
use super::claims::Claims;
use super::connection::Wake;
use super::context::{Accounts, Context, Webhooks, lighten};
use super::metrics::Metrics;
use super::{account, namespaced, namespaces, webhook};
use crate::account::roster::Changes;
use crate::leadership::fence::Fence;
use crate::ops::clock::Clock;
use crate::ops::health::Gate;
use crate::resources::account::AccountName;
use crate::resources::keyring::{LABEL, WEBHOOK_NAME, WEBHOOK_NAMESPACE};
use crate::resources::remote::canonical;
use crate::resources::{ChektAccount, ChektWebhook};

/// How long passes under way may take to finish when the process ends: less than the 30 s that Kubernetes gives.
const LAST: Duration = Duration::from_secs(20);

/// The watches of all our objects. They keep the stores warm while the process stands by, and feed the controllers
/// once it leads.
pub struct Watches(Vec<Watched>);

/// The two watches of one namespace.
struct Watched {
    namespace: Option<String>,
    webhooks: Watch<ChektWebhook>,
    claims: Arc<Claims>,
    accounts: Watch<ChektAccount>,
}

/// A watch of one kind in one namespace, and the store that it fills.
struct Watch<K: kube::Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    /// Whether the store has been complete at least once.
    complete: Arc<AtomicBool>,
    events: BoxStream<'static, Result<watcher::Event<K>, watcher::Error>>,
}

/// Opens the gate once every watch has been complete at least once.
///
/// `Store::wait_until_ready` would say the same, and cannot be used: it keeps one waker, the controller waits on it
/// too, and of two who wait one may never be woken (measured with kube 5.0.0 on empty namespaces).
#[derive(Clone)]
struct Listed {
    left: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

impl Listed {
    fn one(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.gate.open();
        }
    }
}

impl<K> Watch<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    /// A watch that backs off by itself and says when its list is complete. Nothing happens until it is polled. `saw` is
    /// told of each event once it is in the store.
    fn new(
        client: &Client,
        namespace: Option<&str>,
        listed: Listed,
        saw: impl Fn(&watcher::Event<K>, &Store<K>) + Send + 'static,
    ) -> Self {
        let (store, writer) = reflector::store();
        let api: Api<K> = namespaced(client, namespace);
        let mut first = Some(listed);
        let complete = Arc::new(AtomicBool::new(false));
        let is_complete = Arc::clone(&complete);
        let shown = store.clone();
        let events = watcher(api, watcher::Config::default())
            .default_backoff()
            .modify(lighten)
            .reflect(writer)
            .inspect_ok(move |event| {
                saw(event, &shown);
                if matches!(event, watcher::Event::InitDone)
                    && let Some(listed) = first.take()
                {
                    is_complete.store(true, Ordering::Release);
                    listed.one();
                }
            })
            .boxed();
        Watch {
            store,
            complete,
            events,
        }
    }

    /// Fills the store, and does nothing else.
    async fn warm(&mut self) {
        while let Some(event) = self.events.next().await {
            if let Err(error) = event {
                tracing::warn!(what = %K::kind(&()), %error, "a watch broke off and is tried again");
            }
        }
    }

    /// A controller over all that is in the store, and whatever changes from now on but for the echoes of our own writes.
    fn into_controller(
        self,
        concurrency: u16,
        is_echo: impl Fn(&K) -> bool + Send + 'static,
    ) -> Controller<K> {
        let Watch {
            store,
            complete: _,
            events,
        } = self;
        let begin = futures::stream::iter(store.state()).map(Ok);
        let state = store.clone();
        // At the end of a list everything is looked at: its beginning may have gone by while the process stood by.
        let later = events.flat_map(move |event| {
            futures::stream::iter(match event {
                Ok(watcher::Event::Apply(object)) if is_echo(&object) => vec![],
                Ok(watcher::Event::Apply(object)) => vec![Ok(Arc::new(object))],
                Ok(watcher::Event::InitDone) => state.state().into_iter().map(Ok).collect(),
                Ok(
                    watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitApply(_),
                ) => vec![],
                Err(error) => vec![Err(error)],
            })
        });
        let objects = begin.chain(later).map_ok(|object| (*object).clone());
        Controller::for_stream(objects, store)
            .with_config(Config::default().concurrency(concurrency))
    }
}

impl Watches {
    /// The watches of all namespaces that are looked after. `stores` opens when all of them are complete.
    #[must_use]
    pub fn new(client: &Client, settings: &Settings, stores: Gate) -> Watches {
        let namespaces: Vec<Option<String>> = match settings.watch_namespaces.as_slice() {
            [] => vec![None],
            some => some.iter().cloned().map(Some).collect(),
        };
        let listed = Listed {
            left: Arc::new(AtomicUsize::new(2 * namespaces.len())),
            gate: Arc::new(stores),
        };
        let watched = namespaces.into_iter().map(|namespace| {
            let claims = Arc::new(Claims::new(settings.public_url.clone()));
            let (claiming, of) = (Arc::clone(&claims), namespace.as_deref());
            let webhooks = Watch::new(client, of, listed.clone(), move |event, store| {
                claiming.saw(event, store);
            });
            let accounts = Watch::new(client, of, listed.clone(), |_, _| {});
            Watched {
                namespace,
                webhooks,
                claims,
                accounts,
            }
        });
        Watches(watched.collect())
    }

    /// Keeps the stores as the API server has the objects. It may be dropped at any time, and does not end by itself.
    pub async fn warm(&mut self) {
        let each = self.0.iter_mut().map(|watched| async {
            tokio::join!(watched.webhooks.warm(), watched.accounts.warm());
        });
        futures::future::join_all(each).await;
    }
}

/// Runs all controllers until `end` is cancelled.
///
/// # Errors
/// When a task of ours ends by itself, which none should.
pub async fn run(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    fence: Fence,
    Watches(watched): Watches,
    end: CancellationToken,
) -> anyhow::Result<()> {
    let webhooks_of = |w: &Watched| Webhooks {
        store: w.webhooks.store.clone(),
        claims: Arc::clone(&w.claims),
    };
    let webhook_stores = watched.iter().map(webhooks_of).collect();
    let accounts_of = |w: &Watched| Accounts {
        namespace: w.namespace.clone(),
        store: w.accounts.store.clone(),
        listed: Arc::clone(&w.accounts.complete),
    };
    let account_stores = watched.iter().map(accounts_of).collect();
    let (wake, woken) = mpsc::unbounded_channel();
    let both = (webhook_stores, account_stores);
    let context = Arc::new(Context::new(
        client,
        settings,
        metrics,
        fence,
        Clock::machine(),
        both,
        wake,
    ));
    context.metrics.inventory.of(&context);

    let mut tasks = JoinSet::new();
    let mut bells = Vec::new();
    for Watched {
        namespace,
        webhooks,
        claims: _,
        accounts,
    } in watched
    {
        let (ring_webhooks, webhook_bell) = mpsc::unbounded_channel();
        let (ring_accounts, account_bell) = mpsc::unbounded_channel();
        bells.push(Bell {
            namespace: namespace.clone(),
            webhooks: ring_webhooks,
            accounts: ring_accounts,
        });
        run_webhooks(
            &mut tasks,
            &context,
            webhooks,
            namespace.as_deref(),
            webhook_bell,
            &end,
        );
        run_accounts(
            &mut tasks,
            &context,
            accounts,
            namespace.as_deref(),
            account_bell,
            &end,
        );
    }
    tasks.spawn(namespaces::keep(Arc::clone(&context), end.clone()));
    tasks.spawn(ring(Arc::clone(&context), woken, bells, end.clone()));
    tokio::select! {
        // The end first: when it comes, tasks end because of it.
        biased;
        () = end.cancelled() => {}
        ended = tasks.join_next() => anyhow::bail!("a controller has ended by itself: {ended:?}"),
    }
    // Each call has a deadline, but a pass may be waiting for its turn in a budget.
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST, finish).await.is_err() {
        tracing::warn!("a pass did not finish in time; the next start goes on with it");
    }
    context.transitions.finish().await;
    Ok(())
}

fn run_webhooks(
    tasks: &mut JoinSet<()>,
    context: &Arc<Context>,
    webhooks: Watch<ChektWebhook>,
    namespace: Option<&str>,
    bell: UnboundedReceiver<ObjectRef<ChektWebhook>>,
    end: &CancellationToken,
) {
    let echoes = Arc::clone(context);
    let is_echo = move |webhook: &ChektWebhook| {
        let uid = webhook.metadata.uid.as_deref().unwrap_or_default();
        let version = webhook.metadata.resource_version.as_deref();
        echoes.webhook_echoes.is_echo(uid, version)
    };
    let store = webhooks.store.clone();
    let controller = webhooks.into_controller(context.settings.concurrency, is_echo);
    let echoes = Arc::clone(context);
    let keyrings: Api<PartialObjectMeta<Secret>> =
        Api::namespaced(context.client.clone(), &context.settings.operator_namespace);
    let stream = secrets_of(context)
        .into_iter()
        .fold(controller, |controller, which| {
            let store = store.clone();
            let secrets: Api<PartialObjectMeta<Secret>> = namespaced(&context.client, namespace);
            controller.watches(secrets, which, move |secret| {
                webhooks_naming(&store, &secret)
            })
        })
        .watches(
            keyrings,
            watcher::Config::default().labels(LABEL),
            move |secret| {
                let version = secret.metadata.resource_version.as_deref();
                let is_echo = echoes.keyring_echoes.is_echo(&secret.name_any(), version);
                webhook_of(&secret).filter(|_| !is_echo)
            },
        )
        .reconcile_on(bell_stream(bell))
        .graceful_shutdown_on(end.clone().cancelled_owned())
        .run(
            |webhook, context| on_its_own(webhook::reconcile(webhook, context)),
            |_, error, _| match *error {},
            Arc::clone(context),
        );
    tasks.spawn(drive(stream, "webhooks"));
}

fn run_accounts(
    tasks: &mut JoinSet<()>,
    context: &Arc<Context>,
    accounts: Watch<ChektAccount>,
    namespace: Option<&str>,
    bell: UnboundedReceiver<ObjectRef<ChektAccount>>,
    end: &CancellationToken,
) {
    let store = accounts.store.clone();
    let echoes = Arc::clone(context);
    let is_echo = move |account: &ChektAccount| {
        let uid = account.metadata.uid.as_deref().unwrap_or_default();
        let version = account.metadata.resource_version.as_deref();
        echoes.account_echoes.is_echo(uid, version)
    };
    let controller = accounts.into_controller(context.settings.concurrency, is_echo);
    let stream = secrets_of(context)
        .into_iter()
        .fold(controller, |controller, which| {
            let store = store.clone();
            let secrets: Api<PartialObjectMeta<Secret>> = namespaced(&context.client, namespace);
            controller.watches(secrets, which, move |secret| {
                accounts_naming(&store, &secret)
            })
        })
        .reconcile_on(bell_stream(bell))
        .graceful_shutdown_on(end.clone().cancelled_owned())
        .run(
            account::reconcile,
            |_, error, _| match *error {},
            Arc::clone(context),
        );
    tasks.spawn(drive(stream, "accounts"));
}

/// Which of the users' Secrets are watched: all in one watch, or each of those that may be read in one of its own, since a
/// role that names objects allows a watch of one of them and no other.
fn secrets_of(context: &Context) -> Vec<watcher::Config> {
    let all = watcher::Config::default;
    match context.settings.secret_names.as_slice() {
        [] => vec![all()],
        names => {
            let one = |name: &String| all().fields(&format!("metadata.name={name}"));
            names.iter().map(one).collect()
        }
    }
}

/// Runs a pass as a task. A controller polls all its passes whenever one of them goes on (kube 5.0.0), which for a task
/// is a look at a flag. Dropped, the task is aborted: whoever drops a pass means it.
async fn on_its_own(
    pass: impl Future<Output = Result<Action, std::convert::Infallible>> + Send + 'static,
) -> Result<Action, std::convert::Infallible> {
    match AbortOnDropHandle::new(tokio::spawn(pass)).await {
        Ok(action) => action,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the runtime aborts it, when the process ends.
            Err(_) => std::future::pending().await,
        },
    }
}

fn bell_stream<K: kube::Resource<DynamicType = ()> + 'static>(
    bell: UnboundedReceiver<ObjectRef<K>>,
) -> impl futures::Stream<Item = ObjectRef<K>> + Send {
    futures::stream::unfold(bell, |mut bell| async {
        bell.recv().await.map(|object| (object, bell))
    })
}

/// Polls a controller. An object that vanished between its trigger and its pass is normal.
async fn drive<T, E, Q>(
    stream: impl futures::Stream<Item = Result<T, kube::runtime::controller::Error<E, Q>>>,
    what: &'static str,
) where
    E: std::error::Error + 'static,
    Q: std::error::Error + 'static,
{
    stream
        .for_each_concurrent(None, |result| async move {
            match result {
                Ok(_) | Err(kube::runtime::controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(what, %error, "a watch broke off and is tried again"),
            }
        })
        .await;
}

/// Where a woken object's controller is reached.
struct Bell {
    namespace: Option<String>,
    webhooks: UnboundedSender<ObjectRef<ChektWebhook>>,
    accounts: UnboundedSender<ObjectRef<ChektAccount>>,
}

/// Turns what became known of an account into passes over those concerned.
async fn ring(
    context: Arc<Context>,
    mut woken: UnboundedReceiver<Wake>,
    bells: Vec<Bell>,
    end: CancellationToken,
) {
    loop {
        let wake = tokio::select! {
            wake = woken.recv() => wake,
            () = end.cancelled() => return,
        };
        let Some(wake) = wake else { return };
        let concerned = match wake {
            Wake::Everyone(account) => {
                if !ring_account(&bells, &account) {
                    return;
                }
                context.webhooks_of(&account)
            }
            Wake::Account(account) => {
                if !ring_account(&bells, &account) {
                    return;
                }
                continue;
            }
            Wake::Concerned(account, changes) => concerned(&context, &account, &changes),
            Wake::One(asker) => {
                let object = ObjectRef::new(&asker.name).within(&asker.namespace);
                let bell = bell_of(&bells, &asker.namespace);
                if bell.is_some_and(|b| b.webhooks.send(object).is_err()) {
                    return;
                }
                continue;
            }
            Wake::Guests(namespaces) => context.guests(&namespaces),
        };
        for webhook in concerned {
            let namespace = webhook.namespace().unwrap_or_default();
            let object = ObjectRef::from_obj(&*webhook);
            if bell_of(&bells, &namespace).is_some_and(|b| b.webhooks.send(object).is_err()) {
                return;
            }
        }
    }
}

/// Wakes an account. `false`: nobody listens any more.
fn ring_account(bells: &[Bell], account: &AccountName) -> bool {
    let object = ObjectRef::new(&account.name).within(&account.namespace);
    let bell = bell_of(bells, &account.namespace);
    bell.is_none_or(|b| b.accounts.send(object).is_ok())
}

/// The bell of a namespace.
fn bell_of<'a>(bells: &'a [Bell], namespace: &str) -> Option<&'a Bell> {
    bells
        .iter()
        .find(|b| b.namespace.as_ref().is_none_or(|n| n == namespace))
}

/// The webhooks of an account that a list says something new of.
fn concerned(
    context: &Context,
    account: &AccountName,
    changes: &Changes,
) -> Vec<Arc<ChektWebhook>> {
    let ids: HashSet<&String> = changes.ids.iter().collect();
    let urls: HashSet<String> = changes.urls.iter().map(|u| canonical(u)).collect();
    let mut webhooks = context.webhooks_of(account);
    webhooks.retain(|webhook| {
        let recorded = webhook.status.as_ref().and_then(|s| s.webhook_id.as_ref());
        // One that is to be taken over may come only now.
        let pinned = webhook.spec.webhook_id.as_ref();
        let mut named = recorded.into_iter().chain(pinned);
        named.any(|id| ids.contains(id)) || urls.contains(&canonical(&context.wanted_url(webhook)))
    });
    webhooks
}

fn webhooks_naming(
    store: &Store<ChektWebhook>,
    secret: &PartialObjectMeta<Secret>,
) -> Vec<ObjectRef<ChektWebhook>> {
    let (namespace, name) = (&secret.metadata.namespace, secret.name_any());
    // Asked of each webhook for each Secret of a namespace.
    let names = |w: &ChektWebhook| {
        w.spec.secret_ref.as_ref().is_some_and(|r| r.name == name)
            && w.metadata.namespace == *namespace
    };
    store
        .state_filter(names)
        .iter()
        .map(|w| ObjectRef::from_obj(&**w))
        .collect()
}

fn accounts_naming(
    store: &Store<ChektAccount>,
    secret: &PartialObjectMeta<Secret>,
) -> Vec<ObjectRef<ChektAccount>> {
    let (namespace, name) = (secret.namespace(), secret.name_any());
    let names = |a: &ChektAccount| {
        let auth = &a.spec.auth;
        a.namespace() == namespace
            && (auth
                .access_token
                .as_ref()
                .is_some_and(|t| t.secret_ref.name == name)
                || auth
                    .client_credentials
                    .as_ref()
                    .is_some_and(|c| c.secret_ref.name == name)
                || auth
                    .private_key_jwt
                    .as_ref()
                    .is_some_and(|k| k.secret_ref.name == name))
    };
    store
        .state_filter(names)
        .iter()
        .map(|a| ObjectRef::from_obj(&**a))
        .collect()
}

/// The webhook of a keyring. A keyring that somebody deletes or changes must be seen at once: without it no delivery
/// can be verified. Our own writes wake the webhook too, and such a pass finds nothing to do.
fn webhook_of(secret: &PartialObjectMeta<Secret>) -> Option<ObjectRef<ChektWebhook>> {
    let annotations = secret.annotations();
    let (namespace, name) = (
        annotations.get(WEBHOOK_NAMESPACE)?,
        annotations.get(WEBHOOK_NAME)?,
    );
    Some(ObjectRef::new(name).within(namespace))
}
