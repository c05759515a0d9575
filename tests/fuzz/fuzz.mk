# Fuzzing. Included by the Makefile, whose VENV, BIN and PYTHON it uses. `make test` runs a few
# inputs of it, always the same.
#
#   make fuzz                                   100,000 inputs, from the day's seed
#   make fuzz FUZZ_INPUTS=1000000 FUZZ_SEED=7   a million others
#   make fuzz FUZZ=tests/fuzz/test_frames.py    of one kind
#   make fuzz-api                               the HTTP API again, by a tool from elsewhere
#
# What fails is printed with its seed, and saved in tests/fuzz/found where it is bytes.

.PHONY: fuzz fuzz-api fuzz-lock

FUZZ ?= tests/fuzz
FUZZ_INPUTS ?= 100000
FUZZ_SEED ?= $(shell date +%Y%m%d)
FUZZ_TOOL := $(VENV)/fuzz

fuzz: $(VENV)/dev.stamp ## Try hostile inputs: more and others than `make test` (FUZZ_INPUTS=…, FUZZ_SEED=…)
	FUZZ_INPUTS=$(FUZZ_INPUTS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/pytest --timeout=0 -s $(FUZZ) $(ARGS)

fuzz-api: $(VENV)/dev.stamp $(FUZZ_TOOL)/made.stamp ## Let Schemathesis try the HTTP API
	FUZZ_INPUTS=$(FUZZ_INPUTS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m tests.fuzz.run_schemathesis $(FUZZ_TOOL)/bin/st

fuzz-lock: $(VENV)/made.stamp ## Lock Schemathesis and what it needs anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		requirements/fuzz.in -o requirements/fuzz.txt

# An environment of its own: its plugin for pytest is not for our tests.
$(FUZZ_TOOL)/made.stamp: $(VENV)/made.stamp requirements/fuzz.txt
	$(PYTHON) -m venv $(FUZZ_TOOL)
	$(FUZZ_TOOL)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	@touch $@
