"""The names that parameters take, beside those of the installed transformers."""

import pytest

from tradeoff.searchspace import Categorical, SearchSpace, TrialParameters
from tradeoff.searchspace.choices import OPTIMIZERS, REFUSED_OPTIMIZERS, SAME_ALGORITHM, SAMPLING_STRATEGIES, SCHEDULERS


def space(**values):
    domains = {"per_device_train_batch_size": Categorical((8,))}
    return SearchSpace(domains=domains | {name: Categorical(listed) for name, listed in values.items()})


def test_every_optimizer_of_transformers_can_be_used_or_is_refused_with_a_reason():
    from transformers.training_args import OptimizerNames

    assert set(OPTIMIZERS) | set(REFUSED_OPTIMIZERS) == {name.value for name in OptimizerNames}
    assert not set(OPTIMIZERS) & set(REFUSED_OPTIMIZERS)
    assert set(SAME_ALGORITHM) | set(SAME_ALGORITHM.values()) <= set(OPTIMIZERS)


def test_the_schedulers_are_those_of_transformers():
    from transformers import SchedulerType

    assert set(SCHEDULERS) == {name.value for name in SchedulerType}


def test_the_sampling_strategies_are_some_of_those_of_transformers():
    from dataclasses import fields

    from transformers import TrainingArguments

    (field,) = (each for each in fields(TrainingArguments) if each.name == "train_sampling_strategy")
    assert set(SAMPLING_STRATEGIES) < set(field.metadata["choices"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optim", "adamw_torch_fuse", "got 'adamw_torch_fuse'; did you mean 'adamw_torch_fused'"),
        ("optim", "galore_adamw", "'galore_adamw' can't be used here: it must be told which layers to treat"),
        ("attn_implementation", "flash", "must be one of eager, sdpa, flash_attention_2, got 'flash'"),
        ("padding", "none", "padding must be one of max_length, longest, got 'none'"),
        ("train_sampling_strategy", "group_by_lenght", "must be one of random, group_by_length, got 'group_by_lenght'"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_what_would_be_right(name, value, message):
    with pytest.raises(ValueError, match=message):
        space(**{name: (value,)})


def test_flash_attention_in_full_precision_is_no_configuration():
    searched = space(attn_implementation=("sdpa", "flash_attention_2"), precision=("fp32", "bf16"))
    found = {(p.get("attn_implementation"), p.precision.value) for p in searched.grid()}
    assert found == {("sdpa", "fp32"), ("sdpa", "bf16"), ("flash_attention_2", "bf16")}
    broken = TrialParameters(per_device_train_batch_size=8, attn_implementation="flash_attention_2")
    assert searched.violation(broken).reason == "flash_attention_2 computes in 16 bits only, and precision is fp32"


def test_values_that_are_not_there_are_taken_out_and_an_empty_rest_is_refused():
    searched = space(optim=("adafactor", "lion_8bit"))
    left = searched.without("optim", {"lion_8bit"})
    assert left.domains["optim"].values() == ("adafactor",)
    assert searched.without("padding", {"longest"}) is searched
    with pytest.raises(ValueError, match=r"none of the values to search is available here \(adafactor\); add adamw_torch"):
        left.without("optim", {"adafactor"})
