"""The methods that are compared, each with its authors' defaults and one rule of recommendation: the front of what it knows.

A plain method knows what it has measured, one value for each training. Ours also knows what follows from a training and a
probe.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from fronts.table import Answer, Bench, Key, Row, Table, Values, key_of
from tradeoff.objectives.measurements.outcome import (
    Completed,
    Evaluation,
    Measurements,
    Memory,
    OutOfMemory,
    ProbeResult,
    TrainingResult,
)
from tradeoff.objectives.memory_estimator.estimates import MEMORY_ESTIMATES, MemoryEstimates
from tradeoff.objectives.objective import Objective, TrialFailed
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.results.front import feasible, pareto_front
from tradeoff.studies.samplers.build import build_sampler
from tradeoff.studies.samplers.decoupled import DecoupledSampler
from tradeoff.studies.storage.study import open_study

COSTS = ("train_time_s", "peak_memory_mib")
EPOCHS = "num_train_epochs"
DIRECTIONS = ("maximize", "minimize", "minimize")
# A method runs on a table until it has spent so many seconds, or ends by itself.
Method = Callable[[Bench, int, float], None]


@contextmanager
def thinking(bench: Bench) -> Iterator[None]:
    """Count a method's own decisions, in processor time: other programs are not its fault."""
    begin_s = time.process_time()
    yield
    bench.spent_s += time.process_time() - begin_s


def reached(answer: Answer, drawn: Mapping[str, Any], longest: int) -> dict[Key, Values]:
    """What a training is after so many epochs: nothing yet, unless the space has trainings of as many."""
    assert answer.curve is not None
    done, values = len(answer.curve), answer.values
    if EPOCHS not in drawn:
        return {key_of(drawn): values} if done == longest else {}
    time_s = values.train_time_s * done / longest
    return {key_of(dict(drawn) | {EPOCHS: done}): Values(values.learned, time_s, values.peak_memory_mib)}


# ------------------------------------------------------------------------------------------------------------ plain methods


@dataclass(frozen=True)
class PlainOptuna:
    """A loop around Optuna: every trial is trained, and pruned with a constraint where it runs out of memory.

    Attributes:
        sampler: Makes the sampler, given its seed and its constraints.
        remembers: True if a configuration that is drawn again costs nothing, and has the values of its first run.
        learns_only_from_complete: True if the sampler ignores pruned trials: it is told the worst values instead.
    """

    sampler: Callable[..., optuna.samplers.BaseSampler]
    remembers: bool = False
    learns_only_from_complete: bool = False

    def __call__(self, bench: Bench, seed: int, horizon_s: float) -> None:
        """Run the method."""
        domains = {name: values for name, values in bench.table.knobs.items() if len(values) > 1}
        fixed = {name: values[0] for name, values in bench.table.knobs.items() if len(values) == 1}
        space = {name: _distribution(values) for name, values in domains.items()}
        study = optuna.create_study(directions=DIRECTIONS, sampler=self.sampler(seed=seed))
        known: dict[Key, Answer] = {}
        found: dict[Key, Values] = {}
        num_idle = 0
        while bench.spent_s < horizon_s and num_idle < 1000:
            with thinking(bench):
                trial = study.ask(space)
            drawn = {name: values[trial.params[name]] for name, values in domains.items()}
            key = key_of(fixed | drawn)
            num_idle += 1
            if key not in bench.table.rows:  # two values that no row combines: nothing would run
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            if key in known and self.remembers:
                answer = known[key]
            else:
                answer, num_idle = bench.train(dict(key), repeat=bench.num_trainings), 0
            known[key] = answer
            with thinking(bench):
                trial.set_constraint("memory", float(answer.kind != "completed"))
                if answer.kind == "completed":
                    found[key] = answer.values
                    study.tell(trial, (answer.values.learned, answer.values.train_time_s, answer.values.peak_memory_mib))
                elif self.learns_only_from_complete:
                    costs = [(values.train_time_s, values.peak_memory_mib) for values in found.values()]
                    worst = np.max([*costs, (0.0, bench.table.memory_limit_mib)], axis=0)
                    study.tell(trial, (bench.table.height(bench.table.baseline), *worst))
                else:
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            bench.claim(found)


