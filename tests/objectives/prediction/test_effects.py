"""Lines in the micro-batch that were not measured, from the effects of knobs on those that were."""

import itertools
import math

import pytest

from tradeoff.objectives.prediction.effects import Effects, Point
from tradeoff.searchspace import Values

KNOBS = {
    "precision": ["fp32", "bf16"],
    "checkpointing": [False, True],
    "model": ["small", "large"],
    "length": [64, 128, 256],
    "rank": [None, 4, 16],
    "unused": [0.0, 0.1],
}
FIRST = {name: values[0] for name, values in KNOBS.items()}
EVERY = [dict(zip(KNOBS, combination, strict=True)) for combination in itertools.product(*KNOBS.values())]
# Each end of a number and each other value, beside the first ones.
ONE_BY_ONE = [FIRST | {name: value} for name, values in KNOBS.items() for value in (values if None in values else values[-1:])]


def memory_mib(values, batch):
    activations = 6.1 * (0.55 if values["precision"] == "bf16" else 1) * (0.12 if values["checkpointing"] else 1)
    activations *= (3 if values["model"] == "large" else 1) * values["length"] / 64
    weights = (900 if values["model"] == "large" else 300) * (0.5 if values["rank"] else 1) + 2 * (values["rank"] or 0)
    return 100 + weights + activations * batch


def measured(families, batches=(4, 32), *, function=memory_mib):
    return [
        Point(key=Values(**values), batch=batch, value=function(values, batch), relative_std=0.01)
        for values in families
        for batch in batches
    ]


def test_a_value_that_was_measured_beside_the_first_ones_is_known_beside_others():
    effects = Effects(measured(ONE_BY_ONE), expected=[Values(**values) for values in EVERY])
    errors, known = [], 0
    for values, batch in itertools.product(EVERY, (4, 32)):
        if (predicted := effects.predict(Values(**values), batch)) is not None:
            error = math.log(predicted[0] / memory_mib(values, batch))
            errors.append((abs(error), abs(error) / predicted[1]))
            known += 1
    assert len(ONE_BY_ONE) * 8 < len(EVERY)
    assert known > 0.8 * 2 * len(EVERY)
    assert sorted(errors)[len(errors) // 2][0] < 0.1
    assert max(deviations for _, deviations in errors) < 3  # what is off is said to be uncertain


def test_what_does_not_depend_on_a_knob_is_predicted_as_measured():
    effects = Effects(measured([FIRST, FIRST | {"unused": 0.1}, FIRST | {"length": 256}]))
    value, error = effects.predict(Values(**(FIRST | {"length": 256, "unused": 0.1})), 32)
    assert value == pytest.approx(memory_mib(FIRST | {"length": 256}, 32), rel=0.05)
    assert error < 0.25


def test_a_value_that_was_never_measured_is_not_predicted():
    effects = Effects(measured([FIRST, FIRST | {"length": 256}]))
    assert effects.predict(Values(**(FIRST | {"model": "large"})), 32) is None
    assert effects.predict(Values(**FIRST, other="new"), 32) is None
    assert Effects([]).predict(Values(**FIRST), 32) is None


def test_a_number_between_two_measured_ones_is_interpolated_on_its_scale():
    effects = Effects(measured([FIRST, FIRST | {"length": 256}]))
    between = FIRST | {"length": 128}
    assert effects.predict(Values(**between), 32)[0] == pytest.approx(memory_mib(between, 32), rel=0.05)


def test_true_is_not_one():
    on, off = ({"switch": value} for value in (True, False))
    points = measured([on, off], function=lambda values, batch: batch * (2 if values["switch"] else 1))
    assert Effects(points).predict(Values(switch=True), 8)[0] == pytest.approx(16, rel=0.1)
    assert Effects(points).predict(Values(switch=1), 8) is None


def test_combinations_that_differ_from_the_sum_make_predictions_less_certain():
    def surprising(values, batch):
        both = values["precision"] == "bf16" and values["length"] == 256
        return memory_mib(values, batch) * (2.5 if both else 1)

    families = [*ONE_BY_ONE, *(FIRST | {"precision": "bf16", "length": 256, "unused": unused} for unused in KNOBS["unused"])]
    asked = Values(**(FIRST | {"checkpointing": True, "model": "large", "rank": 4}))
    expected, surprised = (Effects(measured(families, function=f)).predict(asked, 32) for f in (memory_mib, surprising))
    assert surprised is None or surprised[1] > expected[1]


def test_what_does_not_depend_on_the_batch_is_predicted_too():
    updates = {("a", 1): 0.1, ("b", 1): 0.2, ("a", 2): 0.3}
    points = [Point(key=Values(x=x, y=str(y)), batch=0, value=s, relative_std=0.05) for (x, y), s in updates.items()]
    assert Effects(points).predict(Values(x="b", y="2"), 0)[0] == pytest.approx(0.6, rel=0.2)
