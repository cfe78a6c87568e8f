//! Ring 0: what people write and read, and the Secret in which the two processes meet.
//!
//! Nothing here decides or calls anything. The names below are part of the contract with users: a label
//! selector, an annotation or a finalizer that they may have written down somewhere.

pub mod account;
pub mod conditions;
pub mod foreign;
pub mod keyring;
pub mod reasons;
pub mod refusal;
pub mod remote;
pub mod told;
pub mod webhook;

pub use account::{ChektAccount, ChektAccountSpec, ChektAccountStatus};
pub use webhook::{ChektWebhook, ChektWebhookSpec, ChektWebhookStatus};

/// Keeps a `ChektWebhook` in the cluster until its remote webhook is confirmed to be gone.
pub const FINALIZER: &str = "chekt.com/webhook";

/// Keeps a `ChektAccount` in the cluster for as long as webhooks are with it.
pub const ACCOUNT_FINALIZER: &str = "chekt.com/account";

/// Asks for a pass now; any new value counts, and it is echoed in `status.lastHandledReconcileAt`.
pub const RECONCILE_REQUESTED_AT: &str = "chekt.com/reconcile-requested-at";

/// Asks for a test delivery; any new value counts, and is acted on at most once. It is echoed in
/// `status.lastHandledTestAt`.
pub const TEST_REQUESTED_AT: &str = "chekt.com/test-requested-at";

/// Asks for a new generated secret; any new value counts, and it is echoed in `status.lastHandledRotateAt` once the new
/// secret is in force. Where `spec.secretRef` is given the secret is the user's, and nothing is done.
pub const ROTATE_REQUESTED_AT: &str = "chekt.com/rotate-requested-at";

/// Field manager of everything the controller writes by server-side apply.
pub const CONTROLLER_MANAGER: &str = "chekt-operator";

/// Field manager of `status.deliveries`, the only part of a status that the receiver writes.
pub const RECEIVER_MANAGER: &str = "chekt-operator-receiver";

/// Field manager of `status.orphans`. It is another one than that of the rest of an account's status, so that whoever
/// lets go of a webhook and whoever reports on the account do not take each other's words away.
pub const ORPHANS_MANAGER: &str = "chekt-operator-orphans";

/// Field manager of what a person asks for with one of our commands: the annotations above and `spec.suspend`.
pub const PERSON_MANAGER: &str = "kubectl-chekt";

/// The account that a webhook without `accountRef` uses, in its own namespace.
pub const DEFAULT_ACCOUNT: &str = "default";

/// The custom resource definitions as one YAML stream, as `chekt-operator crds` prints it.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn crds_yaml() -> Result<String, serde_yaml::Error> {
    let mut yaml = String::new();
    for (_, crd) in crd_files()? {
        yaml.push_str("---\n");
        yaml.push_str(&crd);
    }
    Ok(yaml)
}

/// Each custom resource definition with the name of its file in `crds/`.
///
/// Descriptions are put on one line a paragraph: where our source breaks a line is nothing to `kubectl explain`,
/// which breaks them itself. And two things that the derive prints are left out. Empty lists: with `shortNames: []` in a definition, Argo CD
/// reports it as out of sync after every successful sync (measured with 3.5.7). And `nullable`: without it the
/// API server drops a null and applies the default, with it a `null` would be stored.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn crd_files() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    use kube::CustomResourceExt;
    [ChektAccount::crd(), ChektWebhook::crd()]
        .into_iter()
        .map(|crd| {
            let file = format!("chekt.com_{}.yaml", crd.spec.names.plural);
            let mut value = serde_yaml::to_value(crd)?;
            tidy(&mut value);
            Ok((file, serde_yaml::to_string(&value)?))
        })
        .collect()
}

fn tidy(value: &mut serde_yaml::Value) {
    match value {
        serde_yaml::Value::Mapping(map) => {
            map.retain(|_, v| !matches!(v, serde_yaml::Value::Sequence(s) if s.is_empty()));
            if let Some(serde_yaml::Value::String(text)) = map.get_mut("description") {
                *text = unwrapped(text);
            }
            if map.get("nullable").is_some_and(serde_yaml::Value::is_bool) {
                map.remove("nullable");
            }
            map.iter_mut().for_each(|(_, v)| tidy(v));
        }
        serde_yaml::Value::Sequence(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Text with one line for each paragraph.
fn unwrapped(text: &str) -> String {
    let paragraphs = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}
