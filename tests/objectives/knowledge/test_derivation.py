"""What a trial stores that was not trained itself."""

from simulated_runner import setup

from tradeoff.objectives.knowledge.derivation import derived_attributes
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters

TRAINED = TrialParameters(per_device_train_batch_size=8, gradient_accumulation_steps=2)
SMALLER = TrialParameters(per_device_train_batch_size=4, gradient_accumulation_steps=4)


def probe(number, parameters, memory_mib):
    return TrialRecord(
        number=number,
        outcome="probed",
        params=parameters.as_dict(),
        attributes={
            "peak_memory_mib": memory_mib,
            "probe": {"micro_step_time_s": 0.1, "optimizer_step_time_s": 0.02, "gradients_mib": 100.0},
        },
    )


def derive(parameters, *records):
    training = TrialRecord(
        number=12,
        outcome="completed",
        params=TRAINED.as_dict(),
        attributes={"accuracy": 0.61, "train_time_s": 41.28, "peak_memory_mib": 1500.0},
    )
    knowledge = Knowledge.of([training, *records], setup())
    return derived_attributes(parameters, Observation(record=training, parameters=TRAINED), knowledge)


def test_accuracy_is_the_trainings_and_says_so():
    attributes = derive(SMALLER, probe(0, SMALLER, 1000.0))
    assert attributes["outcome"] == "completed"
    assert attributes["derived_from"] == 12
    assert attributes["accuracy"] == 0.61
    assert attributes["accuracy_source"] == "trained in trial 12"


def test_time_and_memory_are_its_own():
    # 750 micro-batches of 4; 250 an epoch, four by four, are 63 updates.
    attributes = derive(SMALLER, probe(0, SMALLER, 1000.0))
    assert attributes["peak_memory_mib"] == 1000.0
    assert attributes["train_time_s"] == 750 * 0.1 + 3 * 63 * 0.02
    assert (attributes["train_time_s_source"], attributes["peak_memory_mib_source"]) == ("probe", "probe")


def test_what_comes_from_a_model_says_so():
    two = TrialParameters(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    attributes = derive(SMALLER, probe(0, two, 900.0), probe(1, TRAINED, 1500.0))
    assert attributes["peak_memory_mib"] == 1100.0
    assert (attributes["train_time_s_source"], attributes["peak_memory_mib_source"]) == ("model", "model")
