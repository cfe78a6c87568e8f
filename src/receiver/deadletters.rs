//! `deadletters` and `replay`: a person looks at what could not be published, and has it tried again.
//!
//! Both work on the journal's directory, whether a receiver runs on it or not. `replay` only marks: the receiver takes
//! up what is marked, and reads it with its own code, which may be newer than the one that gave up.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use data_encoding::BASE64;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::journal::dead::{DeadLetter, word};
use crate::journal::shelf::Shelf;

/// Dead letters that are read at once.
const PAGE: usize = 50;
/// Keys that an error names.
const NAMED: usize = 10;

/// What is said where there is nothing to choose from.
const NONE: &str = "there are no dead letters";

/// How the list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// One array, with the bodies.
    Json,
}

/// Flags of `deadletters`.
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    /// The directory of the receiver's journal. The receiver may be running.
    #[arg(
        long,
        env = "CHEKT_JOURNAL",
        value_name = "DIR",
        default_value = "/var/lib/chekt-operator/journal"
    )]
    pub journal: PathBuf,

    /// How the list is written. JSON has the bodies, too: as text, or in base64 where they are none.
    #[arg(
        short,
        long,
        env = "CHEKT_OUTPUT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub output: Output,

    /// Writes the body of each below its line: as text, or in base64 where it is none.
    #[arg(long, env = "CHEKT_BODY")]
    pub body: bool,
}

/// Flags of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The directory of the receiver's journal. The receiver may be running.
    #[arg(
        long,
        env = "CHEKT_JOURNAL",
        value_name = "DIR",
        default_value = "/var/lib/chekt-operator/journal"
    )]
    pub journal: PathBuf,

    /// The dead letter whose key begins so, as `deadletters` shows it.
    #[arg(
        long,
        env = "CHEKT_REPLAY_KEY",
        value_name = "PREFIX",
        conflicts_with = "all",
        required_unless_present = "all"
    )]
    pub key: Option<String>,

    /// All dead letters.
    #[arg(long, env = "CHEKT_REPLAY_ALL")]
    pub all: bool,

    /// Only dead letters of this webhook, as namespace/name.
    #[arg(long, env = "CHEKT_REPLAY_WEBHOOK", value_name = "NS/NAME")]
    pub webhook: Option<String>,
}

/// Lists the dead letters of a journal on the standard output.
///
/// # Errors
/// When the journal cannot be read, or the output cannot be written.
pub fn list(args: &DeadLettersArgs) -> anyhow::Result<()> {
    let shelf = Shelf::look(&args.journal)?;
    let bodies = args.body || args.output == Output::Json;
    let mut out = std::io::stdout().lock();
    let mut after = 0;
    let mut written = 0_usize;
    loop {
        let letters = shelf.letters(after, PAGE, bodies)?;
        let Some(last) = letters.last() else { break };
        after = last.seq;
        for letter in &letters {
            match args.output {
                Output::Table if written == 0 => write!(out, "{}{}", head(), line(letter))?,
                Output::Table => out.write_all(line(letter).as_bytes())?,
                Output::Json => {
                    let before = if written == 0 { "[\n" } else { ",\n" };
                    write!(out, "{before}  {}", object(letter))?;
                }
            }
            written += 1;
        }
    }
    match (args.output, written) {
        (Output::Json, 0) => writeln!(out, "[]")?,
        (Output::Json, _) => writeln!(out, "\n]")?,
        (Output::Table, 0) => writeln!(out, "There are no dead letters.")?,
        (Output::Table, _) => {}
    }
    out.flush()?;
    Ok(())
}

/// Marks dead letters to be tried again.
///
/// # Errors
/// When the journal cannot be written, or it is not clear which dead letters are meant.
pub fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let mut shelf = Shelf::change(&args.journal)?;
    let mut letters: Vec<DeadLetter> = Vec::new();
    loop {
        let after = letters.last().map_or(0, |letter| letter.seq);
        let page = shelf.letters(after, 1000, false)?;
        if page.is_empty() {
            break;
        }
        letters.extend(page);
    }
    let chosen = choose(&letters, args.key.as_deref(), args.webhook.as_deref())
        .map_err(anyhow::Error::msg)?;
    let marked = shelf.replay(&chosen)?;
    let known = match chosen.len() - marked {
        0 => String::new(),
        known => format!(" ({known} more were marked before)"),
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{marked} marked to be tried again{known}. A running receiver takes them up within a second, a stopped one \
         when it is started; what still cannot become an Event is a dead letter again, with its reason."
    )
    .context("cannot write to the standard output")
}

