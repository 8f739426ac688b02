"""The survey on a simulated GPU, without a study around it."""

from simulated_runner import BUDGET_MIB, SimulatedRunner, memory_mib, setup

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord, outcome_attributes
from tradeoff.searchspace import Categorical, SearchSpace
from tradeoff.studies.samplers.survey import Depth, next_probe


class Survey:
    """Runs the survey to its end."""

    def __init__(self, space, *, budget_mib=BUDGET_MIB, instead=None):
        self.space, self.budget_mib = space, budget_mib
        self.runner = SimulatedRunner(budget_mib=budget_mib, instead=instead)
        self.records = []

    def knowledge(self):
        return Knowledge.of(self.records, setup(self.space, memory_limit_mib=self.budget_mib))

    def next(self, pending=(), depth=Depth.EVERYTHING):
        return next_probe(self.knowledge(), pending, depth=depth)

    def probe(self, parameters):
        # As a sampler does: what the costs do not depend on has a value as well.
        parameters = self.knowledge().setup.space.complete(parameters)
        request = {"parameters": parameters.as_dict(), "stages": ["probe"]}
        attributes = outcome_attributes(self.runner.run_trial(request, time_limit_s=None, on_progress=None))
        outcome = attributes.pop("outcome")
        number, params = len(self.records), self.space.stored(parameters)
        self.records.append(TrialRecord(number=number, outcome=outcome, params=params, attributes=attributes))

    def run(self, pending=(), depth=Depth.EVERYTHING):
        for _ in range(200):
            if (parameters := self.next(pending, depth)) is None:
                return self
            self.probe(parameters)
        raise AssertionError("the survey does not end")

    def largest_measured(self):
        """By checkpointing, precision and whether gradients are accumulated."""
        found = {}
        for p in self.runner.probed:
            key = (p.gradient_checkpointing, p.precision.value, p.gradient_accumulation_steps > 1)
            found[key] = max(found.get(key, 0), p.per_device_train_batch_size)
        return found


def largest_that_fits(space, budget_mib=BUDGET_MIB):
    found = {}
    for p in space.grid():
        if memory_mib(p) <= budget_mib:
            key = (p.gradient_checkpointing, p.precision.value, p.gradient_accumulation_steps > 1)
            found[key] = max(found.get(key, 0), p.per_device_train_batch_size)
    return found


def space(batches, accumulations=(1, 2), precisions=("fp32", "fp16"), **rules):
    return SearchSpace(
        domains={
            "per_device_train_batch_size": batches,
            "gradient_accumulation_steps": Categorical(accumulations),
            "gradient_checkpointing": Categorical((False, True)),
            "precision": Categorical(precisions),
        },
        **rules,
    )
