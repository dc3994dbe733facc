# make setup   .venv with dem, its tests' and its linters' packages, at the versions of constraints.txt
# make test    the tests                    make lint   ruff and mypy
# make site    docs/ as a site in site/, every link of it checked; it is read offline
# make demo    build the model of recipes/demo, twice: the second build has nothing to do
# make torture kill, corrupt, fill and share the cache for up to an hour, and write docs/reliability.md
# make clean   remove .venv, .venv-site, site/ and what the tools cached; cache/ and out/ stay
#
# Nothing is written outside this folder but to ~/.cache, by pip and dem; and nothing but PyPI is asked.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --build-constraint constraints.txt

PROCESSES = $(shell $(BIN)/python -c 'import os; print(min(os.cpu_count(), 3) + 1)')

SITE_VENV := $(VENV)-site
DEMO := recipes/demo

.PHONY: setup test lint site demo torture clean
.DELETE_ON_ERROR:

# What is compiled when it is first imported is written down, also where the environment forbids it: see below.
export PYTHONDONTWRITEBYTECODE :=

setup: $(VENV)/dev.stamp

# A process for each core, for most tests keep one busy; and one more, for those of Slurm wait for minutes, and many for a
# moment. A file's tests share what they build, so one process has them all; tests/conftest.py puts the slow files first.
test: setup
	$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

site: $(SITE_VENV)/stamp
	$(SITE_VENV)/bin/sphinx-build --quiet --fail-on-warning --fresh-env -c docs/site docs site

demo: $(VENV)/dem.stamp
	$(BIN)/dem init --demo $(DEMO)
	$(BIN)/dem build $(DEMO)/assistant.toml --trust-tasks
	@echo "--- the same build again:"
	$(BIN)/dem build $(DEMO)/assistant.toml --trust-tasks

torture: setup
	$(BIN)/python tests/torture/torture.py --write docs/reliability.md

clean:
	rm -rf $(VENV) $(SITE_VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find dem_build tests recipes bench -name __pycache__ -type d -prune -exec rm -rf {} +

# dem itself, and for `dev` what tests and linters need, for `demo` what recipes/growth and recipes/study draw puzzles with.
# Each asks for what it needs alone, and they may share the environment.
#
# Builds are isolated, with their backends at the versions of constraints.txt: lm-eval needs source distributions whose
# backend nothing else installs. The first pip may be too old to know --build-constraint. Compiled modules halve the start
# of `dem`, and pip makes none of an editable package. Of all others it would make 400 MB on one core, which is half of the
# time that an installation takes: for the tests all cores make them, and the demo, which imports a quarter, makes its own.
# A package may hold files that are no Python 3; pip says nothing of these either.
$(VENV)/%.stamp: $(VENV)/venv.stamp
	@echo "Installing dem and its packages in $(VENV): about a minute, and 2 GB (with CUDA more)"
	$(PIP) --no-compile --editable . $(if $(filter-out dem,$*),--group $*)
	$(BIN)/python -m compileall -q dem_build
	$(if $(filter dev,$*),@$(BIN)/python -m compileall -q -q -j 0 $(VENV)/lib || true)
	@touch $@

$(VENV)/venv.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dem needs Python 3.11: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	@touch $@

# The site is made of pages alone: 12 seconds, and none of the packages of dem.
$(SITE_VENV)/stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(SITE_VENV)
	$(SITE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(SITE_VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --group site
	@touch $@
