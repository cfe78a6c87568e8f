//! The scenarios: what is there before, what happens then, and how it must end, whatever dies on the way.

use chekt_operator::resources::remote::SETTLE;
use serde_json::json;

use super::cell::Cell;
use super::verdict::Wanted;

/// What a user, or CHeKT, does while the controller is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// An account with its credentials and a webhook are applied at once, as `kubectl apply -f` does.
    Create,
    /// The events are changed while the POST is on its way.
    CreateWithAnEdit,
    /// The webhook is deleted while the POST is on its way.
    CreateThenDelete,
    /// A given url becomes another one.
    UrlChange,
    /// The user's Secret gets another value.
    Rotation,
    /// The url has a remote webhook already, with other events and a secret that nobody here knows.
    Adoption,
    /// The webhook is deleted.
    Delete,
    /// The webhook and the credentials of its account are deleted at once.
    DeleteWithoutCredentials,
    /// A webhook is applied while a second controller stands by, and nobody starts the first one again.
    Handover,
    /// CHeKT has switched the remote webhook off.
    Recovery,
    /// The same, and only a new remote webhook can be active.
    RecoveryAnew,
}

/// How long CHeKT's lists lag behind, in milliseconds: well within the settle time of 5 s, and long enough that a process
/// that is started again and does not wait for it sees what was.
const LAG_MS: u64 = 3_000;

/// Where the given url leads before and after its change. Nobody listens there: what is proved of a delivery is proved by
/// the other scenarios.
const URLS: [&str; 2] = [
    "https://alarms.example.com/before",
    "https://alarms.example.com/after",
];
const SECRETS: [&str; 2] = ["the first secret of the user", "the second one"];
const EVENTS: [&str; 2] = ["alarm.cleared", "alarm.triggered"];

impl Scenario {
    /// All of them, in the order of the table.
    pub const ALL: [Scenario; 11] = [
        Scenario::Create,
        Scenario::CreateWithAnEdit,
        Scenario::CreateThenDelete,
        Scenario::UrlChange,
        Scenario::Rotation,
        Scenario::Adoption,
        Scenario::Delete,
        Scenario::DeleteWithoutCredentials,
        Scenario::Handover,
        Scenario::Recovery,
        Scenario::RecoveryAnew,
    ];

