# Tenor. `make` alone says what there is. Needs make, git and any Python from 3.11 on; everything else goes into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON_NAMES := python3.11 python3.12 python3.13 python3.14 python3 python
# For two cores: one of the three has whole systems to start, and mostly waits for them.
JOBS ?= 3
FROM ?= 2017-10-02
DAYS ?= 7
TRACES ?=
ONLY ?=
PYTEST_ARGS ?=

# Compiled at installation: else the first start of each program takes twice as long.
export UV_COMPILE_BYTECODE := 1
# Copies, not links into a cache that may lie on another file system.
export UV_LINK_MODE := copy
# Published traces, where there are any: tests and benchmarks that need them skip, and say so, where there are none.
# TRACES= on the command line goes before the environment's TENOR_TRACES, and that before a folder beside this one.
ifneq ($(TRACES),)
  override TENOR_TRACES := $(TRACES)
else ifeq ($(origin TENOR_TRACES),undefined)
  TENOR_TRACES := $(if $(wildcard ../shared/traces),$(CURDIR)/../shared/traces)
endif
export TENOR_TRACES

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
PROTOS = $(wildcard protos/scheduler/*/v1/*.proto)

.PHONY: help setup run test check format bench protos protos-release lock clean

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 23

# The stamp holds a checksum of what was installed, so that nothing is done where nothing changed.
setup: ## make .venv from the hash-locked dependencies; quick when nothing changed
	@stamp="$$(cat requirements-dev.lock pyproject.toml | cksum)"; \
	if [ -x $(BIN)/tenor ] && [ "$$(cat $(VENV)/.setup-stamp 2>/dev/null)" = "$$stamp" ]; then exit 0; fi; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  found=; \
	  for name in $(PYTHON_NAMES); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$name"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make setup: no Python 3.11 or later found (looked for: $(PYTHON_NAMES)); install one and run it again" >&2; exit 1; \
	  fi; \
	  echo "make setup: creating $(VENV) with $$("$$found" --version)" >&2; \
	  "$$found" -m venv --clear $(VENV) || { \
	    rm -rf $(VENV); \
	    echo "make setup: $$found cannot make virtual environments (on Debian and Ubuntu: apt-get install python3-venv)" >&2; \
	    exit 1; }; \
	fi; \
	echo "make setup: installing the locked dependencies" >&2; \
	awk '/^[^ ]/ { wanted = /^uv==/ } wanted' requirements-dev.lock > $(VENV)/uv.lock; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock; \
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	echo "$$stamp" > $(VENV)/.setup-stamp

run: setup ## the demonstration, end to end; TRACES=folder then replays published traces (FROM=date DAYS=n)
	$(BIN)/tenor demo
	@if [ -n "$(TRACES)" ]; then set -x; $(BIN)/tenor replay "$(TRACES)" --from $(FROM) --days $(DAYS); fi

test: check ## everything: `make check`, then all tests (JOBS=processes, PYTEST_ARGS=...)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

check: setup ## style, types, contracts between packages, the wire, current stubs, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against protos/released.binpb
	$(BIN)/python -m pytest -q -n 0 tests/test_stubs.py tests/test_tidy.py

format: setup ## write files as `make check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure; ONLY=name for one, TRACES=folder for other inputs; results in build/bench
	$(BIN)/python -m tests.benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(TENOR_TRACES),--traces "$(TENOR_TRACES)")

protos: setup ## generate the stubs from protos/ into scheduler/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos --python_out=. --grpc_python_out=. \
	  --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

# What is released is never taken back: `make check` refuses a change that would break who speaks it. Run it when peers
# may rely on what was added since; the golden messages (tests/wire) get those that are new.
protos-release: protos ## release the wire as it is: what may only be added to from here on
	$(BIN)/buf breaking protos --against protos/released.binpb
	$(BIN)/buf build protos --exclude-source-info -o protos/released.binpb
	$(BIN)/python -m tests.wire.golden

lock: setup ## compile the locks again from pyproject.toml (LOCK_ARGS=--upgrade for newer versions)
	$(LOCK) $(LOCK_ARGS) pyproject.toml --output-file requirements.lock
	$(LOCK) $(LOCK_ARGS) pyproject.toml --group dev --output-file requirements-dev.lock
	$(LOCK) $(LOCK_ARGS) pyproject.toml --extra gpu --output-file requirements-gpu.lock

clean: ## remove what was built and cached, but not .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find scheduler operators tests -name __pycache__ -type d -prune -exec rm -rf {} +
