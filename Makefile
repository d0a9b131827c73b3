# Each target installs what it needs. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# More than the cores: tests wait more than they compute.
PROCESSES ?= 4
FUZZ_SECONDS ?= 60
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := $(VENV)/.torch

.DEFAULT_GOAL := help
.PHONY: help system demo test test-unit test-images test-judges locks sizes fuzz soak torch lint format docs schema hooks clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

system: ## install the programs that the tests use, with apt
	@PYTHON=$(PYTHON) tools/system-packages

demo: $(READY) ## ferry a small real model to an OCI layout and extract it
	@$(BIN)/python tools/demo.py

test-unit: $(READY) ## run the tests that need neither root nor Docker nor network; two minutes
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup --ignore=tests/llama \
	  -m "not images and not judges and not engine and not registry and not browser and not system and not slow" $(PYTEST_ARGS)

test: system $(READY) torch ## run all tests; PYTEST_ARGS="-k hub" selects some
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup \
	  $$(test -e $(TORCH) || echo --ignore=tests/llama) $(PYTEST_ARGS)

test-images: system $(READY) ## build and test the large images; an hour or more, less with a filled .rig/
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group images-test
	@$(BIN)/python -m pytest -m images tests/images $(PYTEST_ARGS)

test-judges: system $(READY) ## test images with current Docker, podman, crane, oras, skopeo, cosign and umoci; needs root
	@tools/judges setup
	@$(BIN)/python -m pytest -m judges tests/judges $(PYTEST_ARGS)

locks: $(READY) ## generate the locks of the images' packages; LOCKS_ARGS="--upgrade hf" for newer versions
	@$(BIN)/python tools/lock-packages $(LOCKS_ARGS)

sizes: $(READY) ## measure peak memory with very large repos; a quarter of an hour
	@$(BIN)/python -m benchmarks.sizes

fuzz: $(READY) ## fuzz the parsers; FUZZ_SECONDS=3600 for longer
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

soak: system $(READY) ## run ferry and extract in a loop with random faults; SOAK_MINUTES=3
	@$(BIN)/python -m tests.faults.soak

# Torch is large and does not install on every machine. Without it, its tests are skipped with a message; in CI that is
# a failure.
torch: $(READY)
	@test -e $(TORCH) || tools/torch-for-tests $(BIN)/python $(TORCH)

lint: $(READY) ## check style, types, import directions and workflows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck
	$(BIN)/zizmor --offline --no-progress --quiet .github

format: $(READY) ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY) ## build the documentation into build/docs; warnings and broken internal links are errors
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs

schema: $(READY) ## generate the JSON schema of llmstack.yaml for editors
	@$(BIN)/python docs/_ext/settings_schema.py

hooks: $(READY) ## run the checks of `make lint` before each commit
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group hooks
	@$(BIN)/pre-commit install

clean: ## remove the virtual environment, build outputs and caches
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --clear recreates an environment of another Python version. Dependency groups need pip 25.1.
$(READY): pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@
