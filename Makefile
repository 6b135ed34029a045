# `make help` lists what a developer can do.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The CPU build of torch is taken where no NVIDIA GPU is found; TORCH_INDEX=URL names another index.
TORCH_INDEX ?=
SPEC ?= specs/quick.json
SOAK_SPEC ?= specs/tiny.json
N ?= 200
MINUTES ?= 10
ARGS ?=
# docker, podman or buildah; by default what is installed. TORCH_VARIANT is cuda or cpu.
BUILDER ?=
IMAGE ?= segmenter-rl-job
BASE_IMAGE ?=
TORCH_VARIANT ?= cuda
IMAGE_ARGS := --build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg TORCH_INDEX=$(TORCH_INDEX)
ENV := PIP_DISABLE_PIP_VERSION_CHECK=1

.PHONY: help setup quick run test test-system soak fuzz check format schema embedded-weights \
	image image-base image-test sbom clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv with everything that running and testing needs

$(VENV)/.installed: pyproject.toml docker/constraints.txt docker/install.sh
	$(ENV) PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH_INDEX="$(TORCH_INDEX)" sh docker/install.sh
	@touch $@

quick: setup ## Run specs/quick.json: the whole job in about a minute
	@$(BIN)/python -m job specs/quick.json $(ARGS)

run: setup ## Run SPEC=... with ARGS="--set ..."
	@$(BIN)/python -m job $(SPEC) $(ARGS)

# A file's tests share what is slow (nights, servers, runs), so they go to one worker; the files in their order, for
# xdist would put those with few tests, the slowest, last. Hundreds of processes start: none compiles what one has.
test: setup ## Run the tests that need Python packages alone
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not system" $(ARGS)

test-system: setup ## Run the tests that need Debian packages (Chromium, Prometheus), and say what is missing
	SYSTEM_TESTS=1 $(BIN)/python -m pytest -m system $(ARGS)

soak: setup ## Stop and kill runs of SOAK_SPEC N=200 times, anywhere, and compare their results
	$(BIN)/python -m benchmarks.soak --n $(N) --spec $(SOAK_SPEC) $(ARGS)

fuzz: setup ## Read files changed at random for MINUTES=10: none may be more than refused
	$(BIN)/python -m tests.hostile.fuzz --minutes $(MINUTES) $(ARGS)

check: setup ## Check format, lint, types and the Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: setup ## Write specs/job.schema.json from the models
	$(BIN)/python -m job.spec.schema

embedded-weights: setup ## Train the embedded segmenter and reward network again (minutes)
	$(BIN)/python weights/train_segmenter.py
	$(BIN)/python weights/train_reward_network.py

image: ## Build the image IMAGE for TORCH_VARIANT=cuda or cpu, with BUILDER=docker, podman or buildah
	$(PYTHON) docker/image.py --builder "$(BUILDER)" --tag "$(IMAGE)" \
	    --build-arg TORCH_VARIANT=$(TORCH_VARIANT) $(IMAGE_ARGS) $(ARGS)

image-base: ## Pull the base image; where no registry is reached, make one of Debian packages for testing
	$(PYTHON) docker/image.py --builder "$(BUILDER)" --base-only $(IMAGE_ARGS)

image-test: setup ## Build the CPU image and run it as a cluster would
	SYSTEM_TESTS=1 BUILDER="$(BUILDER)" $(BIN)/python -m pytest -n 0 tests/image --durations=0 $(ARGS)

sbom: setup ## Write sbom.json, the packages of IMAGE with their licences (CycloneDX)
	$(BIN)/python docker/sbom.py --engine "$(BUILDER)" --image "$(IMAGE)" --output sbom.json

clean: ## Remove .venv, output/ and caches
	rm -rf $(VENV) output sbom.json .pytest_cache .mypy_cache .ruff_cache .hypothesis
