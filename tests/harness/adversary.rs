//! A partner server that misbehaves on purpose. The first segment of a path names how, so one server stands behind a table
//! of accounts, and the next fault of a kind is one line in [`Manner`].
//!
//! Every answer is bounded in bytes and in time, and the server ends with the value that started it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// The most bytes that are sent over one connection.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The longest that one connection is kept.
const MAX_TIME: Duration = Duration::from_secs(40);

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Manner {
    /// The token endpoint's answer never ends.
    EndlessToken,
    /// The token endpoint refuses, and its words never end.
    EndlessRefusal,
    /// The token endpoint sends a byte a second.
    DrippingToken,
    /// The token endpoint repeats the client secret.
    TokenEcho,
    /// A list never ends.
    EndlessList,
    /// A list is sent a byte a second.
    DrippingList,
    /// Every page promises another one, and each is large.
    EndlessPages,
    /// A refused list repeats the bearer token in this form.
    ListEcho(Form),
    /// A list names the bearer token as the id of a webhook.
    IdEcho,
    /// A refused create repeats the signing secret in this form.
    CreateEcho(Form),
    /// A refused create says 300 KiB.
    LongRefusal,
    /// The state of a webhook holds escape codes, a second YAML document and the bearer token.
    OddState,
}

/// How a server repeats what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// As it came.
    Plain,
    /// In base64, behind other words.
    Base64,
    /// Percent-encoded to the last byte.
    Percent,
    /// In hexadecimal.
    Hexadecimal,
    /// In upper case, on a proxy's page.
    Page,
    /// Cut after two thirds.
    Cut,
}

impl Form {
    fn of(self, text: &str) -> String {
        match self {
            Form::Plain => text.to_owned(),
            Form::Base64 => BASE64.encode(format!("client-7:{text}").as_bytes()),
            Form::Percent => text
                .bytes()
                .fold(String::new(), |all, byte| all + &format!("%{byte:02X}")),
            Form::Hexadecimal => HEXLOWER.encode(text.as_bytes()),
            Form::Page => format!("<html>\r\n<b>{}</b></html>", text.to_uppercase()),
            Form::Cut => text.chars().take(text.chars().count() * 2 / 3).collect(),
        }
    }
}

