# Everything is built in the release profile: tests, plugin and demo share their dependencies, which are most of the time.
.DEFAULT_GOAL := help
.PHONY: help build plugin install push image release release-check test test-arm64 soak bench e2e e2e-quick lint demo fuzz clean

# What a target lacks is said before the build, which may take long.
ifneq ($(filter push,$(MAKECMDGOALS)),)
ifndef REGISTRY
$(error Which registry? make push REGISTRY=registry.example.com/team [TAG=1.0-amd64] [ARCH=arm64])
endif
endif
ifneq ($(filter release,$(MAKECMDGOALS)),)
ifndef VERSION
$(error Which version? make release VERSION=1.2.3, the one in Cargo.toml)
endif
endif
ifneq ($(filter install image,$(MAKECMDGOALS)),)
ifneq ($(shell docker version >/dev/null 2>&1 && echo yes),yes)
$(error No Docker Engine answers: start it, or set DOCKER_HOST)
endif
endif

# What this machine is, and what is built for: a plugin is for one architecture. Others' names for the two are taken as well.
HOST   := $(patsubst x86_64,amd64,$(patsubst aarch64,arm64,$(shell uname -m)))
ARCH   ?= $(HOST)
override ARCH := $(patsubst x86_64,amd64,$(patsubst aarch64,arm64,$(ARCH)))
ifeq ($(filter amd64 arm64,$(ARCH)),)
$(error ARCH is amd64 or arm64, not $(ARCH))
endif
PLUGIN  = build/plugin$(if $(filter-out $(HOST),$(ARCH)),-$(ARCH))

HEAVY  := crash:: contention:: docker_faults:: e2e:: model:: outage:: store::galera robustness::
TARGET := $(or $(CARGO_TARGET_DIR),target)
TAG    ?= latest
IMAGE   = $(REGISTRY)/ec2-ipam:$(TAG)
CURRENT = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

help: ## What can be made
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '  make %-13s %s\n' "$$t" "$$d"; done
	@echo 'The first build takes about eleven minutes on two cores, later ones one or two.'

# The simulator and the examples with it: cargo then has one set of features for plugin, demo and tests, and builds
# dependencies once.
build: ## The binary: target/release/ec2-ipam
	scripts/build.sh --release --locked --bins --examples

plugin: ## The managed plugin: build/plugin; ARCH=arm64 on an amd64 machine, or the other way round: build/plugin-ARCH; root
ifeq ($(ARCH),$(HOST))
plugin: build
	plugin/assemble.sh "$(TARGET)/release/ec2-ipam" $(PLUGIN)
else
	scripts/setup.sh cross
	scripts/buildroot.sh plugin/build.sh $(ARCH) $(PLUGIN)
endif

install: plugin ## The plugin in this machine's Docker Engine, new or exchanged for an older one; PREFIX=/usr/local: its command line
	rm -rf build/share
	@# Of another architecture it is refused there.
	[ $(ARCH) != $(HOST) ] || "$(TARGET)/release/examples/pages" build/share
	scripts/install.sh $(PLUGIN)

push: plugin ## The plugin to a registry: make push REGISTRY=host/path [TAG=latest] [ARCH=arm64], one tag per architecture
	docker plugin create "$(IMAGE)" $(PLUGIN)
	@# The local copy goes, pushed or not: an Engine takes no second plugin of the same content, such as another tag.
	docker plugin push "$(IMAGE)"; pushed=$$?; docker plugin rm "$(IMAGE)"; exit $$pushed

# What the plugin is made of, with the settings of the server's unit. No other image is needed to begin with.
image: plugin ## The server as a container image in this machine's Docker Engine: ec2-ipam-server:VERSION
	plugin/image.sh $(PLUGIN) $(ARCH) "$(CURRENT)" >build/image.tar
	docker load -i build/image.tar

# Of a commit, with Debian's own compilers: docs/releasing.md.
release: ## All files of a release, for both architectures: make release VERSION=1.2.3, in build/release; root, half an hour
	scripts/release.sh "$(VERSION)"

release-check: ## Builds the release once more, elsewhere and from nothing, and compares each byte; root, half an hour
	scripts/release-check.sh

test: ## What CI runs: prerequisites, lint, every test
	scripts/setup.sh test
	$(MAKE) lint
	@# Most tests wait for others most of the time, so more of them run at once than there are processors; those that need
	@# many processes or a cluster of their own come after, a few at a time.
	cargo test --release --locked --features fail-points -- --test-threads=8 $(HEAVY:%=--skip %)
	cargo test --release --locked --features fail-points --test it -- --test-threads=2 $(HEAVY)

test-arm64: ## The plugin for arm64 under emulation: a version, doctor, grants and releases; root
	scripts/setup.sh arm64
	$(MAKE) plugin ARCH=arm64
	cargo test --release --locked --features fail-points --test it -- --ignored arm64::

SOAK ?= 20000
soak: ## The model test for SOAK=20000 random sequences with fresh seeds; what fails names its SEED
	SOAK=$(SOAK) cargo test --release --locked --features fail-points --test it model:: -- --nocapture

# CHURN=10000 makes its longest part shorter.
bench: ## What it costs, beside what it is made of: table, JSON and plots in build/bench; root; PARTS="warm burst" for some
	scripts/setup.sh test
	cargo bench --locked --bench fleet -- $(PARTS)

# scripts/e2e/run.sh says what a suite is.
e2e: ## Two hosts and a VPC in virtual machines, real ipvlan, three Engines, or your own: SUITES=trixie DOCKERD=PATH DOCKER=PATH; root, an hour
	scripts/setup.sh e2e
	$(MAKE) plugin
	SIMULATOR="$(TARGET)/release/vpc-sim" scripts/e2e/run.sh all $(SUITES)

e2e-quick: ## The same with one Engine, the shortest path
	scripts/setup.sh e2e
	$(MAKE) plugin
	SIMULATOR="$(TARGET)/release/vpc-sim" scripts/e2e/run.sh quick $(SUITES)

lint: ## Formatting, clippy, dependencies, shellcheck
	cargo fmt --check
	cargo clippy --release --locked --lib --bins --examples -- -D warnings
	cargo clippy --release --locked --all-targets --features fail-points -- -D warnings
	@export PATH="$$PATH:$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ec2-ipam/tools/bin"; \
	if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check -D unmatched-skip licenses bans sources; else echo "cargo-deny is missing: dependencies not checked"; fi
	@if command -v shellcheck >/dev/null; then shellcheck packaging/*.sh plugin/*.sh scripts/*.sh scripts/e2e/*.sh .ci/run; else echo "shellcheck is missing: scripts not checked"; fi

demo: ## A simulated VPC, the plugin in a Docker Engine, three containers with VPC addresses; KEEP=1 leaves it standing; root, under two minutes
	scripts/setup.sh demo
	$(MAKE) plugin
	scripts/demo.sh build/plugin "$(TARGET)/release/vpc-sim"

# Coverage needs a nightly compiler, and cargo-fuzz knows its flags; CI has neither, and plays a few inputs in `make test`.
fuzz: ## The parsers under libFuzzer, for FUZZ_SECONDS (60); needs a nightly Rust and cargo-fuzz
	@rustup run nightly rustc --version >/dev/null 2>&1 || { echo "a nightly Rust is missing: rustup toolchain install nightly --profile minimal" >&2; exit 2; }
	@cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2; exit 2; }
	cargo +nightly fuzz run parsers -- -max_total_time=$(or $(FUZZ_SECONDS),60)

clean: ## What was built
	rm -rf build
	cargo clean
