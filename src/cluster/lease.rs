//! The Lease that the controllers of one operator share, read and written as whole objects.
//!
//! Every write names the version that was read, so of two who want it at one moment one gets
//! [`ClusterError::Conflict`] or [`ClusterError::AlreadyExists`] and must read again.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};

use super::{ClusterError, within};
use crate::leadership::election::Record;
use crate::resources::CONTROLLER_MANAGER;

/// A Lease as it was read or written last.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What decides.
    pub record: Record,
    /// The version that a write must name.
    pub version: String,
    /// How often it has changed hands.
    pub transitions: i32,
    lease: Lease,
}

impl Stored {
    /// Reads a Lease. One that somebody made without a duration lasts for `usual`.
    fn of(lease: Lease, usual: Duration) -> Result<Stored, ClusterError> {
        let Some(version) = lease.metadata.resource_version.clone() else {
            // Written back like this, it would overwrite whatever is there.
            let why = "the Lease came without a resourceVersion".to_owned();
            return Err(ClusterError::Invalid(why));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let lasts = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        Ok(Stored {
            record: Record {
                holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
                lasts: lasts.map_or(usual, Duration::from_secs),
            },
            version,
            transitions: spec.lease_transitions.unwrap_or_default(),
            lease,
        })
    }
}

/// A client of one Lease, for one candidate.
#[derive(Clone, Debug)]
pub struct LeaseClient {
    /// The Leases of the operator's namespace, through a connection that nothing else uses: whoever must renew does
    /// not wait behind a list of ten thousand objects.
    pub leases: Api<Lease>,
    /// The name of the Lease.
    pub name: String,
    /// Who we are.
    pub me: String,
    /// For how long it lasts unless it is renewed; whole seconds.
    pub lasts: Duration,
    /// How long one call may take.
    pub deadline: Duration,
}

impl LeaseClient {
    /// Reads it.
    ///
    /// # Errors
    /// [`ClusterError`]; a Lease that does not exist is `None`.
    pub async fn read(&self) -> Result<Option<Stored>, ClusterError> {
        let found = within(self.deadline, self.leases.get_opt(&self.name)).await?;
        found.map(|lease| Stored::of(lease, self.lasts)).transpose()
    }

    /// Writes our name into it, or makes it.
    ///
    /// # Errors
    /// [`ClusterError`]; after one that leaves the outcome open, reading tells.
    pub async fn acquire(&self, before: Option<&Stored>) -> Result<Stored, ClusterError> {
        let now = MicroTime(Timestamp::now());
        let Some(before) = before else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(self.me.clone()),
                    lease_duration_seconds: self.seconds(),
                    acquire_time: Some(now.clone()),
                    renew_time: Some(now),
                    lease_transitions: Some(0),
                    ..LeaseSpec::default()
                }),
            };
            let made = within(self.deadline, self.leases.create(&parameters(), &lease)).await?;
            return Stored::of(made, self.lasts);
        };
        self.write(before, |spec| {
            spec.holder_identity = Some(self.me.clone());
            spec.lease_duration_seconds = self.seconds();
            spec.lease_transitions = Some(before.transitions.saturating_add(1));
            spec.acquire_time = Some(now.clone());
            spec.renew_time = Some(now);
        })
        .await
    }

    /// Writes it anew, with our name in it.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn renew(&self, before: &Stored) -> Result<Stored, ClusterError> {
        self.write(before, |spec| {
            spec.lease_duration_seconds = self.seconds();
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        })
        .await
    }

    /// Takes our name out of it, so that another need not wait.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn resign(&self, before: &Stored) -> Result<(), ClusterError> {
        self.write(before, |spec| {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        })
        .await
        .map(drop)
    }

    async fn write(
        &self,
        before: &Stored,
        change: impl FnOnce(&mut LeaseSpec),
    ) -> Result<Stored, ClusterError> {
        let mut lease = before.lease.clone();
        change(lease.spec.get_or_insert_default());
        let parameters = parameters();
        let written = self.leases.replace(&self.name, &parameters, &lease);
        Stored::of(within(self.deadline, written).await?, self.lasts)
    }

    fn seconds(&self) -> Option<i32> {
        i32::try_from(self.lasts.as_secs()).ok()
    }
}

fn parameters() -> PostParams {
    PostParams {
        field_manager: Some(CONTROLLER_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(json: serde_json::Value) -> Result<Stored, ClusterError> {
        Stored::of(
            serde_json::from_value(json).unwrap(),
            Duration::from_secs(15),
        )
    }

    #[test]
    fn a_lease_of_whatever_shape_is_read() {
        let stored = lease(serde_json::json!({
            "metadata": {"name": "x", "resourceVersion": "7"},
            "spec": {"holderIdentity": "a", "leaseDurationSeconds": 20, "leaseTransitions": 3},
        }));
        let stored = stored.unwrap();
        assert_eq!(stored.record.holder.as_deref(), Some("a"));
        assert_eq!(stored.record.lasts, Duration::from_secs(20));
        assert_eq!((stored.version.as_str(), stored.transitions), ("7", 3));
        // Made by hand, or left behind by one who resigned.
        for spec in [
            serde_json::json!({}),
            serde_json::json!({"holderIdentity": ""}),
        ] {
            let json = serde_json::json!({"metadata": {"resourceVersion": "7"}, "spec": spec});
            let stored = lease(json).unwrap();
            assert_eq!(stored.record.holder, None);
            assert_eq!(stored.record.lasts, Duration::from_secs(15));
        }
    }

    #[test]
    fn one_without_a_version_is_not_written_back() {
        assert!(lease(serde_json::json!({"metadata": {}})).is_err());
    }
}
