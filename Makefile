# Everything here works in a fresh clone with nothing prepared but Python 3.11 or newer, as an
# ordinary user: the first target that needs it makes .venv and installs the package into it.

PYTHON ?= python3

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_DEMO := $(VENV)/.installed-demo

# One numerical thread unless the caller says otherwise: the arrays here are small, and more
# threads than cores only wait for each other.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest

.DEFAULT_GOAL := help
.NOTPARALLEL: # `make -j demo test` would install twice at once
.PHONY: help demo test test-full check lint bench venv

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

# Installs only what the demo needs; `make test` adds the rest to the same .venv.
demo: $(or $(wildcard $(INSTALLED)),$(INSTALLED_DEMO)) ## Train a small GPT twice while forecasting its final loss
	$(PY) examples/gpt_lightning.py

# Three processes for two cores, because tests wait a third of their time. The tests of a file stay
# together, and tests/conftest.py orders the files.
PARALLEL := --numprocesses=3 --dist=loadfile --no-loadscope-reorder

test: lint ## Run the checks and the tests but the slow ones
	$(PYTEST) $(PARALLEL) -m "not slow"

test-full: lint ## Run the checks and every test at its full count
	LOSSFORECAST_FULL=1 $(PYTEST) $(PARALLEL) -m ""

check: lint ## Run ruff and mypy, and audit the dependencies
	$(PY) -m mypy

# mypy is one of the tests as well, so that it runs beside the others.
lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pip check
	$(PY) tests/support/audit.py

bench: $(INSTALLED) ## Compare costs with the recorded ones; figures in bench.json
	OMP_NUM_THREADS=1 $(PY) tests/benchmarks/cost.py --json bench.json

venv: $(INSTALLED) ## Make .venv, with the package and what its developers need

# Runs again only when the dependencies change or an earlier try did not finish.
$(INSTALLED): EXTRA := dev
$(INSTALLED_DEMO): EXTRA := demo
$(INSTALLED) $(INSTALLED_DEMO): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	        echo "lossforecast needs Python 3.11 or newer, but '$(PYTHON) --version' says:" \
	            "$$($(PYTHON) --version 2>&1)" >&2; \
	        echo "name another: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3.12" >&2; \
	        exit 1; \
	    }; \
	    echo '$(PYTHON) -m venv $(VENV)'; \
	    $(PYTHON) -m venv --clear $(VENV) || { \
	        echo "'$(PYTHON) -m venv' failed; Debian and Ubuntu: apt install python3-venv" >&2; \
	        exit 1; \
	    }; \
	}
	$(PY) -m pip install --constraint constraints.txt --editable '.[$(EXTRA)]'
	@touch $@
