//! The programs of the ecosystem that chart, alerts and workflows are judged by, or that install them for real.
//!
//! Each is a Go module of its own below `tests/tools/`, which holds nothing but its pin: what one of them needs must not
//! decide which version of a library another one gets.

use std::path::PathBuf;

use super::assets;
use super::go_build::Recipe;

/// A program, and what it is built from.
pub struct Tool {
    recipe: Recipe,
    go_mod: &'static str,
    go_sum: &'static str,
}

macro_rules! tool {
    ($(#[$doc:meta])* $tool:ident, $name:literal, $package:literal, $ldflags:literal) => {
        $(#[$doc])*
        pub const $tool: Tool = Tool {
            recipe: Recipe {
                what: $name,
                module: concat!("tests/tools/", $name),
                programs: &[($name, $package)],
                ldflags: $ldflags,
                text: "1: go1.26, CGO_ENABLED=0, -trimpath",
            },
            go_mod: include_str!(concat!("../tools/", $name, "/go.mod")),
            go_sum: include_str!(concat!("../tools/", $name, "/go.sum")),
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
    /// Checks workflow files.
    ACTIONLINT,
    "actionlint",
    "github.com/rhysd/actionlint/cmd/actionlint",
    "-s -w"
);

/// All of them.
pub const ALL: [&Tool; 6] = [
    &HELM,
    &HELM_UNITTEST,
    &KUBECONFORM,
    &KUBE_SCORE,
    &PROMTOOL,
    &ACTIONLINT,
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
        assets::found_or_built("tools", &[self.go_mod, self.go_sum], &self.recipe)
            .map(|dir| dir.join(self.recipe.what))
    }
}
