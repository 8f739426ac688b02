"""Imports go down only, from room to room; and what is quick to start stays free of heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room is a folder with its Python files; each may import from itself and from those that stand before it.
ROOMS = (
    "searchspace",
    "objectives/measurements",
    "objectives/job",
    "objectives/device",
    "objectives/data",
    "objectives/trainers",
    "objectives/memory_estimator",
    "objectives/prediction",
    "objectives/knowledge",
    "objectives/trial",
    "objectives/isolation",
    "objectives",
    "studies",
    "studies/config",
    "studies/storage",
    "studies/results",
    "studies/samplers",
    "studies/reporting",
    "studies/tracking",
    "studies/execution",
    "studies/workers",
    "studies/export",
    "studies/python",
    "studies/cli",
    "tradeoff",
)
MAX_FILES_IN_A_FOLDER = 15
HEAVY = {"torch", "transformers", "datasets", "evaluate", "accelerate", "pandas", "plotly", "scipy"}


def room_of(module):
    """The room that holds a module of ours; None for anybody else's."""
    parts = module.split(".")
    if parts[0] != "tradeoff":
        return None
    folders = ["/".join(parts[1:end]) for end in range(len(parts), 1, -1)]
    return next((folder for folder in folders if folder in ROOMS), "tradeoff")


def files_of(room):
    below = [ROOT / other for other in ROOMS if other.startswith(f"{room}/")]
    return [
        path
        for path in sorted((ROOT / room).rglob("*.py"))
        if not any(path.is_relative_to(folder) for folder in below) and path.relative_to(ROOT / room).parts[0] not in ROOMS
    ]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_one_above_it(room):
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    files = files_of(room)
    assert files
    wrong = {f"{path.name}: {name}" for path in files for name in imported(path) if room_of(name) in above}
    assert wrong == set()


def test_every_file_is_in_a_room():
    found = {path for room in ROOMS for path in files_of(room)}
    written = {path for package in ("searchspace", "objectives", "studies") for path in (ROOT / package).rglob("*.py")}
    assert written - found == set()


def test_no_folder_is_a_drawer():
    folders = {path.parent for package in ("searchspace", "objectives", "studies") for path in (ROOT / package).rglob("*.py")}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES_IN_A_FOLDER + 1} == {}  # and __init__.py


def test_nothing_is_imported_by_the_name_of_a_folder():
    names = {"searchspace", "objectives", "studies"}
    files = [path for folder in (*names, "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    assert [f"{path}: {name}" for path in files for name in imported(path) if name.split(".")[0] in names] == []


@pytest.mark.parametrize(
    "module",
    ["tradeoff.searchspace", "tradeoff.studies.cli.main", "tradeoff.studies.workers.run", "tradeoff.objectives.objective"],
)
def test_the_command_starts_without_heavy_libraries(module):
    code = f"import sys, {module}; print(*(set(sys.modules) & {HEAVY!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
