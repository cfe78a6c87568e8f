# Everything a person does here. `make` alone says what there is.

CARGO ?= cargo

# The errors of the harness say what was seen instead; a hundred frames of an async runtime say nothing beside that.
export RUST_LIB_BACKTRACE ?= 0

.DEFAULT_GOAL := help
.PHONY: help demo test generate lint ci control-plane

help: ## Says what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# Built first and apart, so that the demo speaks without interruption once it begins. It is a test as well: it ends
# with 0 only if everything was as expected.
demo: control-plane ## Shows the whole thing on this machine; KEEP=1 leaves it running until Ctrl-C
	@$(CARGO) build --locked --bin chekt-operator --example demo
	@KEEP="$(KEEP)" $(CARGO) run --locked --quiet --example demo

# The programs that tests and demo stand on are built by a step of their own: within `cargo test` it would look like a
# slow test.
control-plane: ## Builds etcd, kube-apiserver, kube-controller-manager and kubectl, once
	@$(CARGO) run --locked --quiet --example control-plane -- build

test: control-plane ## Runs every test, against a real API server
	$(CARGO) test --locked

generate: ## Writes the files that are made from the code: crds/ and the references in docs/
	UPDATE=1 $(CARGO) test --locked --test it -- generated:: reference::

lint: ## Format, clippy and, where cargo-deny is installed, the dependency policy
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) fetch --locked && $(CARGO) deny --offline check bans licenses sources; \
	else \
		echo "cargo-deny is not installed: the dependency policy was not checked (.ci/run installs it)"; \
	fi

ci: ## What has to pass before a change goes in
	.ci/run
