"""Imports go one way: studies -> objectives -> searchspace; and what is quick to start stays free of heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("searchspace", "objectives", "studies")
HEAVY = {"torch", "transformers", "datasets", "evaluate", "accelerate", "pandas", "plotly", "sklearn"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


@pytest.mark.parametrize("layer", LAYERS)
def test_no_package_imports_one_above_it(layer):
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {f"{path.name}: {name}" for path in files for name in imported(path) if name.split(".")[0] in above}
    assert wrong == set()


@pytest.mark.parametrize("module", ["searchspace", "studies.cli", "studies.runner", "objectives.objective"])
def test_the_command_starts_without_heavy_libraries(module):
    code = f"import sys, {module}; print(*(set(sys.modules) & {HEAVY!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
