# `make demo` and `make test` set up all that they need; nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Half of the tests' time is waiting for programs, so three of them go on two cores.
WORKERS = $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) * 3 // 2)')

.PHONY: demo test lint types bench docs picture clean

demo: $(VENV)/.clinvk
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

test: $(VENV)/.test
	$(BIN)/python -m tests.clis --if-npm
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(VENV)/.test
	$(BIN)/python -m bench

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# What the README shows: the picture, the transcript and the table, made anew.
picture: $(VENV)/.dev
	$(BIN)/python docs/picture.py
	$(BIN)/python docs/transcript.py --write
	$(BIN)/python docs/backends_table.py --write

clean:
	rm -rf $(VENV) .cache build dist

$(VENV)/.clinvk: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clinvk needs Python 3.11 or later; say which: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	$(BIN)/python -m compileall -q clinvk
	@touch $@

$(VENV)/.test: $(VENV)/.clinvk
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.clinvk
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@
