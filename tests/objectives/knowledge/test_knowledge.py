"""What the trials of a study settle about configurations that were not run; every number is worked out by hand."""

from dataclasses import replace

import pytest
import simulated_runner as simulated
from hypothesis import given
from hypothesis import strategies as st

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import Categorical, FloatRange, Precision, Reuse, SearchSpace, TrialParameters

JOB = TextClassificationJob(train_samples=1000, epochs=3)
SPACE = simulated.SPACE


def configuration(batch, accumulation=1, *, checkpointing=False, precision="fp32", rate=None):
    return TrialParameters(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        precision=precision,
        learning_rate=rate,
    )


def record(number, outcome, parameters, **attributes):
    return TrialRecord(number=number, outcome=outcome, params=parameters.as_dict(), attributes=attributes)


def probed(number, parameters, memory_mib, *, micro_step_s=0.1, update_s=0.02, gradients_mib=100.0, outcome="probed"):
    probe = {"micro_step_time_s": micro_step_s, "optimizer_step_time_s": update_s, "gradients_mib": gradients_mib}
    return record(number, outcome, parameters, peak_memory_mib=memory_mib, probe=probe)


def known(*records, space=SPACE, reuse=Reuse.EFFECTIVE_BATCH):
    return Knowledge.of(records, simulated.setup(space, job=JOB, num_train=1000, reuse=reuse))


SETTLED_BY = record(7, "out_of_memory", configuration(16, 2, checkpointing=True))


@pytest.mark.parametrize(
    "parameters",
    [
        configuration(16, 2, checkpointing=True),
        configuration(32, 2, checkpointing=True),
        configuration(16, 8, checkpointing=True),
        configuration(16, 2),
    ],
    ids=["the same", "a larger batch", "more steps", "no checkpointing"],
)
def test_an_out_of_memory_settles_what_needs_at_least_as_much(parameters):
    assert known(SETTLED_BY).out_of_memory(parameters).record.number == 7


@pytest.mark.parametrize(
    "parameters",
    [
        configuration(8, 2, checkpointing=True),
        configuration(16, 1, checkpointing=True),
        configuration(64, 2, checkpointing=True, precision="fp16"),
        configuration(64, 2, precision="bf16"),
    ],
    ids=["a smaller batch", "no accumulation", "another precision", "another precision without checkpointing"],
)
def test_an_out_of_memory_settles_nothing_that_may_need_less(parameters):
    assert known(SETTLED_BY).out_of_memory(parameters) is None


def test_of_several_the_nearest_out_of_memory_is_named():
    knowledge = known(record(1, "out_of_memory", configuration(8)), record(2, "out_of_memory", configuration(32)))
    assert knowledge.out_of_memory(configuration(64)).record.number == 2
    assert knowledge.out_of_memory(configuration(16)).record.number == 1


@pytest.mark.parametrize("outcome", ["timed_out", "failed", "completed"])
def test_only_out_of_memory_settles_what_does_not_fit(outcome):
    assert known(record(0, outcome, configuration(1))).out_of_memory(configuration(64)) is None


ANY = st.builds(
    TrialParameters,
    per_device_train_batch_size=st.integers(1, 128),
    gradient_accumulation_steps=st.integers(1, 32),
    gradient_checkpointing=st.booleans(),
    precision=st.sampled_from(list(Precision)),
)


@given(ANY, ANY)
def test_what_is_settled_needs_at_least_the_memory_of_what_settles_it(settling, other):
    space = SearchSpace(domains={name: Categorical((value,)) for name, value in settling.as_dict().items()})
    if known(record(0, "out_of_memory", settling), space=space).out_of_memory(other) is not None:
        assert simulated.memory_mib(other) >= simulated.memory_mib(settling)


def test_memory_between_two_batches_lies_on_the_line_between_them():
    knowledge = known(probed(0, configuration(4), 1000.0), probed(1, configuration(16), 2200.0))
    assert knowledge.memory_mib(configuration(8)) == (1400.0, "model")


