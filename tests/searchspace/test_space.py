import math

import optuna
import pytest

from tradeoff.searchspace import Categorical, EffectiveBatchSizeRange, FloatRange, IntRange, SearchSpace, TrialParameters

BATCH = Categorical((8, 16))
ACCUMULATION = Categorical((1, 2, 4))


def space(**rest):
    return SearchSpace(domains={"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": ACCUMULATION}, **rest)


def test_the_grid_holds_what_meets_the_rules():
    limited = space(effective_batch_size=EffectiveBatchSizeRange(low=16, high=32))
    pairs = [(p.per_device_train_batch_size, p.gradient_accumulation_steps) for p in limited.grid()]
    assert pairs == [(8, 2), (8, 4), (16, 1), (16, 2)]


def test_the_few_splits_that_the_limits_allow_are_found_among_very_many():
    many = {name: IntRange(1, 256) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")}
    limited = SearchSpace(domains=many, effective_batch_size=EffectiveBatchSizeRange(low=256, high=256))
    assert [p.per_device_train_batch_size for p in limited.structures] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert (limited.num_combinations(), limited.is_drawn) == (9, False)
    wider = SearchSpace(domains=many, effective_batch_size=EffectiveBatchSizeRange(low=8000))
    assert len(wider.structures) > 4000
    assert all(wider.violation(p) is None for p in wider.structures)
    assert wider.is_drawn


def test_a_continuous_domain_has_no_grid():
    continuous = SearchSpace(domains={"per_device_train_batch_size": BATCH, "learning_rate": FloatRange(1e-5, 1e-3)})
    assert continuous.num_combinations() == math.inf
    with pytest.raises(ValueError, match="learning_rate is continuous"):
        list(continuous.grid())


def test_a_violation_grows_with_the_doublings_beyond_the_limit():
    limited = space(effective_batch_size=EffectiveBatchSizeRange(high=16))
    by_two = limited.violation(TrialParameters(per_device_train_batch_size=16, gradient_accumulation_steps=4))
    by_one = limited.violation(TrialParameters(per_device_train_batch_size=8, gradient_accumulation_steps=4))
    assert (by_two.amount, by_one.amount) == (2.0, 1.0)
    assert by_two.reason == "effective batch size 64 is above the limit of 16"
    assert limited.violation(TrialParameters(per_device_train_batch_size=16)) is None


def test_the_effective_batch_counts_devices():
    rule = EffectiveBatchSizeRange(low=32, num_devices=2)
    assert rule.check(TrialParameters(per_device_train_batch_size=16)) is None
    assert rule.check(TrialParameters(per_device_train_batch_size=8)).amount == 1.0


def test_a_suggestion_is_read_back_from_what_optuna_stored():
    study = optuna.create_study()
    trial = study.ask()
    parameters = space().suggest(trial)
    assert space().read(trial.params) == parameters
    assert space().stored(parameters) == trial.params


def test_a_trial_of_another_space_is_not_read():
    assert space().read({"per_device_train_batch_size": 8}) is None


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"gradient_accumulation_steps": ACCUMULATION}, "per_device_train_batch_size must have a domain"),
        ({"per_device_train_batch_size": Categorical((4, 0))}, "per_device_train_batch_size must be at least 1, got 0"),
        ({"per_device_train_batch_size": BATCH, "learning_rate": FloatRange(-1.0, 1.0)}, "learning_rate must be positive"),
    ],
)
def test_a_space_that_can_not_be_is_refused(domains, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(domains=domains)


def test_precisions_that_a_device_lacks_are_taken_out():
    full = SearchSpace(domains={"per_device_train_batch_size": BATCH, "precision": Categorical(("fp32", "fp16"))})
    left = full.without("precision", {"fp32"})
    assert left.domains["precision"].values() == ("fp16",)
    with pytest.raises(ValueError, match=r"none of the values to search is available here \(fp16\); add fp32"):
        left.without("precision", {"fp16"})
