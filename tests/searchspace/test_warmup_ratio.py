"""The warm-up as a knob: what it changes, what it sets, and that a search over a range of it ends."""

import pytest
import simulated_runner as simulated

from tradeoff.objectives.job.arguments import training_arguments
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.searchspace import Categorical, FloatRange, SearchSpace, TrialParameters
from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.results.tables import short_configuration


def warmed_up(ratio):
    return TrialParameters(per_device_train_batch_size=8, warmup_ratio=ratio)


def test_it_overrides_the_warm_up_of_the_job():
    job = TextClassificationJob(warmup_steps=0.1)
    assert training_arguments(job, warmed_up(0.25), output_dir="output")["warmup_steps"] == 0.25
    assert training_arguments(job, warmed_up(0.0), output_dir="output")["warmup_steps"] == 0.0
    assert training_arguments(job, warmed_up(None), output_dir="output")["warmup_steps"] == 0.1


def test_it_changes_what_is_learned_and_neither_memory_nor_time():
    short, long = warmed_up(0.05), warmed_up(0.2)
    assert short.learning_class() != long.learning_class()
    assert (short.memory_class(), short.speed_class()) == (long.memory_class(), long.speed_class())


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 3])
def test_a_share_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match="warmup_ratio must be at least 0 and below 1, got"):
        warmed_up(ratio)


def test_a_study_file_searches_a_range_of_it():
    domain = SpaceConfig(warmup_ratio={"low": 0.0, "high": 0.2}).read()["warmup_ratio"].domain
    assert domain == FloatRange(0.0, 0.2)


def test_tables_name_it():
    assert "warm-up 0.1" in short_configuration({"per_device_train_batch_size": 8, "warmup_ratio": 0.1})


def test_a_search_over_a_range_of_it_trains_some_and_ends():
    space = SearchSpace(domains={"per_device_train_batch_size": Categorical((4, 8, 16)), "warmup_ratio": FloatRange(0.0, 0.2)})
    runner = simulated.SimulatedRunner()
    goal = simulated.objective(runner, space=space, publishes_at_end=True)
    assert simulated.search(simulated.new_study(simulated.decoupled(goal)), goal) is not None
    assert len({parameters["warmup_ratio"] for parameters in runner.trained}) > 1
    assert all(0.0 <= parameters["warmup_ratio"] <= 0.2 for parameters in runner.trained)
