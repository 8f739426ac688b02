import pytest

from tradeoff.searchspace import Precision, Reuse, TrialParameters


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


def with_knobs(**knobs):
    return TrialParameters(per_device_train_batch_size=8, **knobs)


def test_an_optimizer_changes_learning_memory_and_the_time_of_an_update():
    adam, adafactor = with_knobs(optim="adamw_torch"), with_knobs(optim="adafactor")
    assert adam.learning_class() != adafactor.learning_class()
    assert adam.memory_class() != adafactor.memory_class()
    assert adam.speed_class() != adafactor.speed_class()


def test_the_fused_form_of_an_optimizer_learns_the_same_and_is_measured_apart():
    plain, fused = with_knobs(optim="adamw_torch"), with_knobs(optim="adamw_torch_fused")
    assert plain.learning_class() == fused.learning_class()
    assert plain.memory_class() != fused.memory_class()
    assert plain.learning_class(reuse=Reuse.CHECKPOINTING) != fused.learning_class(reuse=Reuse.CHECKPOINTING)


@pytest.mark.parametrize(
    "knob",
    [
        {"attn_implementation": "eager"},
        {"torch_compile": True},
        {"padding": "longest"},
    ],
    ids=str,
)
def test_how_the_same_arithmetic_is_carried_out_changes_memory_and_time_and_not_learning(knob):
    plain, other = with_knobs(), with_knobs(**knob)
    assert plain.learning_class() == other.learning_class()
    assert plain.learning_class(reuse=Reuse.OFF) != other.learning_class(reuse=Reuse.OFF)
    assert plain.memory_class() != other.memory_class()
    assert plain.speed_class() != other.speed_class()


def test_grouping_by_length_changes_learning_and_time_and_not_the_peak():
    shuffled, grouped = with_knobs(train_sampling_strategy="random"), with_knobs(train_sampling_strategy="group_by_length")
    assert shuffled.learning_class() != grouped.learning_class()
    assert shuffled.speed_class() != grouped.speed_class()
    assert shuffled.memory_class() == grouped.memory_class()
    assert shuffled.needs_at_least_the_memory_of(grouped)
    assert grouped.needs_at_least_the_memory_of(shuffled)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"optim": "adamw_torch"}, {"optim": "sgd"}),
        ({"attn_implementation": "eager"}, {"attn_implementation": "sdpa"}),
        ({"torch_compile": False}, {"torch_compile": True}),
        ({"padding": "max_length"}, {"padding": "longest"}),
    ],
)
def test_no_order_of_memory_is_claimed_where_workspaces_differ(one, other):
    large = TrialParameters(per_device_train_batch_size=64, gradient_accumulation_steps=2, **one)
    small = TrialParameters(per_device_train_batch_size=1, gradient_checkpointing=True, **other)
    assert not large.needs_at_least_the_memory_of(small)
    assert large.needs_at_least_the_memory_of(
        TrialParameters(per_device_train_batch_size=1, gradient_checkpointing=True, **one)
    )
