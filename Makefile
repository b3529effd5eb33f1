# make demo   everything from an empty machine to two trained models and a picture
# make test   the tests;  make slow   the slower proofs;  make check   what a change must pass: lint, types, tests
# make docs   the site
# Needs python >= 3.11, git and make. Everything else goes into .venv, from requirements.lock.

UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint types check docs dist test-matrix lock clean

demo: .venv/installed
	$(BIN)/hfgd demo

test: .venv/installed
	$(BIN)/pytest -m "not slow"

slow: .venv/installed
	$(BIN)/pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

check: lint types test

# the site, in docs/_build/html; a warning is an error
docs: .venv/installed
	$(BIN)/sphinx-build -W --keep-going -q -j 2 -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

.venv/installed: requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python '>=3.11' .venv
	$(UV) pip sync --quiet --compile-bytecode --python .venv --require-hashes requirements.lock
	$(UV) pip install --quiet --python .venv --no-build-isolation --no-deps --editable .
	touch $@

# uv where it is missing: in a folder of its own, so that nothing of the system is touched
.uv/bin/uv:
	@echo "uv is not installed; putting it into .uv"
	@$(PYTHON) -m venv .uv >/dev/null 2>&1 && .uv/bin/pip install --quiet uv \
	|| $(PYTHON) -m pip install --quiet --target .uv uv 2>/dev/null \
	|| curl -LsSf https://astral.sh/uv/install.sh | env UV_INSTALL_DIR=.uv/bin UV_NO_MODIFY_PATH=1 sh >/dev/null \
	|| { echo "could not install uv: install python3-venv (apt-get install python3-venv), or uv itself"; exit 1; }

# wheel and sdist, the same bytes from the same commit
dist: .venv/installed
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(UV) build --quiet --python .venv --out-dir dist
	$(BIN)/twine check --strict dist/*

# the wheel in clean environments: each Python, with the oldest and the newest of what it needs
test-matrix: dist
	bash tools/test_matrix.sh

lock: | $(UV)
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --all-extras --group dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .uv .pytest_cache .ruff_cache .mypy_cache docs/_build
