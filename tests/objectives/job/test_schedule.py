import pytest
from running import tiny_job

from tradeoff.objectives.job.schedule import Schedule
from tradeoff.searchspace import TrialParameters


def schedule(batch: int, accumulation: int = 1, *, epochs: float = 1, num_samples: int = 64, num_devices: int = 1) -> Schedule:
    parameters = TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    return Schedule.of(tiny_job(epochs=epochs), parameters, num_samples=num_samples, num_devices=num_devices)


def test_every_micro_batch_is_an_update_without_accumulation() -> None:
    assert schedule(8).num_updates == 8


def test_accumulation_divides_the_updates_and_leaves_the_micro_batches() -> None:
    assert (schedule(8, 4).num_updates, schedule(8, 4).num_micro_batches) == (2, 8)


def test_the_last_micro_batch_of_an_epoch_may_be_smaller() -> None:
    # 64 = 24 + 24 + 16: three batches, the last two thirds of one.
    assert schedule(24).num_updates == 3
    assert schedule(24).num_micro_batches == pytest.approx(2 + 2 / 3)


def test_a_last_micro_batch_that_is_left_out_is_no_step() -> None:
    parameters = TrialParameters(per_device_train_batch_size=24, dataloader_drop_last=True)
    dropped = Schedule.of(tiny_job(epochs=1), parameters, num_samples=64)
    assert (dropped.num_updates, dropped.num_micro_batches) == (2, 2)


def test_an_epoch_ends_with_an_update_of_what_was_accumulated() -> None:
    # 8 micro-batches in groups of 3 are 3 + 3 + 2.
    assert schedule(8, 3).num_updates == 3


def test_accumulating_more_than_an_epoch_holds_is_one_update_an_epoch() -> None:
    assert schedule(32, 16, epochs=3).num_updates == 3


def test_epochs_multiply_samples_and_updates() -> None:
    whole = schedule(8, 4, epochs=3)
    assert (whole.num_samples, whole.num_updates, whole.num_micro_batches) == (192, 6, 24)


def test_half_an_epoch_is_half_the_updates_rounded_up() -> None:
    # 64 = 24 + 24 + 16: three updates an epoch, and half of three is rounded up.
    assert (schedule(24, epochs=0.5).num_updates, schedule(24, epochs=0.5).num_samples) == (2, 32)


def test_training_time_is_that_of_all_micro_steps_and_all_updates() -> None:
    # 8 micro-steps of 0.5 s and 2 updates of 0.25 s.
    assert schedule(8, 4).train_time_s(0.5, 0.25) == 4.5


def test_devices_share_the_micro_batches_of_an_epoch() -> None:
    assert (schedule(8, num_devices=2).num_updates, schedule(8, num_devices=2).num_micro_batches) == (4, 4)
    assert schedule(8, 2, num_devices=2).num_updates == 2


def test_the_last_round_of_micro_batches_is_filled_up_for_all_devices() -> None:
    # 60 = 7 x 8 + 4: eight micro-batches, the last one filled up, so that three devices take three each.
    assert schedule(8, num_samples=60, num_devices=3).num_micro_batches == 3
    assert schedule(8, num_samples=60, num_devices=3).num_samples == 60
