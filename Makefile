# `make reproduce` and `make test` each do all of their own set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: reproduce test test-slow lint format benchmark-curvature benchmark-sampling benchmark-surfaces benchmark-study benchmark-dynamics clean

# The whole study of the paper, twenty minutes on two cores; a killed run goes on where it was.
reproduce: $(STAMP)
	$(BIN)/thalweg reproduce --preset paper --out runs/paper

# Everything that is not marked slow: nine and a half minutes on two cores. A process a core, each with one thread: for
# networks as small as the tests' own, threads only wait. Compiled modules are kept, whatever the shell
# says: some hundred processes import the package.
TESTING := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
test: $(STAMP)
	$(TESTING) $(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(STAMP)
	$(TESTING) $(BIN)/python -m pytest -m slow -n auto --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first and pinned, so that nothing pulls a build for accelerators the machine may not have.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "thalweg needs Python 3.11 or newer; try make PYTHON=python3.12" && exit 1)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

# Against PyHessian and curvlinops, for hours; `--help` says how to run a part.
benchmark-curvature: benchmarks/.venv/.installed
	benchmarks/.venv/bin/python benchmarks/curvature.py

# Sampled curvature against PyHessian on all the data, and the time of the sharpness family.
benchmark-sampling: benchmarks/.venv/.installed
	benchmarks/.venv/bin/python benchmarks/sampling.py

# Surfaces against loss-landscapes, the reference scripts' loop, the arithmetic, and the full grid.
benchmark-surfaces: benchmarks/.venv/.installed
	benchmarks/.venv/bin/python benchmarks/surfaces.py

# The study runner: its overhead, its workers, stores of up to 100,000 records; on an idle machine, ten minutes.
benchmark-study: benchmarks/.venv/.installed
	benchmarks/.venv/bin/python benchmarks/study.py

# Gradient noise and the monitor beside gradients, training and PyHessian: hours; `--help` says how to run a part.
benchmark-dynamics: benchmarks/.venv/.installed
	benchmarks/.venv/bin/python benchmarks/dynamics.py

benchmarks/.venv/.installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	test -x benchmarks/.venv/bin/python || $(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet torch==2.13.0 -c constraints.txt
	benchmarks/.venv/bin/python -m pip install --quiet -e . -r benchmarks/requirements.txt -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
