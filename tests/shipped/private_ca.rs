//! A private CA that the chart is given is trusted by the real program, and beside the public ones: the variables that the
//! chart sets, with a folder as the kubelet mounts a ConfigMap, against servers with certificates of three CAs.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chekt_operator::resources::conditions::READY;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::harness::{Identity, Launch, Process, Role, Stage, StageOptions};
use crate::helm;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_private_ca_in_the_values_is_trusted_beside_the_public_ones() -> anyhow::Result<()> {
    let options = StageOptions {
        with_controller: false,
        ..StageOptions::default()
    };
    let stage = Stage::with("private-ca", options).await?;
    let (public, private, stranger) = (ca("public")?, ca("private")?, ca("stranger")?);

    let folder = tempfile::tempdir()?;
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, public.pem())?;
    let mount = folder.path().join("mount");
    mounted(&mount, "ca.crt", &private.pem())?;

    let mut controller = Launch::new(Role::Controller)
        .env(
            "KUBECONFIG",
            stage.users.plane.kubeconfig(Identity::Admin).display(),
        )
        .flag("--public-url", stage.public_url()?)
        .flag("--operator-namespace", &stage.operator.namespace)
        .flag("--watch-namespace", &stage.users.namespace);
    for (name, value) in environment()? {
        // What is at these places in a container is elsewhere on this machine.
        let value = match value.as_str() {
            "/etc/ssl/certs/ca-certificates.crt" => roots.display().to_string(),
            "/etc/chekt-operator/ca" => mount.display().to_string(),
            other => anyhow::bail!("{name} is {other}, where the chart mounts nothing"),
        };
        controller = controller.env(&name, value);
    }
    let controller = Process::start(controller).await?;
    controller.ready(SOON).await?;

    stage
        .users
        .put_secret("chekt-token", &[("token", &stage.token)])
        .await?;
    for (account, ca) in [
        ("private", &private),
        ("public", &public),
        ("stranger", &stranger),
    ] {
        let server = in_front_of(stage.sandbox.public()?, ca).await?;
        let manifest = json!({
            "apiVersion": "chekt.com/v1alpha1", "kind": "ChektAccount", "metadata": {"name": account},
            "spec": {
                "baseURL": format!("https://localhost:{}", server.port()),
                "auth": {"accessToken": {"secretRef": {"name": "chekt-token", "key": "token"}}},
            },
        });
        stage.users.apply(&manifest.to_string()).await?;
    }
    for account in ["private", "public"] {
        stage
            .users
            .account_condition(account, READY, "True", SOON)
            .await?;
    }
    let refused = stage
        .users
        .account_condition("stranger", READY, "False", SOON)
        .await?;
    assert!(
        refused.message.contains("certificate"),
        "{}",
        refused.message
    );
    Ok(())
}

/// The variables about certificates that the chart sets in the controller's container.
fn environment() -> anyhow::Result<Vec<(String, String)>> {
    let values =
        json!({"publicUrl": "https://a.example", "privateCA": {"configMapName": "company"}});
    let objects = helm::objects(&helm::render_with("ops", &values)?)?;
    let container = helm::container(helm::object(&objects, "Deployment")?, "controller")?;
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    let mounted: Vec<&Value> = mounts.filter(|m| m["name"] == "private-ca").collect();
    assert_eq!(mounted[0]["mountPath"], "/etc/chekt-operator/ca");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let variables = container["env"].as_array().context("no environment")?;
    let variables = variables
        .iter()
        .map(|v| (text(&v["name"]), text(&v["value"])));
    let found: Vec<_> = variables
        .filter(|(name, _)| name.starts_with("SSL_"))
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    Ok(found)
}

/// A folder as the kubelet makes it: files are links into a folder that is a link itself.
fn mounted(mount: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(mount.join("..2026"))?;
    std::fs::write(mount.join("..2026").join(name), text)?;
    symlink("..2026", mount.join("..data"))?;
    symlink(Path::new("..data").join(name), mount.join(name))?;
    Ok(())
}

fn ca(name: &str) -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Speaks TLS as localhost, with a certificate of this CA, and passes on what is within. Ends with the runtime.
async fn in_front_of(
    behind: SocketAddr,
    ca: &CertifiedIssuer<'static, KeyPair>,
) -> anyhow::Result<SocketAddr> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, ca)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Whoever does not trust the certificate goes away during the handshake.
                let Ok(mut inside) = acceptor.accept(stream).await else {
                    return;
                };
                if let Ok(mut outside) = TcpStream::connect(behind).await {
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                }
            });
        }
    });
    Ok(address)
}
