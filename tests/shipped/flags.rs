//! Every flag of the two processes can be set from the chart's values, and the chart's defaults are the program's.
//!
//! A flag that nobody has put into the chart fails here, so that none is forgotten.

use std::collections::BTreeMap;

use chekt_operator::cli::Cli;
use clap::{ArgAction, Command, CommandFactory, Parser as _};
use serde_json::{Value, json};

use crate::helm;

/// A flag, the values that set it, and what the container is then started with.
struct Row {
    flag: &'static str,
    values: Value,
    becomes: &'static str,
}

fn row(flag: &'static str, values: Value, becomes: &'static str) -> Row {
    Row {
        flag,
        values,
        becomes,
    }
}

/// Where each flag of the controller is in the values.
fn controller() -> Vec<Row> {
    let c = |values: Value| json!({"controller": values});
    vec![
        row(
            "log-format",
            json!({"logging": {"format": "json"}}),
            "--log-format=json",
        ),
        row("log", c(json!({"logLevel": "debug"})), "--log=debug"),
        row(
            "public-url",
            json!({"publicUrl": "https://a.example/b"}),
            "--public-url=https://a.example/b",
        ),
        // The namespace of the release.
        row("operator-namespace", json!({}), "--operator-namespace=ops"),
        row(
            "watch-namespace",
            json!({"watchNamespaces": ["one", "two"]}),
            "--watch-namespace=two",
        ),
        row(
            "default-account",
            c(json!({"defaultAccount": "one/main"})),
            "--default-account=one/main",
        ),
        row(
            "ops-address",
            c(json!({"opsPort": 9082})),
            "--ops-address=[::]:9082",
        ),
        row(
            "leader-elect",
            json!({"replicas": 1, "controller": {"leaderElect": false}}),
            "--leader-elect=false",
        ),
        row(
            "lease-name",
            c(json!({"leaseName": "mine"})),
            "--lease-name=mine",
        ),
        row(
            "lease-duration",
            c(json!({"leaseDuration": 30})),
            "--lease-duration=30",
        ),
        row(
            "orphan-after",
            c(json!({"orphanAfter": "24h"})),
            "--orphan-after=24h",
        ),
        row(
            "concurrency",
            c(json!({"concurrency": 7})),
            "--concurrency=7",
        ),
        row(
            "secret-name",
            json!({"rbac": {"secretNames": ["one", "two"]}}),
            "--secret-name=two",
        ),
        row(
            "receiver-service-account",
            json!({"receiver": {"serviceAccount": {"name": "lesser"}}}),
            "--receiver-service-account=lesser",
        ),
        // Of the Pod itself, so nobody has to choose them.
        row(
            "receiver-credentials",
            json!({}),
            "--receiver-credentials=/var/run/chekt-operator/receiver-credentials",
        ),
        row("pod-name", json!({}), "CHEKT_POD_NAME="),
        row("pod-uid", json!({}), "CHEKT_POD_UID="),
        row(
            "metrics-webhooks",
            c(json!({"metricsWebhooks": 0})),
            "--metrics-webhooks=0",
        ),
        row(
            "allow-insecure-partner",
            c(json!({"allowInsecurePartner": true})),
            "--allow-insecure-partner",
        ),
        row(
            "allow-insecure-public-url",
            c(json!({"allowInsecurePublicUrl": true})),
            "--allow-insecure-public-url",
        ),
    ]
}

