//! `ChektWebhook`: which events are wanted, and what became of that wish.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::account::SecretKeyRef;

/// A webhook that exists at CHeKT exactly once for as long as this object exists.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chekt.com",
    version = "v1alpha1",
    kind = "ChektWebhook",
    namespaced,
    status = "ChektWebhookStatus",
    derive = "PartialEq",
    shortname = "cwh",
    category = "chekt",
    doc = "A webhook that exists at CHeKT exactly once for as long as this object exists, and whose deliveries become Kubernetes Events on it.",
    selectable = ".spec.accountRef.name",
    selectable = ".spec.url",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Account", type_ = "string", json_path = ".spec.accountRef.name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "ID", type_ = "string", json_path = ".status.webhookID", priority = "1"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = "1"),
    validation = Rule::new("!has(self.spec.url) || has(self.spec.secretRef)")
        .message("a webhook with its own url needs its own secret, since someone else verifies the deliveries: write spec.secretRef, or leave spec.url out to let the operator receive them")
        .field_path(".spec.secretRef"),
    validation = Rule::new("!has(self.spec.webhookID) || (has(oldSelf.spec.webhookID) && self.spec.webhookID == oldSelf.spec.webhookID)")
        .message("webhookID says which remote webhook is taken over when this object is created, and can only be taken away later: create another ChektWebhook for another id")
        .field_path(".spec.webhookID")
)]
#[serde(rename_all = "camelCase")]
pub struct ChektWebhookSpec {
    /// The account. Default: the account named `default` of this namespace, else the operator's own default account
    /// (--default-account) if that allows this namespace.
    ///
    /// Once something was sent to CHeKT, the webhook stays with its account.
    #[serde(default = "default_account")]
    pub account_ref: AccountRef,

    /// The names of the events to be told of: at least one, in any order.
    ///
    /// Known names: alarm.triggered, alarm.cleared, alarm.acknowledged, device.status_changed,
    /// device.registered, device.removed, site.armed, site.disarmed, site.created. Other names of the form
    /// word.word are passed on as they are.
    ///
    /// Example: `[alarm.triggered, alarm.cleared]`
    #[schemars(length(max = 64), inner(length(min = 3, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set,
        validation = Rule::new("self.size() > 0")
            .message("name at least one event: write [alarm.triggered]"),
        validation = Rule::new("self.all(e, e.matches('^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)+$'))")
            .message("every event must be of the form word.word in lower case: write alarm.triggered"),
        validation = Rule::new("!('webhook.test' in self)")
            .message("webhook.test cannot be subscribed to, test deliveries always arrive: leave it out"))]
    pub events: Vec<String>,

    /// Where CHeKT is to deliver. Default: a path of this operator's own receiver,
    /// `<public URL>/webhooks/<namespace>/<name>`.
    ///
    /// A given url must be https (plain http only for localhost, 127.0.0.1 and [::1], which CHeKT itself refuses)
    /// and needs secretRef.
    ///
    /// Example: `https://alarms.example.com/hooks/chekt`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getHostname() != '' && (url(self).getScheme() == 'https' || (url(self).getScheme() == 'http' && url(self).getHostname() in ['localhost', '127.0.0.1', '::1', '[::1]']))")
        .message("url must start with https:// and name a host: write https://alarms.example.com/hooks/chekt, or leave url out to let the operator receive the deliveries"))]
    pub url: Option<String>,

    /// The secret that deliveries are signed with, in a Secret of this namespace. Default: the operator makes 32
    /// random bytes that nobody has to see.
    ///
    /// When the Secret changes, the new secret is given to CHeKT within seconds and the old one is still accepted
    /// for 15 minutes, so no delivery is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,

    /// What happens at CHeKT when this object is deleted. `Delete` removes the remote webhook, and this object goes
    /// only once that is confirmed; `Orphan` leaves it. Default: `Delete`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// What happens when CHeKT already has a webhook with this url that is not on record here: `Adopt` takes it over and
    /// gives it the secret, `Refuse` leaves it alone and says so. Default: `Adopt`.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,

    /// The id of the remote webhook to take over, whatever its url is; it is then brought to what is written here. Only
    /// when the object is created. Default: the one with this url, if there is one, else a new one.
    ///
    /// Example: `webhook_abc123`
    #[serde(default, rename = "webhookID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub webhook_id: Option<String>,

    /// What is done when CHeKT has switched the remote webhook off, as it does after three failed deliveries in a row.
    #[serde(default)]
    pub recovery: Recovery,

    /// Whether the operator asks CHeKT for a test delivery after it has created the webhook or changed its url or
    /// secret: `OnChange` or `Never`. Default: `OnChange`.
    #[serde(default)]
    pub test_policy: TestPolicy,

    /// While true, the operator changes nothing at CHeKT; deliveries are still received. Default: `false`.
    #[serde(default)]
    pub suspend: bool,
}

/// A `ChektAccount`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccountRef {
    /// Name of the account.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Namespace of the account, whose spec.allowedNamespaces must allow this one. Default: this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// What happens to the remote webhook when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The remote webhook is deleted first.
    #[default]
    Delete,
    /// The remote webhook stays.
    Orphan,
}

/// What happens to a remote webhook with the same url that is not on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    /// It is taken over.
    #[default]
    Adopt,
    /// It is left alone, and nothing is created beside it.
    Refuse,
}

