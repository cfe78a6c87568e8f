//! How we connect to the API server.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use data_encoding::BASE64;
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::client::ClientBuilder;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};

use super::credentials::Directory;
use super::fenced::FenceLayer;
use super::late::{self, Arrival};
use super::meter::{Meter, MeterLayer};
use crate::leadership::fence::Fence;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// Where Kubernetes mounts the credentials of a Pod.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What names the API server in a Pod.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// A client for the cluster that the kubeconfig names, or that we run in, with a meter that counts every request.
///
/// The retry that kube has built in is off: it repeats any method up to fifteen times below our feet, a create
/// among them, and one call may then last for minutes. What is to be tried again is decided by those who call.
///
/// # Errors
/// When neither a kubeconfig nor an in-cluster identity can be read.
pub async fn connect_metered(meter: &Meter) -> anyhow::Result<Client> {
    let builder = ClientBuilder::try_from(config().await?)?;
    Ok(builder.with_layer(&MeterLayer(meter.clone())).build())
}

/// The same, with a fence that every write must pass. What does not pass it is no request, and is not counted.
///
/// # Errors
/// As [`connect_metered`].
pub async fn connect_behind(fence: &Fence, meter: &Meter) -> anyhow::Result<Client> {
    let builder = ClientBuilder::try_from(config().await?)?;
    let builder = builder.with_layer(&MeterLayer(meter.clone()));
    Ok(builder.with_layer(&FenceLayer(fence.clone())).build())
}

/// A metered client for a process whose credentials may not be there yet, and what waits for them.
///
/// Where they are: in `credentials`, if that is given; else a kubeconfig names them, which is read now; else they are
/// where Kubernetes mounts them.
///
/// # Errors
/// When there is neither a kubeconfig nor a Pod around us.
pub async fn connect_when_possible(
    credentials: Option<&Path>,
    meter: &Meter,
) -> anyhow::Result<(Client, Option<Arrival>)> {
    let directory = match credentials {
        Some(path) => path,
        None if in_a_pod() && no_kubeconfig().await => Path::new(MOUNTED),
        None => return Ok((connect_metered(meter).await?, None)),
    };
    let variable = |name: &str| {
        std::env::var(name).with_context(|| {
            format!("{name} says nothing: it names the API server, as it does in every Pod")
        })
    };
    let server = server(&variable(HOST)?, &variable(PORT)?)?;
    let directory = Directory::new(directory.to_owned());
    let (client, arrival) = late::client(directory, server, meter.clone());
    Ok((client, Some(arrival)))
}

/// A client for our own use, and the certificates that it trusts the API server by, in PEM.
///
/// # Errors
/// As [`connect_metered`]; and when only the system's own certificates are trusted, since those cannot be handed on.
pub async fn connect_and_trust() -> anyhow::Result<(Client, Vec<u8>)> {
    let config = config().await?;
    let ca = match (&config.root_cert_file, &config.root_cert) {
        (Some(file), _) => {
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?
        }
        (None, Some(certificates)) => pem(certificates).into_bytes(),
        (None, None) => anyhow::bail!(
            "the kubeconfig names no certificate authority that could be handed to the receiver: add certificate-authority"
        ),
    };
    Ok((Client::try_from(config)?, ca))
}

/// How every client of ours behaves.
pub(super) fn ours(mut config: Config) -> Config {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    if goes_past_the_proxy(&config) {
        config.proxy_url = None;
    }
    config
}

/// Whether a proxy that the environment names is not meant for this API server: kube asks `NO_PROXY` about the proxy's own
/// address. One that the kubeconfig names is meant, and in a Pod there is none.
fn goes_past_the_proxy(config: &Config) -> bool {
    let variables = ["HTTPS_PROXY", "https_proxy"];
    let mut set = variables.iter().filter_map(|v| std::env::var(v).ok());
    let named = set.find_map(|url| url.parse::<Uri>().ok());
    named.is_some()
        && named == config.proxy_url
        && Matcher::from_env().intercept(&config.cluster_url).is_none()
}

pub(super) async fn config() -> anyhow::Result<Config> {
    Ok(ours(Config::infer().await?))
}

fn in_a_pod() -> bool {
    std::env::var_os(HOST).is_some()
}

async fn no_kubeconfig() -> bool {
    let options = KubeConfigOptions::default();
    Config::from_kubeconfig(&options).await.is_err()
}

/// The API server, as a Pod's environment names it.
fn server(host: &str, port: &str) -> anyhow::Result<Uri> {
    let port: u16 = port
        .parse()
        .with_context(|| format!("{PORT}={port:?} is no port"))?;
    let host = match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_owned(),
    };
    let uri = format!("https://{host}:{port}");
    uri.parse()
        .with_context(|| format!("{HOST}={host:?} is no host"))
}

fn pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = BASE64.encode(certificate);
        for at in (0..encoded.len()).step_by(64) {
            text.push_str(&encoded[at..encoded.len().min(at + 64)]);
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn the_api_server_is_named_by_the_environment_of_a_pod() {
        let server = |host, port| server(host, port).map(|uri| uri.to_string());
        for (host, port, uri) in [
            ("10.96.0.1", "443", "https://10.96.0.1:443/"),
            ("fd00::1", "6443", "https://[fd00::1]:6443/"),
            (
                "kubernetes.default",
                "443",
                "https://kubernetes.default:443/",
            ),
        ] {
            assert_eq!(server(host, port).unwrap(), uri);
        }
        assert!(server("a b", "443").unwrap_err().to_string().contains(HOST));
        assert!(
            server("a", "tcp://x")
                .unwrap_err()
                .to_string()
                .contains(PORT)
        );
    }

    #[test]
    fn certificates_are_written_as_they_are_read() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        let one = made.unwrap().cert.der().to_vec();
        let text = pem(&[one.clone(), one.clone()]);
        let read: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .map(|c| c.unwrap().to_vec())
            .collect();
        assert_eq!(read, [one.clone(), one]);
        assert!(text.lines().all(|line| line.len() <= 64));
    }
}
