import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tradeoff.searchspace import Categorical, FloatRange, IntRange, PowersOfTwo


def test_powers_of_two_hold_both_ends():
    assert PowersOfTwo(low=1, high=16).values() == (1, 2, 4, 8, 16)
    assert PowersOfTwo(low=4, high=4).values() == (4,)


@pytest.mark.parametrize(("low", "high"), [(3, 8), (0, 8), (8, 4)])
def test_powers_of_two_refuse_other_ends(low, high):
    with pytest.raises(ValueError, match=r"power|exceed"):
        PowersOfTwo(low=low, high=high)


def test_an_integer_range_ends_at_its_last_step():
    domain = IntRange(1, 10, 4)
    assert domain.values() == (1, 5, 9)
    assert domain.distribution() == IntDistribution(1, 9, step=4)


def test_a_float_range_has_no_list_of_values_unless_it_is_one_number():
    assert FloatRange(0.1, 1.0).values() is None
    assert FloatRange(0.5, 0.5).values() == (0.5,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Categorical(()),
        lambda: Categorical((8, 8)),
        lambda: IntRange(5, 4),
        lambda: IntRange(1, 4, 0),
        lambda: FloatRange(0.0, 1.0, log=True),
        lambda: FloatRange(float("nan"), 1.0),
    ],
)
def test_an_empty_or_contradictory_domain_is_refused(make):
    with pytest.raises(ValueError, match=r"got"):
        make()


def test_choices_that_python_takes_for_equal_are_refused():
    with pytest.raises(ValueError, match="got True and 1, which are equal"):
        Categorical((True, 1))


@pytest.mark.parametrize(
    ("domain", "value", "distribution"),
    [
        (Categorical((8, 16)), 16, CategoricalDistribution((8, 16))),
        (PowersOfTwo(low=1, high=4), 4, CategoricalDistribution((1, 2, 4))),
        (IntRange(1, 3), 3, IntDistribution(1, 3)),
        (FloatRange(1e-5, 1e-3, log=True), 1e-4, FloatDistribution(1e-5, 1e-3, log=True)),
    ],
)
def test_what_is_drawn_is_stored_under_its_own_name_and_value(domain, value, distribution):
    trial = optuna.trial.FixedTrial({"size": value})
    assert domain.suggest(trial, "size") == value
    assert trial.params == {"size": value}
    assert domain.distribution() == distribution
