# The benchmark. Included by the Makefile, whose VENV, BIN and PYTHON it uses.
#
#   make bench                            all scenarios, about 35 minutes
#   make bench SCENARIO=fanout ROUNDS=3   one of them
#   make bench BENCH_ARGS="--quick --peers herald,ws"

.PHONY: bench bench-report bench-lock

bench: $(VENV)/bench.stamp ## Measure Herald beside its peers (SCENARIO=…, ROUNDS=…)
	$(BIN)/python -m bench $(SCENARIO) $(if $(ROUNDS),--rounds $(ROUNDS)) $(BENCH_ARGS)

bench-report: $(VENV)/bench.stamp ## Write docs/performance.md anew from the last results
	$(BIN)/python -m bench.report

bench-lock: $(VENV)/made.stamp ## Lock the benchmark's own dependencies anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		bench/requirements.in -o bench/requirements.txt

$(VENV)/bench.stamp: $(VENV)/run.stamp bench/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.txt
	@touch $@
