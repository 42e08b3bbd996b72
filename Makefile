# Two commands do everything on a fresh machine with Python 3.10 or newer: `make demo` and `make test`.
# Set PYTHON to another interpreter: each version gets a virtual environment of its own, python3 gets .venv.
ifeq ($(origin PYTHON),undefined)
PYTHON := python3
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
# Set TORCH to the build that suits your machine, for example TORCH="torch --index-url https://download.pytorch.org/whl/cpu".
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

PAIRS ?=
DEMO ?=
MAP_SMALL ?= runs/map-small
# Of the machine that a wheelhouse is for: its Python, what `pip freeze` prints there, its newest kind of wheels.
PYTHON_VERSION ?=
PACKAGES ?=
PLATFORM ?=

.PHONY: help demo map map-small test fast lint format types check docs docs-links notebooks bench bench-gpu wheelhouse \
	install install-all clean

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.installed-demo  ## train and measure a real 135M model in 5 to 7 minutes (DEMO="--short" in less)
	$(BIN)/mixdpo demo $(DEMO)

map: install  ## train 15,000 small policies, and map when small margins matter: 4 hours on 2 CPU cores, can be stopped
	$(BIN)/mixdpo map studies/maps/map.yaml --output runs/map

map-small: install  ## the same of 126 policies in under 3 minutes, and see SFT on hard pairs go from harm to help
	$(BIN)/mixdpo map studies/maps/map-small.yaml --output $(MAP_SMALL)
	$(BIN)/python scripts/check_crossing.py $(MAP_SMALL)/map.json

test: install  ## run every test: about 13 minutes on 2 CPU cores
	$(BIN)/python -m pytest -n auto --dist loadgroup

fast: install  ## run the tests that are not marked slow: 3 to 4 minutes on 2 CPU cores
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not slow"

bench: install  ## measure speed and memory against TRL, on pairs of yours (PAIRS=pairs.parquet)
	@test -n "$(PAIRS)" || { echo "give the pairs to train on: make bench PAIRS=pairs.parquet" >&2; exit 2; }
	$(BIN)/python benchmarks/speed.py $(PAIRS)
	$(BIN)/python benchmarks/share.py $(PAIRS)
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/report.py

# On a machine with an NVIDIA GPU: tests of its kernels, then speed and memory against TRL. Where there is a wheelhouse,
# made for a machine that reaches no index, the Python of that machine runs it, with what the wheelhouse adds.
WHEELS := $(wildcard wheelhouse/*.whl)
bench-gpu: $(if $(WHEELS),,install)  ## measure on an NVIDIA GPU in 8 minutes, after the tests of its kernels
	PYTHON=$(if $(WHEELS),$(PYTHON),$(BIN)/python) benchmarks/gpu.sh

wheelhouse: $(VENV)/.installed-demo  ## download what a GPU machine without an index lacks (PYTHON_VERSION=3.12)
	@test -n "$(PYTHON_VERSION)" || { echo "give the other machine's Python: PYTHON_VERSION=3.12" >&2; exit 2; }
	$(BIN)/python scripts/wheelhouse.py wheelhouse --python-version $(PYTHON_VERSION) \
		$(if $(PACKAGES),--packages $(PACKAGES)) $(if $(PLATFORM),--platform $(PLATFORM))

install: $(VENV)/.installed-dev

lint: install  ## ruff, and the order of imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install  ## mypy
	$(BIN)/mypy

check: lint types test  ## lint, types and test

docs: $(VENV)/.installed-docs  ## build the documentation site in build/site
	$(BIN)/python -m sphinx -W --keep-going -q docs build/site

docs-links: $(VENV)/.installed-docs  ## look whether what the documentation links to on other sites is there
	$(BIN)/python -m sphinx -q -b linkcheck docs build/links

notebooks: install  ## run the notebooks of examples/ and keep what they show
	PYTHONWARNINGS=ignore $(BIN)/python scripts/run_notebooks.py

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

$(VENV)/.installed-docs: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

# In one go what takes pip three when it is asked for one after the other.
install-all: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[demo,dev,docs]"
	touch $(VENV)/.installed-demo $(VENV)/.installed-dev $(VENV)/.installed-docs

clean:  ## remove virtual environments and caches
	rm -rf .venv .venv-* .import_linter_cache .pytest_cache .mypy_cache .ruff_cache
