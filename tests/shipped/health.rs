//! What Argo CD says of our kinds' health: the scripts of `gitops/argocd/health`, run by Argo CD's own command over the
//! cases beside them.
//!
//! They lie as Argo CD's repository has them (`resource_customizations`), so that they may go there as they are. Until
//! then people paste `argocd-cm.yaml`, which is what is run here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::Context;
use chekt_operator::resources::conditions::{
    ACTIVE, DELIVERIES_DELAYED, READY, RECONCILING, STALLED, SUSPENDED, SYNCED, VERIFIED,
};
use chekt_operator::resources::reasons::Reason;
use chekt_operator::resources::{ChektAccount, ChektWebhook};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Deserialize;

use crate::harness::{assets, tools};
use crate::helm::root;

const KINDS: [&str; 2] = ["ChektAccount", "ChektWebhook"];

/// How many of Argo CD's commands run at once. Each takes a quarter of a second of one core.
const AT_ONCE: usize = 2;

/// `health_test.yaml`, in the words of Argo CD's own test.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    tests: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    health_status: Health,
    input_path: PathBuf,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Health {
    status: String,
    message: String,
}

fn folder(kind: &str) -> PathBuf {
    root().join("gitops/argocd/health/chekt.com").join(kind)
}

fn snippet() -> PathBuf {
    root().join("gitops/argocd/argocd-cm.yaml")
}

/// All cases of both kinds, with the paths of their objects.
fn cases() -> anyhow::Result<Vec<(PathBuf, Health)>> {
    let mut all = Vec::new();
    for kind in KINDS {
        let text = std::fs::read_to_string(folder(kind).join("health_test.yaml"))?;
        let cases: Cases = serde_yaml::from_str(&text)?;
        let cases = cases.tests.into_iter();
        all.extend(cases.map(|case| (folder(kind).join(case.input_path), case.health_status)));
    }
    Ok(all)
}

/// What Argo CD's command says of the health of an object.
fn judged(argocd: &Path, secret: &Path, object: &Path) -> anyhow::Result<Health> {
    let said = Command::new(argocd)
        .args(["admin", "settings", "resource-overrides", "health"])
        .arg(object)
        .arg("--argocd-cm-path")
        .arg(snippet())
        .arg("--argocd-secret-path")
        .arg(secret)
        .output()?;
    let (text, error) = (
        String::from_utf8(said.stdout)?,
        String::from_utf8_lossy(&said.stderr),
    );
    anyhow::ensure!(
        said.status.success(),
        "{}: {}",
        object.display(),
        error.trim()
    );
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
            .with_context(|| format!("{}: Argo CD said {text:?} {error}", object.display()))
    };
    Ok(Health {
        status: field("STATUS:")?,
        message: field("MESSAGE:")?,
    })
}

/// kstatus' word for an object.
fn kstatus(program: &Path, object: &Path) -> anyhow::Result<String> {
    let object: serde_json::Value = serde_yaml::from_str(&std::fs::read_to_string(object)?)?;
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("kstatus has no input")?;
    input.write_all(object.to_string().as_bytes())?;
    drop(input);
    let said = child.wait_with_output()?;
    anyhow::ensure!(said.status.success(), "kstatus refuses {object}");
    let said = String::from_utf8(said.stdout)?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn argo_cd_says_of_each_state_what_its_case_says() -> anyhow::Result<()> {
    let argocd = tools::ARGOCD.path()?;
    let dir = tempfile::tempdir()?;
    let secret = dir.path().join("secret.yaml");
    std::fs::write(
        &secret,
        "apiVersion: v1\nkind: Secret\nmetadata: {name: argocd-secret, namespace: argocd}\nstringData: {server.secretkey: \"0\"}\n",
    )?;
    let left = Mutex::new(cases()?);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap().pop();
                    let Some((object, wanted)) = next else { return };
                    let line = match judged(&argocd, &secret, &object) {
                        Ok(said) if said == wanted => continue,
                        Ok(said) => {
                            format!("{}: {said:?} instead of {wanted:?}", object.display())
                        }
                        Err(error) => format!("{error:#}"),
                    };
                    wrong.lock().unwrap().push(line);
                }
            });
        }
    });
    let wrong = wrong.into_inner()?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Where Argo CD is meant to be stricter than kstatus, which sees no more than Ready, Stalled and Reconciling.
const STRICTER: [&str; 3] = [
    "degraded_accountChanged.yaml",
    "degraded_secretNotUsable.yaml",
    "degraded_switchedOff.yaml",
];