    /// Its name, which `SCENARIO` takes.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Create => "create",
            Scenario::CreateWithAnEdit => "create with an edit in flight",
            Scenario::CreateThenDelete => "create with a deletion in flight",
            Scenario::UrlChange => "url change",
            Scenario::Rotation => "secret rotation",
            Scenario::Adoption => "adoption",
            Scenario::Delete => "delete",
            Scenario::DeleteWithoutCredentials => "delete with credentials gone",
            Scenario::Handover => "handover between two replicas",
            Scenario::Recovery => "recovery of a disabled webhook",
            Scenario::RecoveryAnew => "recovery by a new webhook",
        }
    }

    /// Whether a second controller stands by.
    pub fn has_standby(self) -> bool {
        self == Scenario::Handover
    }

    /// Brings about what is there before.
    pub async fn prepare(self, cell: &Cell<'_>) -> anyhow::Result<()> {
        if self == Scenario::Create {
            return Ok(());
        }
        if self == Scenario::Adoption {
            // Well before the first list: what somebody else makes shows in none before the settle time is over, and a
            // process that has sent nothing itself has no reason to wait for it.
            cell.remote_of_a_stranger().await?;
            tokio::time::sleep(SETTLE).await;
        }
        cell.make_account(false).await?;
        cell.account_is_ready().await?;
        match self {
            Scenario::Create
            | Scenario::CreateWithAnEdit
            | Scenario::CreateThenDelete
            | Scenario::Handover
            | Scenario::Adoption => return Ok(()),
            Scenario::UrlChange => {
                cell.put_secret(SECRETS[0]).await?;
                cell.make_webhook(given(0)).await?;
            }
            Scenario::Rotation => {
                cell.put_secret(SECRETS[0]).await?;
                let secret = json!({"secretRef": {"name": "signing", "key": "value"}});
                cell.make_webhook(secret).await?;
            }
            Scenario::Delete | Scenario::DeleteWithoutCredentials => {
                cell.make_webhook(json!({})).await?;
            }
            Scenario::Recovery | Scenario::RecoveryAnew => {
                cell.make_webhook(json!({"recovery": {"cooldown": "10s"}}))
                    .await?;
            }
        }
        cell.is_settled(&self.before(cell)).await?;
        if matches!(self, Scenario::Recovery | Scenario::RecoveryAnew) {
            // A list that follows our own write too soon may lag behind it, so what it says of this webhook is not
            // believed, and the next one would come in five minutes.
            tokio::time::sleep(SETTLE).await;
        }
        Ok(())
    }

    /// How CHeKT behaves from then on: as inconveniently as its documents allow.
    pub fn chekt_is(self) -> serde_json::Value {
        let anew = self == Scenario::RecoveryAnew;
        json!({
            // What is new does not show yet, what is deleted shows on.
            "create_visible_after_ms": LAG_MS, "deleted_listed_for_ms": LAG_MS,
            // A second POST makes a second webhook. Where one is made anew the danger is the other one: that the answer
            // to the first is given again, and what it made is gone.
            "idempotency": if anew { "honoured" } else { "ignored" },
            "reenable": if anew { "only_recreate" } else { "patch_status" },
        })
    }

    /// Lets happen what is to happen. The counting has begun.
    pub async fn happen(self, cell: &Cell<'_>) -> anyhow::Result<()> {
        match self {
            Scenario::Create => {
                cell.make_account(true).await?;
                cell.make_webhook(json!({})).await
            }
            Scenario::CreateWithAnEdit => {
                cell.wire().hold("CHeKT create");
                cell.make_webhook(json!({"events": [EVENTS[1]]})).await?;
                cell.wire().held().await;
                let edited = cell.edit(json!({"spec": {"events": EVENTS}})).await;
                cell.wire().let_go();
                edited
            }
            Scenario::CreateThenDelete => {
                cell.wire().hold("CHeKT create");
                cell.make_webhook(json!({})).await?;
                cell.wire().held().await;
                let deleted = cell.delete().await;
                cell.wire().let_go();
                deleted
            }
            Scenario::UrlChange => cell.edit(json!({"spec": given(1)})).await,
            Scenario::Rotation => cell.put_secret(SECRETS[1]).await,
            Scenario::Adoption | Scenario::Handover => cell.make_webhook(json!({})).await,
            Scenario::Delete => cell.delete().await,
            Scenario::DeleteWithoutCredentials => {
                cell.remove_credentials().await?;
                cell.delete().await
            }
            Scenario::Recovery | Scenario::RecoveryAnew => {
                cell.switch_off().await?;
                // It would hear of it with the next list of the account; the annotation asks for one.
                cell.edit(json!({"metadata": {"annotations":
                    {"chekt.com/reconcile-requested-at": "now"}}}))
                    .await
            }
        }
    }

    /// How it must end.
    pub fn after(self, cell: &Cell<'_>) -> Wanted {
        match self {
            Scenario::CreateThenDelete | Scenario::Delete | Scenario::DeleteWithoutCredentials => {
                Wanted::Nothing
            }
            Scenario::UrlChange => Wanted::one(URLS[1], &EVENTS).signed(SECRETS[0]),
            Scenario::Rotation => self.before(cell).signed(SECRETS[1]),
            Scenario::Adoption => self.before(cell).with_its_id(),
            Scenario::Recovery => self.before(cell).with_its_id().after_an_outage(),
            Scenario::RecoveryAnew => self.before(cell).after_an_outage(),
            Scenario::Create | Scenario::CreateWithAnEdit | Scenario::Handover => self.before(cell),
        }
    }

    fn before(self, cell: &Cell<'_>) -> Wanted {
        match self {
            Scenario::UrlChange => Wanted::one(URLS[0], &EVENTS).signed(SECRETS[0]),
            Scenario::Rotation => cell.derived(&EVENTS).signed(SECRETS[0]),
            _ => cell.derived(&EVENTS),
        }
    }
}

/// What a spec with a given url has beside its events.
fn given(which: usize) -> serde_json::Value {
    json!({
        "url": URLS[which], "testPolicy": "Never",
        "secretRef": {"name": "signing", "key": "value"},
    })
}
