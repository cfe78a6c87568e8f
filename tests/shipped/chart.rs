//! The chart, judged by the programs that people use it with and by a real API server: rendered with every file of values
//! in its `ci/` folder, which together span its options.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::harness::{Cluster, ControlPlane, eventually, tools};
use crate::{definitions, helm, schemas};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn helm_has_nothing_against_the_chart_with_any_of_its_value_files() -> anyhow::Result<()> {
    let chart = helm::chart();
    let files = helm::value_files()?;
    assert!(files.len() >= 12, "{files:?}");
    for file in files {
        let output = helm::helm(
            &["lint", "--strict", text(&chart)?, "--values", text(&file)?],
            "",
        )?;
        assert!(
            output.status.success(),
            "{}: {}",
            file.display(),
            helm::said(&output)
        );
    }
    Ok(())
}

#[test]
fn the_unit_tests_of_the_chart_pass() -> anyhow::Result<()> {
    let mut command = Command::new(tools::HELM_UNITTEST.path()?);
    let output = helm::run(
        command
            .args(["--strict", "--color=false"])
            .arg(helm::chart()),
        "",
    )?;
    let said = helm::said(&output);
    assert!(output.status.success(), "{said}");
    // A folder that it does not find would be a success as well.
    assert!(
        said.contains("Test Suites:") && !said.contains("Tests:       0"),
        "{said}"
    );
    Ok(())
}

#[test]
fn the_same_values_render_the_same_manifests() -> anyhow::Result<()> {
    for file in helm::value_files()? {
        let first = helm::render("chekt-system", &file)?;
        assert!(
            first == helm::render("chekt-system", &file)?,
            "{}",
            file.display()
        );
    }
    Ok(())
}

#[test]
fn values_that_were_written_for_an_earlier_chart_still_work() -> anyhow::Result<()> {
    let folder = helm::root().join("tests/shipped/released");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let rendered = helm::render("chekt-system", &file);
        assert!(
            rendered.is_ok(),
            "{}, which a user of that version may have: {:#}",
            file.display(),
            rendered.err().unwrap_or_else(|| anyhow::anyhow!("nothing"))
        );
    }
    Ok(())
}

/// Of these an empty map says something: a folder without further wishes, all namespaces or Pods, and that there is a
/// status.
const MEANT_EMPTY: [&str; 4] = ["emptyDir", "namespaceSelector", "podSelector", "status"];

#[test]
fn nothing_is_rendered_that_is_empty_or_that_an_autoscaler_owns() -> anyhow::Result<()> {
    // Argo CD takes `labels: {}` and `[]` for a difference after every sync.
    for file in helm::value_files()? {
        let rendered = helm::objects(&helm::render("chekt-system", &file)?)?;
        for object in &rendered {
            let mut empty = Vec::new();
            empties("", object, &mut empty);
            assert!(
                empty.is_empty(),
                "{}: {} has {empty:?}",
                file.display(),
                object["kind"]
            );
        }
    }
    let values = json!({"publicUrl": "https://a.example", "replicas": null});
    let rendered = helm::objects(&helm::render_with("ops", &values)?)?;
    let deployment = helm::object(&rendered, "Deployment")?;
    assert_eq!(deployment["spec"]["replicas"], Value::Null);
    Ok(())
}

