"""A search while nothing is better than a constant answer: of two models, the cheap one never learns."""

import dataclasses

import simulated_runner as simulated

from tradeoff.objectives.measurements.outcome import Completed
from tradeoff.searchspace import Categorical, FloatRange, SearchSpace, TrialParameters

BASELINE = 0.2
SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((4, 8)),
        "learning_rate": FloatRange(1e-5, 1e-3, True),
        "model": Categorical(("cheap", "dear")),
    }
)


def two_models(*, learns):
    """Trainings of a model that ends at the constant answer, and of one that takes twice as long and may learn."""

    def outcome(parameters, stages):
        of_one = TrialParameters(**{name: value for name, value in parameters.items() if name != "model"})
        whole = simulated.SimulatedRunner().run_trial(
            {"parameters": of_one.as_dict(), "stages": stages}, time_limit_s=None, on_progress=None
        )
        if not isinstance(whole, Completed):
            return whole
        is_dear = parameters["model"] == "dear"
        runner.trained += [parameters] * ("train" in stages)
        probe, training = whole.measurements.probe, whole.measurements.training
        slower = 2 if is_dear else 1
        if probe is not None:
            probe = dataclasses.replace(probe, micro_step_time_s=probe.micro_step_time_s * slower)
        if training is not None:
            curve = training.curve
            if not (is_dear and learns):
                curve = [dataclasses.replace(each, accuracy=BASELINE) for each in training.curve]
            training = dataclasses.replace(training, train_time_s=training.train_time_s * slower, curve=curve)
        return Completed(measurements=dataclasses.replace(whole.measurements, probe=probe, training=training))

    runner = simulated.SimulatedRunner(instead=outcome)
    return runner


def search(runner, *, max_trials):
    goal = simulated.objective(runner, space=SPACE, publishes_at_end=True)
    study = simulated.new_study(simulated.decoupled(goal))
    why = simulated.search(study, goal, max_trials=max_trials)
    return [parameters["model"] for parameters in runner.trained], why


def test_the_model_that_learns_is_tried_after_a_few_trainings_of_a_cheap_one_that_does_not():
    trained, _ = search(two_models(learns=True), max_trials=25)
    assert "dear" in trained[:6]
    assert trained.count("dear") > 3


def test_a_search_in_which_nothing_learns_ends_by_itself_and_says_why():
    trained, why = search(two_models(learns=False), max_trials=150)
    assert set(trained) == {"cheap", "dear"}
    assert why is not None
    assert why.startswith("nothing is better than the baseline, and no training left is expected to")