def test_memory_beyond_the_last_batch_follows_the_line_of_the_last_two():
    knowledge = known(
        probed(0, configuration(1), 900.0), probed(1, configuration(8), 1000.0), probed(2, configuration(16), 1400.0)
    )
    assert knowledge.memory_mib(configuration(32)) == (2200.0, "model")


def test_memory_that_was_measured_is_given_as_it_is():
    knowledge = known(probed(0, configuration(4), 1000.0), probed(1, configuration(16), 2200.0))
    assert knowledge.memory_mib(configuration(16)) == (2200.0, "probe")


def test_the_number_of_accumulation_steps_does_not_change_memory():
    knowledge = known(probed(0, configuration(4, 2), 1000.0))
    assert knowledge.memory_mib(configuration(4, 32)) == (1000.0, "probe")


def test_of_two_runs_the_higher_peak_counts():
    knowledge = known(probed(0, configuration(4), 1010.0), probed(1, configuration(4), 1000.0))
    assert knowledge.memory_mib(configuration(4)) == (1010.0, "probe")


def test_a_line_without_accumulation_is_the_other_one_without_the_gradients():
    knowledge = known(probed(0, configuration(4, 2), 1000.0), probed(1, configuration(16, 2), 2200.0))
    assert knowledge.memory_mib(configuration(8)) == (1300.0, "model")


def test_a_line_with_accumulation_is_the_other_one_with_the_gradients():
    knowledge = known(probed(0, configuration(4), 1000.0), probed(1, configuration(16), 2200.0))
    assert knowledge.memory_mib(configuration(8, 4)) == (1500.0, "model")


def test_gradients_are_those_of_the_same_model_and_adapters():
    space = SearchSpace(domains={**SPACE.domains, "lora_rank": Categorical((None, 8))})
    adapters, whole = (configuration(4).replace(lora_rank=rank) for rank in (8, None))
    knowledge = known(probed(0, adapters, 500.0, gradients_mib=2.0), probed(1, whole, 1000.0, gradients_mib=200.0), space=space)
    assert knowledge.memory_mib(adapters.replace(gradient_accumulation_steps=2)) == (502.0, "model")
    assert knowledge.memory_mib(whole.replace(gradient_accumulation_steps=2)) == (1200.0, "model")


def test_one_measured_batch_is_not_enough_for_another():
    knowledge = known(probed(0, configuration(4), 1000.0))
    assert knowledge.memory_mib(configuration(8)) is None
    assert knowledge.memory_mib(configuration(4, 2)) == (1100.0, "model")


def test_nothing_is_borrowed_across_precisions_or_checkpointing():
    knowledge = known(probed(0, configuration(4), 1000.0), probed(1, configuration(16), 2200.0))
    assert knowledge.memory_mib(configuration(8, precision="fp16")) is None
    assert knowledge.memory_mib(configuration(8, checkpointing=True)) is None


def test_an_out_of_memory_is_no_measured_peak():
    knowledge = known(probed(0, configuration(4), 1000.0, outcome="out_of_memory"))
    assert knowledge.memory_mib(configuration(4)) is None


def test_time_is_micro_steps_and_updates():
    # 3 epochs of 1,000 samples: 375 micro-batches of 8; 125 an epoch, two by two, are 63 updates.
    knowledge = known(probed(0, configuration(8), 1000.0, micro_step_s=0.1, update_s=0.02))
    seconds, source = knowledge.time_s(configuration(8, 2))
    assert seconds == pytest.approx(375 * 0.1 + 3 * 63 * 0.02)
    assert source == "probe"


def test_a_micro_step_between_two_batches_is_interpolated():
    # At 8 of 4 to 16: 0.1 + (0.4 - 0.1) / 3.
    knowledge = known(
        probed(0, configuration(4), 1000.0, micro_step_s=0.1, update_s=0.02),
        probed(1, configuration(16), 2200.0, micro_step_s=0.4, update_s=0.04),
    )
    seconds, source = knowledge.time_s(configuration(8))
    assert seconds == pytest.approx(375 * 0.2 + 375 * 0.03)
    assert source == "model"


