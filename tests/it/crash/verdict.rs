//! The verdict: what is wanted, held against the API server and against the sandbox's own books. What the controller
//! says of itself is evidence only where it is the thing to be proved, which is its Ready.

use std::fmt;
use std::time::Duration;

use chekt_operator::resources::ChektWebhook;
use chekt_operator::resources::conditions::{self, READY, VERIFIED};
use chekt_operator::resources::keyring::{Keyring, LABEL};
use kube::ResourceExt;
use kube::api::ListParams;

use super::cell::Cell;
use crate::harness::sandbox_client::{Entry, Ledger, RemoteWebhook};

/// How it must end.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// The object is gone, and nothing is left of it.
    Nothing,
    /// The object has one remote webhook, which is as written.
    One(Box<One>),
}

/// A remote webhook as it must be.
#[derive(Clone, Debug)]
pub struct One {
    url: String,
    events: Vec<String>,
    /// The user's secret; otherwise what the keyring says.
    secret: Option<String>,
    /// It leads to our receiver, which is to have seen a test delivery.
    pub is_received: bool,
    keeps_id: bool,
    had_outage: bool,
}

impl Wanted {
    /// One remote webhook with this url and these events.
    pub fn one(url: &str, events: &[&str]) -> Wanted {
        Wanted::One(Box::new(One {
            url: url.to_owned(),
            events: events.iter().map(ToString::to_string).collect(),
            secret: None,
            is_received: false,
            keeps_id: false,
            had_outage: false,
        }))
    }

    /// It leads to our receiver.
    pub fn received(self) -> Wanted {
        self.with(|one| one.is_received = true)
    }

    /// It is signed with this.
    pub fn signed(self, secret: &str) -> Wanted {
        self.with(|one| one.secret = Some(secret.to_owned()))
    }

    /// It is the very one that was there before.
    pub fn with_its_id(self) -> Wanted {
        self.with(|one| one.keeps_id = true)
    }

    /// The time in which it was off is on record.
    pub fn after_an_outage(self) -> Wanted {
        self.with(|one| one.had_outage = true)
    }

