"""`tradeoff.search` on real trials of a function of this program's own, in this process."""

import asyncio
from pathlib import Path
from typing import Any

import line_trainer
import optuna
import pandas as pd
import pytest
from line_trainer import JOB, SPACE
from running import Recorder, SharedTrialServer, cache_folder

import tradeoff
from tradeoff.studies.config.stored import AllowedCode
from tradeoff.studies.python import search as module
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import join_study


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    monkeypatch.setenv("TRADEOFF_CACHE", str(cache_folder()))
    monkeypatch.chdir(tmp_path)


def searched(build: Any = None, **settings: Any) -> tradeoff.Result:
    settings = {"space": SPACE, "job": JOB, "trials": 2, "progress": False, "sampler": "random", "sampler_seed": 0} | settings
    return tradeoff.search(build, **settings)


def test_a_closure_is_searched_and_its_front_is_a_table(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    width = 2

    def build(args: Any, slope: float) -> Any:
        trainer = line_trainer.build(args, width)
        trainer.train_dataset = line_trainer.samples(slope=slope)
        return trainer

    result = searched(build, space={**SPACE, "slope": [1.0, 2.0]}, trials=3)
    assert isinstance(result.front, pd.DataFrame)
    assert list(result.front.columns[:6]) == [*SPACE, "slope", "eval_loss"]
    assert {trial.number for trial in result.study.best_trials} == set(result.front.index)
    assert isinstance(result.study, optuna.Study)
    assert "knee" in result.front.loc[result.knee.trial, "marks"]
    assert result.front.loc[result.knee.trial, "eval_loss"] == result.knee.values["eval_loss"]
    assert "eval_loss" in result._repr_html_()
    assert str(result).startswith("Pareto front of study\n")
    assert repr(result).startswith("<study 'study': 3 trials: 3 completed; ")
    assert result.plot().data
    assert optuna.visualization.plot_pareto_front(result.study).data
    best = result.within(eval_loss="0%")
    assert best.values["eval_loss"] == result.front["eval_loss"].min()
    # As tables head its column, and limits as for a search.
    assert (
        result.within(loss="0%") == result.choose(within={"eval_loss": "0%"}, limits={"loss": 1e9, "train_time_s": 1e9}) == best
    )
    assert result.plot("train_time_s", "loss").data
    files = {path.name for path in best.export(tmp_path / "chosen", to="accelerate")}
    assert "training_args.json" in files
    assert "train.py" not in files
    assert result.report(tmp_path / "r.md").read_text().startswith("## Trade-off of study")
    assert "<html" in result.report(tmp_path / "r.html").read_text()
    assert best.training_arguments("here", bf16=True).num_train_epochs == 1
    assert capfd.readouterr() == ("", "")


def test_a_study_of_a_function_of_a_module_is_exported_with_a_script() -> None:
    result = searched(line_trainer.build)
    assert "train.py" in {path.name for path in result.export("chosen", to=["deepspeed"])}
    assert tradeoff.load().front.equals(result.front)


def test_a_loaded_study_is_exported_only_with_code_that_is_named_again(tmp_path: Path) -> None:
    searched(line_trainer.build, trials=1)
    with pytest.raises(tradeoff.TradeoffError, match=r"code runs only if you name it yourself, .* names line_trainer:build"):
        tradeoff.load().export("chosen")
    assert not (tmp_path / "chosen").exists()
    for position, build in enumerate((line_trainer.build, f"{Path(line_trainer.__file__).parent}/line_trainer:build")):
        assert tradeoff.load(build=build).export(f"chosen-{position}")


def test_the_same_call_goes_on_and_a_changed_function_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    display = Recorder()
    monkeypatch.setattr(module, "progress_display", lambda progress: display)

    monkeypatch.setitem(SPACE, "per_device_train_batch_size", [4, 8, 16, 32])

    def build(args: Any) -> Any:
        return line_trainer.build(args)

    assert len(searched(build, trials=1, sampler="grid").study.trials) == 1
    assert len(searched(build, sampler="grid").study.trials) == 2
    assert not any("has changed" in line for line in display.messages)

    def build(args: Any) -> Any:  # type: ignore[no-redef]
        return line_trainer.build(args, 3)

    assert len(searched(build, trials=3, sampler="grid").study.trials) == 3
    (line,) = [line for line in display.messages if "has changed" in line]
    assert line.startswith("the code of __main__:build has changed since earlier trials")


def test_a_stored_study_of_a_function_of_a_program_runs_nothing() -> None:
    def build(args: Any) -> Any:
        return line_trainer.build(args)

    searched(build, trials=1)
    with pytest.raises(tradeoff.TradeoffError, match=r"is of a function of a program, __main__:build, which alone can run it"):
        join_study("study", storage="sqlite:///tradeoff.db", cache=cache_folder())
    allowed = AllowedCode(build="__main__:build")
    with pytest.raises(tradeoff.TradeoffError, match=r"a function of the program that has made the study"):
        join_study("study", storage="sqlite:///tradeoff.db", cache=cache_folder(), allowed=allowed)


def test_a_study_with_other_settings_is_refused() -> None:
    searched(line_trainer.build, trials=1)
    with pytest.raises(tradeoff.TradeoffError, match=r"job\.epochs: 1\.0 -> 2\.0"):
        searched(line_trainer.build, job={**JOB, "epochs": 2})


def test_it_runs_in_a_thread_and_beside_a_running_loop() -> None:
    async def both() -> tuple[tradeoff.Result, tradeoff.Result]:
        in_thread = await asyncio.to_thread(searched, line_trainer.build, trials=1, name="thread")
        return in_thread, searched(line_trainer.build, trials=1, name="loop")

    first, second = asyncio.run(both())
    assert (len(first.study.trials), len(second.study.trials)) == (1, 1)


def test_optuna_logs_as_it_did_afterwards() -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    searched(line_trainer.build, trials=1)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda args: 7, r"job\.build '__main__:build' must return a transformers\.Trainer, got int"),
        (lambda args: 1 / 0, r"test_search\.py, line \d+\): ZeroDivisionError: division by zero"),
        (lambda: None, r"takes 0 positional arguments"),
        (lambda args: __import__("nothing_like_it"), r"No module named 'nothing_like_it'"),
        (lambda args: exit(3), r"SystemExit: 3"),
    ],
)
def test_a_function_that_is_wrong_is_a_sentence(build: Any, sentence: str) -> None:
    with pytest.raises(tradeoff.TradeoffError, match=sentence):
        searched(build)
    assert not Path("tradeoff.db").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"space": {**SPACE, "batch": [1]}}, r"^space\.batch: job\.build 'line_trainer:build' must take the keyword"),
        ({"space": {**SPACE, "learning_rate": -1}}, r"^tradeoff\.search: space\.learning_rate: "),
        ({"trails": 3}, r"^tradeoff\.search: unknown key 'trails'; did you mean 'trials'\?"),
        ({"trials": 0}, r"^tradeoff\.search: trials: "),
        ({"workers": 0}, r"^workers must be at least 1, got 0"),
        ({"job": {"build": "a:b"}}, r"^tradeoff\.search takes a function or job\['build'\], got both"),
        ({"objectives": ["eval_loss"]}, r"a trade-off needs at least 2 objectives"),
        ({"space": {**SPACE, "learning_rate": optuna.distributions.FloatDistribution(0, 1, step=0.1)}}, "name the values"),
        ({"storage": "sqlite:////nowhere/at/all.db"}, "nowhere"),
        ({"storage": 5}, r"^storage must be a URL or the path of a SQLite file, got 5"),
        ({"space": [1, 2]}, r"^tradeoff\.search: space must be a dictionary, got \[1, 2\]"),
        ({"job": [1]}, r"^tradeoff\.search: job must be a dictionary, got \[1\]"),
        ({"name": "a/b"}, r"^tradeoff\.search: name: a name has no slash, backslash or control character, got 'a/b'"),
        ({"objectives": "eval_loss"}, r"^tradeoff\.search: objectives: must be a list, got 'eval_loss'"),
        ({"timeout_s": "x"}, r"^timeout_s must be a number of at least 0 seconds, got 'x'"),
        ({"timeout_s": -1}, r"^timeout_s must be a number of at least 0 seconds, got -1"),
        ({"workers": "two"}, r"^workers must be a whole number, got 'two'"),
    ],
)
def test_a_wrong_argument_is_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(tradeoff.TradeoffError, match=sentence):
        searched(line_trainer.build, **settings)


