//! `ChektAccount`: where CHeKT is, who we are there, and how often we may ask.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// The production base of CHeKT's API.
pub const PRODUCTION_BASE_URL: &str = "https://api.chekt.com";

/// A CHeKT account: where its API is, the credentials for it, and how often it may be asked.
///
/// All webhooks of an account share one list of the remote webhooks and one budget of requests.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chekt.com",
    version = "v1alpha1",
    kind = "ChektAccount",
    namespaced,
    status = "ChektAccountStatus",
    derive = "PartialEq",
    shortname = "cacc",
    category = "chekt",
    doc = "A CHeKT account: where its API is, the credentials for it, and how often it may be asked.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Managed",
        type_ = "integer",
        json_path = ".status.webhooks.managed"
    ),
    printcolumn(
        name = "Foreign",
        type_ = "integer",
        json_path = ".status.webhooks.foreign"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "URL",
        type_ = "string",
        json_path = ".spec.baseURL",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ChektAccountSpec {
    /// The base of CHeKT's API, without a path. Default: `https://api.chekt.com`.
    ///
    /// It must be https. Plain http is for a sandbox on this machine (localhost, 127.0.0.1, [::1]), or for a
    /// controller that runs with --allow-insecure-partner.
    ///
    /// Example: `http://127.0.0.1:8080`
    #[serde(rename = "baseURL", default = "production")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() in ['https', 'http'] && url(self).getHostname() != ''")
        .message("baseURL must be a URL with a scheme and a host: write https://api.chekt.com"))]
    pub base_url: String,

    /// How the operator proves to CHeKT who it is: exactly one of the methods below.
    #[x_kube(validation = Rule::new("(has(self.accessToken) ? 1 : 0) + (has(self.clientCredentials) ? 1 : 0) + (has(self.privateKeyJWT) ? 1 : 0) == 1")
        .message("auth needs exactly one method: write one of accessToken, clientCredentials and privateKeyJWT, and leave the others out"))]
    pub auth: Auth,

    /// How often the remote webhooks are listed, as a duration. One list serves all webhooks of the account.
    /// At least 10s, at most 24h. Default: `60s`.
    #[serde(default = "minute")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(h|m|s))+$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')")
        .message("syncInterval must be a duration of at least 10s and at most 24h: write 60s or 5m"))]
    pub sync_interval: String,

    /// How many requests the account may make. CHeKT's free tier allows 60 a minute.
    #[serde(default)]
    pub rate_limit: RateLimit,

    /// Which namespaces may have webhooks that use this account. Its own namespace always may.
    ///
    /// A webhook of such a namespace may take over every remote webhook of the account whose url it names.
    #[serde(default)]
    #[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
        .message("selector goes with from: Selector and with nothing else: write {from: Selector, selector: {matchLabels: {name: value}}}, or leave selector out"))]
    pub allowed_namespaces: AllowedNamespaces,
}

/// Which namespaces may have webhooks that use an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// `Same`: only the account's own namespace. `All`: every namespace that the operator looks after. `Selector`:
    /// those whose labels the selector matches. Default: `Same`.
    #[serde(default)]
    pub from: NamespacesFrom,

    /// The labels that a namespace must have. Only with `from: Selector`, and only where the operator looks after
    /// all namespaces.
    ///
    /// Example: `{matchLabels: {chekt: shared}}`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Where webhooks that use an account may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// In the account's own namespace.
    #[default]
    Same,
    /// In every namespace that the operator looks after.
    All,
    /// In namespaces whose labels a selector matches.
    Selector,
}

/// Which account: its namespace and its name, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A text that names no account.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} names no account: write NAMESPACE/NAME, such as chekt-system/default")]
pub struct NoAccountName(String);

impl FromStr for AccountName {
    type Err = NoAccountName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(AccountName {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            Some(_) | None => Err(NoAccountName(text.to_owned())),
        }
    }
}

/// How the operator proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// A static bearer token, read from a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<AccessToken>,

    /// OAuth 2.0 client credentials: a client id and a client secret are exchanged for a token that is renewed
    /// before it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_credentials: Option<ClientCredentials>,

    /// OAuth 2.0 client credentials with a private key instead of a client secret (RFC 7523): CHeKT holds only the
    /// public half.
    #[serde(
        default,
        rename = "privateKeyJWT",
        skip_serializing_if = "Option::is_none"
    )]
    pub private_key_jwt: Option<PrivateKeyJwt>,
}

