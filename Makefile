# Herald. `make run` and `make test` do all set-up themselves; they need Python ≥ 3.11, pip and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test test-redis lint lock documents clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp ## Start Herald on http://127.0.0.1:8000 with an engine of its own
	@$(BIN)/herald dev

test: $(VENV)/dev.stamp ## Run the tests against a real engine
	$(BIN)/pytest -n 3 --dist worksteal $(ARGS)

test-redis: $(VENV)/dev.stamp ## Run the tests that touch the engine against redis-server (7.0 or newer) on PATH
	@command -v redis-server >/dev/null || { echo "redis-server is not on PATH: install it (Debian: apt-get install redis-server)"; exit 1; }
	ENGINE_BINARY=$$(command -v redis-server) $(BIN)/pytest -n 2 --dist worksteal tests/broker \
		tests/e2e/test_delivery.py tests/e2e/test_resume.py tests/e2e/test_engine_faults.py $(ARGS)

lint: $(VENV)/dev.stamp ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd clients/python && ../../$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

documents: $(VENV)/run.stamp ## Write openapi/openapi.yaml from the code
	$(BIN)/herald openapi --yaml > openapi/openapi.yaml

lock: $(VENV)/dev.stamp ## Lock the dependencies anew, with hashes
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--extra embedded pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--extra embedded --group dev -c requirements/run.txt pyproject.toml -o requirements/dev.txt

include bench/peers/install.mk bench/bench.mk tests/chaos/chaos.mk tests/fuzz/fuzz.mk tests/attack/attack.mk \
	clients/clients.mk tests/page/page.mk tests/rollout/rollout.mk helm/helm.mk helm/observability/observability.mk

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit("Herald needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/made.stamp requirements/run.txt requirements/build.txt pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt clients/python/pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable clients/python
	@touch $@
