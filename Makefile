# The project's entry points. `make` alone lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# rustup puts cargo here, and a shell that was open before does not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# Jobs need namespaces, mounts and CRIU, hence root. Whoever is not root builds as themselves and runs tests by sudo.
ifneq ($(shell id -u),0)
RUN_AS_ROOT := --config "target.'cfg(all())'.runner = ['sudo', '--preserve-env']"
endif

.PHONY: help
help: ## List these targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
	    printf '  make %-12s %s\n' "$$target" "$$text"; \
	done

.PHONY: setup
setup: ## Install what this machine lacks: runc, CRIU, Rust, etcd, … (quick when all is there; root or sudo)
	@scripts/setup.sh

# The tests and the targets below that run a whole group also need an S3 server, which is built once on a machine.
.PHONY: setup-cluster
setup-cluster:
	@scripts/setup.sh --cluster

# The dev profile optimises the dependencies that hash and compress, so it is quick enough to run, and it shares its
# build with `make test`. `make release` makes the program to install, and took 9 minutes where this took 5 (both clean,
# on two cores that other builds shared).
.PHONY: build
build: ## Build target/debug/workrs, quick to build
	$(CARGO) build --locked --bin workrs

.PHONY: release
release: ## Build target/release/workrs, the program to install
	$(CARGO) build --locked --release --bin workrs

.PHONY: demo
demo: setup-one-node build ## Watch a job outlive its node (root or sudo)
	@scripts/demo.py $(TARGET_DIR)/debug/workrs

.PHONY: setup-one-node
setup-one-node:
	@scripts/setup.sh --one-node

# CLUSTER_OPTIONS=--fresh begins with an empty group; scripts/cluster.py --help tells the others.
.PHONY: cluster
cluster: setup-cluster build ## Run a group on this machine: three etcd members, S3, three nodes (root or sudo)
	@scripts/cluster.py $(CLUSTER_OPTIONS) $(TARGET_DIR)/debug/workrs

.PHONY: cluster-demo
cluster-demo: setup-cluster build ## Watch jobs outlive nodes, etcd members and S3 of such a group (root or sudo)
	@scripts/cluster_demo.py $(TARGET_DIR)/debug/workrs

.PHONY: test
test: setup-cluster lint ## Run all tests, the real ones with runc, CRIU, etcd and S3, too (root or sudo)
	$(CARGO) test --workspace --locked --no-fail-fast $(RUN_AS_ROOT)
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check bans licenses sources; fi

.PHONY: openapi
openapi: ## Write docs/openapi.json anew, from the code
	WORKRS_UPDATE=1 $(CARGO) test --locked -p workrs --test contract document

# New inputs go to fuzz/found/, what made a parser fail to fuzz/artifacts/; fuzz/corpus/ is kept, and `make test` goes through it.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(notdir $(wildcard fuzz/corpus/*))
.PHONY: fuzz
fuzz: ## Run the fuzzers of all parsers, FUZZ_SECONDS each (needs nightly Rust and cargo-fuzz)
	@command -v cargo-fuzz >/dev/null || { \
	    echo "error: cargo-fuzz is not installed" >&2; \
	    echo "hint: rustup toolchain install nightly && cargo install --locked cargo-fuzz" >&2; \
	    exit 1; }
	@for target in $(FUZZ_TARGETS); do \
	    mkdir -p fuzz/found/$$target && \
	    $(CARGO) +nightly fuzz run $$target fuzz/found/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -timeout=10 -print_final_stats=1 || exit 1; \
	done

.PHONY: bench
bench: ## Measure checkpoints and restores, next to podman, Docker and runc
	@scripts/setup.sh --bench --cluster
	@scripts/bench.sh

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: lint
lint: ## Check format and lints; any warning is an error
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings

.PHONY: deny
deny: ## Check the dependencies' licences and advisories (needs cargo-deny and the network)
	@command -v cargo-deny >/dev/null || { \
	    echo "error: cargo-deny is not installed" >&2; \
	    echo "hint: cargo install --locked cargo-deny (it builds for some minutes)" >&2; \
	    exit 1; }
	$(CARGO) deny --locked check

.PHONY: clean
clean: ## Remove what was built
	$(CARGO) clean
