//! Gather: everything that a decision about one webhook may look at, from the stores, two Secrets, the roster and
//! memory. Nothing is written and CHeKT is not asked.
//!
//! The Secrets are read once a pass, since each read is a call; everything else is at hand, and looked at before each
//! step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::{Resource, ResourceExt};

use super::connection::Connection;
use super::context::{Context, Known, Slot};
use super::holds;
use super::memory::Remembered;
use crate::account::orphans;
use crate::account::tenancy::{self, Permission};
use crate::cluster::ClusterError;
use crate::cluster::secrets::{self, ReadError, StoredKeyring, ValueError};
use crate::resources::account::{AccountName, OrphanReason};
use crate::resources::conditions;
use crate::resources::keyring::{SigningSecret, WebhookIdentity};
use crate::resources::reasons::Reason;
use crate::resources::remote;
use crate::resources::{
    ChektWebhook, FINALIZER, RECONCILE_REQUESTED_AT, ROTATE_REQUESTED_AT, TEST_REQUESTED_AT,
};
use crate::webhook::identity::Claim;
use crate::webhook::removal::DEFINITION_AGE;
use crate::webhook::world::{
    AccountView, Definition, Loss, RemovalView, RosterView, WantedSecret, World,
};

/// A world, and what performing a step on it needs.
pub struct Gathered {
    /// The world.
    pub world: World,
    /// The resource version of the keyring in it.
    pub keyring_version: Option<String>,
    /// The connection to the account, where there is one.
    pub connection: Option<Arc<Connection>>,
}

