//! What the API server was asked, as it counts itself.

use std::collections::BTreeMap;
use std::fmt;

use kube::Client;

/// Requests so far, by verb and resource, such as `APPLY chektwebhooks/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted(BTreeMap<String, u64>);

/// What our operator and the peers may write. The API server and the controller manager write other things meanwhile.
const CONCERNED: [&str; 4] = ["chektwebhooks", "chektaccounts", "secrets", "events"];
const WRITES: [&str; 5] = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];
/// How the benchmark itself makes its objects; nobody else creates webhooks.
const OURS: &str = "POST chektwebhooks";

impl Counted {
    /// Asks the API server.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn now(client: &Client) -> anyhow::Result<Counted> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await?;
        let mut counted = BTreeMap::new();
        for line in text.lines() {
            let Some((labels, number)) = line
                .strip_prefix("apiserver_request_total{")
                .and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let value = labels.split(',').find_map(|pair| pair.strip_prefix(name));
                value
                    .map(|v| v.trim_matches(['=', '"']))
                    .unwrap_or_default()
            };
            let (verb, resource, sub) = (label("verb"), label("resource"), label("subresource"));
            if !CONCERNED.contains(&resource) {
                continue;
            }
            let name = match sub {
                "" => format!("{verb} {resource}"),
                sub => format!("{verb} {resource}/{sub}"),
            };
            let number: f64 = number.trim().parse()?;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A counter.
            let number = number as u64;
            *counted.entry(name).or_default() += number;
        }
        Ok(Counted(counted))
    }

    /// What came since.
    pub fn since(&self, before: &Counted) -> Counted {
        let each = self.0.iter().filter_map(|(name, number)| {
            let more = number - before.0.get(name).copied().unwrap_or_default();
            (more > 0).then(|| (name.clone(), more))
        });
        Counted(each.collect())
    }

    /// Writes by whoever is measured, Events apart.
    pub fn writes(&self) -> u64 {
        self.sum(|verb, resource| WRITES.contains(&verb) && resource != "events")
    }

    /// Writes of Events.
    pub fn events(&self) -> u64 {
        self.sum(|verb, resource| WRITES.contains(&verb) && resource == "events")
    }

    /// Writes on the webhooks themselves.
    pub fn on_objects(&self) -> u64 {
        self.sum(|verb, resource| WRITES.contains(&verb) && resource.starts_with("chektwebhooks"))
    }

    /// Single objects that were read.
    pub fn gets(&self) -> u64 {
        self.sum(|verb, _| verb == "GET")
    }

    fn sum(&self, wanted: impl Fn(&str, &str) -> bool) -> u64 {
        let each = self.0.iter().filter(|(name, _)| {
            let (verb, resource) = name.split_once(' ').unwrap_or_default();
            name.as_str() != OURS && wanted(verb, resource)
        });
        each.map(|(_, number)| number).sum()
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.0.iter().filter(|(name, _)| {
            !["WATCH", "LIST"].iter().any(|verb| name.starts_with(verb)) && name.as_str() != OURS
        });
        let each: Vec<_> = each
            .map(|(name, number)| format!("{number} {name}"))
            .collect();
        write!(f, "{}", each.join(", "))
    }
}
