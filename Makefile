# `make` prints what there is. Each target makes the environment first where it is missing.
VENV ?= .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/installed
DATA ?= data
REAL = data.root=$(DATA)/DAVIS data.stills=$(DATA)/stills benchmark.root=$(DATA)/DAVIS

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow golden real tables lint types format docs coverage benchmark-data benchmark-speed benchmark-metrics

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(READY)  ## The environment: uv where it is, else venv and pip

$(READY): pyproject.toml
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python '>=3.11' $(VENV) && uv pip install --quiet --python $(PYTHON) -e '.[dev]'; \
	else \
	  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")' && \
	  python3 -m venv $(VENV) && $(PYTHON) -m pip install --quiet -e '.[dev]'; \
	fi
	@touch $@

quickstart: $(READY)  ## Train a small STM from scratch on a CPU and evaluate it: about 8 minutes
	$(PYTHON) train.py experiment=quickstart resume=auto

test: $(READY)  ## The fast tests
	$(PYTHON) -m pytest -n auto -m "not slow"

test-slow: $(READY)  ## All tests, the slow ones too
	$(PYTHON) -m pytest -n auto

golden: $(READY)  ## Equal to the published code: the golden cases of network and metrics
	$(PYTHON) -m pytest -v tests/network/test_golden.py tests/evaluation/test_metrics.py -k "golden or davis"

real: $(READY)  ## Train a small STM on DAVIS and the stills in $(DATA), three stages, and evaluate it: about half an hour
	$(PYTHON) train.py experiment=small_stills resume=auto $(REAL)
	$(PYTHON) train.py experiment=small_davis resume=auto init=runs/small_stills/checkpoints/last.ckpt $(REAL)
	$(PYTHON) train.py experiment=small_long resume=auto init=runs/small_davis/checkpoints/last.ckpt $(REAL)

tables: $(READY)  ## Tables 4 and 5 on procedural videos, three seeds: under an hour on 2 cores; goes on where interrupted
	$(PYTHON) train.py sweep=table4_synthetic seed=1,2,3 threads=1 launcher=parallel launcher.jobs=2
	$(PYTHON) evaluate.py sweep=table5_synthetic threads=1 launcher=parallel launcher.jobs=2 \
	  checkpoint=$$(ls -d runs/table4_synthetic/*_both_kind-event*/checkpoints/last.ckpt | paste -sd,)

lint: $(READY)  ## Style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY)  ## Types
	$(VENV)/bin/mypy

format: $(READY)  ## Mend style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(READY)  ## Build the documentation site strictly into site/
	$(VENV)/bin/mkdocs build --strict

coverage: $(READY)  ## Run the fast tests and print their coverage
	$(PYTHON) -m pytest -n auto -m "not slow" --cov=stm --cov-report=term

benchmark-data: $(READY)  ## Clips a second beside a plain PIL pipeline
	$(PYTHON) benchmarks/data.py

benchmark-speed: $(READY)  ## Seconds a frame and peak memory beside the published code's way of working, in turns
	$(PYTHON) benchmarks/speed.py

benchmark-metrics: $(READY)  ## J and F beside the DAVIS evaluation's way; evaluation overlapped beside in turns
	$(PYTHON) benchmarks/metrics.py
	$(PYTHON) benchmarks/overlap.py
