"""Trials as runs of each tracker's own local backend, read back by its own reader."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import SharedTrialServer, cache_folder, tiny_study
from stored_studies import completed, make_study, out_of_memory, params
from typer.testing import CliRunner

from tradeoff.studies.cli.main import app
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.owner import Owner
from tradeoff.studies.storage.stored_study import StoredStudy
from tradeoff.studies.tracking.tracking import Tracking
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import run_study

CURVE = [
    {"epoch": 1.0, "num_samples": 100, "train_time_s": 9.0, "loss": 1.2, "eval_loss": 1.1, "accuracy": 0.7},
    {"epoch": 2.0, "num_samples": 200, "train_time_s": 18.0, "loss": 0.9, "eval_loss": 1.0, "accuracy": 0.79},
]
TRAINED = completed((0.79, 20.0, 1000.0), params(16, 2), training={"curve": CURVE}, peak_memory_mib=1000.0)
TRIALS = (TRAINED, out_of_memory(params(64)))


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a working directory, a home and settings of its own."""
    for name in [name for name in os.environ if name.startswith(("WANDB", "MLFLOW", "TRACKIO", "TENSORBOARD"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def study() -> StoredStudy:
    return make_study(open_storage("sqlite:///a.db"), TRIALS)


def tracking(study: StoredStudy, *names: str, say: Callable[[str], None] = pytest.fail) -> Tracking:
    config = StudyConfig.model_validate({**study.user_attrs["config"], "track": names})
    return Tracking(study=study, config=config, device="Test CPU", say=say)


def directories(root: str = "runs/stars") -> list[str]:
    return sorted(path.name[:10] for path in Path(root).iterdir())


def test_mlflow_has_a_run_for_each_trial_in_an_experiment_of_the_study(study: StoredStudy) -> None:
    mlflow = pytest.importorskip("mlflow")
    tracking(study, "mlflow").finish()
    assert Path("mlflow.db").is_file()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("stars")
    trained, pruned = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.run_name)
    assert (trained.info.run_name, trained.info.status) == ("trial 0", "FINISHED")
    assert trained.data.params["per_device_train_batch_size"] == "16"
    assert trained.data.params["effective_batch_size"] == "32"
    assert (trained.data.metrics["accuracy"], trained.data.metrics["peak_memory_mib"]) == (0.79, 1000.0)
    assert trained.data.tags["accuracy from"] == "measured"
    history = client.get_metric_history(trained.info.run_id, "curve/accuracy")
    assert [(point.step, point.value) for point in history] == [(100, 0.7), (200, 0.79)]
    assert pruned.data.tags["outcome"] == "out_of_memory"
    assert pruned.data.metrics["memory_shortfall_mib"] == 512.0


def test_tensorboard_has_the_curve_and_the_hyperparameters(study: StoredStudy) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("tensorboardX")
    tracking(study, "tensorboard").finish()
    assert directories() == ["trial-0000", "trial-0001"]
    events = accumulator.EventAccumulator(str(next(Path("runs/stars").glob("trial-0000*"))))
    events.Reload()
    assert [(event.step, round(event.value, 2)) for event in events.Scalars("accuracy")] == [(100, 0.7), (200, 0.79)]
    assert events.Scalars("trial/peak_memory_mib")[0].value == 1000.0
    parameters = events.SummaryMetadata("_hparams_/session_start_info")
    assert b"per_device_train_batch_size" in parameters.plugin_data.content


def test_wandb_stays_offline_for_a_user_who_is_not_logged_in(study: StoredStudy) -> None:
    pytest.importorskip("wandb")
    tracking(study, "wandb").finish()
    runs = sorted(path for path in Path("wandb").iterdir() if path.name.startswith("offline-run-"))
    assert len(runs) == 2
    written = b"".join(path.read_bytes() for path in Path("wandb").glob("offline-run-*/*.wandb"))
    for word in (b"per_device_train_batch_size", b"out_of_memory", b"peak_memory_mib", b"stars"):
        assert word in written


def test_trackio_keeps_the_trials_in_its_own_database(study: StoredStudy) -> None:
    pytest.importorskip("trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(Path("trackio").absolute())}
    code = """
import trackio
from tradeoff.studies.storage.opening import load_study, open_storage
from test_tracking import tracking
tracking(load_study("stars", open_storage("sqlite:///a.db")), "trackio").finish()
trained, pruned = sorted(trackio.Api().runs("stars"), key=lambda run: run.name)
assert trained.config["per_device_train_batch_size"] == 16, trained.config
assert pruned.config["outcome"] == "out_of_memory", pruned.config
print(trained.name)
"""
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    written = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    command = [Path(sys.executable).with_name("trackio"), "get", "metric", "--json", "--project", "stars"]
    command += ["--run", written.stdout.splitlines()[0], "--metric", "accuracy"]
    read = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [(each["step"], each["value"]) for each in json.loads(read.stdout)["values"]][:1] == [(100, 0.7)]


def test_a_trial_is_written_once_however_often_a_study_is_resumed(study: StoredStudy) -> None:
    pytest.importorskip("tensorboardX")
    tracking(study, "tensorboard").finish()
    before = sorted(Path("runs").rglob("events*"))
    tracking(study, "tensorboard").finish()
    assert sorted(Path("runs").rglob("events*")) == before
    study.add_trial(completed((0.7, 10.0, 2000.0), params(32)))
    tracking(study, "tensorboard").finish()
    assert directories() == ["trial-0000", "trial-0001", "trial-0002"]


def test_a_tracker_that_fails_costs_one_line_and_writes_what_is_missing_in_the_next_run(study: StoredStudy) -> None:
    pytest.importorskip("tensorboardX")
    Path("runs").touch()
    said: list[str] = []
    tracking(study, "tensorboard", say=said.append).finish()
    assert len(said) == 1
    assert said[0].startswith("track: tensorboard can't be written (")
    Path("runs").unlink()
    tracking(study, "tensorboard").finish()
    assert directories() == ["trial-0000", "trial-0001"]


def test_what_a_living_worker_is_writing_is_left_to_it_and_what_a_dead_one_was_is_not(study: StoredStudy) -> None:
    pytest.importorskip("tensorboardX")
    process = subprocess.Popen(["sleep", "60"])
    owner = {**Owner.here().as_dict(), "pid": process.pid}
    owner["began"] = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    study.storage.set_study_system_attr(study.study_id, "tradeoff:tracked:0", {"tensorboard": owner})
    tracking(study, "tensorboard").finish()
    assert directories() == ["trial-0001"]
    process.kill()
    process.wait()
    tracking(study, "tensorboard").finish()
    assert directories() == ["trial-0000", "trial-0001"]


@pytest.mark.parametrize("name", ["..", ".hidden", "a study"])
def test_no_name_of_a_study_leads_out_of_the_directory(name: str) -> None:
    pytest.importorskip("tensorboardX")
    tracking(make_study(None, TRIALS, name=name), "tensorboard").finish()
    assert len(list(Path("runs").glob("*/trial-000*"))) == 2
    assert not list(Path().glob("trial*"))


def test_a_study_writes_what_it_ran_and_what_it_published(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    settings: dict[str, Any] = {"sampler": "decoupled", "reuse": "effective-batch", "track": ["tensorboard"]}
    study = run_study(tiny_study(trials=2, **settings), storage="sqlite:///b.db", cache=cache_folder())
    ran = [trial for trial in study.trials if trial.user_attrs["outcome"] != "skipped"]
    assert directories("runs/tiny") == [f"trial-{trial.number:04}" for trial in ran]


def test_a_tracker_that_is_not_installed_is_said_before_the_study_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TradeoffError, match=r"track: wandb needs .* \(pip install 'tradeoff\[wandb\]'\)"):
        CliRunner().invoke(app, ["run", "--track", "wandb", "--storage", "sqlite:///c.db"], catch_exceptions=False)
    assert not Path("c.db").exists()