def test_trainings_calibrate_the_times_of_the_others():
    # Estimated 375 x 0.12 = 45 s, measured 54 s: a fifth longer.
    knowledge = known(
        probed(0, configuration(8), 1000.0, micro_step_s=0.1, update_s=0.02),
        record(1, "completed", configuration(8), train_time_s=54.0),
    )
    assert knowledge.time_s(configuration(8)) == (54.0, "measured")
    assert knowledge.time_s(configuration(8, 2))[0] == pytest.approx(1.2 * (375 * 0.1 + 189 * 0.02))


def test_time_and_memory_do_not_depend_on_the_learning_rate():
    space = SearchSpace(domains={**SPACE.domains, "learning_rate": FloatRange(1e-5, 1e-3, log=True)})
    knowledge = known(
        probed(0, configuration(8, rate=1e-4), 1000.0),
        record(1, "completed", configuration(8, rate=1e-4), train_time_s=54.0),
        space=space,
    )
    assert knowledge.time_s(configuration(8, rate=5e-4)) == (54.0, "measured")
    assert knowledge.memory_mib(configuration(8, rate=5e-4)) == (1000.0, "probe")


def test_the_error_of_memory_is_learnt_by_leaving_each_batch_out():
    # 4 from 8 and 16: 1,000; 8 from 4 and 16: 1,433.3; 16 from 4 and 8: 2,300.
    knowledge = known(
        probed(0, configuration(4), 1000.0), probed(1, configuration(8), 1400.0), probed(2, configuration(16), 2300.0)
    )
    assert knowledge.memory.errors() == pytest.approx([950 / 1000 - 1, (1000 + 1300 / 3) / 1400 - 1, 2200 / 2300 - 1])


def test_two_batches_tell_no_error():
    assert known(probed(0, configuration(4), 1000.0), probed(1, configuration(8), 1400.0)).memory.errors() == []


@pytest.mark.parametrize(
    ("reuse", "checkpointing_shares", "split_shares"),
    [(Reuse.EFFECTIVE_BATCH, True, True), (Reuse.CHECKPOINTING, True, False), (Reuse.OFF, False, False)],
)
def test_reuse_says_which_configurations_share_a_training(reuse, checkpointing_shares, split_shares):
    knowledge = known(record(3, "completed", configuration(8, 2), accuracy=0.6), reuse=reuse)
    trained = knowledge.trainings
    assert knowledge.class_of(configuration(8, 2)) in trained
    assert (knowledge.class_of(configuration(8, 2, checkpointing=True)) in trained) == checkpointing_shares
    assert (knowledge.class_of(configuration(4, 4)) in trained) == split_shares
    assert knowledge.class_of(configuration(8, 2, precision="fp16")) not in trained
    assert knowledge.class_of(configuration(8, 4)) not in trained


def test_derived_skipped_and_running_trials_teach_nothing():
    knowledge = known(
        record(0, "completed", configuration(1), derived_from=9, peak_memory_mib=1.0),
        record(1, "skipped", configuration(2)),
        record(2, None, configuration(4), peak_memory_mib=1.0),
    )
    assert knowledge.observations == ()


def test_the_probe_of_a_derived_trial_counts_and_its_accuracy_does_not():
    derived = probed(0, configuration(8), 1000.0, outcome="completed")
    knowledge = known(replace(derived, attributes={**derived.attributes, "derived_from": 9, "train_time_s": 45.0}))
    assert knowledge.memory_mib(configuration(8)) == (1000.0, "probe")
    assert knowledge.time_s(configuration(8))[1] == "probe"
    assert knowledge.trainings == {}


@pytest.mark.parametrize("outcome", ["interrupted", "failed", "timed_out"])
def test_a_probe_counts_however_its_trial_ended(outcome):
    knowledge = known(probed(0, configuration(8), 1000.0, outcome=outcome))
    assert knowledge.memory_mib(configuration(8)) == (1000.0, "probe")
    assert knowledge.time_s(configuration(8))[1] == "probe"
    assert knowledge.trainings == {}
