"""The guides' Python is run: the same job before and after, on fewer trials than they show."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from running import LentServer, SharedTrialServer, cache_folder

from tradeoff.studies.python import objective
from tradeoff.studies.workers import run as runner

ROOT = Path(__file__).parents[3]
GUIDES = ["python", "from-optuna", "from-hyperparameter-search", "from-wandb-sweeps"]
SMALLER = {
    r"\bn_trials=\d+": "n_trials=1",
    r"\btrials=\d+": 'trials=1, sampler="random", progress=False',
    r"\[16, 32, 64\]": "[16, 32]",
}


@pytest.mark.parametrize("guide", GUIDES)
def test_the_python_of_a_guide_works(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    monkeypatch.setattr(objective, "TrialServer", LentServer)
    monkeypatch.setenv("TRADEOFF_CACHE", str(cache_folder()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guides" / f"{guide}.md").read_text(), flags=re.DOTALL)
    assert blocks
    space: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        if "import wandb" in block and find_spec("wandb") is None:
            continue
        for usual, smaller in SMALLER.items():
            block = re.sub(usual, smaller, block)
        exec(compile(block, f"{guide}.md", "exec"), space)
