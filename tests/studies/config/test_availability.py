from typing import Any

import pytest
from running import tiny_study

from tradeoff.studies.config.availability import available_space, check_batches, check_warmup, trainable_space
from tradeoff.studies.errors import TradeoffError

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
