# A rollout at length. Included by the Makefile, whose VENV and BIN it uses.

.PHONY: rollout

rollout: $(VENV)/dev.stamp $(VENV)/bench.stamp ## Rehearse a rollout under 5,000 connections, and write docs/rollout.md (ROLLOUT_ARGS=…)
	$(BIN)/python -m tests.rollout $(ROLLOUT_ARGS)
