# The verbs of this house; a developer and CI run the same ones.
PYTHON ?= python3
VENV ?= .venv
# Further words for pip. On Linux the default torch brings about 3 GB of CUDA libraries; without a GPU, name the
# CPU index that pytorch.org shows:  make demo PIP_ARGS="--extra-index-url …"
PIP_ARGS ?=
# Tests in parallel: one process for each core ("auto"), each with one torch thread.
JOBS ?= auto
# Further words for pytest, for example  make test TESTS="tests/test_cli.py -k recipes"
TESTS ?=
# Further words for every benchmark, for example  make bench BENCH="--quick"
BENCH ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types build gpu bench bench-diagnosis clean
.DELETE_ON_ERROR:

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.recipes ## install, then train the NLP and the GNN recipe with the monitor on
	@$(BIN)/lightning-adapt demo

test: $(VENV)/.test ## the whole test suite, with coverage of at least 95 %
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --durations=15 --cov --cov-report= $(TESTS)
	@test -n "$(TESTS)" || $(BIN)/python -m coverage report --skip-covered --fail-under=95 --include='lightning_adapt/*,callbacks/*'
	@test -n "$(TESTS)" || $(BIN)/python -m coverage report --format=total --include='recipes/*' | sed 's/.*/recipes: & % covered/'

check: lint types build ## style, types, layers, and the contents of wheel and sdist

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

build: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_packaging.py tests/test_guards.py

gpu: $(VENV)/.test ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu --durations=15 $(TESTS)

bench: $(VENV)/.test ## what watching costs: engines, recipes, memory, other monitors; see docs/performance.md
	@for file in $(filter-out %/bench_diagnosis.py,$(wildcard benchmarks/bench_*.py)); do $(BIN)/python "$$file" $(BENCH) || exit; done

bench-diagnosis: $(VENV)/.test ## is the diagnosis true? some hundred small trainings, sick and healthy; see docs/diagnosis.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_diagnosis.py $(BENCH)

clean: ## remove the environment, builds and caches (logs in runs/ stay)
	rm -rf $(VENV) .venv-peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis htmlcov .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras: a second run installs nothing.
$(VENV)/.pip: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@command -v nvidia-smi > /dev/null || test -n "$(PIP_ARGS)" || echo "No NVIDIA GPU is seen. Should pip now fetch CUDA libraries, see PIP_ARGS in the Makefile for the CPU build."
	$(PIP) install --quiet --upgrade pip
	@touch $@

$(VENV)/.recipes $(VENV)/.test $(VENV)/.dev: $(VENV)/.%: $(VENV)/.pip pyproject.toml setup.py
	$(PIP) install --quiet --constraint constraints.txt $(PIP_ARGS) --editable '.[$*]'
	@# The engine for the CPU is compiled now, once, rather than in the first training.
	@$(BIN)/python -c 'import torch; from lightning_adapt.dynamics.engines import prepare; prepare("auto", torch.device("cpu"))'
	@touch $@