/// The numbers of the dead letters that are meant.
fn choose(
    letters: &[DeadLetter],
    key: Option<&str>,
    webhook: Option<&str>,
) -> Result<Vec<i64>, String> {
    if let Some(webhook) = webhook
        && !webhook.split_once('/').is_some_and(|(namespace, name)| {
            !namespace.is_empty() && !name.is_empty() && !name.contains('/')
        })
    {
        return Err(format!(
            "{webhook:?} is not a webhook: write --webhook NAMESPACE/NAME"
        ));
    }
    let of_webhook: Vec<&DeadLetter> = letters
        .iter()
        .filter(|letter| webhook.is_none_or(|webhook| webhook == place(letter)))
        .collect();
    if let Some(webhook) = webhook
        && of_webhook.is_empty()
    {
        let mut places: Vec<String> = letters.iter().map(place).collect();
        places.sort_unstable();
        places.dedup();
        return Err(if places.is_empty() {
            NONE.to_owned()
        } else {
            format!(
                "there is no dead letter of {webhook}: write --webhook with {}",
                some(places)
            )
        });
    }
    let Some(key) = key else {
        return Ok(of_webhook.iter().map(|letter| letter.seq).collect());
    };
    let prefix = key.to_ascii_lowercase();
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!(
            "{key:?} is not the beginning of a key: write hexadecimal digits, as deadletters shows them"
        ));
    }
    let fits: Vec<&&DeadLetter> = of_webhook
        .iter()
        .filter(|letter| letter.key.to_string().starts_with(&prefix))
        .collect();
    match fits[..] {
        [letter] => Ok(vec![letter.seq]),
        [] if of_webhook.is_empty() => Err(NONE.to_owned()),
        [] => Err(format!(
            "no dead letter has a key that begins with {prefix}: write --key with {}",
            some(of_webhook.iter().map(|l| l.key.short()).collect())
        )),
        _ => Err(format!(
            "{} dead letters have keys that begin with {prefix}: write more of one, such as {}",
            fits.len(),
            some(fits.iter().map(|l| told_apart(l, &fits)).collect())
        )),
    }
}

/// So much of a key as no other one begins with, and at least what is shown elsewhere.
fn told_apart(letter: &DeadLetter, others: &[&&DeadLetter]) -> String {
    let key = letter.key.to_string();
    let short = letter.key.short().len();
    let is_alone = |length: &usize| {
        let same = |other: &&&&DeadLetter| other.key.to_string().starts_with(&key[..*length]);
        others.iter().filter(same).count() == 1
    };
    let length = (short..key.len()).find(is_alone).unwrap_or(key.len());
    key[..length].to_owned()
}

/// A few of many, as a list that ends with `or`.
fn some(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    match (more, names.pop()) {
        (0, Some(last)) if names.is_empty() => last,
        (0, Some(last)) => format!("{} or {last}", names.join(", ")),
        (more, Some(last)) => format!("{}, {last} or one of {more} more", names.join(", ")),
        (_, None) => String::new(),
    }
}

fn place(letter: &DeadLetter) -> String {
    format!("{}/{}", letter.webhook.namespace, letter.webhook.name)
}

fn head() -> String {
    format!(
        "{:<20}  {:<32}  {:<12}  {:>7}  {:<6}  {:<10}  {:<20}  REASON\n",
        "RECEIVED", "WEBHOOK", "KEY", "BYTES", "STATE", "KIND", "NEXT TRY"
    )
}

/// One line, and the body below it if it was read.
fn line(letter: &DeadLetter) -> String {
    let state = match (letter.replay, letter.told_at) {
        (true, _) => "replay",
        (false, Some(_)) => "told",
        (false, None) => "new",
    };
    let mut line = format!(
        "{:<20}  {:<32}  {:<12}  {:>7}  {state:<6}  {:<10}  {:<20}  {}\n",
        time(letter.received_at),
        place(letter),
        letter.key.short(),
        letter.size,
        word(letter.kind),
        next_try(letter).map_or_else(|| "-".to_owned(), time),
        letter.reason.replace(char::is_control, " "),
    );
    if let Some(body) = &letter.body {
        for part in shown(body).lines() {
            line.push_str("    ");
            line.push_str(part);
            line.push('\n');
        }
    }
    line
}

/// When the receiver tries it again by itself. What is marked is tried at once.
fn next_try(letter: &DeadLetter) -> Option<Timestamp> {
    letter.retry_at.filter(|_| !letter.replay)
}

/// A body as text if a terminal can show it as it is, else in base64.
fn shown(body: &[u8]) -> String {
    let is_plain = |text: &&str| !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t');
    match std::str::from_utf8(body).ok().filter(is_plain) {
        Some(text) => text.to_owned(),
        None => format!("base64: {}", BASE64.encode(body)),
    }
}