fn empties(path: &str, value: &Value, found: &mut Vec<String>) {
    let name = path.rsplit('.').next().unwrap_or_default();
    match value {
        Value::Object(fields) if fields.is_empty() && !MEANT_EMPTY.contains(&name) => {
            found.push(path.to_owned());
        }
        Value::Array(items) if items.is_empty() => found.push(path.to_owned()),
        Value::Null => found.push(path.to_owned()),
        Value::Object(fields) => {
            for (key, child) in fields {
                empties(&format!("{path}.{key}"), child, found);
            }
        }
        Value::Array(items) => {
            for (at, child) in items.iter().enumerate() {
                empties(&format!("{path}.{at}"), child, found);
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn the_api_server_takes_what_every_value_file_renders_and_has_no_warning_of_pod_security()
-> anyhow::Result<()> {
    let cluster = stage().await?;
    for file in helm::value_files()? {
        let manifests = helm::render(&cluster.namespace, &file)?;
        let (took, objected) = would_take(&cluster, &manifests)?;
        assert!(objected.is_empty(), "{}: {objected}", file.display());
        let taken = took.lines().count();
        assert_eq!(
            taken,
            helm::objects(&manifests)?.len(),
            "{}",
            file.display()
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_namespace_of_the_last_test_would_have_warned() -> anyhow::Result<()> {
    let cluster = stage().await?;
    let values = json!({
        "publicUrl": "https://a.example", "securityContext": {"allowPrivilegeEscalation": true},
    });
    let manifests = helm::render_with(&cluster.namespace, &values)?;
    let (_, objected) = would_take(&cluster, &manifests)?;
    assert!(objected.contains("would violate PodSecurity"), "{objected}");
    Ok(())
}

/// What the API server says to manifests, and what it has against them: errors, and warnings, which are also about fields
/// that are deprecated. Each object goes to the namespace that it names itself.
fn would_take(cluster: &Cluster, manifests: &str) -> anyhow::Result<(String, String)> {
    let mut command = Command::new(&cluster.plane.assets().kubectl);
    command.arg("--kubeconfig").arg(cluster.kubeconfig());
    command
        .arg("--cache-dir")
        .arg(cluster.plane.dir().join("kubectl-cache"));
    command.args(["apply", "--dry-run=server", "--server-side", "-f", "-"]);
    let output = helm::run(command.env("KUBECTL_KUBERC", "false"), manifests)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&output.stdout), text(&output.stderr)))
}

#[tokio::test]
async fn kubeconform_knows_every_field_from_the_api_server_itself() -> anyhow::Result<()> {
    let cluster = stage().await?;
    // Kinds that were just defined are published a moment later.
    let openapi = eventually("the definitions to be published", SOON, || async {
        let raw = cluster
            .kubectl(&["get", "--raw", "/openapi/v2"])
            .await?
            .ok()?;
        for kind in [
            "HTTPRoute",
            "PodMonitor",
            "ServiceMonitor",
            "PrometheusRule",
        ] {
            anyhow::ensure!(
                raw.contains(&format!("\"kind\":\"{kind}\"")),
                "no {kind} yet"
            );
        }
        Ok(raw)
    })
    .await?;
    let folder = tempfile::tempdir()?;
    let written = schemas::write(&serde_json::from_str(&openapi)?, folder.path())?;
    assert!(written > 100, "{written}");
    let check = |manifests: &str| -> anyhow::Result<std::process::Output> {
        let mut command = Command::new(tools::KUBECONFORM.path()?);
        command.args(["-strict", "-summary", "-schema-location"]);
        command.arg(folder.path().join(schemas::LOCATION));
        helm::run(command.arg("-"), manifests)
    };
    for file in helm::value_files()? {
        let output = check(&helm::render("chekt-system", &file)?)?;
        let said = helm::said(&output);
        assert!(output.status.success(), "{}: {said}", file.display());
        assert!(said.contains("Skipped: 0"), "{}: {said}", file.display());
    }
    // And it can find something.
    let values = json!({"publicUrl": "https://a.example", "podSecurityContext": {"runAsUsr": 1}});
    let output = check(&helm::render_with("chekt-system", &values)?)?;
    assert!(!output.status.success() && helm::said(&output).contains("runAsUsr"));
    Ok(())
}

#[test]
fn kube_score_finds_nothing_but_what_has_its_reason_written_down() -> anyhow::Result<()> {
    let mut found = Found::new();
    for file in helm::value_files()? {
        let mut command = Command::new(tools::KUBE_SCORE.path()?);
        command.args([
            "score",
            "--output-format",
            "json",
            "--kubernetes-version",
            "v1.37",
            "-",
        ]);
        let output = helm::run(&mut command, &helm::render("chekt-system", &file)?)?;
        let scored: Vec<Value> =
            serde_json::from_slice(&output.stdout).with_context(|| helm::said(&output))?;
        for object in &scored {
            for check in object["checks"].as_array().into_iter().flatten() {
                let fine = check["skipped"] == true || check["grade"].as_i64() == Some(10);
                if !fine {
                    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let said = format!("{}: {}", word(&object["object_name"]), check["comments"]);
                    let places = found.entry(word(&check["check"]["id"])).or_default();
                    places.entry(helm::name_of(&file)).or_default().insert(said);
                }
            }
        }
    }
    only_exceptions("kube-score", &found)
}

/// Ninety seconds and a venv of 291 MB: `make chart-check` has it.
#[test]
#[ignore = "make chart-check runs it, which installs checkov"]
fn checkov_finds_nothing_but_what_has_its_reason_written_down() -> anyhow::Result<()> {
    let checkov = std::env::var("CHECKOV").context("CHECKOV is not set: run make chart-check")?;
    // It passes over folders whose name begins with a dot, as those of tempdir() do.
    let folder = tempfile::Builder::new().prefix("chart-").tempdir()?;
    for file in helm::value_files()? {
        let name = helm::name_of(&file);
        // Each in a namespace of its own: the policies of one must not cover the Pods of another.
        let manifests = helm::render(&name, &file)?;
        std::fs::write(folder.path().join(format!("{name}.yaml")), manifests)?;
    }
    let mut command = Command::new(checkov);
    // It would ask its vendor's server for guidelines.
    command.args([
        "--skip-download",
        "--framework",
        "kubernetes",
        "--compact",
        "--quiet",
    ]);
    command.args(["--output", "json", "--directory"]);
    let output = helm::run(command.arg(folder.path()), "")?;
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| helm::said(&output))?;
    assert!(
        report["summary"]["passed"].as_i64() > Some(500),
        "{}",
        report["summary"]
    );
    let mut found = Found::new();
    for check in report["results"]["failed_checks"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let word = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let file = word("file_path");
        let file = file
            .trim_start_matches('/')
            .trim_end_matches(".yaml")
            .to_owned();
        let places = found.entry(word("check_id")).or_default();
        let said = format!("{}: {}", word("resource"), word("check_name"));
        places.entry(file).or_default().insert(said);
    }
    only_exceptions("checkov", &found)
}

/// What a checker found: by its own name for it, the files of values and what it said.
type Found = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// A finding that is left.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    /// Why.
    reason: String,
    /// With which files of values; otherwise with any.
    only: Option<BTreeSet<String>>,
}

/// Every finding has its exception, and every exception a finding.
fn only_exceptions(checker: &str, found: &Found) -> anyhow::Result<()> {
    let file = std::fs::read_to_string(helm::root().join("tests/shipped/exceptions.yaml"))?;
    let all: BTreeMap<String, BTreeMap<String, Exception>> = serde_yaml::from_str(&file)?;
    let exceptions = all.get(checker).context("no exceptions for it")?;
    let mut unexplained = Found::new();
    for (what, places) in found {
        let exception = exceptions.get(what);
        for (file, said) in places {
            let fits = exception.is_some_and(|e| e.only.as_ref().is_none_or(|o| o.contains(file)));
            if !fits {
                unexplained
                    .entry(what.clone())
                    .or_default()
                    .insert(file.clone(), said.clone());
            }
        }
    }
    assert!(
        unexplained.is_empty(),
        "{checker} finds, and exceptions.yaml does not say why: {unexplained:#?}"
    );
    for (what, exception) in exceptions {
        assert!(!exception.reason.is_empty(), "{what} has no reason");
        let there: BTreeSet<_> = found.get(what).into_iter().flat_map(|p| p.keys()).collect();
        let idle = exception
            .only
            .iter()
            .flatten()
            .find(|file| !there.contains(file));
        assert!(
            !there.is_empty() && idle.is_none(),
            "{checker} does not find {what} any more with {idle:?}: take it out of exceptions.yaml"
        );
    }
    Ok(())
}

/// A namespace that enforces what is asked of Pods that are to be trusted, in an API server that knows all kinds, with the
/// namespaces that the value files name.
async fn stage() -> anyhow::Result<Cluster> {
    stage_in(ControlPlane::shared().await?).await
}

/// The same in this control plane.
pub async fn stage_in(plane: &'static ControlPlane) -> anyhow::Result<Cluster> {
    let cluster = Cluster::new_in(plane, "chart").await?;
    for mode in ["enforce", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}=restricted");
        cluster
            .kubectl(&["label", "namespace", &cluster.namespace, &label])
            .await?
            .ok()?;
    }
    for namespace in ["team-a", "team-b", "monitoring"] {
        let manifest =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let said = cluster.try_apply(&manifest.to_string()).await?;
        // Another test may make it at the same moment.
        let there = said.status.success() || said.stderr.contains("AlreadyExists");
        anyhow::ensure!(there, "{namespace}: {}", said.stderr);
    }
    for file in definitions::of_others()? {
        // By the server: they are longer than what an annotation may hold.
        cluster
            .kubectl(&[
                "apply",
                "--server-side",
                "--force-conflicts",
                "-f",
                text(&file)?,
            ])
            .await?
            .ok()?;
    }
    Ok(cluster)
}

/// A path as an argument.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is no text")
}