/// A running server.
pub struct Adversary {
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

/// The webhooks that were created, by the path of their collection.
type Made = Arc<Mutex<HashMap<String, Vec<Value>>>>;

impl Adversary {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let made = Made::default();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let made = Arc::clone(&made);
                tokio::spawn(async move {
                    // A client that leaves early is what is tested.
                    let _ = tokio::time::timeout(MAX_TIME, answer(stream, made)).await;
                });
            }
        });
        Ok(Adversary {
            address,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// The `baseURL` of an account that meets this manner. `number` keeps accounts apart.
    pub fn base_url(&self, manner: Manner, number: usize) -> String {
        format!("http://{}/{}-{number}", self.address, name(manner))
    }
}

/// The manner in a path, such as `listecho(cut)`.
fn name(manner: Manner) -> String {
    format!("{manner:?}").to_lowercase()
}

fn manner(segment: &str) -> Option<Manner> {
    let (name_of, _) = segment.rsplit_once('-')?;
    let name_of = percent_encoding::percent_decode_str(name_of).decode_utf8_lossy();
    ALL.into_iter().find(|manner| name(*manner) == name_of)
}

/// Every manner.
pub const ALL: [Manner; 22] = [
    Manner::EndlessToken,
    Manner::EndlessRefusal,
    Manner::DrippingToken,
    Manner::TokenEcho,
    Manner::EndlessList,
    Manner::DrippingList,
    Manner::EndlessPages,
    Manner::ListEcho(Form::Plain),
    Manner::ListEcho(Form::Base64),
    Manner::ListEcho(Form::Percent),
    Manner::ListEcho(Form::Hexadecimal),
    Manner::ListEcho(Form::Page),
    Manner::ListEcho(Form::Cut),
    Manner::IdEcho,
    Manner::CreateEcho(Form::Plain),
    Manner::CreateEcho(Form::Base64),
    Manner::CreateEcho(Form::Percent),
    Manner::CreateEcho(Form::Hexadecimal),
    Manner::CreateEcho(Form::Page),
    Manner::CreateEcho(Form::Cut),
    Manner::LongRefusal,
    Manner::OddState,
];

struct Request {
    method: String,
    path: String,
    bearer: String,
    body: String,
}

async fn read(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Request> {
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    let mut words = first.split(' ');
    let (method, path) = (words.next(), words.next());
    let (mut bearer, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((header, value)) = line.trim().split_once(':') else {
            break;
        };
        match header.to_lowercase().as_str() {
            "authorization" => value
                .trim()
                .trim_start_matches("Bearer ")
                .clone_into(&mut bearer),
            "content-length" => length = value.trim().parse()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Request {
        method: method.context("no method")?.to_owned(),
        path: path.context("no path")?.to_owned(),
        bearer,
        body: String::from_utf8(body)?,
    })
}

async fn answer(stream: TcpStream, made: Made) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let request = read(&mut stream).await?;
    let segment = request.path.split('/').nth(1).unwrap_or_default();
    let manner = manner(segment).with_context(|| format!("no manner in {}", request.path))?;
    let is_token = request.path.ends_with("/token");
    let is_list = request.method == "GET";
    match manner {
        Manner::EndlessToken if is_token => {
            endless(
                &mut stream,
                200,
                "{\"access_token\":\"",
                &"a".repeat(65_536),
            )
            .await
        }
        Manner::EndlessRefusal if is_token => {
            endless(&mut stream, 401, "", &"no ".repeat(20_000)).await
        }
        Manner::DrippingToken if is_token => drip(&mut stream).await,
        Manner::TokenEcho if is_token => {
            let secret = request
                .body
                .split("client_secret=")
                .nth(1)
                .unwrap_or_default();
            let error =
                json!({"error": "invalid_client", "error_description": format!("not {secret}")});
            whole(&mut stream, 401, &error.to_string()).await
        }
        _ if is_token => {
            let token = json!({"access_token": "chekt_token_of_an_adversary", "expires_in": 3600});
            whole(&mut stream, 200, &token.to_string()).await
        }
        Manner::EndlessList if is_list => {
            let entry = r#"{"webhook_id":"w","url":"https://a.example","events":[]},"#;
            endless(&mut stream, 200, "[", &entry.repeat(1_000)).await
        }
        Manner::DrippingList if is_list => drip(&mut stream).await,
        Manner::EndlessPages if is_list => {
            let cursor = uuid::Uuid::new_v4().simple().to_string();
            let entry = |n: usize| json!({"webhook_id": format!("{cursor}{n}"), "url": "https://a.example", "pad": "x".repeat(2_000)});
            let list: Vec<_> = (0..1_000).map(entry).collect();
            let page = json!({"data": list, "next_cursor": cursor});
            whole(&mut stream, 200, &page.to_string()).await
        }
        Manner::ListEcho(form) if is_list => {
            let said = form.of(&request.bearer);
            let error = match form {
                Form::Page => said,
                _ => {
                    json!({"error": {"code": "odd", "message": format!("the token {said} is odd")}})
                        .to_string()
                }
            };
            whole(&mut stream, 422, &error).await
        }
        Manner::IdEcho if is_list => {
            let list = json!([{"webhook_id": request.bearer, "url": "https://a.example"}]);
            whole(&mut stream, 200, &list.to_string()).await
        }
        Manner::CreateEcho(form) if request.method == "POST" => {
            let body: Value = serde_json::from_str(&request.body)?;
            let said = form.of(body["secret"].as_str().unwrap_or_default());
            let error = json!({"error": {"message": format!("the secret {said} is odd")}});
            let error = if form == Form::Page {
                said
            } else {
                error.to_string()
            };
            whole(&mut stream, 422, &error).await
        }
        Manner::LongRefusal if request.method == "POST" => {
            let error = json!({"error": {"message": "no ".repeat(100_000)}});
            whole(&mut stream, 422, &error.to_string()).await
        }
        _ if is_list => {
            let list = lock(&made).get(segment).cloned().unwrap_or_default();
            whole(&mut stream, 200, &Value::from(list).to_string()).await
        }
        _ if request.method == "POST" => {
            let mut webhook: Value = serde_json::from_str(&request.body)?;
            webhook["webhook_id"] = json!("w-1");
            let state = format!(
                "odd\u{1b}[2J\r\n---\nkind: ClusterRoleBinding\n# {} \u{202e}",
                request.bearer
            );
            webhook["status"] = json!(state);
            lock(&made)
                .entry(segment.to_owned())
                .or_default()
                .push(webhook.clone());
            whole(&mut stream, 201, &webhook.to_string()).await
        }
        _ => whole(&mut stream, 404, "{}").await,
    }
}

fn lock(made: &Made) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Value>>> {
    made.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn whole(stream: &mut BufReader<TcpStream>, status: u16, body: &str) -> anyhow::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// Sends the same again and again, as fast as it is taken.
async fn endless(
    stream: &mut BufReader<TcpStream>,
    status: u16,
    first: &str,
    again: &str,
) -> anyhow::Result<()> {
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n{first}");
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..MAX_BYTES / again.len() {
        stream.write_all(again.as_bytes()).await?;
    }
    Ok(())
}

/// Sends a byte a second of what it has promised.
async fn drip(stream: &mut BufReader<TcpStream>) -> anyhow::Result<()> {
    let head = "HTTP/1.1 200 X\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    loop {
        stream.write_all(b" ").await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