def _distribution(values: list[Any]) -> optuna.distributions.BaseDistribution:
    """The places of a knob's values: numbers have an order, which every sampler is told."""
    places = range(len(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return optuna.distributions.IntDistribution(0, len(values) - 1)
    return optuna.distributions.CategoricalDistribution(tuple(places))


# --------------------------------------------------------------------------------------------------------------------- ours


@dataclass
class TableRunner:
    """Stands where a trial's process would: answers the product's requests from a table."""

    bench: Bench
    first_seed: int

    def run_trial(self, request: Mapping[str, Any], *, time_limit_s: float | None = None, on_progress: Any = None) -> Any:
        """Answer a request as a trial's process does."""
        del time_limit_s, on_progress
        stages, parameters = request["stages"], _of_table(request["parameters"], self.bench.table)
        probes, begin_s = "probe" in stages, self.bench.spent_s
        if "train" in stages:
            answer = self.bench.train(parameters, repeat=request["job"]["seed"] - self.first_seed, probes=probes)
        else:
            answer = self.bench.probe(parameters)
        return self._outcome(answer, probes=probes, trial_time_s=self.bench.spent_s - begin_s)

    def _outcome(self, answer: Answer, *, probes: bool, trial_time_s: float) -> Any:
        row, table = answer.row, self.bench.table
        if answer.kind == "out_of_memory":
            shortfall_mib = row.peak_memory_mib - table.memory_limit_mib
            return OutOfMemory(stage="probe", reason="does not fit", shortfall_mib=shortfall_mib)
        memory = Memory(peak_memory_mib=row.peak_memory_mib)
        time_s = row.train_time_s(answer.micro_step_s)
        probe = ProbeResult(
            memory=memory,
            micro_step_time_s=answer.micro_step_s,
            optimizer_step_time_s=row.update_s,
            eval_batch_time_s=0.0,
            estimated_train_time_s=time_s,
            probe_time_s=row.probe_s if probes else 0.0,
            gradients_mib=table.gradients_mib,
            num_rows=row.num_rows,
            num_timed_steps=3,
        )
        training = None if answer.curve is None else _training(row, table, answer.curve, time_s, memory)
        return Completed(measurements=Measurements(probe=probe, training=training, trial_time_s=trial_time_s))


def _training(row: Row, table: Table, curve: list[float], time_s: float, memory: Memory) -> TrainingResult:
    share = np.arange(1, len(curve) + 1) / len(curve)
    goal_key = f"eval_{table.learned.removeprefix('eval_')}"
    num_samples = table.num_train * row.num_epochs
    return TrainingResult(
        memory=memory,
        train_time_s=time_s,
        eval_time_s=row.eval_s,
        num_steps=row.num_updates,
        num_samples=num_samples,
        samples_per_s=num_samples / time_s,
        train_loss=None,
        curve=[
            Evaluation(
                epoch=float(epoch + 1),
                num_samples=int(num_samples * share[epoch]),
                train_time_s=time_s * share[epoch],
                accuracy=quality if table.learned == "accuracy" else None,
                eval_loss=quality if table.learned == "eval_loss" else None,
                metrics={goal_key: quality},
            )
            for epoch, quality in enumerate(curve)
        ],
    )


def _of_table(parameters: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Return the parameters that the table names."""
    return {name: parameters[name] for name in table.knobs}


def _config(table: Table, seed: int) -> StudyConfig:
    effective = [
        row["per_device_train_batch_size"] * row.get("gradient_accumulation_steps", 1) for row in map(dict, table.rows)
    ]
    return StudyConfig.model_validate(
        {
            "name": table.name,
            "job": dict(table.job),
            "objectives": [table.learned, *COSTS],
            "space": {"precision": "fp32", **table.knobs},
            "limits": {
                "peak_memory_mib": table.memory_limit_mib,
                "effective_batch_size": {"min": min(effective), "max": max(effective)},
            },
            "sampler_seed": seed,
        }
    )


def decoupled(bench: Bench, seed: int, horizon_s: float, estimates: MemoryEstimates | None = None) -> None:
    """The product's search with its defaults: its sampler and its objective, with a table in place of the trials' processes."""
    from memory_storage import in_memory

    table = bench.table
    config = _config(table, seed)
    space = config.search_space()
    device = {"kind": "cuda", "name": table.name, "total_memory_mib": table.memory_limit_mib}
    setup = config.setup(space, device, num_train=table.num_train, num_eval=table.num_eval, num_packed=table.num_packed)
    objective = Objective(setup=setup, data_folders={}, runner=TableRunner(bench, first_seed=config.job.seed))
    study = open_study(config, in_memory(), device)
    if estimates is not None:
        study.set_user_attr(MEMORY_ESTIMATES, estimates.as_dict())
    study.sampler = build_sampler(config, objective, baselines={table.learned: table.baseline}, num_trials=0)
    assert isinstance(study.sampler, DecoupledSampler)
    objectives = (table.learned, *COSTS)
    while bench.spent_s < horizon_s:
        asked_s = bench.spent_s
        with thinking(bench):
            if study.sampler.finished(study) is not None:
                break
            study.optimize(objective, n_trials=1, catch=(TrialFailed,))
            snapshot = objective.snapshot(study)
            planner = study.sampler.planner(snapshot)
            known = planner.expecting(feasible(snapshot.settled))
            front = [(record.params, record.values) for record in pareto_front(known, objectives)]
            front += [(each.parameters, each.values) for each in planner.predicted()]
        assert bench.spent_s > asked_s
        bench.claim(
            {
                key_of(_of_table(setup.space.complete(TrialParameters(**params)), table)): Values(
                    table.height(values[table.learned]), *(values[name] for name in COSTS)
                )
                for params, values in front
            }
        )


def tpe(*, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler for several objectives, as it comes."""
    return optuna.samplers.TPESampler(seed=seed)


def multivariate_tpe(*, seed: int) -> optuna.samplers.BaseSampler:
    """TPE that models parameters jointly."""
    return optuna.samplers.TPESampler(seed=seed, multivariate=True)


METHODS: Mapping[str, Method] = {
    "random": PlainOptuna(lambda *, seed: optuna.samplers.RandomSampler(seed=seed)),
    "TPE, Optuna's default": PlainOptuna(tpe),
    "TPE, multivariate": PlainOptuna(multivariate_tpe),
    "TPE, multivariate, repeats remembered": PlainOptuna(multivariate_tpe, remembers=True),
    "NSGA-II": PlainOptuna(lambda *, seed: optuna.samplers.NSGAIISampler(seed=seed)),
    "GPSampler": PlainOptuna(lambda *, seed: optuna.samplers.GPSampler(seed=seed), learns_only_from_complete=True),
    "decoupled": decoupled,
}
