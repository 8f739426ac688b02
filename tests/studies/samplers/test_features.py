"""The places of learning classes, worked out by hand."""

import math

import numpy as np
import pytest

from tradeoff.searchspace import Categorical, FloatRange, IntRange, LearningClass, PowersOfTwo, Precision, Reuse, SearchSpace
from tradeoff.searchspace import TrialParameters as Parameters
from tradeoff.studies.samplers.features import ABSENT, Axis, Features


def learning_class(effective_batch, **values):
    return LearningClass(effective_batch_size=effective_batch, **values)


def axis(domain, name="label_smoothing_factor", *, may_be_absent=False):
    return Axis.of(name, domain, may_be_absent=may_be_absent, apart=1.0)


def distance(features, a, b):
    points = features.inputs([a, b]).points
    return float(np.linalg.norm(points[0] - points[1]))


def test_a_range_of_numbers_is_two_units_long():
    assert axis(FloatRange(0.2, 0.6)).at(0.2) == pytest.approx([-1.0])
    assert axis(FloatRange(0.2, 0.6)).at(0.5) == pytest.approx([0.5])
    assert axis(FloatRange(1e-4, 1e-2, True)).at(1e-3) == pytest.approx([0.0])
    assert axis(IntRange(1, 5)).at(4) == pytest.approx([0.5])


def test_numbers_that_span_a_decade_and_powers_of_two_are_compared_by_their_ratio():
    assert axis(Categorical((1, 10, 100))).at(10) == pytest.approx([0.0])
    assert axis(PowersOfTwo(low=2, high=8)).at(4) == pytest.approx([0.0])
    assert axis(Categorical((2, 4, 8))).at(5) == pytest.approx([0.0])


def test_zero_is_a_tenth_of_the_smallest_number_beside_it():
    decay = axis(Categorical((0.0, 0.01, 0.1)), "weight_decay")
    assert [decay.at(value)[0] for value in (0.0, 0.01, 0.1)] == pytest.approx([-1.0, 0.0, 1.0])
    assert axis(FloatRange(0.0, 0.1), "weight_decay").at(0.01) == pytest.approx([0.0])


def test_any_two_words_are_a_unit_apart_and_two_precisions_half_of_that():
    classes = [learning_class(8, optim=name, precision="fp32") for name in ("adamw_torch", "sgd", "adafactor")]
    features = Features.of([*classes, learning_class(8, optim="sgd", precision="bf16")])
    assert [distance(features, classes[a], classes[b]) for a, b in ((0, 1), (0, 2), (1, 2))] == pytest.approx([1.0] * 3)
    assert distance(features, classes[0], classes[0].replace(precision="bf16")) == pytest.approx(0.5)


def test_none_and_numbers_stand_beside_each_other():
    rank = axis(Categorical((None, 4, 8, 64)))
    (number, *none), (middle, *numbers) = rank.at(64), rank.at(None)
    assert (number, middle) == pytest.approx((1.0, 0.0))
    assert math.dist(none, numbers) == pytest.approx(1.0)


def test_true_is_not_1():
    switch = axis(Categorical((False, True)))
    assert switch.num_coordinates == 2
    assert switch.at(1) == [0.0, 0.0] != switch.at(True)


def test_a_knob_that_is_left_out_is_in_the_middle_and_a_unit_from_all_that_have_it():
    alpha = axis(Categorical((4, 10, 16)), may_be_absent=True)
    assert [math.dist(alpha.at(ABSENT), alpha.at(value)) for value in (10, 16)] == pytest.approx([1.0, math.sqrt(2)])
    without, with_it = learning_class(8, lora_rank=None), learning_class(8, lora_rank=4, lora_alpha=8)
    assert "lora_alpha" in [each.name for each in Features.of([without, with_it]).axes]


def test_what_does_not_differ_has_no_axis():
    assert [each.name for each in Features.of([learning_class(8, optim="sgd"), learning_class(16, optim="sgd")]).axes] == [
        "effective_batch_size"
    ]


def test_ways_to_compute_the_same_thing_are_one_place():
    split = [Parameters(per_device_train_batch_size=batch, gradient_accumulation_steps=16 // batch) for batch in (4, 16)]
    classes = [parameters.learning_class(1, Reuse.OFF) for parameters in split]
    assert classes[0] != classes[1]
    assert distance(Features.of(classes), *classes) == 0


def test_three_doublings_of_the_batch_are_a_unit_whatever_is_searched():
    features = Features.of([learning_class(8), learning_class(1024)])
    assert distance(features, learning_class(8), learning_class(64)) == pytest.approx(1.0)
    # Also of what is not in the space any more.
    assert distance(features, learning_class(1), learning_class(8)) == pytest.approx(1.0)


SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": PowersOfTwo(low=1, high=64),
        "learning_rate": FloatRange(1e-5, 1e-3, True),
        "weight_decay": Categorical((0.0, 0.001, 0.1)),
        "num_train_epochs": Categorical((1.0, 2.0, 4.0)),
    }
)


def shear(classes, rule):
    inputs = Features.of(
        [*classes, *(learning_class(b, learning_rate=1e-4, weight_decay=0.1, num_train_epochs=1.0) for b in (1, 64))], SPACE
    )
    return inputs.inputs(classes).shears[rule], inputs


def test_a_rate_is_tilted_by_the_batch():
    one, other = (learning_class(b, learning_rate=1e-4, weight_decay=0.1, num_train_epochs=1.0) for b in (4, 36))
    tilt, features = shear([one, other], 0)
    column = [each.name for each in features.axes].index("learning_rate")
    # Nine times the batch wants nine times the rate at an exponent of 1: two units, since three times the rate is one.
    assert tilt[1, column] - tilt[0, column] == pytest.approx(2.0)
    assert np.count_nonzero(np.delete(tilt, column, axis=1)) == 0


def test_weight_decay_is_tilted_so_that_one_time_scale_is_one_place():
    # batch / (rate x decay x samples) is the same; a hundred times the decay, a decade of the axis is a unit.
    one = learning_class(4, learning_rate=1e-4, weight_decay=0.001, num_train_epochs=1.0)
    other = learning_class(8, learning_rate=1e-5, weight_decay=0.01, num_train_epochs=2.0)
    tilt, features = shear([one, other], 1)
    column = [each.name for each in features.axes].index("weight_decay")
    places = features.inputs([one, other]).points[:, column] - tilt[:, column]
    assert places[0] == pytest.approx(places[1])


def test_without_weight_decay_there_is_no_time_scale():
    classes = [learning_class(b, learning_rate=1e-4, weight_decay=0.0, num_train_epochs=1.0) for b in (4, 36)]
    assert np.count_nonzero(shear(classes, 1)[0]) == 0


def test_precision_names_are_told_from_the_enumeration_alone():
    features = Features.of([learning_class(8, precision=precision) for precision in (Precision.FP32, Precision.BF16)])
    assert distance(features, learning_class(8, precision="fp32"), learning_class(8, precision="bf16")) == pytest.approx(0.5)
