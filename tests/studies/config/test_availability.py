from typing import Any

import pytest
from running import tiny_study

from tradeoff.studies.config.availability import (
    available_space,
    check_batches,
    check_tokenizers,
    check_warmup,
    trainable_space,
)
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.fit import compute_configurations

CPU = {"name": "a processor", "precisions": ["fp32", "bf16"], "total_memory_mib": 8000.0}


def precisions(*names: str) -> Any:
    return tiny_study(space={"per_device_train_batch_size": [8], "precision": list(names)})


def test_what_the_device_lacks_is_taken_out_with_a_line() -> None:
    space, line = available_space(precisions("fp32", "fp16", "bf16"), CPU)
    assert space.domains["precision"].values() == ("fp32", "bf16")
    assert line == "fp16 left out: a processor does not train in it"


def test_two_precisions_that_the_device_lacks_are_one_line() -> None:
    _, line = available_space(precisions("fp32", "fp16", "bf16"), CPU | {"precisions": ["fp32"]})
    assert line == "fp16 and bf16 left out: a processor does not train in them"


def test_a_device_that_has_all_precisions_takes_nothing_out() -> None:
    config = precisions("fp32", "bf16")
    assert available_space(config, CPU) == (config.search_space(), None)


def test_a_device_with_none_of_the_precisions_ends_the_study() -> None:
    with pytest.raises(TradeoffError, match=r"space\.precision: none of the values .* available here \(fp16\); add fp32"):
        available_space(precisions("fp16"), CPU)


def test_a_space_without_precision_is_left_alone() -> None:
    config = tiny_study(space={"per_device_train_batch_size": [8], "precision": None})
    assert available_space(config, CPU)[1] is None


def test_a_batch_above_the_training_samples_is_refused() -> None:
    check_batches(tiny_study().search_space(), 16)
    with pytest.raises(TradeoffError, match="a batch must not exceed the 15 training samples, got 16"):
        check_batches(tiny_study().search_space(), 15)


def lack(value: Any, reason: str = "the model can't") -> dict[str, Any]:
    return {"values": {"gradient_checkpointing": value}, "reason": reason}


def test_what_the_model_lacks_is_taken_out_with_a_line() -> None:
    config = tiny_study(space={"per_device_train_batch_size": [8], "gradient_checkpointing": [False, True]})
    space, line = trainable_space(config.search_space(), [lack(True)])
    assert space.domains["gradient_checkpointing"].values() == (False,)
    assert line == "gradient_checkpointing left out: the model can't"


def test_a_model_that_lacks_all_that_is_searched_ends_the_study() -> None:
    config = tiny_study(space={"per_device_train_batch_size": [8], "gradient_checkpointing": [True]})
    message = r"space\.gradient_checkpointing: none of the values to search can be trained with: the model can't; search others"
    with pytest.raises(TradeoffError, match=message):
        trainable_space(config.search_space(), [lack(True)])


def job_knobs(**space: Any) -> Any:
    return tiny_study(space={"per_device_train_batch_size": [8], "precision": ["fp32"]} | space)


def test_a_value_that_does_not_say_what_it_is_of_is_left_out_with_its_name() -> None:
    lacks = [{"values": {"tf32": False}, "reason": "no"}, {"values": {"optim_args": "a"}, "reason": "no"}]
    _, line = trainable_space(job_knobs(tf32=[True, False], optim_args=["a", "b"]).search_space(), lacks)
    assert line == "tf32 False left out: no\noptim_args a left out: no"


def test_values_that_fail_together_are_left_out_together() -> None:
    config = job_knobs(model=["a", "b"], max_length=[64, 512])
    lacks = [{"values": {"model": "a", "max_length": 512}, "reason": "a has 128 positions"}]
    space, line = trainable_space(config.search_space(), lacks)
    assert line == "a with max_length 512 left out: a has 128 positions"
    left = {(parameters["model"], parameters["max_length"]) for parameters in space.structures}
    assert left == {("a", 64), ("b", 64), ("b", 512)}
    assert {way["model"] for way in compute_configurations(space) if way["max_length"] == 512} == {"b"}
    broken = space.violation(space.parameters({"per_device_train_batch_size": 8, "model": "a", "max_length": 512}))
    assert broken is not None
    assert broken.reason == "model a and max_length 512 can't be trained with together"


