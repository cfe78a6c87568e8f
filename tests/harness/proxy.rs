//! A real nginx or haproxy in front of a receiver, as an Ingress, a load balancer or a CDN is. Both come from Debian's
//! packages; they listen on loopback only.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::debian::{self, Unfetched};
use super::eventually::eventually;
use super::go_build;
use super::process::lasting_address;
use super::reaper::{self, Guarded};

/// The proxies, with the libraries that a small Debian may lack.
const PACKAGES: [&str; 5] = [
    "nginx",
    "haproxy",
    "liblua5.3-0",
    "libopentracing-c-wrapper0",
    "libopentracing1",
];
/// How long a start may take.
const START: Duration = Duration::from_secs(20);

/// The programs.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

/// A running proxy. Dropping it ends it.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    process: Guarded,
    dir: PathBuf,
}

/// A certificate that a proxy shows, and its key, in PEM.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'p> {
    /// The certificate and those that lead to its root.
    pub chain: &'p str,
    /// The private key.
    pub key: &'p str,
}

impl Programs {
    /// Finds the programs, and fetches them the first time. `None`: this machine cannot have them, which is said.
    ///
    /// # Errors
    /// When they cannot be unpacked.
    pub async fn find() -> anyhow::Result<Option<Programs>> {
        let found = tokio::task::spawn_blocking(|| debian::unpacked("proxies", &PACKAGES)).await?;
        match found {
            Ok(dir) => Ok(Some(Programs(dir))),
            Err(error) if error.is::<Unfetched>() => {
                go_build::say(&format!("left out, a test with nginx and haproxy: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Starts nginx with these directives in its `server`.
    ///
    /// # Errors
    /// When it does not start, with its log.
    pub async fn nginx(&self, tls: Option<Tls<'_>>, server: &str) -> anyhow::Result<Proxy> {
        let dir = reaper::directory("nginx")?;
        let address = lasting_address()?;
        let tls = match tls {
            None => String::new(),
            Some(tls) => {
                fs::write(dir.join("tls.crt"), tls.chain)?;
                fs::write(dir.join("tls.key"), tls.key)?;
                "ssl_certificate tls.crt; ssl_certificate_key tls.key;".to_owned()
            }
        };
        let ssl = if tls.is_empty() { "" } else { " ssl" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path temp/{kind};\n"))
            .concat();
        fs::create_dir(dir.join("temp"))?;
        // One process, so that it ends with what the harness started.
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr info;\n\
             events {{}}\n\
             http {{\n{temporary}access_log off;\n\
             server {{ listen {address}{ssl}; {tls}\n{server}\n}}\n}}\n"
        );
        let config_file = dir.join("nginx.conf");
        fs::write(&config_file, config)?;
        let mut command = self.command("nginx");
        command
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(&config_file)
            .args(["-e", "stderr"]);
        start(command, address, dir).await
    }

    /// Starts haproxy that passes everything on to `server`, with these options for it, such as `send-proxy`.
    ///
    /// # Errors
    /// When it does not start, with its log.
    pub async fn haproxy(
        &self,
        tls: Option<Tls<'_>>,
        server: SocketAddr,
        options: &str,
    ) -> anyhow::Result<Proxy> {
        let dir = reaper::directory("haproxy")?;
        let address = lasting_address()?;
        let mut bind = format!("bind {address}");
        if let Some(tls) = tls {
            let both = dir.join("tls.pem");
            fs::write(&both, format!("{}{}", tls.chain, tls.key))?;
            bind.push_str(&format!(" ssl crt {}", both.display()));
        }
        let config = format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             frontend all\n  {bind}\n  default_backend receiver\n\
             backend receiver\n  server receiver {server} {options}\n"
        );
        let config_file = dir.join("haproxy.cfg");
        fs::write(&config_file, config)?;
        let mut command = self.command("haproxy");
        command.arg("-db").arg("-f").arg(&config_file);
        start(command, address, dir).await
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.0.join("usr/sbin").join(program));
        let lib = self.0.join("usr/lib");
        // Its libraries are in a folder of the machine's architecture.
        let folders: Vec<String> = fs::read_dir(&lib)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
            .collect();
        command.env("LD_LIBRARY_PATH", folders.join(":"));
        command
    }
}

async fn start(mut command: Command, address: SocketAddr, dir: PathBuf) -> anyhow::Result<Proxy> {
    let log = fs::File::create(dir.join("log"))?;
    command
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let process = reaper::spawn(&mut command)?;
    let mut proxy = Proxy {
        address,
        process,
        dir,
    };
    eventually("the proxy to listen", START, async || {
        if let Some(status) = proxy.process.ended()? {
            anyhow::bail!("{status}: {}", log_of(&proxy.dir));
        }
        TcpStream::connect(address)?;
        Ok(())
    })
    .await?;
    Ok(proxy)
}

impl Proxy {
    /// What it has logged.
    pub fn log(&self) -> String {
        log_of(&self.dir)
    }
}

fn log_of(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The reaper tries again at the end.
        let _ = self.process.kill();
        reaper::remove(&self.dir);
    }
}
