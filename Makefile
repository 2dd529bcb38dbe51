# make demo: hear it.  make test: check it.  Each does its own set-up from a bare checkout.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench clean

demo: $(VENV)/.runtime
	$(BIN)/sep-render demo/mixture.flac --out demo/stems --overwrite
	@echo "Listen: demo/mixture.flac, then demo/stems/mixture/*.wav"

test: $(VENV)/.training
	$(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

check: $(VENV)/.training
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.training
	$(BIN)/python tests/bench/bench_hop.py
	$(BIN)/python tests/bench/bench_render.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.training: $(VENV)/.runtime constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo/stems
