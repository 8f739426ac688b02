"""A job of the user's own in a study file, and jobs that earlier versions stored."""

import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from memory_storage import in_memory
from typer.testing import CliRunner

from tradeoff.objectives.job.jobs import CustomJob, TextClassificationJob, parse_job
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.searchspace import Reuse
from tradeoff.studies.cli.main import app
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.results import read_results
from tradeoff.studies.storage.opening import SCHEMA, SCHEMA_ATTRIBUTE, check_schema, load_study, open_storage
from tradeoff.studies.storage.study import open_study

DEVICE = {"kind": "cpu", "name": "Test CPU", "total_memory_mib": 8192.0, "precisions": ["fp32"]}


def loaded(folder: Path, job: dict[str, Any], *overrides: str, **keys: Any) -> StudyConfig:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"job": job, **keys}))
    return load_config(path, overrides=overrides)


def test_build_makes_it_a_job_of_the_users_own(tmp_path: Path) -> None:
    job = loaded(tmp_path, {"build": "mine:build", "epochs": 2, "kwargs": {"size": 3}}).job
    assert isinstance(job, CustomJob)
    assert (job.metric, job.epochs, job.kwargs) == ("eval_loss", 2, {"size": 3})
    assert isinstance(loaded(tmp_path, {"epochs": 2}).job, TextClassificationJob)


def test_the_module_is_looked_for_beside_the_study_file(tmp_path: Path) -> None:
    assert loaded(tmp_path, {"build": "mine:build"}).job.python_path == str(tmp_path)
    assert loaded(tmp_path, {"build": "mine:build", "python_path": "code"}).job.python_path == str(tmp_path / "code")
    assert loaded(tmp_path, {"build": "mine:build", "python_path": "/code"}).job.python_path == "/code"


def test_a_study_is_judged_by_the_jobs_metric_unless_it_says_by_what_else(tmp_path: Path) -> None:
    job = {"build": "mine:build", "metric": "mae", "direction": "minimize"}
    assert loaded(tmp_path, job).objectives == ("eval_mae", "train_time_s", "peak_memory_mib")
    assert loaded(tmp_path, job, objectives=["mae", "loss", "energy_j"]).objectives == ("eval_mae", "eval_loss", "energy_j")
    assert loaded(tmp_path, job | {"metric": None, "direction": None}).objectives == ("train_time_s", "peak_memory_mib")
    assert GOALS["eval_mae"].direction == "minimize"


@pytest.mark.parametrize(
    ("job", "keys", "message"),
    [
        ({"build": "mine"}, {}, r'job\.build: build must be "module:function", such as my_module:build, got \'mine\''),
        ({"build": "m:b", "epoch": 1}, {}, r"unknown key 'job\.epoch'; did you mean 'epochs'\?"),
        ({"build": "m:b", "max_length": 64}, {}, r"unknown key 'job\.max_length'"),
        ({"build": "m:b", "metric": "mape"}, {}, "direction must say whether to minimize or to maximize the metric eval_mape"),
        (
            {"build": "m:b", "metric": "loss", "direction": "maximize"},
            {},
            "direction must be minimize for the metric",
        ),
        ({"build": "m:b", "kwargs": {"a": datetime.date(2020, 1, 1)}}, {}, r"job\.kwargs"),
        (
            {"build": "m:b", "metric": None},
            {"objectives": ["loss", "train_time_s"]},
            r"set job\.metric to a key of",
        ),
        (
            {"build": "m:b"},
            {"objectives": ["f1", "train_time_s"]},
            "an objective must be one of accuracy, eval_loss,",
        ),
        ({"epoch": 1}, {}, r"unknown key 'job\.epoch'; did you mean 'epochs'\?"),
        ({"epochs": 0}, {}, r"job\.epochs: Input should be greater than 0, got 0"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(tmp_path: Path, job: dict[str, Any], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TradeoffError, match=message):
        loaded(tmp_path, job, **keys)


def test_a_job_says_that_its_learning_depends_on_the_split(tmp_path: Path) -> None:
    assert loaded(tmp_path, {"build": "m:b", "shares_accuracy": False}).effective_reuse() is Reuse.OFF


def test_a_stored_study_knows_the_users_metric_and_goes_on_from_a_folder_that_has_moved(tmp_path: Path) -> None:
    job = {"build": "mine:build", "metric": "quality", "direction": "maximize"}
    config = loaded(tmp_path, job, "name=moved")
    storage = in_memory()
    study = open_study(config, storage, DEVICE)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert read_results(study).objectives == config.objectives
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    open_study(loaded(elsewhere, job, "name=moved"), storage, DEVICE)
    with pytest.raises(TradeoffError, match=r"job\.epochs: 3\.0 -> 4\.0"):
        open_study(loaded(elsewhere, job | {"epochs": 4}, "name=moved"), storage, DEVICE)


# As version 0.1.0 stored it, before there were other jobs and other objectives.
STORED = {
    "name": "tiny",
    "job": {
        "model": "embedded", "dataset": "embedded", "dataset_config": None, "eval_dataset": None, "train_split": "train",
        "eval_split": "test", "text_column": "text", "label_column": "label", "num_labels": 5, "train_samples": 64,
        "eval_samples": 32, "data_seed": 42, "max_length": 32, "padding": "max_length", "epochs": 1.0, "learning_rate": 0.005,
        "lr_scheduler_type": "linear", "warmup_steps": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch",
        "eval_batch_size": 32, "seed": 42, "deterministic": True, "shares_accuracy": True, "trust_remote_code": False,
    },
    "space": {
        "per_device_train_batch_size": [8, 16], "gradient_accumulation_steps": [1, 2], "gradient_checkpointing": False,
        "precision": "fp32", "learning_rate": None, "dataloader_num_workers": None, "dataloader_pin_memory": None,
    },
    "limits": {"peak_memory_mib": None, "effective_batch_size": {"min": None, "max": None}, "trial_time_s": None},
    "objectives": ["accuracy", "train_time_s", "peak_memory_mib"],
    "sampler": "random",
    "sampler_seed": 0,
    "reuse": "off",
    "trials": 3,
}  # fmt: skip


def test_a_study_of_version_0_1_0_is_one_sentence_that_names_the_last_version_that_reads_it(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "a.db"))
    study = optuna.create_study(study_name="tiny", storage=storage, directions=["maximize", "minimize", "minimize"])
    study.set_user_attr("device", {"kind": "cpu", "name": "Test CPU"})
    study.set_user_attr("tradeoff_version", "0.1.0")
    study.set_user_attr("config", STORED)
    config = StudyConfig.model_validate(STORED)
    assert parse_job(STORED["job"]) == config.job
    sentence = (
        r"'tiny' was created by tradeoff 0\.1\.0, .*0\.1\.0 is the last version that reads it \(pip install tradeoff==0\.1\.0\)"
    )
    with pytest.raises(TradeoffError, match=sentence):
        open_study(config, storage, DEVICE)
    with pytest.raises(TradeoffError, match=sentence):
        load_study(None, storage)
    for command in ("front", "report", "confirm", "dashboard"):
        shown = CliRunner().invoke(app, [command, "--storage", str(tmp_path / "a.db")])
        assert isinstance(shown.exception, TradeoffError), (command, shown.output)


def test_a_study_of_a_later_version_names_that_version(tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match=r"tradeoff 9\.0, .*pip install tradeoff==9\.0"):
        check_schema("tiny", {"config": STORED, "tradeoff_version": "9.0", SCHEMA_ATTRIBUTE: SCHEMA + 1})
