//! Which object a person means, written as kubectl users write it: NAMESPACE/NAME, or NAME with `--namespace`, or NAME in the
//! namespace of the kubeconfig's context.

use anyhow::bail;
use clap::Args;
use kube::Client;

use crate::cluster::access::Access;

/// The cluster and the namespace, where nothing else is said.
#[derive(Clone, Debug, Default, Args)]
pub struct Scope {
    /// The namespace. Default: that of the kubeconfig's context.
    #[arg(short, long, env = "CHEKT_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Which cluster.
    #[command(flatten)]
    pub access: Access,
}

impl Scope {
    /// A client, and the namespace that is meant where none is written.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn connect(&self) -> anyhow::Result<(Client, String)> {
        let found = self.access.find().await?;
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => found.namespace().to_owned(),
        };
        Ok((found.client()?, namespace))
    }

    /// Namespace and name of what is written.
    ///
    /// # Errors
    /// When it names nothing, or two namespaces.
    pub fn names(&self, written: &str, usual: &str) -> anyhow::Result<(String, String)> {
        let Some((namespace, name)) = written.split_once('/') else {
            if written.is_empty() {
                bail!("\"\" names no webhook: write NAMESPACE/NAME, such as security/alarms");
            }
            return Ok((usual.to_owned(), written.to_owned()));
        };
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            bail!("{written:?} names no webhook: write NAMESPACE/NAME, such as security/alarms");
        }
        if let Some(other) = self.namespace.as_deref().filter(|n| *n != namespace) {
            bail!(
                "{written:?} is in namespace {namespace}, and --namespace says {other}: leave one of them out"
            );
        }
        Ok((namespace.to_owned(), name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(namespace: Option<&str>, written: &str) -> Result<(String, String), String> {
        let scope = Scope {
            namespace: namespace.map(str::to_owned),
            ..Scope::default()
        };
        let usual = namespace.unwrap_or("from-context");
        scope.names(written, usual).map_err(|e| e.to_string())
    }

    #[test]
    fn a_webhook_is_named_in_three_ways() {
        let is = |namespace: &str| Ok((namespace.to_owned(), "alarms".to_owned()));
        assert_eq!(names(None, "security/alarms"), is("security"));
        assert_eq!(names(Some("security"), "alarms"), is("security"));
        assert_eq!(names(None, "alarms"), is("from-context"));
        assert_eq!(names(Some("security"), "security/alarms"), is("security"));
    }

    #[test]
    fn what_names_nothing_or_two_things_is_refused_with_what_to_write() {
        for written in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(
                names(None, written).unwrap_err().contains("NAMESPACE/NAME"),
                "{written}"
            );
        }
        let both = names(Some("other"), "security/alarms").unwrap_err();
        assert!(both.contains("leave one of them out"), "{both}");
    }
}
