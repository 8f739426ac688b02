"""A front shows what all trainings together lead to expect, with what was measured beside it."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import simulated_runner as simulated
import yaml
from typer.testing import CliRunner

from tradeoff.searchspace import TrialParameters
from tradeoff.studies.cli.main import app
from tradeoff.studies.results.expectation import EXPECTED
from tradeoff.studies.results.results import read_results
from tradeoff.studies.storage.opening import load_study, open_storage

STUDY = """
name: simulated
job: {model: embedded, dataset: embedded, train_samples: 1000, epochs: 3}
space:
  per_device_train_batch_size: [1, 2, 4, 8, 16]
  gradient_accumulation_steps: [1, 2, 4, 8]
  gradient_checkpointing: [false, true]
  precision: fp32
memory_estimate: "off"
stop_below_gain: 0
seeds_per_class: 1
trials: 60
"""


def searched(folder: Path, *options: str, seed: int = 0) -> str:
    """Run a study to its end and return its storage."""
    held = simulated.SimulatedRunner(seed=seed, noise=0.03)
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(STUDY)
    storage = str(folder / "a.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(held))
        result = CliRunner().invoke(app, ["run", str(folder / "study.yaml"), "--storage", storage, *options])
    assert result.exit_code == 0, result.output
    return storage


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study that was searched to its end."""
    return searched(tmp_path_factory.mktemp("searched"))


def shown(storage: str, output_format: str = "json") -> str:
    return CliRunner().invoke(app, ["front", "--storage", storage, "--format", output_format]).stdout


def truth(row: dict[str, Any]) -> float:
    return simulated.accuracy(TrialParameters(**row["params"]))


def test_what_is_expected_is_nearer_to_the_truth_than_what_was_measured(tmp_path: Path, storage: str) -> None:
    of_expected, of_measured = 0.0, 0.0
    for each in (storage, searched(tmp_path / "1", seed=1), searched(tmp_path / "2", seed=2)):
        rows = json.loads(shown(each))
        assert rows
        of_expected += sum(abs(row["accuracy"] - truth(row)) for row in rows) / len(rows)
        of_measured += sum(abs(row["measured"]["accuracy"] - truth(row)) for row in rows) / len(rows)
    assert of_expected < 0.9 * of_measured


def test_trials_keep_what_they_measured_and_an_export_has_both(tmp_path: Path, storage: str) -> None:
    rows = [row for row in json.loads(shown(storage)) if row["trial"] is not None]
    results = read_results(load_study("simulated", open_storage(storage)))
    assert any(row["measured"]["accuracy"] != row["accuracy"] for row in rows)
    for row in rows:
        assert results.trial(row["trial"]).values["accuracy"] == row["measured"]["accuracy"]
        assert row["accuracy_std"] > 0
    # No row of the front is better than another in nothing, by what is expected.
    keys = [(-row["accuracy"], row["train_time_s"], row["peak_memory_mib"]) for row in rows]
    assert not any(all(x <= y for x, y in zip(a, b, strict=True)) and a != b for a in keys for b in keys)
    chosen = tmp_path / "chosen"
    arguments = ["export", "--storage", storage, "--maximize", "accuracy", "--output", str(chosen)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    exported = yaml.safe_load((chosen / "tradeoff.yaml").read_text())["values"]["accuracy"]
    assert exported["value"] == max(row["accuracy"] for row in rows)
    assert exported["measured"] in {row["measured"]["accuracy"] for row in rows}
    # No value is said to be measured that was not.
    assert "measured" not in {exported["source"], *(row["sources"]["accuracy"] for row in rows)}
    assert "where its own reached" in (chosen / "README.md").read_text()
    assert "where its own reached" in (chosen / "train.py").read_text()


def test_table_and_csv_have_what_was_measured(storage: str) -> None:
    rows = json.loads(shown(storage))
    lines = list(csv.DictReader(io.StringIO(shown(storage, "csv"))))
    assert [float(line["measured_accuracy"]) for line in lines] == [row["measured"]["accuracy"] for row in rows]
    table = " ".join(shown(storage, "table").split())
    assert "accuracy: expected by all trainings together" in table
    assert f"{rows[0]['measured']['accuracy']:.3f}" in table


@pytest.mark.parametrize("is_older", [True, False])
def test_expectations_that_a_later_training_has_overtaken_are_not_shown(tmp_path: Path, storage: str, is_older: bool) -> None:
    storage = str(shutil.copytree(Path(storage).parent, tmp_path / "copy") / "a.db")
    study = load_study("simulated", open_storage(storage))
    stored = study.user_attrs[EXPECTED]
    study.set_user_attr(EXPECTED, stored[1:] if is_older else stored)
    assert all(bool(row["measured"]) != is_older for row in json.loads(shown(storage)))


def test_without_the_search_values_are_those_that_were_measured(tmp_path: Path) -> None:
    storage = searched(tmp_path, "--set", "sampler=random", "--set", "trials=8")
    assert not any(row["measured"] for row in json.loads(shown(storage)))


def test_a_confirmation_counts_in_what_is_expected(tmp_path: Path, storage: str) -> None:
    storage = str(shutil.copytree(Path(storage).parent, tmp_path / "copy") / "a.db")
    study = load_study("simulated", open_storage(storage))
    before, derived = (
        study.user_attrs[EXPECTED],
        [row for row in json.loads(shown(storage)) if "trained in" in str(row["sources"])],
    )
    assert derived
    held = simulated.SimulatedRunner(seed=9, noise=0.03)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tradeoff.studies.execution.confirm.TrialServer", lambda: simulated.SimulatedServer(held))
        arguments = ["confirm", "--storage", storage, "--trial", str(derived[0]["trial"])]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    after = load_study("simulated", open_storage(storage)).user_attrs[EXPECTED]
    assert [each["learning_class"] for each in after] == [each["learning_class"] for each in before]
    assert after != before
    assert all(row["measured"] for row in json.loads(shown(storage)))
