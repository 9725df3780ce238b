# Needs python 3.11 or newer with pip; everything else goes into .venv, which each target makes first.
#
# To use it
#   make quickstart   preference pairs in, a reward model with its evaluation and report out
#   make install      the package, its dependencies and the developer's tools
#
# Before a commit
#   make check        lint, formatting and types
#   make test         the tests, one combination of every capability
#
# Now and then
#   make test-all     the tests in all their combinations
#   make coverage     the tests, then lines run by them, by room; fails under 90%
#   make test-oldest  unit and golden tests at the lower bounds of the dependencies
#   make test-newest  the same at their newest versions
#   make parity       this trainer's losses over those of other trainers, build/parity.png
#   make gpu-check    on a machine with a GPU: half an hour of checks, gpu-report.json

PYTHON ?= python3
VENV ?= .venv
# --system-site-packages lets a new .venv see, and keep, a torch that the machine already has.
VENV_FLAGS ?=
# A file of versions with hashes to install, in place of the newest that pyproject.toml allows.
LOCK ?=
REFERENCE ?= ../shared/reference
DATA ?= ../shared/data

BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed
# Files of tests that run at a time, each with processes of its own: on two cores one more, as many of them wait.
TEST_PROCESSES ?= 3
# One thread: the tests start several processes of their own.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile
# What depends on versions; the rest tests this package's own processes and files.
VERSIONED_TESTS := tests/unit tests/golden

.DEFAULT_GOAL := help
.PHONY: help install quickstart check test test-all coverage test-oldest test-newest parity gpu-check

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

install: $(INSTALLED)

# Without ensurepip (Debian's python3 without python3-venv) pip itself fills the new environment.
# torch comes alone and first: left to the resolver, a host without a GPU gets gigabytes of CUDA packages.
$(INSTALLED): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(BIN)/python -m pip --version 2>/dev/null || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV) || \
	    { $(PYTHON) -m venv $(VENV_FLAGS) --without-pip $(VENV) && \
	      $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip show --quiet torch 2>/dev/null || $(BIN)/python -m pip install torch==2.13.0
	$(if $(LOCK),$(BIN)/python -m pip install --no-deps --require-hashes --requirement $(LOCK))
	$(BIN)/python -m pip install $(if $(LOCK),--no-deps) --editable '.[dev]'
	@touch $@

quickstart: install
	PATH="$(BIN):$$PATH" bash examples/quickstart.sh

check: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

test: install
	$(PYTEST) -m "not full"

test-all: install
	$(PYTEST)

coverage: install
	rm -rf build/coverage
	COVERAGE_FILE=$(abspath build/coverage/data) OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest \
	    --numprocesses $(TEST_PROCESSES) --dist loadfile -m "not full"
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage json --quiet -o build/coverage/lines.json
	$(BIN)/python .ci/coverage_by_room.py build/coverage/lines.json --fail-under 90

# In environments of their own, of up to 7 GB each: most versions of torch on PyPI come with CUDA.
test-oldest:
	mkdir -p build
	$(PYTHON) .ci/lower_bounds.py > build/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --constraint build/oldest.txt --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(VERSIONED_TESTS)

test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --upgrade --upgrade-strategy eager --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest $(VERSIONED_TESTS)

parity: install
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/parity.py --reference $(REFERENCE) --data $(DATA) --output build/parity.png

gpu-check: install
	mkdir -p build
	$(BIN)/python -m benchmarks.gpu_check --output gpu-report.json --reference $(REFERENCE) --data $(DATA) \
	    --peers-dir build/peers
