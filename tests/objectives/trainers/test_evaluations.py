"""What counts of what an evaluation returns."""

import math

import numpy as np
import pytest
import torch

from tradeoff.objectives.trainers.evaluations import numbers_of


def test_numbers_are_kept_whatever_library_they_are_of():
    metrics = {"f1": 0.5, "steps": 3, "loss": np.float32(0.25), "bleu": np.array(1.5), "wer": torch.tensor(2.0)}
    assert numbers_of(metrics) == {"f1": 0.5, "steps": 3.0, "loss": 0.25, "bleu": 1.5, "wer": 2.0}


@pytest.mark.parametrize("value", [np.array([0.5, 0.7]), torch.tensor([0.5, 0.7]), [0.5, 0.7], "0.5", None])
def test_what_is_no_single_number_is_left_out(value):
    assert numbers_of({"per_class_f1": value, "f1": 0.6}) == {"f1": 0.6}


def test_a_number_that_no_float_holds_is_infinite():
    assert numbers_of({"a": 10**400, "b": -(10**400), "c": np.float64(1e308), "d": True}) == {
        "a": math.inf, "b": -math.inf, "c": 1e308, "d": 1.0
    }  # fmt: skip


def test_an_evaluation_that_returns_nothing_has_no_numbers():
    assert numbers_of(None) == {}
