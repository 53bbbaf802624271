# Everything a developer does here, one target each; `make` alone lists them.
#
# Needs make and Python 3.11 to 3.14 (PYTHON=... names one), nothing else: no root, no Docker, no
# server. The environment .venv is made on first use and brought up to date when a lock changed.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: $(VENV)/.runtime ## Start Peregrine here: stores, services, examples; Ctrl-C stops it
	@exec $(BIN)/python -m peregrine local

.PHONY: test
test: static ## Run everything that must be true (under 10 minutes on two cores)
	@echo "==> tests"
	@$(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: check
check: static ## Check format, lint, types and contract
	@echo "==> contract"
	@$(BIN)/python -m pytest -q tests/contract

.PHONY: static
static: $(VENV)/.development
	@echo "==> format"
	@$(BIN)/python -m ruff format --check .
	@echo "==> lint"
	@$(BIN)/python -m ruff check .
	@echo "==> types"
	@$(BIN)/python -m mypy

.PHONY: bench
bench: $(VENV)/.development ## Measure every promised speed and size, one row each
	@$(BIN)/python -m benchmarks

.PHONY: fault
fault: $(VENV)/.development ## Run the fault suite: kill, freeze, cut, overload
	@$(BIN)/python -m pytest -m fault

.PHONY: simulate
simulate: $(VENV)/.development ## Run the control laws against their baselines
	@$(BIN)/python -m benchmarks.simulate

.PHONY: protos
protos: $(VENV)/.development ## Regenerate the stubs in services/peregrine/api
	@echo "==> stubs"
	@$(BIN)/python -m grpc_tools.protoc -I protos --python_out=services --pyi_out=services \
	  --grpc_python_out=services $$(find protos -name '*.proto' | LC_ALL=C sort)

.PHONY: render
render: ## Render every Kubernetes overlay to build/k8s (needs kubectl)
	@if ! kubectl version --client --output yaml 2>/dev/null | grep -q 'kustomizeVersion: v[5-9]'; then \
	  echo "Nothing is rendered: there is no kubectl here with kustomize 5 (kubectl 1.27 or newer)"; \
	else mkdir -p build/k8s && for overlay in k8s/overlays/*/; do name=$$(basename $$overlay); \
	  echo "==> build/k8s/$$name.yaml"; kubectl kustomize $$overlay > build/k8s/$$name.yaml || exit 1; done; fi

IMAGE ?= peregrine:dev
BUILD_ARGS ?=

.PHONY: image
image: ## Build the container image (IMAGE=peregrine:dev, BUILD_ARGS=…; needs docker)
	docker build $(foreach name,BASE PIP_INDEX_URL PIP_EXTRA_INDEX_URL STORES, \
	  $(if $($(name)),--build-arg $(name))) $(BUILD_ARGS) --tag $(IMAGE) .

.PHONY: test-cluster
test-cluster: $(VENV)/.development ## Install into the cluster of KUBECONFIG, use it, remove it (KEEP=1, REUSE=1, PARTS=, BURST=)
	@$(BIN)/python -m tests.cluster --image $(IMAGE) $(if $(KEEP),--keep) $(if $(REUSE),--reuse) \
	  $(if $(PARTS),--parts $(PARTS)) $(if $(BURST),--burst $(BURST))

PIN := -m piptools compile --quiet --no-header --generate-hashes --allow-unsafe --strip-extras \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: lock
lock: $(VENV)/.development ## Resolve the dependencies anew and pin them with hashes
	@echo "==> requirements.lock"
	@$(BIN)/python $(PIN) --upgrade --extra edge,local,operator,simulator,tools -o requirements.lock
	@echo "==> requirements-dev.lock"
	@$(BIN)/python $(PIN) --upgrade --all-extras -c requirements.lock -o requirements-dev.lock

.PHONY: venv
venv: $(VENV)/.development ## Make .venv with everything for development

.PHONY: clean
clean: ## Remove .venv, builds and caches (the state in .peregrine stays)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find services operator tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment -------------------------------------------------------------------------
# The stamps are newer than the locks that they were made from. Development includes the runtime.

$(VENV)/.runtime: requirements.lock pyproject.toml $(BIN)/python
	@$(call install,requirements.lock)
	@touch $@

$(VENV)/.development: requirements-dev.lock pyproject.toml $(BIN)/python
	@$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/.runtime

# An environment cannot be moved: after the directory was renamed, it is made anew.
ifneq ($(shell cat $(VENV)/.place 2>/dev/null),$(CURDIR))
.PHONY: $(BIN)/python
endif
$(BIN)/python:
	@found=; for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; \
	  then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then echo "Peregrine needs Python 3.11 to 3.14, and found none$(if \
	  $(PYTHON), in PYTHON=$(PYTHON)). Install one or name it: make PYTHON=/path/to/python3" >&2; \
	  exit 1; fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found cannot make environments: install its venv package (Debian: python3-venv)" >&2; \
	  exit 1; fi; \
	echo "==> $(VENV) with $$($$found --version)"; \
	$$found -m venv --clear $(VENV) && printf '%s' '$(CURDIR)' > $(VENV)/.place

# Two steps, because a directory has no hash. pip's own words go to a log; what is shown is how far
# it is. (The exit code passes through a file: a POSIX pipe keeps only that of its last command.)
define install
total=$$(grep -c '^[a-z0-9].*==' $(1)); log=$(VENV)/install.log; \
echo "==> installing $$total packages from $(1)"; \
{ $(BIN)/python -m pip install --require-hashes --no-deps --progress-bar off -r $(1) 2>&1 \
  && echo "Collecting peregrine" \
  && $(BIN)/python -m pip install --no-deps --no-build-isolation --progress-bar off -e . 2>&1; \
  echo $$? > $(VENV)/.status; } | tee $$log | awk -v total=$$total ' \
  function say(text) { if (tty) printf "\r\033[K    %s", text; else print "    " text; fflush() } \
  BEGIN { tty = system("test -t 1") == 0 } \
  /^Collecting peregrine/ { last = 1; say("Peregrine itself") } \
  !last && /^(Collecting|Processing|Requirement already)/ { n++; \
    if (tty || n % 20 == 0) say("fetching " n "/" total) } \
  !last && /^Installing collected packages/ { say("unpacking " n " packages") } \
  END { if (tty) printf "\r\033[K" }'; \
if [ "$$(cat $(VENV)/.status)" != 0 ]; then tail -n 15 $$log >&2; \
  echo "The installation failed; all of it is in $$log" >&2; exit 1; fi
endef
