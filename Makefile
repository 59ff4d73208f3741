# Every target that needs the environment builds it first; a finished install costs nothing.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo down check format test test-unit test-services test-e2e chaos bench lock clean

setup: $(STAMP)

# uv installs the hashed lock; uv itself comes from the lock too, so nothing unverified runs.
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || { grep -A 60 '^uv==' requirements.lock | awk 'NR > 1 && /^[a-z]/ { exit } { print }' > $(VENV)/uv.lock; \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.lock; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/vigil demo

down: setup
	$(BIN)/vigil down

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What each tier may take on 2 cores: unit 2 minutes, services 6 minutes, e2e 8 minutes. Each is a process of
# its own, as libraries such as MLflow and BentoML leave variables behind in the environment they run in.
test: test-unit test-services test-e2e

test-unit: setup
	$(BIN)/python -m pytest tests/unit

test-services: setup
	$(BIN)/python -m pytest tests/services

test-e2e: setup
	$(BIN)/python -m pytest tests/e2e

# All processes under load with a seeded nemesis: about a minute a fault, so no part of `make test`.
CHAOS_KILLS ?= 50
chaos: setup
	$(BIN)/python -m tests.chaos.run --kills $(CHAOS_KILLS) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED)) --out chaos.json

bench: setup
	$(BIN)/vigil bench

lock: setup
	$(BIN)/uv pip compile --quiet --python-version 3.11 --extra dev --generate-hashes --no-emit-index-url --no-header \
	    requirements.in pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV)
