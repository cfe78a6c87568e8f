//! The sandbox: CHeKT's partner API, simulated, for people who try things out and for tests.
//!
//! ```text
//! routes    -> operations -> state <- deliveries -> receivers
//! control ---------------->  |
//!                            +-> ledger (what happened)   +-> state file (what outlives a restart)
//! ```
//!
//! What the documents of the API state is fixed; what they leave open is a switch (`quirks`); what may go wrong
//! on the way is a fault (`faults`). Decisions are plain functions of `State`, a moment and a request.

mod answer;
mod assertion;
mod book;
mod catalogue;
mod control;
mod deliveries;
mod envelope;
mod faults;
mod fields;
mod idempotency;
mod ledger;
mod listing;
mod operations;
mod quirks;
mod rate;
mod routes;
mod schedule;
mod server;
mod signature;
mod state;
mod state_file;
mod store;
mod target;
mod tokens;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use clap::Args;
use k8s_openapi::jiff::Timestamp;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use server::HangUp;

use assertion::PublicKey;
use fields::Urls;
use rate::Limit;
use state::State;
use state_file::Saver;
use store::{Moment, Store};
use tokens::Credentials;

/// Flags of the sandbox.
#[derive(Debug, Args)]
pub struct SandboxArgs {
    /// Address to listen on; port 0 takes a free one, which is logged.
    #[arg(long, env = "CHEKT_LISTEN", default_value = "127.0.0.1:8480")]
    listen: SocketAddr,

    /// A bearer token that the partner routes accept.
    #[arg(long, env = "CHEKT_TOKEN", hide_env_values = true, value_parser = secret)]
    token: Option<SecretString>,

    /// Client id that /oauth/token accepts, with --client-secret, --client-public-key or both.
    #[arg(long, env = "CHEKT_CLIENT_ID")]
    client_id: Option<String>,

    /// Client secret that belongs to the client id.
    #[arg(long, env = "CHEKT_CLIENT_SECRET", hide_env_values = true, requires = "client_id", value_parser = secret)]
    client_secret: Option<SecretString>,

    /// File with the public key, in PEM, that verifies what the client signs instead of sending a secret (RS256 for an
    /// RSA key, ES256 for an EC key on P-256).
    #[arg(
        long,
        env = "CHEKT_CLIENT_PUBLIC_KEY",
        requires = "client_id",
        value_name = "FILE"
    )]
    client_public_key: Option<PathBuf>,

    /// Factor by which the pauses before retries (5 s, 30 s, 5 min) are multiplied.
    #[arg(long, env = "CHEKT_TIME_SCALE", default_value_t = 1.0, value_parser = time_scale)]
    time_scale: f64,

    /// File that webhooks, idempotency keys and deliveries under way are kept in across restarts.
    #[arg(long, env = "CHEKT_STATE")]
    state: Option<PathBuf>,

    /// Partner calls a minute before 429 is answered; 0 for no limit.
    #[arg(long, env = "CHEKT_REQUESTS_PER_MINUTE", default_value_t = 60)]
    requests_per_minute: u32,

    /// Partner calls at once after a quiet time before 429 is answered.
    #[arg(long, env = "CHEKT_BURST", default_value_t = 5)]
    burst: u32,

    /// Lets webhooks have a plain http url that is not this machine's, such as that of a Service. Everyone on the way
    /// can then read deliveries. CHeKT itself refuses such urls.
    #[arg(long, env = "CHEKT_ALLOW_INSECURE_URLS")]
    allow_insecure_urls: bool,
}

fn secret(text: &str) -> Result<SecretString, &'static str> {
    if text.is_empty() {
        Err("it must not be empty")
    } else {
        Ok(text.into())
    }
}

fn time_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if scale.is_finite() && scale >= 0.0 => Ok(scale),
        Ok(_) | Err(_) => Err("it is a number from 0".to_owned()),
    }
}

/// What a sandbox needs to know besides its address.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A bearer token that is always good.
    pub token: Option<SecretString>,
    /// Client id and client secret for `/oauth/token`.
    pub client: Option<(String, SecretString)>,
    /// Client id and public key, in PEM, for `/oauth/token`.
    pub client_key: Option<(String, String)>,
    /// Factor on the pauses before retries, 0 or more.
    pub time_scale: f64,
    /// Where the state outlives a restart.
    pub state: Option<PathBuf>,
    /// Partner calls a minute; 0 for no limit.
    pub requests_per_minute: u32,
    /// Partner calls at once.
    pub burst: u32,
    /// Whether webhooks may have a plain http url that is not this machine's.
    pub insecure_urls: bool,
}

impl Default for Settings {
    /// The real schedule and the limits of the free tier, and nobody let in.
    fn default() -> Self {
        Settings {
            token: None,
            client: None,
            client_key: None,
            time_scale: 1.0,
            state: None,
            requests_per_minute: 60,
            burst: 5,
            insecure_urls: false,
        }
    }
}

