# Two commands do everything on a fresh machine: `make search` and `make test`.
PYTHON ?= python3
BIN = .venv/bin
BENCHMARKS = miniature bytes allocate

.PHONY: venv search test check bench miniature

venv: .venv/.complete

.venv/.complete: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

search: venv
	$(BIN)/python launch.py --bin 3 --trials 200

test: venv
	$(BIN)/python -m pytest

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

bench: venv
	for bench in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$bench || exit 1; done

miniature: venv
	$(BIN)/python -m miniature.build
