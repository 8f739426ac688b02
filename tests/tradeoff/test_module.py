"""The package `tradeoff` as it is run: `python -m tradeoff`, beside files of a user's own."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest


@pytest.fixture
def directory_with_namesakes(tmp_path: Path) -> Path:
    """A directory with files of a user's own that are named like our packages and can't be imported."""
    for own in ("objectives.py", "searchspace.py", "studies/__init__.py"):
        path = tmp_path / own
        path.parent.mkdir(exist_ok=True)
        path.write_text('raise ImportError("this file belongs to the user")\n')
    return tmp_path


def run_module(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tradeoff", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)


def test_the_module_is_the_command(directory_with_namesakes: Path) -> None:
    done = run_module(directory_with_namesakes, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: python -m tradeoff [OPTIONS] COMMAND" in done.stdout


def test_the_module_knows_its_version(directory_with_namesakes: Path) -> None:
    assert version("tradeoff") in run_module(directory_with_namesakes, "--version").stdout


def test_the_module_reports_an_error_as_the_command_does(directory_with_namesakes: Path) -> None:
    done = run_module(directory_with_namesakes, "run", "missing.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tradeoff: ")
