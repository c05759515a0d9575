# The playground's page in a real browser, with the driver of the JavaScript client's tests. Included
# by the Makefile behind clients/clients.mk, whose CHROMIUM it uses.
#
#   make test-page                            needs Node 20 or newer, npm and Chromium
#   make test-page CHROMIUM=/opt/chrome       another browser of its kind
#   make test-page PAGE_ARGS=--test-name-pattern=drain

.PHONY: test-page

test-page: $(VENV)/run.stamp clients/js/node_modules/.package-lock.json ## Test the playground's page in Chromium
	@test -x "$(CHROMIUM)" || { echo "There is no $(CHROMIUM): install it (Debian: apt-get install chromium)"; exit 1; }
	HERALD=$(BIN)/herald CHROMIUM=$(CHROMIUM) node --test --test-concurrency=1 $(PAGE_ARGS) $(sort $(wildcard tests/page/*.test.mjs))
