# `make demo` and `make test` set up all that they need; nothing is installed outside this directory.
# VENV=… keeps a second environment beside the first, e.g. for another Python.
VENV ?= .venv
BIN = $(VENV)/bin
.DEFAULT_GOAL := help

# The Python that was asked for, or the one that $(VENV) was made with, or the first that is new enough.
ifndef PYTHON
PYTHON := $(shell for python in $(BIN)/python python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
endif
# An environment belongs to one Python and to one place: for another, or in a copy of this directory,
# it is rebuilt.
MADE_FOR := $(shell $(or $(PYTHON),false) -c 'import os, sys; print(sys.base_prefix, "%d.%d.%d" % sys.version_info[:3], os.getcwd())')
ifneq ($(MADE_FOR),$(shell cat $(VENV)/.made-for 2>/dev/null))
$(VENV)/.made-for: FORCE
endif
# `python3` may be the Python of an environment that is active, or of $(VENV) itself.
BASE_PYTHON = $(shell $(PYTHON) -c 'import sys; print(sys._base_executable)')

PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# pytest keeps what it prepares of each module, and would have to do it again in every worker.
unexport PYTHONDONTWRITEBYTECODE
# Almost two thirds of the tests' time is waiting for programs, so six of them run on two cores.
WORKERS = $(shell $(BIN)/python -c 'import os; print((os.cpu_count() or 1) * 3)')
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help install demo demo-cluster test test-core test-other test-latest test-older lint types mypy pyright docs bench picture generated lock clean FORCE

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 22

install: ## Put clinvk on PATH, with uv or pipx
	@if command -v uv >/dev/null; then uv tool install --force .; \
	elif command -v pipx >/dev/null; then pipx install --force .; \
	else echo "make install needs uv or pipx; without them: python3 -m venv ~/.local/clinvk && ~/.local/clinvk/bin/pip install ." >&2; exit 1; fi

demo: $(VENV)/.base ## Show the main features, on the echo backend
	@PATH="$(abspath $(BIN)):$$PATH" sh docs/demo.sh

demo-cluster: $(VENV)/.test ## Show a cluster: two workers on this machine, one of which is killed
	@PATH="$(abspath $(BIN)):$$PATH" sh docs/demo_cluster.sh

test: $(VENV)/.test $(VENV)/.docs ## Run all tests, with the real CLIs where npm can install them
	$(BIN)/python -m tests.clis --for-tests
	$(PYTEST)

test-core: $(VENV)/.test $(VENV)/.docs ## Run the tests that do not start the real CLIs
	$(PYTEST) -m 'not real'

test-other: $(VENV)/.test $(VENV)/.docs ## Run the tests that a second Python may change (PYTHON=… VENV=…)
	$(PYTEST) -m 'not real and not once'

test-latest: VENV = .venv-latest
test-latest: ## Run all tests with the newest packages that pyproject.toml allows
	rm -rf $(VENV)
	$(MAKE) VENV=$(VENV) PYTHON='$(PYTHON)' $(VENV)/.made-for
	$(PIP) -e '.[test,docs]'
	@touch $(VENV)/.base $(VENV)/.test $(VENV)/.docs  # complete, so nothing is installed from the locks
	$(MAKE) VENV=$(VENV) test

test-older: export CLINVK_TEST_OLDER = 1
test-older: $(VENV)/.test ## Test the oldest claude that the manifest supports (not in CI)
	$(BIN)/python -m tests.clis
	$(PYTEST) tests/real --ignore tests/real/test_handover.py -k "claude and not codex and not gemini"

lint: $(VENV)/.dev ## Check with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: mypy pyright ## Check types with mypy and pyright

mypy: $(VENV)/.dev ## Check types with mypy
	$(BIN)/mypy

pyright: $(VENV)/.dev ## Check types with pyright
	$(BIN)/pyright

# Not with --clean, which would also delete the CLIs that the tests keep in .cache.
docs: $(VENV)/.docs ## Build the documentation, strictly
	rm -rf build/docs
	mkdir -p .cache && find .cache -maxdepth 1 -type f -delete
	$(BIN)/zensical build --strict
	@echo "the documentation is in build/docs/index.html"

bench: $(VENV)/.test ## Measure speed and size
	$(BIN)/python -m bench

picture: $(VENV)/.dev ## Rebuild the README's picture
	$(BIN)/python docs/picture.py

generated: $(VENV)/.test ## Update the manual page, the reference, the README's table, and the output shown in the documentation
	$(BIN)/python docs/prepared_manifests.py --write
	$(BIN)/python docs/backends_table.py --write
	$(BIN)/python docs/consoles.py --write
	$(BIN)/python docs/man.py --write
	$(BIN)/python docs/reference.py --write

# In an environment of its own, so that a broken lock can be replaced.
lock: VENV = .venv-lock
lock: ## Update the lock files in requirements/ from pyproject.toml
	$(MAKE) VENV=$(VENV) PYTHON='$(PYTHON)' $(VENV)/.made-for
	$(PIP) --upgrade 'uv>=0.5'
	$(BIN)/python requirements/lock.py

clean: ## Remove all that was installed and built
	rm -rf .venv .venv-* .cache build dist

$(VENV)/.made-for:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "clinvk needs Python 3.11 or later; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@[ ! -e $(VENV) ] || [ -e $(VENV)/pyvenv.cfg ] || { \
		echo "$(VENV) is not a virtual environment; remove it or name another: make VENV=.venv-2" >&2; exit 1; }
	rm -rf $(VENV)
	$(BASE_PYTHON) -m venv $(VENV)
	@echo '$(MADE_FOR)' >$@

# Each lock is complete, so an environment that has the next one lacks nothing of the one before.
# clinvk comes last, without dependencies: pip would look for them beyond the lock.
$(VENV)/.base: $(VENV)/.made-for requirements/base.txt pyproject.toml
	$(PIP) --require-hashes -r requirements/base.txt
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q clinvk
	@touch $@

$(VENV)/.test: $(VENV)/.base requirements/test.txt
	$(PIP) --require-hashes -r requirements/test.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.test requirements/dev.txt
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.base requirements/docs.txt
	$(PIP) --require-hashes -r requirements/docs.txt
	@touch $@
