# Bare `make` lists the targets. Each does all the set-up it needs, and nothing outside this directory but caches.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help dev services test protocol simulate chaos lint bench guided side-by-side real-model test-real-model clean-services

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

dev: ## everything in one process on 127.0.0.1:8080, on SQLite
	cargo run -- dev

services: ## install and start a private Postgres and NATS on free loopback ports
	tests/services.sh start

test: ## all tests, with a real Postgres and NATS
	@echo 'test: starting the services the tests need'
	@tests/services.sh start
	@echo 'test: building and running every test of the workspace'
	@eval "$$(tests/services.sh env)" && cargo test --workspace
	@echo 'test: the read models once more, on SQLite'
	@env -u DATABASE_URL cargo test -q -p steadfast-projections --test it
	@cd grafana && python3 -m unittest -q

protocol: ## explore the models of the protocol and their mutants, print what was found
	cargo run -q -p steadfast-protocol

lint: ## formatting, clippy, and the dependency rules where cargo-deny is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo 'lint: cargo-deny is not installed; deny.toml was not checked'; fi

SEEDS ?= 2000
FROM ?= 0
PROFILE ?= release

simulate: ## play SEEDS=2000 seeds in a simulated world with every fault, or tell the story of one: SEED=17
	cargo run --profile $(PROFILE) -p steadfast-simulation --bin simulate -- $(if $(SEED),--seed $(SEED),--from $(FROM) --seeds $(SEEDS))

chaos: ## play every fault scenario on real processes, or MINUTES=30 of them again and again, or SCENARIO=worker-kill
	@tests/services.sh start
	cargo build -q $(if $(RELEASE),--release) -p steadfast-cli -p steadfast-tests --bins
	@eval "$$(tests/services.sh env)" && target/$(if $(RELEASE),release,debug)/chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SCENARIO),--scenario $(SCENARIO)) \
	  $(if $(REPORT),--report $(REPORT)) $(if $(SEED),--seed $(SEED)) $(if $(STRICT),--strict)

bench: ## measure a release build: runs at 1 to 1024 clients, or SCENARIO=all, or any BENCH="--mode embedded --c 64"
	@tests/services.sh start >/dev/null
	@mkdir -p target/bench
	@echo 'bench: building in release mode'
	@cargo build -q --release -p steadfast-cli -p steadfast-tests --bins
	@eval "$$(tests/services.sh env)" && $(if $(shell command -v chrt),chrt --batch 0) target/release/bench $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(findstring --json,$(BENCH)),,--json $(or $(JSON),target/bench/figures.json)) $(BENCH)

guided: ## build target/guided/steadfast: the profile dist, guided by what it does under a short load
	deploy/guided.sh

side-by-side: ## measure Steadfast beside its peers, installed by name (bench/README.md)
	bench/side-by-side.py

real-model: ## serve a small real model with an OpenAI-compatible API on 127.0.0.1:18400
	tests/real-model.sh

test-real-model: ## a streamed run with that model in both modes, as a test
	tests/test-real-model.sh

clean-services: ## stop the private Postgres and NATS and delete their data
	tests/services.sh stop
	rm -rf .services