fn object(letter: &DeadLetter) -> Value {
    let mut object = json!({
        "key": letter.key.to_string(),
        "webhook": {
            "namespace": letter.webhook.namespace,
            "name": letter.webhook.name,
            "uid": letter.webhook.uid,
        },
        "receivedAt": letter.received_at.to_string(),
        "buriedAt": letter.buried_at.to_string(),
        "toldAt": letter.told_at.map(|at| at.to_string()),
        "replay": letter.replay,
        "kind": word(letter.kind),
        "refusals": letter.refusals,
        "nextTryAt": next_try(letter).map(|at| at.to_string()),
        "bytes": letter.size,
        "reason": letter.reason,
    });
    if let Some(body) = &letter.body {
        match std::str::from_utf8(body) {
            Ok(text) => object["body"] = Value::from(text),
            Err(_) => object["bodyBase64"] = Value::from(BASE64.encode(body)),
        }
    }
    object
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{DeadKind, DeliveryKey};
    use crate::resources::keyring::WebhookIdentity;

    fn letter(seq: i64, name: &str, key: [u8; 2]) -> DeadLetter {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&key);
        DeadLetter {
            seq,
            key: DeliveryKey::from_bytes(bytes),
            webhook: WebhookIdentity {
                namespace: "security".into(),
                name: name.into(),
                uid: "u".into(),
            },
            received_at: Timestamp::UNIX_EPOCH,
            buried_at: Timestamp::UNIX_EPOCH,
            reason: "it is\nnot JSON".into(),
            size: 3,
            kind: DeadKind::Unreadable,
            refusals: 0,
            retry_at: None,
            told_at: None,
            replay: false,
            body: None,
        }
    }

    fn letters() -> Vec<DeadLetter> {
        vec![
            letter(1, "alarms", [0xab, 0x01]),
            letter(2, "alarms", [0xab, 0x02]),
            letter(3, "doors", [0xcd, 0x00]),
        ]
    }

    #[test]
    fn a_beginning_of_a_key_a_webhook_or_all_can_be_meant() {
        let letters = letters();
        assert_eq!(choose(&letters, None, None), Ok(vec![1, 2, 3]));
        assert_eq!(
            choose(&letters, None, Some("security/alarms")),
            Ok(vec![1, 2])
        );
        assert_eq!(choose(&letters, Some("AB02"), None), Ok(vec![2]));
        assert_eq!(
            choose(&letters, Some("c"), Some("security/doors")),
            Ok(vec![3])
        );
        assert_eq!(choose(&[], None, None), Ok(vec![]));
    }

    #[test]
    fn what_is_not_clear_is_refused_with_what_to_write() {
        let letters = letters();
        let refused = |key, webhook| choose(&letters, key, webhook).unwrap_err();
        assert_eq!(
            refused(Some("ab"), None),
            "2 dead letters have keys that begin with ab: write more of one, such as ab0100000000 or ab0200000000"
        );
        assert_eq!(
            refused(Some("ff"), Some("security/doors")),
            "no dead letter has a key that begins with ff: write --key with cd0000000000"
        );
        assert!(refused(Some("xyz"), None).contains("write hexadecimal digits"));
        assert!(refused(Some(""), None).contains("write hexadecimal digits"));
        assert_eq!(
            refused(None, Some("security/windows")),
            "there is no dead letter of security/windows: write --webhook with security/alarms or security/doors"
        );
        for odd in ["alarms", "security/", "/alarms", "a/b/c"] {
            assert!(refused(None, Some(odd)).contains("write --webhook NAMESPACE/NAME"));
        }
        assert_eq!(
            choose(&[], Some("ab"), None).unwrap_err(),
            "there are no dead letters"
        );
        let many: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert!(some(many).ends_with("8, 9 or one of 2 more"));
    }

    #[test]
    fn a_terminal_is_sent_no_control_characters() {
        let mut odd = letter(1, "alarms", [1, 1]);
        odd.body = Some(b"{\"a\":\n1}".to_vec());
        let text = line(&odd);
        assert!(
            text.contains("it is not JSON\n    {\"a\":\n    1}\n"),
            "{text}"
        );
        odd.body = Some(b"\x1b[2J".to_vec());
        assert!(line(&odd).contains("base64: G1sySg=="));
        assert_eq!(object(&odd)["body"], "\u{1b}[2J");
        odd.body = Some(vec![0xff]);
        assert_eq!(object(&odd)["bodyBase64"], "/w==");
        assert_eq!(object(&odd).get("body"), None);
    }
}
