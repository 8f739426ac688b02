import pytest

from searchspace import Precision, TrialParameters


def test_effective_batch_counts_batch_accumulation_and_devices():
    parameters = TrialParameters(per_device_train_batch_size=8, gradient_accumulation_steps=4)
    assert parameters.effective_batch_size() == 32
    assert parameters.effective_batch_size(num_devices=2) == 64


def test_every_split_of_an_effective_batch_is_one_learning_class():
    splits = [(32, 1), (8, 4), (1, 32)]
    classes = {
        TrialParameters(per_device_train_batch_size=b, gradient_accumulation_steps=g).learning_class() for b, g in splits
    }
    assert len(classes) == 1


def test_checkpointing_changes_memory_and_not_learning():
    plain = TrialParameters(per_device_train_batch_size=8)
    checkpointed = TrialParameters(per_device_train_batch_size=8, gradient_checkpointing=True)
    assert plain.learning_class() == checkpointed.learning_class()
    assert plain.memory_class() != checkpointed.memory_class()


def test_precision_and_learning_rate_make_another_learning_class():
    fp32 = TrialParameters(per_device_train_batch_size=8)
    assert fp32.learning_class() != TrialParameters(per_device_train_batch_size=8, precision=Precision.BF16).learning_class()
    assert fp32.learning_class() != TrialParameters(per_device_train_batch_size=8, learning_rate=1e-4).learning_class()


def test_memory_depends_on_whether_accumulation_is_used_and_not_on_how_much():
    one, two, eight = (
        TrialParameters(per_device_train_batch_size=4, gradient_accumulation_steps=steps).memory_class() for steps in (1, 2, 8)
    )
    assert two == eight
    assert one != two


def test_plain_values_make_the_same_parameters_again():
    parameters = TrialParameters(per_device_train_batch_size=8, precision="bf16", learning_rate=1e-4)
    plain = parameters.as_dict()
    assert plain["precision"] == "bf16"
    assert "dataloader_num_workers" not in plain
    assert TrialParameters(**plain) == parameters


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1, got 0"),
        (
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": -2},
            "gradient_accumulation_steps must be at least 1, got -2",
        ),
        ({"per_device_train_batch_size": 1, "learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"per_device_train_batch_size": 1, "dataloader_num_workers": -1}, "dataloader_num_workers must be at least 0, got -1"),
    ],
)
def test_impossible_values_are_refused_with_the_rule_and_the_value(bad, message):
    with pytest.raises(ValueError, match=message):
        TrialParameters(**bad)
