# Everything a person does here. `make` alone says what there is.

CARGO ?= cargo

# The errors of the harness say what was seen instead; a hundred frames of an async runtime say nothing beside that.
export RUST_LIB_BACKTRACE ?= 0

.DEFAULT_GOAL := help
.PHONY: help demo test kill-test crash-matrix ambiguity-matrix twin bench bench-controller peers generate chart-check fuzz lint ci control-plane e2e image image-check sbom release

help: ## Says what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

# Built first and apart, so that the demo speaks without interruption once it begins. It is a test as well: it ends
# with 0 only if everything was as expected.
demo: control-plane ## Shows the whole thing on this machine; KEEP=1 leaves it running until Ctrl-C
	@$(CARGO) build --locked --bin chekt-operator --example demo
	@KEEP="$(KEEP)" $(CARGO) run --locked --quiet --example demo

# The programs that tests and demo stand on are built by a step of their own: within `cargo test` it would look like a
# slow test.
control-plane: ## Builds etcd, kube-apiserver, kube-controller-manager, kubectl and kstatus, once
	@$(CARGO) run --locked --quiet --example control-plane -- build

test: control-plane ## Runs every test, against a real API server
	$(CARGO) test --locked

# First whether this machine can: it takes root on Linux, and says in one sentence what it lacks.
e2e: control-plane ## Installs image and chart on a real Kubernetes node made here, upgrades, kills and removes them
	@$(CARGO) run --locked --quiet --example control-plane -- node
	@$(MAKE) --no-print-directory image
	$(CARGO) test --locked --test e2e -- --test-threads 1 --nocapture

# The short form, ten kills, is a test like the others; SEED repeats the moments of an earlier run.
kill-test: control-plane ## Kills the receiver under load a hundred times and prints the table; KILLS=n, SEED=n
	KILLS=$(or $(KILLS),100) $(CARGO) test --locked --test it -- kill:: --nocapture

# The short form, 24 cells over all scenarios, is a test like the others; SEED repeats the choice of an earlier run.
crash-matrix: control-plane ## Kills the controller at each step of each scenario and prints the table; SCENARIO=create, SEED=n
	CELLS=$(or $(CELLS),0) $(CARGO) test --locked --test it -- crash:: --nocapture

# The short form, some twenty of the cells, is a test like the others; SEED repeats those that it picked by chance, ONLY
# plays the cells whose name holds a text.
ambiguity-matrix: control-plane ## Gives every remote step every answer that does not tell what became of it, and prints the table
	ANSWERS=all AT_ONCE=$(or $(AT_ONCE),12) $(CARGO) test --locked --test it -- ambiguity:: --nocapture

# The short form is a test like the others; SEED repeats one run.
twin: ## Drops the controller's passes at every await, and RUNS=2000 seeded ones, and says where; SEED=n
	TWIN_RUNS=$(or $(RUNS),2000) $(if $(SEED),TWIN_SEED=$(SEED)) $(CARGO) test --locked --test it -- twin:: --nocapture

# Servers have one core and the driver another, so nothing else should want them meanwhile.
bench: control-plane ## Measures what an honest 200 costs, three times; RUNS=n, PART=answers, publishing, memory or flood for one part
	@$(if $(RUNS),RUNS=$(RUNS)) $(CARGO) bench --locked --quiet --bench receiver -- $(PART)

bench-controller: control-plane ## Measures what the controller costs; PART=bulk, quiet, memory or secrets for one part
	@$(CARGO) bench --locked --quiet --bench controller -- $(PART)

# kopf comes from PyPI into the project's cache; without python3 it is left out and the table says so.
peers: control-plane ## Creates, kills and counts: this operator beside two reconcilers of a small team
	@$(CARGO) bench --locked --quiet --bench controller -- peers

generate: ## Writes the files that are made from the code and the values: crds/, the chart's copies, references in docs/
	UPDATE=1 $(CARGO) test --locked --test it --test shipped -- generated:: reference:: values:: health::what_is_pasted_into_argo_cd

# From PyPI into the project's cache; everything else that judges the chart is in `make test`.
CHECKOV = 3.3.30
CHECKOV_TOOL = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/chekt-operator/tools/checkov-$(CHECKOV)
chart-check: control-plane ## Looks at the chart with all checkers, checkov too, which is installed for it (300 MB); CHECKS=checkov for that alone
	@test -x "$(CHECKOV_TOOL)/bin/checkov" || { python3 -m venv "$(CHECKOV_TOOL)" && \
		"$(CHECKOV_TOOL)/bin/pip" install --quiet --disable-pip-version-check "checkov==$(CHECKOV)"; }
	CHECKOV="$(CHECKOV_TOOL)/bin/checkov" $(CARGO) test --locked --test shipped -- --include-ignored $(or $(CHECKS),chart:: values:: flags::)

# Without a sanitizer, which would need a nightly compiler: what is fuzzed has no unsafe code, and a broken promise is a
# failed assertion.
SECONDS_EACH ?= 60
CARGO_FUZZ = 0.13.2
FUZZ_TOOL = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/chekt-operator/tools/cargo-fuzz-$(CARGO_FUZZ)
fuzz: ## Fuzzes what strangers and broken disks can hand us; SECONDS_EACH=60 a target
	@test -x "$(FUZZ_TOOL)/bin/cargo-fuzz" || $(CARGO) install --locked --root "$(FUZZ_TOOL)" "cargo-fuzz@$(CARGO_FUZZ)"
	@for target in $$("$(FUZZ_TOOL)/bin/cargo-fuzz" list --fuzz-dir fuzz); do \
		seeds="fuzz/seeds/$$target"; corpus="fuzz/corpus/$$target"; mkdir -p "$$corpus"; test -d "$$seeds" || seeds=; \
		"$(FUZZ_TOOL)/bin/cargo-fuzz" run --sanitizer none --fuzz-dir fuzz "$$target" "$$corpus" $$seeds -- \
			-max_total_time=$(SECONDS_EACH) -dict=fuzz/envelope.dict -print_final_stats=1 || exit 1; \
	done

lint: ## Format, clippy and, where cargo-deny is installed, the dependency policy
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --test e2e -- -D warnings
	$(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml --target-dir target -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) fetch --locked && $(CARGO) deny --offline check bans licenses sources; \
	else \
		echo "cargo-deny is not installed: the dependency policy was not checked (.ci/run installs it)"; \
	fi

ci: ## What has to pass before a change goes in
	.ci/run

# What ships. With a target of its own (static, x86_64 or aarch64) the build shares nothing with development builds.
image: ## Makes target/image/chekt-operator.oci.tar without an engine, and the static binary beside it; ARCH=arm64
	@packaging/image.sh

image-check: image ## Looks into the image, runs it, and makes it again in another folder to compare; TWICE=0 does not
	@packaging/image-check.sh

sbom: ## Writes what the binary is made of, as CycloneDX, to target/image/chekt-operator.cdx.json
	@packaging/sbom.sh target/image/chekt-operator.cdx.json

release: ## Makes everything of a release, VERSION=1.2.3, but publishes nothing; DRY_RUN=1 shows what would change
	@packaging/release.sh "$(VERSION)" $(if $(DRY_RUN),--dry-run)
