"""What one training settles becomes trials of the study, once."""

import pytest
import simulated_runner as simulated
from optuna.trial import TrialState, create_trial

from tradeoff.objectives.measurements.records import outcome_attributes, read_attributes
from tradeoff.searchspace import FloatRange, SearchSpace, TrialParameters
from tradeoff.studies.samplers.publishing import publish, unpublished

# 7 batches x 6 accumulations, in fp32 without checkpointing.
SMALL = SearchSpace(
    domains={name: simulated.SPACE.domains[name] for name in ("per_device_train_batch_size", "gradient_accumulation_steps")}
)


class Published:
    """A study in which some configurations were run."""

    def __init__(self, *, space=SMALL, budget_mib=simulated.BUDGET_MIB):
        self.space, self.budget_mib = space, budget_mib
        self.runner = simulated.SimulatedRunner(budget_mib=budget_mib)
        self.goal = simulated.objective(self.runner, space=space, memory_limit_mib=budget_mib)
        self.study = simulated.new_study(simulated.decoupled(self.goal))

    def run(self, batch, accumulation=1, *, stages=("probe",), rate=None):
        parameters = TrialParameters(
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, learning_rate=rate
        )
        request = {"parameters": parameters.as_dict(), "stages": stages}
        attributes = outcome_attributes(self.runner.run_trial(request, time_limit_s=None, on_progress=None))
        complete = attributes["outcome"] == "completed"
        self.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                params=self.space.stored(parameters),
                distributions=self.space.distributions(),
                values=[attributes[name] for name in simulated.OBJECTIVES] if complete else None,
                user_attrs=attributes | ({f"{name}_source": "measured" for name in simulated.OBJECTIVES} if complete else {}),
            )
        )

    def waiting(self):
        records, knowledge = simulated.learned(self.goal, self.study)
        return unpublished(records, knowledge)

    def publish(self):
        waiting = self.waiting()
        _, knowledge = simulated.learned(self.goal, self.study)
        for parameters, training in waiting:
            publish(self.study, parameters, training, knowledge)
        return [(p.per_device_train_batch_size, p.gradient_accumulation_steps) for p, _ in waiting]

    def trial(self, batch, accumulation):
        """The latest trial of a configuration."""
        asked = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        return [trial for trial in self.study.trials if trial.params.items() >= asked.items()][-1]


@pytest.fixture
def surveyed():
    """Batches 1, 2 and 8 are measured with accumulation and 8 without; a batch of 16 does not fit."""
    study = Published()
    for batch, accumulation in ((1, 2), (2, 2), (8, 2), (8, 1), (16, 2)):
        study.run(batch, accumulation)
    return study


def test_nothing_is_published_before_a_training(surveyed):
    assert surveyed.publish() == []


def test_every_member_that_fits_is_published_beside_the_training(surveyed):
    surveyed.run(8, 4, stages=("train",))
    assert sorted(surveyed.publish()) == [(1, 32), (2, 16), (4, 8)]  # of an effective batch of 32; 16 x 2 does not fit


def test_publishing_twice_adds_nothing(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    assert surveyed.publish() == []


def test_a_published_trial_says_where_its_values_come_from(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    trained = surveyed.trial(8, 4)
    probed, modelled = surveyed.trial(2, 16), surveyed.trial(4, 8)
    assert probed.state == modelled.state == TrialState.COMPLETE
    assert probed.values[0] == modelled.values[0] == trained.values[0]
    assert read_attributes(probed.user_attrs)["accuracy_source"] == f"trained in trial {trained.number}"
    assert probed.user_attrs["derived_from"] == trained.number
    names = ("train_time_s_source", "peak_memory_mib_source")
    assert [read_attributes(probed.user_attrs)[name] for name in names] == ["probe", "probe"]
    assert [read_attributes(modelled.user_attrs)[name] for name in names] == ["model", "model"]


def test_a_published_trial_has_its_own_time_and_memory(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    asked = TrialParameters(per_device_train_batch_size=4, gradient_accumulation_steps=8)
    _, time_s, memory_mib = surveyed.trial(4, 8).values
    assert time_s == pytest.approx(simulated.train_time_s(asked))
    assert memory_mib == pytest.approx(simulated.memory_mib(asked))


def test_a_probe_replaces_a_models_word(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    surveyed.run(4, 8)
    assert surveyed.publish() == [(4, 8)]
    assert read_attributes(surveyed.trial(4, 8).user_attrs)["train_time_s_source"] == "probe"
    assert surveyed.publish() == []


def test_what_runs_out_of_memory_is_never_published(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    assert not [trial for trial in surveyed.study.trials if trial.params["per_device_train_batch_size"] > 8 and trial.values]


def test_what_is_predicted_not_to_fit_is_not_published():
    study = Published()
    for batch in (2, 8):
        study.run(batch, 2)
    study.run(8, 4, stages=("train",))
    assert (16, 2) not in study.publish()
    assert study.trial(8, 4).values is not None


def test_a_training_of_its_own_is_not_replaced_by_a_derived_one(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.run(4, 8, stages=("train",))
    assert sorted(surveyed.publish()) == [(1, 32), (2, 16)]


def test_only_the_trained_learning_rate_is_published():
    study = Published(space=SearchSpace(domains={**SMALL.domains, "learning_rate": FloatRange(1e-5, 1e-3, log=True)}))
    for batch in (2, 8):
        study.run(batch, 2, rate=1e-5)
    study.run(8, 2, stages=("train",), rate=3e-4)
    assert sorted(study.publish()) == [(1, 16), (2, 8), (4, 4)]
    assert {trial.params["learning_rate"] for trial in study.study.trials if trial.values} == {3e-4}
