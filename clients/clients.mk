# The JavaScript client. Included by the Makefile, whose VENV and BIN it uses.
#
#   make test-clients                    needs Node ≥ 20, npm and chromium; about two minutes
#   CHROMIUM=/path/to/it make test-clients
#
# Without chromium the tests in a browser are left out, which is said; not so where CI or
# HERALD_TESTS_MAY_NOT_SKIP is set.

CHROMIUM ?= /usr/bin/chromium

.PHONY: test-clients

test-clients: $(VENV)/run.stamp clients/js/node_modules/.package-lock.json ## Test the JavaScript client, also in a browser
	cd clients/js && HERALD_PYTHON=$(abspath $(BIN)/python) npm run --silent test:node
	@if [ -x "$(CHROMIUM)" ]; then \
		cd clients/js && HERALD_PYTHON=$(abspath $(BIN)/python) CHROMIUM="$(CHROMIUM)" npm run --silent test:browser; \
	elif [ -n "$$CI$$HERALD_TESTS_MAY_NOT_SKIP" ]; then \
		echo "There is no $(CHROMIUM): install it (Debian: apt-get install chromium)"; exit 1; \
	else \
		echo "SKIPPED the tests in a browser: there is no $(CHROMIUM) (Debian: apt-get install chromium)"; \
	fi

clients/js/node_modules/.package-lock.json: clients/js/package-lock.json clients/js/package.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null || \
		{ echo "The JavaScript client needs Node 20 or newer, and npm: install them (Debian 12 has only Node 18)"; exit 1; }
	cd clients/js && npm ci
	@touch $@
