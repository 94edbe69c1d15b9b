# Two commands do everything on a fresh machine: `make search` and `make test`.
PYTHON ?= python3
BIN = .venv/bin
# Tests run in this many processes, file by file, in the order of tests/conftest.py.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
BENCHMARKS = miniature bytes allocate coding pruning depth

.PHONY: venv search test check comet bench bench-search bench-gptqmodel miniature

venv: .venv/.complete

.venv/.complete: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

search: venv
	$(BIN)/python launch.py --bin 3 --trials 200

test: venv
	$(PYTEST)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

# COMET's own environment, once; TIGHTFIT_COMET_ENV names another folder than ~/.cache/tightfit/comet-env.
comet: venv
	$(BIN)/python launch.py comet-env

bench: venv
	for bench in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$bench || exit 1; done

# All samplers in bins 2, 3 and 4, five seeds each: hours. Runs that are there are only read.
bench-search: venv
	$(BIN)/python -m benchmarks.samplers
	$(BIN)/python -m benchmarks.curves

# Beside another quantiser, in an environment of its own.
bench-gptqmodel: venv .venv-gptqmodel/.complete
	$(BIN)/python -m benchmarks.rates

.venv-gptqmodel/.complete: benchmarks/gptqmodel-requirements.txt
	$(PYTHON) -m venv .venv-gptqmodel
	.venv-gptqmodel/bin/pip install --quiet --requirement benchmarks/gptqmodel-requirements.txt
	touch $@

miniature: venv
	$(BIN)/python -m miniature.build
