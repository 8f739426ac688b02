"""No private name of Optuna is used, but for those that have no public counterpart."""

import ast
from pathlib import Path

import optuna
import pytest
from optuna.samplers import GPSampler, GridSampler, RandomSampler
from optuna.storages import BaseStorage, GrpcStorageProxy, InMemoryStorage, RDBStorage

ROOT = Path(__file__).parents[1]
PACKAGES = ("searchspace", "objectives", "studies")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if "optuna" in path.read_text()]
# The list of trials that a Gaussian process is fitted to: see `tests/studies/samplers/test_build.py`.
ALLOWED = {"studies/samplers/constrained_gp.py": {"_get_trials"}}


def private_names() -> set[str]:
    study = optuna.create_study(sampler=GPSampler(seed=0))
    study.tell(study.ask(), 1.0)
    cached = optuna.storages.get_storage("sqlite:///:memory:")
    instances = (study, study.ask(), study.trials[0], InMemoryStorage(), cached, GPSampler(), GridSampler({"a": [1]}))
    classes = (BaseStorage, GrpcStorageProxy, RDBStorage, RandomSampler, *map(type, instances))
    names = {name for one in (*instances, *classes) for name in (*dir(one), *vars(one))}
    return {name for name in names if name.startswith("_") and not name.startswith("__")} | {"_host", "_channel", "_stub"}


NAMES = private_names()


def used(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            # Attributes of our own classes may have such a name.
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "optuna":
            parts = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            found |= {part for part in parts if part.startswith("_")}
        elif isinstance(node, ast.Import):
            parts = [part for alias in node.names for part in alias.name.split(".") if alias.name.startswith("optuna.")]
            found |= {part for part in parts if part.startswith("_")}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            found |= {str(part.value) for part in node.args[1:2] if isinstance(part, ast.Constant) and part.value in NAMES}
    return found


def test_the_names_are_those_of_optuna() -> None:
    assert {"_storage", "_study_id", "_trial_id", "_thread_local", "_backend", "_cached_frozen_trial", "_get_trials"} <= NAMES
    use = (
        "from optuna.storages import _rdb\nimport optuna._gp\nstudy._storage\nself._storage\ngetattr(trial, '_trial_id', None)"
    )
    assert used(ast.parse(use)) == {"_rdb", "_gp", "_storage", "_trial_id"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_of_optuna_is_used(path: Path) -> None:
    allowed = ALLOWED.get(str(path.relative_to(ROOT)), set())
    assert used(ast.parse(path.read_text(encoding="utf-8"))) == allowed
