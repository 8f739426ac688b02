# `make study` runs the main job on the embedded default, `make test` the tests, `make test-slow` those that CI leaves out,
# `make docs` builds the documentation.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: study test test-slow lint docs clean

study: .venv/.installed
	$(BIN)/tradeoff run

# Two at a time: most tests wait for processes. A file's tests share what they set up; tests/conftest.py orders the files.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: .venv/.installed
	$(PYTEST) -m 'not slow'

test-slow: .venv/.installed
	$(PYTEST) -m slow

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Strict mode lets through docstrings that do not parse, and does not look at what a page loads: two searches for these.
docs: .venv/.docs-installed
	mkdir -p build
	$(BIN)/python -m zensical build --strict --clean >build/docs.log 2>&1 || { cat build/docs.log; exit 1; }
	! grep griffe build/docs.log
	! grep -rE '<(script|link|img|iframe)[^>]+(src|href)="(https?:)?//' build/site
	@echo 'the documentation is in build/site/index.html'

.venv/.docs-installed: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build .cache
