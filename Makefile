# Two commands on a fresh machine: `make run` and `make test`. `make help` lists the others.
PYTHON ?= python3.11
PYTHON := $(shell command -v $(PYTHON) || command -v python3)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin

# Nothing about the work leaves the machine; MLflow reads this before it is imported.
export MLFLOW_DISABLE_TELEMETRY := true
# `mlflow run` makes the run before our code starts, in the experiment Default unless this names another.
export MLFLOW_EXPERIMENT_NAME := kmed-bench

.PHONY: run test test-fast fuzz coverage lint format docs-settings docs-faults messages site ui lock audit licences dist clean help

run: $(VENV)/.installed ## the whole benchmark on the generated demo corpus
	PATH="$(BIN):$$PATH" mlflow run . --env-manager local

# One file at a time per worker, in the order of tests/conftest.py: the longest first. After a crash of a worker,
# pytest-xdist can wait forever for the tests that it has given to it.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
test: $(VENV)/.installed-test ## the whole test suite
	OMP_NUM_THREADS=1 "$(BIN)"/python -m pytest $(WORKERS) $(PYTEST_ARGS)

# What runs in a child process of a test, as most of `commands` does, is not seen.
coverage: $(VENV)/.installed-test ## the test suite with the share of lines that it runs
	$(MAKE) test PYTEST_ARGS="--cov=kmed_bench --cov-report=term:skip-covered"

test-fast: $(VENV)/.installed-test ## unit tests: no weights, no servers, no training
	OMP_NUM_THREADS=1 "$(BIN)"/python -m pytest $(WORKERS) -q -m "not slow and not real_speech" $(PYTEST_ARGS)

HOURS ?= 0.5
fuzz: $(VENV)/.installed-test ## damages valid files for HOURS=0.5 and keeps what a reader can't take in tests/fuzz/corpus
	OMP_NUM_THREADS=1 "$(BIN)"/python scripts/fuzz.py --seconds $$(awk 'BEGIN { print 3600 * $(HOURS) }')

lint: $(VENV)/.installed-dev ## formatting, lint, docstrings, types
	"$(BIN)"/ruff format --check .
	"$(BIN)"/ruff check .
	"$(BIN)"/mypy

format: $(VENV)/.installed-dev ## formats the code
	"$(BIN)"/ruff format .
	"$(BIN)"/ruff check --fix .

docs-settings: $(VENV)/.installed ## writes docs/settings.md from the settings
	"$(BIN)"/kmed-bench settings --markdown > docs/settings.md

docs-faults: $(VENV)/.installed-test ## writes docs/faults.md from the tests' marks
	"$(BIN)"/python tests/fault_table.py > docs/faults.md.new && mv docs/faults.md.new docs/faults.md

messages: $(VENV)/.installed-test ## brings the catalogue of translations up to date with the code, and compiles it
	"$(BIN)"/python scripts/messages.py

# NO_MKDOCS_2_WARNING: the theme's advice to move on, which docs/decisions/022-site.md answers. With --quiet, mkdocs
# would not count the warnings that mkdocs.yml makes errors.
site: $(VENV)/.installed-docs ## the documentation as a site in build/site, to be opened from disk; warnings are errors
	NO_MKDOCS_2_WARNING=1 "$(BIN)"/python -m mkdocs build
	@echo "Site: build/site/index.html"

ui: $(VENV)/.installed ## the MLflow UI on the embedded store
	"$(BIN)"/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri "sqlite:///$(CURDIR)/mlflow.db"

lock: ## rewrites requirements.lock: versions and SHA-256 of every file, for all platforms; pins stay unless taken out
	rm -rf build/lock-venv && $(PYTHON) -m venv build/lock-venv
	build/lock-venv/bin/pip install --quiet --disable-pip-version-check uv
	build/lock-venv/bin/uv pip compile --quiet pyproject.toml --extra demo --extra offline --extra slurm --extra tune \
	  --python-version 3.11 --universal --generate-hashes --no-annotate --custom-compile-command 'make lock' -o requirements.lock

AUDIT := build/audit-venv/bin/python scripts/supply_chain.py --python "$(BIN)/python"
audit: build/audit-venv/.installed $(VENV)/.installed ## known weaknesses and licences of what is locked
	$(AUDIT) licences
	$(AUDIT) audit

licences: build/audit-venv/.installed $(VENV)/.installed ## writes docs/licences.md from what is installed
	$(AUDIT) licences --write

dist: build/audit-venv/.installed $(VENV)/.installed ## wheel, sdist and bill of materials in dist/, checked
	rm -rf dist
	build/audit-venv/bin/python -m build --quiet
	build/audit-venv/bin/python -m twine check --strict dist/*
	$(AUDIT) sbom dist/sbom.cdx.json

clean: ## removes the environment and caches, not results
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# KIT=FOLDER installs from an offline kit and asks no index: `make run KIT=/media/kit`, `make test-fast KIT=/media/kit`.
ifdef KIT
$(VENV)/.installed: requirements.lock pyproject.toml
	sh "$(KIT)/install.sh" --venv "$(CURDIR)/$(VENV)" --python "$(PYTHON)"
	touch $@
else
$(VENV)/.installed: $(VENV)/bin/python requirements.lock pyproject.toml
	"$(BIN)"/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	"$(BIN)"/pip install --quiet --disable-pip-version-check --no-deps -e .
	sed -n 's/^\([a-z0-9.-]*==[^ ;]*\).*/\1/p' requirements.lock > "$(VENV)/pins.txt"  # pip takes no hashed file beside others
	touch $@
endif

build/audit-venv/.installed: pyproject.toml
	$(PYTHON) -m venv build/audit-venv
	build/audit-venv/bin/pip install --quiet --disable-pip-version-check pip-audit pip-licenses cyclonedx-bom build twine
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
ifdef KIT
	@"$(BIN)"/python -c "import pytest, xdist, hypothesis" || { echo "This kit has no tests: make it with offline-kit --extras test"; exit 2; }
else
	"$(BIN)"/pip install --quiet --disable-pip-version-check -c "$(VENV)/pins.txt" -e '.[test]'
endif
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	"$(BIN)"/pip install --quiet --disable-pip-version-check -c "$(VENV)/pins.txt" -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	"$(BIN)"/pip install --quiet --disable-pip-version-check -c "$(VENV)/pins.txt" -e '.[docs]'
	touch $@
