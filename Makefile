# make quickstart      .venv, the pinned set, and the whole story on real data
# make bench-mnist     .venv, the pinned set, and MNIST with k = 1, 5, 50 (an hour on two cores)
# make bench-tables    .venv, the pinned set, and mixed tables beside TVAE (an hour on two cores)
# make test            .venv, the pinned set, and every test
#
# Choices, on the command line:
#   PYTHON=python3.12                       another interpreter (3.11 or newer)
#   VENV=/somewhere/else                    another virtual environment
#   TORCH=torch==2.13.1                     another torch than the tested one
#   PIP_ARGS="--extra-index-url URL"        more options for pip, e.g. the index of torch's CPU builds
#   VENV_ARGS=--system-site-packages        use what PYTHON has installed already, torch included
#   PYTEST_ARGS="-k codec"                  some of the tests
#   QUICKSTART_ARGS="--dir DIR"             options of distvae quickstart
#   TABLES=DIR                              folder of adult.parquet and the other tables; where it is
#                                           there, a test looks for outliers planted in Adult
#   MNIST=DIR                               folder of mnist_train.parquet and mnist_test.parquet

PYTHON ?= $(firstword $(shell command -v python3.11) python3)
VENV ?= .venv
TORCH ?= torch==2.13.0
PIP_ARGS ?=
VENV_ARGS ?=
PYTEST_ARGS ?=
QUICKSTART_ARGS ?=
BENCH_ARGS ?=
MNIST ?= ../shared/data
TABLES ?= ../shared/data

BIN := $(VENV)/bin
FOUND_TABLES = $(if $(wildcard $(TABLES)/adult.parquet),DISTVAE_TABLES=$(abspath $(TABLES)))
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint $(VENV)/constraints.txt $(PIP_ARGS)

.PHONY: quickstart test lint wheel bench bench-mnist bench-tables clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.installed
	$(BIN)/distvae quickstart $(QUICKSTART_ARGS)

test: $(VENV)/.installed-dev
	$(FOUND_TABLES) $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-mnist: $(VENV)/.installed
	@test -f $(MNIST)/mnist_train.parquet || { \
		echo "error: MNIST: no mnist_train.parquet in $(MNIST); it is needed here;" \
			"name its folder with make bench-mnist MNIST=DIR" >&2; exit 4; }
	$(BIN)/python -m benchmarks.mnist $(MNIST) $(BENCH_ARGS)

bench-tables: $(VENV)/.installed-dev
	@test -f $(TABLES)/adult.parquet || { \
		echo "error: TABLES: no adult.parquet in $(TABLES); it is needed here;" \
			"name its folder with make bench-tables TABLES=DIR" >&2; exit 4; }
	$(BIN)/python -m benchmarks.tables --data $(TABLES) --out build/bench-tables.json \
		--pip-args='$(PIP_ARGS)' $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: PYTHON: $(PYTHON) is not there or too old; Python 3.11 or newer is needed;" \
			"name one with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV_ARGS) $(VENV)
	@touch $@

# The tested set, with the torch that was asked for in place of the tested one.
$(VENV)/constraints.txt: constraints.txt $(VENV)/.made
	@{ grep -v '^torch==' constraints.txt; echo '$(TORCH)'; } > $@

# Editable, so that both stamps serve the same checkout; --quiet, because pip says 100 lines otherwise.
$(VENV)/.installed: $(VENV)/constraints.txt pyproject.toml
	@echo "installing the pinned set into $(VENV): minutes, and 2.7 GB if torch's CUDA build is not here yet"
	$(PIP_INSTALL) '$(TORCH)' --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/constraints.txt pyproject.toml
	@echo "installing the pinned set into $(VENV): minutes, and 2.7 GB if torch's CUDA build is not here yet"
	$(PIP_INSTALL) '$(TORCH)' --editable '.[dev]'
	@touch $@ $(VENV)/.installed
