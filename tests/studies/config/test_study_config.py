import pytest
from pydantic import ValidationError

from tradeoff.objectives.job.jobs import JOBS
from tradeoff.searchspace import FloatRange, IntRange
from tradeoff.studies.config.presets import PRESETS
from tradeoff.studies.config.study import StudyConfig, differences


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_whole_study_that_survives_plain_data(name):
    config = PRESETS[name]()
    assert StudyConfig.model_validate(config.plain()) == config
    assert len(list(config.search_space().grid())) > 20


def test_values_are_one_a_list_or_a_range():
    space = StudyConfig(
        space={
            "per_device_train_batch_size": {"powers_of_two": [2, 8]},
            "gradient_accumulation_steps": {"low": 1, "high": 9, "step": 4},
            "gradient_checkpointing": True,
            "precision": ["fp32"],
            "learning_rate": {"low": "1e-5", "high": 1e-3, "log": True},
        }
    ).search_space()
    assert space.domains["per_device_train_batch_size"].values() == (2, 4, 8)
    assert space.domains["gradient_accumulation_steps"] == IntRange(1, 9, 4)
    assert space.domains["gradient_checkpointing"].values() == (True,)
    assert space.domains["learning_rate"] == FloatRange(1e-5, 1e-3, log=True)


def test_a_stored_configuration_may_say_whether_trainings_were_stopped():
    assert StudyConfig.model_validate({"early_stopping": True}) == StudyConfig.model_validate({})


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ({"spac": {}}, ("spac",), "Extra inputs"),
        ({"job": {"epoch": 1}}, ("job", "epoch"), "Extra inputs"),
        ({"space": {"per_device_train_batch_size": []}}, ("space", "per_device_train_batch_size"), "at least one value"),
        ({"space": {"per_device_train_batch_size": [4, 0]}}, ("space", "per_device_train_batch_size"), "at least 1, got 0"),
        ({"space": {"per_device_train_batch_size": None}}, ("space", "per_device_train_batch_size"), "must have values"),
        ({"space": {"per_device_train_batch_size": [True]}}, ("space", "per_device_train_batch_size"), "whole number"),
        ({"space": {"gradient_checkpointing": ["yes"]}}, ("space", "gradient_checkpointing"), "true or false"),
        ({"space": {"precision": ["fp8"]}}, ("space", "precision"), "one of fp32, fp16, bf16, got 'fp8'"),
        ({"space": {"learning_rate": {"low": 1}}}, ("space", "learning_rate"), "a range has the keys low, high, log"),
        ({"objectives": ["accuracy", "accuracy"]}, ("objectives",), "'accuracy' twice"),
        ({"objectives": ["accuracy"]}, ("objectives",), "at least 2 objectives, got 1"),
        ({"objectives": ["accuracy", "beauty"]}, ("objectives",), "got 'beauty'"),
        ({"trials": 0}, ("trials",), "greater than or equal to 1"),
        ({"name": "a/b"}, ("name",), "pattern"),
        ({"sampler": "grid", "space": {"learning_rate": {"low": 1e-5, "high": 1e-3}}}, (), "grid needs a list"),
        ({"limits": {"effective_batch_size": {"max": 1}}}, (), "no configuration of the space meets"),
        ({"job": {"eval_samples": 0}}, (), "accuracy can't be an objective"),
        ({"job": {"dataset": "random-tokens"}}, ("job",), "random tokens can't be classified"),
    ],
)
def test_a_mistake_is_refused_with_its_path(data, path, message):
    with pytest.raises(ValidationError, match=message) as caught:
        StudyConfig.model_validate(data)
    # Which kind of job it is has no key in the file.
    assert tuple(part for part in caught.value.errors()[0]["loc"] if part not in JOBS) == path


def test_differences_name_each_key_that_changed():
    old = {"job": {"epochs": 3, "seed": 1}, "trials": 4}
    new = {"job": {"epochs": 1, "seed": 1, "model": "x"}, "trials": 4}
    assert differences(old, new) == ["job.epochs: 3 -> 1", "job.model: None -> 'x'"]
    assert differences(old, old) == []