/// Why a pass could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The API server could not be asked, or refused.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The keyring was changed by hand.
    #[error(transparent)]
    Keyring(#[from] ReadError),
    /// No random bytes could be had.
    #[error("no random bytes: {0}")]
    Entropy(getrandom::Error),
    /// The secret has no bytes.
    #[error(transparent)]
    EmptySecret(#[from] crate::resources::keyring::EmptySecret),
    /// A step needs a connection and there is none: the plan is wrong.
    #[error("a step needs the account and it is not connected")]
    NoConnection,
}

/// What a pass has read from Secrets.
pub struct Held {
    /// The keyring, as it was read or last written in this pass.
    pub keyring: Option<StoredKeyring>,
    secret: WantedSecret,
    generation: Option<i64>,
}

impl Held {
    /// Reads the Secrets of one webhook.
    ///
    /// # Errors
    /// [`PassError`].
    pub async fn read(context: &Context, webhook: &ChektWebhook) -> Result<Held, PassError> {
        let namespace = webhook.namespace().unwrap_or_default();
        let uid = webhook.uid().unwrap_or_default();
        let keyrings = context.keyrings();
        let keyring = async {
            if is_untouched(webhook) {
                return Ok(None);
            }
            secrets::keyring(&keyrings, &uid).await
        };
        let (keyring, secret) = tokio::join!(keyring, wanted_secret(context, webhook, &namespace));
        Ok(Held {
            keyring: keyring?,
            secret: secret?,
            generation: webhook.meta().generation,
        })
    }

    /// Whether this was read for another spec: another Secret may be named in it.
    #[must_use]
    pub fn is_for_another(&self, webhook: &ChektWebhook) -> bool {
        self.generation != webhook.meta().generation
    }
}

/// Whether nobody has worked on a webhook yet. Its keyring comes after the finalizer, so there can be none, and a read
/// less for each webhook is worth having when a thousand are made at once. Should the store be behind what another
/// controller did, adding the finalizer or making the keyring ends in a conflict, and the next pass reads.
fn is_untouched(webhook: &ChektWebhook) -> bool {
    let reported = webhook.status.as_ref().and_then(|s| s.observed_generation);
    webhook.meta().deletion_timestamp.is_none()
        && !webhook.finalizers().iter().any(|f| f == FINALIZER)
        && reported.is_none_or(|generation| generation < 0)
}

/// Gathers the world of one webhook.
#[must_use]
pub fn gather(
    context: &Context,
    webhook: &ChektWebhook,
    memory: &Remembered,
    held: &Held,
) -> Gathered {
    let namespace = webhook.namespace().unwrap_or_default();
    let uid = webhook.uid().unwrap_or_default();
    let stored = held.keyring.as_ref();
    let secret = held.secret.clone();
    let deleting = webhook.meta().deletion_timestamp.is_some();
    let bound = stored.and_then(|s| s.account.as_ref());
    let chosen = context.choose(webhook, bound);
    let Reached {
        view: account,
        connection,
        loss,
    } = account(context, &chosen, bound, &namespace, deleting);
    let account_name = bound.unwrap_or(&chosen).clone();
    let account_held = holds::is_held(context, &account_name, &uid, bound.is_some());
    let status = webhook.status.clone().unwrap_or_default();
    let recorded_id = memory
        .webhook_id
        .clone()
        .or_else(|| status.webhook_id.clone())
        // Without a keyring nothing says whose the id is, and with a guest it could be made up.
        .filter(|_| bound.is_some() || account_name.namespace == namespace);
    let url = context.wanted_url(webhook);
    let now = context.clock.now();
    let removal = RemovalView {
        asked_at: webhook.meta().deletion_timestamp.as_ref().map(|t| t.0),
        orphan_after: context.settings.orphan_after,
        loss: loss.map(|reason| Loss {
            reason,
            seen_for: memory
                .lost_at
                .map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
        }),
        definition: match memory.definition {
            Some((true, _)) => Definition::Goes,
            Some((false, at)) if now.saturating_duration_since(at) < DEFINITION_AGE => {
                Definition::Stays
            }
            Some(_) | None => Definition::Unknown,
        },
    };
    let pin = webhook.spec.webhook_id.as_deref();
    let mut roster = connection.as_ref().map_or_else(RosterView::default, |c| {
        view(c, recorded_id.as_deref(), pin, &url, now)
    });
    let posted = stored.and_then(|s| s.keyring.post_url.as_deref());
    if let Some((posted, connection)) = posted.zip(connection.as_ref()) {
        also_posted(
            context,
            &account_name,
            posted,
            &url,
            connection,
            &mut roster,
        );
    }
    leave_to_others(context, webhook, &account_name, &mut roster);
    let recovered = connection.as_ref().and_then(|c| c.recovered());
    let asked = |annotation| webhook.annotations().get(annotation).cloned();
    let world = World {
        webhook: WebhookIdentity {
            namespace,
            name: webhook.name_any(),
            uid,
        },
        generation: webhook.meta().generation.unwrap_or_default(),
        spec: webhook.spec.clone(),
        deleting,
        finalizer: webhook.finalizers().iter().any(|f| f == FINALIZER),
        reconcile_requested: asked(RECONCILE_REQUESTED_AT),
        test_requested: asked(TEST_REQUESTED_AT),
        rotate_requested: asked(ROTATE_REQUESTED_AT),
        status,
        now: conditions::whole_seconds(context.time()),
        received_here: remote::same(&url, &context.derived_url(webhook)),
        derived: webhook.spec.url.is_none(),
        claimed_by: claimed_by(context, webhook, &account_name, &url),
        pin_claimed_by: pin
            .filter(|_| recorded_id.is_none())
            .and_then(|id| pin_claimed_by(context, webhook, &account_name, id)),
        url,
        account_name,
        account,
        account_held,
        secret,
        keyring: stored.map(|s| s.keyring.clone()),
        recorded_id,
        roster,
        removal,
        memory: memory.view(context.started, recovered, now),
    };
    Gathered {
        world,
        keyring_version: stored.and_then(|s| s.resource_version.clone()),
        connection,
    }
}

/// An account, as far as one webhook reaches it.
struct Reached {
    view: AccountView,
    connection: Option<Arc<Connection>>,
    /// That its credentials are gone for good; only looked at for a webhook that is being deleted.
    loss: Option<OrphanReason>,
}

/// The account of a webhook, and the connection to it. `chosen` is the account that the webhook is to use, `bound` the
/// one that it is with.
///
/// A webhook that is being deleted needs no permission for what was made with one. And it may use the connection of an
/// account that is gone, or whose Secret is: what was held in memory is the last chance to delete it at CHeKT.
fn account(
    context: &Context,
    chosen: &AccountName,
    bound: Option<&AccountName>,
    namespace: &str,
    deleting: bool,
) -> Reached {
    let key = bound.unwrap_or(chosen);
    let known = context.account(key);
    if !(deleting && bound.is_some())
        && let Some(view) = without_permission(context, chosen, bound, namespace)
    {
        return Reached {
            view,
            connection: None,
            loss: None,
        };
    }
    let gone = |reason| orphans::loss(reason).filter(|_| deleting);
    let not_ready = |reason: Reason, message: &str| {
        let AccountName {
            namespace: owner,
            name,
        } = key;
        let message = if owner == namespace {
            format!("ChektAccount {name} is not ready: {message}")
        } else {
            // What CHeKT said to the account is for those who may read the account.
            let (word, meaning) = (reason.as_str(), reason.meaning());
            format!(
                "ChektAccount {name} in namespace {owner} is not ready: {word}. {meaning} Ask those who manage it"
            )
        };
        let reason = match reason {
            Reason::ListIncomplete => Reason::ListIncomplete,
            _ => Reason::AccountNotReady,
        };
        AccountView::NotReady(reason, message)
    };
    let through = |connection: &Arc<Connection>| {
        let problem = connection.problem();
        Reached {
            loss: problem.as_ref().and_then(|p| gone(p.reason)),
            view: problem.map_or(AccountView::Ready, |p| not_ready(p.reason, &p.message)),
            connection: Some(Arc::clone(connection)),
        }
    };
    let without = |view, loss| Reached {
        view,
        connection: None,
        loss,
    };
    if let Known::There(account) = &known
        && account.meta().deletion_timestamp.is_some()
        && bound.is_none()
        && !deleting
    {
        let message = "it is being deleted, so name another one in spec.accountRef";
        return without(not_ready(Reason::StillUsed, message), None);
    }
    let slot = context.slot(key);
    let last = slot.as_ref().and_then(Slot::last_connection);
    match (known, &slot, last) {
        (Known::There(_), Some(Slot::Connected(connection)), _) => through(connection),
        (_, _, Some(connection)) if deleting => through(connection),
        (Known::There(_), Some(Slot::Broken(problem, _)), _) => without(
            not_ready(problem.reason, &problem.message),
            gone(problem.reason),
        ),
        (Known::There(_), None, _) | (Known::NotYet, _, _) => without(AccountView::Unknown, None),
        (known @ (Known::Absent | Known::NotWatched), _, _) => {
            let message = format!(
                "ChektAccount {} does not exist in namespace {}: create it, or name another one in spec.accountRef",
                key.name, key.namespace
            );
            // One in a namespace that is not looked after any more may well be there.
            let is_gone = matches!(known, Known::Absent);
            without(
                AccountView::NotReady(Reason::AccountNotFound, message),
                gone(Reason::AccountNotFound).filter(|_| is_gone),
            )
        }
    }
}

/// Why a webhook may not use the account that is chosen for it, if so.
fn without_permission(
    context: &Context,
    chosen: &AccountName,
    bound: Option<&AccountName>,
    namespace: &str,
) -> Option<AccountView> {
    if let Some(bound) = bound.filter(|bound| *bound != chosen) {
        let message = format!(
            "this webhook was made with ChektAccount {} in namespace {} and does not move: write that into spec.accountRef, or create another ChektWebhook with the new account and then delete this one",
            bound.name, bound.namespace
        );
        return Some(AccountView::NotReady(Reason::AccountChanged, message));
    }
    if chosen.namespace == namespace {
        return None;
    }
    let refused = |message: String| Some(AccountView::NotReady(Reason::AccountNotAllowed, message));
    match context.account(chosen) {
        Known::There(account) => match context.permits(&account, chosen, namespace) {
            Permission::Granted => None,
            Permission::NotYet => Some(AccountView::Unknown),
            Permission::Refused(message) => refused(message),
        },
        Known::NotYet => Some(AccountView::Unknown),
        Known::Absent => refused(tenancy::not_for(chosen, namespace)),
        Known::NotWatched => refused(format!(
            "namespace {} is not looked after by this operator, so its accounts cannot be used: name an account of another namespace in spec.accountRef, or run the controller with --watch-namespace {0} too",
            chosen.namespace
        )),
    }
}

async fn wanted_secret(
    context: &Context,
    webhook: &ChektWebhook,
    namespace: &str,
) -> Result<WantedSecret, ClusterError> {
    let Some(reference) = &webhook.spec.secret_ref else {
        return Ok(WantedSecret::Generated);
    };
    let found = secrets::value(&context.secrets(namespace), &reference.name, &reference.key).await;
    Ok(match found {
        Ok(bytes) => match SigningSecret::new(bytes) {
            Ok(secret) if std::str::from_utf8(secret.expose()).is_ok() => {
                WantedSecret::Given(secret)
            }
            Ok(_) => WantedSecret::Unusable(
                Reason::SecretNotUsable,
                format!(
                    "key {} of Secret {} is not text, and CHeKT takes the secret as text: write letters and digits, such as 64 hexadecimal ones",
                    reference.key, reference.name
                ),
            ),
            Err(empty) => WantedSecret::Unusable(Reason::SecretNotUsable, empty.to_string()),
        },
        Err(ValueError::Cluster(error)) => return Err(error),
        Err(why @ (ValueError::NoSecret { .. } | ValueError::NoKey { .. })) => {
            WantedSecret::Unusable(Reason::SecretNotFound, why.to_string())
        }
        Err(why @ ValueError::Forbidden { .. }) => {
            WantedSecret::Unusable(Reason::Forbidden, why.to_string())
        }
        Err(why @ ValueError::Empty { .. }) => {
            WantedSecret::Unusable(Reason::SecretNotUsable, why.to_string())
        }
    })
}

fn view(
    connection: &Connection,
    recorded: Option<&str>,
    pinned: Option<&str>,
    url: &str,
    now: Instant,
) -> RosterView {
    let roster = connection.roster();
    let began = roster.complete_since();
    let absent_since = recorded.and_then(|id| roster.absent_since(id));
    RosterView {
        age: began.map(|b| now.saturating_duration_since(b)),
        recorded: recorded.and_then(|id| roster.get(id)).cloned(),
        pinned: pinned.and_then(|id| roster.get(id)).cloned(),
        absent_for: match (began, absent_since) {
            (Some(began), Some(since)) => began.saturating_duration_since(since),
            _ => Duration::ZERO,
        },
        by_url: {
            let mut same: Vec<_> = roster.with_url(&remote::canonical(url)).cloned().collect();
            same.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
            same
        },
    }
}

/// The older webhook of the same account that has the same url.
fn claimed_by(
    context: &Context,
    webhook: &ChektWebhook,
    account: &AccountName,
    url: &str,
) -> Option<String> {
    let claim = |w: &ChektWebhook| Claim {
        created: w.creation_timestamp().map(|t| t.0),
        unmade: w.status.as_ref().is_none_or(|s| s.webhook_id.is_none()),
        uid: w.uid(),
    };
    let mine = claim(webhook);
    let others = context.rivals(account, url);
    let older = others
        .iter()
        .find(|other| other.uid() != webhook.uid() && claim(other) < mine)?;
    Some(named(older, webhook))
}

/// Adds to the view what a POST of ours to another url may have made: the url in the spec was changed before an id came of
/// it. Nobody else may want that url by now.
fn also_posted(
    context: &Context,
    account: &AccountName,
    posted: &str,
    url: &str,
    connection: &Connection,
    roster: &mut RosterView,
) {
    let done = roster.recorded.is_some() || remote::same(posted, url);
    if done || !context.rivals(account, posted).is_empty() {
        return;
    }
    let canonical = remote::canonical(posted);
    let made = connection.roster();
    roster.by_url.extend(made.with_url(&canonical).cloned());
}

/// Takes out of the view what another webhook has on record, although it has our url: the other one's url was changed,
/// and CHeKT was not told yet.
fn leave_to_others(
    context: &Context,
    webhook: &ChektWebhook,
    account: &AccountName,
    roster: &mut RosterView,
) {
    let recorded = roster.recorded.as_ref().map(|r| r.id.clone());
    // Nearly always there is none but our own, and nobody need be asked.
    if roster
        .by_url
        .iter()
        .all(|w| Some(&w.id) == recorded.as_ref())
    {
        return;
    }
    let others = context.served_by(account);
    let has = |id: &str| {
        others.iter().any(|other| {
            other.uid() != webhook.uid()
                && other.status.as_ref().and_then(|s| s.webhook_id.as_deref()) == Some(id)
        })
    };
    roster
        .by_url
        .retain(|w| Some(&w.id) == recorded.as_ref() || !has(&w.id));
}

/// Another webhook of the same account that has the remote webhook `id`, or is older and wants to take it over too.
fn pin_claimed_by(
    context: &Context,
    webhook: &ChektWebhook,
    account: &AccountName,
    id: &str,
) -> Option<String> {
    let claim = |w: &ChektWebhook| (w.creation_timestamp().map(|t| t.0), w.uid());
    let others = context.served_by(account);
    let other = others.iter().find(|other| {
        let on_record = other.status.as_ref().and_then(|s| s.webhook_id.as_deref());
        other.uid() != webhook.uid()
            && match on_record {
                Some(recorded) => recorded == id,
                None => {
                    other.spec.webhook_id.as_deref() == Some(id) && claim(other) < claim(webhook)
                }
            }
    })?;
    Some(named(other, webhook))
}

/// Another webhook, as words for the status of `webhook`. Who has webhooks in other namespaces is not told.
fn named(other: &ChektWebhook, webhook: &ChektWebhook) -> String {
    if other.namespace() == webhook.namespace() {
        format!("ChektWebhook {}", other.name_any())
    } else {
        "a ChektWebhook of another namespace".to_owned()
    }
}