/// Where each flag of the receiver is in the values.
fn receiver() -> Vec<Row> {
    let r = |values: Value| json!({"receiver": values});
    vec![
        row(
            "log-format",
            json!({"logging": {"format": "json"}}),
            "--log-format=json",
        ),
        row("log", r(json!({"logLevel": "debug"})), "--log=debug"),
        row("listen", r(json!({"port": 9080})), "--listen=[::]:9080"),
        row(
            "ops-address",
            r(json!({"opsPort": 9081})),
            "--ops-address=[::]:9081",
        ),
        row(
            "journal",
            r(json!({"journal": {"dir": "/j"}})),
            "--journal=/j",
        ),
        row(
            "journal-max-records",
            r(json!({"journal": {"maxRecords": 12_000_000}})),
            "--journal-max-records=12000000",
        ),
        row(
            "journal-max-mib",
            r(json!({"journal": {"maxMib": 512}})),
            "--journal-max-mib=512",
        ),
        row("operator-namespace", json!({}), "--operator-namespace=ops"),
        row(
            "watch-namespace",
            json!({"watchNamespaces": ["one", "two"]}),
            "--watch-namespace=two",
        ),
        row(
            "events-per-second",
            r(json!({"eventsPerSecond": 5})),
            "--events-per-second=5",
        ),
        row(
            "events-burst",
            r(json!({"eventsBurst": 50})),
            "--events-burst=50",
        ),
        row(
            "max-connections",
            r(json!({"maxConnections": 99})),
            "--max-connections=99",
        ),
        row(
            "max-connections-per-peer",
            r(json!({"maxConnectionsPerPeer": 9})),
            "--max-connections-per-peer=9",
        ),
        row(
            "allow-from",
            r(json!({"allowFrom": ["192.0.2.0/24"]})),
            "--allow-from=192.0.2.0/24",
        ),
        row(
            "trusted-proxy",
            r(json!({"trustedProxies": ["10.0.0.0/8"]})),
            "--trusted-proxy=10.0.0.0/8",
        ),
        row(
            "tls-cert-file",
            r(json!({"tls": {"secretName": "t", "certKey": "c"}})),
            "--tls-cert-file=/etc/chekt-operator/tls/c",
        ),
        row(
            "tls-key-file",
            r(json!({"tls": {"privateKeyKey": "k"}})),
            "--tls-key-file=/etc/chekt-operator/tls/k",
        ),
        row(
            "drain-delay",
            r(json!({"drainDelay": 15})),
            "--drain-delay=15",
        ),
        row(
            "drain-timeout",
            r(json!({"drainTimeout": 18})),
            "--drain-timeout=18",
        ),
        row(
            "cloudevents-url",
            r(json!({"cloudEvents": {"url": "http://sink"}})),
            "--cloudevents-url=http://sink",
        ),
        row(
            "cloudevents-mode",
            r(json!({"cloudEvents": {"mode": "structured"}})),
            "--cloudevents-mode=structured",
        ),
        row(
            "cloudevents-token-file",
            r(json!({"cloudEvents": {"tokenSecret": {"name": "s", "key": "k"}}})),
            "--cloudevents-token-file=/etc/chekt-operator/cloudevents/k",
        ),
        row(
            "allow-insecure-cloudevents",
            r(json!({"cloudEvents": {"allowInsecure": true}})),
            "--allow-insecure-cloudevents",
        ),
        row(
            "kubernetes-credentials",
            json!({}),
            "--kubernetes-credentials=/var/run/secrets/kubernetes.io/serviceaccount",
        ),
        row("instance", r(json!({"instance": "i"})), "--instance=i"),
    ]
}

#[test]
fn every_flag_of_the_controller_can_be_set_from_values() -> anyhow::Result<()> {
    can_be_set("controller", controller())
}

#[test]
fn every_flag_of_the_receiver_can_be_set_from_values() -> anyhow::Result<()> {
    can_be_set("receiver", receiver())
}

