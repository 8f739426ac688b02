"""Real workers, a process each, on one study whose trials are simulated: for what only happens when several decide at once.

They are forked from a process that has imported what they need and started no threads.
"""

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import simulated_runner as simulated
from running import Recorder

from tradeoff.objectives.measurements.outcome import Completed, OutOfMemory
from tradeoff.searchspace import LearningClass, MemoryClass, TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.loop import Search
from tradeoff.studies.samplers.build import build_sampler
from tradeoff.studies.storage.opening import open_storage


def num_trainings(runs: Iterable["Run"]) -> Counter[tuple[LearningClass, int]]:
    """How often each learning class was trained with each seed; runs that ran out of memory taught nothing."""
    trained = [run for run in runs if "train" in run.stages and not run.is_out_of_memory]
    return Counter((run.parameters.learning_class(), run.seed) for run in trained)


def num_out_of_memory(runs: Iterable["Run"]) -> Counter[tuple[MemoryClass, int]]:
    """How often each memory class ran out of memory at each micro-batch."""
    return Counter(
        (run.parameters.memory_class(), run.parameters.per_device_train_batch_size) for run in runs if run.is_out_of_memory
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A request that a worker ran: when, and how it ended."""

    worker: int
    parameters: TrialParameters
    stages: tuple[str, ...]
    seed: int
    begin_s: float
    is_out_of_memory: bool

    @classmethod
    def read(cls, plain: dict[str, Any]) -> "Run":
        return cls(**{**plain, "parameters": TrialParameters(**plain["parameters"]), "stages": tuple(plain["stages"])})


@dataclass
class _Log:
    """Runs requests by formula and notes them, and the moment at which a trial was told."""

    worker: int
    trial_s: float
    runner: simulated.SimulatedRunner = field(default_factory=simulated.SimulatedRunner)
    runs: list[dict[str, Any]] = field(default_factory=list)
    told_s: dict[int, float] = field(default_factory=dict)
    log: str = ""

    def run_trial(self, request: Mapping[str, Any], **settings: Any) -> Any:
        begin_s = time.monotonic()
        outcome = self.runner.run_trial(request, **settings)
        time.sleep(self.trial_s)
        assert isinstance(outcome, Completed | OutOfMemory)
        self.runs.append(
            {
                "worker": self.worker,
                "parameters": dict(request["parameters"]),
                "stages": list(request["stages"]),
                "seed": request["job"]["seed"],
                "begin_s": begin_s,
                "is_out_of_memory": isinstance(outcome, OutOfMemory),
            }
        )
        return outcome

    def trial_ended(self, record: Any, *, log: str | None = None) -> None:
        self.told_s[record.number] = time.monotonic()


def _work(url: str, config: dict[str, Any], worker: int, trial_s: float, begin: Any, output: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, log = StudyConfig.model_validate(config), _Log(worker, trial_s)
    goal = simulated.objective(log)  # type: ignore[arg-type]
    study = simulated.new_study(optuna.samplers.RandomSampler(), storage=open_storage(url), name=settings.name)
    study.sampler = build_sampler(settings, goal, baselines={"accuracy": 0.2}, num_trials=0, worker=worker)
    search = Search(study, settings, goal, log, Recorder(), Interrupts(), (log,))  # type: ignore[arg-type]
    begin.wait(120)
    search.run(None)
    Path(output).write_text(json.dumps({"runs": log.runs, "told_s": log.told_s}))


def run_workers(url: str, folder: Path, *, num_workers: int, trial_s: float = 0.03, **settings: Any) -> SimpleNamespace:
    """Lets workers run a study until each ends by itself.

    Returns:
        `study`, the `runs` of all workers, and `told_s`, when each trial was told.
    """
    config = StudyConfig.model_validate({"name": "simulated", **settings})
    simulated.new_study(optuna.samplers.RandomSampler(), storage=open_storage(url), name=config.name)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["parallel_workers"])
    begin = context.Barrier(num_workers)
    outputs = [folder / f"{worker}.json" for worker in range(num_workers)]
    processes = [
        context.Process(target=_work, args=(url, config.plain(), worker, trial_s, begin, str(output)))
        for worker, output in enumerate(outputs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * num_workers
    told_s, runs = {}, []
    for output in outputs:
        written = json.loads(output.read_text())
        told_s |= {int(number): moment for number, moment in written["told_s"].items()}
        runs += [
            Run(**{**run, "parameters": TrialParameters(**run["parameters"]), "stages": tuple(run["stages"])})
            for run in written["runs"]
        ]
    study = optuna.load_study(study_name=config.name, storage=open_storage(url))
    return SimpleNamespace(study=study, runs=sorted(runs, key=lambda run: run.begin_s), told_s=told_s)