/// What is done when CHeKT has switched the remote webhook off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// `Reactivate` switches it on again, by a change of its state or, if that does not help, by making it anew with
    /// another id. `Never` only shows that it is off. Default: `Reactivate`.
    #[serde(default)]
    pub policy: RecoveryPolicy,

    /// The least time between two attempts, as a duration. At least 10s, at most 24h. Default: `5m`.
    #[serde(default = "five_minutes")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(h|m|s))+$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')")
        .message("cooldown must be a duration of at least 10s and at most 24h: write 5m or 90s"))]
    pub cooldown: String,
}

impl Default for Recovery {
    fn default() -> Self {
        Recovery {
            policy: RecoveryPolicy::default(),
            cooldown: five_minutes(),
        }
    }
}

/// Whether a remote webhook that is off is switched on again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecoveryPolicy {
    /// It is.
    #[default]
    Reactivate,
    /// It is not.
    Never,
}

/// When a test delivery is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TestPolicy {
    /// After the webhook was created and after its url or secret changed.
    #[default]
    OnChange,
    /// Never.
    Never,
}

/// What the operator last knew of a webhook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {"observedGeneration": -1}))]
pub struct ChektWebhookStatus {
    /// The generation of the spec that this status speaks of; -1 before the operator has seen the webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The account that the webhook is with, as namespace/name; absent before anything was sent to CHeKT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,

    /// The id that CHeKT gave to the remote webhook.
    #[serde(default, rename = "webhookID", skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,

    /// Where CHeKT delivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,

    /// The events as CHeKT accepted them, in alphabetical order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,

    /// The state of the remote webhook in CHeKT's own word, such as `active` or `disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,

    /// When CHeKT says that the remote webhook was created, as it spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,

    /// The value of the annotation chekt.com/reconcile-requested-at that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// The value of the annotation chekt.com/test-requested-at that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_test_at: Option<String>,

    /// The value of the annotation chekt.com/rotate-requested-at whose secret came into force last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_rotate_at: Option<String>,

    /// When CHeKT was last seen to have switched the remote webhook off, and on again. What happened at CHeKT in
    /// between was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_outage: Option<Outage>,

    /// What the receiver last saw of this webhook; brought up to date at most every 30 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Deliveries>,

    /// Ready, Synced, Active and Verified, and while true Reconciling, Stalled, Suspended or DeliveriesDelayed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// A time in which CHeKT did not deliver. Times have whole seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// When the remote webhook was first seen to be off.
    pub from: Time,

    /// When it was first seen to be active again; absent while it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
}

/// What the receiver last saw of a webhook. Times have whole seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deliveries {
    /// When a delivery with a valid signature last arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_received_at: Option<Time>,

    /// The event of that delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<String>,

    /// The id of the key that verified it. It is a random name and says nothing of the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_key: Option<String>,

    /// When a test delivery with a valid signature last arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_test_at: Option<Time>,

    /// The id of the key that verified that test delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_test_key: Option<String>,

    /// The number of the test request that the receiver found in the keyring when that test delivery arrived. Verified
    /// is about this number, since the clocks of receiver and controller may differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_test_number: Option<i64>,

    /// When a delivery to this webhook's path was last refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rejected_at: Option<Time>,

    /// Why it was refused, in one word of docs/conditions.md such as `SignatureMismatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rejected_reason: Option<String>,

    /// What is wrong with that delivery and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rejected_message: Option<String>,

    /// There only while a delivery has waited for longer than a minute to become an Event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed: Option<Delay>,

    /// The last four probes of `kubectl chekt verify` that arrived, the youngest last. They count as neither deliveries nor
    /// refusals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<SeenProbe>,
}

/// What the receiver saw of a probe of `kubectl chekt verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeenProbe {
    /// The number that the probe gave itself.
    pub id: String,

    /// Why it was refused, in a word of `lastRejectedReason`. Nothing is wrong with `SignatureMismatch`: a probe is not signed
    /// with a key of the webhook.
    pub refused: String,

    /// The address that the receiver takes for the sender's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,

    /// How the path under which it arrived differs from the webhook's: `Shortened`, `Extended` at its beginning, or `Other`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,

    /// Whether signature and body arrived as they were sent; absent where the body was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intact: Option<bool>,
}

/// Deliveries that wait for longer than a minute to become Events. Times have whole seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// When the oldest of them arrived.
    pub since: Time,

    /// The name of the receiver that holds it; of several, the one that said so first.
    pub receiver: String,

    /// When that receiver last said so, by its own clock. It says so every minute while it lasts. A report that has not
    /// changed for three minutes does not count.
    pub seen_at: Time,

    /// Why the oldest of them waits: its namespace and what the API server answered there. Missing where only the pace of
    /// Events holds them up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// For how long the report of a receiver about a delay counts: it may be gone for good.
const DELAY_COUNTS: Duration = Duration::from_secs(180);

impl Delay {
    /// For how much longer a report counts that has not changed for this long, by the clock of the reader; `None`: no
    /// longer.
    #[must_use]
    pub fn counts_for(unchanged: Duration) -> Option<Duration> {
        let left = DELAY_COUNTS.checked_sub(unchanged);
        left.filter(|left| !left.is_zero())
    }
}

impl Default for AccountRef {
    fn default() -> Self {
        default_account()
    }
}

fn five_minutes() -> String {
    "5m".to_owned()
}

fn default_account() -> AccountRef {
    AccountRef {
        name: super::DEFAULT_ACCOUNT.to_owned(),
        namespace: None,
    }
}

/// Conditions as a map by type, so that two field managers can own different ones.
pub(super) fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = <Vec<Condition>>::json_schema(generator);
    schema.insert("x-kubernetes-list-type".to_owned(), "map".into());
    schema.insert(
        "x-kubernetes-list-map-keys".to_owned(),
        serde_json::json!(["type"]),
    );
    schema
}
