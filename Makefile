# One command each: `make demo`, `make test`, `make check`, `make bench`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-browse demo-director test test-openzfs check bench bench-tune setup system clean

setup: system $(VENV)/ready

system:
	@tools/install-system || echo "going on with what is installed" >&2

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python tools/demo.py

demo-browse: setup
	$(BIN)/python tools/browse.py

demo-director: setup
	$(BIN)/standfast director lab

test: setup
	$(BIN)/python -m pytest

test-openzfs: setup
	$(BIN)/python tools/openzfs.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python bench/backup.py
	$(BIN)/python bench/chains.py
	$(BIN)/python bench/status.py
	$(BIN)/python bench/many.py
	$(BIN)/python bench/browse.py
	$(BIN)/python bench/director.py

bench-tune: setup
	$(BIN)/python bench/tune.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
