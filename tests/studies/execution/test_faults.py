"""The real command under real faults: two at once, everything killed at once, Ctrl-C at each stage, readers beside it."""

import json
import math
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
from optuna.trial import FrozenTrial, TrialState
from running import Children, Recorder, SharedTrialServer, cache_folder, is_alive, poll, tiny_job, tiny_study
from simulated_worker import small_study

from tradeoff.objectives.measurements.records import read_attributes
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.report import html_report, markdown_report
from tradeoff.studies.results.results import read_results
from tradeoff.studies.samplers import publishing
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import run_study

COMMAND = [sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A real `tradeoff`."""
    environment = {name: value for name, value in os.environ.items() if name != "TRADEOFF_STORAGE"}
    environment |= {"TRADEOFF_CACHE": str(cache_folder()), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def write_study(folder: Path, **settings: Any) -> StudyConfig:
    config = tiny_study(**settings)
    (folder / "study.yaml").write_text(json.dumps(config.plain()))
    return config


def trials_of(folder: Path, name: str = "tiny") -> list[FrozenTrial]:
    if not (folder / "tradeoff.db").exists():
        return []
    try:
        return optuna.load_study(study_name=name, storage=open_storage(str(folder / "tradeoff.db"), create=False)).trials
    except (KeyError, TradeoffError):
        return []  # its tables, or the study, are being made


def outcomes(trials: list[FrozenTrial]) -> Counter[str]:
    return Counter(trial.user_attrs.get("outcome", trial.state.name) for trial in trials)


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE and "derived_from" not in trial.user_attrs]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_two_runs_on_one_sqlite_file_share_the_study_while_a_dashboard_and_reports_read_it(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    write_study(tmp_path, sampler="grid", trials=1)
    first = start(tmp_path, "run", "study.yaml")
    processes.append(first)
    assert (first.communicate()[1], first.returncode) == (None, 0)
    dashboard = start(tmp_path, "dashboard", "--port", "0")
    processes.append(dashboard)
    assert dashboard.stdout is not None
    url = dashboard.stdout.readline().split()[2].removesuffix("/dashboard")
    write_study(tmp_path, sampler="grid", trials=4)
    runs = [start(tmp_path, "run", "study.yaml") for _ in range(2)]
    processes += runs
    num_answers = 0
    while any(run.poll() is None for run in runs):
        with urllib.request.urlopen(f"{url}/api/studies/1?after=0", timeout=60) as answer:
            assert json.load(answer)["name"] == "tiny"
        num_answers += 1
        results = read_results(load_study("tiny", open_storage(str(tmp_path / "tradeoff.db"), create=False)))
        assert markdown_report(results)
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert num_answers >= 1
    assert "locked" not in "".join(said)
    assert len(counted(trials_of(tmp_path))) == 4
    assert {trial.state for trial in trials_of(tmp_path)} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert all("reason" in trial.user_attrs for trial in trials_of(tmp_path) if trial.state == TrialState.FAIL)


def test_everything_is_killed_at_once_and_the_same_command_goes_on_to_the_same_total(
    tmp_path: Path, processes: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_study(tmp_path, sampler="grid", trials=3)
    run = start(tmp_path, "run", "study.yaml")
    processes.append(run)
    children = Children(run.pid)
    poll(lambda: len(counted(trials_of(tmp_path))) == 1 and len(trials_of(tmp_path)) == 2 and children.trials(), "trial 1")
    before = trials_of(tmp_path)[0]
    family = [run.pid, *children.servers(), *children.trials()]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    run.communicate()
    poll(lambda: not any(is_alive(pid) for pid in family), "the end of everything")
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    run_study(config, storage=str(tmp_path / "tradeoff.db"), cache=cache_folder())
    trials = trials_of(tmp_path)
    assert (trials[0].values, trials[0].params) == (before.values, before.params)
    assert len(counted(trials)) == 3
    assert len({json.dumps(trial.params, sort_keys=True) for trial in counted(trials)}) == 3
    assert all(trial.state.is_finished() for trial in trials)


class PressesAtStage(Recorder):
    """A display that presses Ctrl-C once, when a trial enters a stage."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage: str | None = stage

    def progress(self, event: Mapping[str, Any]) -> None:
        if event["stage"] == self.stage:
            self.stage = None
            os.kill(os.getpid(), signal.SIGINT)


STAGES = ("data", "probe", "train")


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_a_stage_ends_in_order_and_the_study_goes_on(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    config, storage = tiny_study(sampler="grid", trials=1), str(tmp_path / "tradeoff.db")
    with pytest.raises(KeyboardInterrupt):
        run_study(config, storage=storage, display=PressesAtStage(stage), cache=cache_folder())
    (interrupted, waiting) = trials_of(tmp_path)
    assert interrupted.user_attrs["outcome"] == "interrupted"
    # On a busy machine the trial may be a stage further by the time it hears.
    position = STAGES.index(stage)
    assert read_attributes(interrupted.user_attrs)["stage"] in STAGES[position : position + 2]
    assert Children().trials() == []
    run_study(config, storage=storage, cache=cache_folder())
    assert outcomes(trials_of(tmp_path)) == {"interrupted": 1, "completed": 1}
    assert trials_of(tmp_path)[1].number == waiting.number


class PressesBetweenTrials(Recorder):
    """A display that presses Ctrl-C when the first trial has ended."""

    def trial_ended(self, record: Any) -> None:
        super().trial_ended(record)
        os.kill(os.getpid(), signal.SIGINT)


def run_simulated(folder: Path, monkeypatch: pytest.MonkeyPatch, display: Recorder, **settings: Any) -> None:
    monkeypatch.setattr(
        "tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner())
    )
    run_study(small_study(**settings), storage=str(folder / "tradeoff.db"), display=display)


def test_ctrl_c_between_two_trials_loses_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_simulated(tmp_path, monkeypatch, PressesBetweenTrials())
    assert outcomes(trials_of(tmp_path, "small")) == {"completed": 1}
    run_simulated(tmp_path, monkeypatch, Recorder())
    assert outcomes(trials_of(tmp_path, "small")) == {"completed": 4}


def test_ctrl_c_while_results_are_published_publishes_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published, pressed = publishing._published, []

    def press_and_publish(*arguments: Any) -> Any:
        if not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return published(*arguments)

    monkeypatch.setattr(publishing, "_published", press_and_publish)
    settings: dict[str, Any] = {"sampler": "decoupled", "reuse": "effective-batch", "trials": 20}
    run_simulated(tmp_path, monkeypatch, Recorder(), **settings)
    assert pressed
    trials = trials_of(tmp_path, "small")
    completed = [tuple(trial.params.values()) for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(set(completed)) == len(completed) == 6
    assert all(trial.state.is_finished() for trial in trials)


def test_a_loss_that_is_no_number_is_stored_as_what_it_is_and_is_never_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    job = tiny_job(learning_rate=1e30).model_dump()
    for objectives, name in ((["eval_loss", "train_time_s"], "loss"), (["accuracy", "train_time_s"], "accuracy")):
        config = tiny_study(name=name, job=job, objectives=objectives, sampler="grid", trials=1)
        run_study(config, storage=str(tmp_path / "tradeoff.db"), cache=cache_folder())
    (lost,) = trials_of(tmp_path, "loss")
    assert (lost.state, lost.values, lost.user_attrs["outcome"]) == (TrialState.PRUNED, None, "diverged")
    assert not math.isfinite(read_attributes(lost.user_attrs)["training"]["curve"][-1]["eval_loss"])
    # A constant answer has an accuracy: that of the commonest label.
    (constant,) = trials_of(tmp_path, "accuracy")
    assert constant.user_attrs["outcome"] == "completed"
    assert 0 < constant.values[0] < 1
    for name in ("loss", "accuracy"):
        results = read_results(load_study(name, open_storage(str(tmp_path / "tradeoff.db"), create=False)))
        assert "<html" in html_report(results)
