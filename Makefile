# Two commands: `make study` runs the main job on the embedded default, `make test` runs every test.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: study test lint clean

study: .venv/.installed
	$(BIN)/tradeoff run

test: .venv/.installed
	$(BIN)/python -m pytest

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv
