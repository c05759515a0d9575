# The playground's page in a real browser. Included by the Makefile, whose VENV and BIN it uses.
#
#   make test-page                            needs Node 20 or newer, npm and Chromium
#   make test-page CHROMIUM=/opt/chrome       another browser of its kind
#   make test-page PAGE_ARGS=--test-name-pattern=drain

.PHONY: test-page

CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
PAGE_DRIVER := clients/js/node_modules/playwright-core/package.json

test-page: $(VENV)/run.stamp $(PAGE_DRIVER) ## Test the playground's page in Chromium
	@test -n "$(CHROMIUM)" || { echo "Chromium is not on PATH: install it (Debian: apt-get install chromium)"; exit 1; }
	HERALD=$(BIN)/herald CHROMIUM=$(CHROMIUM) node --test --test-concurrency=1 $(PAGE_ARGS) $(sort $(wildcard tests/page/*.test.mjs))

# The one that the JavaScript client's tests use.
$(PAGE_DRIVER): clients/js/package-lock.json
	cd clients/js && npm ci --silent
	@touch $@
