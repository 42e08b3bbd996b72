# Two commands do everything on a fresh machine with Python 3.10 or newer: `make demo` and `make test`.
PYTHON ?= python3
# Set TORCH to the build that suits your machine, for example TORCH="torch --index-url https://download.pytorch.org/whl/cpu".
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

PAIRS ?=

.PHONY: bench bench-gpu demo test install lint format types check clean

demo: $(VENV)/.installed-demo
	$(BIN)/mixdpo demo

test: install
	$(BIN)/python -m pytest -n auto

# Against TRL, on pairs of yours with scores: make bench PAIRS=pairs.parquet
bench: $(VENV)/.installed-dev
	@test -n "$(PAIRS)" || { echo "give the pairs to train on: make bench PAIRS=pairs.parquet" >&2; exit 2; }
	$(BIN)/python benchmarks/speed.py $(PAIRS)
	$(BIN)/python benchmarks/share.py $(PAIRS)
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/report.py

# On a machine with an NVIDIA GPU: tests of its kernels, then a random Llama of 1.2 billion parameters against TRL.
bench-gpu: $(VENV)/.installed-dev
	PYTHON=$(BIN)/python benchmarks/gpu.sh

install: $(VENV)/.installed-dev

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install
	$(BIN)/mypy

check: lint types test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "mixdpo needs Python 3.10 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# PyTorch first and by itself, so that no other package's requirement picks its build.
$(VENV)/.torch: $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

$(VENV)/.installed-demo: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
