"""Optuna's own tests of samplers, as far as they apply to ours.

Of `BasicSamplerTestCase` and `RelativeSamplerTestCase`, those that run an objective or draw from a space of their own don't
apply to the decoupled search: it proposes configurations of its study's space, and learns from what a fine-tune measures. What
it draws outside of a plan is tested. `SingleOnlySamplerTestCase` is for samplers that refuse several objectives.
"""

from collections.abc import Callable

import optuna
import pytest
import simulated_runner as simulated
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from tradeoff.studies.samplers.constrained_gp import ConstrainedGPSampler

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class TestConstrainedGP(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    # What it draws from two numbers is `GPSampler`'s own; one, and a number beside a choice, are drawn by the other tests.
    test_combination_of_different_distributions_objective = None
    test_sample_relative_numerical = None

    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: ConstrainedGPSampler(memory_limit_mib=1000.0, seed=0, n_startup_trials=0)


class TestDecoupled(MultiObjectiveSamplerTestCase):
    test_float = BasicSamplerTestCase.test_float
    test_int = BasicSamplerTestCase.test_int
    test_categorical = BasicSamplerTestCase.test_categorical
    test_conditional_sample_independent = BasicSamplerTestCase.test_conditional_sample_independent

    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: simulated.decoupled(simulated.objective(simulated.SimulatedRunner()))