/// Runs the sandbox until `end` is cancelled.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn run(args: SandboxArgs, end: CancellationToken) -> anyhow::Result<()> {
    let SandboxArgs {
        listen,
        token,
        client_id,
        client_secret,
        client_public_key,
        time_scale,
        state,
        requests_per_minute,
        burst,
        allow_insecure_urls,
    } = args;
    anyhow::ensure!(
        client_id.is_none() || client_secret.is_some() || client_public_key.is_some(),
        "--client-id needs something that proves it: add --client-secret SECRET or --client-public-key FILE"
    );
    let key = client_public_key.map(|path| {
        std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read --client-public-key {}", path.display()))
    });
    let key = key.transpose()?;
    let settings = Settings {
        token,
        client_key: client_id.clone().zip(key),
        client: client_id.zip(client_secret),
        time_scale,
        state,
        requests_per_minute,
        burst,
        insecure_urls: allow_insecure_urls,
    };
    let listener = crate::ops::listen::listen(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    serve(listener, settings, end).await
}

/// Serves on `listener` until `end` is cancelled, then saves what is under way.
///
/// # Errors
/// When nobody could be let in, when the state file is not one, or when the client for deliveries cannot be made.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    end: CancellationToken,
) -> anyhow::Result<()> {
    let (sandbox, writer) = open(settings, &end)?;
    let saving_ends = CancellationToken::new();
    let saving = writer.map(|writer| {
        let sandbox = sandbox.clone();
        let snapshot = move || sandbox.look(|state| state_file::bytes(&state.store));
        tokio::spawn(writer.run(snapshot, saving_ends.clone()))
    });
    // Shows at once whether the state file can be written, and starts what was under way.
    sandbox.change(|_| ());
    sandbox.saved().await;

    let public = listener.local_addr()?;
    tracing::info!(role = "sandbox", %public, "listening");
    server::run(listener, router(&sandbox), end).await;

    sandbox.tasks.close();
    sandbox.tasks.wait().await;
    saving_ends.cancel();
    if let Some(saving) = saving {
        saving.await?;
    }
    Ok(())
}

/// The routes of a sandbox that keeps its state in memory, for a test that brings the connections itself. An answer that
/// is not to be given carries [`HangUp`].
///
/// # Errors
/// When nobody could be let in, when a state file is named, or when the client for deliveries cannot be made.
pub fn in_memory(settings: Settings, end: &CancellationToken) -> anyhow::Result<Router> {
    anyhow::ensure!(
        settings.state.is_none(),
        "a sandbox in memory keeps no state file: leave it out, or let the sandbox serve"
    );
    let (sandbox, _) = open(settings, end)?;
    Ok(router(&sandbox))
}

fn router(sandbox: &Arc<Sandbox>) -> Router {
    Router::new()
        .merge(control::router())
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(routes::partner)
        .with_state(sandbox.clone())
}

/// A sandbox, and what writes its state file, if it has one.
fn open(
    settings: Settings,
    end: &CancellationToken,
) -> anyhow::Result<(Arc<Sandbox>, Option<state_file::Writer>)> {
    let Settings {
        token,
        client,
        client_key,
        time_scale,
        state,
        requests_per_minute,
        burst,
        insecure_urls,
    } = settings;
    // A token made up here would have to be told to somebody, and a log is no place for it.
    anyhow::ensure!(
        token.is_some() || client.is_some() || client_key.is_some(),
        "nobody could call this sandbox: pass --token TOKEN, or --client-id ID with --client-secret SECRET \
         (or CHEKT_TOKEN, CHEKT_CLIENT_ID and CHEKT_CLIENT_SECRET)"
    );
    let client_key = client_key
        .map(|(id, pem)| anyhow::Ok((id, PublicKey::read(&pem)?)))
        .transpose()?;
    let store = match &state {
        Some(path) => state_file::read(path)?,
        None => Store::default(),
    };
    let (saver, writer) = state.map(state_file::pair).unzip();
    let limit = Limit {
        per_minute: requests_per_minute,
        burst,
    };
    let urls = if insecure_urls {
        Urls::Any
    } else {
        Urls::Secure
    };
    let sandbox = Arc::new(Sandbox {
        state: Mutex::new(State::new(store, time_scale, limit, urls)),
        credentials: Credentials {
            token,
            client,
            client_key,
        },
        client: deliveries::client()?,
        saver,
        tasks: TaskTracker::new(),
        at_once: Semaphore::new(deliveries::MOST_AT_ONCE),
        end: end.clone(),
    });
    Ok((sandbox, writer))
}

/// A running sandbox: the state, and the edges around it.
#[derive(Debug)]
struct Sandbox {
    // Never held across an await.
    state: Mutex<State>,
    credentials: Credentials,
    client: reqwest::Client,
    saver: Option<Saver>,
    // Calls and deliveries under way.
    tasks: TaskTracker,
    at_once: Semaphore,
    end: CancellationToken,
}

impl Sandbox {
    /// Now, and fresh random bits.
    fn moment() -> Moment {
        Moment {
            now: Timestamp::now(),
            random: Uuid::new_v4().as_u128(),
        }
    }

    /// Looks at the state, or changes what need not outlive a restart.
    fn look<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut state)
    }

    /// Changes the state, and starts the deliveries that come of it.
    fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, deliveries) = self.look(|state| (change(state), state.store.book.start()));
        for number in deliveries {
            self.tasks.spawn(deliveries::work(self.clone(), number));
        }
        result
    }

    /// Waits until everything changed so far is on disk.
    async fn saved(&self) {
        if let Some(saver) = &self.saver {
            let number = saver.ask();
            saver.wait(number).await;
        }
    }

    /// Waits, but not beyond the end.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.end.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