    fn with(mut self, change: impl FnOnce(&mut One)) -> Wanted {
        if let Wanted::One(one) = &mut self {
            change(one);
        }
        self
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// More than one remote webhook for one resource.
    Duplicate,
    /// Something at CHeKT, or a keyring, whose resource is gone.
    Leak,
    /// A resource without its remote webhook, or with one that is not as written, or a delivery that was refused.
    Loss,
    /// The resource does not say that it is ready, or does not go.
    Stuck,
    /// All is well, and no test delivery has proved it in time.
    Untested,
}

/// What is wrong and what was seen of it.
pub type Flaws = Vec<(Flaw, String)>;

/// What must be so in a cell at the end, and is not.
pub async fn flaws(cell: &Cell<'_>, wanted: &Wanted) -> anyhow::Result<Flaws> {
    let stage = cell.stage();
    let object = stage.users.webhooks().get_opt(cell.name()).await?;
    // Most looks end here, and there are many.
    let unready = match (&object, wanted) {
        (Some(object), Wanted::One(_)) => unready(object),
        (Some(object), Wanted::Nothing) => Some(spoken(object)),
        (None, _) => None,
    };
    let mut flaws: Flaws = unready.map(|why| (Flaw::Stuck, why)).into_iter().collect();
    let live = stage.chekt.webhooks().await?;
    let label = ListParams::default().labels(&format!("{LABEL}=true"));
    let keyrings = stage.operator.secrets().list(&label).await?.items;
    let Wanted::One(one) = wanted else {
        flaws.extend(live.iter().map(|w| (Flaw::Leak, format!("{w:?} is left"))));
        let left = keyrings.iter().map(ResourceExt::name_any);
        flaws.extend(left.map(|name| (Flaw::Leak, format!("{name} is left"))));
        return Ok(flaws);
    };
    let Some(object) = object else {
        flaws.push((Flaw::Loss, "the object is gone".to_owned()));
        return Ok(flaws);
    };
    let remote = match &live[..] {
        [] => {
            flaws.push((Flaw::Loss, "no remote webhook".to_owned()));
            return Ok(flaws);
        }
        [remote] => remote,
        several => {
            flaws.push((Flaw::Duplicate, format!("{several:?}")));
            return Ok(flaws);
        }
    };
    let own = Keyring::secret_name(&object.uid().unwrap_or_default());
    let mut keyring = None;
    for secret in &keyrings {
        if secret.name_any() == own {
            keyring = Some(Keyring::from_secret(secret)?);
        } else {
            flaws.push((Flaw::Leak, format!("{} is nobody's", secret.name_any())));
        }
    }
    let different = different(cell, one, &object, remote, keyring.as_ref());
    flaws.extend(different.into_iter().map(|what| (Flaw::Loss, what)));
    if flaws.is_empty() && one.is_received && !is_tested(&object, keyring.as_ref()) {
        flaws.push((Flaw::Untested, spoken(&object)));
    }
    Ok(flaws)
}

/// Whether a test delivery has proved the key that is in force, by what both processes say of it.
fn is_tested(object: &ChektWebhook, keyring: Option<&Keyring>) -> bool {
    let Some(status) = &object.status else {
        return false;
    };
    let current = keyring.and_then(|k| k.current.as_ref()).map(|key| &key.id);
    let tested = status
        .deliveries
        .as_ref()
        .and_then(|d| d.last_test_key.as_ref());
    let verified = conditions::find(&status.conditions, VERIFIED);
    verified.is_some_and(|c| c.status == "True") && tested == current
}

/// Why it does not count as ready.
fn unready(object: &ChektWebhook) -> Option<String> {
    let status = object.status.clone().unwrap_or_default();
    let ready = conditions::find(&status.conditions, READY).is_some_and(|c| c.status == "True");
    let ready = ready && status.observed_generation == object.metadata.generation;
    (!ready).then(|| spoken(object))
}

/// In what the remote webhook, the record of it and the keyring differ from what is written.
fn different(
    cell: &Cell<'_>,
    one: &One,
    object: &ChektWebhook,
    remote: &RemoteWebhook,
    keyring: Option<&Keyring>,
) -> Vec<String> {
    let mut different = Vec::new();
    let mut same = |what: &str, is: &str, wanted: &str| {
        if is != wanted {
            different.push(format!("{what} is {is} and not {wanted}"));
        }
    };
    let mut events = remote.events.clone();
    events.sort();
    same("url", &remote.url, &one.url);
    same("events", &events.join(" "), &one.events.join(" "));
    same("state", &remote.status, "active");
    let status = object.status.clone().unwrap_or_default();
    let recorded = status.webhook_id.unwrap_or_default();
    same("the id on record", &recorded, &remote.webhook_id);
    if one.keeps_id {
        let before = cell.first_id().unwrap_or_default();
        same("id", &remote.webhook_id, &before);
    }
    let outage = status.last_outage.map(|o| o.to.is_some());
    if one.had_outage {
        same("a finished outage", &format!("{outage:?}"), "Some(true)");
    }
    let current = keyring.and_then(|keyring| keyring.current.as_ref());
    let current = current.map(|key| String::from_utf8_lossy(key.secret.expose()).into_owned());
    // Secrets of a test are nobody's secrets.
    same("secret", &remote.secret, &current.unwrap_or_default());
    if let Some(secret) = &one.secret {
        same("secret", &remote.secret, secret);
    }
    if keyring.is_some_and(|keyring| keyring.next.is_some()) {
        different.push("a next key is left".to_owned());
    }
    different
}

/// What an object says of itself.
pub fn spoken(object: &ChektWebhook) -> String {
    let status = object.status.clone().unwrap_or_default();
    let each = status
        .conditions
        .iter()
        .map(|c| format!("{}={} {} ({})", c.type_, c.status, c.reason, c.message));
    format!(
        "generation {:?}, observed {:?}, {}",
        object.metadata.generation,
        status.observed_generation,
        each.collect::<Vec<_>>().join("; ")
    )
}

/// For how long more than one remote webhook was alive, by the ledger of a sandbox that nobody else used meanwhile.
pub fn longest_with_two(ledger: &Ledger) -> Duration {
    let mut alive = 0_usize;
    let mut since = None;
    let mut longest = Duration::ZERO;
    for entry in &ledger.entries {
        let Entry::Call(call) = entry else { continue };
        if call.replayed || !call.status.is_some_and(|s| (200..300).contains(&s)) {
            continue;
        }
        match call.route.as_deref() {
            Some("create") => alive += 1,
            Some("delete") => alive = alive.saturating_sub(1),
            _ => continue,
        }
        match (alive > 1, since) {
            (true, None) => since = Some(call.at),
            (false, Some(from)) => {
                let took = Duration::try_from(call.at.duration_since(from)).unwrap_or_default();
                longest = longest.max(took);
                since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    longest
}

/// Attempts of deliveries that were not answered 200.
pub fn refused(ledger: &Ledger) -> Vec<String> {
    let attempts = ledger.deliveries().into_iter();
    let refused = attempts.filter(|delivery| delivery.status != Some(200));
    refused
        .map(|d| format!("{:?} was answered {:?} {:?}", d.event, d.status, d.error))
        .collect()
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flaw::Duplicate => "duplicate",
            Flaw::Leak => "leak",
            Flaw::Loss => "loss",
            Flaw::Stuck => "stuck",
            Flaw::Untested => "untested",
        })
    }
}
