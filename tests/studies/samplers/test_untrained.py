"""What is expected of configurations that nobody has trained, in cases small enough to see."""

from tradeoff.objectives.knowledge.knowledge import Cost
from tradeoff.searchspace import LearningClass, TrialParameters
from tradeoff.studies.samplers.candidates import Candidate
from tradeoff.studies.samplers.hypervolume import Volume
from tradeoff.studies.samplers.untrained import predicted_front

OBJECTIVES = ("accuracy", "train_time_s", "peak_memory_mib")
VOLUME = Volume(OBJECTIVES, {"accuracy": 0.2, "train_time_s": 100.0, "peak_memory_mib": 1000.0})
COMPLETED = [{"accuracy": 0.6, "train_time_s": 50.0, "peak_memory_mib": 500.0}]


def candidate(batch, *costs):
    members = tuple(
        (
            TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=steps),
            Cost(
                known={"train_time_s": (time_s, "probe"), "peak_memory_mib": (memory_mib, "probe")},
                errors={"train_time_s": 1.0},
            ),
        )
        for steps, (time_s, memory_mib) in enumerate(costs, start=1)
    )
    return Candidate(learning_class=LearningClass(effective_batch_size=batch), members=members)


def found(*candidates, min_gain=0.0, **beliefs):
    known = {LearningClass(effective_batch_size=int(size[1:])): {"accuracy": belief} for size, belief in beliefs.items()}
    return predicted_front(candidates, known, COMPLETED, VOLUME, min_gain=min_gain)


def test_what_is_expected_on_the_front_is_told_with_its_errors():
    (each,) = found(candidate(8, (60.0, 400.0)), b8=(0.7, 0.05))
    assert each.parameters.per_device_train_batch_size == 8
    assert each.values == {"accuracy": 0.7, "train_time_s": 60.0, "peak_memory_mib": 400.0}
    assert each.errors == {"accuracy": 0.05, "train_time_s": 1.0, "peak_memory_mib": 0.0}


def test_what_would_be_behind_the_front_if_it_were_a_deviation_worse_is_not_told():
    slower = candidate(8, (60.0, 600.0))
    assert found(slower, b8=(0.7, 0.05))
    assert not found(slower, b8=(0.7, 0.15))
    # Where nothing is as fast and as small, any accuracy above the baseline adds to the front.
    assert found(candidate(8, (30.0, 300.0)), b8=(0.5, 0.25))
    assert not found(candidate(8, (30.0, 300.0)), b8=(0.5, 0.35))


def test_what_adds_less_than_a_training_has_to_is_not_told():
    slower = candidate(8, (60.0, 600.0))  # a fifth of the volume is behind the accuracy of 0.6, a quarter behind 0.65
    assert found(slower, b8=(0.65, 0.01), min_gain=0.05)
    assert not found(slower, b8=(0.65, 0.01), min_gain=0.1)


def test_of_predictions_those_that_no_other_one_beats_are_told_the_one_that_adds_most_first():
    told = found(candidate(8, (40.0, 400.0), (90.0, 950.0)), candidate(16, (20.0, 450.0)), b8=(0.7, 0.01), b16=(0.69, 0.01))
    assert [each.parameters.per_device_train_batch_size for each in told] == [16, 8]


def test_a_class_of_which_nothing_is_believed_is_left_out():
    assert found(candidate(8, (40.0, 400.0)), b16=(0.7, 0.01)) == []
    assert predicted_front([], {}, COMPLETED, VOLUME, min_gain=0.0) == []
