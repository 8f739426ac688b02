"""The names of `import tradeoff`: few, documented, and each with an example that works."""

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import line_trainer
import optuna
import pytest
from running import LentServer, SharedTrialServer, cache_folder
from stored_studies import make_study

import tradeoff
from tradeoff.studies.python import objective
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.workers import run as runner

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_there_are_few_names_and_all_exist() -> None:
    assert len(tradeoff.__all__) <= 25
    assert set(tradeoff.__all__) <= set(dir(tradeoff))
    assert all(inspect.getdoc(getattr(tradeoff, name)) for name in tradeoff.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        _ = tradeoff.serach  # type: ignore[attr-defined]


def test_importing_it_imports_no_other_library() -> None:
    code = "import sys; before = {*sys.modules}; import tradeoff; print(*sys.modules.keys() - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"tradeoff"}


@pytest.mark.parametrize("name", [name for name in tradeoff.__all__ if not name.endswith(("Failed", "Error"))])
def test_the_example_of_each_name_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    monkeypatch.setattr(objective, "TrialServer", LentServer)
    monkeypatch.setenv("TRADEOFF_CACHE", str(cache_folder()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import stars

    make_study(open_storage("sqlite:///tradeoff.db"), name="reviews")
    result = tradeoff.load("reviews")
    given: dict[str, Any] = {"tradeoff": tradeoff, "optuna": optuna, "result": result, "stars": stars}
    if name == "training_arguments":
        result.choose(trial=1).export("chosen")
    if name == "hyperparameter_search":
        given["trainer"] = trainer()
    found = doctest.DocTestFinder(exclude_empty=True).find(getattr(tradeoff, name), name, module=False, globs=given)
    examples = [test for test in found if test.examples]
    assert examples
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for test in examples:
        told: list[str] = []
        assert doctest.DocTestRunner().run(test, out=told.append).failed == 0, "".join(told)


def trainer() -> Any:
    from transformers import Trainer, TrainingArguments

    return Trainer(
        model_init=lambda: line_trainer.Line(2),
        args=TrainingArguments("out", num_train_epochs=1, use_cpu=True, report_to="none"),
        train_dataset=line_trainer.samples(),
        eval_dataset=line_trainer.samples(16),
    )
