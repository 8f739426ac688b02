import numpy as np
import pytest
from transformers import EvalPrediction

from tradeoff.objectives.trainers.accuracy import Accuracy, compute_metrics


def test_accuracy_is_the_share_of_right_predictions():
    assert Accuracy().compute(predictions=[0, 1, 1, 4], references=[0, 1, 2, 4]) == {"accuracy": 0.75}


def test_batches_add_up_to_one_accuracy():
    metric = Accuracy()
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


def test_nothing_is_written_to_disk(tmp_path):
    Accuracy(cache_dir=str(tmp_path)).compute(predictions=[1], references=[1])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_random_numbers_of_a_training_are_left_alone():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    Accuracy().compute(predictions=[1], references=[1])
    assert np.random.rand() == expected
