# The chart and the image. Included by the Makefile, whose VENV, BIN and PYTHON it uses.
#
#   make helm                         lint, render, validate, test; installs Helm where it is missing
#   make helm HELM=/usr/bin/helm      with a Helm of your own: 4 or 3
#   make helm-documents               the values' table and the settings in the schema, anew
#   make image-check                  builds the image where a builder runs, or says what it could not

.PHONY: helm helm-binary helm-documents helm-lock image-check

HELM_VERSION := v4.3.1
HELM_TOOLS := $(CURDIR)/helm/.tools
HELM ?= $(HELM_TOOLS)/helm-$(HELM_VERSION)

helm: $(VENV)/helm.stamp $(HELM) ## Check the Helm chart with the real Helm, offline and strictly
	$(BIN)/python helm/generate.py --check
	$(HELM) lint --strict helm/herald
	@for values in helm/herald/examples/*.yaml; do case $$values in \
		*/trial.yaml) ;; \
		*) echo "$(notdir $(HELM)) template herald helm/herald --values $$values"; \
		$(HELM) template herald helm/herald --kube-version 1.30 --values $$values >/dev/null || exit 1;; \
		esac; done
	HELM_BINARY=$(HELM) $(BIN)/pytest tests/helm $(ARGS)

helm-documents: $(VENV)/run.stamp ## Write the chart's table of values and its schema's settings anew
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/helm.txt
	$(BIN)/python helm/generate.py

helm-lock: $(VENV)/made.stamp ## Lock what validates the chart anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		-c requirements/dev.txt requirements/helm.in -o requirements/helm.txt

image-check: $(VENV)/dev.stamp ## Build and start the image, or its Dockerfile's steps where no builder runs
	$(BIN)/python -m tests.image $(ARGS)

helm-binary: $(HELM)

# The module proxy has Helm's source, and Go checks it against the public checksum database.
$(HELM_TOOLS)/helm-$(HELM_VERSION):
	@command -v go >/dev/null || { echo "Helm is built from source, and go is not on PATH: install Go 1.26, or give HELM=…"; exit 1; }
	@mkdir -p $(HELM_TOOLS)
	GOBIN=$(HELM_TOOLS)/new nice go install -trimpath -ldflags='-s -w' helm.sh/helm/v4/cmd/helm@$(HELM_VERSION)
	@mv $(HELM_TOOLS)/new/helm $@ && rmdir $(HELM_TOOLS)/new

$(VENV)/helm.stamp: $(VENV)/dev.stamp requirements/helm.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/helm.txt
	@touch $@
