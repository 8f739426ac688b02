"""What a study file says of its space: each fault is one sentence that names the key and the remedy."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tradeoff.searchspace import KNOBS
from tradeoff.searchspace.training_arguments import OPEN_FIELDS, REFUSED_FIELDS
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import explain

CUSTOM = {"build": "mine:build", "kwargs": {"size": 3}}
FAST = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def sentence(space: dict[str, Any], **config: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        StudyConfig.model_validate({"space": space, **config})
    return explain(caught.value, StudyConfig)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("weight_dcay", "'weight_decay' (of TrainingArguments)"),
        ("optim_arg", "'optim_args' (of TrainingArguments)"),
        ("max_lenght", "'max_length' (of the built-in job)"),
        ("presicion", "'precision'"),
        ("epochs", "'num_train_epochs' (of TrainingArguments)"),
        ("lora_r", "'lora_rank' (of the built-in job)"),
        ("group_by_length", "'train_sampling_strategy' (of TrainingArguments)"),
    ],
)
@pytest.mark.parametrize("spec", [[1, 2], None])
def test_an_unknown_name_gets_the_nearest_one_and_what_takes_that(name, meant, spec):
    assert sentence({name: spec}) == f"unknown key 'space.{name}'; did you mean {meant}?"


def test_a_name_like_no_other_is_told_what_there_is():
    assert "a parameter is a field of TrainingArguments or a setting of the built-in job" in sentence({"zzz": 1})
    assert sentence({"lora_dropout": 0.1}) == "space.lora_dropout: it can't be searched; job.lora.dropout holds it fixed"
    assert sentence({"train_samples": [1, 2]}) == "space.train_samples: it can't be searched; job.train_samples holds it fixed"


@pytest.mark.parametrize("name", ["fp16", "seed", "output_dir", "logging_steps", "eval_steps", "save_steps", "report_to"])
@pytest.mark.parametrize("job", [{}, CUSTOM])
def test_a_name_that_belongs_to_the_study_is_refused_with_the_reason(name, job):
    assert sentence({name: {"a": 1}}, job=job) == f"space.{name}: it can't be searched: {REFUSED_FIELDS[name]}"


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"weight_decay": []}, "space.weight_decay: a domain must hold at least one value, got an empty list"),
        ({"weight_decay": [float("nan")]}, "space.weight_decay: must be a finite number, got nan"),
        ({"weight_decay": list(range(1001))}, "at most 1,000 values, got 1,001"),
        ({"weight_decay": [0.1, -0.1]}, "space.weight_decay: weight_decay must be at least 0, got -0.1"),
        ({"tf32": [True, [1]]}, "space.tf32: must be null, true, false, a number or a word, got [1]"),
        ({"tf32": ["x" * 2000]}, "a word may have at most 1,000 characters, got 2,000"),
        ({"tf32": {"values": [1, 2], "chnges": "time"}}, "beside values there may be changes and only_with, got chnges"),
        ({"tf32": {"changes": "time"}}, "beside changes and only_with there must be values"),
        ({"tf32": {"values": [1, 2], "changes": "speed"}}, "changes must be one or more of memory, time, learning, got speed"),
        ({"tf32": {"values": [1, 2], "changes": []}}, "changes must be one or more of memory, time, learning, got none"),
        ({"precision": {"values": ["fp32"], "changes": "time"}}, "what it changes is known; leave changes out"),
        ({"tf32": {"values": [1, 2], "only_with": {}}}, "only_with must hold the values"),
        ({"tf32": {"values": [1, 2], "only_with": {"optim": []}}}, "only_with must name one or more values of optim, got none"),
        ({"tf32": {"values": [1, 2], "only_with": {"optim": 3}}}, "only_with: optim must be a name, got 3"),
        ({"tf32": {"values": [1, 2], "only_with": {"optim": "sgd"}}}, "must name a parameter that is searched, got optim"),
        (
            {"optim": ["sgd", "adafactor"], "tf32": {"values": [1, 2], "only_with": {"optim": "lion_8bit"}}},
            "space.tf32: only_with must name values of optim, sgd, adafactor, got lion_8bit",
        ),
        (
            {"learning_rate": {"low": 1e-5, "high": 1e-3}, "tf32": {"values": [1, 2], "only_with": {"learning_rate": 1e-4}}},
            "space.tf32: only_with needs a parameter with a list of values, and learning_rate is a range",
        ),
        (
            {"weight_decay": [0.0, 0.1], "tf32": {"values": [1, 2], "only_with": {"weight_decay": 0.1}}},
            "space.tf32: only_with can't name weight_decay, which changes learning only, while tf32 changes more",
        ),
        ({"tf32": {"values": [1, 2], "only_with": {"tf32": 1}}}, "conditions must not go round in a circle, got tf32"),
        ({"gradient_accumulation_steps": {"values": [1], "only_with": {"optim": "sgd"}}}, "it is always set"),
        ({"warmup_ratio": [0.1], "warmup_steps": [10]}, "space.warmup_steps: warmup_ratio says the same"),
    ],
)
def test_a_fault_of_the_space_is_one_sentence(space, said):
    assert said in sentence(space)


def test_what_is_known_of_a_parameter_can_not_be_told_away():
    said = "space.learning_rate: it changes learning too; add that to changes, or leave changes out"
    assert sentence({"learning_rate": {"values": [1e-4, 1e-3], "changes": "time"}}) == said
    told = {"lora_rank": {"values": [4, 8], "changes": ["memory"]}}
    assert sentence(told).startswith("space.lora_rank: it changes time and learning too")
    StudyConfig.model_validate({"space": told, "job": CUSTOM})  # a keyword of one's own function
    StudyConfig.model_validate({"space": {"lora_rank": {"values": [4, 8], "changes": ["memory", "time", "learning"]}}})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("size", "space.size: it is searched, and fixed in job.kwargs; leave one of them out"),
        ("no-name", "space.no-name: a keyword of job.build must be a name of Python"),
        ("class", "space.class: a keyword of job.build must be a name of Python"),
    ],
)
def test_a_keyword_of_a_function_is_a_name_that_is_not_fixed(name, said):
    assert sentence({name: [1, 2]}, job=CUSTOM) == said


NAMES = st.sampled_from([*KNOBS, *OPEN_FIELDS, "seed", "pooling", "", "größe", "__proto__"]) | st.text(max_size=9)
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["5e-5", "bf16", "sgd"])
)
FORMS = (
    VALUES
    | st.lists(VALUES, max_size=4)
    | st.fixed_dictionaries({"low": VALUES, "high": VALUES}, optional={"step": VALUES, "log": VALUES})
    | st.fixed_dictionaries({"powers_of_two": st.lists(VALUES, max_size=3)})
)
SPECS = FORMS | st.fixed_dictionaries(
    {"values": FORMS},
    optional={
        "changes": st.lists(st.sampled_from(["memory", "time", "learning", "speed"]), max_size=3),
        "only_with": st.dictionaries(NAMES, VALUES | st.lists(VALUES, max_size=2), max_size=2),
    },
)


@FAST
@given(st.dictionaries(NAMES, SPECS, max_size=4), st.sampled_from([{}, CUSTOM]))
def test_any_space_is_read_and_stored_or_refused_in_a_sentence(space, job):
    try:
        config = StudyConfig.model_validate({"space": space, "job": job})
    except ValidationError as error:
        explain(error, StudyConfig)
        return
    assert StudyConfig.model_validate(json.loads(json.dumps(config.plain()))).search_space() == config.search_space()
    read = config.search_space()
    for parameters in read.drawn(5):
        assert read.read(read.stored(parameters)) == parameters


def test_settings_of_adapters_need_adapters():
    message = "space.lora_alpha: there must be adapters for it; search lora_rank too, or set job.lora"
    assert sentence({"lora_alpha": [8]}).endswith(message)
    for config in ({"job": {"lora": {}}}, {"space": {"lora_rank": [None, 8]}}):
        StudyConfig.model_validate({**config, "space": {"lora_alpha": [8], **config.get("space", {})}})


def test_weights_of_4_bits_need_adapters():
    needed = "there must be adapters {}; search lora_rank too, or set job.lora"
    language, pair = {"task": "causal_lm"}, ["eval_loss", "train_time_s"]
    with pytest.raises(ValueError, match=needed.format("for it")):
        StudyConfig.model_validate({"job": language, "space": {"load_in_4bit": [True]}, "objectives": pair})
    with pytest.raises(ValueError, match=needed.format("to train")):
        StudyConfig.model_validate({"job": language | {"load_in_4bit": True}, "objectives": pair})


@pytest.mark.parametrize("value", ["query value", "query,,value", "a(b"])
def test_layers_for_adapters_are_names(value):
    told = sentence({"lora_rank": [8], "lora_target_modules": [value]})
    assert "space.lora_target_modules: must be names of layers, separated by commas, or all-linear" in told
