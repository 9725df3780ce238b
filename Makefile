# Needs python 3.11 or newer with pip; everything else goes into .venv.
#   make install    the package, its dependencies and the developer's tools
#   make quickstart install, then preference pairs in, a trained and scored reward model out
#   make check      install, then lint, formatting and types
#   make test       install, then the tests
#   make parity     install, then this trainer's losses over those of other trainers, build/parity.png

PYTHON ?= python3
VENV ?= .venv
# --system-site-packages lets a new .venv see, and keep, a torch that the machine already has.
VENV_FLAGS ?=
REFERENCE ?= ../shared/reference
DATA ?= ../shared/data

BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart check test parity

help:
	@sed -n '2,/^$$/s/^# *//p' Makefile

install: $(INSTALLED)

# Without ensurepip (Debian's python3 without python3-venv) pip itself fills the new environment.
# torch comes alone and first: left to the resolver, a host without a GPU gets gigabytes of CUDA packages.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(BIN)/python -m pip --version 2>/dev/null || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV) || \
	    { $(PYTHON) -m venv $(VENV_FLAGS) --without-pip $(VENV) && \
	      $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip show --quiet torch 2>/dev/null || $(BIN)/python -m pip install torch==2.13.0
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@

quickstart: install
	PATH="$(BIN):$$PATH" bash examples/quickstart.sh

check: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# One thread: the tests start several processes of their own.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

parity: install
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/parity.py --reference $(REFERENCE) --data $(DATA) --output build/parity.png
