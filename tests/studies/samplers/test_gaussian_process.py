"""The Gaussian process of what is learned: what it says after one observation, and what many of them overrule."""

import numpy as np
import pytest

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.searchspace import LearningClass
from tradeoff.studies.samplers.features import Features
from tradeoff.studies.samplers.gaussian_process import GaussianProcess, Inputs, Noise, _misfit, _Parameters
from tradeoff.studies.samplers.metric_gp import MetricGP

NOISE = Noise(variance=0.01, spread=1.0)


def inputs(points, shears=(), exponents=()):
    points = np.asarray(points, dtype=float)
    rules = np.array(shears, dtype=float).reshape(len(exponents), *points.shape)
    return Inputs(points=points, shears=rules, scales=np.arange(points.shape[1]), exponents=tuple(exponents))


def test_the_gradient_is_that_of_the_likelihood():
    rng = np.random.default_rng(0)
    points = rng.random((12, 3))
    shears = np.zeros((1, 12, 3))
    shears[0, :, 1] = points[:, 0]
    observed = Inputs(points=points, shears=shears, scales=np.array([0, 1, 1]), exponents=(0.5,))
    values = rng.normal(size=12)
    prior, _ = _Parameters.prior(observed, NOISE)
    at = prior.values + rng.normal(0, 0.5, len(prior.values))

    def misfit(candidate):
        return _misfit(_Parameters(values=candidate, num_scales=prior.num_scales), observed, values)

    step = 1e-6 * np.eye(len(at))
    differences = [(misfit(at + move)[0] - misfit(at - move)[0]) / 2e-6 for move in step]
    assert misfit(at)[1] == pytest.approx(differences, rel=1e-4, abs=1e-4)


def test_one_observation_is_enough():
    process = GaussianProcess(inputs([[0.0]]), np.array([1.0]), noise=NOISE)
    means, deviations = process.predict(inputs([[0.0], [0.5], [5.0]]))
    assert means[0] == pytest.approx(1.0, abs=0.05)
    assert means[0] > means[1] > means[2] == pytest.approx(0.0, abs=0.05)
    assert deviations[0] < deviations[1] < deviations[2] == pytest.approx(1.0, abs=0.3)


def test_four_points_that_happen_to_lie_on_a_line_make_nothing_certain():
    process = GaussianProcess(inputs([[0.0], [0.1], [0.2], [0.3]]), np.array([-0.3, -0.1, 0.1, 0.3]), noise=NOISE)
    assert process.predict(inputs([[2.0]]))[1] > 0.5


def test_without_trust_observations_that_are_all_alike_make_nothing_certain():
    points, target = inputs([[number / 10] for number in range(10)]), inputs([[4.0]])
    (_, sure), (_, unsure) = (
        GaussianProcess(points, np.zeros(10), noise=NOISE, trust=trust).predict(target) for trust in (1.0, 0.0)
    )
    assert unsure == pytest.approx(1.0, abs=0.05)
    assert sure < 0.7 * unsure


def test_a_knob_that_changes_nothing_gets_a_longer_scale_than_one_that_does():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (60, 2))
    process = GaussianProcess(inputs(points), np.sin(3 * points[:, 0]), noise=NOISE)
    far = process.predict(inputs([[0.0, 3.0], [3.0, 0.0]]))[1]
    assert far[0] < far[1]


def test_more_observations_than_the_parameters_are_fitted_to_are_all_used():
    points = np.linspace(0, 40, 200)[:, None]
    values = np.where(points[:, 0] > 20, 1.0, -1.0)
    means, _ = GaussianProcess(inputs(points), values, noise=NOISE).predict(inputs([[19.0], [21.0]]))
    assert means == pytest.approx([-1.0, 1.0], abs=0.1)


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_how_the_best_rate_grows_with_the_batch_is_learnt(truth):
    classes = [
        LearningClass(effective_batch_size=batch, learning_rate=1e-5 * 3.0**step) for batch in (8, 64, 512) for step in range(7)
    ]

    def metric(learning_class):
        best = 1e-4 * (learning_class.effective_batch_size / 64) ** truth
        return 0.7 - 0.02 * np.log(learning_class["learning_rate"] / best) ** 2

    process = MetricGP([(each, metric(each)) for each in classes], features=Features.of(classes))
    assert process._process.exponents[0] == pytest.approx(truth, abs=0.2)


def test_how_much_an_accuracy_varies_by_chance_follows_from_the_evaluation_samples():
    trained = [(LearningClass(effective_batch_size=batch), value) for batch, value in ((4, 0.60), (32, 0.66), (256, 0.55))]
    few, many = (MetricGP(trained, num_eval=number)._process.noise for number in (50, 5000))
    assert few > 3 * many


def test_a_loss_has_no_known_chance():
    trained = [(LearningClass(effective_batch_size=batch), value) for batch, value in ((4, 1.2), (32, 1.1))]
    with_samples = MetricGP(trained, GOALS["eval_loss"], 2.0, num_eval=10)._process.noise
    assert with_samples == MetricGP(trained, GOALS["eval_loss"], 2.0)._process.noise
