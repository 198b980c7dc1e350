# Every verb sets up what it needs; the second time it is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test quick check bench docs up clean lock

demo: $(VENV)/.run
	$(BIN)/mainspring demo

up: $(VENV)/.run
	$(BIN)/mainspring -C .demo up

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n auto --dist loadfile

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow"

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n auto tests/docs

bench: $(VENV)/.dev
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

# Locks name no index: the packages are the same wherever they come from.
lock:
	uv pip compile pyproject.toml --extra postgres --generate-hashes --no-emit-index-url --no-header --universal \
	  --python-version 3.11 -q -o requirements.txt
	uv pip compile pyproject.toml --extra postgres --extra dev --generate-hashes --no-emit-index-url --no-header \
	  --universal --python-version 3.11 -q -o requirements-dev.txt

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Mainspring needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python requirements.txt pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.dev: $(BIN)/python requirements-dev.txt pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
