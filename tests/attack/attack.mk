# The long versions of the attacks. Included by the Makefile, whose VENV and BIN it uses.
#
#   make attack                                          about 15 minutes
#   make attack ATTACK_SECONDS=600 ATTACK_CONNECTIONS=10000
#   make attack ARGS="-k pipelines"                      one of them

.PHONY: attack

ATTACK_SECONDS ?= 45
ATTACK_CONNECTIONS ?= 2000

attack: $(VENV)/dev.stamp ## Attack Herald for long and with many (ATTACK_SECONDS=…, ATTACK_CONNECTIONS=…)
	ATTACK_SECONDS=$(ATTACK_SECONDS) ATTACK_CONNECTIONS=$(ATTACK_CONNECTIONS) \
		$(BIN)/pytest -s tests/attack --timeout $$(($(ATTACK_SECONDS) * 3 + 300)) $(ARGS)
