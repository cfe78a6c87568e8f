//! Completion: scripts for shells, and the answers that kubectl asks a plugin for.
//!
//! kubectl completes `kubectl chekt ...` by running `kubectl_complete-chekt` with the words so far, the last of which is being
//! written. It wants one candidate a line and at the end a number behind a colon (cobra's "ShellCompDirective"). That is
//! how names of webhooks can be completed, too, which a script that knows only commands and flags cannot.

use std::io;
use std::time::Duration;

use clap::{Arg, ArgAction, Command};
use clap_complete::{Shell, generate};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::cluster::access::Access;
use crate::cluster::within;
use crate::resources::ChektWebhook;

/// Candidates are words and no files (`ShellCompDirectiveNoFileComp`).
const NO_FILES: u8 = 4;
/// What is written may be a file (`ShellCompDirectiveDefault`).
const FILES: u8 = 0;
/// How long somebody who presses a key waits for names.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints the script of a shell for a program.
pub fn script(mut program: Command, shell: Shell) {
    // A plugin's own command line is completed by its file's name; kubectl's is by the other way.
    let name = program.get_name().to_owned();
    generate(shell, &mut program, name, &mut io::stdout());
}

/// Prints candidates for the last of these words.
pub async fn complete(program: Command, words: Vec<String>) {
    let mut program = program;
    program.build();
    let wanted = wanted(&program, &words);
    let mut lines = wanted.words;
    if let Some(place) = wanted.webhooks {
        lines.extend(webhooks(&place, words.last().map_or("", String::as_str)).await);
    }
    for line in lines {
        println!("{line}");
    }
    println!(":{}", if wanted.files { FILES } else { NO_FILES });
}

/// Where names of webhooks are looked for: what the words so far say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    access: Access,
    namespace: Option<String>,
}

/// What may stand where the last word is being written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    words: Vec<String>,
    webhooks: Option<Place>,
    files: bool,
}

fn wanted(program: &Command, words: &[String]) -> Wanted {
    let Some((last, before)) = words.split_last() else {
        return Wanted::default();
    };
    let mut command = program;
    let mut place = Place::default();
    let mut positionals = 0;
    let mut open: Option<&Arg> = None;
    for word in before {
        if let Some(arg) = open.take() {
            place.learn(arg, word);
        } else if let Some(arg) = flag(command, word) {
            match word.split_once('=') {
                Some((_, value)) => place.learn(arg, value),
                None if arg.get_action().takes_values() => open = Some(arg),
                None => {}
            }
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        } else {
            positionals += 1;
        }
    }
    if let Some(arg) = open {
        return values(arg, "", last);
    }
    if let Some((name, value)) = last.split_once('=')
        && let Some(arg) = flag(command, name)
    {
        return values(arg, &format!("{name}="), value);
    }
    if last.starts_with('-') {
        let flags = command.get_arguments().filter_map(|a| {
            let long = format!("--{}", a.get_long()?);
            long.starts_with(last.as_str()).then_some(long)
        });
        return Wanted {
            words: flags.collect(),
            ..Wanted::default()
        };
    }
    let subcommands = command.get_subcommands().filter(|c| !c.is_hide_set());
    let mut words: Vec<String> = subcommands
        .map(|c| {
            (
                c.get_name(),
                c.get_about().map(ToString::to_string).unwrap_or_default(),
            )
        })
        .filter(|(name, _)| name.starts_with(last.as_str()))
        .map(|(name, about)| format!("{name}\t{}", first_sentence(&about)))
        .collect();
    let next = command.get_positionals().nth(positionals);
    let names_a_webhook = next.is_some_and(|a| a.get_id() == "webhook");
    if let Some(arg) = next.filter(|_| !names_a_webhook) {
        words.extend(values(arg, "", last).words);
    }
    Wanted {
        words,
        webhooks: names_a_webhook.then_some(place),
        files: false,
    }
}

