# Long runs under faults. Included by the Makefile, whose VENV and BIN it uses.

.PHONY: chaos

chaos: $(VENV)/dev.stamp ## Play every fault at length, and write docs/reliability.md (SCENARIO=…, CHAOS_SEED=…)
	$(BIN)/python -m tests.chaos $(if $(SCENARIO),--only "$(SCENARIO)") $(if $(CHAOS_SEED),--seed $(CHAOS_SEED)) $(CHAOS_ARGS)
