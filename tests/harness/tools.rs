//! The programs of the ecosystem that chart, alerts and workflows are judged by, or that install them for real.
//!
//! Each is a Go module of its own below `tests/tools/`, which holds nothing but its pin, and a few lines where no package
//! of theirs is a program: what one of them needs must not decide which version of a library another one gets.

use std::path::PathBuf;

use super::assets;
use super::go_build::{self, Recipe};

/// A program, and what it is built from.
pub struct Tool {
    recipe: Recipe,
    sources: &'static [&'static str],
}

macro_rules! tool {
    ($(#[$doc:meta])* $tool:ident, $name:literal, $package:literal, $ldflags:literal $(, $source:literal)*) => {
        $(#[$doc])*
        pub const $tool: Tool = Tool {
            recipe: Recipe {
                what: $name,
                module: concat!("tests/tools/", $name),
                programs: &[($name, $package)],
                ldflags: $ldflags,
                text: "1: go1.26, CGO_ENABLED=0, -trimpath",
            },
            sources: &[
                include_str!(concat!("../tools/", $name, "/go.mod")),
                include_str!(concat!("../tools/", $name, "/go.sum")),
                $(include_str!(concat!("../tools/", $name, "/", $source)),)*
            ],
        };
    };
}

tool!(
    /// Installs charts.
    HELM,
    "helm",
    "helm.sh/helm/v4/cmd/helm",
    "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1"
);
tool!(
    /// Runs the unit tests of a chart.
    HELM_UNITTEST,
    "helm-unittest",
    "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
    "-s -w"
);
tool!(
    /// Compares manifests with schemas.
    KUBECONFORM,
    "kubeconform",
    "github.com/yannh/kubeconform/cmd/kubeconform",
    "-s -w"
);
tool!(
    /// Knows what people regret about manifests.
    KUBE_SCORE,
    "kube-score",
    "github.com/zegl/kube-score/cmd/kube-score",
    "-s -w"
);
tool!(
    /// Checks metrics and alerts, and runs the unit tests of alerts.
    PROMTOOL,
    "promtool",
    "github.com/prometheus/prometheus/cmd/promtool",
    "-s -w"
);
tool!(
    /// Syncs clusters from git: its repo-server, its application controller and its command line are one program.
    ARGOCD,
    "argocd",
    "github.com/argoproj/argo-cd/v3/cmd",
    "-s -w -X github.com/argoproj/argo-cd/v3/common.version=3.5.7"
);
tool!(
    /// Argo CD's memory.
    MINIREDIS,
    "miniredis",
    "miniredis",
    "-s -w",
    "main.go"
);
tool!(
    /// Reads Events and sends them on as log records.
    OTEL_COLLECTOR,
    "otel-collector",
    "otel-collector",
    "-s -w",
    "main.go"
);
tool!(
    /// Compares manifests with Flux's types.
    FLUX_TYPES,
    "flux-types",
    "flux-types",
    "-s -w",
    "main.go"
);
tool!(
    /// Checks workflow files.
    ACTIONLINT,
    "actionlint",
    "github.com/rhysd/actionlint/cmd/actionlint",
    "-s -w"
);

/// All of them.
pub const ALL: [&Tool; 10] = [
    &HELM,
    &HELM_UNITTEST,
    &KUBECONFORM,
    &KUBE_SCORE,
    &PROMTOOL,
    &ACTIONLINT,
    &ARGOCD,
    &MINIREDIS,
    &OTEL_COLLECTOR,
    &FLUX_TYPES,
];

impl Tool {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.recipe.what
    }

    /// Finds it, and builds it if nobody has yet. Blocks: the first build of most takes a minute or more.
    ///
    /// # Errors
    /// When Go is missing or fails.
    pub fn path(&self) -> anyhow::Result<PathBuf> {
        assets::found_or_built("tools", self.sources, &self.recipe)
            .map(|dir| dir.join(self.recipe.what))
    }

    /// The folder with the sources of a module that it is built from: some programs need files that lie there.
    ///
    /// # Errors
    /// When Go is missing, or the module is not to be had.
    pub fn sources(&self, module: &str) -> anyhow::Result<PathBuf> {
        go_build::sources(&self.recipe, module)
    }
}