/// A static bearer token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessToken {
    /// The Secret of this namespace, and the key in it, that hold the token.
    pub secret_ref: SecretKeyRef,
}

/// OAuth 2.0 client credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCredentials {
    /// A Secret of this namespace with the keys `client_id` and `client_secret`.
    pub secret_ref: SecretRef,

    /// Where tokens are asked for. Default: `/oauth/token` of baseURL.
    ///
    /// Example: `https://auth.example.com/oauth/token`
    #[serde(default, rename = "tokenURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub token_url: Option<String>,

    /// The audience to ask for. Default: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub audience: Option<String>,

    /// The scopes to ask for. Default: none are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub scopes: Vec<String>,
}

/// OAuth 2.0 client credentials with a private key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKeyJwt {
    /// The Secret of this namespace, and the key in it, that hold the private key in PEM, not encrypted: RSA of 2048 to
    /// 8192 bits, which signs with RS256, or EC on the curve P-256, which signs with ES256.
    pub secret_ref: SecretKeyRef,

    /// The client id that CHeKT has given out.
    #[serde(rename = "clientID")]
    #[schemars(length(min = 1, max = 256))]
    pub client_id: String,

    /// Which of the client's public keys verifies; needed where CHeKT holds more than one. Default: none is said.
    #[serde(default, rename = "keyID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub key_id: Option<String>,

    /// Where tokens are asked for. Assertions are addressed to the host of it.
    ///
    /// Example: `https://auth.example.com/oauth/token`
    #[serde(rename = "tokenURL")]
    #[schemars(length(min = 1, max = 2048))]
    pub token_url: String,

    /// The audience to ask for. Default: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub audience: Option<String>,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// How many requests an account may make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Requests a minute, on average. Default: 60.
    #[serde(default = "sixty")]
    #[schemars(range(min = 1, max = 100_000))]
    pub requests_per_minute: i32,

    /// Requests that may be made at once after a pause. Default: 3.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 10_000))]
    pub burst: i32,
}

impl Default for RateLimit {
    fn default() -> Self {
        RateLimit {
            requests_per_minute: sixty(),
            burst: three(),
        }
    }
}

/// What the operator last knew of an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {"observedGeneration": -1}))]
pub struct ChektAccountStatus {
    /// The generation of the spec that this status speaks of; -1 before the operator has seen the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// How many remote webhooks the account has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<WebhookCounts>,

    /// Remote webhooks that the operator has let go of without deleting them: at most 100, of more the newest. One goes
    /// from here once CHeKT no longer has it, or once a ChektWebhook manages it again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "orphans_schema")]
    pub orphans: Vec<Orphan>,

    /// Ready, and while true Reconciling or Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::webhook::conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// A remote webhook that the operator has let go of without deleting it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// Its id at CHeKT.
    pub id: String,

    /// Where it delivered when it was let go of.
    pub url: String,

    /// When it was let go of.
    pub since: Time,

    /// Why.
    pub reason: OrphanReason,
}

/// Why a remote webhook was let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OrphanReason {
    /// The ChektWebhook was deleted with deletionPolicy Orphan.
    DeletionPolicy,
    /// The definition of the kind ChektWebhook was deleted, and the ChektWebhook with it.
    DefinitionDeleted,
    /// The ChektAccount did not exist when the ChektWebhook was deleted.
    AccountNotFound,
    /// The Secret with the account's credentials, or the key in it, did not exist.
    SecretNotFound,
    /// The Secret held no credentials that could be used.
    SecretNotUsable,
    /// CHeKT refused the credentials.
    CredentialsRejected,
}

/// How many remote webhooks the account has, by who made them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookCounts {
    /// Remote webhooks that belong to a ChektWebhook of this cluster.
    pub managed: i64,
    /// Remote webhooks that nobody here manages.
    pub foreign: i64,
}

/// Orphans as a map by id, so that none is there twice.
fn orphans_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = <Vec<Orphan>>::json_schema(generator);
    schema.insert("x-kubernetes-list-type".to_owned(), "map".into());
    schema.insert(
        "x-kubernetes-list-map-keys".to_owned(),
        serde_json::json!(["id"]),
    );
    schema
}

fn production() -> String {
    PRODUCTION_BASE_URL.to_owned()
}

fn minute() -> String {
    "60s".to_owned()
}

fn sixty() -> i32 {
    60
}

fn three() -> i32 {
    3
}
