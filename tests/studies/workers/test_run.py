"""Whole studies in this process, on real trials of a shared server."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from running import (
    Children,
    Recorder,
    SharedTrialServer,
    cache_folder,
    only_trial,
    prepared,
    shared_server,
    tiny_job,
    tiny_study,
)

from tradeoff.objectives.measurements.records import read_attributes
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import StudyFailed, TradeoffError
from tradeoff.studies.execution import confirm as confirmation
from tradeoff.studies.execution.confirm import confirm_stored
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import run_study


@pytest.fixture(autouse=True)
def _one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (runner, confirmation):
        monkeypatch.setattr(module, "TrialServer", SharedTrialServer)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a.db"


def run(config: StudyConfig, storage: str, **settings: Any) -> tuple[optuna.Study, Recorder]:
    display = settings.pop("display", None) or Recorder()
    return run_study(config, storage=storage, display=display, cache=cache_folder(), **settings), display


def outcomes(study: optuna.Study) -> list[str | None]:
    return [trial.user_attrs.get("outcome") for trial in study.trials]


def configurations(study: optuna.Study) -> list[tuple[int, int]]:
    return [
        (trial.params["per_device_train_batch_size"], trial.params["gradient_accumulation_steps"]) for trial in study.trials
    ]


def test_a_study_runs_to_its_number_of_trials(storage: str) -> None:
    study, display = run(tiny_study(), storage)
    assert outcomes(study) == ["completed"] * 3
    assert [record.number for record in display.ended] == [0, 1, 2]
    assert len(study.best_trials) >= 1


def test_a_study_goes_on_to_the_same_number_and_then_has_nothing_to_do(storage: str) -> None:
    run(tiny_study(trials=1), storage)
    study, display = run(tiny_study(trials=2), storage)
    assert (len(study.trials), len(display.started)) == (2, 1)
    study, display = run(tiny_study(trials=2), storage)
    assert (len(study.trials), len(display.started)) == (2, 0)


def test_a_seeded_sampler_goes_on_instead_of_repeating_its_first_draw(storage: str) -> None:
    space = tiny_study().space.model_dump() | {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}}
    run(tiny_study(space=space, trials=1), storage)
    study, _ = run(tiny_study(space=space, trials=2), storage)
    rates = [trial.params["learning_rate"] for trial in study.trials]
    assert rates[0] != rates[1]


def test_a_grid_ends_by_itself_with_every_configuration_tried(storage: str) -> None:
    study, display = run(tiny_study(sampler="grid", trials=20), storage)
    assert sorted(configurations(study)) == [(8, 1), (8, 2), (16, 1), (16, 2)]
    assert display.messages[-1] == "every configuration of the grid has been tried"


def test_equal_learning_classes_are_trained_once_and_derived_trials_are_free(storage: str) -> None:
    # 16 = 16 x 1 = 8 x 2: three classes in four configurations.
    study, _ = run(tiny_study(sampler="grid", trials=3, reuse="effective-batch"), storage)
    trained = [trial for trial in study.trials if "training" in read_attributes(trial.user_attrs)]
    derived = [trial for trial in study.trials if "derived_from" in trial.user_attrs]
    assert len(trained) == 3
    assert len(derived) in (0, 1)  # the grid's order decides whether the fourth comes before the end


def test_the_decoupled_search_covers_every_configuration_with_a_training_for_each_class(storage: str) -> None:
    study, _ = run(tiny_study(sampler="decoupled", trials=20, reuse="effective-batch"), storage)
    trained = [trial for trial in study.trials if "training" in read_attributes(trial.user_attrs)]
    assert 1 <= len(trained) <= 3
    completed = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len({tuple(trial.params.values()) for trial in completed}) == len(completed) == 4


def test_a_budget_that_some_configurations_break_prunes_those_and_completes_others(storage: str) -> None:
    space = tiny_study().space.model_dump() | {"per_device_train_batch_size": [8, 64]}
    study, _ = run(tiny_study(sampler="grid", trials=4, space=space, limits={"peak_memory_mib": 9}), storage)
    by_batch: dict[int, set[TrialState]] = {8: set(), 64: set()}
    for trial, (batch, _) in zip(study.trials, configurations(study), strict=True):
        by_batch[batch].add(trial.state)
    assert by_batch == {8: {TrialState.COMPLETE}, 64: {TrialState.PRUNED}}
    assert all(trial.params["per_device_train_batch_size"] == 8 for trial in study.best_trials)


def test_five_failures_in_a_row_end_the_study_with_the_last_error(storage: str) -> None:
    job = tiny_job(data_seed=11)
    facts = prepared(job)
    display = Recorder(on_start=lambda *_: shutil.rmtree(Path(facts["folder"]) / "train", ignore_errors=True))
    try:
        with pytest.raises(StudyFailed, match=r"^5 trials in a row failed; the last one: FileNotFoundError: .*train"):
            run(tiny_study(job=job.model_dump(), trials=20), storage, display=display)
    finally:
        shutil.rmtree(facts["folder"])
        prepared.cache_clear()
    trials = optuna.load_study(study_name="tiny", storage=storage).trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 5
    assert all(read_attributes(trial.user_attrs)["traceback"].startswith("Traceback") for trial in trials)


class KillsFirstTrial(Recorder):
    """A display that kills the first trial it hears of."""

    def progress(self, event: Mapping[str, Any]) -> None:
        if self.started[-1][0] == 0 and Children().trials():
            os.kill(only_trial(), signal.SIGKILL)


def test_a_failure_does_not_count_and_the_study_goes_on(storage: str) -> None:
    study, _ = run(tiny_study(trials=2), storage, display=KillsFirstTrial())
    assert outcomes(study) == ["failed", "completed", "completed"]


def test_no_trial_starts_after_the_timeout(storage: str) -> None:
    study, display = run(tiny_study(trials=20), storage, timeout_s=0)
    assert study.trials == []
    assert display.messages[-1] == "the time is up; rerun the same command to resume"


def test_what_the_device_lacks_is_said_once_and_never_tried(storage: str) -> None:
    if "fp16" in shared_server().describe_device()["precisions"]:
        pytest.skip("needs a device without fp16")
    space = tiny_study().space.model_dump() | {"per_device_train_batch_size": 8, "precision": ["fp32", "fp16"]}
    study, display = run(tiny_study(space=space, sampler="grid", trials=20), storage)
    assert len([line for line in display.messages if line.startswith("fp16 left out")]) == 1
    assert {trial.params["precision"] for trial in study.trials} == {"fp32"}


def test_interrupting_stores_the_trial_and_tries_its_configuration_first_next_time(storage: str) -> None:
    config = tiny_study(trials=2)
    press = Recorder(on_start=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(config, storage, display=press)
    interrupted, waiting = optuna.load_study(study_name="tiny", storage=storage).trials
    assert (interrupted.state, interrupted.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert waiting.state == TrialState.WAITING
    study, display = run(config, storage)
    assert display.started[0] == (1, press.started[0][1])
    # A configuration that another one settles may be drawn between: it is free.
    run_here = [outcome for outcome in outcomes(study) if outcome != "skipped"]
    assert run_here == ["interrupted", "completed", "completed"]


def test_an_interrupted_grid_is_still_tried_as_a_whole(storage: str) -> None:
    config = tiny_study(sampler="grid", trials=20)
    with pytest.raises(KeyboardInterrupt):
        run(config, storage, display=Recorder(on_start=lambda *_: os.kill(os.getpid(), signal.SIGINT)))
    study, _ = run(config, storage)
    assert outcomes(study) == ["interrupted", *["completed"] * 4]
    assert sorted(configurations(study)[1:]) == [(8, 1), (8, 2), (16, 1), (16, 2)]


def test_the_signal_handlers_of_the_caller_are_put_back(storage: str) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(tiny_study(trials=1), storage)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dataset": "absent.csv"}, r"absent\.csv"),
        ({"dataset": "reviews.csv", "label_column": "label"}, "label_column must name a column"),
        ({"dataset": "reviews.csv", "label_column": "stars", "num_labels": 3}, "label"),
        ({"dataset": "reviews.csv", "text_column": "holes", "label_column": "stars"}, "must have no nulls"),
    ],
    ids=("missing file", "missing column", "label out of range", "nulls"),
)
def test_data_that_cannot_be_used_is_a_sentence_and_leaves_no_database(
    settings: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    rows = "".join(f"good,{'' if row == 7 else 'x'},{row % 6}\n" for row in range(120))
    (tmp_path / "reviews.csv").write_text("text,holes,stars\n" + rows)
    job = tiny_job(**(settings | {"dataset": str(tmp_path / settings["dataset"])}))
    with pytest.raises(TradeoffError, match=problem) as caught:
        run(tiny_study(job=job.model_dump()), f"sqlite:///{tmp_path}/a.db")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.csv"]


def test_a_batch_above_the_training_samples_leaves_no_database(tmp_path: Path) -> None:
    space = tiny_study().space.model_dump() | {"per_device_train_batch_size": [8, 65]}
    with pytest.raises(TradeoffError, match="must not exceed the 64 training samples, got 65"):
        run(tiny_study(space=space), f"sqlite:///{tmp_path}/a.db")
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_another_job_is_left_as_it_is(storage: str) -> None:
    run(tiny_study(trials=1), storage)
    with pytest.raises(TradeoffError, match=r"job\.epochs: 1\.0 -> 2\.0"):
        run(tiny_study(job=tiny_job(epochs=2).model_dump()), storage)
    assert len(optuna.load_study(study_name="tiny", storage=storage).trials) == 1


def test_words_and_f1_go_through_a_study_and_other_labels_under_the_same_name_do_not(storage: str, tmp_path: Path) -> None:
    rows = [
        f'"the food was {("awful", "fine", "great")[row % 3]}, really",{("bad", "fair", "good")[row % 3]}' for row in range(120)
    ]
    data = tmp_path / "reviews.csv"
    data.write_text("\ufefftext,label\n" + "\n".join(rows))
    job = tiny_job(dataset=str(data), num_labels=3).model_dump()
    config = tiny_study(job=job, objectives=("f1", "train_time_s"), trials=1)
    study, _ = run(config, storage)
    assert 0 <= study.trials[0].values[0] <= 1
    assert study.user_attrs["baselines"]["f1"] < study.user_attrs["baselines"]["accuracy"]
    data.write_text(data.read_text(encoding="utf-8").replace("good", "fair", 1), encoding="utf-8")
    with pytest.raises(TradeoffError, match=r"the content of .*reviews\.csv \(train\) must be that which the study 'tiny'"):
        run(config.model_copy(update={"trials": 2}), storage)
    with pytest.raises(TradeoffError, match=r"the content of .*reviews\.csv"):
        confirm_stored(load_study("tiny", open_storage(storage)), [0], cache=cache_folder())
    assert len(optuna.load_study(study_name="tiny", storage=storage).trials) == 1


SCRIPT = """
import sys
from pathlib import Path