#[test]
fn argo_cd_and_kstatus_say_the_same_where_they_are_meant_to() -> anyhow::Result<()> {
    let program = assets::kstatus()?;
    let mut stricter = BTreeSet::new();
    for (object, health) in cases()? {
        let name = object.file_name().context("a case without a file")?;
        let name = name.to_string_lossy().into_owned();
        // kstatus takes an object without any status for a finished one. Ours have one from the first moment, so that
        // this case is only there for an Argo CD that looks at what is in git.
        if name == "progressing_noStatus.yaml" {
            continue;
        }
        let word = kstatus(&program, &object)?;
        let agree = match health.status.as_str() {
            "Healthy" => word == "Current",
            "Progressing" => word == "InProgress" || word == "Terminating",
            "Suspended" => word == "Current" || word == "InProgress",
            "Degraded" if word == "InProgress" => {
                stricter.insert(name.clone());
                true
            }
            "Degraded" => word == "Failed",
            other => anyhow::bail!("{name}: {other} is no health of Argo CD's"),
        };
        assert!(agree, "{name}: {} and {word}", health.status);
    }
    assert_eq!(stricter, STRICTER.map(str::to_owned).into());
    Ok(())
}

#[test]
fn the_cases_are_objects_of_ours_and_leave_out_no_condition() -> anyhow::Result<()> {
    let mut stands = BTreeSet::new();
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let mut named: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (object, _) in cases()? {
        let text = std::fs::read_to_string(&object)?;
        let kind = object.ancestors().nth(2).and_then(Path::file_name);
        let conditions: Vec<Condition> = if kind == Some("ChektAccount".as_ref()) {
            let account: ChektAccount = serde_yaml::from_str(&text)?;
            account.status.map(|s| s.conditions).unwrap_or_default()
        } else {
            let webhook: ChektWebhook = serde_yaml::from_str(&text)?;
            webhook.status.map(|s| s.conditions).unwrap_or_default()
        };
        for condition in conditions {
            let (name, reason) = (object.display(), condition.reason);
            assert!(
                reasons.contains(reason.as_str()),
                "{name}: {reason} is no reason of ours"
            );
            stands.insert((condition.type_, condition.status));
        }
        *named.entry(object).or_default() += 1;
    }
    let as_it_may = [
        (READY, &["True", "False", "Unknown"][..]),
        (SYNCED, &["True", "False", "Unknown"]),
        (ACTIVE, &["True", "False", "Unknown"]),
        (VERIFIED, &["True", "False", "Unknown"]),
        (RECONCILING, &["True"]),
        (STALLED, &["True"]),
        (SUSPENDED, &["True"]),
        (DELIVERIES_DELAYED, &["True"]),
    ];
    let all: BTreeSet<_> = as_it_may
        .iter()
        .flat_map(|(kind, words)| {
            words
                .iter()
                .map(|word| ((*kind).to_owned(), (*word).to_owned()))
        })
        .collect();
    assert_eq!(stands, all);
    for kind in KINDS {
        for file in std::fs::read_dir(folder(kind).join("testdata"))? {
            let path = file?.path();
            assert_eq!(named.get(&path), Some(&1), "{}", path.display());
        }
    }
    Ok(())
}

/// The scripts as people paste them.
fn pasted() -> anyhow::Result<String> {
    let mut text = String::from(
        "# What makes Argo CD understand ChektAccount and ChektWebhook, generated from health/ by `make generate`.\n\
         #\n\
         #   kubectl -n argocd patch configmap argocd-cm --patch-file argocd-cm.yaml\n\
         #\n\
         # With Argo CD's own chart, the entries below `data` go into its value `configs.cm`.\n\
         apiVersion: v1\n\
         kind: ConfigMap\n\
         metadata:\n  \
           name: argocd-cm\n  \
           namespace: argocd\n  \
           labels:\n    \
             app.kubernetes.io/name: argocd-cm\n    \
             app.kubernetes.io/part-of: argocd\n\
         data:\n",
    );
    for kind in KINDS {
        text.push_str("  resource.customizations.health.chekt.com_");
        text.push_str(kind);
        text.push_str(": |\n");
        for line in std::fs::read_to_string(folder(kind).join("health.lua"))?.lines() {
            if !line.is_empty() {
                text.push_str("    ");
                text.push_str(line);
            }
            text.push('\n');
        }
    }
    Ok(text)
}

#[test]
fn what_is_pasted_into_argo_cd_is_what_the_scripts_say() -> anyhow::Result<()> {
    let wanted = pasted()?;
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(snippet(), &wanted)?;
    }
    let stored = std::fs::read_to_string(snippet())?;
    assert!(
        stored == wanted,
        "gitops/argocd/argocd-cm.yaml is out of date: run `make generate`"
    );
    Ok(())
}
