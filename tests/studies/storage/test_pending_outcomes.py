"""Pending outcomes on disk, and files among them that are none."""

import json
import os
from pathlib import Path
from typing import Any

import optuna
import pytest

from tradeoff.objectives.measurements.outcome import Completed, Measurements, Memory, TrainingResult
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.storage.pending_outcomes import PendingOutcomes

PARAMETERS = TrialParameters(per_device_train_batch_size=8)
TRAINING = TrainingResult(
    memory=Memory(peak_memory_mib=None),
    train_time_s=1.0,
    eval_time_s=0.1,
    num_steps=1,
    num_samples=8,
    samples_per_s=8.0,
    train_loss=float("nan"),
)
OUTCOME = Completed(measurements=Measurements(trial_time_s=2.0, training=TRAINING))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file of an outcome."""
    trial = optuna.create_study(study_name="a").ask()
    PendingOutcomes(directory=tmp_path, study="a", say=pytest.fail).keep(trial, PARAMETERS, OUTCOME)
    (path,) = tmp_path.iterdir()
    return path


def test_an_outcome_is_read_as_it_was_kept(kept: Path) -> None:
    (pending,) = PendingOutcomes(directory=kept.parent, study="a", say=pytest.fail).all()
    assert (pending.path, pending.trial, pending.parameters) == (kept, 0, PARAMETERS)
    assert str(pending.outcome) == str(OUTCOME)  # a NaN is no other NaN


def changed(name: str, value: Any) -> Any:
    return lambda text: json.dumps(json.loads(text) | {name: value})


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "", lambda text: text[: len(text) // 2], lambda text: "\0" * len(text), lambda _: "[" * 100_000,
        lambda _: '{"study": ' * 100_000, lambda text: text.replace('"outcome": {', '"outcome": {"a": ' + "[" * 100_000, 1),
        lambda _: "[1]", lambda _: "1", lambda _: "null", lambda _: '"a"', lambda _: '{"study": "a"}', lambda _: "NaN",
        lambda _: '{"study": ' + "9" * 5000 + "}",
        *(changed("trial", value) for value in (float("inf"), float("nan"), None, [], "x")),
        *(changed("started", value) for value in (5, "soon", None, {})),
        *(changed("parameters", value) for value in ([1], "x", {"no_such": 1}, None)),
        *(changed("outcome", value) for value in ([], {}, {"kind": "no"}, {"kind": "completed", "measurements": 1}, 1e999)),
        *(changed("owner", value) for value in ([], {}, None, 5)),
        lambda text: text.replace('"trial_time_s": 2.0', '"trial_time_s": Infinity'), os.mkfifo,
        None,
    ],
)  # fmt: skip
def test_a_file_that_is_no_outcome_is_said_once_and_left_alone(damage: Any, kept: Path) -> None:
    whole = kept.read_text()
    other = kept.with_name("other.json")
    if damage is None or damage is os.mkfifo:
        (damage or os.mkdir)(other)
    else:
        other.write_text(damage(whole))
        assert other.read_text() != whole
    said: list[str] = []
    outcomes = PendingOutcomes(directory=kept.parent, study="a", say=said.append)
    for _ in range(2):
        assert [pending.path for pending in outcomes.all()] == [kept]
    assert [line.partition(" (")[0] for line in said] == [f"the pending outcome {other} can't be read"]
    assert said[0].endswith(") and is skipped; remove it")
    assert other.exists()
