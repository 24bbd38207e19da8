# The list of all commands; README and .ci/run use only these.

# Where cargo is installed, if a login shell did not put it into PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin
export PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
# pgrx asks this pg_config for PostgreSQL's headers, so plain cargo works without cargo-pgrx.
export PGRX_PG_CONFIG_PATH := $(PG_CONFIG)
# Where make up stores the settings of its services, and where these store their data: PostgreSQL's system user must
# be able to read the latter.
STACK ?= .stack
STACK_ROOT ?= /tmp
# The scripts look for cargo's output in target/, whatever a user's own settings are.
export CARGO_TARGET_DIR := $(CURDIR)/target

MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.PHONY: help setup build install-extension test unit coverage demo up down bench bench-peers samples acceptance soak nemesis disasters faults mutants upgrade lint fmt doc book package test-package check-deploy check-versions audit

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup: ## install what is missing: Debian packages, Kafka's jars and promtool (as root or with sudo)
	@scripts/setup.sh

build: setup install-extension ## build everything (release) and install the extension

install-extension: ## build, and install the extension into PG_CONFIG's PostgreSQL
	@scripts/install-extension.sh

test: build ## all tests, in two halves, each with a private PostgreSQL, Kafka and Redis
	@scripts/test.sh

unit: setup ## the tests that need no service: pure rules, decoding, settings, formats, the model
	@scripts/unit.sh

coverage: build ## line coverage of the tests, by crate (cargo-llvm-cov; UNIT=1: of make unit only)
	@scripts/coverage.sh

demo: build ## a million events, two ingesters, one killed half way (EVENTS=n; KEEP=1 leaves it running)
	@scripts/with-stack.sh target/release/demo

up: build ## start PostgreSQL, Kafka and Redis on free ports, migrate, write .stack/env
	@if test -e $(STACK)/env && scripts/stack.sh "$$(cat $(STACK)/dir)" status >/dev/null 2>&1; then \
	  echo "already up; settings are in $(STACK)/env, make down stops it"; \
	elif test -e $(STACK)/dir && test -e "$$(cat $(STACK)/dir)/settings"; then \
	  echo "the stack in $$(cat $(STACK)/dir) is incomplete: make down, then make up" >&2; exit 1; \
	else \
	  mkdir -p $(STACK) && mktemp -d $(STACK_ROOT)/sluice-XXXXXX >$(STACK)/dir && \
	  scripts/stack.sh "$$(cat $(STACK)/dir)" up --env $(STACK)/env || { rm -rf $(STACK); exit 1; }; \
	  echo "up; settings are in $(STACK)/env: set -a; . $(STACK)/env; set +a; target/release/sluice check"; \
	  echo "the page of sluice run, http://localhost:3010/, asks for ADMIN_TOKEN of that file"; \
	fi

down: ## stop what make up started and remove its data
	@if test -e $(STACK)/dir && test -e "$$(cat $(STACK)/dir)/settings"; then scripts/stack.sh "$$(cat $(STACK)/dir)" down; \
	else echo "nothing is up"; fi
	@rm -rf $(STACK)

bench: build ## ratios and times, written to bench/README.md (BENCH=domain: one part; BENCH=full: all, in long form)
	@BENCH_WRITE=1 scripts/with-stack.sh target/release/bench

bench-peers: build ## user.updated against the Debezium JDBC sink, fetched by Maven; written to bench/README.md
	@scripts/setup.sh --peers
	@BENCH=peers BENCH_WRITE=1 scripts/with-stack.sh target/release/bench

samples: build ## the samples of docs/publishing.md in all five languages (Node.js and Go from Debian, their clients from npm and the Go proxy)
	@scripts/setup.sh --samples
	@scripts/with-stack.sh cargo test --release --workspace --test proofs -- --test-threads=1 --ignored samples::

acceptance: build ## take-over times, latency, cost when idle and of HTTP, memory: a table, exit status 1 on a miss
	@scripts/with-stack.sh target/release/acceptance

soak: build ## the demo with 20 kills
	@KILLS=20 scripts/with-stack.sh target/release/demo

nemesis: build ## all faults at once for MINUTES (10), then a comparison with the reference (SEED=n repeats a run)
	@MINUTES=$(MINUTES) SEED=$(SEED) WITHOUT=$(WITHOUT) scripts/with-stack.sh target/release/nemesis

disasters: build ## clock jumps, full and failing disks, a promoted standby, a frozen broker
	@scripts/with-stack.sh cargo test --release --workspace --test proofs -- --test-threads=1 --ignored disasters::

faults: build ## every named fault point with every action, on every path
	@scripts/build-faults.sh
	scripts/with-stack.sh cargo test --release --workspace --test proofs -- --test-threads=1 --nocapture --ignored fault_points::

package: ## Debian packages of the ingester and the extension: target/package/*.deb
	@scripts/setup.sh --package
	@packaging/build.sh

test-package: build package ## install the packages here, use them with a private stack, remove them (as root)
	@packaging/test.sh

check-deploy: setup ## check Dockerfile, compose file, Kubernetes manifests and Helm chart (tools from PyPI, Helm from the Go proxy)
	@deploy/check.sh

check-versions: build ## the extension on PostgreSQL 16 to 18: types of 17, built for 16 and 18 (from PyPI), tested on 18
	@scripts/check-versions.sh

audit: ## licenses, bans, sources and known vulnerabilities of dependencies (cargo-deny, cargo-audit; needs GitHub)
	cargo deny check
	cargo audit

mutants: build ## remove one safeguard at a time from a copy of the sources; a test must fail each time (MUTANTS="name …")
	@tests/mutants/run.sh $(MUTANTS)

upgrade: build ## from version 0.6.0 to this one under load, with ingesters of both
	@tests/upgrade/run.sh

lint: setup ## formatting, clippy and, where installed, shellcheck and cargo-deny
	cargo fmt --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	@for script in scripts/*.sh .ci/run docker/*.sh packaging/*.sh deploy/*.sh; do test ! -e $$script || bash -n $$script || exit 1; done
	@if command -v shellcheck >/dev/null; then shellcheck -S warning -x -P scripts scripts/*.sh .ci/run docker/*.sh packaging/*.sh deploy/*.sh; fi
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; fi

fmt: ## format the sources
	cargo fmt

book: ## the documents as one site; broken links fail: target/book/site (mkdocs from PyPI)
	@scripts/book.sh

doc: setup ## the crates' documentation; warnings fail
	RUSTDOCFLAGS=-Dwarnings cargo doc --release --workspace --no-deps
