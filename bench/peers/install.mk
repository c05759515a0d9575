# The peers of the benchmark, all installed below bench/.peers (git-ignored).
# Included by the Makefile, whose VENV, BIN and PYTHON it uses.
#
# nchan comes from Debian's packages, which are unpacked and not installed: no service is started.
# Centrifugo and Mercure are programs that their projects release: install them as their
# documentation says, with `centrifugo` and `mercure` on PATH, and they are linked from there.

PEERS := bench/.peers
PEER_NAMES := fastapi_pubsub channels python_socketio socketio ws nchan centrifugo mercure

.PHONY: bench-peers bench-peers-lock $(PEER_NAMES:%=bench-peer-%)

bench-peers: $(VENV)/run.stamp ## Install the peers of the benchmark, as many as can be
	-@for peer in $(PEER_NAMES); do $(MAKE) --no-print-directory -f $(firstword $(MAKEFILE_LIST)) bench-peer-$$peer; done; true
	@$(BIN)/python -m bench.peers

bench-peer-fastapi_pubsub bench-peer-channels bench-peer-python_socketio: $(PEERS)/venv.stamp
	@:

bench-peer-socketio bench-peer-ws: $(PEERS)/node.stamp
	@:

bench-peer-nchan: $(PEERS)/nginx.stamp
	@:

bench-peer-centrifugo bench-peer-mercure: bench-peer-%: # measured: Centrifugo 6.9.1, Mercure 0.24.2
	@mkdir -p $(PEERS)/bin
	@test -x $(PEERS)/bin/$* || { found=$$(command -v $*) && ln -sf "$$found" $(PEERS)/bin/$*; } || \
		{ echo "$* is not on PATH: install it as its documentation says"; exit 1; }

bench-peers-lock: $(PEERS)/uv.stamp ## Lock the peers' dependencies anew
	$(PEERS)/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--generate-hashes --no-header bench/peers/requirements.in -o bench/peers/requirements.txt
	cd bench/peers && npm install --silent --package-lock-only --omit-lockfile-registry-resolved=true

$(PEERS)/venv.stamp: bench/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)/venv
	$(PEERS)/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(PEERS)/uv.stamp:
	$(PYTHON) -m venv $(PEERS)/uv
	$(PEERS)/uv/bin/pip install --quiet --disable-pip-version-check uv
	@touch $@

$(PEERS)/node.stamp: bench/peers/package.json bench/peers/package-lock.json
	@mkdir -p $(PEERS)/node
	cp $^ $(PEERS)/node
	cd $(PEERS)/node && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

$(PEERS)/nginx.stamp:
	@command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || \
		{ echo "nchan needs Debian's packages, and this is not Debian"; exit 1; }
	@rm -rf $(PEERS)/nginx && mkdir -p $(PEERS)/nginx/packages
	cd $(PEERS)/nginx/packages && apt-get -qq download nginx libnginx-mod-nchan 2>&1 | { grep -v '^W:' || true; }
	cd $(PEERS)/nginx && for package in packages/*.deb; do dpkg-deb -x $$package . || exit 1; done
	@# This nginx with nchan looks for its compiled-in folder, whatever its configuration says.
	@test -d /var/lib/nginx || mkdir /var/lib/nginx || \
		{ echo "nchan needs a folder: sudo install -d -o $$(id -un) /var/lib/nginx"; exit 1; }
	@cd $(PEERS)/nginx && dpkg-deb -f packages/libnginx-mod-nchan_*.deb Version > nchan.version
	@touch $@
