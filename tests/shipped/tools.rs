//! The programs themselves: what all else here stands on.

use std::process::Command;

use crate::harness::tools;

#[test]
fn helm_is_the_version_that_is_pinned() -> anyhow::Result<()> {
    let helm = tools::HELM.path()?;
    let said = Command::new(helm).args(["version", "--short"]).output()?;
    let said = String::from_utf8(said.stdout)?;
    let pinned = include_str!("../tools/helm/go.mod");
    let version = said.trim().split('+').next().unwrap_or_default();
    assert!(
        version.starts_with('v') && pinned.contains(&format!("helm.sh/helm/v4 {version} ")),
        "it says {said:?}"
    );
    Ok(())
}
