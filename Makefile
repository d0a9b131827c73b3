# Everything a fresh clone needs is set up on the way; `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# Tests wait more than they compute.
PROCESSES ?= 4
FUZZ_SECONDS ?= 60
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := $(VENV)/.torch

.DEFAULT_GOAL := help
.PHONY: help system demo test test-unit test-images test-judges sizes fuzz soak torch lint format docs schema hooks clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

system: ## install the programs that the tests use, where apt can
	@PYTHON=$(PYTHON) tools/system-packages

demo: $(READY) ## carry a real small model onto a disk and back, and show it
	@$(BIN)/python tools/demo.py

test-unit: $(READY) ## run the tests that need neither root nor Docker nor a network; two minutes
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup --ignore=tests/llama \
	  -m "not images and not judges and not engine and not registry and not browser and not system and not slow" $(PYTEST_ARGS)

test: system $(READY) torch ## run all tests; PYTEST_ARGS="-k hub" runs some
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup \
	  $$(test -e $(TORCH) || echo --ignore=tests/llama) $(PYTEST_ARGS)

test-images: system $(READY) ## build and use the large images as well; half an hour, less with .rig/ kept
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group images-test
	@$(BIN)/python -m pytest -m images tests/images $(PYTEST_ARGS)

test-judges: system $(READY) ## let current Docker, podman, crane, oras, skopeo, cosign and umoci judge; needs root
	@tools/judges setup
	@$(BIN)/python -m pytest -m judges tests/judges $(PYTEST_ARGS)

sizes: $(READY) ## measure the memory that very large repos take; a quarter of an hour
	@$(BIN)/python -m benchmarks.sizes

fuzz: $(READY) ## let a fuzzer look for bytes that break the parsers; FUZZ_SECONDS=3600 for longer
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

soak: system $(READY) ## carry and extract in a loop under random faults; SOAK_MINUTES=3
	@$(BIN)/python -m tests.faults.soak

# Torch is large, and not every machine can have it: then its tests are left out, aloud. In CI that is a failure.
torch: $(READY)
	@test -e $(TORCH) || tools/torch-for-tests $(BIN)/python $(TORCH)

lint: $(READY) ## check style, types, the direction of imports, and the workflows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck
	$(BIN)/zizmor --offline --no-progress --quiet .github

format: $(READY) ## put the code into its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY) ## build the documentation into build/docs; warnings and broken links are errors
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs

schema: $(READY) ## write the JSON schema of llmstack.yaml that editors take
	@$(BIN)/python docs/_ext/settings_schema.py

hooks: $(READY) ## run the checks of `make lint` before each commit
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group hooks
	@$(BIN)/pre-commit install

clean: ## remove the virtual environment and all that tools have left behind
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --clear: an environment of another Python or another time is made anew. Dependency groups need pip 25.1.
$(READY): pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@
