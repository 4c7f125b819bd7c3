# Two commands do everything on a fresh machine with Python 3.11 and make:
#   make demo   installs, runs the quickstart study on the Snapdragon 865 table, exports its winner
#   make test   installs, checks and tests: an example of everything
# Four more are for those who change it:
#   make fast       what is quick of these tests, in under three minutes on two cores
#   make coverage   the tests of `make test` again, and the share of the lines that they run
#   make thorough   what is slow by nature: many draws, architectures, kills, layouts
#   make fuzz       damaged and hostile input for MINUTES, drawn by SEED
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 0
BIN := $(VENV)/bin
NAS := $(BIN)/topformer-nas
STAMP := $(VENV)/.installed
BUDGET ?= 60
MINUTES ?= 15
SEED ?= 0
PARALLEL := --numprocesses auto --dist loadgroup --no-loadscope-reorder
THOROUGH := -q -m "thorough or hypothesis" --hypothesis-profile thorough $(PARALLEL)
SHELL := /bin/bash

.PHONY: demo test fast coverage thorough fuzz install lint types pytest format pictures clean
.DEFAULT_GOAL := test

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,arm,mnn,ncnn]'
	touch $@

demo: $(STAMP)
	$(NAS) search quickstart --workers $(WORKERS)
	$(NAS) front quickstart --plot runs/front.png
	@echo "The best architecture under $(BUDGET) ms:"
	$(NAS) front quickstart --latency-max $(BUDGET)
	$(NAS) export quickstart@$(BUDGET)ms --out runs/exported --overwrite
	@echo "The front is drawn in runs/front.png. Browse it: $(NAS) dashboard"

test: lint
	$(MAKE) --no-print-directory --jobs 2 types pytest

fast: lint
	$(BIN)/python -m pytest -m "not slow and not thorough" $(PARALLEL)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

pytest: $(STAMP)
	$(BIN)/python -m pytest -m "not thorough" $(PARALLEL)

coverage: $(STAMP)
	$(BIN)/python -m pytest -m "not thorough" $(PARALLEL) --cov --cov-report=
	@echo "Covered by these tests: $$($(BIN)/coverage report --format=total) % of the lines"

thorough: $(STAMP)
	set -o pipefail; { \
	  echo "$$(date -u +%F), commit $$(git describe --always --dirty), $$(uname -srm), $$(nproc) x$$(grep -m 1 'model name' /proc/cpuinfo | cut -d : -f 2)"; \
	  echo 'python -m pytest $(THOROUGH)'; \
	  $(BIN)/python -m pytest $(THOROUGH); \
	} 2>&1 | tee experiments/results/thorough.txt

fuzz: $(STAMP)
	PYTHONPATH=. $(BIN)/python experiments/benchmarks/fuzz.py experiments/results/fuzz.txt --minutes $(MINUTES) --seed $(SEED)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pictures: demo
	$(BIN)/python docs/make_pictures.py

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
