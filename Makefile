# make demo: install what is locked and run the whole pipeline on the embedded photographs.
# make test: the test suite. Both need Python 3.11 and the package index, nothing else.

PYTHON ?= python3
EXTRAS ?= cpu,demo,onnx,search,dev
BIN := .venv/bin
READY := .venv/ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint fmt acknowledge lock up down

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## install the locked dependencies into .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(READY) ## run the whole pipeline on the embedded photographs
	@$(BIN)/ssld run demo

test: $(READY) ## run the tests, but for the slow ones
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow and not gpu' -n 2

test-all: $(READY) ## run the slow tests too
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not gpu' -n 2

lint: $(READY) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright

fmt: $(READY) ## format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

acknowledge: $(READY) ## record that the stages' versions suit their code as it is now
	@$(BIN)/python -m tests.support.stage_sources

up: $(READY) ## start Prefect's server, worker and deployments
	@$(BIN)/ssld up

down: $(READY) ## stop them
	@$(BIN)/ssld down

lock: ## resolve requirements.lock anew (needs uv)
	@uv pip compile pyproject.toml --extra cpu --extra demo --extra onnx --extra search --extra dev --python-version 3.11 \
	  --no-emit-index-url --no-header --annotation-style line --upgrade -o requirements.lock