def test_a_study_of_which_every_configuration_fails_together_ends() -> None:
    config = job_knobs(model=["a"], max_length=[512])
    lacks = [{"values": {"model": "a", "max_length": 512}, "reason": "a has 128 positions"}]
    with pytest.raises(TradeoffError, match="no configuration can be trained: a with max_length 512 left out"):
        trainable_space(config.search_space(), lacks)


def test_ranks_are_left_out_where_peft_is_not_installed() -> None:
    space, line = available_space(job_knobs(lora_rank=[None, 4]), CPU)
    assert space.domains["lora_rank"].values() == (None,)
    assert line == "lora_rank left out: needs the package peft, which is not installed (pip install 'tradeoff[lora]')"
    assert available_space(job_knobs(lora_rank=[None, 4]), CPU | {"extras": ["peft"]})[1] is None


def test_without_peft_a_study_of_adapters_alone_ends_with_the_command_that_installs_it() -> None:
    with pytest.raises(TradeoffError, match=r"space\.lora_rank: .*; add null: lora_rank needs .*'tradeoff\[lora\]'"):
        available_space(job_knobs(lora_rank=[4, 8]), CPU)
    config = tiny_study(job={"lora": {"r": 4}}, space={"per_device_train_batch_size": [8], "precision": ["fp32"]})
    with pytest.raises(TradeoffError, match=r"job\.lora: it needs the package peft"):
        available_space(config, CPU)


@pytest.mark.parametrize(
    ("setting", "lack"),
    [
        ("load_in_4bit", "needs the package bitsandbytes, which is not installed"),
        ("activation_offloading", "needs a GPU with a memory of its own"),
    ],
)
def test_what_only_some_machines_can_do_is_left_out_or_refused(setting: str, lack: str) -> None:
    language = {"task": "causal_lm", "model": "a", "lora": {}}
    space = {"per_device_train_batch_size": [8], "precision": ["fp32"]}
    able = CPU | {"extras": ["peft", "trl"]}
    searched = tiny_study(job=language, space=space | {setting: [False, True]}, objectives=["eval_loss", "train_time_s"])
    found, line = available_space(searched, able)
    assert found.domains[setting].values() == (False,)
    assert line == f"{setting} left out: {lack}"
    assert available_space(searched, able | {"extras": ["peft", "trl", "bitsandbytes", setting]})[1] is None
    fixed = tiny_study(job=language | {setting: True}, space=space, objectives=["eval_loss", "train_time_s"])
    with pytest.raises(TradeoffError, match=rf"job\.{setting}: it {lack}; leave it out"):
        available_space(fixed, able)


def test_a_function_of_the_users_own_needs_no_package_of_ours() -> None:
    config = tiny_study(
        job={"build": "mine:build"},
        space={"per_device_train_batch_size": [8], "precision": ["fp32"], "lora_rank": [4]},
        objectives=["eval_loss", "peak_memory_mib"],
    )
    assert available_space(config, CPU)[1] is None


def test_a_warm_up_that_no_training_comes_to_the_end_of_is_refused() -> None:
    # 48 samples in batches of 8 are six steps, in batches of 16 three.
    config = tiny_study(space={"per_device_train_batch_size": [8, 16], "gradient_accumulation_steps": 1})

    def checked(warmup_steps: float) -> str | None:
        job = config.job.model_copy(update={"warmup_steps": warmup_steps, "epochs": 1})
        return check_warmup(config.search_space(), job, 48)

    with pytest.raises(TradeoffError, match=r"must be below the steps of a training, at most 6 here, got 500: .* set fewer"):
        checked(500)
    assert "of which the shortest has 3" in str(checked(4))
    assert (checked(2), checked(0.1)) == (None, None)


def language_study(objective: str) -> StudyConfig:
    return StudyConfig.model_validate({"job": {"task": "causal_lm"}, "objectives": [objective, "train_time_s"]})


def test_models_with_different_tokenizers_are_compared_by_whole_texts_and_their_characters_alone() -> None:
    check_tokenizers(language_study("eval_loss"), {"tokenizers": 1, "longest_cut": 200})
    check_tokenizers(language_study("bits_per_character"), {"tokenizers": 2, "longest_cut": None})
    with pytest.raises(TradeoffError, match=r"eval_loss is of tokens.*; take bits_per_character instead"):
        check_tokenizers(language_study("eval_loss"), {"tokenizers": 2, "longest_cut": None})
    with pytest.raises(TradeoffError, match=r"the longest has 200 tokens; set it to 200 or more"):
        check_tokenizers(language_study("bits_per_character"), {"tokenizers": 2, "longest_cut": 200})
