//! A client that exists before its credentials do: a call that is made too early waits for them.
//!
//! So nothing that uses the API server has to know that there is a time before it. To all of them it is an API server
//! that takes long to answer, which each bears anyway.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use kube::client::{Body, ClientBuilder};
use kube::config::AuthInfo;
use kube::{Client, Config};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tower::{BoxError, Service};

use super::credentials::Directory;
use super::meter::{Meter, MeterLayer};
use crate::ops::health::Gate;

/// How often it is looked whether the credentials are there.
const FIRST: Duration = Duration::from_millis(250);
/// How often it is looked whether they are others.
const LATER: Duration = Duration::from_secs(5);

/// What a token is compared by.
type Digested = [u8; 32];

/// What waits for the credentials.
pub struct Arrival {
    directory: Directory,
    server: Uri,
    meter: Meter,
    client: watch::Sender<Option<Client>>,
}

/// Hands each request to the client, once there is one.
#[derive(Clone)]
struct Late(watch::Receiver<Option<Client>>);

/// A client of the API server at `server`, with credentials that may still be missing, and what waits for them.
#[must_use]
pub fn client(directory: Directory, server: Uri, meter: Meter) -> (Client, Arrival) {
    let (sender, receiver) = watch::channel(None);
    let arrival = Arrival {
        directory,
        server,
        meter,
        client: sender,
    };
    (Client::new(Late(receiver), "default"), arrival)
}

impl Service<Request<Body>> for Late {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut client = self.0.clone();
        Box::pin(async move {
            let client = client.wait_for(Option::is_some).await?.clone();
            let client = client.ok_or("no client yet")?;
            Ok(client.send(request).await?)
        })
    }
}

impl Arrival {
    /// Waits for the credentials and lets all calls through; the gate says meanwhile what is missing. It does not end.
    ///
    /// A new token is a new client. kube would read the file again by itself, but only once a minute, and after a time
    /// without a valid token that is another minute in which alarms wait.
    pub async fn wait(self, gate: Gate) {
        let mut seen = None;
        // What was logged last, so that a thing that lasts is told once.
        let mut told = None;
        loop {
            match self.look(seen.as_ref()) {
                Ok(None) => told = None,
                Ok(Some((client, digest))) => {
                    self.client.send_replace(Some(client));
                    gate.open();
                    (seen, told) = (Some(digest), None);
                }
                Err(why) if seen.is_none() => gate.close(&why),
                Err(why) => {
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(
                            why,
                            "the new credentials cannot be used; going on with those before"
                        );
                        told = Some(why);
                    }
                }
            }
            let pause = if seen.is_none() { FIRST } else { LATER };
            tokio::time::sleep(pause).await;
        }
    }

    /// A client and the digest of its token, if that is another one than was seen before.
    fn look(&self, seen: Option<&Digested>) -> Result<Option<(Client, Digested)>, String> {
        let token = self.directory.look().map_err(|lack| lack.to_string())?;
        let digest = Sha256::digest(token.expose_secret()).into();
        if seen == Some(&digest) {
            return Ok(None);
        }
        let mut config = Config::new(self.server.clone());
        config.root_cert_file = Some(self.directory.ca());
        config.auth_info = AuthInfo {
            token_file: Some(self.directory.token().display().to_string()),
            ..AuthInfo::default()
        };
        let builder = ClientBuilder::try_from(super::client::ours(config));
        let builder = builder.map_err(|error| error.to_string())?;
        // Inside of what waits: a call is counted when it leaves.
        let client = builder.with_layer(&MeterLayer(self.meter.clone())).build();
        Ok(Some((client, digest)))
    }
}
