# make demo    the whole job on real input, at most ten minutes after set-up
# make test    the tests
# make setup   only .venv, with everything that the demo, the tests and the benches need
# make check   format, lint, types, tests (with the tests of the documents)
# make bench   the measurements of bench/, one JSON line each
# make ui      the page's script and style sheet from frontend/ (needs node 20 or newer with npm)
# make docs    docs/cli.md from the --help pages
# make lock    requirements.lock from what .venv holds
# make clean   removes .venv, runs/demo and caches
# Needs python3 >= 3.11 (make PYTHON=python3.12 for another one) with venv and pip. All else lands in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench ui docs lock clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n '1,/^Needs/p'

setup: $(STAMP)

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "DuoMem needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Could not make $(VENV). On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@echo "Installing into $(VENV) (about 2 GB; some minutes the first time)"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

demo: setup
	$(BIN)/duomem demo

test: setup
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

bench: setup
	@for file in bench/*.py; do case $$file in */_*) ;; *) $(BIN)/python $$file --json || exit 1 ;; esac; done

ui: setup
	$(BIN)/python -m duomem.ui.schema > frontend/openapi.json
	cd frontend && npm ci --no-audit --no-fund && npx openapi-typescript openapi.json -o src/api.d.ts && npm run build

docs: setup
	$(BIN)/python -m duomem.cli.reference > docs/cli.md

lock: setup
	@{ echo "# Every package of the extra 'dev', pinned. Made by: make lock"; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v -e '^#' -e '^-e'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock && touch $(STAMP)

clean:
	rm -rf $(VENV) runs/demo build .pytest_cache .mypy_cache .ruff_cache .hypothesis
