# `make` lists the targets. Each target creates the environment first if it is missing.
VENV ?= .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/installed
DATA ?= data
REAL = data.root=$(DATA)/DAVIS data.stills=$(DATA)/stills benchmark.root=$(DATA)/DAVIS

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow golden real tables lint types format docs coverage benchmark-data benchmark-speed benchmark-train benchmark-metrics

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(READY)  ## Create the environment, with uv where available

$(READY): pyproject.toml
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python '>=3.11' $(VENV) && uv pip install --quiet --compile-bytecode --python $(PYTHON) -e '.[dev]'; \
	else \
	  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")' && \
	  python3 -m venv $(VENV) && $(PYTHON) -m pip install --quiet -e '.[dev]'; \
	fi
	@touch $@

quickstart: $(READY)  ## Train a small STM from scratch on a CPU and evaluate it: about 8 minutes
	$(PYTHON) train.py experiment=quickstart resume=auto

test: $(READY)  ## Run the fast tests
	$(PYTHON) -m pytest -n auto --dist worksteal -m "not slow"

test-slow: $(READY)  ## Run all tests, including slow ones
	$(PYTHON) -m pytest -n auto --dist worksteal

golden: $(READY)  ## Compare network and metrics with recorded values of the published code
	$(PYTHON) -m pytest -v tests/network/test_golden.py tests/network/test_family_golden.py tests/evaluation/test_metrics.py -k "golden or davis"

real: $(READY)  ## Train the network that ships with the package on DAVIS and the stills in data, and evaluate it: about an hour
	$(PYTHON) train.py experiment=mobile_stills resume=auto $(REAL)
	$(PYTHON) train.py experiment=mobile_video resume=auto init=runs/mobile_stills/checkpoints/last.ckpt $(REAL)
	$(PYTHON) train.py experiment=mobile_long resume=auto init=runs/mobile_video/checkpoints/last.ckpt $(REAL)

tables: $(READY)  ## Run Tables 4 and 5 on procedural videos, three seeds: under an hour on 2 cores; resumes
	$(PYTHON) train.py sweep=table4_synthetic seed=1,2,3 threads=1 launcher=parallel launcher.jobs=2
	$(PYTHON) evaluate.py sweep=table5_synthetic threads=1 launcher=parallel launcher.jobs=2 \
	  checkpoint=$$(ls -d runs/table4_synthetic/*_both_kind-event*/checkpoints/last.ckpt | paste -sd,)

lint: $(READY)  ## Check style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@! grep -rnE '^(<{7}|>{7}) ' README.md CHANGELOG.md CONTRIBUTING.md docs src conf tests benchmarks

types: $(READY)  ## Check types
	$(VENV)/bin/mypy

format: $(READY)  ## Fix style and formatting
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(READY)  ## Build the documentation site strictly into site/
	$(VENV)/bin/mkdocs build --strict

coverage: $(READY)  ## Run the fast tests and print their coverage
	$(PYTHON) -m pytest -n auto --dist worksteal -m "not slow" --cov=stm --cov-report=term

benchmark-data: $(READY)  ## Compare data loading with a plain PIL pipeline
	$(PYTHON) benchmarks/data.py

benchmark-speed: $(READY)  ## Compare inference speed and memory with the published code's way
	$(PYTHON) benchmarks/speed.py

benchmark-train: $(READY)  ## Compare a training step with one that takes clips and objects in turns
	$(PYTHON) benchmarks/training.py

benchmark-metrics: $(READY)  ## Compare the speed of J and F with the DAVIS evaluation's way
	$(PYTHON) benchmarks/metrics.py
	$(PYTHON) benchmarks/overlap.py
