# Alerts and the dashboard. Included by the Makefile after helm/helm.mk, whose HELM_TOOLS it uses.
#
#   make alerts       check and play the rules, hold them and the dashboard against a real Herald,
#                     run the runbook's commands; installs promtool where it is missing
#   make dashboard    write helm/herald/dashboards/herald.json from helm/observability/panels.py
#
# Without promtool `make test` skips what needs it, but not where CI is set: `make promtool` first.

.PHONY: alerts dashboard promtool

PROMTOOL_VERSION := v0.316.0
PROMTOOL ?= $(HELM_TOOLS)/promtool-$(PROMTOOL_VERSION)

alerts: $(VENV)/dev.stamp $(PROMTOOL) ## Check the alerts, the dashboard and the runbook
	PROMTOOL=$(PROMTOOL) $(BIN)/pytest tests/observability $(ARGS)

dashboard: $(VENV)/dev.stamp ## Write the dashboard's JSON from its description
	$(BIN)/python helm/observability

promtool: $(PROMTOOL)

# Prometheus 3.16's. The tag leaves out service discovery, and with it the clouds' clients.
$(HELM_TOOLS)/promtool-$(PROMTOOL_VERSION):
	@command -v go >/dev/null || { echo "promtool is built from source, and go is not on PATH: install Go 1.26, or give PROMTOOL=…"; exit 1; }
	@mkdir -p $(HELM_TOOLS)
	GOBIN=$(HELM_TOOLS)/new-promtool nice go install -tags remove_all_sd -trimpath -ldflags='-s -w' \
		github.com/prometheus/prometheus/cmd/promtool@$(PROMTOOL_VERSION)
	@mv $(HELM_TOOLS)/new-promtool/promtool $@ && rmdir $(HELM_TOOLS)/new-promtool