impl Place {
    fn learn(&mut self, arg: &Arg, value: &str) {
        match arg.get_id().as_str() {
            "kubeconfig" => self.access.kubeconfig = Some(value.into()),
            "context" => self.access.context = Some(value.to_owned()),
            "namespace" => self.namespace = Some(value.to_owned()),
            _ => {}
        }
    }
}

/// The flag that a word is.
fn flag<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let name = word.split('=').next().unwrap_or(word);
    command.get_arguments().find(|a| {
        let long = a.get_long().map(|l| format!("--{l}"));
        let short = a.get_short().map(|s| format!("-{s}"));
        long.as_deref() == Some(name) || short.as_deref() == Some(name)
    })
}

/// The values that a flag may have.
fn values(arg: &Arg, before: &str, written: &str) -> Wanted {
    let possible = arg.get_possible_values();
    let words = possible
        .iter()
        .map(clap::builder::PossibleValue::get_name)
        .filter(|name| name.starts_with(written))
        .map(|name| format!("{before}{name}"));
    Wanted {
        words: words.collect(),
        webhooks: None,
        files: possible.is_empty()
            && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append),
    }
}

fn first_sentence(text: &str) -> &str {
    text.split(". ")
        .next()
        .unwrap_or(text)
        .trim_end_matches('.')
}

/// The names of webhooks that begin so, in time or not at all: a key that was pressed is no place for an error.
async fn webhooks(place: &Place, written: &str) -> Vec<String> {
    let found = async {
        let found = place.access.find().await?;
        let (namespace, name, full) = if let Some((namespace, name)) = written.split_once('/') {
            (namespace.to_owned(), name, true)
        } else {
            let usual = place.namespace.as_deref().unwrap_or(found.namespace());
            (usual.to_owned(), written, false)
        };
        let api: Api<ChektWebhook> = Api::namespaced(found.client()?, &namespace);
        let list = within(PATIENCE, api.list_metadata(&ListParams::default())).await?;
        let names = list.items.iter().map(ResourceExt::name_any);
        let names = names.filter(|n| n.starts_with(name));
        let written = names.map(|n| if full { format!("{namespace}/{n}") } else { n });
        anyhow::Ok(written.collect())
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(Ok(names)) => names,
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Plugin;
    use super::*;

    fn wanted_of(words: &[&str]) -> Wanted {
        let mut program = Plugin::command();
        program.build();
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        wanted(&program, &words)
    }

    #[test]
    fn commands_flags_and_values_are_completed() {
        let names = |words: &[&str]| -> Vec<String> {
            let all = wanted_of(words).words;
            let name = |w: &String| w.split('\t').next().unwrap_or_default().to_owned();
            all.iter().map(name).collect()
        };
        assert_eq!(names(&["re"]), ["resume"]);
        assert_eq!(names(&["st"]), ["status"]);
        assert_eq!(names(&["verify", "--no"]), ["--no-test"]);
        assert_eq!(names(&["status", "-o", "j"]), ["json"]);
        assert_eq!(names(&["status", "--output=y"]), ["--output=yaml"]);
        assert_eq!(names(&["completion", "z"]), ["zsh"]);
        assert!(wanted_of(&["plan", "--file", ""]).files);
        assert!(!wanted_of(&["status", "-o", ""]).files);
    }

    #[test]
    fn names_of_webhooks_are_looked_for_where_the_words_say() {
        let place = wanted_of(&["verify", "-n", "security", "--context=kind", ""]).webhooks;
        let place = place.unwrap();
        assert_eq!(place.namespace.as_deref(), Some("security"));
        assert_eq!(place.access.context.as_deref(), Some("kind"));
        // There is one name and no second one.
        assert_eq!(wanted_of(&["verify", "alarms", ""]).webhooks, None);
        assert_eq!(wanted_of(&["import", ""]).webhooks, None);
    }
}
