//! What a probe of `verify` looked like when it arrived, for the status of the webhook that it names. Its sender gets the answer
//! of every request that is refused. Of what the sender wrote, the status holds the number of the probe and, as far as a trusted
//! proxy says it, the address.

use std::sync::OnceLock;

use axum::extract::Request;

use super::ingest::Visitor;
use super::metrics::PROBE;
use super::origin::Origins;
use crate::delivery::Signatures;
use crate::delivery::probe::{self, HEADER, Probe};
use crate::resources::refusal::Refusal;
use crate::resources::webhook::SeenProbe;

/// A probe on its way through the receiver.
#[derive(Debug)]
pub struct Sighting {
    probe: Probe,
    from: Option<String>,
    strayed: &'static str,
    intact: OnceLock<bool>,
}

impl Sighting {
    /// Reads the headers of a request; `None`: it is no probe.
    pub fn of(request: &Request, origins: &Origins) -> Option<Self> {
        let headers = request.headers();
        let probe = Probe::read(headers.get(HEADER)?.as_bytes())?;
        let peer = request.extensions().get::<Visitor>()?.0.peer();
        Some(Sighting {
            from: origins.sender(peer, headers).ok().map(|a| a.to_string()),
            strayed: probe::strayed(probe.webhook(), request.uri().path()),
            probe,
            intact: OnceLock::new(),
        })
    }

    /// The webhook that it names, as `namespace/name`.
    pub fn webhook(&self) -> &str {
        self.probe.webhook()
    }

    /// Takes in the signatures and the body that arrived with it.
    pub fn compare(&self, signatures: &Signatures, body: &[u8]) {
        // Once a request.
        let _ = self.intact.set(self.probe.is_intact(signatures, body));
    }

    /// The outcome that counts. Only what arrived as it was sent is no refused delivery.
    pub fn outcome(&self, refusal: Refusal) -> &'static str {
        match (refusal, self.intact.get()) {
            (Refusal::SignatureMismatch, Some(true)) => PROBE,
            (refusal, _) => refusal.outcome(),
        }
    }

    /// What the status says of it. `place` is the webhook that the path names.
    pub fn seen(&self, refusal: Refusal, place: Option<&str>) -> SeenProbe {
        let is_astray = place != Some(self.probe.webhook());
        SeenProbe {
            id: self.probe.id().to_owned(),
            refused: refusal.as_str().to_owned(),
            from: self.from.clone(),
            path: is_astray.then(|| self.strayed.to_owned()),
            intact: self.intact.get().copied(),
        }
    }
}