def test_values_may_be_numpys_or_optunas() -> None:
    import numpy as np

    space = {
        **SPACE,
        "per_device_train_batch_size": np.array([8, 16]),
        "learning_rate": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True),
        "gradient_accumulation_steps": range(1, 3),
    }
    result = searched(line_trainer.build, space=space, trials=1)
    assert result.study.trials[0].distributions["learning_rate"] == space["learning_rate"]


def test_a_built_in_job_needs_no_function() -> None:
    result = searched(
        job={"train_samples": 64, "eval_samples": 32, "max_length": 32, "epochs": 1}, trials=1, memory_estimate="off"
    )
    assert result.objectives == ("accuracy", "train_time_s", "peak_memory_mib")


def test_an_error_names_arguments_and_no_options(tmp_path: Path) -> None:
    result = searched(line_trainer.build)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(tradeoff.TradeoffError, match=r"^output must be a new or empty directory, and .*full is neither"):
        result.export(tmp_path / "full")
    with pytest.raises(tradeoff.TradeoffError, match="got maximize and minimize; keep one of them"):
        result.choose(maximize="eval_loss", minimize="eval_loss")


@pytest.mark.slow
def test_two_workers_are_each_sent_the_function() -> None:
    width = 2
    result = searched(lambda args: line_trainer.build(args, width), workers=2, sampler="grid")
    assert [trial.user_attrs["outcome"] for trial in result.study.trials] == ["completed"] * 2


def test_an_empty_study_has_an_empty_front_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    result = searched(line_trainer.build, timeout_s=0)
    assert result.front.empty
    assert str(result) == repr(result)
    with pytest.raises(tradeoff.TradeoffError, match="nothing has completed"):
        _ = result.knee
    with pytest.raises(tradeoff.TradeoffError, match="nothing has completed"):
        result.plot()
