//! What can be said of the image without building it: the Dockerfile agrees with everything that stands on it, and what
//! is laid out for it is what it should be. `make image-check` looks into the real one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

#[test]
fn the_dockerfile_says_the_version_that_the_program_has() -> anyhow::Result<()> {
    assert_eq!(argument("VERSION")?, env!("CARGO_PKG_VERSION"));
    let chart: serde_yaml::Value = yaml("charts/chekt-operator/Chart.yaml")?;
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    Ok(())
}

#[test]
fn the_dockerfile_compiles_with_no_older_compiler_than_is_promised() -> anyhow::Result<()> {
    let parts = |version: &str| -> anyhow::Result<Vec<u32>> {
        version.split('.').map(|part| Ok(part.parse()?)).collect()
    };
    let (used, promised) = (argument("RUST_VERSION")?, env!("CARGO_PKG_RUST_VERSION"));
    assert!(
        parts(&used)? >= parts(promised)?,
        "the Dockerfile has Rust {used}, and Cargo.toml promises {promised}"
    );
    Ok(())
}

#[test]
fn the_image_is_compiled_with_the_flags_of_the_cargo_configuration() -> anyhow::Result<()> {
    let ignored = std::fs::read_to_string(root().join(".dockerignore"))?;
    let configuration = std::fs::read_to_string(root().join(".cargo/config.toml"))?;
    assert!(configuration.contains("LIBSQLITE3_FLAGS"));
    assert!(
        ignored.lines().any(|line| line == "!.cargo"),
        "the context of the image has no .cargo/config.toml"
    );
    Ok(())
}

#[test]
fn the_image_runs_as_the_user_that_the_chart_asks_for() -> anyhow::Result<()> {
    let values = yaml("charts/chekt-operator/values.yaml")?;
    let context = &values["podSecurityContext"];
    let number = |name: &str| {
        context[name]
            .as_u64()
            .with_context(|| format!("values.yaml has no podSecurityContext.{name}"))
    };
    let (user, group) = (number("runAsUser")?, number("runAsGroup")?);
    let dockerfile = dockerfile()?;
    assert!(
        dockerfile.contains(&format!("\nUSER {user}:{group}\n")),
        "the chart runs {user}:{group}, and the Dockerfile says another user"
    );
    Ok(())
}

#[test]
fn only_the_last_stage_is_kept_and_it_takes_nothing_but_what_was_laid_out() -> anyhow::Result<()> {
    let dockerfile = dockerfile()?;
    let (_, last) = dockerfile
        .split_once("\nFROM scratch\n")
        .context("packaging/image.sh looks for a line `FROM scratch`")?;
    assert!(!last.contains("\nFROM "), "the last stage is another one");
    let copied: Vec<_> = last
        .lines()
        .filter(|line| {
            line.starts_with("COPY") || line.starts_with("ADD") || line.starts_with("RUN")
        })
        .collect();
    assert_eq!(copied, ["COPY --from=builder /out/rootfs/ /"]);
    Ok(())
}

#[test]
fn the_image_holds_the_program_its_roots_and_what_names_its_user() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (program, bundle) = (folder.path().join("program"), folder.path().join("roots"));
    std::fs::write(&program, "a program")?;
    std::fs::write(
        &bundle,
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
    )?;
    let out = folder.path().join("rootfs");
    let laid_out = Command::new(root().join("packaging/rootfs.sh"))
        .args([&program, &out])
        .env("CA_CERTIFICATES", &bundle)
        .env("SOURCE_DATE_EPOCH", "1000000000")
        .env("CHEKT_BUILD_COMMIT", "0123456789ab")
        .output()?;
    assert!(
        laid_out.status.success(),
        "{}",
        String::from_utf8_lossy(&laid_out.stderr)
    );
    let mut found = Vec::new();
    let mut folders = vec![out.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let about = path.symlink_metadata()?;
            let name = path.strip_prefix(&out)?.display().to_string();
            assert_eq!(
                about.permissions().mode() & 0o022 & !link(&about),
                0,
                "{name}"
            );
            assert_eq!(
                about
                    .modified()?
                    .duration_since(std::time::UNIX_EPOCH)?
                    .as_secs(),
                1_000_000_000,
                "{name} holds the time of its making"
            );
            if about.is_dir() {
                folders.push(path);
            } else {
                found.push(name);
            }
        }
    }
    found.sort();
    assert_eq!(
        found,
        [
            "etc/group",
            "etc/nsswitch.conf",
            "etc/passwd",
            "etc/ssl/certs/ca-certificates.crt",
            "usr/local/bin/chekt-operator",
            "usr/local/bin/kubectl-chekt",
            "usr/share/licenses/chekt-operator/LICENSE",
        ]
    );
    assert_eq!(
        std::fs::read(out.join("etc/ssl/certs/ca-certificates.crt"))?,
        std::fs::read(bundle)?
    );
    assert_eq!(
        std::fs::read_link(out.join("usr/local/bin/kubectl-chekt"))?,
        PathBuf::from("chekt-operator")
    );
    Ok(())
}

/// A link has all rights, which mean nothing.
fn link(about: &std::fs::Metadata) -> u32 {
    if about.is_symlink() { 0o777 } else { 0 }
}

/// The default of an argument of the Dockerfile.
fn argument(name: &str) -> anyhow::Result<String> {
    let prefix = format!("ARG {name}=");
    dockerfile()?
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .with_context(|| format!("the Dockerfile has no ARG {name}"))
}

fn dockerfile() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(root().join("Dockerfile"))?)
}

fn yaml(path: &str) -> anyhow::Result<serde_yaml::Value> {
    let text = std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned())?;
    Ok(serde_yaml::from_str(&text)?)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
