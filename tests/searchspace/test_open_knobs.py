"""Knobs of which nothing is declared, conditions between knobs, and spaces too large to look at as a whole."""

import math
import pickle
from dataclasses import fields

import optuna
import pytest

from tradeoff.searchspace import (
    KNOBS,
    Categorical,
    EffectiveBatchSizeRange,
    FloatRange,
    Knobs,
    PowersOfTwo,
    SearchSpace,
    TrialParameters,
)
from tradeoff.searchspace.kinds import Anything
from tradeoff.searchspace.training_arguments import OPEN_FIELDS, REFUSED_FIELDS

BATCH = Categorical((4, 8))


def test_every_field_of_training_arguments_is_declared_open_or_refused_with_a_reason():
    from transformers import TrainingArguments

    existing = {field.name for field in fields(TrainingArguments)}
    declared = {name for name in KNOBS if name in existing}
    assert not declared & {*OPEN_FIELDS, *REFUSED_FIELDS}
    assert not set(OPEN_FIELDS) & REFUSED_FIELDS.keys()
    assert declared | {*OPEN_FIELDS, *REFUSED_FIELDS} == existing


def test_an_open_knob_is_taken_to_change_everything_until_told():
    big, small = (TrialParameters(per_device_train_batch_size=4, head_size=size) for size in (64, 8))
    assert big.memory_class() != small.memory_class()
    assert big.speed_class() != small.speed_class()
    assert big.learning_class() != small.learning_class()
    assert big.learning_only == {}
    knobs = Knobs({"head_size": ("learning",)})
    told, other = (TrialParameters(knobs, per_device_train_batch_size=4, head_size=size) for size in (64, 8))
    assert told.memory_class() == other.memory_class()
    assert told.speed_class() == other.speed_class()
    assert told.learning_class() != other.learning_class()
    assert told.learning_only == {"head_size": 64}
    assert told.replace(per_device_train_batch_size=8).learning_only == {"head_size": 64}
    assert pickle.loads(pickle.dumps(told)).learning_only == {"head_size": 64}


def test_epochs_change_learning_and_the_length_of_a_training_alone():
    one, three = (TrialParameters(per_device_train_batch_size=4, num_train_epochs=epochs) for epochs in (1, 3))
    assert one.memory_class() == three.memory_class()
    assert one.speed_class() == three.speed_class()
    assert one.learning_class() != three.learning_class()
    assert one.structure != three.structure


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ([None, True, 3, 0.5, "word"], (None, True, 3, 0.5, "word")),
        ("5e-5", (5e-5,)),
        ({"low": 1, "high": 3}, (1, 2, 3)),
        ({"powers_of_two": [1, 4]}, (1, 2, 4)),
    ],
)
def test_an_open_knob_takes_any_value(spec, values):
    assert Anything().read(spec).values() == values


def test_a_range_of_an_open_knob_is_of_numbers_if_an_end_or_the_scale_says_so():
    assert Anything().read({"low": 0, "high": 0.5}) == FloatRange(0.0, 0.5)
    assert Anything().read({"low": 1, "high": 100, "log": True}) == FloatRange(1.0, 100.0, log=True)


@pytest.mark.parametrize("value", [[1], {"a": 1}, math.inf, 2**40])
def test_what_can_not_be_a_value_is_refused(value):
    with pytest.raises(ValueError, match="must be"):
        Anything().read_value(value)


def test_none_is_a_value_only_of_a_knob_that_takes_it():
    parameters = TrialParameters(per_device_train_batch_size=4, lora_rank=None, learning_rate=None)
    assert parameters["lora_rank"] is None
    assert "learning_rate" not in parameters
    assert parameters != TrialParameters(per_device_train_batch_size=4)


def conditional() -> SearchSpace:
    return SearchSpace(
        domains={
            "per_device_train_batch_size": BATCH,
            "lora_alpha": Categorical((8.0, 16.0)),
            "lora_rank": Categorical((None, 4, 8)),
            "weight_decay": Categorical((0.0, 0.1)),
        },
        only_with={"weight_decay": {"lora_rank": (8,)}},
    )


def test_a_knob_whose_condition_is_not_met_is_not_set():
    found = {(p["lora_rank"], p.get("lora_alpha"), p.get("weight_decay")) for p in conditional().grid()}
    assert found == {
        (None, None, None),
        (4, 8.0, None),
        (4, 16.0, None),
        *((8, alpha, decay) for alpha in (8.0, 16.0) for decay in (0.0, 0.1)),
    }


def test_optuna_is_asked_only_for_what_is_set_and_a_stored_trial_is_read_back():
    study, space = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), conditional()
    seen = set()
    for _ in range(30):
        trial = study.ask()
        parameters = space.suggest(trial)
        assert space.read(trial.params) == parameters
        assert space.stored(parameters) == trial.params
        seen.add(parameters["lora_rank"])
    assert seen == {None, 4, 8}
    assert space.read({"per_device_train_batch_size": 4, "lora_rank": 8, "lora_alpha": 8.0}) is None
    assert space.read({"per_device_train_batch_size": 4, "lora_rank": None}) is not None


def test_conditions_that_go_round_in_a_circle_are_refused():
    with pytest.raises(ValueError, match="circle, got a and b"):
        SearchSpace(
            domains={"per_device_train_batch_size": BATCH, "a": Categorical((1, 2)), "b": Categorical((1, 2))},
            only_with={"a": {"b": (1,)}, "b": {"a": (1,)}},
        )


def test_of_a_large_space_structures_are_drawn_which_meet_the_rules_and_show_each_value():
    space = SearchSpace(
        domains={
            "per_device_train_batch_size": PowersOfTwo(low=1, high=64),
            "gradient_accumulation_steps": PowersOfTwo(low=1, high=16),
            **{f"open_{number}": Categorical(tuple("abcd")) for number in range(6)},
            "share": FloatRange(0.0, 1.0),
        },
        effective_batch_size=EffectiveBatchSizeRange(high=128),
    )
    structures = space.structures
    assert len(structures) == len(set(structures)) == 4096
    assert all(p.effective_batch_size() <= 128 for p in structures)
    for name in ("open_0", "open_5"):
        assert {p[name] for p in structures} == {*"abcd"}
    # One difference at a time is among them.
    first = structures[0].without(["open_3"])
    assert {p["open_3"] for p in structures if p.without(["open_3"]) == first} == {*"abcd"}
    assert SearchSpace(domains=space.domains, effective_batch_size=space.effective_batch_size).structures == structures
