"""What every declaration of a knob must say, whatever the knob."""

import pickle
from dataclasses import fields

import pytest

from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.knob import Target


@pytest.mark.parametrize("knob", KNOBS.values(), ids=lambda knob: knob.name)
def test_what_a_study_searches_by_default_is_legal(knob):
    assert knob.description
    values = () if knob.searched is None else knob.kind.read(knob.searched).examples()
    for value in (*values, *([] if knob.default is None else [knob.default])):
        knob.kind.check(knob.name, value)


def test_every_argument_that_a_knob_sets_is_one_of_transformers():
    from transformers import TrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    for knob in KNOBS.values():
        for value in knob.kind.options() or (1,):
            names = knob.as_arguments(value).keys()
            assert names <= known
            assert knob.target is Target.ARGUMENTS or not names


def test_parts_of_a_memory_class_have_names_of_their_own():
    names = [knob.memory.name or knob.name for knob in KNOBS.values() if knob.memory is not None]
    assert len(set(names)) == len(names)


def test_memory_and_time_do_not_depend_on_what_changes_learning_only():
    bare = TrialParameters(per_device_train_batch_size=8)
    full = bare.replace(learning_rate=1e-4, warmup_ratio=0.1)
    assert full.structure == bare
    assert full.learning_only == {"learning_rate": 1e-4, "warmup_ratio": 0.1}
    assert bare.structure is bare


def test_a_pickled_copy_is_equal_and_computes_its_own_hash():
    parameters = TrialParameters(per_device_train_batch_size=8, precision="bf16")
    assert hash(parameters) == parameters._hash
    copy = pickle.loads(pickle.dumps(parameters))
    assert copy == parameters
    # Text has another hash in another process.
    assert "_hash" not in vars(copy)
