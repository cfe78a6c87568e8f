//! An admission webhook on loopback that treats the Events of a namespace as a test wants it to: it never answers, fails,
//! refuses, ends the connection, or breaks the object. The API server asks it as it asks any other, over TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use data_encoding::BASE64;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::cluster::Cluster;

/// What it does with an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// It never answers.
    Hangs,
    /// It answers 500, as one that has crashed.
    Fails,
    /// It ends the connection.
    Resets,
    /// It refuses with this number.
    Refuses(u16),
    /// It makes the object one that the API server's own validation refuses.
    Breaks,
}

impl Manner {
    fn path(self) -> String {
        match self {
            Manner::Hangs => "hangs".to_owned(),
            Manner::Fails => "fails".to_owned(),
            Manner::Resets => "resets".to_owned(),
            Manner::Refuses(code) => format!("refuses-{code}"),
            Manner::Breaks => "breaks".to_owned(),
        }
    }
}

/// The webhook. Dropping it ends it.
pub struct Admission {
    address: SocketAddr,
    certificate: String,
    serving: JoinHandle<()>,
}

impl Admission {
    /// Serves on a free port.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn start() -> anyhow::Result<Admission> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    // A connection that a test wants to end has nothing more to say.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(answer))
                        .await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Admission {
            address,
            certificate: made.cert.pem(),
            serving,
        })
    }

    /// Has the API server ask it about each Event that is made in these namespaces. `name` is that of the configuration.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn guard(
        &self,
        by: &Cluster,
        name: &str,
        namespaces: &[(Manner, Vec<String>)],
    ) -> anyhow::Result<()> {
        let webhooks = |breaks: bool| -> Vec<Value> {
            let ours = namespaces.iter();
            ours.filter(|(manner, _)| (*manner == Manner::Breaks) == breaks)
                .map(|(manner, namespaces)| {
                    let path = manner.path();
                    json!({
                        "name": format!("{path}.example.com"),
                        "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 30,
                        "failurePolicy": "Fail",
                        "clientConfig": {
                            "url": format!("https://{}/{path}", self.address),
                            "caBundle": BASE64.encode(self.certificate.as_bytes()),
                        },
                        "namespaceSelector": {"matchExpressions": [
                            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces},
                        ]},
                        "rules": [{"apiGroups": ["events.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE"],
                            "resources": ["events"]}],
                    })
                })
                .collect()
        };
        let configuration = |kind: &str, webhooks: Vec<Value>| {
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
                "webhooks": webhooks,
            })
        };
        let items = [
            configuration("ValidatingWebhookConfiguration", webhooks(false)),
            configuration("MutatingWebhookConfiguration", webhooks(true)),
        ];
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        by.apply(&list.to_string()).await?;
        Ok(())
    }

    /// Has the API server ask it no more.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn leave(by: &Cluster, name: &str) -> anyhow::Result<()> {
        let kinds = "validatingwebhookconfiguration,mutatingwebhookconfiguration";
        by.kubectl(&["delete", kinds, name]).await?.ok()?;
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let manner = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body)?;
    let uid = review["request"]["uid"].clone();
    let mut response = json!({"uid": uid, "allowed": true});
    match manner.as_str() {
        "hangs" => {
            let never: Infallible = std::future::pending().await;
            match never {}
        }
        "resets" => anyhow::bail!("the connection ends"),
        "fails" => {
            let mut answer = Response::new(Full::from("a panic\n\u{1b}[31mof the\u{7} webhook"));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return Ok(answer);
        }
        "breaks" => {
            let patch = json!([{"op": "replace", "path": "/type", "value": "Neither"}]);
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(BASE64.encode(patch.to_string().as_bytes()));
        }
        refuses => {
            let code = refuses.strip_prefix("refuses-").context("no manner")?;
            let code: u16 = code.parse()?;
            // Details as the API server has them: the answer alone looks as if it were the API server's own.
            response["allowed"] = json!(false);
            response["status"] = json!({"code": code, "reason": "Invalid", "message": "not\nnow",
                "details": {"kind": "Event", "causes": [{"field": "note", "reason": "FieldValueInvalid"}]}});
        }
    }
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let mut answer = Response::new(Full::from(review.to_string()));
    let json = http::HeaderValue::from_static("application/json");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    Ok(answer)
}
