import tempfile
from pathlib import Path

import numpy as np
import pytest
from transformers import EvalPrediction

from tradeoff.objectives.trainers.accuracy import Accuracy, compute_metrics


def test_accuracy_is_the_share_of_right_predictions(tmp_path: Path):
    assert Accuracy(str(tmp_path)).compute(predictions=[0, 1, 1, 4], references=[0, 1, 2, 4]) == {"accuracy": 0.75}


def test_batches_add_up_to_one_accuracy(tmp_path: Path):
    metric = Accuracy(str(tmp_path))
    metric.add_batch(predictions=[1, 1], references=[1, 0])
    metric.add_batch(predictions=[2], references=[2])
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}


def test_the_trainer_gets_accuracy_and_macro_f1_of_the_highest_logit():
    logits = np.array([[0.1, 2.0, -1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 1.0, 0.0]])
    metrics = compute_metrics(EvalPrediction(predictions=logits, label_ids=np.array([1, 0, 2, 2])))
    # Class 0 is always right; 1 is predicted once too often, 2 once too rarely: each has an F1 of 2/3.
    assert metrics == {"accuracy": 0.75, "f1": pytest.approx((1 + 2 / 3 + 2 / 3) / 3)}


def test_logits_come_first_where_a_model_returns_more():
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    hidden = np.zeros((2, 8))
    assert compute_metrics(EvalPrediction(predictions=(logits, hidden), label_ids=np.array([1, 1])))["accuracy"] == 0.5


def test_what_others_have_in_the_temporary_directory_stays_and_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Whoever else uses the machine may have files of these names there, or directories that nobody else can open.
    for name in ("accuracy", "default_experiment-1-0.arrow", "default"):
        (tmp_path / name).write_text("another user's")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    metrics = compute_metrics(EvalPrediction(predictions=np.array([[0.0, 1.0]]), label_ids=np.array([1])))
    assert metrics["accuracy"] == 1.0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["accuracy", "default", "default_experiment-1-0.arrow"]


def test_the_random_numbers_of_a_training_are_left_alone(tmp_path: Path):
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    Accuracy(str(tmp_path)).compute(predictions=[1], references=[1])
    assert np.random.rand() == expected
