# `make` or `make help` lists what there is to make.
SHELL := /bin/bash
.DEFAULT_GOAL := help
RUN := .venv/bin/python

.PHONY: help setup binaries tools demo up status down fuzz node-packages node-images node-up node-down check lint types imports test faults budgets proto crds chart sbom \
	bench-core bench-e2e bench-state bench-share bench-failover bench-binders bench-rest bench-start conformance differential constraints clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: ## the Python environment, .venv
	@tools/setup.sh

binaries: setup ## kube-apiserver, etcd, kwok … found, or built once (5 to 7 minutes) and cached
	@$(RUN) -m shoal_local binaries

tools: setup ## Helm and CoreDNS: built once (1 to 4 minutes) and cached
	@$(RUN) -m shoal_local tools

demo: binaries ## the main job: 100 nodes, two teams, a few hundred pods, shown live; exits 0 if all was bound
	@$(RUN) -m shoal_local demo

up: binaries ## a local cluster with the suite that stays; prints its KUBECONFIG
	@$(RUN) -m shoal_local up

status: setup ## how the cluster of `make up` is: 1 if a part is down
	@$(RUN) -m shoal_local status

credentials: setup ## a user of the bus of `make up` for events: NAME=team-a QUEUES="team-a team-b"
	@$(RUN) -m shoal_local credentials --name "$(NAME)" $(foreach queue,$(QUEUES),--queue $(queue))

down: setup ## stop what `make up` started
	@$(RUN) -m shoal_local down

node-packages: setup ## Debian packages of a real node (containerd, runc, Docker …): needs root
	@$(RUN) -m shoal_local node-packages

node-images: binaries ## images of all services from the Dockerfile, without a registry
	@$(RUN) -m shoal_local node-images

node-up: binaries ## a real Kubernetes node on this machine (root), with 8 make-believe GPUs
	@$(RUN) -m shoal_local node-up

node-down: setup ## end it; nothing of it stays
	@$(RUN) -m shoal_local node-down

check: lint types imports ## ruff, basedpyright, import-linter

lint: setup
	@.venv/bin/ruff check . && .venv/bin/ruff format --check --quiet . || { echo "lint: run .venv/bin/ruff check --fix . && .venv/bin/ruff format ."; exit 1; }

types: setup
	@.venv/bin/basedpyright --pythonpath .venv/bin/python

imports: setup
	@.venv/bin/lint-imports

test: binaries tools check ## all tests
	@$(RUN) -m pytest

faults: binaries ## the long fault campaign: SEEDS=20 by default
	@$(RUN) -m pytest tests/faults -s --seeds $(or $(SEEDS),20)

budgets: binaries ## no PodDisruptionBudget is ever broken on a real API server: RUNS=300 by default, from seed FIRST=0
	@$(RUN) -m pytest tests/e2e/test_budgets.py -s --seeds $(or $(RUNS),300) --first $(or $(FIRST),0)

proto: setup ## proto/ from the message classes
	@$(RUN) -m shoal_contracts.export proto

crds: setup ## deploy/helm/shoal/files/crds from their definition
	@$(RUN) -m shoal_model.crds deploy/helm/shoal/files/crds

conformance: setup ## scenarios with the outcome they demand: SCENARIOS=folder; what fails is in conformance-failures.txt
	@$(RUN) tests/conformance/run.py $(SCENARIOS)

differential: setup ## decisions on random clusters beside the reference's: EXPECTED=file, GENERATOR=script or folder; differential-failures.txt
	@$(RUN) tests/differential/run.py $(EXPECTED) $(if $(GENERATOR),--generator $(GENERATOR))

fuzz: setup ## odd objects against the core: OBJECTS=50000 SEED=0
	@$(RUN) -m shoal_testkit.fuzz $(or $(SEED),0) $(or $(OBJECTS),50000)

bench-core: setup ## one cycle of the core on the benchmark clusters: CASE=fill NODES=1000 for one of them
	@$(RUN) tests/bench/core.py $(if $(CASE),--case $(CASE)) $(if $(NODES),--nodes $(NODES))

bench-e2e: binaries ## pods per second from create to bound, beside kube-scheduler
	@$(RUN) tests/bench/e2e.py

bench-state: setup ## cluster-state: decode, publish, mirror
	@$(RUN) tests/bench/cluster_state.py

bench-share: binaries ## from decision to bound for a share of a reserved GPU, beside a plain pod
	@$(RUN) tests/bench/share.py

bench-failover: binaries ## kill -9 of the leading scheduler to the first binding, 1,000 nodes and 10,000 pods
	@$(RUN) tests/bench/failover.py

bench-binders: setup ## bindings per second with 1, 2 and 4 binders
	@$(RUN) tests/bench/binders.py

bench-rest: binaries ## memory and CPU of every service at rest
	@$(RUN) tests/bench/rest.py

bench-start: binaries ## cold start of each service, with and without the numba cache
	@$(RUN) tests/bench/start.py

chart: crds ## what the chart holds of other places: permissions, rights, schema, table of values
	@$(RUN) tools/chart/generate.py

sbom: setup ## what the images' Python environment is made of, as CycloneDX: build/sbom.cdx.json
	@tools/sbom.sh

constraints: setup ## resolve the pinned versions anew
	@.venv/bin/uv lock --quiet && .venv/bin/uv export --quiet --all-packages --all-groups --all-extras --no-emit-workspace --no-header --no-annotate --output-file constraints.txt >/dev/null && rm -f uv.lock

clean: ## remove .venv and caches of the checkout (not the binaries)
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis
