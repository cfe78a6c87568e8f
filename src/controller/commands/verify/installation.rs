//! The installation as a whole: for `helm test`, and for whoever has just installed and has no webhook yet.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::report::Report;
use super::{PATIENCE, VerifyArgs};
use crate::checkup::installation::{self as checkup, Definition, Lease};
use crate::checkup::path::{self, Answered};
use crate::checkup::probe::Arrival;
use crate::checkup::{Finding, Step, verdict};
use crate::cluster::{ClusterError, within, write};
use crate::ops::clock::Clock;
use crate::reach::{self, Place};
use crate::resources;
use crate::webhook::identity::RECEIVER_PATH;

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a Lease may stay as it is that somebody renews: the usual one is renewed every 2 s.
const RENEWED: Duration = Duration::from_secs(15);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// A path that is no webhook's, since a name has no capital letters: whoever asks there leaves no trace in a status.
const NOBODYS: &str = "Verify/Installation";

/// Looks at the installation. Gives back the exit code.
pub async fn verify(client: &Client, args: &VerifyArgs, operator: &str) -> anyhow::Result<u8> {
    let clock = Clock::machine();
    let title = format!("The installation in namespace {operator}");
    let about = json!({"operatorNamespace": operator});
    let mut report = Report::begin(args.output, &clock, &title, about);

    let version = within(DEADLINE, client.apiserver_version()).await?;
    let said = format!("the API server answers, version {}", version.git_version);
    report.add(Finding::ok(Step::Api, said));
    report.add(definitions(client).await?);
    report.add(lease(client, &clock, operator, &args.lease_name).await?);
    report.add(receiver(args).await);
    report.add(
        all(client, args, Step::Accounts)
            .await?
            .map_or_else(|skipped| skipped, |all| checkup::accounts(&all)),
    );
    report.add(
        all(client, args, Step::Webhooks)
            .await?
            .map_or_else(|skipped| skipped, |all| checkup::webhooks(&all)),
    );
    let concluded = verdict::of_installation(&report.findings());
    report.conclude(&concluded)
}

async fn definitions(client: &Client) -> anyhow::Result<Finding> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut known = Vec::new();
    for (_, yaml) in resources::crd_files()? {
        let ours: Value = serde_yaml::from_str(&yaml)?;
        let name = ours["metadata"]["name"].as_str().unwrap_or_default();
        let live = match write::latest(&api, name).await {
            Ok(live) => live,
            Err(ClusterError::Forbidden(_)) => {
                let why = "you may not get customresourcedefinitions";
                return Ok(Finding::skipped(Step::Definitions, why));
            }
            Err(error) => return Err(error.into()),
        };
        let definition = match live {
            None => Definition::Absent,
            Some(live) => compared(&ours, &live)?,
        };
        known.push((name.to_owned(), definition));
    }
    Ok(checkup::definitions(&known))
}

/// Whether a definition is ours. The API server fills in what we leave out, so what is compared is what users meet: the
/// schemas of the versions.
fn compared(ours: &Value, live: &CustomResourceDefinition) -> anyhow::Result<Definition> {
    let served = live.status.as_ref().is_some_and(|status| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|c| c.type_ == "Established" && c.status == "True")
    });
    // Through the same type, so that both leave out the same.
    let ours: CustomResourceDefinition = serde_json::from_value(ours.clone())?;
    let schemas = |definition: &CustomResourceDefinition| {
        let versions = definition.spec.versions.iter();
        versions
            .map(|v| json!({"name": v.name, "served": v.served, "schema": v.schema}))
            .collect::<Vec<_>>()
    };
    Ok(if !served {
        Definition::NotServed
    } else if schemas(&ours) == schemas(live) {
        Definition::Same
    } else {
        Definition::Differs
    })
}

/// The Lease, looked at until it changes: no time that another machine wrote is compared with ours.
async fn lease(
    client: &Client,
    clock: &Clock,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Finding> {
    let leases: Api<LeaseObject> = Api::namespaced(client.clone(), namespace);
    let began = clock.now();
    let mut first: Option<Option<String>> = None;
    loop {
        let found = match write::latest(&leases, name).await {
            Ok(found) => found,
            Err(ClusterError::Forbidden(_)) => {
                let why = format!("you may not get leases in namespace {namespace}");
                return Ok(Finding::skipped(Step::Lease, why));
            }
            Err(error) => return Err(error.into()),
        };
        let waited = clock.now().saturating_duration_since(began) >= RENEWED;
        let (holder, version) = match &found {
            None => (None, None),
            Some(lease) => {
                let spec = lease.spec.as_ref();
                let holder = spec.and_then(|s| s.holder_identity.clone());
                (holder.filter(|h| !h.is_empty()), lease.resource_version())
            }
        };
        let before = first.get_or_insert_with(|| version.clone());
        let state = match holder {
            Some(holder) if *before != version => Lease::Held(holder),
            Some(holder) if waited => Lease::Silent(holder),
            None if waited && found.is_none() => Lease::Absent,
            None if waited => Lease::Free,
            // A leader may be on its way.
            Some(_) | None => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
        };
        return Ok(checkup::lease(name, &state));
    }
}

/// The receiver through its Service. Its certificate is for the public name and not for the Service's, so it is not judged.
async fn receiver(args: &VerifyArgs) -> Finding {
    let step = Step::Receiver;
    let Some(url) = &args.receiver_url else {
        return Finding::skipped(step, "where its Service is was not said (--receiver-url)");
    };
    let base = url.as_str().trim_end_matches('/');
    let asked = format!("{base}/{RECEIVER_PATH}/{NOBODYS}");
    let Some(place) = Place::of(&asked) else {
        let next = "write http://NAME.NAMESPACE.svc";
        return Finding::failed(step, format!("{url} names no host"), next);
    };
    let (resolution, addresses) = reach::resolve(&place, PATIENCE).await;
    let (connections, first) = reach::connect(&addresses, PATIENCE).await;
    let mut finding = match first {
        None if addresses.is_empty() => path::dns(&place.host, &resolution),
        None => path::tcp(&connections),
        Some(address) => {
            let answered: Answered = reach::ask(&place, address, None).await;
            path::answer(&answered, false, &Arrival::nothing())
        }
    };
    if !finding.lets_go_on() {
        finding.next = Some(
            "see that the receiver's container runs and is ready, that its Service has endpoints, and that no NetworkPolicy is in the way"
                .to_owned(),
        );
    }
    Finding { step, ..finding }
}

/// All objects of a kind that the operator looks after. Inside: the finding that says why they are not known.
async fn all<K>(
    client: &Client,
    args: &VerifyArgs,
    step: Step,
) -> anyhow::Result<Result<Vec<K>, Finding>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let apis: Vec<Api<K>> = if args.watch_namespace.is_empty() {
        vec![Api::all(client.clone())]
    } else {
        let of = |namespace: &String| Api::namespaced(client.clone(), namespace);
        args.watch_namespace.iter().map(of).collect()
    };
    let mut items = Vec::new();
    for api in apis {
        match within(DEADLINE, api.list(&ListParams::default())).await {
            Ok(list) => items.extend(list.items),
            Err(ClusterError::Forbidden(why)) => return Ok(Err(Finding::skipped(step, why))),
            Err(ClusterError::NotFound(_)) => {
                let why = "there is no such kind (see definitions)";
                return Ok(Err(Finding::skipped(step, why)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Ok(items))
}
