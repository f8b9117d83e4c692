# make demo: install what is locked and run the whole pipeline on the embedded photographs.
# make test: the test suite. Both need Python 3.11 and the package index, nothing else.
# make setup GPU=cu126: for NVIDIA's cards instead, with Paddle's build for CUDA 12.6, which Paddle's
# own index alone has. Its address is pip's affair: PIP_EXTRA_INDEX_URL, or `pip config`.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
TOOLS := .venv/tools
INSTALLED := $(shell cat $(READY) 2>/dev/null)
GPU ?= $(INSTALLED)
BUILD := $(if $(GPU),gpu,cpu)
EXTRAS ?= $(BUILD),demo,onnx,search,cluster
# uv takes a quarter of pip's time, but does not read pip's settings: pip takes its place where it
# fails, and for GPUs. The pip of Python 3.11 compares all versions of all packages: not that one.
INSTALLERS := uv==0.13.9 pip==26.3
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
PIP := PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
install = $(if $(GPU),,$(UV) $(1) ||) $(PIP) $(1)
LOCK := requirements$(if $(GPU),-gpu).lock
# Two builds of Paddle would overwrite one another: another one than is there begins anew.
OTHER := $(and $(wildcard $(READY)),$(filter-out x$(INSTALLED),x$(GPU)))

# What a module's tests have in common is made once, by the one process that runs them all; and
# their many processes compile Prefect and Paddle once, whatever the environment says.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

RESOLVE := uv pip compile pyproject.toml --python-version 3.11 --no-emit-index-url --no-header --annotation-style line --upgrade

# No comma: it would end an argument of make's.
HINT := echo "Paddle's builds for GPUs are on its own index alone. Name the one for $(GPU):"; \
  echo "PIP_EXTRA_INDEX_URL=ADDRESS make setup GPU=$(GPU)   (docs/gpu.md)"

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint fmt acknowledge docs lock up down another-build

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## install the locked dependencies into .venv (GPU=cu126: for CUDA 12.6)
	@echo 'next: $(BIN)/ssld run demo, or $(BIN)/ssld init FOLDER for photographs of yours'

$(READY): $(LOCK) pyproject.toml $(if $(OTHER),another-build)
	@echo '$(GPU)' | grep -Eqx '(cu[0-9]{3})?' || { echo "GPU: got $(GPU), expected such as cu126"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(if $(OTHER),--clear) .venv
	$(PIP) $(INSTALLERS)
	$(call install,--requirement $(LOCK)) || { $(if $(GPU),$(HINT);) exit 2; }
	$(call install,--no-deps --editable '.[$(EXTRAS)]')
	@$(BIN)/python -m ppcls_core.runtime.versions $(GPU)
	@echo '$(GPU)' > $@

# Tests, linters and their like: without them the demo begins sooner.
$(TOOLS): requirements-dev.lock $(READY)
	$(call install,--requirement $<)
	@touch $@

demo: $(READY) ## run the whole pipeline on the embedded photographs
	@$(BIN)/ssld run demo

test: $(TOOLS) ## run the tests, but for the slow ones
	@$(PYTEST) -m 'not slow and not gpu'

test-all: test ## run the tests, then the slow ones
	@$(PYTEST) -m 'slow and not gpu'

lint: $(TOOLS) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright

fmt: $(TOOLS) ## format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

acknowledge: $(TOOLS) ## write docs/reference, and that the stages' versions suit their code as it is
	@PYTHONPATH=. $(BIN)/python docs/reference.py
	@$(BIN)/python -m tests.support.stage_sources

up: $(READY) ## start Prefect's server, worker and deployments
	@$(BIN)/ssld up

down: $(READY) ## stop them
	@$(BIN)/ssld down

docs: $(READY) ## build the documentation into site/; a dead link fails
	$(call install,--requirement requirements-docs.lock)
	@PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# No index that uv knows has Paddle's build for GPUs. It pins NVIDIA's libraries itself.
requirements-gpu.lock: requirements.lock
	@sed 's/^paddlepaddle==\([^ ]*\)    /paddlepaddle-gpu==\1/' $< > $@

lock: ## resolve the locks anew (needs uv)
	@$(RESOLVE) --extra cpu --extra demo --extra onnx --extra search --extra cluster -o requirements.lock
	@$(MAKE) --no-print-directory requirements-gpu.lock
	@for extra in dev docs; do \
	  $(RESOLVE) --extra $$extra --constraint requirements.lock -o requirements-$$extra.lock; done
