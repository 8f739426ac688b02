"""The package for OptunaHub is in its format, loads as one, and its example runs."""

import runpy
from pathlib import Path

import optuna
import optunahub
import pytest
import yaml
from running import LentServer, cache_folder

import tradeoff
from tradeoff.studies.python import objective

REGISTRY = Path(__file__).parents[1] / "hub" / "package"
PACKAGE = "samplers/decoupled_fine_tuning"


def test_its_page_has_what_the_registry_asks_for() -> None:
    _, front_matter, text = (REGISTRY / PACKAGE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    about = yaml.safe_load(front_matter)
    assert set(about) == {"author", "title", "description", "tags", "optuna_versions", "license"}
    assert "sampler" in about["tags"]
    assert about["license"] == (REGISTRY / PACKAGE / "LICENSE").read_text(encoding="utf-8").splitlines()[0]
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [f"## {name}" for name in ("Abstract", "Class or Function Names", "Installation", "Example", "Others")]


def test_it_loads_as_a_package_and_its_example_finds_a_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = optunahub.load_local_module(PACKAGE, registry_root=str(REGISTRY))
    assert module.DecoupledSampler is tradeoff.DecoupledSampler
    monkeypatch.setattr(optunahub, "load_module", lambda package: module if package == PACKAGE else None)
    monkeypatch.setattr(objective, "TrialServer", LentServer)
    monkeypatch.setenv("TRADEOFF_CACHE", str(cache_folder()))
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runpy.run_path(str(REGISTRY / PACKAGE / "example.py"), run_name="__main__")
    assert "'peak_memory_mib': " in capsys.readouterr().out