from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.workers.run import run_study

print("script begins", flush=True)
study = run_study(load_config(Path("study.yaml")), storage="sqlite:///a.db", cache=Path(sys.argv[1]))
print("script ends with", len(study.trials), "trial", flush=True)
"""


def test_a_script_needs_no_main_guard_and_its_folder_shadows_no_library(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "study.yaml").write_text(json.dumps(tiny_study(trials=1).plain()))
    for name in ("evaluate.py", "datasets/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise ImportError('taken from the working folder')")
    command = [sys.executable, "script.py", str(cache_folder())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["script begins", "script ends with 1 trial"]), done.stderr


def refused(folder: Path, *arguments: str) -> str:
    """What the real command says on standard error when it refuses."""
    command = [sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()", "run", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "TRADEOFF_STORAGE"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_a_typo_in_the_study_file_ends_with_one_sentence_and_no_database(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("job:\n  epoch: 1\n")
    assert refused(tmp_path, "study.yaml") == "tradeoff: study.yaml: unknown key 'job.epoch'; did you mean 'epochs'?\n"
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_a_missing_data_file_ends_with_one_sentence_and_no_database(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("job: {dataset: absent.csv}\n")
    errors = refused(tmp_path, "study.yaml")
    assert errors.startswith("tradeoff: ")
    assert "absent.csv" in errors
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