#[test]
fn the_defaults_of_the_values_are_those_of_the_program() -> anyhow::Result<()> {
    let values = json!({
        "publicUrl": "https://a.example",
        // Its mode is passed only with it.
        "receiver": {"cloudEvents": {"url": "https://sink.example"}},
    });
    let objects = helm::objects(&helm::render_with("ops", &values)?)?;
    let deployment = helm::object(&objects, "Deployment")?;
    for name in ["controller", "receiver"] {
        let args = started_with(deployment, name)?;
        for (flag, default) in flags(name)? {
            let Some(default) = default else { continue };
            let told = format!("--{flag}={default}");
            assert!(
                args.contains(&told),
                "{name}: {told} is the program's default, and the chart passes {args:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_program_takes_what_every_value_file_makes_of_its_flags_and_variables() -> anyhow::Result<()>
{
    let mut seen = BTreeMap::new();
    for file in helm::value_files()? {
        let objects = helm::objects(&helm::render("ops", &file)?)?;
        let workloads = objects.iter().filter(|o| !o["spec"]["template"].is_null());
        for (workload, name) in workloads.flat_map(|w| PROCESSES.map(|name| (w, name))) {
            let Ok(container) = helm::container(workload, name) else {
                continue;
            };
            *seen.entry(name).or_insert(0) += 1;
            let args = started_with(workload, name)?;
            let flags = args
                .iter()
                .filter(|a| !a.ends_with('=') || a.starts_with('-'));
            let parsed = Cli::try_parse_from(
                std::iter::once("chekt-operator").chain(flags.map(String::as_str)),
            );
            assert!(
                parsed.is_ok(),
                "{}: {name}: {}",
                file.display(),
                parsed.err().map_or_else(String::new, |e| e.to_string())
            );
            let known = variables(name)?;
            for variable in container["env"].as_array().into_iter().flatten() {
                let variable = variable["name"].as_str().unwrap_or_default();
                assert!(
                    !variable.starts_with("CHEKT_") || known.iter().any(|k| k == variable),
                    "{}: the {name} knows no {variable}",
                    file.display()
                );
            }
        }
    }
    assert_eq!(seen.len(), PROCESSES.len(), "{seen:?}");
    Ok(())
}

/// The containers that run our program, each named as its subcommand.
const PROCESSES: [&str; 3] = ["controller", "receiver", "sandbox"];

/// The variables that a process reads.
fn variables(process: &str) -> anyhow::Result<Vec<String>> {
    let root = Cli::command();
    let command = root.find_subcommand(process);
    let command = command.ok_or_else(|| anyhow::anyhow!("no subcommand {process}"))?;
    let all = root.get_arguments().chain(command.get_arguments());
    Ok(all
        .filter_map(|a| Some(a.get_env()?.to_string_lossy().into_owned()))
        .collect())
}

fn can_be_set(process: &str, rows: Vec<Row>) -> anyhow::Result<()> {
    let mut values = json!({"publicUrl": "https://a.example"});
    let mut wanted = BTreeMap::new();
    for row in rows {
        merge(&mut values, row.values);
        wanted.insert(row.flag, row.becomes);
    }
    let flags = flags(process)?;
    for flag in flags.keys() {
        assert!(
            wanted.contains_key(flag.as_str()),
            "--{flag} of the {process} is in no value of the chart: add it to values.yaml, values.schema.json and \
             templates/_args.tpl, and say here where it is"
        );
    }
    let objects = helm::objects(&helm::render_with("ops", &values)?)?;
    let args = started_with(helm::object(&objects, "Deployment")?, process)?;
    for (flag, becomes) in wanted {
        assert!(flags.contains_key(flag), "the {process} has no --{flag}");
        assert!(
            args.iter().any(|a| a == becomes),
            "{becomes} is not among {args:?}"
        );
    }
    Ok(())
}

/// The arguments of a container, and its variables as `NAME=`.
fn started_with(workload: &Value, name: &str) -> anyhow::Result<Vec<String>> {
    let container = helm::container(workload, name)?;
    let strings = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(|v| v.as_str().map(ToOwned::to_owned))
            .collect()
    };
    let mut all = strings(&container["args"]);
    for variable in container["env"].as_array().into_iter().flatten() {
        all.push(format!(
            "{}=",
            variable["name"].as_str().unwrap_or_default()
        ));
    }
    Ok(all)
}

/// The flags of a process with their defaults.
fn flags(process: &str) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let root = Cli::command();
    let command = root
        .find_subcommand(process)
        .ok_or_else(|| anyhow::anyhow!("no subcommand {process}"))?;
    let of = |command: &Command| -> BTreeMap<String, Option<String>> {
        command
            .get_arguments()
            .filter(|a| !matches!(a.get_action(), ArgAction::Help | ArgAction::Version))
            .filter_map(|a| {
                let default = a.get_default_values().first();
                let default = default.map(|d| d.to_string_lossy().into_owned());
                let takes_value = a.get_action().takes_values();
                Some((a.get_long()?.to_owned(), default.filter(|_| takes_value)))
            })
            .collect()
    };
    let mut all = of(&root);
    all.extend(of(command));
    Ok(all)
}

/// Puts one tree of values over another.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
